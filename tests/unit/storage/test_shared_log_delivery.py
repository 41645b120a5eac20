"""However records of a log arrive, a replica is at a place where its origin was (R-07, R-08)."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.storage.shared import (
    apply,
    assert_same,
    assert_sound,
    follow,
    open_epoch,
    records_after,
    shared_entries,
)
from tests.unit.storage.stores import change, contents, open_store, write
from undercroft.storage.batch import OutOfOrder
from undercroft.storage.store import Store
from undercroft.storage.wal import START, SharedRecord

LENGTH = 9


class History(NamedTuple):
    """A store, the records of its shared log, and what it held after each (first: before any)."""

    origin: Store
    records: list[SharedRecord]
    held: list[dict[bytes, bytes]]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Plain entries, long and short-lived ones, several in a record, removals, and two epochs."""
    origin = open_store(tmp_path_factory.mktemp("origin"))
    held = [shared_entries(origin)]
    for n in range(LENGTH):
        entries = {"same": b"%d" % n, f"long/{'x' * 500}{n % 2}": None if n % 3 else b"%d" % n}
        if n == 5:
            open_epoch(origin, 3, {"opened": b"5"})
        elif n % 2:
            write(origin, {"same": b"%d" % n})
        else:
            write(origin, entries, expires_ms=10**15)
        held.append(shared_entries(origin))
    records = records_after(origin, START)
    assert len(records) == LENGTH
    yield History(origin, records, held)
    origin.close()


@contextlib.contextmanager
def replica_of(history: History) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="undercroft-test-") as name:
        replica = open_store(Path(name))
        try:
            yield replica
        finally:
            replica.close()


def at(history: History, replica: Store) -> int:
    """How many records the replica has; it must be just what its origin was then."""
    place = replica.extent.shared.seq
    assert shared_entries(replica) == history.held[place]
    return place


@settings(max_examples=60, deadline=None)
@given(lost=st.sets(st.integers(0, LENGTH - 1), min_size=1), beside=st.booleans())
def test_threat_r_07_nothing_is_applied_past_a_hole(
    history: History, lost: set[int], beside: bool
) -> None:
    with replica_of(history) as replica:
        for number, record in enumerate(history.records):
            if number in lost:
                continue
            if number < min(lost):
                apply(replica, [record], beside=beside)
            else:
                with pytest.raises(OutOfOrder):
                    apply(replica, [record], beside=beside)
        assert at(history, replica) == min(lost)
        follow(replica, history.origin)  # what is missing is asked for from there
        assert_same(replica, history.origin)


_PIECES = st.lists(
    st.tuples(st.integers(0, LENGTH - 1), st.integers(1, LENGTH)), min_size=1, max_size=30
)


@settings(max_examples=60, deadline=None)
@given(pieces=_PIECES, beside=st.booleans())
def test_threat_r_08_shuffled_doubled_and_split_the_log_makes_the_same_state(
    history: History, pieces: list[tuple[int, int]], beside: bool
) -> None:
    """Each piece is a run of records in one commit: all of it counts, or nothing of it."""
    with replica_of(history) as replica:
        for first, count in pieces:
            before = at(history, replica)
            piece = history.records[first : first + count]
            if first == before:
                apply(replica, piece, beside=beside)
                assert at(history, replica) == before + len(piece)
            else:
                with pytest.raises(OutOfOrder):
                    apply(replica, piece, beside=beside)
                assert at(history, replica) == before
        follow(replica, history.origin)
        assert_same(replica, history.origin)
        assert_sound(replica)


_JUMPS_MS = st.lists(st.integers(-2 * 3_600_000, 2 * 3_600_000), min_size=2, max_size=8)


@settings(max_examples=30, deadline=None)
@given(jumps_ms=_JUMPS_MS)
def test_threat_r_13_the_log_orders_and_no_clock(jumps_ms: list[int]) -> None:
    """The origin's clock is set back and forth; a replica hands on the times that were written."""
    names = ("origin", "second", "third")
    with tempfile.TemporaryDirectory(prefix="undercroft-test-") as directory:
        origin, second, third = (open_store(Path(directory, name)) for name in names)
        now_ms = 1_900_000_000_000
        for number, jump_ms in enumerate(jumps_ms):
            now_ms += jump_ms
            batch = origin.batch(lambda at=now_ms: at)  # type: ignore[misc]
            tx = batch.transaction()
            plain: dict[str, bytes | None] = {"same": b"%d" % number}
            change(tx, {**plain, "beside": b"it"} if number % 2 else plain)
            batch.accept(tx)
            batch.commit()
        follow(second, origin)
        follow(third, second)
        for store in (second, third):
            assert_same(store, origin)
            assert contents(store) == {"same": b"%d" % (len(jumps_ms) - 1), "beside": b"it"}
            assert_sound(store)
        for store in (origin, second, third):
            store.close()
