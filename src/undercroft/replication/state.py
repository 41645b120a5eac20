"""A store as a session sees it: the shared log and the digest tree, followed without the writer.

The tree of the writer is out of reach for another process, and comparing must not hold the writer
up. So this keeps its own: read from the checkpoint once, then rolled forward along the log. All it
tells is as of `position`, which moves only in `advance`; while records come in bulk the tree stays
behind until it is asked for something.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from undercroft.barrier.keyring import Keyring
from undercroft.errors import Corrupt
from undercroft.replication.lineage import LINEAGE_KEY, Lineage
from undercroft.replication.protocol.ports import Slice
from undercroft.storage import log
from undercroft.storage.digest import DigestTree, bucket_of
from undercroft.storage.keys import LONG_KEY_BYTES, SHARED
from undercroft.storage.record import full_key_of
from undercroft.storage.store import Store
from undercroft.storage.turns import in_turns
from undercroft.storage.view import Snapshot
from undercroft.storage.wal import (
    LOCAL_RECORD,
    OPERATIONS_AT,
    Position,
    SharedRecord,
    kind_of,
    leaf_changes,
    shared_position_of,
)

FRAME_BYTES: Final = 256 << 10  # of a frame of records or entries
FRAME_RECORDS: Final = 1000
_RECENT_MAX: Final = 8  # frames of records kept for other secondaries
_AT_ONCE: Final = 512  # records that the tree takes in while something waits for it
_RELOAD: Final = 20_000  # records from which on reading the checkpoint again is quicker
_TURN: Final = 32  # entries: a tenth of a millisecond
_WALK: Final = 4000  # entries looked at in a slice of a walk: some milliseconds
_Due = tuple[Callable[[bytes], None], bytes]  # whom to tell a root, and the root


class Scrub(Protocol):
    """Who adds leaves up beside the digests (`scrub.py`)."""

    aborted: bool

    def changed(self, changes: list[tuple[bytes, bytes, bytes]]) -> None: ...


class StoreState:
    """The reading half of `ports.Source` and `ports.Sink`, over a store of this process.

    `blind`: log and digests are damaged and are left alone; only positions are known.
    """

    def __init__(self, store: Store, *, blind: bool = False) -> None:
        self.store = store
        self.is_blind = blind
        self._recent: dict[Position, list[SharedRecord]] = {}  # as of `position`
        self._watched: list[tuple[int, Callable[[bytes], None]]] = []
        self.scrub: Scrub | None = None  # the pass that is under way
        self.correcting = asyncio.Lock()  # who looks for what the digests are off by holds it
        self.advanced: Callable[[], None] = _nothing
        self.log_read: Callable[[float], None] = lambda seconds: None  # a piece of it
        self._load()

    def _load(self) -> None:
        with self.store.snapshot() as view:
            extent = log.load_extent(view.txn, self.store.meta)
            self._tree = DigestTree()
            if not self.is_blind:
                _, self._tree, _ = self.store.digests_of(view.txn)
        self._recent.clear()
        if self.scrub is not None:
            self.scrub.aborted = True
        self._number = self._digested = extent.last.seq
        self._position = extent.shared
        self.digested_seq = extent.shared.seq  # the place of the shared log that `root` is of
        self._tell(self._due_roots())

    def advance(self) -> None:
        """See where the log has got to. The tree follows at once, or later when it is much.

        Then `advanced` is called, before anybody reads what is new.
        """
        self._advance()
        self.advanced()

    def _advance(self) -> None:
        with self.store.snapshot() as view:
            extent = log.load_extent(view.txn, self.store.meta)
        if extent.last.seq < self._number or self.is_blind:
            self._load()  # the store is another
            return
        self._come_to(extent)
        if self.undigested <= _AT_ONCE:
            self.digest()

    def _come_to(self, extent: log.Extent) -> None:
        self._recent.clear()
        self._number, self._position = extent.last.seq, extent.shared

    def level(self, view: Snapshot) -> bool:
        """Come to just where that snapshot is, with the digests. False: they were made anew."""
        extent = log.load_extent(view.txn, self.store.meta)
        self._come_to(extent)
        reachable = self.undigested <= _RELOAD and extent.first <= self._digested + 1
        due = self._roll(view) if reachable else []
        if not reachable:
            self._load()
        self.advanced()
        self._tell(due)
        return reachable

    @property
    def number(self) -> int:
        """Of the last record of the cluster's own log."""
        return self._number

    @property
    def undigested(self) -> int:
        """Records that the tree does not have yet."""
        return self._number - self._digested

    def digest(self) -> None:
        """Bring the tree to `position`. Of much the writer's checkpoint has most already."""
        if not self.undigested:
            return
        store = self.store
        with store.snapshot() as view:
            first = log.load_extent(view.txn, store.meta).first
            reachable = self.undigested <= _RELOAD and first <= self._digested + 1
            due = self._roll(view) if reachable else []
        if not reachable:
            self._load()
            self.advanced()
        self._tell(due)

    def _roll(self, view: Snapshot) -> list[_Due]:
        """Answers who is to be told a root that was passed."""
        due: list[_Due] = []
        # Not verified: the writer has just written it, and shipping it verifies it again.
        for _, raw in log.stored(view.txn, self.store.wal, self._digested + 1):
            kind, changes = kind_of(raw), leaf_changes(raw, OPERATIONS_AT)
            shared = [change for change in changes if change[0][:1] == SHARED]
            self._tree.apply(shared)
            if self.scrub is not None:
                self.scrub.changed(shared)
            self._digested += 1
            if kind != LOCAL_RECORD:
                self.digested_seq = shared_position_of(raw).seq
                if self._watched:
                    due += self._due_roots()
            if self._digested == self._number:
                break
        return due

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
        self.digest()
        return self._tree.heads(SHARED)

    def differing(self, tree: DigestTree) -> list[bytes]:
        """The mounts of which some bucket is not as in that tree."""
        self.digest()
        return self._tree.differing(tree, SHARED)

    def root(self) -> bytes:
        """Of what the tree has: during a bulk of records it is older than `position`."""
        return self._tree.root(SHARED)

    def nodes(self, head: bytes) -> bytes:
        self.digest()
        return self._tree.nodes(head)

    def buckets(self, head: bytes, node: int) -> bytes:
        self.digest()
        return self._tree.buckets(head, node)

    def scan(self, head: bytes, after: bytes) -> Slice:
        """`after` is a stored key (`keys.py`): the same on every cluster."""
        entries: list[bytes] = []
        size = 0
        for stored, record in self._walk(head, after):
            if size > FRAME_BYTES:
                return Slice(entries, after)
            full = _full_key(stored, record)
            if full is not None:
                entries += (full, record)
                size += len(full) + len(record)
            after = stored
        return Slice(entries, None)

    def leaves(self, head: bytes, buckets: frozenset[int], after: bytes) -> Slice:
        entries: list[bytes] = []
        for number, (stored, record) in enumerate(self._walk(head, after)):
            if number == _WALK:
                return Slice(entries, after)
            full = _full_key(stored, record)
            if full is not None and bucket_of(full) in buckets:
                entries += (full, record)
            after = stored
        return Slice(entries, None)

    def _walk(self, head: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The stored keys behind `after`, and their records, of one snapshot."""
        with self.store.snapshot() as view:
            cursor = view.txn.cursor(self.store.data)
            found = cursor.set_range(after or head)
            if found and cursor.key() == after:
                found = cursor.next()
            if not found:
                return
            for stored, record in in_turns(cursor.iternext(), _TURN):
                if not stored.startswith(head):
                    return
                yield stored, record

    def watch_root(self, seq: int, seen: Callable[[bytes], None]) -> None:
        self._watched.append((seq, seen))
        self._tell(self._due_roots())

    def _due_roots(self) -> list[_Due]:
        """Who watches the place that the tree is at, and its root. Those it has passed are lost."""
        at = self.digested_seq
        due = [(seen, self.root()) for seq, seen in self._watched if seq == at]
        self._watched = [(seq, seen) for seq, seen in self._watched if seq > at]
        return due

    def _tell(self, due: list[_Due]) -> None:
        for seen, root in due:
            seen(root)

    # ports.Source

    def records(self, after: Position) -> list[SharedRecord]:
        """Up to `position`: what came later may need key terms that are not known here yet.

        Secondaries that keep up ask for the same: it is read once.
        """
        known = self._recent.get(after)
        if known is None:
            if len(self._recent) >= _RECENT_MAX:
                self._recent.clear()
            began = time.perf_counter()
            known = self._recent[after] = self._read_records(after)
            self.log_read(time.perf_counter() - began)
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


def _full_key(stored: bytes, record: bytes) -> bytes | None:
    """None: the record is damaged where the long name stands."""
    if len(stored) != LONG_KEY_BYTES:
        return stored
    try:
        return full_key_of(stored, record)
    except Corrupt:
        return None
