"""How far back a log ships: across no jump, to the base of what retention left."""

import pytest

from tests.unit.storage.shared import (
    Opener,
    apply,
    assert_same,
    assert_sound,
    committed,
    copy_state,
    follow,
    history,
    records_after,
    write_beside,
)
from tests.unit.storage.stores import MOUNT, contents, write
from undercroft.storage import batch as batches
from undercroft.storage.keys import LOCAL
from undercroft.storage.store import Foreign, Retention, Trimmed
from undercroft.storage.wal import START


def test_a_log_does_not_reach_across_a_jump_and_goes_on_after_it(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    positions = history(origin)
    apply(replica, records_after(origin, START)[:2])
    copy_state(replica, origin)
    assert_same(replica, origin)
    assert records_after(replica, positions[-1]) == []
    more = history(origin, 2)
    follow(replica, origin)
    assert_same(replica, origin)
    for position in positions[:-1]:
        with pytest.raises(Trimmed):
            records_after(replica, position)
    assert records_after(replica, positions[-1]) == records_after(origin, more[0])
    assert records_after(replica, more[1]) == records_after(origin, more[1])
    with pytest.raises(Foreign):
        records_after(replica, positions[-1]._replace(chain=bytes(16)))
    replica.close()
    again = opened("replica")
    assert_sound(again)
    with pytest.raises(Trimmed):
        records_after(again, START)


def test_a_jump_back_to_a_smaller_position_of_another_history_is_a_jump_too(
    opened: Opener,
) -> None:
    old, new, replica = opened("old"), opened("new"), opened("replica")
    abandoned = history(old, 6)
    follow(replica, old)
    history(new, 2)
    copy_state(replica, new)
    assert_same(replica, new)
    for position in abandoned[3:]:
        with pytest.raises(Foreign):
            records_after(replica, position)
    with pytest.raises(Trimmed):
        records_after(replica, abandoned[1])
    history(new, 8)
    follow(replica, new)
    assert_same(replica, new)
    for position in abandoned[3:]:
        with pytest.raises(Foreign):
            records_after(replica, position)


def test_a_jump_to_where_it_is_already_makes_no_record(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    history(origin)
    follow(replica, origin)
    before = replica.position
    copy_state(replica, origin)
    assert replica.position == before


def test_compared_entries_move_no_position_and_are_counted_where_they_differ(
    opened: Opener,
) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1", "b": b"2"})
    with origin.snapshot() as view:
        entries = list(view.entries_of(origin.data))
    gone = (b"s" + MOUNT + b"never there", None)
    for differing in (2, 0):
        assert differing == committed(
            replica, lambda b: b.accept_entries([*entries, gone], b.transaction())
        )
    assert contents(replica) == {"a": b"1", "b": b"2"}
    assert (replica.extent.shared, replica.position.seq) == (START, 1)
    assert_sound(replica)


# retention


def test_threat_r_23_a_trimmed_log_ships_from_exactly_its_base(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    origin = opened("origin", Retention(records=4))
    positions = history(origin, 8)
    base = origin.extent.shared_base
    assert START.seq < base.seq < positions[-1].seq
    for position in positions:
        if position.seq < base.seq:
            with pytest.raises(Trimmed):
                records_after(origin, position)
            continue
        assert [r.position for r in records_after(origin, position)] == positions[
            position.seq + 1 :
        ]
    with pytest.raises(Foreign):
        records_after(origin, base._replace(chain=bytes(16)))
    origin.close()
    again = opened("origin", Retention(records=4))
    assert again.extent == origin.extent
    assert_sound(again)


def test_a_log_whose_shared_records_are_all_trimmed_knows_where_it_is(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    origin = opened("origin", Retention(records=2))
    positions = history(origin, 2)
    for n in range(6):
        write_beside(origin, LOCAL, {"a": b"%d" % n})
    assert origin.extent.shared_base == origin.extent.shared == positions[-1]
    assert records_after(origin, positions[-1]) == []
    with pytest.raises(Trimmed):
        records_after(origin, positions[1])
    write(origin, {"next": b"1"})
    assert [r.seq for r in records_after(origin, positions[-1])] == [3]


def test_a_jump_that_was_trimmed_is_the_base(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    origin, replica = opened("origin"), opened("replica", Retention(records=3))
    history(origin)
    copy_state(replica, origin)
    jump = replica.extent.shared
    for _ in range(8):
        write_beside(replica, LOCAL, {"a": b"x"})
        assert records_after(replica, jump) == []
    assert (replica.extent.shared_base, replica.extent.jumped) == (jump, 0)
    write(origin, {"b": b"1"})
    follow(replica, origin)
    assert records_after(replica, jump) == records_after(origin, jump)
    with pytest.raises(Trimmed):
        records_after(replica, START)
