"""The end of a first copy: what stays this cluster's own goes into the new store.

The copy has the primary's shared entries and its key terms. Name and id of the cluster, its seal
with its shares, and the history of its versions stay; tokens, cubbyholes, local mounts and what was
shared before do not. Then the store is complete, and the node can switch to it.
"""

from typing import Final

import msgspec

from undercroft.barrier.aead import NotOpened
from undercroft.barrier.seal_store import (
    CONFIG_KEY,
    RECOVERY_KEY,
    ROOT_KEY_KEY,
    open_keyring,
    write_keyring,
)
from undercroft.engines.system.health import VERSIONS
from undercroft.errors import Corrupt, Sealed
from undercroft.node.state import CLUSTER_KEY
from undercroft.replication.role import SECONDARY, Role, Upstream, write_role
from undercroft.replication.sinks import CopySink
from undercroft.request.mounts import bootstrap_local
from undercroft.request.tokens import make_salt
from undercroft.storage.keys import OWN, SYSTEM
from undercroft.storage.store import Store

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
            try:
                stored = open_keyring(view, own.root_key)
            except NotOpened:
                raise Corrupt("the stored keyring does not open under its root key") from None
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
