"""A secondary's session with a primary that keeps to no rule."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.replication.cluster import NOW_MS, Cluster
from tests.unit.storage.stores import MOUNT
from undercroft.replication.lineage import Lineage, founded
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.replication.protocol.secondary import SecondarySession
from undercroft.replication.state import StoreState
from undercroft.storage.keys import SHARED
from undercroft.storage.wal import START, Position, SharedRecord


class Clock:
    def steady_ms(self) -> int:
        return 0

    def wall_ms(self) -> int:
        return NOW_MS


class Sink(StoreState):
    """Notes what it is asked to change, and changes nothing."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.store)
        self.asked: list[tuple[Any, ...]] = []

    def apply(self, records: list[bytes], done: Callable[[int], None]) -> None:
        self.asked.append(("apply", records))

    def store_entries(
        self, entries: list[tuple[bytes, bytes | None]], done: Callable[[int], None]
    ) -> None:
        self.asked.append(("store", entries))

    def begin_comparison(self) -> None:
        self.asked.append(("begin",))

    def unfinished(self) -> bool:
        return False

    def settled(self) -> None:
        self.asked.append(("settled",))

    def jump(self, position: Position, done: Callable[[], None]) -> None:
        self.asked.append(("jump", position))

    def set_aside(self, behind_seq: int, done: Callable[[], None]) -> None:
        self.asked.append(("set aside", behind_seq))

    def adopt(self, terms: Any, alternates: Any, done: Callable[[], None]) -> None:
        self.asked.append(("adopt", terms))

    def withhold(self, mounts: tuple[bytes, ...]) -> None:
        self.asked.append(("withhold", mounts))

    def lacks(self) -> tuple[bytes, ...]:
        return ()

    def resume_point(self, head: bytes) -> bytes | None:
        return None


class Host:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def cluster_id(self) -> str:
        return "b"

    def cluster_addr(self) -> str:
        return ""

    def api_addr(self) -> str:
        return ""

    def local_mounts(self) -> tuple[str, ...]:
        return ("here/",)

    def is_partial(self) -> bool:
        return False

    def welcomed(self) -> None: ...

    def learned(self, lineage: Lineage, addresses: tuple[str, ...], api_addr: str) -> None: ...

    def newer_epoch(self, rank: tuple[int, bytes]) -> None: ...

    def copied(self) -> None:
        self.told.append(("copied",))

    def certified(self, certificate: bytes, authority: bytes) -> None:
        self.told.append(("certified", certificate))

    def claimed(self, claim: bytes) -> None:
        self.told.append(("claimed", claim))


LINEAGE = founded(START, "set", "a", NOW_MS)
HEAD = SHARED + MOUNT


def welcome(verdict: str) -> frames.Welcome:
    return frames.Welcome(1, "test", b"session", "osaka", "a", LINEAGE, START, verdict)


@pytest.mark.parametrize("verdict", [frames.FOLLOW, frames.COMPARE, frames.DIVERGED, frames.BEHIND])
@pytest.mark.parametrize("intent", [frames.CLAIM, frames.PROBE])
@pytest.mark.parametrize(
    "sent",
    [
        frames.Terms(((9, bytes(32), NOW_MS),)),
        frames.Withheld((MOUNT,), changed=True),
        frames.Announce(b"claim"),
        frames.Certificate(b"certificate", b"authority"),
        frames.Records([SharedRecord(1, 1, 5, bytes(16), b"").encode()]),
        frames.Heads(START, {HEAD: bytes(16)}),
        frames.Entries(HEAD, [HEAD + b"a", b"forged"], done=True),
        frames.Handover(True, 1),
        frames.Forwarded(1, b"", START),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_threat_r_11_who_is_told_that_its_epoch_is_over_has_no_say_in_anything(
    cluster: Cluster, intent: str, verdict: str, sent: Frame
) -> None:
    sink, host = Sink(cluster), Host()
    session = SecondarySession(sink, host, Clock(), intent=intent)
    session.receive(frames.encode(welcome(verdict)) + frames.encode(sent))
    assert "for something else" in session.ended
    assert (sink.asked, host.told) == ([], [])


def test_what_it_says_to_the_claim_is_heard(cluster: Cluster) -> None:
    heard: list[frames.Announced | None] = []
    session = SecondarySession(Sink(cluster), Host(), Clock(), intent=frames.CLAIM)
    session.announce(b"claim", heard.append)
    answer = frames.Announced(True)
    session.receive(frames.encode(welcome(frames.FOLLOW)) + frames.encode(answer))
    assert heard == [answer]
    assert not session.ended
