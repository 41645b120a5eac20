"""The shared log: what one store has written, another applies under the very same positions."""

import pytest

from tests.unit.storage.shared import (
    Opener,
    apply,
    assert_same,
    assert_sound,
    committed,
    copy_state,
    follow,
    forged,
    history,
    open_epoch,
    records_after,
    write_beside,
)
from tests.unit.storage.stores import MOUNT, change, contents, write
from undercroft.errors import Unavailable
from undercroft.storage.batch import Batch
from undercroft.storage.keys import LOCAL, OWN
from undercroft.storage.store import Foreign
from undercroft.storage.view import Space
from undercroft.storage.wal import (
    START,
    Position,
    operations_of,
)


def test_shared_records_are_numbered_one_by_one_whatever_lies_between_them(
    opened: Opener,
) -> None:
    origin = opened("origin")
    positions = history(origin)
    assert [(p.epoch, p.seq) for p in positions] == [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert origin.position.seq == 12
    assert [n for n, _ in origin.shared_log(START)] == [2, 5, 8, 11]
    assert [r.position for r in records_after(origin, START)] == positions[1:]


def test_threat_r_15_local_and_own_entries_do_not_travel(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    history(origin)
    write_beside(replica, LOCAL, {"mine": b"x"})
    follow(replica, origin)
    assert_same(replica, origin)
    with replica.snapshot() as view:
        local, own = Space(view, LOCAL, MOUNT), Space(view, OWN, MOUNT)
        assert (list(local.names()), list(own.names())) == (["mine"], [])


def test_a_request_that_changes_shared_and_local_entries_travels_by_its_shared_part(
    opened: Opener,
) -> None:
    origin, replica = opened("origin"), opened("replica")

    def step(batch: Batch) -> None:
        tx = batch.transaction()
        Space(tx, LOCAL, MOUNT).put("local", b"unseen")
        change(tx, {"a": b"1"})
        batch.accept(tx)

    committed(origin, step)
    (record,) = records_after(origin, START)
    assert [key[:1] for _, _, key, _, _ in operations_of(record.body)] == [b"s"]
    apply(replica, [record])
    assert_same(replica, origin)


def test_what_a_replica_writes_beside_a_replicated_record_is_in_its_own_log_record(
    opened: Opener,
) -> None:
    origin, replica, third = opened("origin"), opened("replica"), opened("third")
    write(origin, {"a": b"1"})

    def step(batch: Batch) -> None:
        tx = batch.transaction()
        Space(tx, LOCAL, MOUNT).put("beside", b"it")
        batch.accept_shared(records_after(origin, START)[0], tx)

    committed(replica, step)
    assert replica.position.seq == 1
    follow(third, replica)
    assert_same(third, origin)
    replica.close()
    again = opened("replica")
    assert_sound(again)
    with again.snapshot() as view:
        assert Space(view, LOCAL, MOUNT).get("beside") == b"it"


def test_a_replica_ships_on_what_it_applied_from_any_position(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    positions = history(origin)
    follow(replica, origin)
    third = opened("third")
    for at, position in enumerate(positions):
        assert records_after(replica, position) == records_after(origin, START)[at:]
        assert third.extent.shared == position
        apply(third, records_after(replica, position)[:1])
    assert_same(third, origin)
    assert_sound(third)


def test_an_empty_log_ships_nothing_and_takes_any_first_record(opened: Opener) -> None:
    origin, empty = opened("origin"), opened("empty")
    assert records_after(empty, START) == []
    write_beside(empty, LOCAL, {"a": b"1"})
    assert empty.extent.shared == START
    positions = history(origin)
    with pytest.raises(Foreign):
        records_after(empty, positions[1])
    follow(empty, origin)
    assert_same(empty, origin)


def test_a_position_of_another_history_is_told_from_ours(opened: Opener) -> None:
    store, other = opened("store"), opened("other")
    ours, theirs = history(store), history(other)
    for position in theirs[1:]:
        with pytest.raises(Foreign):
            records_after(store, position)
    for n, position in enumerate(ours[1:], 1):
        with pytest.raises(Foreign):
            records_after(store, position._replace(epoch=2))
        assert len(records_after(store, position)) == 4 - n
    with pytest.raises(Foreign):
        records_after(store, Position(1, 5, ours[-1].chain))
    with pytest.raises(Foreign):
        records_after(store, START._replace(chain=b"x" * 16))


# filters


def test_what_is_withheld_leaves_the_chain_whole_and_the_rest_in_place(opened: Opener) -> None:
    origin, replica, third = opened("origin"), opened("replica"), opened("third")
    write(origin, {"a": b"1", "secret": b"1"})
    write(origin, {"secret": None})
    write(origin, {"a": b"2", "secret": b"3", "b": b"3"})
    seen = [r.seen_by(lambda key: key[17:] != b"secret") for r in records_after(origin, START)]
    assert apply(replica, seen) == 0
    assert replica.extent.shared == origin.extent.shared
    assert contents(replica) == {"a": b"2", "b": b"3"}
    assert records_after(replica, START) == seen
    follow(third, replica)
    assert (third.extent.shared, contents(third)) == (origin.extent.shared, {"a": b"2", "b": b"3"})
    replica.close()
    assert_sound(opened("replica"))


def test_what_was_withheld_here_goes_on_as_it_came_whatever_is_withheld_there(
    opened: Opener,
) -> None:
    origin, replica, third = opened("origin"), opened("replica"), opened("third")
    write(origin, {"a": b"1", "b": b"1", "c": b"1"})
    write(origin, {"a": None, "b": b"2"})
    for upstream, store, secret in ((origin, replica, b"a"), (replica, third, b"b")):
        records = records_after(upstream, START)
        seen = [r.seen_by(lambda key, secret=secret: key[17:] != secret) for r in records]
        apply(store, seen)
        assert store.extent.shared == origin.extent.shared
    assert contents(third) == {"c": b"1"}


# epochs


def test_the_record_that_opens_an_epoch_is_its_first_and_the_numbers_go_on(
    opened: Opener,
) -> None:
    old, new = opened("old"), opened("new")
    history(old, 3)
    follow(new, old)
    branch = new.extent.shared
    opening = open_epoch(new, 7, {"lineage": b"7"})
    assert (opening.epoch, opening.seq) == (7, 4)
    write(new, {"a": b"1"})
    assert (new.extent.shared.epoch, new.extent.shared.seq) == (7, 5)
    assert [r.epoch for r in records_after(new, branch)] == [7, 7]
    follow(old, new)
    assert_same(old, new)
    assert records_after(old, START) == records_after(new, START)
    assert_sound(old)


def test_two_epochs_opened_at_one_position_are_two_histories(opened: Opener) -> None:
    one, two = opened("one"), opened("two")
    write(one, {"a": b"1"})
    follow(two, one)
    open_epoch(one, 2, {"lineage": b"one"})
    open_epoch(two, 2, {"lineage": b"two"})
    assert one.extent.shared[:2] == two.extent.shared[:2]
    write(one, {"a": b"2"})
    with pytest.raises(Foreign):
        records_after(one, two.extent.shared)


def test_an_epoch_opens_within_a_batch_in_its_place(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")

    def step(batch: Batch) -> None:
        for name, epoch in (("before", 0), ("opening", 3), ("after", 0)):
            tx = batch.transaction()
            assert tx.shared == batch.shared
            tx.opens_epoch = epoch
            change(tx, {name: b"x"})
            batch.accept(tx)

    committed(origin, step)
    assert [(r.epoch, r.seq) for r in records_after(origin, START)] == [(1, 1), (3, 2), (3, 3)]
    follow(replica, origin)
    assert_same(replica, origin)


# who may write


def test_where_shared_entries_may_not_be_written_others_may(opened: Opener) -> None:
    store = opened("store")
    store.refuse_shared = lambda: Unavailable("it follows another")

    def step(batch: Batch) -> None:
        tx = batch.transaction()
        assert not tx.shared_writable
        for changes in ({"a": b"1"}, {"a": None}):
            with pytest.raises(Unavailable, match="follows another"):
                change(tx, changes)
        Space(tx, LOCAL, MOUNT).put("a", b"1")
        Space(tx, OWN, MOUNT).put("a", b"1")
        batch.accept(tx)

    committed(store, step)
    assert store.extent.shared == START
    assert store.position.seq == 1


def test_a_request_that_changes_the_role_may_write_shared_entries_and_no_other_may(
    opened: Opener,
) -> None:
    store = opened("store")
    store.refuse_shared = lambda: Unavailable("it follows another")

    def step(batch: Batch) -> None:
        promoted, other = batch.transaction(), batch.transaction()
        promoted.allow_shared()
        assert promoted.shared_writable
        change(promoted, {"a": b"1"})
        with pytest.raises(Unavailable):
            change(other, {"b": b"1"})
        batch.accept(promoted)

    committed(store, step)
    assert contents(store) == {"a": b"1"}


def test_a_replica_that_may_not_write_shared_entries_still_follows(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    replica.refuse_shared = lambda: Unavailable("it follows another")
    history(origin)
    follow(replica, origin)
    assert_same(replica, origin)


# expiry


def test_replicated_entries_expire_when_the_record_says(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    long = "x" * 600
    write(origin, {"a": b"1", "b": b"1", "c": b"1", long: b"1"}, expires_ms=100)
    follow(replica, origin)
    assert len(replica.due(100, 9)) == 4
    write(origin, {"a": b"2", long: b"2"}, expires_ms=300)
    write(origin, {"b": b"for good", "c": None})
    follow(replica, origin)
    assert replica.due(200, 9) == []
    assert replica.due(300, 9) == origin.due(300, 9)
    assert len(replica.due(300, 9)) == 2
    assert_sound(replica)


def test_compared_entries_expire_when_the_record_says(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(replica, {"a": b"mine", "gone": b"mine", "b": b"mine"}, expires_ms=100)
    write(origin, {"a": b"1"}, expires_ms=300)
    write(origin, {"b": b"for good"})
    copy_state(replica, origin)
    assert_same(replica, origin)
    assert replica.due(200, 9) == []
    assert replica.due(300, 9) == [b"s" + MOUNT + b"a"]
    assert_sound(replica)


def test_a_record_without_operations_is_a_place_of_the_log_too(opened: Opener) -> None:
    replica = opened("replica")
    apply(replica, [forged(START)])
    assert (replica.extent.shared.seq, replica.position.seq) == (1, 1)
    replica.close()
    assert_sound(opened("replica"))
