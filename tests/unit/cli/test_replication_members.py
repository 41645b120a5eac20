"""What a status says about every member: lag, pace, and how long a comparison still takes."""

from datetime import datetime
from typing import Any

import pytest

from tests.unit.cli.contract import detached, primary, secondary, syncing
from undercroft.cli.replication import words
from undercroft.cli.replication.members import Estimate, Member, Progress, Rates, members, rates
from undercroft.cli.replication.watch import View

NOON = datetime(2031, 4, 2, 12)
QUARTER = "[######------------------]  25 %  50 of 200 entries"
COUNTED = Member("a", "s", records=100, bytes=1000)


def test_a_primary_lists_itself_its_secondaries_and_those_never_seen() -> None:
    assert members(primary()) == [
        Member("(this primary)", "running", position=90417),
        Member("osaka", "stream-wals", 12, 180, 90405),
        Member("porto", "never seen"),
    ]


def test_a_secondary_lists_itself_and_its_primary() -> None:
    this, upstream = members(secondary(records_received=5, bytes_received=700))
    assert this == Member("osaka", "stream-wals", 12, 180, 90405, 5, 700)
    assert upstream == Member("(primary)", "connected")


def test_who_is_disconnected_has_no_lag_in_time() -> None:
    (peer,) = primary()["secondaries"]
    status = primary(secondaries=[{**peer, "connection_status": "disconnected"}])
    assert members(status)[1] == Member("osaka", "disconnected", 12, None, 90405)


def test_a_fenced_primary_is_shown_as_that() -> None:
    assert members(primary(fenced=True))[0].state == "fenced"


@pytest.mark.parametrize("mode", ["disabled", "unsupported", "unknown"])
def test_without_replication_there_are_no_members(mode: str) -> None:
    assert members({"mode": mode}) == []


def test_a_detached_secondary_is_alone_and_its_lag_unknown() -> None:
    (this,) = members(detached())
    assert (this.id, this.state, this.lag_records) == ("(this secondary)", "idle", None)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (COUNTED, Member("a", "s", records=140, bytes=5000), (20.0, 2000.0)),
        # without counters the position tells
        (Member("a", "s", position=100), Member("a", "s", position=140), (20.0, None)),
        # a comparison moves the position by more than was sent
        (Member("a", "merkle-sync", position=0), Member("a", "s", position=900), (None, None)),
        # a new session counts from nothing
        (COUNTED, Member("a", "s", records=2, bytes=1), (None, None)),
        (None, Member("a", "s", records=2, bytes=1), (None, None)),
    ],
)
def test_throughput_is_what_went_by_between_two_looks(
    before: Member | None, now: Member, expected: tuple[float | None, float | None]
) -> None:
    assert rates(before, now, 2.0) == Rates(*expected)


def test_the_estimate_goes_by_the_pace_since_the_comparison_was_first_seen() -> None:
    estimate = Estimate()
    assert estimate.seconds_left(Progress(100, 1000), 5.0) is None
    assert estimate.seconds_left(Progress(200, 1000), 7.0) == 16.0
    assert estimate.seconds_left(Progress(1000, 1000), 9.0) == 0.0


def test_another_comparison_has_an_estimate_of_its_own() -> None:
    estimate = Estimate()
    estimate.seconds_left(Progress(900, 1000), 5.0)
    assert estimate.seconds_left(Progress(10, 1000), 6.0) is None
    assert estimate.seconds_left(Progress(20, 1000), 7.0) == 98.0
    estimate.seconds_left(None, 8.0)
    assert estimate.seconds_left(Progress(500, 1000), 9.0) is None


@pytest.mark.parametrize(
    ("of", "left", "text"),
    [
        (Progress(50, 200), None, QUARTER),
        (Progress(50, 200), 12.3, f"{QUARTER}, about 12s left"),
        (Progress(9, 9), None, "[########################] 100 %  9 of 9 entries"),
        (Progress(0, 0), None, "counting entries"),
    ],
)
def test_progress_as_a_bar(of: Progress, left: float | None, text: str) -> None:
    assert words.progress(of, left) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0 B/s"), (999.0, "999 B/s"), (1500.0, "1.5 kB/s"), (2.5e9, "2.5 GB/s")],
)
def test_bytes_per_second(value: float | None, text: str) -> None:
    assert words.byte_rate(value) == text


def _look(status: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**status, **more}


def test_two_looks_show_pace_and_the_time_a_comparison_still_takes() -> None:
    view = View()
    view.lines(_look(syncing(0, 4000), bytes_received=0, records_received=0), 10.0, NOON)
    text = "\n".join(
        view.lines(_look(syncing(1000, 4000), bytes_received=4000, records_received=0), 12.0, NOON)
    )
    assert "osaka        merkle-sync    -                180         0.0          2.0 kB/s" in text
    assert "[######------------------]  25 %  1,000 of 4,000 entries, about 6s left" in text


def test_a_look_says_why_replication_stands_still() -> None:
    lines = View().lines(detached(state_reason="detached: it has no primary"), 1.0, NOON)
    assert lines[:2] == ["12:00:00  secondary", "detached: it has no primary"]
