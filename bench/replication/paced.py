"""A client with a rhythm: requests at a fixed rate, on connections that stay, in one event loop.

wrk sends as fast as the server answers; lag and latency are wanted at a given rate. A request that
has to wait for a free connection counts from the moment at which it was due, so a server that
stalls cannot hide it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time. Bodies must come with a Content-Length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> "asyncio.Future[int]":
        """The status, once the whole answer is here."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer = self._buffer[end + 4 + length :]
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(frozen=True)
class Served:
    """Latencies in ms; `per_second` is what came of the wanted rate."""

    latencies: list[float]
    per_second: float


async def connect(port: int) -> Connection:
    _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return made


def request(method: str, path: str, token: str, payload: bytes = b"") -> bytes:
    """The bytes of one. `path` is below /v1/."""
    head = f"{method} /v1/{path} HTTP/1.1\r\nHost: bench\r\nX-Vault-Token: {token}\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


async def at_rate(
    connections: list[Connection],
    per_second: float,
    count: int,
    make: Callable[[int], bytes],
    acknowledged: Callable[[int], None] = lambda number: None,
) -> Served:
    """`count` requests. Raises RuntimeError for an answer of 400 or more."""
    free = deque(connections)
    came = asyncio.Event()
    latencies: list[float] = []
    running: set[asyncio.Task[None]] = set()

    async def one(connection: Connection, number: int, due: float) -> None:
        status = await connection.send(make(number))
        latencies.append((time.monotonic() - due) * 1000)
        free.append(connection)
        came.set()
        if status >= 400:
            raise RuntimeError(f"request {number}: {status}")
        acknowledged(number)

    began = time.monotonic()
    for number in range(count):
        due = began + number / per_second
        ahead = due - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        while not free:
            came.clear()
            await came.wait()
        task = asyncio.ensure_future(one(free.popleft(), number, due))
        running.add(task)
        if len(running) > 4 * len(connections):
            for done in [t for t in running if t.done()]:
                running.discard(done)
                done.result()
    await asyncio.gather(*running)
    return Served(latencies, count / (time.monotonic() - began))


async def as_fast_as_possible(
    connections: list[Connection], count: int, make: Callable[[int], bytes]
) -> float:
    """`count` requests, each connection busy all the time; how many a second."""
    numbers = iter(range(count))

    async def work(connection: Connection) -> None:
        for number in numbers:
            status = await connection.send(make(number))
            if status >= 400:
                raise RuntimeError(f"request {number}: {status}")

    began = time.monotonic()
    await asyncio.gather(*(work(connection) for connection in connections))
    return count / (time.monotonic() - began)
