"""Check a store: what a damaged disk or a bug would have done to it.

Reads everything: every record parses, lies where its name belongs and, where the keys are at hand,
authenticates; the log is whole and its chain holds; the digest tree equals a recomputation from the
entries; the expiry index has just the entries that expire.

A running server does it in slices over one snapshot (`examine`). The file of a stopped one is
walked page by page first, without mapping it (`verify`): LMDB follows a damaged page wherever it
points, so a process that read on could be killed instead of giving an answer.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import lmdb.verify as pages
import msgspec

from undercroft.errors import Corrupt, InvalidRequest, StorageFailed, StorageFull, UndercroftError
from undercroft.storage import log
from undercroft.storage.batch import expiry_key
from undercroft.storage.digest import Delta, DigestTree
from undercroft.storage.directory import locked_directory
from undercroft.storage.environment import DATA_NAME
from undercroft.storage.keys import OWN, entry_name
from undercroft.storage.location import location
from undercroft.storage.record import CLEAR, open_record, parse_head, tag_of
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot
from undercroft.storage.wal import NO_TAG

SLICE: Final = 1000  # entries or log records, about 5 ms
_PROBLEMS_MAX: Final = 100


class Report(msgspec.Struct):
    """What a check has found so far; sound when `finished` without `problems`."""

    entries: int = 0
    records: int = 0  # of the log
    found: int = 0
    problems: list[str] = []  # the first hundred
    finished: bool = False

    def add(self, problem: str) -> None:
        self.found += 1
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(problem)


def verify(directory: Path) -> Iterable[str]:
    """Problems, one line each; none: the store is sound. Needs no keys, so values stay closed.

    With a server running on it, the pages are left out and a snapshot is read.
    """
    try:
        store = location(directory)
    except StorageFailed as error:
        return [error.message]
    if not (store / DATA_NAME).is_file():
        return [f"there is no {DATA_NAME} in {directory}"]
    try:
        with locked_directory(directory):
            damage = page_damage(store / DATA_NAME)
            return damage or _verify_open(store)
    except InvalidRequest:
        return _verify_open(store)


def page_damage(data: Path) -> list[str]:
    """What is wrong with the pages of a file that nobody has open."""
    try:
        found = pages.verify(str(data), subdir=False)  # type: ignore[no-untyped-call]
    except pages.VerifyError as error:
        return [f"{DATA_NAME}: {error}"]
    return [f"{DATA_NAME}: {problem}" for problem in found[:_PROBLEMS_MAX]]


def _verify_open(directory: Path) -> list[str]:
    try:
        store = Store.open(directory, writable=False)
    except (StorageFailed, StorageFull) as error:
        return [error.message]
    try:
        return problems(store)
    finally:
        store.close()


def problems(store: Store) -> list[str]:
    """The same for a store that is open in this process; with its keyring values are opened too."""
    report = Report()
    for _ in examine(store, report):
        pass
    return report.problems


def examine(store: Store, report: Report) -> Iterator[None]:
    """Check in slices: yields after each, so that a server can do other things between them.

    One snapshot is held all the while: the space of what is deleted meanwhile is not reused yet.
    """
    try:
        with store.snapshot() as view:
            yield from _check_log(store, view, report)
            tree = DigestTree()
            yield from _check_entries(store, view, report, tree)
            _check_digests(store, view, report, tree)
    except UndercroftError as error:
        report.add(error.message)
    report.finished = True


def _check_log(store: Store, view: Snapshot, report: Report) -> Iterator[None]:
    try:
        extent = log.load_extent(view.txn, store.meta)
        log.check_ends(view.txn, store.wal, extent)
        for _, _, record in log.records(view.txn, store.wal, extent.first, extent.base):
            for _ in record.operations():
                pass
            report.records += 1
            if report.records % SLICE == 0:
                yield
    except Corrupt as error:
        report.add(error.message)


def _check_entries(
    store: Store, view: Snapshot, report: Report, tree: DigestTree
) -> Iterator[None]:
    expiring = 0
    for stored, raw in view.entries_of(store.data):
        report.entries += 1
        if report.entries % SLICE == 0:
            yield
        try:
            head = parse_head(stored, raw)
            if stored[:1] != OWN:
                tree.apply((Delta(head.full_key, NO_TAG, tag_of(raw)),))
            if store.keyring is not None or head.flags & CLEAR:
                open_record(store.keyring, head.full_key, raw)
        except Corrupt as error:
            report.add(f"{error.message}: {entry_name(stored)}")
            continue
        if head.expires_ms:
            expiring += 1
            if view.txn.get(expiry_key(head.expires_ms, stored), None, store.expiry) != (
                head.full_key
            ):
                report.add(f"it expires and is not in the expiry index: {entry_name(stored)}")
    if view.txn.stat(store.expiry)["entries"] != expiring:
        report.add("the expiry index has entries that nothing belongs to")


def _check_digests(store: Store, view: Snapshot, report: Report, tree: DigestTree) -> None:
    _, kept, rebuilt = store.digests_of(view.txn)
    if rebuilt:
        report.add("the stored digest tree is damaged; the next start makes it anew")
    elif not kept.same_as(tree):
        report.add("the digest tree does not match the entries")


if __name__ == "__main__":
    print("\n".join(verify(Path(sys.argv[1]))))
