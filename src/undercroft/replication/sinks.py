"""What a secondary's session changes: the store of this node, or the copy that is being made.

`LiveSink` has every change committed by the writer. `CopySink` fills a store of its own beside the
live one, in this process, so a first copy holds nobody up and can be thrown away.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.errors import UndercroftError
from undercroft.node.frames import Done
from undercroft.node.writer_link import ChangeLink
from undercroft.replication import changes
from undercroft.replication.courtesy import half_of_the_time
from undercroft.replication.lineage import LINEAGE_KEY, Lineage
from undercroft.replication.protocol.ports import Slice
from undercroft.replication.role import read_role
from undercroft.replication.state import StoreState
from undercroft.storage.batch import Batch
from undercroft.storage.store import Retention, Store
from undercroft.storage.wal import Position

Terms = tuple[tuple[int, bytes, int], ...]

_sessions: Final = itertools.count(time.monotonic_ns())  # those of a restarted process are others
_BATCH_BYTES: Final = 8 << 20  # per commit of a copy


class LiveSink(StoreState):
    """Changes go to the writer, in order. `failed` is told when one was not made."""

    def __init__(
        self, store: Store, link: ChangeLink, failed: Callable[[str], None], *, blind: bool = False
    ) -> None:
        super().__init__(store, blind=blind)
        self._link = link
        self._session = 0
        self.failed = failed

    async def begin_session(self) -> None:
        """Once what an earlier session asked for is done or refused: a session must not begin with
        a state that changes behind its back.
        """
        await self._link.settled()
        self.advance()
        self._session = next(_sessions)

    def _commit(self, change: changes.Change, done: Callable[[int], None]) -> None:
        def finished(result: Done) -> None:
            if result.failure:
                self.failed(result.failure)
                return
            self.advance()
            done(result.result)

        self._link.commit(change, finished, self._session)

    def apply(self, records: list[bytes], done: Callable[[int], None]) -> None:
        self._commit(changes.ApplyRecords(records), done)

    def store_entries(
        self, entries: list[tuple[bytes, bytes | None]], done: Callable[[int], None]
    ) -> None:
        self._commit(changes.StoreEntries(entries), done)

    def begin_comparison(self) -> None:
        self._commit(changes.BeginComparison(), lambda _: None)

    def unfinished(self) -> bool:
        with self.store.snapshot() as view:
            return read_role(view).comparing

    def settled(self) -> None:
        self._commit(changes.Settled(), lambda _: None)

    def jump(self, position: Position, done: Callable[[], None]) -> None:
        self._commit(changes.JumpTo(position), lambda _: done())

    def set_aside(self, behind_seq: int, done: Callable[[], None]) -> None:
        self._commit(changes.SetAside(behind_seq), lambda _: done())

    def adopt(self, terms: Terms, alternates: Terms, done: Callable[[], None]) -> None:
        self._commit(changes.AdoptTerms(terms, alternates), lambda _: done())

    def withhold(self, mounts: tuple[bytes, ...]) -> None:
        self._commit(changes.Withhold(mounts), lambda _: None)

    def lacks(self) -> tuple[bytes, ...]:
        with self.store.snapshot() as view:
            return read_role(view).withheld

    def resume_point(self, head: bytes) -> bytes | None:
        return None


class CopySink:
    """A store in a directory of its own. What is in it already is gone on with."""

    def __init__(self, directory: Path, retention: Retention) -> None:
        self.store = Store.open(directory, writable=True, retention=retention)
        self.state = StoreState(self.store)
        self.terms: Terms = ()
        self.alternates: Terms = ()
        self.withheld: tuple[bytes, ...] = ()
        self._batch: Batch | None = None
        self._bytes = 0

    async def begin_session(self) -> None:
        """Nothing is ever under way here."""

    # ports.State

    def position(self) -> Position:
        return self.store.extent.shared

    def lineage(self) -> Lineage | None:
        with self.store.snapshot() as view:
            return view.read(LINEAGE_KEY, Lineage)

    def term(self) -> int:
        return 0

    def entries(self) -> int:
        return self.state.entries()

    def heads(self) -> dict[bytes, bytes]:
        return self.store.digests.heads(b"s")

    def nodes(self, head: bytes) -> bytes:
        self._flush()
        return self.store.digests.nodes(head)

    def buckets(self, head: bytes, node: int) -> bytes:
        return self.store.digests.buckets(head, node)

    def scan(self, head: bytes, after: bytes) -> Slice:
        self._flush()
        return self.state.scan(head, after)

    def leaves(self, head: bytes, buckets: frozenset[int], after: bytes) -> Slice:
        self._flush()
        return self.state.leaves(head, buckets, after)

    def resume_point(self, head: bytes) -> bytes | None:
        """The last stored key of a mount that the copy has, if it has any."""
        self._flush()
        with self.store.snapshot() as view:
            cursor = view.txn.cursor(self.store.data)
            behind = (int.from_bytes(head, "big") + 1).to_bytes(len(head), "big")
            found = cursor.set_range(behind)
            found = cursor.prev() if found else cursor.last()
            return cursor.key() if found and cursor.key().startswith(head) else None

    def watch_root(self, seq: int, seen: Callable[[bytes], None]) -> None:
        """A copy is compared as a whole, once it is live."""

    # ports.Sink

    def apply(self, records: list[bytes], done: Callable[[int], None]) -> None:
        raise UndercroftError("a copy follows no log")

    def store_entries(
        self, entries: list[tuple[bytes, bytes | None]], done: Callable[[int], None]
    ) -> None:
        with half_of_the_time():
            if self._batch is None:
                self._batch = self.store.batch()
            differing = self._batch.accept_entries(entries, self._batch.transaction())
            self._bytes += sum(len(key) + len(record or b"") for key, record in entries)
            if self._bytes > _BATCH_BYTES:
                self._flush()
        done(differing)

    def begin_comparison(self) -> None:
        """A copy counts only once it is complete."""

    def unfinished(self) -> bool:
        return False

    def settled(self) -> None:
        """It is live then."""

    def jump(self, position: Position, done: Callable[[], None]) -> None:
        self._flush()
        batch = self.store.batch()
        batch.accept_jump(position)
        batch.commit()
        done()

    def set_aside(self, behind_seq: int, done: Callable[[], None]) -> None:
        raise UndercroftError("a copy has no history")

    def adopt(self, terms: Terms, alternates: Terms, done: Callable[[], None]) -> None:
        self.terms, self.alternates = terms, alternates
        done()

    def withhold(self, mounts: tuple[bytes, ...]) -> None:
        self.withheld = mounts

    def lacks(self) -> tuple[bytes, ...]:
        return ()  # the comparison that makes the copy brings all there is

    def keyring(self, own: Keyring) -> Keyring:
        """The primary's terms under our own root key: what was ours alone is not needed here."""
        terms, alternates = (
            tuple(KeyTerm(*term) for term in some) for some in (self.terms, self.alternates)
        )
        return Keyring(terms, own.root_key, alternates=alternates)

    def _flush(self) -> None:
        batch, self._batch, self._bytes = self._batch, None, 0
        if batch is not None:
            batch.commit()

    def close(self) -> None:
        """Keep what is there, for the next time."""
        self._flush()
        self.store.close()
