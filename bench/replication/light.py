"""Secondaries without a store: many sessions of the real protocol in one small process.

Each is a `SecondarySession` over TLS with a certificate of its own, as a real secondary has. Only
what it would do with records is left out: it decodes the last one of a frame to know its place,
and acknowledges. So the primary has the whole work, and this machine little beside it.
"""

import asyncio
import contextlib
import multiprocessing
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import uvloop

from bench.replication.clusters import Cluster
from undercroft.replication import joining
from undercroft.replication.activation import Grant
from undercroft.replication.following import dial
from undercroft.replication.lineage import Lineage
from undercroft.replication.link import SessionLink
from undercroft.replication.protocol.ports import Slice
from undercroft.replication.protocol.secondary import SecondarySession
from undercroft.replication.serving import SystemClock
from undercroft.storage.wal import Position, SharedRecord

Terms = tuple[tuple[int, bytes, int], ...]


class LightSink:
    """Knows how far it has got and nothing else; it only ever follows the log."""

    def __init__(self, lineage: Lineage, position: Position) -> None:
        self._lineage = lineage
        self._position = position

    def position(self) -> Position:
        return self._position

    def lineage(self) -> Lineage | None:
        return self._lineage

    def term(self) -> int:
        return 0

    def apply(self, records: list[bytes], done: Callable[[int], None]) -> None:
        self._position = SharedRecord.decode(records[-1]).position
        done(0)

    def adopt(self, terms: Terms, alternates: Terms, done: Callable[[], None]) -> None:
        done()

    def unfinished(self) -> bool:
        return False

    def settled(self) -> None: ...

    def heads(self) -> dict[bytes, bytes]:
        return {}

    def lacks(self) -> tuple[bytes, ...]:
        return ()

    def withhold(self, mounts: tuple[bytes, ...]) -> None: ...

    def watch_root(self, seq: int, seen: Callable[[bytes], None]) -> None: ...

    # Comparing needs a store: whoever gets here has not been told to follow.

    def entries(self) -> int:
        raise NotImplementedError

    def nodes(self, head: bytes) -> bytes:
        raise NotImplementedError

    def buckets(self, head: bytes, node: int) -> bytes:
        raise NotImplementedError

    def scan(self, head: bytes, after: bytes) -> Slice:
        raise NotImplementedError

    def leaves(self, head: bytes, buckets: frozenset[int], after: bytes) -> Slice:
        raise NotImplementedError

    def store_entries(
        self, entries: list[tuple[bytes, bytes | None]], done: Callable[[int], None]
    ) -> None:
        raise NotImplementedError

    def begin_comparison(self) -> None:
        raise NotImplementedError

    def jump(self, position: Position, done: Callable[[], None]) -> None:
        raise NotImplementedError

    def set_aside(self, behind_seq: int, done: Callable[[], None]) -> None:
        raise NotImplementedError

    def resume_point(self, head: bytes) -> bytes | None:
        raise NotImplementedError


class LightHost:
    """What a session asks of its cluster; nothing that it learns is kept."""

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id

    def cluster_id(self) -> str:
        return self._cluster_id

    def cluster_addr(self) -> str:
        return ""

    def api_addr(self) -> str:
        return ""

    def local_mounts(self) -> tuple[str, ...]:
        return ()

    def is_partial(self) -> bool:
        return False

    def welcomed(self) -> None: ...

    def learned(self, lineage: Lineage, addresses: tuple[str, ...], api_addr: str) -> None: ...

    def newer_epoch(self, rank: tuple[int, bytes]) -> None: ...

    def copied(self) -> None: ...

    def certified(self, certificate: bytes, authority: bytes) -> None: ...

    def claimed(self, claim: bytes) -> None: ...


def activated(primary: Cluster, count: int) -> list[Grant]:
    """The credentials of so many secondaries, by way of tokens, as secondaries get them."""
    grants = []
    for number in range(count):
        token = primary.activation_token(f"light-{number}")
        answer = primary.server.call("POST", "sys/wrapping/unwrap", {}, token=token)
        grants.append(joining.grant_of(answer["data"]))
    return grants


@contextlib.contextmanager
def following(grants: list[Grant]) -> Iterator[None]:
    """All of them follow from where the primary is now, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(grants, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()  # EOFError: it died, and has said why on stderr
        yield
        if not process.is_alive():
            raise RuntimeError("the light secondaries died")
    finally:
        process.kill()
        process.join()


def _main(grants: list[Grant], ready: Connection) -> None:
    uvloop.run(_follow(grants, ready))


async def _follow(grants: list[Grant], ready: Connection) -> None:
    over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    sessions = [await _session(grant, over) for grant in grants]
    while not all(session.following for session in sessions):
        await asyncio.sleep(0.01)
        if over.done():
            break
    else:
        ready.send(True)
    raise RuntimeError(f"a session ended: {await over}")


async def _session(grant: Grant, over: "asyncio.Future[str]") -> SecondarySession:
    address, own_id = grant.addresses[0], str(uuid.uuid4())
    welcome = await asyncio.to_thread(
        joining.probe, address, grant.credentials, grant.set_id, own_id
    )

    def make(link: SessionLink) -> SecondarySession:
        sink = LightSink(welcome.lineage, welcome.position)
        return SecondarySession(sink, LightHost(own_id), SystemClock())

    def ended(link: SessionLink) -> None:
        if not over.done():
            over.set_result(link.session.ended if link.session is not None else "")

    link = await dial(address, grant.credentials, grant.set_id, make, ended)
    assert isinstance(link.session, SecondarySession)
    return link.session
