"""A replica that is not what the next record replaces: it is told, and is right afterwards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.storage.shared import (
    Opener,
    assert_same,
    assert_sound,
    committed,
    diverge,
    follow,
    records_after,
    shared_entries,
)
from tests.unit.storage.stores import MOUNT, contents, open_store, write
from undercroft.replication.state import StoreState
from undercroft.storage.batch import Batch
from undercroft.storage.keys import LOCAL
from undercroft.storage.view import Space
from undercroft.storage.wal import (
    CORRECTION,
    NO_TAG,
    START,
    SharedRecord,
    decode_record,
    operations_of,
)

NAMES = st.sampled_from(["a", "b", "c/d", "long/" + "x" * 500])
CHANGES = st.dictionaries(NAMES, st.none() | st.binary(max_size=8), min_size=1, max_size=4)


@pytest.mark.parametrize("mine", [{"a": b"mine"}, {"a": None}, {"b": b"mine"}])
def test_what_a_record_really_replaced_stands_beside_it_so_that_a_start_has_the_right_digests(
    opened: Opener, mine: dict[str, bytes | None]
) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1"})
    follow(replica, origin)
    diverge(replica, mine)
    write(origin, {"a": b"2", "b": b"2"})
    assert follow(replica, origin) == 1
    assert contents(replica) == {"a": b"2", "b": b"2"}
    assert_same(replica, origin)
    replica.close()
    again = opened("replica")
    assert_sound(again)
    assert_same(again, origin)


def test_a_record_that_was_applied_by_a_comparison_already_changes_nothing_but_the_position(
    opened: Opener,
) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1"})
    write(origin, {"a": b"2", "b": b"2"})
    entries = list(shared_entries(origin).items())
    committed(replica, lambda b: b.accept_entries(entries, b.transaction()))
    assert follow(replica, origin) == 2  # "a" goes back to its past, "b" is there before its time
    assert_same(replica, origin)
    replica.close()
    assert_sound(opened("replica"))


def test_a_correction_stays_here_and_what_travels_on_is_the_record_as_it_came(
    opened: Opener,
) -> None:
    origin, replica = opened("origin"), opened("replica")
    diverge(replica, {"a": b"mine"})
    write(origin, {"a": b"1"})
    follow(replica, origin)
    assert records_after(replica, START) == records_after(origin, START)
    *_, (_, raw) = replica.log(1)
    record = decode_record(raw)
    kinds = [kind for kind, *_ in operations_of(record.body[record.shared_size :])]
    assert kinds == [CORRECTION]
    put, correction = record.operations()
    assert (correction.old_tag, correction.record) != (NO_TAG, None)
    assert correction.record == put.old_tag == NO_TAG


def test_who_follows_the_log_without_the_writer_has_the_right_digests_too(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    state = StoreState(replica)
    write(origin, {"a": b"1", "b": b"1"})
    diverge(replica, {"a": b"mine", "c": b"mine"})
    follow(replica, origin)
    write(origin, {"a": None, "b": b"2"})
    diverge(replica, {"a": None, "b": b"mine"})
    assert follow(replica, origin) == 2
    state.advance()
    assert state.root() == replica.digests.root(b"s") != origin.digests.root(b"s")
    diverge(replica, {"c": None})
    state.advance()
    assert state.root() == origin.digests.root(b"s")
    assert state.position() == origin.extent.shared


@settings(max_examples=40, deadline=None)
@given(
    rounds=st.lists(st.tuples(CHANGES, CHANGES), min_size=1, max_size=4),
    local=st.booleans(),
)
def test_after_any_divergence_a_restart_finds_the_digests_of_the_entries(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[tuple[dict[str, bytes | None], dict[str, bytes | None]]],
    local: bool,
) -> None:
    path = tmp_path_factory.mktemp("stores")
    origin, replica = open_store(path / "origin"), open_store(path / "replica")
    try:
        for theirs, mine in rounds:
            write(origin, theirs)
            diverge(replica, mine)
            for record in records_after(origin, replica.extent.shared):

                def step(batch: Batch, record: SharedRecord = record) -> int:
                    tx = batch.transaction()
                    if local:
                        Space(tx, LOCAL, MOUNT).put("a", b"beside it")
                    return batch.accept_shared(record, tx)

                committed(replica, step)
            assert_sound(replica)
            replica.close()
            replica = open_store(path / "replica")
            assert_sound(replica)
            put = {name: value for name, value in theirs.items() if value is not None}
            assert contents(replica).items() >= put.items()
    finally:
        origin.close()
        replica.close()
