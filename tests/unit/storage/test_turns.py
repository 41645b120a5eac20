"""Long work gives way to whoever waits for the core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.storage import turns


@given(st.lists(st.integers()), st.integers(1, 5))
def test_the_items_are_the_items(items: list[int], every: int) -> None:
    assert list(turns.in_turns(items, every)) == items


@pytest.mark.parametrize(("items", "expected"), [(0, 0), (3, 0), (4, 1), (6, 1), (7, 2)])
def test_others_have_their_turn_between_so_many_items_and_not_after_the_last(
    items: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_way: list[None] = []
    monkeypatch.setattr(turns.os, "sched_yield", lambda: given_way.append(None))
    for some in (range(items), list(range(items))):
        given_way.clear()
        assert list(turns.in_turns(some, 3)) == list(range(items))
        assert len(given_way) == expected
