"""How long a secondary waits before it tries again."""

from undercroft.replication.headway import FAILING_MAX_SECONDS, Headway


def failing(headway: Headway, times: int, seq: int = 7) -> list[float]:
    pauses = []
    for _ in range(times):
        headway.failed(seq)
        pauses.append(headway.pause_seconds(connected=True))
    return pauses


def test_a_link_that_broke_is_tried_again_at_once_however_often() -> None:
    headway = Headway()
    assert [headway.pause_seconds(connected=True) for _ in range(5)] == [0.1] * 5


def test_a_primary_out_of_reach_is_asked_every_few_seconds() -> None:
    headway = Headway()
    pauses = [headway.pause_seconds(connected=False) for _ in range(8)]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0, 3.0]
    assert headway.pause_seconds(connected=True) == 0.1


def test_a_failure_at_the_same_place_doubles_the_pause_up_to_half_a_minute() -> None:
    pauses = failing(Headway(), 2000)
    assert pauses[:9] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, FAILING_MAX_SECONDS]
    assert set(pauses[8:]) == {FAILING_MAX_SECONDS}


def test_a_primary_that_is_away_in_between_ends_no_row() -> None:
    headway = Headway()
    failing(headway, 5)
    headway.pause_seconds(connected=False)
    assert failing(headway, 1) == [6.4]


def test_a_failure_at_another_place_begins_a_new_row() -> None:
    headway = Headway()
    failing(headway, 6)
    assert failing(headway, 1, seq=8) == [0.2]


def test_headway_is_what_was_applied_behind_the_place_of_the_failure() -> None:
    headway = Headway()
    assert not headway.reached(100)  # nothing had failed
    failing(headway, 6)
    assert not headway.reached(7)
    assert headway.reached(8)
    headway.reset()
    assert failing(headway, 1) == [0.2]


def test_an_operator_is_told_once_in_a_row_and_not_of_what_passes_by_itself() -> None:
    headway, told = Headway(), []
    for _ in range(20):
        headway.failed(7)
        told.append(headway.is_to_be_told)
    assert told == [False, False, True, *[False] * 17]
    assert headway.stands_still
    headway.reset()
    assert not headway.stands_still
