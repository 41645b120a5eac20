"""A record that a secondary cannot apply: it tries again, less and less often, and says so once."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from tests.replication.clusters import read, settle, write
from tests.replication.pair import status
from tests.replication.relay import Relay, relayed
from tests.support.undercroft import Undercroft, disk_server, until
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.storage.wal import SharedRecord

STANDS = "replication makes no headway"
GOES_ON = "replication makes headway again"


class Stuck:
    """A primary, a secondary, and a relay that can spoil what goes between."""

    def __init__(self, primary: Undercroft, secondary: Undercroft, relay: Relay) -> None:
        self.primary, self.secondary, self.relay = primary, secondary, relay
        self.at: list[float] = []  # when a spoilt record went to the secondary

    def spoil(self) -> None:
        self.at.clear()
        self.relay.tamper = self._spoilt

    def _spoilt(self, frame: Frame) -> list[Frame]:
        if not isinstance(frame, frames.Records):
            return [frame]
        self.at.append(time.monotonic())
        first, *more = frame.records
        record = SharedRecord.decode(first)
        spoilt = record._replace(chain=bytes(len(record.chain))).encode()
        return [msgspec.structs.replace(frame, records=[spoilt, *more])]

    def heal(self) -> None:
        self.relay.tamper = lambda frame: [frame]

    def told(self, since: int = 0) -> str:
        return self.secondary.log.read_text()[since:]

    @property
    def reason(self) -> str:
        return str(status(self.secondary.client)["state_reason"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stuck]:
    homes = [tmp_path_factory.mktemp(name) for name in ("primary", "secondary")]
    with (
        disk_server(homes[0]) as primary,
        disk_server(homes[1]) as secondary,
        relayed(primary, secondary) as relay,
    ):
        yield Stuck(primary, secondary, relay)


@pytest.fixture
def stuck(servers: Stuck) -> Iterator[Stuck]:
    yield servers
    servers.heal()
    servers.secondary.client.request("POST", "sys/replication/recover")
    settle(servers.secondary.client, servers.primary.client)


def test_it_is_tried_again_less_and_less_often(stuck: Stuck) -> None:
    at = status(stuck.secondary.client)["last_remote_wal"]
    stuck.spoil()
    write(stuck.primary.client, "stuck")
    until(lambda: len(stuck.at) >= 6, stuck.secondary, 30)
    pauses = [after - before for before, after in zip(stuck.at, stuck.at[1:], strict=False)]
    doubled = [0.2, 0.4, 0.8, 1.6, 3.2]
    for pause, expected in zip(pauses, doubled, strict=False):
        assert pause > expected * 0.6  # they vary, so that secondaries do not all come at once
    shown = status(stuck.secondary.client)
    assert (shown["last_remote_wal"], shown["state"]) == (at, "idle")
    assert read(stuck.secondary.client, "stuck") == 404


def test_status_says_what_fails_and_what_to_do_and_the_log_once(stuck: Stuck) -> None:
    since = len(stuck.told())
    stuck.spoil()
    write(stuck.primary.client, "told")
    until(lambda: "no headway" in stuck.reason, stuck.secondary)
    place = status(stuck.secondary.client)["last_remote_wal"]
    tries = len(stuck.at)
    until(lambda: len(stuck.at) > tries + 1, stuck.secondary, 30)
    reason = stuck.reason
    assert f"no headway since place {place} of the log" in reason
    assert "not what its chain says" in reason
    assert "secondary/enable" in reason
    assert "recover" in reason
    (line,) = [line for line in stuck.told(since).splitlines() if STANDS in line]
    for part in ("not what its chain says", "secondary/enable", f"applied={place}"):
        assert part in line
    assert stuck.told(since).count("lost the primary") == 1
    assert stuck.told(since).count("connected to the primary") == 0


def test_with_headway_it_is_as_it_was(stuck: Stuck) -> None:
    since = len(stuck.told())
    stuck.spoil()
    write(stuck.primary.client, "once")
    until(lambda: "no headway" in stuck.reason, stuck.secondary)
    stuck.heal()
    until(lambda: read(stuck.secondary.client, "once") == 1, stuck.secondary, 30)
    until(lambda: stuck.reason == "", stuck.secondary)
    assert GOES_ON in stuck.told(since)
    settle(stuck.secondary.client, stuck.primary.client)
    stuck.spoil()
    write(stuck.primary.client, "twice")
    until(lambda: len(stuck.at) >= 3, stuck.secondary)
    assert stuck.at[2] - stuck.at[0] < 3.0  # from the beginning again


def test_an_operator_who_has_mended_it_does_not_wait(stuck: Stuck) -> None:
    stuck.spoil()
    write(stuck.primary.client, "mended")
    until(lambda: len(stuck.at) >= 6, stuck.secondary, 30)  # the next pause is over six seconds
    stuck.heal()
    began = time.monotonic()
    answer = stuck.secondary.client.request("POST", "sys/replication/recover")
    assert answer.status == 200
    until(lambda: read(stuck.secondary.client, "mended") == 1, stuck.secondary)
    assert time.monotonic() - began < 3.0
    until(lambda: stuck.reason == "", stuck.secondary)


def test_a_link_that_breaks_is_tried_again_at_once(stuck: Stuck) -> None:
    for _ in range(5):
        settle(stuck.secondary.client, stuck.primary.client)
        sessions = stuck.relay.sessions
        began = time.monotonic()
        stuck.relay.drop()
        until(lambda before=sessions: stuck.relay.sessions > before, stuck.secondary)
        assert time.monotonic() - began < 2.0
    assert "no headway" not in stuck.reason


def test_a_failure_that_has_passed_is_forgotten_without_a_write(stuck: Stuck) -> None:
    """The record is sent once more and fits: nothing new has to be written for the row to end."""
    stuck.spoil()
    write(stuck.primary.client, "passing")
    until(lambda: len(stuck.at) >= 1, stuck.secondary)
    stuck.heal()
    until(lambda: read(stuck.secondary.client, "passing") == 1, stuck.secondary)
    until(lambda: stuck.reason == "", stuck.secondary)
