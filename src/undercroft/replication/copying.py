"""The end of a copy: what stays this cluster's own goes into the new store.

The copy has the primary's shared entries and its key terms. After a first copy name and id of the
cluster, its seal with its shares, and the history of its versions stay; tokens, cubbyholes, local
mounts and what was shared before do not. Where the copy replaces a damaged store, everything that
is not shared stays. Then the store is complete, and the node can switch to it.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

import lmdb
import msgspec

from undercroft.barrier.aead import NotOpened
from undercroft.barrier.keyring import Keyring
from undercroft.barrier.seal_store import (
    CONFIG_KEY,
    RECOVERY_KEY,
    ROOT_KEY_KEY,
    StoredKeyring,
    open_keyring,
    write_keyring,
)
from undercroft.engines.system.health import VERSIONS
from undercroft.errors import Corrupt, Sealed, Unavailable
from undercroft.node.state import CLUSTER_KEY
from undercroft.observe.logs import get_logger
from undercroft.replication.replacing import Replacement, same_primary
from undercroft.replication.role import (
    SECONDARY,
    Role,
    Upstream,
    read_checks,
    read_role,
    write_checks,
    write_role,
)
from undercroft.replication.sinks import CopySink
from undercroft.request.mounts import bootstrap_local
from undercroft.request.tokens import make_salt
from undercroft.storage.digest import DigestTree
from undercroft.storage.keys import LOCAL, OWN, SHARED, SYSTEM
from undercroft.storage.record import Head, parse_head
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot

log = get_logger("replication")

_ENTRIES: Final = 1000  # of our own, taken over in one commit
_SEALS: Final = (CONFIG_KEY, ROOT_KEY_KEY, RECOVERY_KEY)


def finish_copy(
    live: Store,
    copy: CopySink,
    upstream: Upstream,
    role: Role,
    now_ms: int,
    *,
    unsettled: bool,
) -> None:
    """Complete the copy and close it. Raises Sealed, Corrupt; may be tried again.

    `unsettled`: it is ahead of its position here and there, until the log has come so far.
    """
    own = live.keyring
    if own is None:
        raise Sealed
    keyring = copy.keyring(own)
    batch = copy.store.batch()
    try:
        tx = batch.transaction()
        tx.use_keyring(keyring)
        with live.snapshot() as view:
            for name in _SEALS:
                raw = view.raw(name)
                if raw is not None:
                    tx.writes[name] = raw  # as it is: readable while sealed
            for name in (CLUSTER_KEY, *view.keys(OWN + SYSTEM + VERSIONS.encode())):
                value = view.get(name)
                if value is not None:
                    tx.put(name, value)
            stored = _stored_keyring(view, own)
        mine = msgspec.structs.replace(
            stored, terms=keyring.terms, alternates=keyring.alternates, encryptions=0
        )
        write_keyring(tx, mine, own.root_key)
        bootstrap_local(tx)
        make_salt(tx)
        write_role(
            tx,
            Role(
                SECONDARY,
                set_id=role.set_id,
                upstream=upstream,
                since_ms=now_ms,
                withheld=copy.withheld,
                comparing=unsettled,
            ),
        )
        batch.accept(tx)
        batch.commit()
    except BaseException:
        batch.abort()
        raise
    copy.store.close()


def _stored_keyring(view: Snapshot, own: Keyring) -> StoredKeyring:
    try:
        return open_keyring(view, own.root_key)
    except NotOpened:
        raise Corrupt("the stored keyring does not open under its root key") from None


def finish_replacement(
    live: Store,
    copy: CopySink,
    replacement: Replacement,
    now_ms: int,
    *,
    unsettled: bool,
    is_blind: bool = False,
) -> None:
    """Complete the copy that replaces `live`, in which nothing changes meanwhile, and close it.
    `is_blind`: the log and the digests of `live` are not to be read.

    Raises Sealed, StorageFull, StorageFailed, Corrupt when not everything that is not shared can be
    read, and Unavailable when the node follows another primary by now.
    """
    if live.keyring is None:
        raise Sealed
    with live.snapshot() as view:
        role = read_role(view)
        if role.mode != SECONDARY or not same_primary(replacement.upstream, role.upstream):
            raise Unavailable("the role has changed")
        last, _ = view.positions()
        _take_over(live, view, copy.store)
        _require_all(None if is_blind else _digests(live, view), copy.store)
        received = copy.keyring(live.keyring)
        keyring = live.keyring.adopted(received.terms, received.alternates)
        stored = _stored_keyring(view, keyring)
        batch = copy.store.batch()
        try:
            tx = batch.transaction()
            tx.use_keyring(keyring)
            mine = msgspec.structs.replace(
                stored, terms=keyring.terms, alternates=keyring.alternates, encryptions=0
            )
            write_keyring(tx, mine, keyring.root_key)
            write_role(
                tx, msgspec.structs.replace(role, withheld=copy.withheld, comparing=unsettled)
            )
            checks = read_checks(view)
            write_checks(
                tx,
                msgspec.structs.replace(
                    checks,
                    corrupted=False,
                    replaced_ms=now_ms,
                    replacements=checks.replacements + 1,
                ),
            )
            batch.accept(tx)
            batch.commit()
        except BaseException:
            batch.abort()
            raise
    copy.store.begin_log_behind(last)
    copy.store.close()


def _take_over(live: Store, view: Snapshot, into: Store) -> None:
    """Every entry that is not shared, as it is stored. An earlier attempt may have left some, which
    may have been deleted since.
    """
    with into.snapshot() as before:
        stale = [head.full_key for head, _ in _not_shared(into, before)]
    gone = ((key, None, 0) for key in stale if view.raw(key) is None)
    kept = ((head.full_key, raw, head.expires_ms) for head, raw in _not_shared(live, view))
    for entries in (gone, kept):
        while some := list(islice(entries, _ENTRIES)):
            batch = into.batch()
            try:
                tx = batch.transaction()
                for key, raw, expires_ms in some:
                    tx.writes[key] = raw
                    if expires_ms:
                        tx.expiries[key] = expires_ms
                batch.accept(tx)
                batch.commit()
            except BaseException:
                batch.abort()
                raise


def _not_shared(store: Store, view: Snapshot) -> Iterator[tuple[Head, bytes]]:
    before = b""
    for stored, raw in view.entries_of(store.data):
        if stored <= before:
            raise Corrupt("entries of the store are out of order")
        if stored[:1] == SHARED:  # they come last
            return
        yield parse_head(stored, raw), raw
        before = stored


def _digests(live: Store, view: Snapshot) -> DigestTree | None:
    """As they have been kept; None: they are damaged as well."""
    try:
        _, tree, is_rebuilt = live.digests_of(view.txn)
    except (Corrupt, lmdb.Error):
        return None
    return None if is_rebuilt else tree


def _require_all(believed: DigestTree | None, copied: Store) -> None:
    """A page that reads as if it were empty breaks no order, but the digests have known it.

    What they do not cover, `OWN`, is little, and without it this process would not run.
    """
    if believed is None:
        log.warn("nothing tells whether the damaged store still had all that is not shared")
    elif believed.heads(LOCAL) != copied.digests.heads(LOCAL):
        raise Corrupt("entries that are not shared are damaged or gone")
