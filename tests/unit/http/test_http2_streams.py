"""HTTP/2 in memory: an h2 client and the server's protocol, bytes handed over by the test."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamReset
from h2.settings import SettingCodes

from undercroft.http.http2 import RESETS_MAX, STREAMS_MAX, Http2
from undercroft.http.limits import HEADERS_MAX, LINGER_SECONDS, SMALL_BODY_BYTES, Limits, Usage
from undercroft.http.message import HttpRequest, HttpResponse

HEADERS = [(":method", "GET"), (":path", "/v1/a"), (":scheme", "https"), (":authority", "a")]
POST = [(":method", "POST"), *HEADERS[1:]]


class Wire:
    """The server's transport: keeps what was written; says when it is full."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.reading = True
        self.closed = self.aborted = False
        self.protocol: Any = None
        self.high_water = 1 << 60

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.written += data
        if len(self.written) > self.high_water and self.reading:
            self.protocol.pause_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Pair:
    """A client and a server; `events` is what the client has seen."""

    def __init__(
        self,
        app: Callable[[HttpRequest], Any] | None = None,
        limits: Limits | None = None,
        window: int = 65535,
    ) -> None:
        self.requests: list[HttpRequest] = []
        self.now = 0.0
        self.usage = Usage()
        self.wire = Wire()
        self.gone = False
        self.events: list[Event] = []
        self.client = H2Connection(
            H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.server = Http2(
            self._serve(app), limits or Limits(), self.usage, lambda: self.now, self._on_close
        )
        self.wire.protocol = self.server
        self.server.connection_made(cast(asyncio.Transport, self.wire))
        self.client.initiate_connection()
        if window != 65535:
            self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.exchange()

    def _serve(self, app: Callable[[HttpRequest], Any] | None) -> Callable[[HttpRequest], Any]:
        def serve(request: HttpRequest) -> Any:
            self.requests.append(request)
            return HttpResponse(200, b"{}") if app is None else app(request)

        return serve

    def _on_close(self, _: Any) -> None:
        self.gone = True

    def exchange(self) -> None:
        """Hand over bytes both ways until nobody says anything."""
        while True:
            up = self.client.data_to_send()
            if up and self.wire.reading:
                self.server.data_received(up)
            down, self.wire.written = bytes(self.wire.written), bytearray()
            if down:
                self.events += self.client.receive_data(down)
            if not up and not down:
                return

    def get(self, headers: list[tuple[str, str]] = HEADERS, *, end: bool = True) -> int:
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, headers, end_stream=end)
        self.exchange()
        return stream_id

    def status(self, stream_id: int) -> str:
        found = [
            dict(cast("list[tuple[str, str]]", e.headers))[":status"]
            for e in self.events
            if isinstance(e, ResponseReceived) and e.stream_id == stream_id
        ]
        return found[0] if found else ""

    def body(self, stream_id: int) -> bytes:
        return b"".join(
            cast(bytes, e.data)
            for e in self.events
            if isinstance(e, DataReceived) and e.stream_id == stream_id
        )

    def seen(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def loop() -> Any:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_a_stream_is_one_request() -> None:
    pair = Pair()
    stream_id = pair.get([*HEADERS, ("x-vault-token", "t"), ("x-vault-token", "u")])
    (request,) = pair.requests
    assert (request.method, request.target, request.body) == ("GET", b"/v1/a", b"")
    assert request.headers == {b"host": b"a", b"x-vault-token": b"t"}
    assert request.peer == ("192.0.2.1", 4711)
    assert pair.status(stream_id) == "200"
    assert pair.body(stream_id) == b"{}"


def test_standard_headers_stand_on_every_answer() -> None:
    pair = Pair()
    pair.get()
    headers = dict(pair.seen(ResponseReceived)[0].headers)
    assert headers["cache-control"] == "no-store"
    assert headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == "2"


def test_a_body_arrives_whole_however_it_is_cut() -> None:
    pair = Pair()
    stream_id = pair.get(POST, end=False)
    for piece in (b'{"a"', b"", b":", b"1}"):
        pair.client.send_data(stream_id, piece)
        pair.exchange()
    pair.client.end_stream(stream_id)
    pair.exchange()
    assert pair.requests[0].body == b'{"a":1}'
    assert pair.usage.buffered == 0


def test_head_has_the_length_and_no_body() -> None:
    pair = Pair()
    stream_id = pair.get([(":method", "HEAD"), *HEADERS[1:]])
    assert dict(pair.seen(ResponseReceived)[0].headers)["content-length"] == "2"
    assert pair.body(stream_id) == b""


def test_streams_are_answered_in_the_order_of_their_answers(loop: Any) -> None:
    waiting: list[asyncio.Future[HttpResponse]] = []

    def app(request: HttpRequest) -> Any:
        if request.target == b"/v1/slow":
            waiting.append(loop.create_future())
            return waiting[0]
        return HttpResponse(200, b"quick")

    pair = Pair(app)
    slow = pair.get([HEADERS[0], (":path", "/v1/slow"), *HEADERS[2:]])
    quick = pair.get()
    assert (pair.status(slow), pair.status(quick)) == ("", "200")
    waiting[0].set_result(HttpResponse(200, b"slow"))
    loop.run_until_complete(asyncio.sleep(0))
    pair.exchange()
    assert pair.body(slow) == b"slow"


def test_an_application_that_fails_is_a_500_without_details(loop: Any) -> None:
    future = loop.create_future()
    pair = Pair(lambda _: future)
    stream_id = pair.get()
    future.set_exception(RuntimeError("canary"))
    loop.run_until_complete(asyncio.sleep(0))
    pair.exchange()
    assert pair.status(stream_id) == "500"
    assert b"canary" not in pair.body(stream_id)


# what is sent


def test_an_answer_waits_for_the_window_of_its_stream() -> None:
    body = bytes(range(256)) * 1000
    pair = Pair(lambda _: HttpResponse(200, body), window=10_000)
    stream_id = pair.get()
    assert len(pair.body(stream_id)) == 10_000
    pair.client.increment_flow_control_window(300_000, stream_id)
    pair.client.increment_flow_control_window(300_000)
    pair.exchange()
    assert pair.body(stream_id) == body


def test_an_answer_waits_for_a_client_that_does_not_read() -> None:
    body = b"x" * (8 << 20)
    pair = Pair(lambda _: HttpResponse(200, body), window=(1 << 31) - 1)
    pair.client.increment_flow_control_window((1 << 31) - 1 - 65535)
    pair.exchange()
    pair.wire.high_water = 1 << 16
    pair.client.send_headers(1, HEADERS, end_stream=True)
    pair.server.data_received(pair.client.data_to_send())
    assert len(pair.wire.written) < 1 << 18
    assert not pair.wire.reading  # nor is more taken from it
    pair.wire.high_water = 1 << 60
    while not pair.wire.reading:
        pair.events += pair.client.receive_data(bytes(pair.wire.written))
        pair.wire.written.clear()
        pair.server.resume_writing()
    pair.exchange()
    assert pair.body(1) == body


def test_a_client_that_never_reads_is_dropped() -> None:
    pair = Pair()
    pair.server.pause_writing()
    pair.server.sweep(29.0)
    assert not pair.wire.aborted
    pair.server.sweep(31.0)
    assert pair.wire.aborted


def test_a_stream_without_window_is_given_up_alone() -> None:
    pair = Pair(lambda _: HttpResponse(200, b"x" * 100), window=10)
    stuck = pair.get()
    pair.now = 31.0
    pair.server.sweep(pair.now)
    pair.exchange()
    (reset,) = pair.seen(StreamReset)
    assert (reset.stream_id, reset.error_code) == (stuck, ErrorCodes.CANCEL)
    assert pair.status(pair.get()) == "200"


# bounds


def test_threat_http_01_a_declared_body_over_the_limit_is_413_before_it_is_sent() -> None:
    pair = Pair(limits=Limits(request_bytes=1000))
    stream_id = pair.get([*POST, ("content-length", "1001")], end=False)
    assert pair.status(stream_id) == "413"
    (reset,) = pair.seen(StreamReset)  # the client may spare itself the rest
    assert (reset.stream_id, reset.error_code) == (stream_id, ErrorCodes.NO_ERROR)
    assert pair.requests == []


def test_threat_http_01_a_streamed_body_over_the_limit_is_413() -> None:
    pair = Pair(limits=Limits(request_bytes=1000))
    stream_id = pair.get(POST, end=False)
    pair.client.send_data(stream_id, b"x" * 1001)
    pair.exchange()
    assert pair.status(stream_id) == "413"
    assert pair.usage.buffered == 0
    assert pair.status(pair.get()) == "200"  # the connection lives


def test_threat_http_01_bodies_of_all_connections_together_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("undercroft.http.limits.BUFFERED_BYTES_MAX", 100_000)
    pair = Pair()
    pair.usage.buffered = 90_000  # held by others
    large, small = pair.get(POST, end=False), pair.get(POST, end=False)
    pair.client.send_data(small, b"x" * 16_000)
    for _ in range(5):
        pair.client.send_data(large, b"x" * 15_000)
        pair.exchange()
    assert pair.status(large) == "503"
    assert dict(pair.seen(ResponseReceived)[0].headers)["retry-after"] == "1"
    pair.client.end_stream(small)
    pair.exchange()
    assert pair.status(small) == "200"  # a small one is always taken
    assert SMALL_BODY_BYTES > 16_000
    assert pair.usage.buffered == 90_000


def test_threat_http_01_a_large_body_that_arrives_slowly_gives_way_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("undercroft.http.limits.BUFFERED_BYTES_MAX", 130_000)
    pair = Pair()
    slow, other = pair.get(POST, end=False), pair.get(POST, end=False)
    for stream_id in (slow, other):
        for _ in range(6):
            pair.client.send_data(stream_id, b"x" * 12_000)
            pair.exchange()
        pair.now += 5
    pair.client.end_stream(other)
    pair.exchange()
    assert (pair.status(slow), pair.status(other)) == ("503", "200")
    assert pair.usage.buffered == 0


def test_too_many_headers_are_431() -> None:
    pair = Pair()
    stream_id = pair.get([*HEADERS, *((f"x-{n}", "1") for n in range(HEADERS_MAX))])
    assert pair.status(stream_id) == "431"


def test_a_header_list_beyond_its_limit_ends_the_connection() -> None:
    pair = Pair()
    # Small on the wire, since each line after the first refers to the compression table.
    pair.get([*HEADERS, *[("x-big", "v" * 4000)] * 100])
    assert pair.wire.closed
    assert pair.requests == []
    assert pair.seen(ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM


def test_more_streams_than_allowed_end_the_connection(loop: Any) -> None:
    pair = Pair(lambda _: loop.create_future())
    pair.client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 10_000
    pair.client.remote_settings.acknowledge()
    for _ in range(STREAMS_MAX + 1):
        pair.client.send_headers(
            pair.client.get_next_available_stream_id(), HEADERS, end_stream=True
        )
    pair.exchange()
    assert pair.wire.closed
    assert len(pair.requests) <= STREAMS_MAX


def test_a_flood_of_resets_ends_the_connection(loop: Any) -> None:
    pair = Pair(lambda _: loop.create_future())
    for _ in range(RESETS_MAX + 1):
        assert not pair.wire.closed
        pair.client.reset_stream(pair.get())
        pair.exchange()
    assert pair.wire.closed
    assert pair.seen(ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "field",
    [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("X-Upper", "1"),
        ("host", "other"),
        ("x-a", "b\r\nx-vault-token: root"),
        ("x-a", "b\0"),
        ("content-length", "2, 2"),
    ],
)
def test_threat_http_08_headers_with_two_readings_reach_nobody(field: tuple[str, str]) -> None:
    pair = Pair()
    pair.client.config.validate_outbound_headers = False
    pair.client.config.normalize_outbound_headers = False
    pair.get([*HEADERS, field])
    assert pair.requests == []


def test_forwarders_in_several_lines_are_one_list() -> None:
    pair = Pair()
    pair.get([*HEADERS, ("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.9")])
    assert pair.requests[0].headers[b"x-forwarded-for"] == b"198.51.100.1, 203.0.113.9"


def test_garbage_ends_only_its_own_connection() -> None:
    pair, other = Pair(), Pair()
    pair.server.data_received(b"\0" * 100)
    assert pair.wire.closed
    assert other.status(other.get()) == "200"


# time


def test_a_body_that_trickles_is_408_whatever_else_the_client_sends() -> None:
    pair = Pair()
    stream_id = pair.get(POST, end=False)
    for pair.now in range(5, 35, 5):
        pair.client.ping(b"12345678")
        pair.client.send_data(stream_id, b"x")
        pair.exchange()
        pair.server.sweep(pair.now)
    assert pair.status(stream_id) == ""
    pair.server.sweep(31.0)
    pair.exchange()
    assert pair.status(stream_id) == "408"


def test_a_request_that_takes_too_long_is_503(loop: Any) -> None:
    future = loop.create_future()
    pair = Pair(lambda _: future, Limits(request_seconds=5.0))
    stream_id = pair.get()
    pair.server.sweep(6.0)
    pair.exchange()
    assert pair.status(stream_id) == "503"
    future.set_result(HttpResponse(200, b"late"))
    loop.run_until_complete(asyncio.sleep(0))
    pair.exchange()
    assert b"late" not in pair.body(stream_id)


def test_an_idle_connection_is_closed_with_a_goodbye() -> None:
    pair = Pair()
    pair.server.sweep(301.0)
    pair.exchange()
    assert pair.wire.closed
    assert pair.seen(ConnectionTerminated)[0].error_code == ErrorCodes.NO_ERROR


def test_a_client_that_does_not_go_is_made_to() -> None:
    pair = Pair()
    pair.server.sweep(301.0)
    pair.server.sweep(301.0 + LINGER_SECONDS + 1)
    assert pair.wire.aborted


# draining


def test_draining_finishes_what_is_in_flight_and_refuses_what_is_new(loop: Any) -> None:
    future = loop.create_future()
    pair = Pair(lambda _: future)
    stream_id = pair.get()
    pair.server.drain()
    late = pair.get()
    (reset,) = pair.seen(StreamReset)
    assert (reset.stream_id, reset.error_code) == (late, ErrorCodes.REFUSED_STREAM)
    assert len(pair.requests) == 1
    future.set_result(HttpResponse(200, b"done"))
    loop.run_until_complete(asyncio.sleep(0))
    pair.exchange()
    assert pair.body(stream_id) == b"done"
    assert pair.seen(ConnectionTerminated)[0].error_code == ErrorCodes.NO_ERROR
    assert pair.wire.closed


def test_draining_an_idle_connection_closes_it() -> None:
    pair = Pair()
    pair.server.drain()
    assert pair.wire.closed


def test_what_a_lost_connection_held_is_given_back(loop: Any) -> None:
    pair = Pair()
    stream_id = pair.get(POST, end=False)
    pair.client.send_data(stream_id, b"x" * 100)
    pair.exchange()
    assert pair.usage.buffered == 100
    pair.server.connection_lost(None)
    assert pair.usage.buffered == 0
    assert pair.gone
