"""The store of one node: an LMDB environment, opened once per process.

One process (the writer) opens it for writing; all others read. A commit (`batch.py`) carries data,
log record, digest, expiry index and generation in one LMDB transaction (DESIGN idea 3), so there is
no moment at which they disagree.

    data        entries, by stored key (`keys.py`), as records (`record.py`)
    wal         the log (`wal.py`), by sequence number
    meta        format, generation, extent of the log, checkpoint of the digest tree
    expiry      what expires: time and stored key -> full key
    quarantine  writes that a failover set aside
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Final, cast

import lmdb
import msgspec

from undercroft.barrier.keyring import Keyring
from undercroft.errors import Corrupt, StorageFailed
from undercroft.storage.batch import Batch
from undercroft.storage.digest import Delta, DigestTree
from undercroft.storage.record import tag_of
from undercroft.storage.view import Decoded, Snapshot
from undercroft.storage.wal import (
    NO_TAG,
    START,
    Position,
    Record,
    chain_of,
    decode_record,
)

# Address space, not disk: LMDB's file grows as it is filled. Less where mmap refuses so much.
_MAP_BYTES: Final = 1 << 38
_MAP_BYTES_MIN: Final = 1 << 30

FORMAT: Final = b"1"
_FORMAT_KEY: Final = b"format"
_GENERATION_KEY: Final = b"generation"
_DIGEST_SEQ_KEY: Final = b"digest-seq"
_DIGEST_PREFIX: Final = b"digest/"
_LOG_KEY: Final = b"log"
_LOG: Final = Struct(">QQ")  # first sequence number, bytes

_REPAIR: Final = "stop the server, run `undercroft operator check`, restore a backup if it says so"


class Retention(msgspec.Struct, frozen=True):
    """How much log is kept for secondaries to catch up: a record goes when any limit is crossed."""

    records: int = 1_000_000
    bytes: int = 1 << 30
    age_seconds: int = 0  # 0: of any age


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """Opened by `Store.open`. `keyring` is None while the node is sealed."""

    def __init__(self, env: lmdb.Environment, *, writable: bool, retention: Retention) -> None:
        self.env = env
        self.keyring: Keyring | None = None
        self.decoded = Decoded()
        self.data = env.open_db(b"data", create=writable)
        self.wal = env.open_db(b"wal", create=writable)
        self.meta = env.open_db(b"meta", create=writable)
        self.expiry = env.open_db(b"expiry", create=writable)
        self.quarantine = env.open_db(b"quarantine", create=writable)
        self.retention = retention
        self.epoch = 1
        self.failure = ""  # why nothing may be written any more; empty: all is well
        # what only the writer keeps
        self.position = START  # of the last committed record
        self.digests = DigestTree()
        self.digest_seq = 0  # the record that the stored digests stand for
        self.unsaved_changes = 0  # entries changed since
        self._log_first = 1
        self._log_bytes = 0
        if writable:
            self._check_format()
            self.load()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        writable: bool,
        durable: bool = True,
        retention: Retention = Retention(),  # noqa: B008 - immutable
    ) -> "Store":
        """Open the environment in the directory `path`. `durable=False` is for inmem only.

        Raises StorageFailed for what is no store of ours, is cut short, or is of a newer format.
        """
        try:
            env = _open_environment(path, writable=writable, durable=durable)
            _check_length(env, path)
            return cls(env, writable=writable, retention=retention)
        except lmdb.Error as error:
            raise StorageFailed(
                f"cannot open the store in {path}: {_kind(error)}", hint=_REPAIR
            ) from None
        except Corrupt as error:
            raise StorageFailed(f"the store in {path}: {error.message}", hint=_REPAIR) from None

    def _check_format(self) -> None:
        with self.env.begin(self.meta, write=True) as txn:
            found = txn.get(_FORMAT_KEY)
            if found is None:
                txn.put(_FORMAT_KEY, FORMAT)
            elif found != FORMAT:
                raise Corrupt("its format is not known to this version")

    def load(self) -> None:
        """Position, extent of the log, and the digest tree rolled forward from its checkpoint."""
        with self.env.begin() as txn:
            cursor = txn.cursor(self.wal)
            if cursor.last():
                record = decode_record(cursor.value())
                seq = int.from_bytes(cursor.key(), "big")
                self.position = Position(record.epoch, seq, record.chain)
                self.epoch = record.epoch
            extent = txn.get(_LOG_KEY, None, self.meta)
            if extent is not None:
                self._log_first, self._log_bytes = _LOG.unpack(extent)
            self.digests, self.digest_seq, self.unsaved_changes = self.stored_digests(txn)

    def stored_digests(self, txn: lmdb.Transaction) -> tuple[DigestTree, int, int]:
        """The tree as it stands, the record that its checkpoint stands for, changes since then.

        Raises Corrupt.
        """
        tree = DigestTree()
        raw = cast("bytes | None", txn.get(_DIGEST_SEQ_KEY, None, self.meta))
        seq = int.from_bytes(raw, "big") if raw else 0
        cursor = txn.cursor(self.meta)
        found = cursor.set_range(_DIGEST_PREFIX)
        while found and bytes(cursor.key()).startswith(_DIGEST_PREFIX):
            name = bytes(cursor.key())[len(_DIGEST_PREFIX) :]
            tree.load(name, bytes(cursor.value()))
            found = cursor.next()
        changes = 0
        for _, record in self.records(txn, seq + 1):
            deltas = [
                Delta(op.key, op.old_tag, NO_TAG if op.record is None else tag_of(op.record))
                for op in record.operations()
            ]
            tree.apply(deltas)
            changes += len(deltas)
        return tree, seq, changes

    def close(self) -> None:
        self.env.close()

    def set_keyring(self, keyring: Keyring | None) -> None:
        """Unseal, rotate, or (None) seal: what was decoded under it goes too."""
        self.keyring = keyring
        if keyring is None:
            self.decoded.clear()

    # reading

    def snapshot(self) -> Snapshot:
        txn = self.env.begin(self.data)
        return Snapshot(txn, self.meta, self.keyring, self.decoded)

    def due(self, now_ms: int, limit: int) -> list[bytes]:
        """Full keys of up to `limit` entries whose expiry has come, oldest first."""
        found: list[bytes] = []
        with self.env.begin() as txn:
            for entry, full in txn.cursor(self.expiry):
                if len(found) >= limit or int.from_bytes(entry[:8], "big") > now_ms:
                    break
                found.append(bytes(full))
        return found

    def records(self, txn: lmdb.Transaction, first: int) -> Iterator[tuple[int, Record]]:
        """The log from a sequence number on. Raises Corrupt for a gap or a record that was altered.

        The first record's chain is taken as it is: what it continues may be trimmed already.
        """
        cursor = txn.cursor(self.wal)
        found = cursor.set_range(first.to_bytes(8, "big"))
        expected, chain = first, b""
        while found:
            seq, record = int.from_bytes(cursor.key(), "big"), decode_record(bytes(cursor.value()))
            if seq != expected:
                raise Corrupt(f"the log has a gap before record {seq}")
            if chain and record.chain != chain_of(
                chain, record.epoch, seq, record.time_ms, record.body
            ):
                raise Corrupt(f"log record {seq} was altered")
            chain, expected = record.chain, seq + 1
            yield seq, record
            found = cursor.next()

    @property
    def log_first(self) -> int:
        """The oldest record kept; one past the last when none is."""
        return self._log_first

    @property
    def log_bytes(self) -> int:
        return self._log_bytes

    # writing: `Batch` calls these within its transaction

    def batch(self, now_ms: Callable[[], int] = _wall_ms) -> Batch:
        """Begin a group commit. The caller commits or aborts it. Raises StorageFailed."""
        if self.failure:
            raise StorageFailed(self.failure)
        return Batch(self, self.env.begin(self.data, write=True), now_ms())

    def raise_generation(self, txn: lmdb.Transaction) -> None:
        raw = cast("bytes | None", txn.get(_GENERATION_KEY, None, self.meta))
        count = int.from_bytes(raw, "big") if raw else 0
        txn.put(_GENERATION_KEY, (count + 1).to_bytes(8, "big"), db=self.meta)

    def save_digest(self, txn: lmdb.Transaction) -> None:
        """Checkpoint the tree as of the last commit: this batch's records roll forward from it."""
        for name, packed in self.digests.changed_chunks():
            if packed is None:
                txn.delete(_DIGEST_PREFIX + name, db=self.meta)
            else:
                txn.put(_DIGEST_PREFIX + name, packed, db=self.meta)
        txn.put(_DIGEST_SEQ_KEY, self.position.seq.to_bytes(8, "big"), db=self.meta)

    def trim_log(
        self, txn: lmdb.Transaction, last: int, added_bytes: int, now_ms: int, limit: int
    ) -> None:
        """Drop up to `limit` records from the log's beginning, none that a start still needs."""
        self._log_bytes += added_bytes
        keep, oldest_ms = self.retention, now_ms - self.retention.age_seconds * 1000
        cursor = txn.cursor(self.wal)
        more = cursor.first()
        while more and limit > 0 and self._log_first <= self.digest_seq:
            raw = cast(bytes, cursor.value())
            over = last - self._log_first + 1 > keep.records or self._log_bytes > keep.bytes
            aged = keep.age_seconds and decode_record(raw).time_ms < oldest_ms
            if not (over or aged):
                break
            self._log_bytes -= len(raw)
            self._log_first += 1
            limit -= 1
            more = cursor.delete() and bool(cursor.key())
        txn.put(_LOG_KEY, _LOG.pack(self._log_first, self._log_bytes), db=self.meta)

    def forget_log_state(self) -> None:
        """After an abort: the extent of the log is what the last commit stored."""
        with self.env.begin() as txn:
            extent = txn.get(_LOG_KEY, None, self.meta)
        self._log_first, self._log_bytes = _LOG.unpack(extent) if extent is not None else (1, 0)

    def reap_readers(self) -> None:
        """Give up the snapshots of processes that were killed: they would pin old pages."""
        self.env.reader_check()


def _open_environment(path: Path, *, writable: bool, durable: bool) -> lmdb.Environment:
    size = _MAP_BYTES
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=size,
                max_dbs=8,
                max_readers=1024,
                readonly=not writable,
                create=writable,
                sync=durable,
                metasync=durable,
                readahead=False,
                mode=0o600,
            )
        except lmdb.MemoryError:
            size //= 2
            if size < _MAP_BYTES_MIN:
                raise


def _check_length(env: lmdb.Environment, path: Path) -> None:
    """A file shorter than LMDB believes would kill the process at the first touch (SIGBUS)."""
    expected = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    actual = (path / "data.mdb").stat().st_size
    if actual < expected:
        raise Corrupt(f"data.mdb is cut short: {actual} bytes, {expected} are in use")


def _kind(error: lmdb.Error) -> str:
    return f"{type(error).__name__.removesuffix('Error')} error"
