"""A listener on loopback with an application of a few lines, and a transport without a network."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from undercroft.config import Listener as Settings
from undercroft.http.http1 import Http1
from undercroft.http.limits import Limits, Usage
from undercroft.http.listener import Listener
from undercroft.http.message import App, HttpRequest, HttpResponse


class Tiny:
    """Answers `METHOD target length`; below `/later/` by a future, below `/never` not at all."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # where no loop is running
        self.requests: list[HttpRequest] = []
        self.waiting: list[asyncio.Future[HttpResponse]] = []

    def __call__(self, http: HttpRequest) -> "HttpResponse | asyncio.Future[HttpResponse]":
        self.requests.append(http)
        target = http.target
        text = b"%b %b %d" % (http.method.encode(), target, len(http.body))
        response = HttpResponse(200, text, "text/plain")
        if target.startswith(b"/big/"):
            response.body = b"x" * int(target[5:])
        if target == b"/nothing":
            response = HttpResponse(204)
        if not target.startswith((b"/later", b"/never", b"/fails")):
            return response
        loop = self.loop or asyncio.get_running_loop()
        answer: asyncio.Future[HttpResponse] = loop.create_future()
        self.waiting.append(answer)
        if target.startswith(b"/later"):
            loop.call_soon(lambda: loop.call_soon(answer.set_result, response))
        elif target.startswith(b"/fails"):
            loop.call_soon(answer.set_exception, RuntimeError("secret detail"))
        return answer


class Edge:
    """A running listener. `call` runs a function on its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: Listener, port: int) -> None:
        self._loop = loop
        self.listener = listener
        self.port = port

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async def run() -> Any:
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@contextmanager
def serving(app: App, usage: Usage | None = None, **settings: Any) -> Iterator[Edge]:
    """A listener in a thread of its own; without certificates it speaks plain HTTP."""
    settings.setdefault("tls_disable", "tls_cert_file" not in settings)
    sock = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listener = Listener(Settings(**settings), app, sock, usage)
    edge = Edge(loop, listener, sock.getsockname()[1])
    try:
        edge.call(listener.start)
        yield edge
    finally:
        edge.call(listener.drain, 0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def until_closed(sock: socket.socket) -> bytes:
    """Everything until the server ends its side."""
    pieces = []
    while piece := sock.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def answer(sock: socket.socket, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Exactly one response; `bodiless` for HEAD. What follows stays in the socket."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    missing = 0 if bodiless else int(headers.get("Content-Length", "0"))
    body = b""
    while len(body) < missing:
        piece = sock.recv(missing - len(body))
        assert piece, "the connection ended inside a body"
        body += piece
    return int(first.split(" ")[1]), headers, body


class Pipe(asyncio.Transport):
    """A transport that remembers; `full` says whether its client has stopped reading."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 5)})
        self.sent = b""
        self.reading = True
        self.closed = self.aborted = self.ended = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Moved:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Connection:
    """One Http1 over a Pipe, with a moved clock."""

    def __init__(
        self,
        app: "App | None" = None,
        limits: Limits | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.clock = Moved()
        self.pipe = Pipe()
        self.usage = usage or Usage()
        self.closed: list[Http1] = []
        self.http = Http1(
            app or Tiny(), limits or Limits(), self.usage, self.clock, self.closed.append
        )
        self.http.connection_made(self.pipe)

    def receive(self, data: bytes) -> None:
        self.http.data_received(data)

    def after(self, seconds: float) -> None:
        self.clock.now += seconds
        self.http.sweep(self.clock.now)

    def sent(self) -> bytes:
        sent, self.pipe.sent = self.pipe.sent, b""
        return sent

    def statuses(self) -> list[int]:
        parts = self.sent().split(b"HTTP/1.1 ")[1:]
        return [int(part[:3]) for part in parts]
