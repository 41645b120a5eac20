"""What a session takes from a secondary that asks for more than there is, or without end (R-24)."""

import pytest

from tests.unit.replication.cluster import Cluster
from tests.unit.replication.test_primary_session import HELLO, OF_MOUNT, Primary
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame, ProtocolError
from undercroft.replication.protocol.primary import (
    FORWARDS_MAX,
    QUESTIONS_MAX,
    SILENCE_MS,
    SMALL_BYTES_MAX,
)

MANY = 100_000


@pytest.fixture
def primary(cluster: Cluster) -> Primary:
    made = Primary(cluster)
    made.sends(HELLO)
    return made


def is_ended(primary: Primary, *sent: Frame) -> str:
    """Why the session is over, after it was said."""
    last = primary.sends(*sent)[-1]
    assert isinstance(last, frames.Bye)
    assert last.code == "protocol"
    return primary.session.ended


@pytest.mark.parametrize(
    "question",
    [
        frames.AskHeads(),
        frames.AskNodes(OF_MOUNT),
        frames.AskBuckets(OF_MOUNT, b"\0"),
        frames.AskEntries(OF_MOUNT, b"\0\0", b""),
        frames.AskScan(OF_MOUNT, b""),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_threat_r_24_so_many_questions_at_once_and_no_more(
    primary: Primary, question: Frame
) -> None:
    assert is_ended(primary, *[question] * (QUESTIONS_MAX + 1)) == "too many questions at once"


def test_questions_one_after_the_other_may_be_as_many_as_it_takes(primary: Primary) -> None:
    for _ in range(QUESTIONS_MAX * 3):
        (heads,) = primary.sends(frames.AskHeads())
        assert isinstance(heads, frames.Heads)


@pytest.mark.parametrize(
    "question",
    [
        frames.AskBuckets(OF_MOUNT, bytes(MANY)),
        frames.AskEntries(OF_MOUNT, bytes(2 * MANY), b""),
        frames.AskEntries(OF_MOUNT, bytes(2 * MANY), b"", more=True),
    ],
    ids=["nodes", "buckets", "buckets, and more"],
)
def test_threat_r_24_nothing_is_asked_for_more_often_than_it_is_there(
    primary: Primary, question: Frame
) -> None:
    assert is_ended(primary, question) == "a question that is too long"


def test_threat_r_24_a_question_in_pieces_is_no_longer_than_a_whole_one(primary: Primary) -> None:
    piece = frames.AskEntries(OF_MOUNT, bytes(1 << 16), b"", more=True)
    assert is_ended(primary, piece, piece, piece) == "a question that is too long"


@pytest.mark.parametrize(
    "frame",
    [
        frames.Heartbeat(1, 0, HELLO.position, api_addr="a" * SMALL_BYTES_MAX),
        frames.AskNodes(bytes(SMALL_BYTES_MAX)),
        frames.Bye("stopping", "s" * SMALL_BYTES_MAX),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_threat_r_24_only_a_request_that_is_forwarded_may_be_large(
    primary: Primary, frame: Frame
) -> None:
    assert is_ended(primary, frame).startswith(f"a {type(frame).__name__} of ")
    assert primary.session.last_heartbeat is None


def test_a_forwarded_request_may_be_large(primary: Primary) -> None:
    call = bytes(2 * SMALL_BYTES_MAX)
    primary.sends(frames.Forward(1, call))
    assert primary.ran == [call]


def test_threat_r_24_so_many_forwards_run_at_once_and_the_rest_waits(primary: Primary) -> None:
    session, more = primary.session, 10
    primary.sends(*(frames.Forward(n + 1, b"%d" % n) for n in range(FORWARDS_MAX + more)))
    assert len(primary.ran) == FORWARDS_MAX
    for number in range(more):
        session.answer(number + 1, b"", HELLO.position)
    assert primary.ran == [b"%d" % n for n in range(FORWARDS_MAX + more)]


def test_threat_r_24_what_is_not_read_is_not_worked_for(primary: Primary) -> None:
    primary.session.is_read = False
    primary.sends(frames.Forward(1, b"1"), frames.Forward(2, bytes(9 << 20)))
    assert primary.ran == []
    assert primary.session.is_full
    primary.session.is_read = True
    assert len(primary.sends()) == 0
    assert len(primary.ran) == 2
    assert not primary.session.is_full


def test_threat_r_24_who_stops_amid_a_frame_is_silent(primary: Primary) -> None:
    """A length that promises what never comes."""
    primary.session.receive(frames.encode(frames.Forward(1, bytes(1000)))[:500])
    primary.clock.steady += SILENCE_MS + 1
    primary.session.tick()
    assert primary.session.ended == "nothing was heard of it"
    assert primary.ran == []


@pytest.mark.parametrize("limit", [frames.HELLO_BYTES_MAX, frames.FRAME_BYTES_MAX])
def test_threat_r_24_a_length_alone_is_enough_to_refuse_a_frame(limit: int) -> None:
    decoder = frames.Decoder(limit)
    assert list(decoder.feed((limit).to_bytes(4, "big") + b"\1\0")) == []
    with pytest.raises(ProtocolError, match=f"a frame of {limit + 1} bytes"):
        list(frames.Decoder(limit).feed((limit + 1).to_bytes(4, "big") + b"\1\0"))
