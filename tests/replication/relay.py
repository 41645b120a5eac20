"""A network that can do what TLS forbids: it stands between two clusters and changes frames.

The secondary believes it to be the primary, because the test gave it a token of the relay's own
authority; at the primary it is a secondary. So what becomes of a changed frame is the protocol's
doing alone.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from tests.replication.clusters import ok
from tests.replication.pair import log_in, prepare, status
from tests.replication.peer import granted
from tests.support.undercroft import Undercroft, free_port, until
from tests.unit.replication.cluster import DAY_MS
from tests.unit.replication.handshake import server_context, server_of
from undercroft.replication import activation, authority
from undercroft.replication.activation import Grant
from undercroft.replication.authority import Named, make_authority
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.replication.role import Credentials

Tamper = Callable[[Frame], list[Frame]]


def _cut(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(AttributeError):  # of one that is closed: Python 3.11.2 cannot bear it
        writer.transport.abort()


class Relay:
    """Runs in a thread of its own. `tamper` answers what becomes of a frame of the primary, `echo`
    of one of the secondary.
    """

    def __init__(self, grant: Grant) -> None:
        self.tamper: Tamper = lambda frame: [frame]
        self.echo: Tamper = lambda frame: [frame]
        self.sessions = 0
        self.certificates: list[bytes] = []  # of the secondary, one a session
        self.renewed: list[bytes] = []  # what it has asked for and got
        self._grant = grant
        self._asked = b""
        self._port = free_port()
        self._authority = make_authority(grant.set_id, _now_ms())
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._listening.wait()

    def _issue(self, public: bytes, days_ago: int = 0) -> frames.Certificate:
        """What the primary would, of the authority that the secondary believes in."""
        named = Named(self._grant.secondary_id, "relay")
        at_ms = _now_ms() - days_ago * DAY_MS
        own = authority.issue_client(self._authority, named, public, at_ms)
        return frames.Certificate(own, self._authority.certificate)

    def grant(self, days_ago: int = 0) -> Grant:
        """For the secondary: the same, by way of the relay."""
        key, public = authority.new_key()
        own = self._issue(public, days_ago).certificate
        return msgspec.structs.replace(
            self._grant,
            credentials=Credentials(own, key, self._authority.certificate),
            addresses=(f"127.0.0.1:{self._port}",),
        )

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        own = server_of(self._authority, set_id=self._grant.set_id)
        context = server_context(self._authority, own)
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=context)
        self._listening.set()
        await self._over.wait()
        server.close()
        self._abort()
        await asyncio.gather(*self._serving)

    async def _serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.sessions += 1
        self.certificates.append(back.get_extra_info("ssl_object").getpeercert(True))
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        host, _, port = self._grant.addresses[0].rpartition(":")
        writers = [back]
        with contextlib.suppress(OSError):
            far, on = await asyncio.open_connection(
                host,
                int(port),
                ssl=authority.client_context(self._grant.credentials),
                server_hostname=authority.server_name(self._grant.set_id),
            )
            writers.append(on)
            self._writers.update(writers)
            await asyncio.gather(
                self._pump(near, on, self._back),
                self._pump(far, back, self._on),
            )
        for writer in writers:
            _cut(writer)
            self._writers.discard(writer)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, change: Tamper
    ) -> None:
        decoder = frames.Decoder(frames.FRAME_BYTES_MAX)
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                for frame, _ in decoder.feed(data):
                    sink.write(b"".join(map(frames.encode, change(frame))))
                await sink.drain()
        sink.close()  # the other way ends with it

    def _back(self, frame: Frame) -> list[Frame]:
        if isinstance(frame, frames.AskCertificate):
            self._asked = frame.public_key
        return self.echo(frame)

    def _on(self, frame: Frame) -> list[Frame]:
        if isinstance(frame, frames.Welcome | frames.Heartbeat):
            frame = msgspec.structs.replace(frame, addresses=(f"127.0.0.1:{self._port}",))
        if isinstance(frame, frames.Certificate):
            frame = self._issue(self._asked)
            self.renewed.append(frame.certificate)
        return self.tamper(frame)

    def drop(self) -> None:
        """The connections there are, and not what comes next."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in self._writers:
            _cut(writer)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextlib.contextmanager
def relayed(
    primary: Undercroft,
    secondary: Undercroft,
    certified_days_ago: int = 0,
    echo: Tamper = lambda frame: [frame],
) -> Iterator[Relay]:
    """A pair with a relay between; the secondary is logged in."""
    one, two = primary.client, secondary.client
    prepare(one)
    ok(one, "primary/enable")
    with contextlib.closing(Relay(granted(one, "osaka"))) as relay:
        relay.echo = echo
        public = ok(two, "secondary/generate-public-key")["data"]["secondary_public_key"]
        token = activation.seal_for(public, relay.grant(certified_days_ago))
        ok(two, "secondary/enable", {"token": token})
        until(lambda: status(two).get("state") == "stream-wals", secondary)
        log_in(two)
        yield relay
