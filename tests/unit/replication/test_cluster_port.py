"""The certificate of the cluster port: it is renewed by itself, with sessions open (R-31)."""

import asyncio
import socket

import msgspec
import pytest

from tests.unit.pipeline_world import services
from tests.unit.replication.cluster import DAY_MS, Cluster
from tests.unit.replication.handshake import SET_ID, TICKET, client_of, now_ms
from undercroft.node.writer_link import ChangeLink
from undercroft.replication import activation, authority, serving
from undercroft.replication.activation import ACTIVE, Secondary
from undercroft.replication.authority import make_authority
from undercroft.replication.lineage import LINEAGE_KEY, founded
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.ports import Clock
from undercroft.replication.role import PRIMARY, Credentials, Role
from undercroft.replication.serving import Serving, SystemClock
from undercroft.replication.sinks import LiveSink
from undercroft.storage.wal import START


class Node:
    """A primary with one secondary, of which nobody asks for a change."""

    def __init__(self, cluster: Cluster) -> None:
        with cluster.change() as tx:
            ends_ms = now_ms() + DAY_MS
            activation.write(tx, Secondary("osaka", TICKET, now_ms(), ends_ms, state=ACTIVE))
            lineage = founded(tx.shared, SET_ID, "a", now_ms())
            tx.put(LINEAGE_KEY, msgspec.msgpack.encode(lineage))
        self.store = cluster.store
        self.services = services()
        self.clock: Clock = SystemClock()
        self.role = Role(mode=PRIMARY, set_id=SET_ID)
        self.link: ChangeLink
        self.state = LiveSink(self.store, None, self.failed)  # type: ignore[arg-type]

    def failed(self, reason: str) -> None:
        raise AssertionError(reason)

    def report_soon(self) -> None:
        """Nobody is told."""


class Client:
    """A session of the secondary."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._decoder = frames.Decoder(frames.FRAME_BYTES_MAX)

    @classmethod
    async def connect(cls, port: int, credentials: Credentials) -> "Client":
        made = cls(
            *await asyncio.open_connection(
                "127.0.0.1",
                port,
                ssl=authority.client_context(credentials),
                server_hostname=authority.server_name(SET_ID),
            )
        )
        hello = frames.Hello(1, 1, frames.STREAM, "test", "b", None, START, 0, partial=True)
        await made.ask(hello, frames.Welcome)
        return made

    @property
    def certificate(self) -> bytes:
        """The port's."""
        return bytes(self._writer.get_extra_info("ssl_object").getpeercert(True))

    async def ask(self, question: frames.Frame, answer: type[frames.Frame]) -> None:
        self._writer.write(frames.encode(question))
        while data := await self._reader.read(1 << 16):
            if any(isinstance(frame, answer) for frame, _ in self._decoder.feed(data)):
                return
        raise EOFError

    def close(self) -> None:
        self._writer.transport.abort()


def test_threat_r_31_the_ports_certificate_is_renewed_and_sessions_go_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        made = make_authority(SET_ID, now_ms())
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
            primary = Serving(Node(cluster), [sock])
            await primary.refresh(made)
            assert not primary.renewal_due
            first = await Client.connect(port, client_of(made))
            monkeypatch.setattr(serving, "_RENEW_SECONDS", 0.0)
            assert primary.renewal_due
            await primary.refresh(made)
            monkeypatch.undo()
            assert not primary.renewal_due
            await first.ask(frames.AskHeads(), frames.Heads)
            second = await Client.connect(port, client_of(made))
            assert second.certificate != first.certificate
            primary.close()
            first.close()
            second.close()

    asyncio.run(asyncio.wait_for(run(), 20))
