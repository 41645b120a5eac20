"""A primary's session over a real store: what a secondary that keeps to no rule gets out of it."""

import msgspec
import pytest

from tests.unit.replication.cluster import HOUR_MS, NOW_MS, Cluster
from tests.unit.storage.stores import MOUNT
from undercroft.replication.lineage import LINEAGE_KEY, founded
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.replication.protocol.ports import Passes
from undercroft.replication.protocol.primary import SILENCE_MS, PrimarySession
from undercroft.replication.state import StoreState
from undercroft.storage.keys import LOCAL, OWN, SHARED
from undercroft.storage.view import Space
from undercroft.storage.wal import START

SECRET = b"what is kept"
OF_MOUNT = SHARED + MOUNT


class Clock:
    steady, wall = 0, NOW_MS

    def steady_ms(self) -> int:
        return self.steady

    def wall_ms(self) -> int:
        return self.wall


class Primary:
    """The host of a session, with a filter that a test may change."""

    def __init__(self, cluster: Cluster) -> None:
        with cluster.change() as tx:
            for keyspace in (SHARED, LOCAL, OWN):
                Space(tx, keyspace, MOUNT).put("name", SECRET)
            lineage = founded(tx.shared, "set", "a", NOW_MS)
            tx.put(LINEAGE_KEY, msgspec.msgpack.encode(lineage))
        self.clock = Clock()
        self.state = StoreState(cluster.store)
        self.filter: Passes | None = None
        self.ran: list[bytes] = []
        self.session = PrimarySession("osaka", b"session", self.state, self, self.clock)
        self._decoder = frames.Decoder(frames.FRAME_BYTES_MAX)

    def sends(self, *sent: Frame) -> list[Frame]:
        """What comes back."""
        self.session.receive(b"".join(map(frames.encode, sent)))
        while self.session.work():
            pass
        return [frame for frame, _ in self._decoder.feed(self.session.take_output())]

    def is_primary(self) -> bool:
        return True

    def cluster_id(self) -> str:
        return "a"

    def addresses(self) -> tuple[str, ...]:
        return ()

    def api_addr(self) -> str:
        return ""

    def claim(self) -> bytes:
        return b""

    def newest_rank(self) -> tuple[int, bytes]:
        return (0, b"")

    def withheld(self, secondary_id: str) -> tuple[bytes, ...]:
        return ()

    def passes(self, secondary_id: str) -> Passes | None:
        return self.filter

    def guard(self, *, found: bool) -> None: ...

    def forward(self, session: PrimarySession, number: int, call: bytes) -> None:
        self.ran.append(call)

    def announce(self, session: PrimarySession, claim: bytes) -> None:
        raise AssertionError

    def handover(self, session: PrimarySession) -> None:
        raise AssertionError

    def certificate(self, session: PrimarySession, public_key: bytes) -> None:
        raise AssertionError


HELLO = frames.Hello(1, 1, frames.STREAM, "test", "b", None, START, 0, partial=True)


@pytest.fixture
def primary(cluster: Cluster) -> Primary:
    made = Primary(cluster)
    (welcome, *_) = made.sends(HELLO)
    assert isinstance(welcome, frames.Welcome)
    return made


def every_question(head: bytes) -> list[Frame]:
    return [
        frames.AskNodes(head),
        frames.AskBuckets(head, bytes(range(256))),
        frames.AskEntries(head, b"".join(n.to_bytes(2, "big") for n in range(1 << 16)), b""),
        frames.AskScan(head, b""),
    ]


def entries_in(answers: list[Frame]) -> list[bytes]:
    return [
        part for frame in answers if isinstance(frame, frames.Entries) for part in frame.entries
    ]


def test_what_may_go_is_answered(primary: Primary) -> None:
    found = entries_in(primary.sends(*every_question(OF_MOUNT)))
    assert [key[:17] for key in found[::2]] == [OF_MOUNT, OF_MOUNT]  # once for each question


@pytest.mark.parametrize(
    "head",
    [LOCAL + MOUNT, OWN + MOUNT, LOCAL, OWN, b"", SHARED, OF_MOUNT[:-1], OF_MOUNT + b"name"],
    ids=["local", "own", "all local", "all own", "all", "all shared", "cut short", "a key"],
)
def test_threat_r_15_nothing_that_is_local_or_own_is_answered_whatever_is_asked(
    primary: Primary, head: bytes
) -> None:
    (heads,) = primary.sends(frames.AskHeads())
    assert isinstance(heads, frames.Heads)
    assert {found[:1] for found in heads.heads} == {SHARED}
    nothing = (frames.Nodes(head, b""), frames.Buckets(head, bytes(range(256)), b""))
    done = frames.Entries(head, [], b"", done=True)
    assert primary.sends(*every_question(head)) == [*nothing, done, done]


@pytest.mark.parametrize("question", [2, 3], ids=["the entries of buckets", "a walk"])
def test_threat_r_14_a_filter_that_comes_while_a_mount_is_read_counts_for_what_was_read(
    primary: Primary, question: int
) -> None:
    def tighten() -> None:
        primary.filter = lambda head: head != OF_MOUNT
        primary.session.selection_changed(compare=True)

    primary.state.advanced = tighten  # as the node is told of it when it looks at the log again
    assert entries_in(primary.sends(every_question(OF_MOUNT)[question])) == []


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 100])
def test_threat_r_08_frames_may_be_cut_anywhere(primary: Primary, size: int) -> None:
    asked = b"".join(map(frames.encode, (frames.AskHeads(), *every_question(OF_MOUNT))))
    whole = primary.sends(frames.AskHeads(), *every_question(OF_MOUNT))
    for at in range(0, len(asked), size):
        primary.session.receive(asked[at : at + size])
    assert primary.sends() == whole


@pytest.mark.parametrize("numbers", [(1, 1), (1, 2, 1), (1, 3), (2,), (0,)], ids=str)
def test_threat_r_17_a_forward_that_comes_again_ends_the_session_and_runs_no_second_time(
    primary: Primary, numbers: tuple[int, ...]
) -> None:
    answers = primary.sends(*(frames.Forward(number, b"%d" % number) for number in numbers))
    *good, _ = numbers
    assert primary.ran == [b"%d" % number for number in good]
    assert isinstance(answers[-1], frames.Bye)
    assert "forward out of order" in primary.session.ended
    assert primary.sends(frames.Forward(1, b"1")) == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_threat_r_13_the_other_sides_clock_is_shown_and_decides_nothing(
    primary: Primary, hours: int
) -> None:
    session, clock = primary.session, primary.clock
    session.tick()
    (beat,) = primary.sends()
    assert isinstance(beat, frames.Heartbeat)
    clock.steady, clock.wall = 40, NOW_MS + 40
    primary.sends(frames.Echo(beat.number, NOW_MS + 20 + hours * HOUR_MS))
    assert (session.round_trip_ms, session.clock_skew_ms) == (40, hours * HOUR_MS)
    clock.wall += hours * HOUR_MS  # ours is set right: no time has passed
    session.tick()
    assert not session.ended
    clock.steady += SILENCE_MS + 1  # it has: whatever a calendar says
    session.tick()
    assert session.ended
