"""HTTP/1.0 and 1.1 on one connection.

No task, no future and no queue for a request that the application answers at once: bytes in,
`write` out. While a request waits, reading is paused and what was pipelined behind it stays in the
buffer, so answers go out in order. After a refusal that leaves the stream in doubt the connection
is closed. Time limits are checked by the listener's sweep.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

from undercroft.http.failure import plain
from undercroft.http.limits import (
    HEAD_BYTES_MAX,
    LINGER_SECONDS,
    SMALL_BODY_BYTES,
    Limits,
    Usage,
)
from undercroft.http.message import App, HttpRequest, HttpResponse
from undercroft.http.parse import CHUNKED, BadRequest, Block, Chunks, Head, parse_head

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_STANDARD: Final = (
    "Cache-Control: no-store\r\n"
    "Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n"
    "X-Content-Type-Options: nosniff\r\n"
)
_HEADS: Final[dict[tuple[int, str], bytes]] = {}
_PROGRESS_BYTES: Final = 16 * 1024  # less within the write timeout is not reading
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# What the connection is doing, for the sweep.
IDLE, HEAD, BODY, ANSWERING, LINGERING = range(5)


def head_of(status: int, content_type: str) -> bytes:
    """The constant part of a response's head, made once per kind."""
    head = _HEADS.get((status, content_type))
    if head is None:
        kind = f"Content-Type: {content_type}\r\n" if status not in (204, 307) else ""
        reason = _REASONS.get(status, "Unknown")
        head = f"HTTP/1.1 {status} {reason}\r\n{_STANDARD}{kind}".encode()
        _HEADS[status, content_type] = head
    return head


class Http1(asyncio.Protocol):
    """One connection. `clock` is the loop's, monotonic seconds."""

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
        self._buffer = b""
        self._last: tuple[bytes, Block] | None = None
        self._head: Head | None = None  # of the message whose body is being read or answered
        self._chunks: Chunks | None = None
        self._body = bytearray()  # one buffer: a list of tiny pieces would be many times their size
        self._body_bytes = 0
        self._writable = True
        self._blocked_since = 0.0  # or since it last took something
        self._unsent = 0
        self._draining = False
        self.state = IDLE
        self.since = clock()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer = (peer[0], peer[1])

    def connection_lost(self, error: Exception | None) -> None:
        self._release()
        self._buffer = b""
        self.state = LINGERING
        self._on_close(self)

    def data_received(self, data: bytes) -> None:
        if self.state == LINGERING:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self.state == IDLE:
            self._enter(HEAD)
        if self.state != ANSWERING:
            self._advance()

    def eof_received(self) -> bool:
        return self.state == ANSWERING  # a half-closed client still gets its answer

    def pause_writing(self) -> None:
        self._writable = False
        self._blocked_since = self._clock()
        self._unsent = self._transport.get_write_buffer_size()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self.since = self._clock()
        if self.state != ANSWERING:
            self._transport.resume_reading()
            self._advance()

    # reading

    def _advance(self) -> None:
        """Serve every complete message in the buffer, as long as each is answered at once."""
        try:
            while self._buffer and self._writable:
                if self.state in (IDLE, HEAD) and not self._read_head():
                    return
                if self.state == BODY and self._buffer and not self._read_body():
                    return
                if self.state in (ANSWERING, LINGERING):
                    return
        except BadRequest as bad:
            self._refuse(plain(bad.status, bad.text))

    def _read_head(self) -> bool:
        """Whether a head was complete; a message without a body has then been served."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: some clients end a body with one
            buffer = buffer[2:]
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(buffer) > HEAD_BYTES_MAX:
                raise BadRequest("the request's headers are too large", 431)
            return False
        head, self._last = parse_head(buffer[:end], self._last)
        self._buffer = buffer[end + 4 :]
        self._head = head
        if head.length == 0:
            self._serve(head, b"")
            return True
        self._enter(BODY)
        if head.length > self._limits.request_bytes:
            raise BadRequest("the request body is too large", 413)
        if head.length == CHUNKED:
            self._chunks = Chunks()
        if not self._buffer and head.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)
        return True

    def _read_body(self) -> bool:
        head, buffer = self._head, self._buffer
        assert head is not None
        if head.length == CHUNKED:
            assert self._chunks is not None
            piece, self._buffer, complete = self._chunks.feed(buffer)
        else:
            missing = head.length - self._body_bytes
            piece, self._buffer = buffer[:missing], buffer[missing:]
            complete = len(buffer) >= missing
        size = len(piece)
        self._body_bytes += size
        self._usage.buffered += size
        if self._body_bytes > self._limits.request_bytes:
            raise BadRequest("the request body is too large", 413)
        if self._body_bytes > SMALL_BODY_BYTES:
            if not self._usage.has_room(self, self._clock(), self._give_way):
                self._give_way()
                return False
            if complete:
                self._usage.arrived(self)
        if complete and not self._body:
            self._serve(head, piece)
            return True
        self._body += piece
        if complete:
            body, self._body = bytes(self._body), bytearray()
            self._serve(head, body)
        return complete

    # answering

    def _serve(self, head: Head, body: bytes) -> None:
        request = HttpRequest(head.method, head.target, head.headers, body, self._peer)
        answer = self._app(request)
        if isinstance(answer, HttpResponse):
            self._send(answer)
            return
        self._enter(ANSWERING)
        self._transport.pause_reading()
        answer.add_done_callback(self._answered)

    def _answered(self, done: "asyncio.Future[HttpResponse]") -> None:
        if self.state != ANSWERING or done.cancelled():
            return
        error = done.exception()
        self._send(plain(500, "internal error") if error is not None else done.result())
        if self.state != LINGERING and self._writable:
            self._transport.resume_reading()
            self._advance()

    def _send(self, response: HttpResponse) -> None:
        head = self._head
        closing, extra = self._draining, b""
        if head is not None:
            closing = closing or not head.keep_alive
            extra = b"Connection: keep-alive\r\n" if head.old and not closing else b""
        for name, value in response.headers:
            extra += f"{name}: {value}\r\n".encode("latin-1")
        if closing:
            extra += b"Connection: close\r\n"
        body = response.body
        bodiless = head is not None and head.method == "HEAD"
        self._transport.write(
            b"%bContent-Length: %d\r\n%b\r\n%b"
            % (
                head_of(response.status, response.content_type),
                len(body),
                extra,
                b"" if bodiless else body,
            )
            if response.status != 204
            else b"%b%b\r\n" % (head_of(204, ""), extra)
        )
        if self._body_bytes:
            self._release()
        if closing:
            self._enter(LINGERING)
            self._transport.close()
        else:
            self._enter(HEAD if self._buffer else IDLE)

    def _refuse(self, response: HttpResponse) -> None:
        """Answer and end: what follows in the stream cannot be trusted or is not wanted.

        What the client still sends is read and discarded for a moment, since closing at once would
        reset the connection before the answer is read. Our own side ends at once where it can.
        """
        self._buffer, self._head = b"", None
        response.headers = (*response.headers, ("Connection", "close"))
        self._send(response)
        self._enter(LINGERING)
        self._transport.resume_reading()
        if self._transport.can_write_eof():  # not within TLS
            self._transport.write_eof()

    def _give_way(self) -> None:
        self._refuse(plain(503, "too many large requests", (("Retry-After", "1"),)))

    def _release(self) -> None:
        self._usage.buffered -= self._body_bytes
        if self._body_bytes > SMALL_BODY_BYTES:
            self._usage.arrived(self)
        self._body_bytes = 0
        self._body = bytearray()

    def _enter(self, state: int) -> None:
        self.state = state
        self.since = self._clock()

    # the listener's sweep

    def sweep(self, now: float) -> None:
        """Called about once a second: end what has taken too long."""
        limits, spent = self._limits, now - self.since
        if not self._writable:
            self._sweep_blocked(now)  # nothing is read from it meanwhile: no other clock runs
        elif self.state == IDLE and spent > limits.read_header_seconds and self._last is None:
            self._transport.close()  # connections that never ask would take the places of others
        elif self.state == IDLE and spent > limits.idle_seconds:
            self._transport.close()
        elif self.state == HEAD and spent > limits.read_header_seconds:
            self._refuse(plain(408, "the request's headers did not arrive in time"))
        elif self.state == BODY and spent > limits.read_seconds:
            self._refuse(plain(408, "the request's body did not arrive in time"))
        elif self.state == ANSWERING and spent > limits.request_seconds:
            self._refuse(plain(503, "the request took too long; its outcome is unknown"))
        elif self.state == LINGERING:
            unsent = self._transport.get_write_buffer_size()
            if spent > (limits.write_seconds if unsent else LINGER_SECONDS):
                self._transport.abort()

    def _sweep_blocked(self, now: float) -> None:
        """A long answer may take its time as long as some of it is taken; else it ends."""
        unsent = self._transport.get_write_buffer_size()
        if unsent <= self._unsent - _PROGRESS_BYTES:
            self._unsent, self._blocked_since = unsent, now
        elif now - self._blocked_since > self._limits.write_seconds:
            self._transport.abort()

    def drain(self) -> None:
        """Finish the request in flight, take no other."""
        self._draining = True
        if self.state == IDLE:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
