"""The store of one node: an LMDB environment, opened once per process.

One process (the writer) opens it for writing; all others read. A commit carries data, log record,
digest deltas, expiry index and generation in one LMDB transaction (DESIGN idea 3), so there is no
moment at which they disagree.

Databases: `data` (entries), `wal` (log), `meta` (generation, checkpoints), `expiry` (what expires,
by time), `quarantine` (writes that a failover set aside).
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import lmdb

from undercroft.barrier.keyring import Keyring
from undercroft.errors import StorageFailed
from undercroft.storage.digest import DigestTree
from undercroft.storage.keys import OWN, SYSTEM, stored_key
from undercroft.storage.record import parse_head, tag_of
from undercroft.storage.view import Decoded, Snapshot, Transaction
from undercroft.storage.wal import (
    NO_TAG,
    START,
    Position,
    decode_record,
    encode_operation,
    encode_record,
)

# Address space, not disk: LMDB's file grows as it is filled.
_MAP_BYTES: Final = 1 << 40


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """Opened by `Store.open`. `keyring` is None while the node is sealed."""

    def __init__(self, env: lmdb.Environment, *, writable: bool) -> None:
        self.env = env
        self.keyring: Keyring | None = None
        self.decoded = Decoded()
        self.data = env.open_db(b"data", create=writable)
        self.wal = env.open_db(b"wal", create=writable)
        self.meta = env.open_db(b"meta", create=writable)
        self.expiry = env.open_db(b"expiry", create=writable)
        self.quarantine = env.open_db(b"quarantine", create=writable)
        self.epoch = 1
        self.position = START  # of the last committed record; kept by the writer only
        self.digests = DigestTree()
        self.failure = ""  # why nothing may be written any more; empty: all is well
        if writable:
            self._load()

    @classmethod
    def open(cls, path: Path, *, writable: bool, durable: bool = True) -> "Store":
        """Open the environment in the directory `path`. `durable=False` is for inmem only."""
        try:
            env = lmdb.open(
                str(path),
                map_size=_MAP_BYTES,
                max_dbs=8,
                max_readers=1024,
                readonly=not writable,
                sync=durable,
                metasync=durable,
                readahead=False,
                mode=0o600,
            )
            return cls(env, writable=writable)
        except lmdb.Error as error:
            raise StorageFailed(
                f"cannot open the store in {path}: {type(error).__name__}",
                hint="if the file is damaged, restore a backup",
            ) from None

    def _load(self) -> None:
        with self.env.begin() as txn:
            cursor = txn.cursor(self.wal)
            if cursor.last():
                record = decode_record(cursor.value())
                seq = int.from_bytes(cursor.key(), "big")
                self.position = Position(record.epoch, seq, record.chain)
                self.epoch = record.epoch

    def close(self) -> None:
        self.env.close()

    def set_keyring(self, keyring: Keyring | None) -> None:
        """Unseal, rotate, or (None) seal: what was decoded under it goes too."""
        self.keyring = keyring
        if keyring is None:
            self.decoded.clear()

    def snapshot(self) -> Snapshot:
        txn = self.env.begin(self.data)
        return Snapshot(txn, self.meta, self.keyring, self.decoded)

    def batch(self, now_ms: Callable[[], int] = _wall_ms) -> "Batch":
        """Begin a group commit. The caller commits or aborts it."""
        if self.failure:
            raise StorageFailed(self.failure)
        return Batch(self, self.env.begin(self.data, write=True), now_ms())

    def due(self, now_ms: int, limit: int) -> list[bytes]:
        """Full keys of up to `limit` entries whose expiry has come, oldest first."""
        with self.env.begin() as txn:
            return [full for _, full in _due(txn, self.expiry, now_ms, limit)]


class Batch:
    """One LMDB write transaction that carries many requests, each in a savepoint of its own.

    with `tx = batch.transaction()` a request runs; `batch.accept(tx)` makes it part of the commit,
    not calling it drops its writes. After `commit` returned, every accepted request is on disk.
    """

    def __init__(self, store: Store, txn: lmdb.Transaction, now_ms: int) -> None:
        self._store = store
        self._txn = txn
        self._deltas: list[tuple[bytes, bytes, bytes]] = []
        self._configuration_touched = False
        self.now_ms = now_ms
        self.position = store.position

    def transaction(self) -> Transaction:
        store = self._store
        return Transaction(self._txn, store.meta, store.keyring, store.decoded)

    def accept(self, tx: Transaction) -> Position:
        """Write the request's overlay and its log record. Without writes nothing happens.

        After an exception the whole batch must be aborted: part of the overlay may be written.
        """
        if not tx.writes:
            return self.position
        body: list[bytes] = []
        for key, record in tx.writes.items():
            old = self._put(key, record, tx.expiries.get(key, 0))
            if record is None and old is None:
                continue
            old_tag = NO_TAG if old is None or key[:1] == OWN else tag_of(old)
            body.append(encode_operation(key, old_tag, record))
            if key[:1] != OWN:
                self._deltas.append((key, old_tag, NO_TAG if record is None else tag_of(record)))
            if key[1:17] == SYSTEM:
                self._configuration_touched = True
        if body:
            store = self._store
            self.position, raw = encode_record(
                self.position, store.epoch, self.now_ms, b"".join(body)
            )
            self._txn.put(self.position.seq.to_bytes(8, "big"), raw, append=True, db=store.wal)
        return self.position

    def _put(self, key: bytes, record: bytes | None, expires_ms: int) -> bytes | None:
        """Store or delete one entry and keep the expiry index; answers the record it replaced."""
        txn, expiry, stored = self._txn, self._store.expiry, stored_key(key)
        old: bytes | None = txn.get(stored)
        if old is not None and old[1] & 1:
            txn.delete(_expiry_key(parse_head(stored, old).expires_ms, stored), db=expiry)
        if record is None:
            if old is not None:
                txn.delete(stored)
        else:
            txn.put(stored, record)
            if expires_ms:
                txn.put(_expiry_key(expires_ms, stored), key, db=expiry)
        return old

    def commit(self) -> None:
        """Make everything accepted durable. Afterwards, and only then, requests may be answered."""
        store = self._store
        if self._configuration_touched:
            raw = self._txn.get(b"generation", None, store.meta)
            count = int.from_bytes(raw, "big") if raw else 0
            self._txn.put(b"generation", (count + 1).to_bytes(8, "big"), db=store.meta)
        self._txn.commit()
        store.position = self.position
        store.digests.apply(self._deltas)

    def abort(self) -> None:
        self._txn.abort()


def _expiry_key(expires_ms: int, stored: bytes) -> bytes:
    return expires_ms.to_bytes(8, "big") + stored


def _due(
    txn: lmdb.Transaction, expiry: Any, now_ms: int, limit: int
) -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor(expiry)
    for entry, full in cursor:
        if limit <= 0 or int.from_bytes(entry[:8], "big") > now_ms:
            return
        limit -= 1
        yield entry, full
