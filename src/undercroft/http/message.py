"""One HTTP exchange, whatever protocol version carried it."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias


class HttpRequest:
    """What a client sent, complete. `headers` holds the first value of each lower-case name."""

    __slots__ = ("body", "headers", "method", "open_metrics", "peer", "redacted", "target")

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        peer: tuple[str, int],
    ) -> None:
        self.open_metrics = False  # whether its listener gives metrics to anyone
        self.redacted: frozenset[str] = frozenset()  # what its listener keeps back
        self.method = method
        self.target = target  # raw: path and query as they came
        self.headers = headers
        self.body = body
        self.peer = peer

    def __repr__(self) -> str:
        return f"<HttpRequest {self.method}>"  # never target, headers or body


class HttpResponse:
    """What is sent back. `headers` come beside the standard ones: visible ASCII, else ValueError.

    A line break in one would let whoever chose its value write an answer of his own (splitting).
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        for name, value in headers:
            if not (name + value).isascii() or not (name + value).isprintable():
                raise ValueError(f"the response header {name!r} cannot be sent")  # not the value
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers

    def __repr__(self) -> str:
        return f"<HttpResponse {self.status}>"


# A plain return is sent at once, without a task; a future is sent when it is done.
App: TypeAlias = "Callable[[HttpRequest], HttpResponse | asyncio.Future[HttpResponse]]"
