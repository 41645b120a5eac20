"""Group commit: one LMDB write transaction that carries many requests.

The order within a commit does not matter to a crash: LMDB makes all of it visible at once, by one
page written last. What matters is that nothing is answered before `commit` has returned
(ACK-AFTER-DURABLE) and that a batch in which anything failed half way is never committed
(ALL-OR-NOTHING).
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

import lmdb

from undercroft.errors import StorageFailed, StorageFull
from undercroft.storage import faults
from undercroft.storage.digest import Delta
from undercroft.storage.keys import HEAD_BYTES, OWN, SYSTEM, stored_key
from undercroft.storage.record import parse_head, tag_of
from undercroft.storage.view import Transaction
from undercroft.storage.wal import NO_TAG, Position, encode_operation, encode_record

if TYPE_CHECKING:
    from undercroft.storage.store import Store

CHECKPOINT_CHANGES: Final = 10_000  # changed entries between two checkpoints of the digest tree
TRIM_MAX: Final = 512  # log records dropped per commit, so that no commit is held up by it

_FULL: Final = "no space is left for the store; nothing was applied, reads go on"


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """A full disk is StorageFull."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError):
        raise StorageFull(_FULL, hint="free some space; no restart is needed") from None


class Batch:
    """Made by `Store.batch`. A request runs over `transaction()`; `accept` makes it part of the
    commit, not calling it drops its writes. Then `commit`, or `abort`.
    """

    def __init__(self, store: "Store", txn: lmdb.Transaction, now_ms: int) -> None:
        self._store = store
        self._txn = txn
        self._deltas: list[Delta] = []
        self._configuration_touched = False
        self._log_bytes = 0
        self._broken = False
        self.now_ms = now_ms
        self.position = store.position

    def transaction(self) -> Transaction:
        store = self._store
        return Transaction(self._txn, store.meta, store.keyring, store.decoded)

    def accept(self, tx: Transaction) -> Position:
        """Write the request's overlay and its log record. Without writes nothing happens.

        Raises StorageFull; after any exception the batch can only be aborted, since part of the
        overlay may be in the transaction.
        """
        if not tx.writes:
            return self.position
        try:
            with translated():
                self._write(tx)
        except BaseException:
            self._broken = True
            raise
        return self.position

    def _write(self, tx: Transaction) -> None:
        body: list[bytes] = []
        for key, record in tx.writes.items():
            old = self._put(key, record, tx.expiries.get(key, 0))
            if record is None and old is None:
                continue
            own = key[:1] == OWN
            old_tag = NO_TAG if old is None or own else tag_of(old)
            body.append(encode_operation(key, old_tag, record))
            if not own:
                new_tag = NO_TAG if record is None else tag_of(record)
                self._deltas.append(Delta(key, old_tag, new_tag))
            if key[1:HEAD_BYTES] == SYSTEM:
                self._configuration_touched = True
        if not body:
            return
        store = self._store
        self.position, raw = encode_record(self.position, store.epoch, self.now_ms, b"".join(body))
        faults.point("log")
        self._txn.put(self.position.seq.to_bytes(8, "big"), raw, append=True, db=store.wal)
        self._log_bytes += len(raw)

    def _put(self, key: bytes, record: bytes | None, expires_ms: int) -> bytes | None:
        """Store or delete one entry and keep the expiry index; answers the record it replaced."""
        txn, expiry, stored = self._txn, self._store.expiry, stored_key(key)
        old = cast("bytes | None", txn.get(stored))
        if old is not None and old[1] & 1:
            txn.delete(expiry_key(parse_head(stored, old).expires_ms, stored), db=expiry)
        faults.point("data")
        if record is None:
            if old is not None:
                txn.delete(stored)
            return old
        txn.put(stored, record)
        if expires_ms:
            faults.point("expiry")
            txn.put(expiry_key(expires_ms, stored), key, db=expiry)
        return old

    def commit(self) -> None:
        """Make everything accepted durable. Afterwards, and only then, requests may be answered.

        Raises StorageFull (nothing is applied) or StorageFailed, after which nothing is written
        any more: once an fsync has failed nobody knows what is on the disk (R-26).
        """
        assert not self._broken, "a batch in which a request failed half way must be aborted"
        store = self._store
        saves_digest = store.unsaved_changes >= CHECKPOINT_CHANGES
        with translated():
            if self._configuration_touched:
                store.raise_generation(self._txn)
            if saves_digest:
                faults.point("checkpoint")
                store.save_digest(self._txn)
            if self._log_bytes:
                store.trim_log(self._txn, self.position.seq, self._log_bytes, self.now_ms, TRIM_MAX)
        faults.point("commit")
        self._commit()
        faults.point("committed")
        if saves_digest:
            store.digest_seq = store.position.seq
            store.digests.saved()
            store.unsaved_changes = 0
        store.position = self.position
        store.digests.apply(self._deltas)
        store.unsaved_changes += len(self._deltas)

    def _commit(self) -> None:
        try:
            self._txn.commit()
        except (lmdb.MapFullError, lmdb.DiskError):
            raise StorageFull(_FULL, hint="free some space; no restart is needed") from None
        except (lmdb.Error, OSError) as error:
            self._store.failure = (
                "the store could not be written and takes no more writes: restart the server once "
                "the disk is sound"
            )
            raise StorageFailed(self._store.failure, hint=type(error).__name__) from None

    def abort(self) -> None:
        self._txn.abort()
        self._store.forget_log_state()


def expiry_key(expires_ms: int, stored: bytes) -> bytes:
    return expires_ms.to_bytes(8, "big") + stored
