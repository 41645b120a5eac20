"""The short way for a record of one plain entry does what the long way does, or nothing at all."""

from itertools import pairwise

import pytest

from tests.unit.storage.shared import (
    Opener,
    committed,
    diverge,
    forged,
    records_after,
    shared_entries,
    write_beside,
)
from tests.unit.storage.stores import MOUNT, write
from undercroft.storage.batch import Batch
from undercroft.storage.keys import LOCAL, SHARED, SYSTEM
from undercroft.storage.store import Store
from undercroft.storage.wal import NO_TAG, START, SharedRecord, encode_operation


def plain(store: Store, *records: bytes) -> list[bool]:
    """Which of them are taken, offered one by one in one commit."""
    taken: list[bool] = []

    def step(batch: Batch) -> None:
        taken.extend(bool(batch.accept_plain([raw])) for raw in records)

    committed(store, step)
    return taken


def test_both_ways_leave_the_same_entries_log_and_digests(opened: Opener) -> None:
    origin, short, long = opened("origin"), opened("short"), opened("long")
    for value in (b"1", b"2", b"3"):
        write(origin, {"a": value})
        write(origin, {f"b{value!r}": value})
    records = records_after(origin, START)
    assert plain(short, *(record.encode() for record in records)) == [True] * 6
    for record in records:
        committed(long, lambda batch, record=record: batch.accept_shared(record))
    assert list(short.log(1)) == list(long.log(1))
    assert shared_entries(short) == shared_entries(long) == shared_entries(origin)
    assert short.digests.same_as(long.digests)
    assert short.extent == long.extent


def test_of_several_those_before_the_first_other_one_are_taken(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    for changes in ({"a": b"1"}, {"b": b"1"}, {"a": None}, {"c": b"1"}):
        write(origin, dict(changes))
    records = records_after(origin, START)
    encoded = [record.encode() for record in records]
    assert committed(replica, lambda batch: batch.accept_plain(encoded)) == 2
    assert replica.extent.shared == records[1].position
    committed(replica, lambda batch: batch.accept_shared(records[2]))
    assert committed(replica, lambda batch: batch.accept_plain(encoded[3:])) == 1
    assert list(replica.log(1)) == list(origin.log(1))


@pytest.mark.parametrize("bit", range(0, 8 * 140, 7))
def test_threat_r_09_a_record_in_which_any_bit_is_flipped_is_not_taken(
    opened: Opener, bit: int
) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1"})
    raw = bytearray(records_after(origin, START)[0].encode())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    assert plain(replica, bytes(raw)) == [False]
    assert replica.extent.shared == START
    assert not shared_entries(replica)


def test_what_is_cut_short_is_not_taken(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1"})
    raw = records_after(origin, START)[0].encode()
    assert not any(plain(replica, *(raw[:size] for size in range(len(raw)))))


def test_a_record_twice_or_ahead_of_its_turn_is_not_taken(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    for value in (b"1", b"2", b"3"):
        write(origin, {"a": value})
    one, two, three = (record.encode() for record in records_after(origin, START))
    assert plain(replica, two, one, one, three, two) == [False, True, False, False, True]


@pytest.mark.parametrize("mine", [{"a": b"mine"}, {"a": None}], ids=["another", "none"])
def test_where_something_else_is_replaced_the_long_way_is_left_to_note_it(
    opened: Opener, mine: dict[str, bytes | None]
) -> None:
    origin, replica = opened("origin"), opened("replica")
    for store, log in ((origin, None), (replica, origin)):
        if log is None:
            write(store, {"a": b"1"})
        else:
            assert plain(store, *(r.encode() for r in records_after(log, START))) == [True]
    write(origin, {"a": b"2"})
    diverge(replica, mine)
    before = shared_entries(replica)
    (record,) = records_after(origin, replica.extent.shared)
    assert plain(replica, record.encode()) == [False]
    assert shared_entries(replica) == before
    assert committed(replica, lambda batch: batch.accept_shared(record)) == 1


def test_an_insert_over_an_entry_that_is_there_is_not_taken(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1"})
    diverge(replica, {"a": b"mine"})
    before = shared_entries(replica)
    assert plain(replica, records_after(origin, START)[0].encode()) == [False]
    assert shared_entries(replica) == before


def test_several_operations_deletions_and_configuration_go_the_long_way(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1", "b": b"1"})
    write(origin, {"a": None})
    (several, deletion) = records_after(origin, START)
    assert plain(replica, several.encode()) == [False]
    committed(replica, lambda batch: batch.accept_shared(several))
    assert plain(replica, deletion.encode()) == [False]
    sealed = next(iter(shared_entries(origin).values()))
    for key in (SHARED + SYSTEM + b"mounts/x", LOCAL + MOUNT + b"a", SHARED + b"short", b""):
        record = forged(replica.extent.shared, encode_operation(key, NO_TAG, sealed))
        assert plain(replica, record.encode()) == [False], key


def test_what_the_cluster_writes_beside_makes_no_gap(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    for value in (b"1", b"2"):
        write(origin, {"a": value})
    for record in records_after(origin, START):
        assert plain(replica, record.encode()) == [True]
        write_beside(replica, LOCAL, {"mine": b"x"})
    assert [b.seq - a.seq for a, b in pairwise(records_after(replica, START))] == [1]
    assert isinstance(records_after(replica, START)[0], SharedRecord)
