"""What a request's `prepare` asks the replicator of its own node, over a socket of the node.

One question and one reply per connection, length-prefixed MessagePack; the asker is a thread that
may wait. Only processes of the same user are answered.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from struct import Struct
from typing import Final, TypeVar, cast

import msgspec

from undercroft.errors import Unavailable

_LENGTH: Final = Struct(">I")
_PEER: Final = Struct("3i")  # pid, uid, gid
_BYTES_MAX: Final = 1 << 20

HAND_OVER: Final = "hand-over"  # have the primary stop, and wait for its last record
RECHECK: Final = "recheck"  # try again now, and compare states
REINDEX: Final = "reindex"  # begin one

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True):
    what: str
    seconds: float = 10.0


class Reply(msgspec.Struct, frozen=True):
    """`result` is `ready`, `unreachable` or `refused`; `reason` is for people."""

    result: str
    seq: int = 0
    reason: str = ""


def ask(path: str, question: Question) -> Reply:
    """Blocks, at most as long as the question says and a little. Raises Unavailable."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(question.seconds + 5)
            sock.connect(path)
            sock.sendall(_framed(question))
            (size,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
            return msgspec.msgpack.decode(_exactly(sock, size), type=Reply)
    except (OSError, msgspec.MsgspecError):
        raise Unavailable("replication of this node is starting; nothing was changed") from None


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def _framed(value: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(value)
    return _LENGTH.pack(len(body)) + body


class ControlLink(asyncio.Protocol):
    """The replicator's side."""

    def __init__(self, answer: Callable[[Question], Awaitable[Reply]]) -> None:
        self._answer = answer
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size
        )
        if _PEER.unpack(raw)[1] != os.getuid():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < _LENGTH.size or self._task is not None:
            return
        (size,) = _LENGTH.unpack_from(self._buffer)
        if size > _BYTES_MAX:
            self._close()
        elif len(self._buffer) >= size + _LENGTH.size:
            question = msgspec.msgpack.decode(self._buffer[_LENGTH.size :], type=Question)
            self._task = asyncio.ensure_future(self._reply(question))

    async def _reply(self, question: Question) -> None:
        reply = await self._answer(question)
        if self._transport is not None:
            self._transport.write(_framed(reply))
        self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
