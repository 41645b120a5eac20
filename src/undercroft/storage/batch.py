"""Group commit: one LMDB write transaction that carries many requests.

The order within a commit does not matter to a crash: LMDB makes all of it visible at once, by one
page written last. What matters is that nothing is answered before `commit` has returned
(ACK-AFTER-DURABLE), that a batch in which anything failed half way is never committed
(ALL-OR-NOTHING), and that what the store remembers changes only after the commit stands.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from undercroft.errors import Corrupt, Internal, UndercroftError
from undercroft.storage import faults, log
from undercroft.storage.digest import Delta
from undercroft.storage.keys import (
    HEAD_BYTES,
    LOCAL,
    OWN,
    SHARED,
    SHORT_KEY_BYTES,
    SYSTEM,
    stored_key,
)
from undercroft.storage.record import is_plain, parse_head, sealed_expiry, tag_of
from undercroft.storage.turns import in_turns
from undercroft.storage.view import Transaction
from undercroft.storage.wal import (
    CORRECTION,
    DELETE,
    JUMP_RECORD,
    LOCAL_RECORD,
    NO_TAG,
    SHARED_RECORD,
    START,
    WITHHELD,
    Position,
    SharedRecord,
    digest_operation,
    encode_correction,
    encode_operation,
    follow,
    follow_shared,
    operations_of,
    shared_chain_of,
    single_put,
)

if TYPE_CHECKING:
    from undercroft.storage.store import Store
    from undercroft.storage.view import Txn

# Between two checkpoints of the digest tree; a start rolls so much forward and the log keeps it.
CHECKPOINT_CHANGES: Final = 10_000
CHECKPOINT_BYTES: Final = 64 << 20
# Log dropped per commit, so that no commit is held up by it: always more than commits add.
TRIM_RECORDS: Final = 1024
TRIM_BYTES: Final = 16 << 20

_PAGES_BYTES: Final = 16 << 20  # more than a commit writes beside what requests gave it
_TURN: Final = 16  # entries of a bulk: a tenth of a millisecond
_GENERATION_KEY: Final = b"generation"


class Checkpoint(NamedTuple):
    """The log's position that the stored digests stand for, and what has happened since."""

    seq: int = 0
    chain: bytes = START.chain
    changes: int = 0
    size_bytes: int = 0

    @classmethod
    def overdue(cls) -> "Checkpoint":
        """One that stands for nothing: no log may go before the next is written."""
        return cls(changes=1 << 62)

    def behind(self, changes: int, size_bytes: int) -> "Checkpoint":
        return self._replace(
            changes=self.changes + changes, size_bytes=self.size_bytes + size_bytes
        )

    @property
    def due(self) -> bool:
        return self.changes >= CHECKPOINT_CHANGES or self.size_bytes >= CHECKPOINT_BYTES


class OutOfOrder(Exception):
    """A record that is not the next one of the shared log: ask again from where we are."""


class _Change(NamedTuple):
    """One entry to be stored (`record` None: deleted), and what its expiry index loses."""

    stored: bytes
    full: bytes
    record: bytes | None
    expires_ms: int
    had_expiry_ms: int


class _Plan:
    """What a commit is to change against what is stored, and how the log tells it."""

    def __init__(self) -> None:
        self.changes: list[_Change] = []
        self.deltas: list[Delta] = []
        self.shared: list[bytes] = []  # encoded operations
        self.local: list[bytes] = []
        self._replicated: set[bytes] = set()
        self.touches_configuration = False
        self.differing = 0  # entries that held something else than the log record says

    def change(
        self,
        key: bytes,
        old: bytes | None,
        record: bytes | None,
        expires_ms: int,
        *,
        heals: bool = False,
    ) -> bytes:
        """Answers the digest leaf that is replaced.

        Raises Corrupt when what it replaces is damaged, unless that is what it `heals`.
        """
        stored, old_tag, had_expiry_ms, own = stored_key(key), NO_TAG, 0, key[:1] == OWN
        if old is not None:
            if old[:2] != b"\x01\x00":
                try:
                    had_expiry_ms = parse_head(stored, old).expires_ms
                except Corrupt:
                    if not heals:
                        raise
            if not own:
                old_tag = tag_of(old).rjust(len(NO_TAG), b"\0")
        self.changes.append(_Change(stored, key, record, expires_ms, had_expiry_ms))
        if not own:
            self.deltas.append(Delta(key, old_tag, NO_TAG if record is None else tag_of(record)))
        if key[1:HEAD_BYTES] == SYSTEM:
            self.touches_configuration = True
        return old_tag

    def add(self, tx: Transaction) -> None:
        """A request's overlay. Raises Corrupt when an entry that it replaces is damaged."""
        for key, record in tx.writes.items():
            old = tx.stored_raw(key)
            if record is None and old is None:
                continue
            old_tag = self.change(key, old, record, tx.expiries.get(key, 0))
            body = self.shared if key[:1] == SHARED else self.local
            body.append(encode_operation(key, old_tag, record))

    def correct(self, key: bytes, actual: bytes, believed: bytes) -> None:
        """A shared entry was not what the record replaces: whoever rolls the digests forward from
        the log, where the operation stands as it came, must know the leaf that it really replaced.
        """
        self.differing += 1
        self.local.append(encode_correction(key, actual, believed))

    def add_shared(self, tx: Transaction, key: bytes, record: bytes | None) -> bytes:
        """A shared entry as another cluster has it. Answers the leaf that it replaces.

        Raises Corrupt for what no cluster writes: it would be found damaged here, or spoil the
        digests and the expiry index, which count each key of a log record once.
        """
        if key[:1] != SHARED or len(key) < HEAD_BYTES:
            raise Corrupt("what was replicated is not shared")
        if key in self._replicated:
            raise Corrupt("a replicated record changes an entry twice")
        self._replicated.add(key)
        expires_ms = 0 if record is None else sealed_expiry(key, record)
        old = tx.stored_raw(key)
        if old == record:
            return NO_TAG if old is None else tag_of(old)
        return self.change(key, old, record, expires_ms, heals=True)


def _is_plain_data(key: bytes, record: bytes) -> bool:
    """Of a shared entry: neither configuration nor anything that has to be parsed or named anew."""
    return (
        key[:1] == SHARED
        and HEAD_BYTES <= len(key) <= SHORT_KEY_BYTES
        and key[1:HEAD_BYTES] != SYSTEM
        and is_plain(record)
    )


def _refuse_shared_writes(tx: Transaction) -> None:
    """Beside a replicated record they would become part of it, and its chain would not hold."""
    if any(key[:1] == SHARED for key in tx.writes):
        raise Internal("a replicated record carries the writes of this cluster's own entries only")


class Batch:
    """Made by `Store.batch`. A request runs over `transaction()`; `accept` makes it part of the
    commit, not calling it drops its writes. Then `commit`, or `abort`.
    """

    def __init__(self, store: "Store", txn: "Txn", now_ms: int) -> None:
        self._store = store
        self._txn = txn
        self._deltas: list[tuple[bytes, bytes, bytes]] = []
        self._configuration_touched = False
        self._added_bytes = 0
        self._broken = False
        self.now_ms = now_ms
        self.position = store.position  # of the cluster's own log
        self.shared = store.extent.shared  # of the shared log
        self._jumped = store.extent.jumped
        self._begin_shared = store.begin_shared

    def transaction(self) -> Transaction:
        store = self._store
        return Transaction(
            self._txn,
            store.meta,
            store.keyring,
            store.decoded,
            shared=self.shared,
            refuse_shared=store.refuse_shared,
        )

    def accept(self, tx: Transaction) -> Position:
        """Write the request's overlay and its log record. Without writes nothing happens.

        Answers the position of the cluster's own log; `shared` has that of the shared log. Raises
        Corrupt, before anything is written, when an entry that it replaces is damaged: the request
        alone has failed. After StorageFull or StorageFailed the batch can only be aborted, since
        part of the overlay may be in the transaction.
        """
        if not tx.writes:
            return self.position
        if self._begin_shared is not None and any(key[:1] == SHARED for key in tx.writes):
            self._begin_shared(tx)
        plan = _Plan()
        plan.add(tx)
        if not plan.shared:
            if plan.local:
                self._write(plan, LOCAL_RECORD, self.shared, self.now_ms)
            return self.position
        epoch = tx.opens_epoch or max(self.shared.epoch, 1)
        digests = [digest_operation(encoded) for encoded in plan.shared]
        chain = shared_chain_of(self.shared, epoch, self.now_ms, digests)
        shared = Position(epoch, self.shared.seq + 1, chain)
        self._write(plan, SHARED_RECORD, shared, self.now_ms)
        self._begin_shared = None
        return self.position

    def accept_shared(self, record: SharedRecord, tx: Transaction | None = None) -> int:
        """Apply the next record of the shared log, as another cluster wrote it, and with it what
        `tx` writes to entries of this cluster.

        Answers how many of its entries were not what the record replaces: the state had diverged.
        Raises OutOfOrder, and Corrupt for a record that is not what its chain says or that touches
        anything but shared entries; nothing is written then.
        """
        if record.seq != self.shared.seq + 1 or record.epoch < self.shared.epoch:
            raise OutOfOrder
        if tx is None:
            tx = self.transaction()
        _refuse_shared_writes(tx)
        plan, digests = _Plan(), []
        for kind, old_tag, key, value, encoded in operations_of(record.body):
            if kind == WITHHELD:
                digests.append(old_tag)
                continue
            if kind == CORRECTION:
                raise Corrupt("a replicated record has what never travels")
            digests.append(digest_operation(encoded))
            actual = plan.add_shared(tx, key, None if kind == DELETE else value)
            if actual != old_tag:
                plan.correct(key, actual, old_tag)
        chain = shared_chain_of(self.shared, record.epoch, record.time_ms, digests)
        if chain != record.chain:
            raise Corrupt("a replicated record is not what its chain says")
        plan.shared.append(record.body)
        plan.add(tx)
        self._write(plan, SHARED_RECORD, record.position, record.time_ms)
        return plan.differing

    def accept_plain(self, records: Sequence[bytes]) -> int:
        """Like `accept_shared` with encoded records, for what nearly all of them are, with little
        ado: one plain entry of no configuration, which replaces what it says. Takes those before
        the first that is something else, or not the next one; answers how many.
        """
        self._refuse_broken()
        self._broken = True
        put, get, wal, deltas = self._txn.put, self._txn.get, self._store.wal, self._deltas
        _, number, own_chain = self.position
        epoch, seq, chain = self.shared
        added, taken = 0, 0
        try:
            for raw in records:
                single = single_put(raw, epoch, seq, chain)
                if single is None:
                    break
                its_epoch, its_chain, key, old_tag, value = single
                if not _is_plain_data(key, value):
                    break
                faults.point("data")
                if old_tag == NO_TAG:
                    if not put(key, value, overwrite=False):
                        break
                else:
                    old = get(key)
                    if old is None or not is_plain(old) or tag_of(old) != old_tag:
                        break
                    put(key, value)
                own_chain, stored = follow_shared(number, own_chain, raw)
                faults.point("log")
                put((number + 1).to_bytes(8, "big"), stored, append=True, db=wal)
                epoch, seq, chain, number = its_epoch, seq + 1, its_chain, number + 1
                deltas.append((key, old_tag, tag_of(value)))
                added += len(stored)
                taken += 1
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from None
        self.position, self.shared = Position(epoch, number, own_chain), Position(epoch, seq, chain)
        self._added_bytes += added
        self._broken = False
        return taken

    def accept_entries(self, entries: Iterable[tuple[bytes, bytes | None]], tx: Transaction) -> int:
        """Make shared entries (key, record; None: gone) what another cluster has. No position.

        Of one key the last counts. Answers how many differed. Raises Corrupt for what is not shared
        or does not parse.
        """
        _refuse_shared_writes(tx)
        plan = _Plan()
        for key, record in in_turns(dict(entries).items(), _TURN):
            old_tag = plan.add_shared(tx, key, record)
            if tx.stored_raw(key) != record:
                plan.shared.append(encode_operation(key, old_tag, record))
        plan.add(tx)
        if plan.changes:
            self._write(plan, LOCAL_RECORD, self.shared, self.now_ms)
        return len(plan.shared)

    def correct_digests(self, corrections: Iterable[tuple[bytes, bytes]]) -> None:
        """What the digests say of a key's bucket is off by so much from the entries that are there.

        Raises Corrupt for a key that digests do not cover, or no leaf.
        """
        plan = _Plan()
        for key, off_by in corrections:
            covered = key[:1] in (SHARED, LOCAL) and len(key) >= HEAD_BYTES
            if not covered or len(off_by) != len(NO_TAG):
                raise Corrupt("a correction of digests names no key of theirs, or no leaf")
            plan.local.append(encode_correction(key, off_by, NO_TAG))
            plan.deltas.append(Delta(key, off_by, NO_TAG))
        if plan.local:
            self._write(plan, LOCAL_RECORD, self.shared, self.now_ms)

    def accept_jump(self, shared: Position) -> None:
        """The state has become that of a position, without the records between."""
        if shared == self.shared:
            return
        self._write(_Plan(), JUMP_RECORD, shared, self.now_ms)
        self._jumped = self.position.seq

    def _write(self, plan: _Plan, kind: int, shared: Position, time_ms: int) -> None:
        """Raises StorageFull or StorageFailed; the batch is broken then."""
        self._refuse_broken()
        self._broken = True  # until all of it is written
        try:
            self._store_changes(plan.changes)
            self._append(kind, shared, time_ms, b"".join(plan.shared), b"".join(plan.local))
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from None
        self._broken = False
        self._deltas += plan.deltas
        self._configuration_touched |= plan.touches_configuration

    def _append(
        self, kind: int, shared: Position, time_ms: int, shared_body: bytes, local_body: bytes
    ) -> None:
        """The record of what was just written."""
        size, body = len(shared_body), shared_body + local_body
        position, raw = follow(self.position, kind, shared, time_ms, size, body)
        faults.point("log")
        self._txn.put(position.seq.to_bytes(8, "big"), raw, append=True, db=self._store.wal)
        self.position, self.shared = position, shared
        self._added_bytes += len(raw)

    def _store_changes(self, changes: list[_Change]) -> None:
        txn, store = self._txn, self._store
        for stored, full, record, expires_ms, had_expiry_ms in in_turns(changes, _TURN):
            if had_expiry_ms:
                txn.delete(expiry_key(had_expiry_ms, stored), db=store.expiry)
            faults.point("data")
            if record is None:
                txn.delete(stored)
                continue
            txn.put(stored, record)
            if expires_ms:
                faults.point("expiry")
                txn.put(expiry_key(expires_ms, stored), full, db=store.expiry)

    def commit(self) -> None:
        """Make everything accepted durable. Afterwards, and only then, requests may be answered.

        Raises StorageFull (nothing is applied), or StorageFailed, after which nothing is written
        any more: once an fsync has failed nobody knows what is on the disk (R-26).
        """
        self._refuse_broken()
        self._broken = True  # done with, one way or the other
        store = self._store
        try:
            checkpoint, extent = self._bookkeeping()
            faults.point("commit")
            self._txn.commit()
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from None
        faults.point("committed")
        if checkpoint is not None:
            store.checkpoint = checkpoint
            store.digests.saved()
        store.extent = extent
        store.begin_shared = self._begin_shared
        store.digests.apply(self._deltas)
        store.checkpoint = store.checkpoint.behind(len(self._deltas), self._added_bytes)

    def _bookkeeping(self) -> tuple[Checkpoint | None, log.Extent]:
        """Generation, checkpoint, retention: within the transaction, before it is committed."""
        store, txn = self._store, self._txn
        if self._configuration_touched:
            faults.point("generation")
            raw = txn.get(_GENERATION_KEY, None, store.meta)
            count = int.from_bytes(raw, "big") if raw else 0
            txn.put(_GENERATION_KEY, (count + 1).to_bytes(8, "big"), db=store.meta)
        checkpoint: Checkpoint | None = None
        if store.checkpoint.due:
            faults.point("checkpoint")
            checkpoint = store.save_digests(txn)
        extent = store.extent
        if self._added_bytes:
            extent = extent._replace(
                size_bytes=extent.size_bytes + self._added_bytes,
                last=self.position,
                shared=self.shared,
                jumped=self._jumped,
            )
            faults.point("trim")
            extent = log.trim(
                txn,
                store.wal,
                extent,
                store.retention,
                self.now_ms,
                records=TRIM_RECORDS,
                bytes=TRIM_BYTES + 2 * self._added_bytes,
                seq=store.checkpoint.seq,  # a start may still need what comes after
            )
            log.save_extent(txn, store.meta, extent)
        return checkpoint, extent

    def _failure(self, error: lmdb.Error | OSError) -> UndercroftError:
        return self._store.write_failure(error, _PAGES_BYTES + 4 * self._added_bytes)

    def _refuse_broken(self) -> None:
        if self._broken:
            raise Internal("a batch in which something failed can only be aborted")

    def abort(self) -> None:
        """Drop it all; also after a commit that failed, and then nothing is left to drop."""
        self._broken = True
        self._txn.abort()


def expiry_key(expires_ms: int, stored: bytes) -> bytes:
    return expires_ms.to_bytes(8, "big") + stored
