"""HTTP/2 on one connection, over the h2 library (ALPN chooses it on TLS).

The same application as HTTP/1: one `HttpRequest` a stream. Streams, header lists, bodies and resets
are bounded; each stream has its own clock, so that frames which mean nothing keep nothing alive.
What is received is acknowledged at once, since bodies are bounded by size and by their sum; what is
sent waits for the stream's window and for the transport, so that a client which asks for much and
reads nothing costs one buffer, not its answers. Time limits are checked by the listener's sweep.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hpack.hpack import Encoder, encode_integer

from undercroft.http.failure import plain
from undercroft.http.limits import (
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    LINGER_SECONDS,
    SMALL_BODY_BYTES,
    Limits,
    Usage,
)
from undercroft.http.message import App, HttpRequest, HttpResponse

STREAMS_MAX: Final = 128
# CVE-2023-44487: a client that opens and resets streams all the time is only there to do harm.
RESETS_MAX: Final = 200
_WINDOW: Final = 1 << 20
_FLUSH_BYTES: Final = 1 << 17  # as much is given to the transport before asking whether it stalls
_STANDARD: Final = (
    (b"cache-control", b"no-store"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
)
# What is sent is ours, in lower case and checked; what is received is validated in full.
_CONFIGURATION: Final = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)

# What a stream is doing, for the sweep.
READING, ANSWERING, SENDING = range(3)


class _PlainEncoder(Encoder):
    """Writes each header as it is (RFC 7541, 6.2.2), from a cache, without table and Huffman code.

    Some 150 bytes more on the wire for a third of the time that an answer takes. It also leaves
    nothing for a compression oracle (CRIME): no answer's length depends on another's content.
    """

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        if self.header_table.resized:  # the client must be told first, and hpack knows how
            return super().encode(headers, huffman)
        return b"".join([_LINES.get(field) or _line(*field) for field in headers])


_LINES: Final[dict[tuple[bytes, bytes], bytes]] = {}  # filled at the end of the module


def _line(name: bytes, value: bytes) -> bytes:
    return b"\0" + _prefixed(name) + _prefixed(value)


def _prefixed(text: bytes) -> bytes:
    return bytes(encode_integer(len(text), 7)) + text


class _Stream:
    """One request being read, answered, or its answer being sent."""

    __slots__ = (
        "body",
        "complete",
        "headers",
        "method",
        "sent",
        "since",
        "state",
        "target",
        "unsent",
    )

    def __init__(self, method: str, target: bytes, headers: dict[bytes, bytes], now: float) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = bytearray()  # one buffer: a list of tiny pieces would be many times their size
        self.complete = False  # the client has sent all of it
        self.unsent = b""
        self.sent = 0
        self.state = READING
        self.since = now


class Http2(asyncio.Protocol):
    """Takes over a transport whose TLS handshake chose h2. `app` never raises."""

    def __init__(
        self,
        app: App,
        limits: Limits,
        usage: Usage,
        clock: Callable[[], float],
        on_close: Callable[[Any], None],
    ) -> None:
        self._app = app
        self._limits = limits
        self._usage = usage
        self._clock = clock
        self._on_close = on_close
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._peer = ("", 0)
        self._streams: dict[int, _Stream] = {}
        self._resets = 0
        self._closed = False  # no stream is served any more
        self._last_stream: int | None = None  # draining: the last that is still served
        self._corked = False
        self._unflushed = 0
        self._writable = True
        self._blocked_since = 0.0
        self._connection = H2Connection(_CONFIGURATION)
        self._connection.encoder = _PlainEncoder()
        self.since = clock()  # of the last thing received

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = (peer[0], peer[1])
        self._connection.initiate_connection()
        self._connection.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEAD_BYTES_MAX,
                SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
                SettingCodes.ENABLE_PUSH: 0,
            }
        )
        self._connection.increment_flow_control_window(16 * _WINDOW)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        for stream_id in list(self._streams):
            self._forget(stream_id)
        self._on_close(self)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        self.since = self._clock()
        try:
            events = self._connection.receive_data(data)
        except (ProtocolError, ValueError):
            self._end()
            return
        self._corked = True
        for event in events:
            if self._closed:
                break
            self._on_event(event)
        self._corked = False
        self._flush()

    def pause_writing(self) -> None:
        """Reading stops too: else a client could have answers (or pings' echoes) pile up here."""
        self._writable = False
        self._blocked_since = self._clock()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self._transport.resume_reading()
        for stream_id in list(self._streams):
            self._send_more(stream_id)
        self._flush()

    # events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._on_request(event)
        elif isinstance(event, DataReceived):
            self._on_data(event)
        elif isinstance(event, StreamEnded):
            self._on_end(event.stream_id)
        elif isinstance(event, WindowUpdated):
            for stream_id in [event.stream_id] if event.stream_id else list(self._streams):
                self._send_more(stream_id)
        elif isinstance(event, StreamReset):
            self._forget(event.stream_id)
            self._resets += 1
            if self._resets > RESETS_MAX:
                self._connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                self._end()
        elif isinstance(event, ConnectionTerminated):
            self._end()

    def _on_request(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        if self._last_stream is not None and stream_id > self._last_stream:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        headers = _headers_of(event.headers)
        method = headers.pop(b":method", b"").decode("latin-1")
        target = headers.pop(b":path", b"")
        stream = self._streams[stream_id] = _Stream(method, target, headers, self.since)
        stream.complete = event.stream_ended is not None
        length = headers.get(b"content-length", b"0")
        if len(event.headers) > HEADERS_MAX:
            self._send(stream_id, stream, plain(431, "the request has too many headers"))
        elif len(length) > 18 or (length.isdigit() and int(length) > self._limits.request_bytes):
            self._send(stream_id, stream, plain(413, "the request body is too large"))

    def _on_data(self, event: DataReceived) -> None:
        stream_id = event.stream_id
        self._connection.acknowledge_received_data(event.flow_controlled_length, stream_id)
        stream = self._streams.get(stream_id)
        if stream is None or stream.state != READING:
            return
        stream.complete = event.stream_ended is not None
        stream.body += event.data
        size = len(stream.body)
        self._usage.buffered += len(event.data)
        if size > self._limits.request_bytes:
            self._send(stream_id, stream, plain(413, "the request body is too large"))
        elif size > SMALL_BODY_BYTES:
            give_way = partial(self._give_way, stream_id, stream)
            if not self._usage.has_room(stream, self.since, give_way):
                give_way()

    def _give_way(self, stream_id: int, stream: _Stream) -> None:
        full = plain(503, "too many large requests", (("Retry-After", "1"),))
        self._send(stream_id, stream, full)
        self._flush()

    def _on_end(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.state != READING:
            return
        self._usage.arrived(stream)
        stream.complete = True
        stream.state, stream.since = ANSWERING, self.since
        body = bytes(stream.body)
        answer = self._app(
            HttpRequest(stream.method, stream.target, stream.headers, body, self._peer)
        )
        if isinstance(answer, HttpResponse):
            self._send(stream_id, stream, answer)
        else:
            answer.add_done_callback(lambda done: self._answered(stream_id, stream, done))

    def _answered(
        self, stream_id: int, stream: _Stream, done: "asyncio.Future[HttpResponse]"
    ) -> None:
        if done.cancelled() or self._streams.get(stream_id) is not stream:
            return
        if stream.state != ANSWERING:
            return  # it took too long and was told so
        error = done.exception()
        response = plain(500, "internal error") if error is not None else done.result()
        self._send(stream_id, stream, response)
        self._flush()

    # sending

    def _send(self, stream_id: int, stream: _Stream, response: HttpResponse) -> None:
        """Answer, whether or not the request was read to its end."""
        self._drop_body(stream)
        stream.state, stream.since = SENDING, self._clock()
        body = b"" if stream.method == "HEAD" else response.body
        headers = [(b":status", b"%d" % response.status), *_STANDARD]
        if response.status not in (204, 307):
            headers.append((b"content-type", response.content_type.encode()))
            headers.append((b"content-length", b"%d" % len(response.body)))
        headers += [(n.lower().encode(), v.encode("latin-1")) for n, v in response.headers]
        try:
            self._connection.send_headers(stream_id, headers, end_stream=not body)
        except ProtocolError:
            self._forget(stream_id)
            return
        if body:
            stream.unsent = body
            self._send_more(stream_id)
        else:
            self._finished(stream_id, stream)

    def _send_more(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or not stream.unsent:
            return
        connection, body, at, end = self._connection, stream.unsent, stream.sent, len(stream.unsent)
        try:
            while at < end and self._writable:
                window = connection.local_flow_control_window(stream_id)
                size = min(window, connection.max_outbound_frame_size, end - at)
                if size <= 0:
                    break
                connection.send_data(stream_id, body[at : at + size], end_stream=at + size == end)
                at += size
                self._unflushed += size
                if self._unflushed > _FLUSH_BYTES:
                    self._write()
        except ProtocolError:
            self._forget(stream_id)
            return
        if at > stream.sent:
            stream.sent, stream.since = at, self._clock()
        if at == end:
            self._finished(stream_id, stream)

    def _finished(self, stream_id: int, stream: _Stream) -> None:
        if not stream.complete:  # answered before its end: the client need not send the rest
            self._reset(stream_id, ErrorCodes.NO_ERROR)
        self._streams.pop(stream_id, None)
        self._resets = max(0, self._resets - 1)  # an honest request makes up for one reset
        if self._last_stream is not None and not self._streams:
            self._end()

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._drop_body(stream)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with contextlib.suppress(ProtocolError):  # it is closed already
            self._connection.reset_stream(stream_id, code)

    def _drop_body(self, stream: _Stream) -> None:
        self._usage.buffered -= len(stream.body)
        self._usage.arrived(stream)
        stream.body = bytearray()

    def _flush(self) -> None:
        """One write for everything that a read has caused."""
        if not self._corked and not self._closed:
            self._write()

    def _write(self) -> None:
        self._unflushed = 0
        data = self._connection.data_to_send()
        if data:
            self._transport.write(data)

    def _end(self) -> None:
        """Say goodbye (once) and close."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(ProtocolError):  # h2 has said why already
            self._connection.close_connection()
        self._write()
        self.since = self._clock()
        self._transport.close()

    # the listener's sweep

    def sweep(self, now: float) -> None:
        """Called about once a second: end what has taken too long."""
        limits = self._limits
        if self._closed:
            if now - self.since > LINGER_SECONDS:
                self._transport.abort()
        elif not self._writable:
            if now - self._blocked_since > limits.write_seconds:
                self._transport.abort()  # a client that does not read its answers
        elif not self._streams:
            if now - self.since > limits.idle_seconds:
                self._end()
        else:
            for stream_id, stream in list(self._streams.items()):
                self._sweep_stream(stream_id, stream, now - stream.since)
            self._flush()

    def _sweep_stream(self, stream_id: int, stream: _Stream, spent: float) -> None:
        limits = self._limits
        if stream.state == READING and spent > limits.read_seconds:
            late = plain(408, "the request's body did not arrive in time")
            self._send(stream_id, stream, late)
        elif stream.state == ANSWERING and spent > limits.request_seconds:
            late = plain(503, "the request took too long; its outcome is unknown")
            self._send(stream_id, stream, late)
        elif stream.state == SENDING and spent > limits.write_seconds:
            self._reset(stream_id, ErrorCodes.CANCEL)  # it opens no window
            self._forget(stream_id)

    def drain(self) -> None:
        """Finish the requests in flight; later ones are refused unread, so they may be repeated.

        The goodbye comes last: clients built on h2 take none of the answers that come behind one.
        """
        self._last_stream = self._connection.highest_inbound_stream_id
        if not self._streams:
            self._end()

    def abort(self) -> None:
        self._transport.abort()


def _headers_of(fields: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The first of each name (conv 15), but lists of forwarders whole, as in `parse`."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in (b"x-forwarded-for", b"x-vault-index") and name in headers:
            headers[name] += b", " + value
        else:
            headers.setdefault(name, value)
    headers.pop(b":scheme", None)
    authority = headers.pop(b":authority", None)
    if authority is not None:
        headers.setdefault(b"host", authority)
    return headers


_LINES.update(
    {
        field: _line(*field)
        for field in (
            *_STANDARD,
            (b"content-type", b"application/json"),
            *((b":status", b"%d" % status) for status in (200, 204, 400, 403, 404, 405, 503)),
        )
    }
)
