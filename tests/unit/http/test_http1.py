"""HTTP/1 connections: order, limits of size and time, and clients that only hurt themselves."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.undercroft import until
from tests.unit.http.edge import Connection, Edge, Tiny, answer, serving, until_closed
from undercroft.http.limits import (
    BUFFERED_BYTES_MAX,
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    LINGER_SECONDS,
    SMALL_BODY_BYTES,
    Limits,
    Usage,
)
from undercroft.http.message import HttpResponse

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
SMALL = 1000


@pytest.fixture(name="app")
def app_fixture() -> Tiny:
    return Tiny()


@pytest.fixture(name="usage")
def usage_fixture() -> Usage:
    return Usage()


@pytest.fixture(name="edge")
def edge_fixture(app: Tiny, usage: Usage) -> Iterator[Edge]:
    with serving(app, usage, max_request_size=SMALL) as edge:
        yield edge


@pytest.fixture(name="loop")
def loop_fixture() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def post(target: bytes, body: bytes, *more: bytes) -> bytes:
    lines = [b"POST %b HTTP/1.1" % target, b"Host: a", b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def still_serves(edge: Edge) -> bool:
    with edge.connect() as other:
        other.sendall(GET)
        return answer(other)[2] == b"GET /a 0"


# answers


def test_an_answer_has_its_length_and_the_headers_that_every_answer_has(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET)
        status, headers, body = answer(client)
    assert (status, body) == (200, b"GET /a 0")
    assert headers == {
        "Cache-Control": "no-store",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "X-Content-Type-Options": "nosniff",
        "Content-Type": "text/plain",
        "Content-Length": "8",
    }


def test_the_application_gets_the_message_as_it_came(edge: Edge, app: Tiny) -> None:
    with edge.connect() as client:
        client.sendall(post(b"/v1/%2e//?x", b"\x00body", b"X-A: \xff"))
        answer(client)
        peer = client.getsockname()
    (request,) = app.requests
    assert (request.method, request.target, request.body) == ("POST", b"/v1/%2e//?x", b"\x00body")
    assert request.headers[b"x-a"] == b"\xff"
    assert request.peer == peer


def test_nothing_is_204_without_length_or_type(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET.replace(b"/a", b"/nothing") + GET)
        status, headers, _ = answer(client)
        assert status == 204
        assert not {"Content-Length", "Content-Type"} & set(headers)
        assert answer(client)[2] == b"GET /a 0"


def test_head_has_the_length_of_the_body_and_no_body(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET.replace(b"GET", b"HEAD") + GET)
        assert answer(client, bodiless=True)[1]["Content-Length"] == "9"
        assert answer(client)[2] == b"GET /a 0"


def test_a_connection_serves_many_requests(edge: Edge) -> None:
    with edge.connect() as client:
        for n in range(20):
            client.sendall(post(b"/%d" % n, b"x" * n))
            assert answer(client)[2] == b"POST /%d %d" % (n, n)


def test_pipelined_answers_come_in_the_order_of_their_requests(edge: Edge) -> None:
    targets = [b"/1", b"/later/2", b"/3", b"/later/4", b"/later/5", b"/6"]
    with edge.connect() as client:
        client.sendall(b"".join(post(target, b"xy") for target in targets))
        assert [answer(client)[2] for _ in targets] == [b"POST %b 2" % t for t in targets]


def test_a_request_may_come_byte_by_byte() -> None:
    connection = Connection()
    for byte in b"\r\n" + post(b"/a", b"abc") + GET:
        connection.receive(bytes([byte]))
    assert connection.statuses() == [200, 200]


def test_what_is_pipelined_behind_a_waiting_request_waits_unread(
    app: Tiny, loop: asyncio.AbstractEventLoop
) -> None:
    connection = Connection(app)
    app.loop = loop
    connection.receive(GET.replace(b"/a", b"/never") + GET)
    assert connection.sent() == b""
    assert not connection.pipe.reading
    assert [request.target for request in app.requests] == [b"/never"]


def test_a_failure_of_the_application_says_nothing(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET.replace(b"/a", b"/fails") + GET)
        status, _, body = answer(client)
        assert (status, body) == (500, b'{"errors":["internal error"]}\n')
        assert answer(client)[0] == 200


# the end of a connection


def test_close_is_honoured_and_said(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        assert answer(client)[1]["Connection"] == "close"
        assert until_closed(client) == b""


def test_http_10_closes_or_keeps_alive_when_asked(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer(client)[1]["Connection"] == "keep-alive"
        client.sendall(b"GET /a HTTP/1.0\r\n\r\n")
        assert answer(client)[1]["Connection"] == "close"
        assert until_closed(client) == b""


def test_a_client_that_ends_its_side_still_gets_its_answers(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET.replace(b"/a", b"/later") + GET)
        client.shutdown(socket.SHUT_WR)
        assert answer(client)[2] == b"GET /later 0"
        assert answer(client)[2] == b"GET /a 0"
        assert until_closed(client) == b""


@pytest.mark.parametrize("size", [1, 20, len(GET) + 60])
def test_half_a_message_and_a_close_disturb_nobody(edge: Edge, app: Tiny, size: int) -> None:
    message = post(b"/half", b"x" * 500)
    with edge.connect() as other, edge.connect() as client:
        client.sendall(message[:size])
        client.close()
        other.sendall(GET)
        assert answer(other)[0] == 200
    assert [request.target for request in app.requests] == [b"/a"]


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_threat_http_04_a_reset_disturbs_nobody_and_holds_nothing(edge: Edge, usage: Usage) -> None:
    half = edge.connect()
    half.sendall(post(b"/a", b"x" * 400)[:-1])
    until(lambda: usage.buffered == 399)
    for target in (b"/a", b"/later", b"/never", b"/big/900000"):
        client = edge.connect()
        client.sendall(GET.replace(b"/a", target))
        reset(client)
    reset(half)
    assert still_serves(edge)
    # The one that waits for its answer is not read from meanwhile: its own limit of time ends it.
    until(lambda: usage.connections <= 1 and usage.buffered == 0)


# refusals


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x00" * 100 + b"\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:16]))
def test_threat_http_04_garbage_ends_its_own_connection_only(
    edge: Edge, app: Tiny, garbage: bytes
) -> None:
    with edge.connect() as other, edge.connect() as client:
        client.sendall(garbage + GET)
        status, headers, _ = answer(client)
        assert (status, headers["Connection"]) == (400, "close")
        client.shutdown(socket.SHUT_WR)
        assert until_closed(client) == b""
        assert app.requests == []
        other.sendall(GET)
        assert answer(other)[0] == 200


def test_threat_http_06_a_refusal_names_nothing_of_the_request_or_the_server(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(b"GET /kanarienvogel HTTP/9.9\r\n\r\n")
        _, headers, body = answer(client)
    assert body == b'{"errors":["the request line does not parse as HTTP/1.1"]}\n'
    assert "Server" not in headers


def test_after_a_refusal_what_still_comes_is_discarded_for_a_moment() -> None:
    connection = Connection()
    connection.receive(b"garbage\r\n\r\n")
    assert connection.statuses() == [400]
    assert not connection.pipe.closed
    connection.receive(GET * 1000)
    assert connection.sent() == b""
    connection.after(LINGER_SECONDS + 0.1)
    assert connection.pipe.aborted


# sizes


def test_threat_http_01_a_declared_body_over_the_limit_is_413_before_it_comes(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (SMALL + 1))
        status, headers, _ = answer(client)
    assert (status, headers["Connection"]) == (413, "close")


def test_threat_http_01_a_streamed_body_is_413_once_over_the_limit(
    edge: Edge, app: Tiny, usage: Usage
) -> None:
    with edge.connect() as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"190\r\n%b\r\n" % (b"x" * 400) * 3)
        assert answer(client)[0] == 413
        client.shutdown(socket.SHUT_WR)
        until_closed(client)
    assert app.requests == []
    assert usage.buffered == 0


def test_a_body_of_just_the_limit_is_taken_however_it_is_framed(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(post(b"/a", b"x" * SMALL))
        assert answer(client)[2] == b"POST /a 1000"
        client.sendall(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"1f4\r\n%b\r\n" % (b"x" * 500) * 2 + b"0\r\n\r\n")
        assert answer(client)[2] == b"POST /a 1000"


def test_the_bodies_of_all_connections_together_are_bounded() -> None:
    connection = Connection()
    connection.usage.buffered = BUFFERED_BYTES_MAX - 2
    connection.receive(post(b"/a", b"x" * (SMALL_BODY_BYTES + 1)))
    assert b"Retry-After: 1\r\n" in connection.pipe.sent
    assert connection.statuses() == [503]
    assert connection.usage.buffered == BUFFERED_BYTES_MAX - 2


def test_a_lost_connection_gives_its_buffer_back() -> None:
    connection = Connection()
    connection.receive(post(b"/a", b"x" * 500)[:-1])
    assert connection.usage.buffered == 499
    connection.http.connection_lost(None)
    assert connection.usage.buffered == 0
    assert connection.closed == [connection.http]


def test_threat_http_01_a_head_without_end_is_431() -> None:
    connection = Connection()
    connection.receive(b"GET /a HTTP/1.1\r\n")
    for _ in range(HEAD_BYTES_MAX // 1024):
        connection.receive(b"X: %b\r\n" % (b"y" * 1019))
    assert connection.statuses() == [431]


def test_a_head_over_the_limit_is_431_even_when_it_comes_at_once() -> None:
    connection = Connection()
    connection.receive(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * HEAD_BYTES_MAX))
    assert connection.statuses() == [431]


def test_too_many_headers_are_431(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET[:-2] + b"X: y\r\n" * HEADERS_MAX + b"\r\n")
        assert answer(client)[0] == 431


# Expect


def test_a_client_that_asks_first_is_told_to_go_on(edge: Edge) -> None:
    message = post(b"/a", b"body", b"Expect: 100-continue")
    with edge.connect() as client:
        client.sendall(message[:-4])
        assert answer(client)[0] == 100
        client.sendall(message[-4:])
        assert answer(client)[2] == b"POST /a 4"


def test_a_client_that_asks_and_sends_at_once_is_simply_answered() -> None:
    connection = Connection()
    connection.receive(post(b"/a", b"body", b"Expect: 100-continue"))
    assert connection.statuses() == [200]


def test_a_client_that_asks_to_send_too_much_is_refused_instead(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(post(b"/a", b"x" * 2000, b"Expect: 100-continue")[:-2000])
        assert answer(client)[0] == 413


# times


LIMITS = Limits(
    read_header_seconds=10, read_seconds=30, write_seconds=20, idle_seconds=300, request_seconds=90
)


@pytest.mark.parametrize(
    ("received", "seconds", "status"),
    [(GET[:9], 10, 408), (post(b"/a", b"abc")[:-1], 30, 408)],
    ids=["head", "body"],
)
def test_threat_http_01_a_slow_request_is_408(received: bytes, seconds: int, status: int) -> None:
    connection = Connection(limits=LIMITS)
    connection.receive(received)
    connection.after(seconds - 1)
    assert connection.statuses() == []
    connection.after(1.1)
    assert connection.statuses() == [status]
    connection.after(LINGER_SECONDS + 0.1)
    assert connection.pipe.aborted


def test_threat_http_01_a_byte_now_and_then_does_not_move_the_limit() -> None:
    for message, seconds in ((GET, 10), (post(b"/a", b"x" * 100)[:-1], 30)):
        connection = Connection(limits=LIMITS)
        connection.receive(message[:-20])
        for byte in message[-20:-1]:
            connection.receive(bytes([byte]))
            connection.after((seconds + 0.1) / 19)
        assert connection.statuses() == [408]


def test_the_limit_of_a_head_begins_anew_with_each_request() -> None:
    connection = Connection(limits=LIMITS)
    connection.receive(GET + GET[:5])
    connection.after(9)
    connection.receive(GET[5:] + GET[:5])
    connection.after(9)
    assert connection.statuses() == [200, 200]


def test_an_idle_connection_is_closed_without_a_word() -> None:
    connection = Connection(limits=LIMITS)
    connection.receive(GET)
    connection.sent()
    connection.after(299)
    assert not connection.pipe.closed
    connection.after(1.1)
    assert connection.pipe.closed
    assert connection.sent() == b""


def test_a_request_that_takes_too_long_is_503_and_its_late_answer_is_dropped(
    app: Tiny, loop: asyncio.AbstractEventLoop
) -> None:
    app.loop = loop
    connection = Connection(app, LIMITS)
    connection.receive(GET.replace(b"/a", b"/never"))
    connection.after(89)
    assert connection.statuses() == []
    connection.after(1.1)
    assert connection.statuses() == [503]
    app.waiting[0].set_result(HttpResponse(200, b"late"))
    loop.run_until_complete(asyncio.sleep(0))
    assert connection.sent() == b""


# clients that do not read


def test_nothing_is_read_from_a_client_that_does_not_read(app: Tiny) -> None:
    connection = Connection(app, LIMITS)
    connection.http.pause_writing()
    assert not connection.pipe.reading
    connection.receive(GET * 3)
    assert app.requests == []
    connection.http.resume_writing()
    assert connection.pipe.reading
    assert connection.statuses() == [200, 200, 200]


def test_a_client_that_does_not_read_is_ended_after_its_time_for_that() -> None:
    connection = Connection(limits=LIMITS)
    connection.http.pause_writing()
    connection.receive(GET)
    connection.after(19)
    assert not connection.pipe.aborted
    assert connection.sent() == b""
    connection.after(1.1)
    assert connection.pipe.aborted


def test_a_long_answer_may_take_its_time_while_it_is_taken() -> None:
    connection = Connection(limits=LIMITS)
    connection.pipe.unsent = 9_000_000
    connection.http.pause_writing()
    for _ in range(10):
        connection.pipe.unsent -= 100_000
        connection.after(19)
    assert not connection.pipe.aborted
    connection.after(19)
    connection.pipe.unsent -= 100  # hardly reading
    connection.after(2)
    assert connection.pipe.aborted


def test_a_connection_that_never_asks_is_not_kept_like_one_that_pauses() -> None:
    silent, used = Connection(limits=LIMITS), Connection(limits=LIMITS)
    used.receive(GET)
    for connection in (silent, used):
        connection.after(LIMITS.read_header_seconds + 1)
    assert (silent.pipe.closed, used.pipe.closed) == (True, False)
    assert silent.sent() == b""


def test_after_a_refusal_our_side_has_ended() -> None:
    connection = Connection()
    connection.receive(b"nonsense\r\n\r\n")
    assert connection.statuses() == [400]
    assert connection.pipe.ended
    assert not connection.pipe.closed


def test_small_bodies_are_taken_while_large_ones_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("undercroft.http.limits.BUFFERED_BYTES_MAX", 100_000)
    small, large = Connection(), Connection()
    for connection, size in ((small, 1_000), (large, SMALL_BODY_BYTES + 1)):
        connection.usage.buffered = 100_000
        connection.receive(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        connection.receive(b"x" * size)
    assert (small.statuses(), large.statuses()) == ([200], [503])
    assert small.usage.buffered == large.usage.buffered == 100_000


def slow_ones(usage: Usage) -> list[Connection]:
    """They fill the memory by halves of large bodies, a second apart, and send no more."""
    slow = [Connection(usage=usage) for _ in range(3)]
    for number, connection in enumerate(slow):
        connection.clock.now += number
        connection.receive(post(b"/slow", b"x" * 70_000)[:-1])
    assert [connection.statuses() for connection in slow] == [[], [], []]
    return slow


def test_threat_http_01_whoever_sends_a_large_body_slowly_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("undercroft.http.limits.BUFFERED_BYTES_MAX", 230_000)
    usage = Usage()
    slow = slow_ones(usage)
    other = Connection(usage=usage)
    other.clock.now += 4
    other.receive(post(b"/a", b"x" * 100_000))
    assert other.statuses() == [200]
    assert [connection.statuses() for connection in slow] == [[503], [503], []]  # the oldest
    slow[2].receive(b"x")
    assert slow[2].statuses() == [200]
    assert usage.buffered == 0


def test_a_large_body_gives_way_to_none_that_came_within_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("undercroft.http.limits.BUFFERED_BYTES_MAX", 230_000)
    usage = Usage()
    slow = slow_ones(usage)
    other = Connection(usage=usage)
    other.clock.now += 0.5
    other.receive(post(b"/a", b"x" * 100_000))
    assert other.statuses() == [503]
    assert [connection.statuses() for connection in slow] == [[], [], []]


def test_a_body_that_is_whole_gives_way_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undercroft.http.limits.BUFFERED_BYTES_MAX", 100_000)
    app, usage = Tiny(), Usage()
    app.loop = asyncio.new_event_loop()
    answered, other = Connection(app, usage=usage), Connection(usage=usage)
    answered.receive(post(b"/never", b"x" * 90_000))
    other.clock.now += 60
    other.receive(post(b"/a", b"x" * 70_000))
    assert other.statuses() == [503]
    app.waiting[0].set_result(HttpResponse(200))
    app.loop.run_until_complete(asyncio.sleep(0))
    app.loop.close()
    assert answered.statuses() == [200]
    assert usage.buffered == 0


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0", "ä"])
def test_threat_http_08_no_header_of_an_answer_breaks_its_line(value: str) -> None:
    with pytest.raises(ValueError, match="X-A") as caught:
        HttpResponse(200, headers=(("X-A", value),))
    assert value not in str(caught.value)


def test_a_client_that_reads_again_has_its_whole_time_for_the_next_head() -> None:
    connection = Connection(limits=LIMITS)
    connection.receive(GET[:5])
    connection.http.pause_writing()
    connection.after(15)
    connection.http.resume_writing()
    connection.after(9)
    assert connection.statuses() == []


def test_a_last_answer_that_is_still_being_read_is_not_cut_off() -> None:
    connection = Connection(limits=LIMITS)
    connection.receive(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    connection.pipe.unsent = 50_000
    connection.after(LINGER_SECONDS + 1)
    assert not connection.pipe.aborted
    connection.after(20)
    assert connection.pipe.aborted


def test_a_big_answer_arrives_whole_at_a_slow_reader(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET.replace(b"/a", b"/big/9000000") * 2)
        assert still_serves(edge)
        assert [len(answer(client)[2]) for _ in range(2)] == [9_000_000] * 2


# draining


def test_draining_ends_idle_connections_and_lets_the_last_request_finish(
    app: Tiny, loop: asyncio.AbstractEventLoop
) -> None:
    app.loop = loop
    idle, busy = Connection(app), Connection(app)
    busy.receive(GET.replace(b"/a", b"/never") + GET)
    idle.http.drain()
    busy.http.drain()
    assert idle.pipe.closed
    assert not busy.pipe.closed
    app.waiting[0].set_result(HttpResponse(200, b"done"))
    loop.run_until_complete(asyncio.sleep(0))
    sent = busy.sent()
    assert b"Connection: close\r\n" in sent
    assert sent.endswith(b"done")
    assert busy.pipe.closed
    assert len(app.requests) == 1


def test_a_drained_listener_takes_no_connection_and_waits_for_none_that_is_idle(edge: Edge) -> None:
    with edge.connect() as client:
        client.sendall(GET)
        answer(client)
        edge.call(edge.listener.drain, 5)
        assert until_closed(client) == b""
        with pytest.raises(ConnectionRefusedError):
            edge.connect()


# the stream

STREAM = (
    GET
    + post(b"/b", b'{"a": 1}')
    + b"LIST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    + b"HEAD /d HTTP/1.1\r\nHost: a\r\n\r\n"
    + post(b"/e", b"")
    + b"SCAN /f HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
)


@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=40))
def test_however_a_stream_is_cut_it_says_the_same(cuts: set[int]) -> None:
    app = Tiny()
    connection = Connection(app)
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        connection.receive(STREAM[start:end])
    seen = [(request.method, request.target, request.body) for request in app.requests]
    assert seen == [
        ("GET", b"/a", b""),
        ("POST", b"/b", b'{"a": 1}'),
        ("LIST", b"/c", b"abcd"),
        ("HEAD", b"/d", b""),
        ("POST", b"/e", b""),
        ("SCAN", b"/f", b""),
    ]
    assert connection.statuses() == [200] * 6
    assert connection.pipe.closed
    assert connection.usage.buffered == 0
