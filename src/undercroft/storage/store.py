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
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import lmdb

from undercroft.barrier.keyring import Keyring
from undercroft.errors import Corrupt, StorageFailed, Unavailable, UndercroftError
from undercroft.storage import environment, log
from undercroft.storage.batch import Batch, Checkpoint
from undercroft.storage.digest import Delta, DigestTree
from undercroft.storage.keys import HEAD_BYTES, OWN
from undercroft.storage.log import Extent, Foreign, Retention, Trimmed
from undercroft.storage.record import parse_head, tag_of
from undercroft.storage.view import Decoded, Snapshot, Transaction
from undercroft.storage.wal import NO_TAG, Position, SharedRecord, leaf_changes

if TYPE_CHECKING:
    from undercroft.storage.view import Txn

__all__ = ["Foreign", "Retention", "Store", "Trimmed"]

_CHECKPOINT_KEY: Final = b"digest"
_CHECKPOINT: Final = Struct(">Q16s")
_CHECK: Final = Struct(">I")
_DIGEST_PREFIX: Final = b"digest/"

_FAILED: Final = (
    "the store could not be written and takes no more writes: restart the server once the disk is "
    "sound"
)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Saved(NamedTuple):
    """What the last checkpoint of the digests cost."""

    times: int = 0  # how often there was one
    nodes: int = 0
    seconds: float = 0.0


class Store:
    """Opened by `Store.open`. `keyring` is None while the node is sealed."""

    def __init__(self, env: lmdb.Environment, *, writable: bool, retention: Retention) -> None:
        self.env = env
        self.keyring: Keyring | None = None
        self.decoded = Decoded()
        self.data = env.open_db(b"data", create=False)
        self.wal = env.open_db(b"wal", create=False)
        self.meta = env.open_db(b"meta", create=False)
        self.expiry = env.open_db(b"expiry", create=False)
        self.quarantine = env.open_db(b"quarantine", create=False)
        self.retention = retention
        # Set by the node on a secondary or a fenced primary: why shared entries may not be written.
        self.refuse_shared: Callable[[], Exception] | None = None
        # Set by the node on a primary: adds to the first request that writes shared entries.
        self.begin_shared: Callable[[Transaction], None] | None = None
        self.failure = ""  # why nothing may be written any more; empty: all is well
        self.map_was_full = False  # the next batch begins with a greater map
        # what only the writer keeps
        self.extent = Extent()  # of the log, as of the last commit
        self.digests = DigestTree()
        self.checkpoint = Checkpoint()  # what the stored digests stand for
        self.digests_rebuilt = False  # the stored ones were damaged
        self.saved = Saved()
        if writable:
            self._load()

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

        Raises StorageFailed for what is no store of ours, is damaged, cut short or of a newer
        format, and StorageFull.
        """
        env: lmdb.Environment | None = None
        try:
            if writable:
                environment.prepare(path)
            env = environment.open_environment(path, writable=writable, durable=durable)
            environment.check_open(env, path)
            return cls(env, writable=writable, retention=retention)
        except (lmdb.Error, OSError, Corrupt) as error:
            if env is not None:
                env.close()
            raise environment.open_failure(path, error) from None

    def _load(self) -> None:
        """The log's extent, and the digest tree rolled forward from its checkpoint."""
        with self.env.begin() as txn:
            self.extent = log.load_extent(txn, self.meta)
            log.check_ends(txn, self.wal, self.extent)
            self.checkpoint, self.digests, self.digests_rebuilt = self.digests_of(txn)

    def digests_of(self, txn: "Txn") -> tuple[Checkpoint, DigestTree, bool]:
        """The tree as of a snapshot: its checkpoint, itself, and whether it had to be rebuilt.

        A damaged checkpoint is made anew from the entries, which are what it is derived from.
        Raises Corrupt when the log after it does not hold.
        """
        try:
            checkpoint, tree = self._load_checkpoint(txn)
        except Corrupt:
            return Checkpoint.overdue(), self._rebuilt(txn), True
        chain = checkpoint.chain
        for _, raw, record in log.records(txn, self.wal, checkpoint.seq + 1, chain):
            changes = leaf_changes(record.body)
            tree.apply(changes)
            checkpoint = checkpoint.behind(len(changes), len(raw))
            chain = record.chain
        if chain != log.load_extent(txn, self.meta).last.chain:
            raise Corrupt("the end of the log was altered")
        return checkpoint, tree, False

    def _load_checkpoint(self, txn: "Txn") -> tuple[Checkpoint, DigestTree]:
        tree = DigestTree()
        raw = txn.get(_CHECKPOINT_KEY, None, self.meta)
        checkpoint = Checkpoint()
        if raw is not None:
            if len(raw) != _CHECKPOINT.size + 4 or raw[-4:] != _CHECK.pack(crc32(raw[:-4])):
                raise Corrupt("the checkpoint of the digest tree is damaged")
            checkpoint = Checkpoint(*_CHECKPOINT.unpack_from(raw))
        for name, packed in self._stored_nodes(txn):
            tree.load(name, packed)
        return checkpoint, tree

    def _stored_nodes(self, txn: "Txn") -> Iterator[tuple[bytes, bytes]]:
        cursor = txn.cursor(self.meta)
        found = cursor.set_range(_DIGEST_PREFIX)
        while found and cursor.key().startswith(_DIGEST_PREFIX):
            yield cursor.key()[len(_DIGEST_PREFIX) :], cursor.value()
            found = cursor.next()

    def _rebuilt(self, txn: "Txn") -> DigestTree:
        """Recomputed; whatever is stored is to be replaced by the next checkpoint."""
        tree = self.recompute(txn)
        self._touch_stored(txn, tree)
        return tree

    def _touch_stored(self, txn: "Txn", tree: DigestTree) -> None:
        """Even where the tree has nothing: what is stored there goes."""
        for name, _ in self._stored_nodes(txn):
            if len(name) == HEAD_BYTES + 1:
                tree.touch(name)

    def recompute(self, txn: "Txn") -> DigestTree:
        """The digest tree from the entries themselves. Raises Corrupt for one without a name."""
        tree = DigestTree()
        tree.apply(
            Delta(parse_head(stored, raw).full_key, NO_TAG, tag_of(raw))
            for stored, raw in txn.cursor(self.data)
            if stored[:1] != OWN
        )
        return tree

    def renew_digests(self, txn: "Txn") -> None:
        """What is stored of the tree is damaged: the commit under way stores all of it again."""
        self.digests.touch_all()
        self._touch_stored(txn, self.digests)
        self.checkpoint = Checkpoint.overdue()

    def used_bytes(self) -> int:
        """How much of the file has ever been used; it never shrinks."""
        return int((self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"])

    def close(self) -> None:
        self.env.close()

    def set_keyring(self, keyring: Keyring | None) -> None:
        """Unseal, rotate, or (None) seal: what was decoded under the old one goes with it.

        A view that is still open keeps the old cache for itself, so it fills no new one.
        """
        self.keyring = keyring
        self.decoded = Decoded()

    # reading

    @property
    def position(self) -> Position:
        """Of the last committed record; known to the writer only."""
        return self.extent.last

    @property
    def log_first(self) -> int:
        """The oldest record kept; one past the last when none is. Known to the writer only."""
        return self.extent.first

    @property
    def log_bytes(self) -> int:
        return self.extent.size_bytes

    def snapshot(self) -> Snapshot:
        """Raises Unavailable, or Corrupt, when none can be had."""
        try:
            txn = self.env.begin(self.data)
        except lmdb.Error as error:
            txn = self._begin_again(error)
        return Snapshot(txn, self.meta, self.keyring, self.decoded)

    def _begin_again(self, error: lmdb.Error) -> "Txn":
        try:
            if isinstance(error, lmdb.MapResizedError) and environment.follow_map(self.env):
                return self.env.begin(self.data)
        except lmdb.Error as again:
            error = again
        raise environment.read_failure(error) from None

    def due(self, now_ms: int, limit: int) -> list[bytes]:
        """Full keys of up to `limit` entries whose expiry has come, oldest first."""
        found: list[bytes] = []
        with self.snapshot() as view:
            for entry, full in view.entries_of(self.expiry):
                if len(found) >= limit or int.from_bytes(entry[:8], "big") > now_ms:
                    break
                found.append(full)
        return found

    def shared_log(self, after: Position) -> Iterator[tuple[int, SharedRecord]]:
        """The shared log behind a position, over a snapshot of its own; close it soon.

        Gives the number in this cluster's log, and the record. Raises Trimmed, Foreign, Corrupt.
        """
        with self.snapshot() as view:
            extent = log.load_extent(view.txn, self.meta)
            yield from log.shared_records(view.txn, self.wal, extent, after)

    def log(self, first: int) -> Iterator[tuple[int, bytes]]:
        """The log from a record on, as stored, over a snapshot of its own; close it soon.

        Raises Trimmed when the log does not hold that record and it is not the next one either,
        Corrupt for a gap or an altered record.
        """
        with self.snapshot() as view:
            extent = log.load_extent(view.txn, self.meta)
            if not extent.first <= first <= extent.last.seq + 1:
                raise Trimmed
            chain = extent.base if first == extent.first else b""
            for seq, raw, _ in log.records(view.txn, self.wal, first, chain):
                yield seq, raw

    # writing

    def batch(self, now_ms: Callable[[], int] = _wall_ms) -> Batch:
        """Begin a group commit. The caller commits or aborts it. Raises StorageFailed."""
        if self.failure:
            raise StorageFailed(self.failure)
        try:
            environment.grow_map(self.env, wanted=self.map_was_full)
            self.map_was_full = False
            return Batch(self, self.env.begin(self.data, write=True), now_ms())
        except lmdb.Error as error:
            raise self.write_failure(error) from None

    def write_failure(self, error: lmdb.Error | OSError, wanted: int = 0) -> UndercroftError:
        """What a failed step of a commit of about `wanted` bytes means.

        All but a full disk ends writing (FAIL-STOP).
        """
        data = Path(self.env.path(), environment.DATA_NAME)
        if environment.is_full(error) or environment.was_cut_short(error, data, wanted):
            self.map_was_full = isinstance(error, lmdb.MapFullError)
            return environment.storage_full()
        if isinstance(error, lmdb.TxnFullError):
            return Unavailable("too much was written at once")
        self.failure = _FAILED
        return StorageFailed(_FAILED, hint=environment.cause_of(error))

    def save_digests(self, txn: "Txn") -> Checkpoint:
        """Checkpoint the tree as of the last commit: the batch's own records roll it forward."""
        nodes, began = 0, time.perf_counter()
        for name, packed in self.digests.changed_nodes():
            nodes += 1
            if packed is None:
                txn.delete(_DIGEST_PREFIX + name, db=self.meta)
            else:
                txn.put(_DIGEST_PREFIX + name, packed, db=self.meta)
        made = Checkpoint(self.position.seq, self.position.chain)
        raw = _CHECKPOINT.pack(made.seq, made.chain)
        txn.put(_CHECKPOINT_KEY, raw + _CHECK.pack(crc32(raw)), db=self.meta)
        self.saved = Saved(self.saved.times + 1, nodes, time.perf_counter() - began)
        return made

    def begin_log_behind(self, last: Position) -> None:
        """Empty the log and go on counting behind `last`: this store takes another's place, and
        whoever was given a place in that log must find it reached here.

        Raises StorageFull, StorageFailed.
        """
        try:
            with self.env.begin(write=True) as txn:
                txn.drop(self.wal, delete=False)
                shared = self.extent.shared
                self.extent = Extent(
                    first=last.seq + 1,
                    base=last.chain,
                    last=last,
                    shared_base=shared,
                    shared=shared,
                )
                log.save_extent(txn, self.meta, self.extent)
                self.checkpoint = self.save_digests(txn)
        except (lmdb.Error, OSError) as error:
            raise self.write_failure(error) from None
        self.digests.saved()

    def reap_readers(self) -> None:
        """Give up the snapshots of processes that were killed: they would pin old pages."""
        self.env.reader_check()
