"""A log that is changed on its way: gaps, repetitions, other order, other bytes (R-07 to R-09)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.replication.clusters import follows, outgrow_log, read, settle, write
from tests.replication.pair import replicating_pair, status
from tests.replication.relay import Relay, relayed
from tests.support.undercroft import Undercroft, disk_server, restart, until
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame

Change = Callable[[list[bytes]], list[bytes]]


class Set:
    """A primary, a secondary, and the relay between them."""

    def __init__(self, primary: Undercroft, secondary: Undercroft, relay: Relay) -> None:
        self.primary, self.secondary, self.relay = primary, secondary, relay
        self.done = 0

    def change(self, change: Change, times: int) -> None:
        """The next frames of records of at least two become others."""
        self.done, waiting = 0, list[bytes]()

        def tamper(frame: Frame) -> list[Frame]:
            if not isinstance(frame, frames.Records) or self.done >= times:
                return [frame]
            waiting.extend(frame.records)
            if len(waiting) < 3:  # collected, so that there is something to reorder
                return []
            changed, self.done = change(list(waiting)), self.done + 1
            waiting.clear()
            return [msgspec.structs.replace(frame, records=changed)]

        self.relay.tamper = tamper


@pytest.fixture(scope="module")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Set]:
    homes = [tmp_path_factory.mktemp(name) for name in ("primary", "secondary")]
    with (
        disk_server(homes[0]) as primary,
        disk_server(homes[1]) as secondary,
        relayed(primary, secondary) as relay,
    ):
        yield Set(primary, secondary, relay)


def flipped(at: int) -> Change:
    """A bit of the second record, counted from its end if negative."""

    def change(records: list[bytes]) -> list[bytes]:
        raw = bytearray(records[1])
        raw[at] ^= 1
        return [records[0], bytes(raw), *records[2:]]

    return change


def recovers(between: Set, change: Change) -> None:
    """The session ends at what is wrong, the next one brings it right, and all is there."""
    one, two = between.primary.client, between.secondary.client
    before, told = between.relay.sessions, len(between.secondary.log.read_text())
    between.change(change, times=2)
    for number in range(8):
        write(one, f"n{number}", before)
    until(lambda: between.done == 2, between.secondary)
    until(lambda: follows(two, one), between.secondary)
    assert [read(two, f"n{number}") for number in range(8)] == [before] * 8
    assert between.relay.sessions > before
    assert status(two)["divergences"] == 0  # nothing wrong was applied that had to be healed
    assert "lost the primary" in between.secondary.log.read_text()[told:]


@pytest.mark.parametrize(
    "change",
    [lambda r: r[1:], lambda r: [r[0], *r[2:]], lambda r: [r[-1]]],
    ids=["the first", "one within", "all but the last"],
)
def test_threat_r_07_what_is_missing_on_the_way_is_fetched_and_nothing_applied_past_it(
    between: Set, change: Change
) -> None:
    recovers(between, change)


@pytest.mark.parametrize(
    "change",
    [lambda r: [r[0], *r], lambda r: r[::-1], lambda r: [*r[1:], r[0]]],
    ids=["twice", "backwards", "the first last"],
)
def test_threat_r_08_what_comes_twice_or_in_another_order_changes_nothing(
    between: Set, change: Change
) -> None:
    recovers(between, change)


@pytest.mark.parametrize(
    "change",
    [flipped(0), flipped(8), flipped(16), flipped(30), flipped(60), flipped(-1)],
    ids=["epoch", "place", "time", "chain", "key", "value"],
)
def test_threat_r_09_what_is_altered_on_the_way_is_refused_and_fetched_again(
    between: Set, change: Change
) -> None:
    recovers(between, change)


def test_threat_r_09_a_record_of_the_relays_own_making_never_comes_in(between: Set) -> None:
    """With the right place and time, but the chain of another body."""

    def forged(records: list[bytes]) -> list[bytes]:
        return [records[0][:-1] + bytes((records[0][-1] ^ 0xFF,)), *records[1:]]

    recovers(between, forged)
    assert follows(between.secondary.client, between.primary.client)


@pytest.mark.parametrize("times", [2, 3])
def test_threat_r_17_a_forward_that_is_repeated_on_the_way_is_done_once(
    between: Set, times: int
) -> None:
    one, two = between.primary.client, between.secondary.client
    name = f"once{times}"
    between.relay.tamper = lambda frame: [frame]
    until(lambda: follows(two, one), between.secondary)
    between.relay.echo = lambda f: [f] * (times if isinstance(f, frames.Forward) else 1)
    try:
        answer = two.request("POST", f"secret/data/{name}", {"data": {"value": "mine"}})
    finally:
        between.relay.echo = lambda frame: [frame]
    assert answer.status in (200, 503)  # 503: the session broke before its answer came
    until(lambda: follows(two, one), between.secondary)
    until(lambda: two.request("GET", f"secret/metadata/{name}").status == 200)
    for client in (one, two):
        kept = client.request("GET", f"secret/metadata/{name}").body["data"]
        assert kept["current_version"] == 1
    write(two, name, "again")
    assert read(two, name) == "again"


def test_threat_r_07_past_the_end_of_the_log_the_states_are_compared(tmp_path: Path) -> None:
    """Away for longer than the log is kept; status says what is going on."""
    short = "replication {\n  logshipper_buffer_length = 20\n}\n"
    with replicating_pair(tmp_path, short) as pair:
        one, two = pair.primary, pair.secondary
        pair.secondary_server.kill()
        for number in range(60):
            write(one, f"away{number}", number)
        outgrow_log(one)
        restart(pair.secondary_server, tmp_path / "secondary")
        settle(two, one)
        assert [read(two, f"away{number}") for number in range(60)] == list(range(60))
        shown = status(two)
        assert (shown["state"], shown["divergences"]) == ("stream-wals", 0)
