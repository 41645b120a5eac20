"""HTTP/2 over TLS, with the h2 library as the client: streams, windows, bounds."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from tests.unit.http.edge import Edge, Moved, Pipe, Tiny, answer, serving
from undercroft.cli.certificates import Certificates, make_certificates
from undercroft.http.http2 import RESETS_MAX, STREAMS_MAX, Http2
from undercroft.http.limits import Limits, Usage

MIB = 1 << 20
LIMITS = Limits(read_seconds=30, write_seconds=20, idle_seconds=300, request_seconds=90)


@pytest.fixture(name="certificates", scope="module")
def certificates_fixture(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(name="app")
def app_fixture() -> Tiny:
    return Tiny()


@pytest.fixture(name="edge")
def edge_fixture(app: Tiny, certificates: Certificates) -> Iterator[Edge]:
    files = {
        "tls_cert_file": str(certificates.certificate),
        "tls_key_file": str(certificates.key),
    }
    with serving(app, max_request_size=4 * MIB, **files) as edge:
        yield edge


def tls(edge: Edge, ca: Path, *protocols: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(ca))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context.wrap_socket(edge.connect(), server_hostname="localhost")


class Client:
    """One connection. `exchange` sends what is due, and reads until `done`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self.next_id = 1

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> int:
        stream_id, self.next_id = self.next_id, self.next_id + 2
        headers = [(":method", method), (":path", path), (":scheme", "https")]
        self.h2.send_headers(stream_id, [*headers, (":authority", "a")], end_stream=body is None)
        if body is not None and len(body) < 10_000:
            self.h2.send_data(stream_id, body, end_stream=True)
        elif body is not None:
            self._send_all(stream_id, body)
        return stream_id

    def _send_all(self, stream_id: int, body: bytes) -> None:
        while body:
            window = self.h2.local_flow_control_window(stream_id)
            size = min(window, self.h2.max_outbound_frame_size, len(body))
            if size == 0:
                if not self.read() or self.ended(stream_id):
                    return
                continue
            self.h2.send_data(stream_id, body[:size], end_stream=size == len(body))
            body = body[size:]

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)

    def read(self) -> bool:
        self.flush()
        data = self.sock.recv(1 << 16)
        for event in self.h2.receive_data(data) if data else []:
            self.events.append(event)
            if isinstance(event, DataReceived):
                size = event.flow_controlled_length
                self.h2.acknowledge_received_data(size, event.stream_id)
        self.flush()
        return bool(data)

    def ended(self, stream_id: int) -> bool:
        ends = (StreamEnded, StreamReset)
        return any(isinstance(e, ends) and e.stream_id == stream_id for e in self.events)

    def answer(self, stream_id: int) -> tuple[int, bytes]:
        while not self.ended(stream_id):
            assert self.read(), "the connection ended"
        (head,) = [
            event
            for event in self.events
            if isinstance(event, ResponseReceived) and event.stream_id == stream_id
        ]
        body = [
            event.data
            for event in self.events
            if isinstance(event, DataReceived) and event.stream_id == stream_id
        ]
        return int(dict(head.headers)[":status"]), b"".join(body)

    def goodbye(self) -> ConnectionTerminated:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self.read():
                pass
        return next(event for event in self.events if isinstance(event, ConnectionTerminated))


@pytest.fixture(name="client")
def client_fixture(edge: Edge, certificates: Certificates) -> Iterator[Client]:
    with tls(edge, certificates.ca, "h2") as sock:
        assert sock.selected_alpn_protocol() == "h2"
        yield Client(sock)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("http/1.1", "other")])
def test_a_client_without_h2_gets_http_11(
    edge: Edge, certificates: Certificates, protocols: tuple[str, ...]
) -> None:
    with tls(edge, certificates.ca, *protocols) as sock:
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer(sock)[2] == b"GET /a 0"


def test_a_request_is_answered_as_over_http_11(client: Client, app: Tiny) -> None:
    stream_id = client.ask("/v1/%2e//?x", "LIST")
    assert client.answer(stream_id) == (200, b"LIST /v1/%2e//?x 0")
    (request,) = app.requests
    assert (request.method, request.target) == ("LIST", b"/v1/%2e//?x")
    assert request.headers == {b"host": b"a"}
    head = next(event for event in client.events if isinstance(event, ResponseReceived))
    assert dict(head.headers) == {
        ":status": "200",
        "cache-control": "no-store",
        "strict-transport-security": "max-age=31536000; includeSubDomains",
        "x-content-type-options": "nosniff",
        "content-type": "text/plain",
        "content-length": "18",
    }


def test_a_body_arrives(client: Client) -> None:
    assert client.answer(client.ask("/a", "POST", b"body")) == (200, b"POST /a 4")
    assert client.answer(client.ask("/a", "POST", b"")) == (200, b"POST /a 0")


def test_head_and_nothing_have_no_body(client: Client) -> None:
    assert client.answer(client.ask("/a", "HEAD")) == (200, b"")
    assert client.answer(client.ask("/nothing")) == (204, b"")


def test_streams_do_not_wait_for_each_other(client: Client) -> None:
    never = client.ask("/never")
    ids = [client.ask(f"/later/{n}", "POST", b"x" * n) for n in range(20)]
    for n, stream_id in enumerate(ids):
        assert client.answer(stream_id) == (200, b"POST /later/%d %d" % (n, n))
    assert not client.ended(never)


def test_bodies_larger_than_every_window_pass_both_ways(client: Client) -> None:
    size = 3 * MIB
    assert client.answer(client.ask("/a", "POST", b"x" * size)) == (200, b"POST /a %d" % size)
    status, body = client.answer(client.ask(f"/big/{size}"))
    assert (status, len(body)) == (200, size)


def test_a_failure_of_the_application_says_nothing(client: Client) -> None:
    assert client.answer(client.ask("/fails")) == (500, b'{"errors":["internal error"]}\n')


def test_threat_http_01_a_body_over_the_limit_is_413(client: Client, app: Tiny) -> None:
    assert client.answer(client.ask("/a", "POST", b"x" * 5 * MIB))[0] == 413
    client.h2.send_headers(
        client.next_id,
        [
            (":method", "POST"),
            (":path", "/a"),
            (":scheme", "https"),
            (":authority", "a"),
            ("content-length", str(5 * MIB)),
        ],
    )
    assert client.answer(client.next_id)[0] == 413
    client.next_id += 2
    assert client.answer(client.ask("/a"))[0] == 200
    assert [request.method for request in app.requests] == ["GET"]


def test_rapid_resets_end_the_connection_and_no_other(
    edge: Edge, client: Client, app: Tiny, certificates: Certificates
) -> None:
    for _ in range(RESETS_MAX + 20):
        client.h2.reset_stream(client.ask("/never"))
    assert client.goodbye().error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert len(app.requests) <= RESETS_MAX + 1
    with tls(edge, certificates.ca, "h2") as sock:
        other = Client(sock)
        assert other.answer(other.ask("/a"))[0] == 200


def test_an_honest_client_may_reset_now_and_then(client: Client) -> None:
    for _ in range(RESETS_MAX + 20):
        client.h2.reset_stream(client.ask("/never"))
        assert client.answer(client.ask("/a"))[0] == 200


def test_a_header_list_that_is_too_large_ends_the_connection(client: Client, app: Tiny) -> None:
    client.answer(client.ask("/a"))
    headers = [(":method", "GET"), (":path", "/a"), (":scheme", "https"), (":authority", "a")]
    headers += [(f"x-{n}", "y" * 4000) for n in range(80)]
    client.h2.send_headers(client.next_id, headers, end_stream=True)
    client.goodbye()
    assert len(app.requests) == 1


def test_streams_at_once_are_bounded(client: Client) -> None:
    client.answer(client.ask("/a"))
    assert client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] == STREAMS_MAX
    client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = STREAMS_MAX + 9
    client.h2.remote_settings.acknowledge()
    for _ in range(STREAMS_MAX + 1):
        client.ask("/never")
    assert client.goodbye().error_code != ErrorCodes.NO_ERROR


def test_threat_http_04_garbage_ends_its_own_connection_only(
    edge: Edge, client: Client, certificates: Certificates
) -> None:
    with tls(edge, certificates.ca, "h2") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while sock.recv(1 << 16):
                pass
    assert client.answer(client.ask("/a"))[0] == 200


def test_a_client_that_resets_a_waiting_request_disturbs_no_other(client: Client) -> None:
    later = client.ask("/later")
    client.h2.reset_stream(later)
    assert client.answer(client.ask("/later"))[0] == 200


# times: no network


class Timed:
    """An Http2 over a Pipe with a moved clock, and the client's side of it."""

    def __init__(self) -> None:
        self.clock, self.pipe, self.usage = Moved(), Pipe(), Usage()
        self.http = Http2(Tiny(), LIMITS, self.usage, self.clock, lambda _: None)
        self.http.connection_made(self.pipe)
        self.client = H2Connection()
        self.client.initiate_connection()
        self.pass_on()

    def pass_on(self) -> list[Event]:
        self.http.data_received(self.client.data_to_send())
        sent, self.pipe.sent = self.pipe.sent, b""
        return self.client.receive_data(sent)

    def begin(self, stream_id: int, body: bytes) -> None:
        headers = [(":method", "POST"), (":path", "/a"), (":scheme", "https")]
        self.client.send_headers(stream_id, [*headers, (":authority", "a")])
        self.client.send_data(stream_id, body)
        self.pass_on()

    def after(self, seconds: float) -> list[Event]:
        self.clock.now += seconds
        self.http.sweep(self.clock.now)
        return self.pass_on()


def test_threat_http_01_a_slow_body_is_408_whatever_else_the_client_sends() -> None:
    """Else one client could hold the memory for bodies of all with a ping now and then."""
    timed = Timed()
    timed.begin(1, b"x" * 1000)
    assert timed.usage.buffered == 1000
    events: list[Event] = []
    for _ in range(4):
        timed.client.ping(b"12345678")
        events += timed.after(10)
    (head,) = [event for event in events if isinstance(event, ResponseReceived)]
    assert dict(head.headers)[b":status"] == b"408"
    assert timed.usage.buffered == 0


def test_an_idle_connection_is_closed_with_a_goodbye() -> None:
    timed = Timed()
    timed.after(299)
    assert not timed.pipe.closed
    events = timed.after(301)
    assert any(isinstance(event, ConnectionTerminated) for event in events)
    assert timed.pipe.closed


def test_a_lost_connection_gives_its_buffers_back() -> None:
    timed = Timed()
    timed.begin(1, b"x" * 1000)
    timed.begin(3, b"x" * 500)
    timed.http.connection_lost(None)
    assert timed.usage.buffered == 0


def test_draining_lets_the_requests_in_flight_finish() -> None:
    timed = Timed()
    timed.begin(1, b"x")
    timed.http.drain()
    assert not timed.pipe.closed
    timed.client.end_stream(1)
    kinds = [type(event) for event in timed.pass_on()]
    assert kinds.index(ResponseReceived) < kinds.index(ConnectionTerminated)
    assert timed.pipe.closed
