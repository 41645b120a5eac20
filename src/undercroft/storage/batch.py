"""Group commit: one LMDB write transaction that carries many requests.

The order within a commit does not matter to a crash: LMDB makes all of it visible at once, by one
page written last. What matters is that nothing is answered before `commit` has returned
(ACK-AFTER-DURABLE), that a batch in which anything failed half way is never committed
(ALL-OR-NOTHING), and that what the store remembers changes only after the commit stands.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from undercroft.errors import Internal, UndercroftError
from undercroft.storage import faults, log
from undercroft.storage.digest import Delta
from undercroft.storage.keys import HEAD_BYTES, OWN, SYSTEM, stored_key
from undercroft.storage.record import parse_head, tag_of
from undercroft.storage.view import Transaction
from undercroft.storage.wal import (
    NO_TAG,
    START,
    Position,
    encode_operation,
    encode_record,
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


class _Change(NamedTuple):
    """One entry to be stored (`record` None: deleted), and what its expiry index loses."""

    stored: bytes
    full: bytes
    record: bytes | None
    expires_ms: int
    had_expiry_ms: int


class Batch:
    """Made by `Store.batch`. A request runs over `transaction()`; `accept` makes it part of the
    commit, not calling it drops its writes. Then `commit`, or `abort`.
    """

    def __init__(self, store: "Store", txn: "Txn", now_ms: int) -> None:
        self._store = store
        self._txn = txn
        self._deltas: list[Delta] = []
        self._configuration_touched = False
        self._added_bytes = 0
        self._broken = False
        self.now_ms = now_ms
        self.position = store.position

    def transaction(self) -> Transaction:
        store = self._store
        return Transaction(self._txn, store.meta, store.keyring, store.decoded)

    def accept(self, tx: Transaction) -> Position:
        """Write the request's overlay and its log record. Without writes nothing happens.

        Raises Corrupt, before anything is written, when an entry that it replaces is damaged: the
        request alone has failed. After StorageFull or StorageFailed the batch can only be aborted,
        since part of the overlay may be in the transaction.
        """
        if not tx.writes:
            return self.position
        self._refuse_broken()
        changes, deltas, body = self._plan(tx)
        if not body:
            return self.position
        self._broken = True  # until all of it is written
        try:
            self._write(changes, b"".join(body))
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from None
        self._broken = False
        self._deltas += deltas
        return self.position

    def _plan(self, tx: Transaction) -> tuple[list[_Change], list[Delta], list[bytes]]:
        """What changes against what is stored: entries, digest leaves, operations of the log."""
        changes: list[_Change] = []
        deltas: list[Delta] = []
        body: list[bytes] = []
        for key, record in tx.writes.items():
            old = tx.stored_raw(key)
            if record is None and old is None:
                continue
            stored, old_tag, had_expiry_ms, own = stored_key(key), NO_TAG, 0, key[:1] == OWN
            if old is not None:
                if old[:2] != b"\x01\x00":
                    had_expiry_ms = parse_head(stored, old).expires_ms
                if not own:
                    old_tag = tag_of(old)
            changes.append(_Change(stored, key, record, tx.expiries.get(key, 0), had_expiry_ms))
            body.append(encode_operation(key, old_tag, record))
            if not own:
                deltas.append(Delta(key, old_tag, NO_TAG if record is None else tag_of(record)))
            if key[1:HEAD_BYTES] == SYSTEM:
                self._configuration_touched = True
        return changes, deltas, body

    def _write(self, changes: list[_Change], body: bytes) -> None:
        txn, store = self._txn, self._store
        for stored, full, record, expires_ms, had_expiry_ms in changes:
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
        position, raw = encode_record(self.position, store.epoch, self.now_ms, body)
        self._added_bytes += len(raw)
        faults.point("log")
        txn.put(position.seq.to_bytes(8, "big"), raw, append=True, db=store.wal)
        self.position = position

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
                size_bytes=extent.size_bytes + self._added_bytes, last=self.position
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
