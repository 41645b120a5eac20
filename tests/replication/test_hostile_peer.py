"""A secondary with a real certificate that keeps to no rule, on the real cluster port (R-24, R-04).

Whatever it sends, or does not send, or does not read: the primary goes on serving its other
secondary and its clients, out of the same process and with memory that does not grow with it.
"""

import contextlib
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.replication.clusters import ok, settle, write
from tests.replication.pair import Pair, replicating_pair, replicator_of, status
from tests.replication.peer import SECONDS, Peer, call, connected, granted
from tests.support.undercroft import until
from undercroft.replication.activation import Grant
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.primary import FORWARDS_MAX
from undercroft.request.model import Operation

MIB = 1 << 20
HUNG_UP_SECONDS = 20.0  # a handshake has 10 s, and so has silence
FLOOD = 120_000  # questions: some 3 MiB, whose answers would be 500 MiB


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair")) as made:
        yield made


@pytest.fixture
def grant(pair: Pair) -> Iterator[Grant]:
    """Of the hostile one. What it does ends neither the process nor the other one's session."""
    replicator = replicator_of(pair.primary_server)
    yield granted(pair.primary, "perth")
    assert goes_on(pair)
    assert replicator_of(pair.primary_server) == replicator
    ok(pair.primary, "primary/revoke-secondary", {"id": "perth"})


def goes_on(pair: Pair) -> bool:
    """A client writes, the other secondary has it, and its session is the one that it had."""
    stands = is_connected(pair, "osaka")
    write(pair.primary, f"at-{time.monotonic_ns()}")
    settle(pair.secondary, pair.primary)
    return stands


def head(size: int, kind: int = 1, flags: int = 0) -> bytes:
    return struct.pack(">IBB", size, kind, flags)


def last_word(peer: Peer) -> str:
    """Why the primary hung up."""
    last = peer.rest()[-1]
    assert isinstance(last, frames.Bye)
    assert last.code == "protocol"
    return last.text


def send_much(peer: Peer, size: int) -> None:
    """Bytes that are no frame; whether they are still listened to is the other side's affair."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        for _ in range(size // MIB):
            peer.sock.sendall(b"A" * MIB)


class Memory:
    """The greatest that a process has had since this was made, in bytes more than it had then.

    Only root can have the kernel forget what it had before: for others it is that more, or nothing.
    """

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        with contextlib.suppress(PermissionError):
            (self._proc / "clear_refs").write_text("5")
        self._before = self._peak()

    def _peak(self) -> int:
        text = (self._proc / "status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
        assert found
        return int(found[1]) << 10

    @property
    def grown(self) -> int:
        return self._peak() - self._before


@pytest.mark.parametrize("size", [0, 1, frames.HELLO_BYTES_MAX + 1, frames.FRAME_BYTES_MAX])
def test_threat_r_24_before_the_hello_no_frame_is_longer_than_a_hello(
    pair: Pair, grant: Grant, size: int
) -> None:
    with connected(grant) as peer:
        peer.sock.sendall(head(size))  # its length alone is enough
        assert last_word(peer) == f"a frame of {size} bytes"


@pytest.mark.parametrize("size", [0, 1, frames.FRAME_BYTES_MAX + 1, (1 << 32) - 1])
def test_threat_r_24_no_frame_is_longer_than_what_a_request_may_be(
    pair: Pair, grant: Grant, size: int
) -> None:
    with connected(grant) as peer:
        peer.greet()
        peer.sock.sendall(head(size, frames.Forward.TYPE))
        assert last_word(peer) == f"a frame of {size} bytes"


def test_threat_r_24_a_length_that_lies_ends_the_session(pair: Pair, grant: Grant) -> None:
    """Cut short, what is left of the frame is the head of another that makes no sense."""
    with connected(grant) as peer:
        peer.greet()
        whole = frames.encode(frames.AskNodes(b"s" * 17))
        peer.sock.sendall(head(len(whole) - 4 - 9, frames.AskNodes.TYPE) + whole[6:])
        assert "does not parse" in last_word(peer)


def test_threat_r_24_what_never_ends_is_cut_off_where_it_may_be_no_longer(
    pair: Pair, grant: Grant
) -> None:
    """Bytes without end that are no frame, and a frame that has all the bytes it may have."""
    memory = Memory(replicator_of(pair.primary_server))
    with connected(grant) as peer:
        send_much(peer, 64 * MIB)
        assert last_word(peer) == f"a frame of {int.from_bytes(b'AAAA', 'big')} bytes"
    with connected(grant) as peer:
        peer.greet()
        peer.sock.sendall(head(frames.FRAME_BYTES_MAX, frames.Announce.TYPE))
        send_much(peer, 2 * frames.FRAME_BYTES_MAX)
        assert "does not parse" in last_word(peer)
    assert memory.grown < 3 * frames.FRAME_BYTES_MAX + 32 * MIB


@pytest.mark.parametrize("kind", ["short", "long"])
def test_threat_r_24_who_asks_without_end_and_never_reads_is_hung_up_on(
    pair: Pair, grant: Grant, kind: str
) -> None:
    memory = Memory(replicator_of(pair.primary_server))
    with connected(grant) as peer:
        peer.greet()
        peer.send(frames.AskHeads())
        mount = next(iter(peer.expect(frames.Heads).heads))
        question = frames.AskNodes(mount) if kind == "short" else frames.AskScan(mount, b"")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            peer.sock.sendall(frames.encode(question) * FLOOD)
        assert goes_on(pair)
        until(lambda: not is_connected(pair), seconds=HUNG_UP_SECONDS)
    assert memory.grown < 64 * MIB


def test_threat_r_24_who_never_reads_its_answers_is_not_listened_to_and_then_hung_up_on(
    pair: Pair, grant: Grant
) -> None:
    """What it has forwarded is answered as far as there is room; the rest is not even run."""
    assert pair.primary.request("POST", "kv1/long", {"v": "v" * MIB}).status == 204
    asked = call(Operation.READ, "kv1/long", None, "all")
    memory = Memory(replicator_of(pair.primary_server))
    with connected(grant) as peer:
        peer.greet()
        for number in range(1, 401):
            peer.send(frames.Forward(number, msgspec.msgpack.encode(asked)))
        assert goes_on(pair)
        until(lambda: not is_connected(pair), seconds=HUNG_UP_SECONDS)
    assert memory.grown < 2 * FORWARDS_MAX * MIB + 64 * MIB


def is_connected(pair: Pair, secondary_id: str = "perth") -> bool:
    return any(
        s["node_id"] == secondary_id and s["connection_status"] == "connected"
        for s in status(pair.primary)["secondaries"]
    )


def test_threat_r_24_who_says_nothing_is_hung_up_on(pair: Pair, grant: Grant) -> None:
    """Hundreds that never shake hands, one without a Hello, one that stops amid a frame."""
    host, _, port = grant.addresses[0].rpartition(":")
    with contextlib.ExitStack() as stack:
        silent: list[socket.socket] = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=SECONDS))
            for _ in range(400)
        ]
        mute, stopped = (stack.enter_context(connected(grant)) for _ in range(2))
        stopped.greet()
        stopped.sock.sendall(head(1000, frames.Announce.TYPE) + b"A")
        since = time.monotonic()
        assert goes_on(pair)
        assert time.monotonic() - since < HUNG_UP_SECONDS
        mute.rest(HUNG_UP_SECONDS)
        stopped.rest(HUNG_UP_SECONDS)
        for sock in silent:
            sock.settimeout(HUNG_UP_SECONDS)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
    with connected(grant) as peer:
        assert peer.greet().secondary_id == "perth"
