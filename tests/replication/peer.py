"""A secondary that keeps to no rule: a connection to the cluster port, and any frames one likes.

It has what a real one has, the grant of its activation, so what it is refused is refused by the
primary and by nothing else.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from tests.replication.clusters import ok
from tests.support.undercroft import Client
from undercroft.node.frames import Answer
from undercroft.replication import authority
from undercroft.replication.activation import Grant
from undercroft.replication.joining import grant_of
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.request.model import Operation, Request
from undercroft.request.vouched import Vouched
from undercroft.storage.wal import START

SECONDS = 10.0

F = TypeVar("F", bound=Frame)


def granted(primary: Client, secondary_id: str, **more: Any) -> Grant:
    """An activation, its token used here."""
    made = ok(primary, "primary/secondary-token", {"id": secondary_id, **more})
    return unwrapped(primary, made["wrap_info"]["token"])


def unwrapped(primary: Client, token: str) -> Grant:
    answer = primary.request("POST", "sys/wrapping/unwrap", token=token)
    assert answer.status == 200, answer
    return grant_of(answer.body["data"])


class Peer:
    """One connection. `heard` is all that came, deciphered."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.heard = b""
        self._decoder = frames.Decoder(frames.FRAME_BYTES_MAX)
        self._waiting: list[Frame] = []

    def send(self, *sent: Frame) -> None:
        self.sock.sendall(b"".join(map(frames.encode, sent)))

    def greet(self, intent: str = frames.STREAM, **more: Any) -> frames.Welcome:
        """As one that has nothing yet, unless said otherwise."""
        self.send(hello(intent, **more))
        return self.expect(frames.Welcome)

    def expect(self, kind: type[F]) -> F:
        """The next frame of a kind, whatever comes before it. EOFError when there is none."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            while self._waiting:
                frame = self._waiting.pop(0)
                if isinstance(frame, kind):
                    return frame
            if not self._read(deadline):
                raise EOFError(f"it hung up before a {kind.__name__}")
        raise TimeoutError(kind.__name__)

    def rest(self, seconds: float = SECONDS) -> list[Frame]:
        """All that comes until the other side hangs up. Fails when it does not."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        frames_left, self._waiting = self._waiting, []
        return frames_left

    def forward(self, number: int, vouched: Vouched) -> Answer:
        self.send(frames.Forward(number, msgspec.msgpack.encode(vouched)))
        answer = self.expect(frames.Forwarded)
        assert answer.number == number
        return msgspec.msgpack.decode(answer.answer, type=Answer)

    def _read(self, deadline: float) -> bool:
        self.sock.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            data = self.sock.recv(1 << 16)
        except (ConnectionError, ssl.SSLError) as error:
            if isinstance(error, TimeoutError):
                raise
            return False
        self.heard += data
        self._waiting += [frame for frame, _ in self._decoder.feed(data)]
        return bool(data)


def hello(intent: str = frames.STREAM, **more: Any) -> frames.Hello:
    fields = {"lineage": None, "position": START, "term": 0, "partial": True, **more}
    low, high = frames.VERSION_LOW, frames.VERSION_HIGH
    return frames.Hello(low, high, intent, "test", "a-cluster-of-its-own", **fields)


@contextlib.contextmanager
def connected(grant: Grant, context: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """To the primary's cluster port. Raises OSError when TLS does not come about."""
    host, _, port = grant.addresses[0].rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=SECONDS) as plain,
        (context or authority.client_context(grant.credentials)).wrap_socket(
            plain, server_hostname=authority.server_name(grant.set_id)
        ) as sock,
    ):
        yield Peer(sock)


def call(method: Operation, path: str, body: Any = None, *policies: str) -> Vouched:
    """A call that it vouches for: with any policies it likes."""
    request = Request(
        id="0b6c2b9e-6f0d-4d0f-9a39-6a2f3a3f7c11",
        operation=method,
        path=path,
        body=b"" if body is None else msgspec.json.encode(body),
        remote_address="192.0.2.7",
    )
    return Vouched(request, bool(policies), policies)
