"""The frames between worker and writer survive any cut of the byte stream."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Sealed,
    StorageFailed,
    StorageFull,
    Unavailable,
    UndercroftError,
)
from undercroft.node.frames import (
    Answer,
    Decoder,
    Dropped,
    Execute,
    FromWorker,
    FromWriter,
    Hello,
    Leaving,
    Pause,
    Paused,
    State,
    Switch,
    Switched,
    encode,
    error_of,
    failure_of,
)
from undercroft.node.state import NodeState
from undercroft.request.model import Auth, Operation, Request, Response, WrapInfo
from undercroft.storage.wal import Position

REQUEST = Request(
    "id",
    Operation.UPDATE,
    "secret/data/a",
    token="s.secret",
    body=b'{"data":{"a":1.0}}',
    query={"x": "y"},
    wrap_ttl_seconds=60,
    headers={"x-a": "b"},
    remote_address="127.0.0.1",
    remote_port=5,
)
FROM_WORKER = [
    Hello(5, b"ring"),
    Execute(1, REQUEST, b"\xc0"),
    Dropped(9),
    Execute(2, REQUEST),
    Switch("/srv/data/staging"),
    Pause(),
    Pause(on=False),
]
FROM_WRITER = [
    State(1, NodeState(initialized=True, sealed=False), b"ring"),
    Answer(
        1,
        Response(
            warnings=["w"],
            auth=Auth(["a"], client_token="s.t"),
            wrap_info=WrapInfo("t", "a", 60, "now", "path"),
            position=Position(1, 2, b"c" * 16),
        ),
        b'{"a":1.0}',
    ),
    Answer(2, error=failure_of(NotFound())),
    Switched("store-2"),
    Switched(error=failure_of(StorageFailed("x"))),
    Leaving(),
    Paused(),
    State(2, NodeState(), store="store-2"),
]


@given(cuts=st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(cuts: list[int]) -> None:
    for kinds, frames in ((FromWorker, FROM_WORKER), (FromWriter, FROM_WRITER)):
        stream = b"".join(encode(frame) for frame in frames)
        decoder, found, at, turn = Decoder(kinds), [], 0, 0
        while at < len(stream):
            size = cuts[turn % len(cuts)]
            found += decoder.feed(stream[at : at + size])
            at, turn = at + size, turn + 1
        assert found == frames


def test_a_frame_of_the_other_direction_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value"):
        Decoder(FromWriter).feed(encode(Hello(1)))


def test_a_length_over_the_limit_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(ValueError, match="limit"):
        Decoder(FromWorker).feed(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("bad", hint="do this"),
        PermissionDenied(),
        NotFound(),
        Sealed(),
        StorageFull("full"),
        Unavailable("later", retry_after_seconds=7),
    ],
)
def test_an_error_arrives_as_the_type_it_was(error: UndercroftError) -> None:
    arrived = error_of(failure_of(error))
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.hint) == (error.message, error.hint)
    if isinstance(error, Unavailable):
        assert isinstance(arrived, Unavailable)
        assert arrived.retry_after_seconds == 7


def test_threat_aud_08_no_frame_shows_a_secret() -> None:
    for frame in (*FROM_WORKER, *FROM_WRITER):
        for secret in ("s.secret", "ring", "s.t", "1.0"):
            assert secret not in repr(frame)
