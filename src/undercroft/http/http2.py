"""HTTP/2 on one connection, over the h2 library (ALPN chooses it on TLS).

The same application as HTTP/1: one `HttpRequest` a stream. Flow control is honoured both ways: what
is received is acknowledged when the body is complete or refused, what cannot be sent yet waits for
its window. Streams, header lists, bodies and resets are bounded.
"""

import asyncio
from collections.abc import Callable
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
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes

from undercroft.http.failure import plain
from undercroft.http.limits import BUFFERED_BYTES_MAX, HEAD_BYTES_MAX, Limits, Usage
from undercroft.http.message import App, HttpRequest, HttpResponse

STREAMS_MAX: Final = 128
# CVE-2023-44487: a client that opens and resets streams all the time is only there to do harm.
RESETS_MAX: Final = 200
_WINDOW: Final = 1 << 20
_STANDARD: Final = (
    (b"cache-control", b"no-store"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
)


class _Stream:
    """One request being read, or answered."""

    __slots__ = ("body", "ended", "headers", "method", "since", "size", "target", "unsent")

    def __init__(
        self, method: str, target: bytes, headers: dict[bytes, bytes], since: float
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.since = since  # when it began, then when it was complete
        self.body = bytearray()
        self.size = 0
        self.ended = False  # the request is complete, or has been refused
        self.unsent = b""


class Http2(asyncio.Protocol):
    """Takes over a transport whose TLS handshake chose h2."""

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
        self._closed = False
        self._draining = False
        self._corked = False
        self._connection = H2Connection(
            H2Configuration(
                client_side=False, header_encoding=None, validate_outbound_headers=False
            )
        )
        self.since = clock()

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
        for stream in self._streams.values():
            self._usage.buffered -= stream.size
        self._streams.clear()
        self._on_close(self)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        self.since = self._clock()
        try:
            events = self._connection.receive_data(data)
        except (ProtocolError, ValueError):
            self._flush()
            self._end()
            return
        self._corked = True
        for event in events:
            self._on_event(event)
            if self._closed:
                return
        self._corked = False
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
        headers: dict[bytes, bytes] = {}
        for name, value in event.headers:
            if name == b"x-forwarded-for" and name in headers:
                headers[name] += b", " + value  # as in HTTP/1
            headers.setdefault(name, value)
        method = headers.pop(b":method", b"").decode("latin-1")
        target = headers.pop(b":path", b"")
        headers.pop(b":scheme", None)
        authority = headers.pop(b":authority", None)
        if authority is not None:
            headers.setdefault(b"host", authority)
        stream_id = event.stream_id
        stream = self._streams[stream_id] = _Stream(method, target, headers, self._clock())
        length = headers.get(b"content-length", b"0")
        if len(length) > 18 or (length.isdigit() and int(length) > self._limits.request_bytes):
            self._refuse(stream_id, stream, plain(413, "the request body is too large"))

    def _on_data(self, event: DataReceived) -> None:
        stream_id, size = event.stream_id, event.flow_controlled_length
        self._connection.acknowledge_received_data(size, stream_id)
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            return
        data = event.data
        stream.body += data
        stream.size += len(data)
        self._usage.buffered += len(data)
        if stream.size > self._limits.request_bytes:
            self._refuse(stream_id, stream, plain(413, "the request body is too large"))
        elif self._usage.buffered > BUFFERED_BYTES_MAX:
            full = plain(503, "too many large requests", (("Retry-After", "1"),))
            self._refuse(stream_id, stream, full)

    def _on_end(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            return
        stream.ended = True
        stream.since = self._clock()
        body, stream.body = bytes(stream.body), bytearray()
        request = HttpRequest(stream.method, stream.target, stream.headers, body, self._peer)
        answer = self._app(request)
        if isinstance(answer, HttpResponse):
            self._send(stream_id, stream, answer)
        else:
            answer.add_done_callback(lambda done: self._answered(stream_id, stream, done))

    def _answered(
        self, stream_id: int, stream: _Stream, done: "asyncio.Future[HttpResponse]"
    ) -> None:
        if self._closed or done.cancelled() or self._streams.get(stream_id) is not stream:
            return
        error = done.exception()
        response = plain(500, "internal error") if error is not None else done.result()
        self._send(stream_id, stream, response)
        self._flush()

    # sending

    def _refuse(self, stream_id: int, stream: _Stream, response: HttpResponse) -> None:
        stream.ended = True
        stream.since = self._clock()
        self._send(stream_id, stream, response)

    def _send(self, stream_id: int, stream: _Stream, response: HttpResponse) -> None:
        self._usage.buffered -= stream.size
        stream.size = 0
        stream.body = bytearray()
        body = b"" if stream.method == "HEAD" else response.body
        headers = [(b":status", b"%d" % response.status), *_STANDARD]
        if response.status not in (204, 307):
            headers.append((b"content-type", response.content_type.encode()))
            headers.append((b"content-length", b"%d" % len(response.body)))
        headers += [(n.lower().encode(), v.encode("latin-1")) for n, v in response.headers]
        try:
            self._connection.send_headers(stream_id, headers, end_stream=not body)
        except (StreamClosedError, ProtocolError):
            self._forget(stream_id)
            return
        if body:
            stream.unsent = body
            self._send_more(stream_id)
        else:
            self._finished(stream_id)

    def _send_more(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or not stream.unsent:
            return
        connection = self._connection
        try:
            while stream.unsent:
                window = connection.local_flow_control_window(stream_id)
                size = min(window, connection.max_outbound_frame_size, len(stream.unsent))
                if size <= 0:
                    return
                piece, stream.unsent = stream.unsent[:size], stream.unsent[size:]
                connection.send_data(stream_id, piece, end_stream=not stream.unsent)
        except (StreamClosedError, ProtocolError):
            self._forget(stream_id)
            return
        self._finished(stream_id)

    def _finished(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)
        self._resets = max(0, self._resets - 1)  # an honest request makes up for one reset
        if self._draining and not self._streams:
            self._connection.close_connection()
            self._end()

    def _forget(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._usage.buffered -= stream.size

    def _flush(self) -> None:
        """One write for everything that a read has caused."""
        if self._corked or self._closed:
            return
        data = self._connection.data_to_send()
        if data:
            self._transport.write(data)

    def _end(self) -> None:
        self._corked = False
        self._flush()
        self._closed = True
        self._transport.close()

    # the listener's sweep

    def sweep(self, now: float) -> None:
        """Each stream has its own time: other traffic on the connection does not prolong it."""
        if self._closed:
            if now - self.since > self._limits.write_seconds:
                self._transport.abort()  # a client that does not read even the goodbye
            return
        limits = self._limits
        for stream_id, stream in list(self._streams.items()):
            spent = now - stream.since
            if not stream.ended and spent > limits.read_seconds:
                late = plain(408, "the request did not arrive in time")
                self._refuse(stream_id, stream, late)
            elif stream.ended and spent > limits.request_seconds + limits.write_seconds:
                self._transport.abort()  # a client that gives its streams no window
                return
        if not self._streams and now - self.since > limits.idle_seconds:
            self._connection.close_connection()
            self._end()
        self._flush()

    def drain(self) -> None:
        """Finish the requests in flight, then say goodbye."""
        self._draining = True
        if not self._streams:
            self._connection.close_connection()
            self._end()

    def abort(self) -> None:
        self._transport.abort()
