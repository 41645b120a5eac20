"""Making the digests what the entries say, while the node serves: the work of `reindex`.

One pass in the replicator, over one snapshot, in slices. It adds the leaves of all entries up and
compares: what a bucket is off by stays the same whatever is written meanwhile, since a write
changes the digests by what it changes in the entries. So nothing is locked and no log is replayed;
what is off is set right by ordinary commits, some buckets each, with the writer free in between.
Each is right by itself: a pass that is cut short has done no harm, and nobody remembers it.
"""

import asyncio
import time
from functools import partial
from typing import Final

import lmdb

from undercroft.errors import Corrupt, Internal, UndercroftError
from undercroft.node.frames import Done
from undercroft.observe.logs import get_logger
from undercroft.replication import changes
from undercroft.replication.scrub import Correction, off_by
from undercroft.replication.serving import Node
from undercroft.replication.status import BUILDING, COMMITTING, SCANNING, Reindex
from undercroft.storage.digest import DigestTree
from undercroft.storage.environment import read_failure
from undercroft.storage.keys import OWN
from undercroft.storage.record import open_record, parse_head, tag_of
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot
from undercroft.storage.wal import NO_TAG

log = get_logger("replication")

SLICE: Final = 500  # entries in one go: two or three milliseconds
CORRECTIONS: Final = 1000  # of a commit
_REST_SHARE: Final = 2.0  # seconds of rest for each of work


class Walk:
    """Over all entries that digests cover. `unreadable` counts those that do not open."""

    def __init__(self, store: Store, view: Snapshot) -> None:
        self.tree = DigestTree()
        self.entries = 0
        self.unreadable = 0
        self._store = store
        self._entries = view.entries_of(store.data)

    def step(self) -> bool:
        """A slice. Answers whether there is more."""
        keyring = self._store.keyring
        for number, (stored, raw) in enumerate(self._entries, 1):
            self.entries += 1
            try:
                head = parse_head(stored, raw)
                if stored[:1] != OWN:
                    self.tree.apply([(head.full_key, NO_TAG, tag_of(raw))])
                open_record(keyring, head.full_key, raw)
            except Corrupt:
                self.unreadable += 1
            if number == SLICE:
                return True
        return False


def corrections(believed: DigestTree, found: DigestTree) -> list[Correction]:
    """A key of each bucket that is off, and what by. May take a second: not for an event loop."""
    corrected: list[Correction] = []
    for head in believed.differing(found):
        corrected += off_by(head, partial(found.buckets, head), partial(believed.buckets, head))
    return corrected


class Reindexing:
    """One run, from `__init__` on; over when `progress` is None."""

    def __init__(self, node: Node) -> None:
        self.progress: Reindex | None = Reindex(SCANNING)
        self._node = node
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """The node is sealed or ends: what is not done is forgotten."""
        self._task.cancel()

    async def _run(self) -> None:
        log.info("reindexing")
        try:
            await self._reindex()
        except UndercroftError as error:
            self._failed(error)
        except lmdb.Error as error:
            self._failed(read_failure(error))
        except Exception as error:
            log.exception("reindexing failed", error)
        finally:
            self.progress = None
            self._node.report_soon()

    def _failed(self, error: UndercroftError) -> None:
        log.error(
            "reindexing was not finished",
            error=error.message,
            hint="call reindex again; `undercroft operator check` tells what is damaged",
        )

    async def _reindex(self) -> None:
        state = self._node.state
        if state.scrub is not None:
            state.scrub.aborted = True  # it looks for the same, and both would set it right
        async with state.correcting:
            off, walk = await self._compare()
            self._at(COMMITTING, walk.entries)
            if off:
                log.error("digests were not what the entries say", buckets_off=len(off))
            for at in range(0, len(off), CORRECTIONS):
                await self._commit(changes.CorrectDigests(off[at : at + CORRECTIONS]))
            await self._commit(changes.Reindexed(walk.unreadable > 0))
        log.info("reindexed", entries=walk.entries, unreadable=walk.unreadable, buckets=len(off))

    def _believed(self) -> tuple[Snapshot, DigestTree, bool]:
        """A snapshot, its digests, and whether what is stored of them cannot be read. In a thread,
        which alone holds the snapshot when nobody waits for it any more.
        """
        view = self._node.store.snapshot()
        _, tree, rebuilt = self._node.store.digests_of(view.txn)
        return view, tree, rebuilt

    async def _compare(self) -> tuple[list[Correction], Walk]:
        store = self._node.store
        view, believed, damaged = await asyncio.to_thread(self._believed)
        if damaged:
            with view:
                log.warn("the stored digests were damaged and are stored anew: check the disk")
                await self._commit(changes.StoreDigests())
            view, believed, _ = await asyncio.to_thread(self._believed)
        with view:
            walk = Walk(store, view)
            total, more = int(view.txn.stat(store.data)["entries"]), True
            while more:
                began = time.monotonic()
                more = walk.step()
                self._at(BUILDING, walk.entries, total)
                await asyncio.sleep((time.monotonic() - began) * _REST_SHARE)
        return await asyncio.to_thread(corrections, believed, walk.tree), walk

    def _at(self, stage: str, done: int, total: int = 0) -> None:
        self.progress = Reindex(stage, done, max(done, total))
        self._node.report_soon()

    async def _commit(self, change: changes.Change) -> None:
        done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._node.link.commit(change, done.set_result)
        failure = (await done).failure
        if failure:
            raise Internal(failure)
