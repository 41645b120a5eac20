"""Two clusters of different releases: they agree, or say why not; what is not known is not guessed
at (R-25).
"""

from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.replication.clusters import ok, read, settle, write
from tests.replication.pair import status
from tests.replication.peer import connected, granted
from tests.replication.relay import Relay, relayed
from tests.support.undercroft import Undercroft, disk_server, until
from undercroft.replication.activation import Grant
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.storage.keys import SHARED
from undercroft.storage.wal import (
    NO_TAG,
    Position,
    SharedRecord,
    digest_operation,
    encode_operation,
    shared_chain_of,
)

KIND_NEXT = 9  # of an operation: none that there is


class Needed(Frame, frozen=True, array_like=True):
    """A frame of a later release."""

    TYPE = 99
    what: str = "of a later release"


class Spare(Needed, frozen=True, array_like=True):
    """One that whoever does not know it may ignore."""

    TYPE = 98
    FLAGS = frames.SKIPPABLE


class Related:
    """A primary, a secondary, and the relay between them that changes what they say."""

    def __init__(self, primary: Undercroft, secondary: Undercroft, relay: Relay) -> None:
        self.primary, self.secondary, self.relay = primary, secondary, relay

    def speaks(self, low: int, high: int) -> None:
        """The secondary is of a release that knows these versions; it connects anew."""

        def echo(frame: Frame) -> list[Frame]:
            if isinstance(frame, frames.Hello):
                return [msgspec.structs.replace(frame, low=low, high=high, release="9.9.9")]
            return [frame]

        self.relay.echo = echo
        self.connect_anew()

    def connect_anew(self) -> None:
        sessions = self.relay.sessions
        self.relay.drop()
        until(lambda: self.relay.sessions > sessions, self.secondary)

    def follows(self) -> bool:
        """What is written now comes."""
        now = self.relay.sessions
        write(self.primary.client, "now", now)
        settle(self.secondary.client, self.primary.client)
        return bool(read(self.secondary.client, "now") == now)

    @property
    def reason(self) -> str:
        return str(status(self.secondary.client)["state_reason"])


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Related]:
    homes = [tmp_path_factory.mktemp(name) for name in ("primary", "secondary")]
    with (
        disk_server(homes[0]) as primary,
        disk_server(homes[1]) as secondary,
        relayed(primary, secondary) as relay,
    ):
        yield Related(primary, secondary, relay)


@pytest.fixture
def related(servers: Related) -> Iterator[Related]:
    """As of one release, before and after."""
    yield servers
    servers.relay.echo = servers.relay.tamper = lambda frame: [frame]
    recheck(servers)
    assert servers.follows()


def test_threat_r_25_a_newer_secondary_that_knows_our_version_follows(related: Related) -> None:
    related.speaks(low=1, high=7)
    assert related.follows()


@pytest.mark.parametrize(("low", "high"), [(2, 7), (0, 0)], ids=["newer", "older"])
def test_threat_r_25_without_a_version_in_common_both_sides_say_which_they_know(
    related: Related, low: int, high: int
) -> None:
    secondary = related.secondary.client
    related.speaks(low, high)
    until(lambda: status(secondary)["connection_state"] == "idle", related.secondary)
    assert "speaks protocol 1 to 1" in related.reason
    assert f"(9.9.9) {low} to {high}" in related.reason
    assert status(secondary)["state"] == "idle"
    assert f"(9.9.9) {low} to {high}" in related.primary.log.read_text()
    related.relay.echo = lambda frame: [frame]  # it was downgraded, or the primary upgraded
    recheck(related)
    assert related.follows()


def test_beside_an_older_secondary_its_local_mount_hides_a_shared_one(related: Related) -> None:
    """It does not say where it has local mounts; so it was before."""
    primary, secondary = related.primary.client, related.secondary.client

    def as_before(frame: Frame) -> list[Frame]:
        if isinstance(frame, frames.Heartbeat):
            return [msgspec.structs.replace(frame, local_mounts=())]
        return [frame]

    related.relay.echo = as_before
    related.connect_anew()
    made = secondary.request("POST", "sys/mounts/old", {"type": "kv", "local": True})
    assert made.status == 204
    assert related.follows()
    assert primary.request("POST", "sys/mounts/old", {"type": "kv"}).status == 204
    until(lambda: status(secondary)["shadowed_mounts"] == ["old/"], related.secondary)


def recheck(related: Related) -> None:
    """The operator has looked, and says so."""
    assert related.secondary.client.request("POST", "sys/replication/recover").status in (200, 204)


def says(related: Related, frame: Frame, *, primary: bool) -> Callable[[], bool]:
    """One side says something once that the other does not know; answers whether it has."""
    said: list[Frame] = []

    def tamper(other: Frame) -> list[Frame]:
        if said or not isinstance(other, frames.Heartbeat):
            return [other]
        said.append(frame)
        return [frame, other]

    if primary:
        related.relay.tamper = tamper
    else:
        related.relay.echo = tamper
    return lambda: bool(said)


@pytest.mark.parametrize("primary", [True, False], ids=["from the primary", "from the secondary"])
def test_threat_r_25_an_unknown_frame_that_may_be_skipped_is_skipped(
    related: Related, *, primary: bool
) -> None:
    sessions = related.relay.sessions
    until(says(related, Spare(), primary=primary), related.secondary)
    assert related.follows()
    assert related.relay.sessions == sessions


@pytest.mark.parametrize("primary", [True, False], ids=["from the primary", "from the secondary"])
def test_threat_r_25_any_other_unknown_frame_ends_the_session_and_the_reason_is_said(
    related: Related, *, primary: bool
) -> None:
    sessions = related.relay.sessions
    logs = [server.log.read_text() for server in (related.primary, related.secondary)]
    until(says(related, Needed(), primary=primary), related.secondary)
    until(lambda: related.relay.sessions > sessions, related.secondary)
    for server, before in zip((related.primary, related.secondary), logs, strict=True):
        assert "an unknown frame of type 99" in server.log.read_text()[len(before) :]


@pytest.fixture
def grant(servers: Related) -> Iterator[Grant]:
    yield granted(servers.primary.client, "perth")
    ok(servers.primary.client, "primary/revoke-secondary", {"id": "perth"})


@pytest.mark.parametrize("high", [1, 3])
def test_threat_r_25_a_session_speaks_the_greatest_version_that_both_know(
    grant: Grant, high: int
) -> None:
    with connected(grant) as peer:
        hello = frames.Hello(
            1, high, frames.STREAM, "9.9.9", "c", None, Position(0, 0, b""), 0, partial=True
        )
        whole = msgspec.msgpack.decode(msgspec.msgpack.encode(hello))
        later = msgspec.msgpack.encode([*whole, "a field", {"of": "a later release"}])
        peer.sock.sendall((len(later) + 2).to_bytes(4, "big") + b"\1\0" + later)
        assert peer.expect(frames.Welcome).version == min(high, frames.VERSION_HIGH)


def test_threat_r_25_a_record_with_an_unknown_operation_stops_the_stream_and_is_not_skipped(
    related: Related,
) -> None:
    """Its chain holds, so nothing but the kind is wrong; what follows it is not applied either."""
    one, two = related.primary.client, related.secondary.client
    assert related.follows()
    at = status(two)["last_remote_wal"]
    last: list[Position] = []

    def tamper(frame: Frame) -> list[Frame]:
        if isinstance(frame, frames.Heartbeat) and not last:
            last.append(frame.position)
        if not isinstance(frame, frames.Records) or not last:
            return [frame]
        first, *more = frame.records
        return [msgspec.structs.replace(frame, records=[unknown(first, last[0]), *more])]

    related.relay.tamper = tamper
    until(lambda: bool(last), related.secondary)
    sessions = related.relay.sessions
    for number in range(5):
        write(one, f"behind{number}")
    until(lambda: related.relay.sessions > sessions + 2, related.secondary)
    assert status(two)["last_remote_wal"] == at
    assert [read(two, f"behind{number}") for number in range(5)] == [404] * 5
    assert "does not parse" in related.secondary.log.read_text()
    assert status(two)["divergences"] == 0


def unknown(raw: bytes, after: Position) -> bytes:
    """The record, its first operation of a kind that nobody knows, and a chain that holds."""
    record = SharedRecord.decode(raw)
    operation = bytes((KIND_NEXT,)) + encode_operation(SHARED + bytes(16), NO_TAG, b"v")[1:]
    chain = shared_chain_of(after, record.epoch, record.time_ms, [digest_operation(operation)])
    return record._replace(body=operation, chain=chain).encode()
