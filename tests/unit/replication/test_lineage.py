"""Which history a cluster has, by the starts of its primary (R-10)."""

import pytest

from undercroft.replication.lineage import STARTS_MAX, Lineage, founded
from undercroft.storage.wal import START

NEW = founded(START, "set", "tokyo", 0)


def started(lineage: Lineage, *after: int) -> Lineage:
    for seq in after:
        lineage = lineage.started(seq)
    return lineage


def test_what_came_before_and_after_a_start_is_the_same_history() -> None:
    once = started(NEW, 100)
    assert once.may_have(100, NEW)
    assert once.may_have(900, once)
    assert started(once, 500).may_have(500, once)


def test_what_was_written_beyond_the_place_of_a_later_start_is_another_history() -> None:
    assert not started(NEW, 100).may_have(101, NEW)
    assert not started(NEW, 100, 500).may_have(501, started(NEW, 100))


def test_a_start_that_is_not_known_here_is_another_history() -> None:
    """A store and an older copy of it, each started on its own from the same place."""
    one, other = started(NEW, 100), started(NEW, 100)
    assert not one.may_have(100, other)
    assert not one.may_have(900, other)
    assert not NEW.may_have(50, one)


def test_a_new_epoch_begins_without_starts() -> None:
    assert started(NEW, 100).opened(START, "osaka", 0).starts == ()


@pytest.mark.parametrize(("seq", "expected"), [(10, True), (11, False)])
def test_of_starts_that_are_not_kept_any_more_nobody_knows(seq: int, expected: bool) -> None:
    forgotten = started(NEW, 5)
    now = started(forgotten, *range(10, 10 + STARTS_MAX))
    assert len(now.starts) == STARTS_MAX
    assert now.may_have(seq, forgotten) is expected
