"""A store as a session sees it: the shared log and the digest tree, followed without the writer.

The tree of the writer is out of reach for another process, and comparing must not hold the writer
up. So this keeps its own: read from the checkpoint once, then rolled forward along the log. All it
tells is as of `position`, which moves only in `advance`.
"""

from collections.abc import Callable
from typing import Final

from undercroft.barrier.keyring import Keyring
from undercroft.errors import Corrupt
from undercroft.replication.lineage import LINEAGE_KEY, Lineage
from undercroft.replication.protocol.ports import Slice
from undercroft.storage import log
from undercroft.storage.digest import bucket_of
from undercroft.storage.keys import LONG_KEY_BYTES, SHARED
from undercroft.storage.record import full_key_of
from undercroft.storage.store import Store
from undercroft.storage.wal import LOCAL_RECORD, Position, SharedRecord, leaf_changes

FRAME_BYTES: Final = 256 << 10  # of a frame of records or entries
FRAME_RECORDS: Final = 1000
_RECENT_MAX: Final = 8  # frames of records kept for other secondaries
_WALK: Final = 4000  # entries looked at in a slice of a walk: some milliseconds


class StoreState:
    """The reading half of `ports.Source` and `ports.Sink`, over a store of this process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._recent: dict[Position, list[SharedRecord]] = {}  # as of `position`
        self._watched: list[tuple[int, Callable[[bytes], None]]] = []
        self.advanced: Callable[[], None] = _nothing
        self._load()

    def _load(self) -> None:
        with self.store.snapshot() as view:
            extent = log.load_extent(view.txn, self.store.meta)
            _, self._tree, _ = self.store.digests_of(view.txn)
        self._number = extent.last.seq
        self._position = extent.shared

    def advance(self, limit: int = 1 << 30) -> bool:
        """Follow the log, `limit` records at most. Answers whether there is more.

        Then `advanced` is called, before anybody reads what is new.
        """
        more = self._advance(limit)
        self.advanced()
        return more

    def _advance(self, limit: int) -> bool:
        self._recent.clear()
        store = self.store
        with store.snapshot() as view:
            extent = log.load_extent(view.txn, store.meta)
            if extent.first > self._number + 1 or extent.last.seq < self._number:
                self._load()  # it was away for longer than the log is kept, or the store is another
                return False
            # Not verified: the writer has just written it, and shipping it verifies it again.
            following = log.records(view.txn, store.wal, self._number + 1, verify=False)
            for number, _, record in following:
                if limit <= 0:
                    return True
                limit -= 1
                self._tree.apply(
                    [change for change in leaf_changes(record.body) if change[0][:1] == SHARED]
                )
                self._number = number
                if record.kind != LOCAL_RECORD:
                    self._position = record.shared
                    if self._watched:
                        self._tell_roots()
        return False

    @property
    def number(self) -> int:
        """Of the last record of the cluster's own log that was followed."""
        return self._number

    # ports.State

    def position(self) -> Position:
        return self._position

    def lineage(self) -> Lineage | None:
        with self.store.snapshot() as view:
            return view.read(LINEAGE_KEY, Lineage)

    def term(self) -> int:
        keyring = self.store.keyring
        return 0 if keyring is None else keyring.active.term

    def entries(self) -> int:
        with self.store.snapshot() as view:
            return int(view.txn.stat(self.store.data)["entries"])

    def heads(self) -> dict[bytes, bytes]:
        return self._tree.heads(SHARED)

    def root(self) -> bytes:
        return self._tree.root(SHARED)

    def nodes(self, head: bytes) -> bytes:
        return self._tree.nodes(head)

    def buckets(self, head: bytes, node: int) -> bytes:
        return self._tree.buckets(head, node)

    def scan(self, head: bytes, after: bytes) -> Slice:
        """`after` is a stored key (`keys.py`): the same on every cluster."""
        entries: list[bytes] = []
        size = 0
        with self.store.snapshot() as view:
            cursor = view.txn.cursor(self.store.data)
            found = cursor.set_range(after or head)
            if found and cursor.key() == after:
                found = cursor.next()
            while found:
                stored, record = cursor.item()
                if not stored.startswith(head):
                    break
                if size > FRAME_BYTES:
                    return Slice(entries, after)
                full = stored if len(stored) != LONG_KEY_BYTES else full_key_of(stored, record)
                entries += (full, record)
                size += len(full) + len(record)
                after = stored
                found = cursor.next()
        return Slice(entries, None)

    def leaves(self, head: bytes, buckets: frozenset[int], after: bytes) -> Slice:
        entries: list[bytes] = []
        with self.store.snapshot() as view:
            cursor = view.txn.cursor(self.store.data)
            found = cursor.set_range(after or head)
            if found and cursor.key() == after:
                found = cursor.next()
            left = _WALK
            while found:
                stored, record = cursor.item()
                if not stored.startswith(head):
                    break
                if not left:
                    return Slice(entries, after)
                left -= 1
                full = stored if len(stored) != LONG_KEY_BYTES else full_key_of(stored, record)
                if bucket_of(full) in buckets:
                    entries += (full, record)
                after = stored
                found = cursor.next()
        return Slice(entries, None)

    def watch_root(self, seq: int, seen: Callable[[bytes], None]) -> None:
        self._watched.append((seq, seen))
        self._tell_roots()

    def _tell_roots(self) -> None:
        at = self._position.seq
        due = [seen for seq, seen in self._watched if seq == at]
        self._watched = [(seq, seen) for seq, seen in self._watched if seq > at]
        for seen in due:
            seen(self.root())

    # ports.Source

    def records(self, after: Position) -> list[SharedRecord]:
        """Up to `position`: what came later may need key terms that are not known here yet.

        Secondaries that keep up ask for the same: it is read once.
        """
        known = self._recent.get(after)
        if known is None:
            if len(self._recent) >= _RECENT_MAX:
                self._recent.clear()
            known = self._recent[after] = self._read_records(after)
        return known

    def _read_records(self, after: Position) -> list[SharedRecord]:
        found: list[SharedRecord] = []
        size = 0
        for _, record in self.store.shared_log(after):
            if record.seq > self._position.seq:
                break
            found.append(record)
            size += len(record.body)
            if size > FRAME_BYTES or len(found) >= FRAME_RECORDS:
                break
        return found

    def terms(
        self,
    ) -> tuple[tuple[tuple[int, bytes, int], ...], tuple[tuple[int, bytes, int], ...]]:
        keyring: Keyring | None = self.store.keyring
        if keyring is None:
            raise Corrupt("there is no keyring")
        terms, alternates = (
            tuple((t.term, t.key, t.installed_ms) for t in some)
            for some in (keyring.terms, keyring.alternates)
        )
        return terms, alternates


def _nothing() -> None:
    """Nobody wants to know."""
