"""The primary's side of the node: the cluster port, and a session for each secondary.

Who connects is known by the certificate alone. The registry of activations is asked at the connect
and again whenever it changes: a revoked secondary is cut off at once and refused from then on.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from undercroft.engines.base import Services
from undercroft.errors import PermissionDenied, UndercroftError
from undercroft.node.frames import Answer, Done, failure_of
from undercroft.node.writer_link import ChangeLink
from undercroft.observe.logs import get_logger
from undercroft.replication import activation, authority, changes, filters, moves
from undercroft.replication.activation import Secondary
from undercroft.replication.authority import Authority, Distrusted
from undercroft.replication.clashes import believed
from undercroft.replication.filters import Selection
from undercroft.replication.link import ServingLink, SessionLink
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.ports import Clock, Passes
from undercroft.replication.protocol.primary import PrimarySession
from undercroft.replication.role import PRIMARY, Role
from undercroft.replication.sinks import LiveSink
from undercroft.replication.status import PeerStatus
from undercroft.request.vouched import Vouched
from undercroft.storage.store import Store

log = get_logger("replication")

_HANDSHAKE_SECONDS: Final = 10.0
_SHUTDOWN_SECONDS: Final = 5.0  # for the other side to take our last word, and to close as well
_DRAIN_SECONDS: Final = 10.0
_RENEW_SECONDS: Final = 3600.0
_decode_vouched: Final = msgspec.msgpack.Decoder(Vouched).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class SystemClock:
    def steady_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class Node(Protocol):
    """What both sides need of the process."""

    store: Store
    services: Services
    link: ChangeLink
    clock: Clock

    @property
    def role(self) -> Role: ...
    @property
    def state(self) -> LiveSink: ...
    def report_soon(self) -> None: ...


class Serving:
    """Alive while this cluster has an authority. It is `primary.Host` for all sessions."""

    def __init__(self, node: Node, sockets: Sequence[socket.socket]) -> None:
        self._node = node
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []
        self._authority: Authority | None = None
        self._context: ssl.SSLContext | None = None
        self._certified_at = 0.0
        self._links: dict[SessionLink, Secondary] = {}
        self._selections: dict[str, Selection] = {}
        self._gone: dict[str, PeerStatus] = {}  # of secondaries that are not connected now
        self._draining: asyncio.TimerHandle | None = None

    # life

    async def refresh(self, made: Authority | None) -> None:
        """Role, registry, filters or mounts may have changed."""
        if made != self._authority or self.renewal_due:
            await self._listen(made)
        self.look()
        if self._node.role.mode != PRIMARY and self._links and self._draining is None:
            loop = asyncio.get_running_loop()
            self._draining = loop.call_later(_DRAIN_SECONDS, self._end_all)

    @property
    def renewal_due(self) -> bool:
        """Whether the port's certificate is an hour old, whatever has happened meanwhile."""
        age = time.monotonic() - self._certified_at
        return self._authority is not None and age > _RENEW_SECONDS

    def look(self) -> None:
        """Who may be connected, and what each may have: as of now."""
        try:
            self._check_registry()
            self._select()
        except UndercroftError as error:
            log.error("registry and filters could not be read", error=error.message)
            for link in list(self._links):
                self._end(link, "failed", "this primary cannot tell what may go")

    async def _listen(self, made: Authority | None) -> None:
        """The port is open whenever there is an authority; a new certificate every hour."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._authority = made
        if made is None:
            self._end_all()
            return
        private, public = authority.new_key()
        now_ms = self._node.clock.wall_ms()
        set_id = self._node.role.set_id
        certificate = authority.issue_server(made, set_id, public, now_ms)
        context = authority.server_context(made, certificate, private)
        self._certified_at = time.monotonic()
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            server = await loop.create_server(
                partial(ServingLink, self._make, self._ended),
                sock=sock.dup(),
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
            self._servers.append(server)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for link in list(self._links):
            self._end(link, "stopping", "this primary is stopping")

    def _end_all(self) -> None:
        """After a demotion: the last records have had their time to arrive."""
        self._draining = None
        if self._node.role.mode == PRIMARY and self._authority is not None:
            return
        for link in list(self._links):
            self._end(link, "demoted", "this cluster is no primary any more")

    def _end(self, link: SessionLink, code: str, text: str) -> None:
        session = link.session
        if isinstance(session, PrimarySession):
            session.end(code, text)
        link.flush()
        link.close()

    # sessions

    def _make(self, link: SessionLink) -> PrimarySession | None:
        transport = link.transport
        assert transport is not None
        tls: Any = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if certificate is None or tls.selected_alpn_protocol() != frames.ALPN:
            return None
        try:
            secondary = self._registered(certificate)
        except UndercroftError as error:
            peer = transport.get_extra_info("peername")
            log.warn("refused a connection to the cluster port", reason=error.message, peer=peer)
            return None
        node = self._node
        session = PrimarySession(secondary.id, os.urandom(16), node.state, self, node.clock)
        for other, known in list(self._links.items()):
            if known.id == secondary.id and _streams(other):
                self._replaced(other)
        self._links[link] = secondary
        self._select()
        if secondary.state != activation.ACTIVE:
            node.link.commit(changes.Connected(secondary.id), _nothing)
        self._check_handover(session, secondary)
        node.report_soon()
        log.info("a secondary connected", id=secondary.id)
        return session

    def _replaced(self, link: SessionLink) -> None:
        """The same secondary, again: its old connection is dead, or about to be."""
        link.close()

    def _check_handover(self, session: PrimarySession, secondary: Secondary) -> None:
        """If we stopped in favour of one that is back without an epoch, go on writing."""
        role, loop = self._node.role, asyncio.get_running_loop()
        if role.handover is None or role.handover.secondary_id != secondary.id:
            return

        def look() -> None:
            hello, mine = session.hello, self._node.state.lineage()
            if session.ended or mine is None:
                return
            if hello is None or not session.round_trips:  # an old hello may arrive late
                loop.call_later(0.1, look)
            elif hello.intent == frames.STREAM and moves.handover_is_void(
                self._node.role, mine, secondary.id, hello.lineage, begun_since=True
            ):
                self._node.link.commit(changes.WithdrawHandover(secondary.id), _nothing)

        loop.call_later(0.1, look)

    def _registered(self, certificate: bytes) -> Secondary:
        """The activation of a certificate. Raises Distrusted."""
        named = authority.named_by(certificate)
        with self._node.store.snapshot() as view:
            secondary = activation.find(view, named.secondary_id)
        if secondary is None or secondary.ticket != named.ticket:
            raise Distrusted(f"'{named.secondary_id}' is revoked or was never activated")
        if secondary.state_at(self._node.clock.wall_ms()) == activation.EXPIRED:
            raise Distrusted(f"the activation of '{named.secondary_id}' has expired unused")
        return secondary

    def _ended(self, link: SessionLink) -> None:
        secondary = self._links.pop(link, None)
        session = link.session
        if secondary is None or not isinstance(session, PrimarySession):
            return
        if _streams(link):
            self._gone[secondary.id] = _peer(session, connected=False)
        log.info("a secondary is gone", id=secondary.id, reason=session.ended or "disconnected")
        self._node.report_soon()

    def _check_registry(self) -> None:
        """Cut off whoever is revoked."""
        with self._node.store.snapshot() as view:
            for link, secondary in list(self._links.items()):
                found = activation.find(view, secondary.id)
                if found is None or found.ticket != secondary.ticket:
                    self._end(link, "revoked", "this secondary was revoked")
            for secondary_id in list(self._gone):
                if activation.find(view, secondary_id) is None:
                    del self._gone[secondary_id]

    def _select(self) -> None:
        """Filters by secondary, for the mounts of now."""
        node = self._node
        with node.store.snapshot() as view:
            mounts = list(node.services.mounts.table(view).mounts.values())
            found = {
                s.id: filters.read_filter(view, s.id)
                for s in {v.id: v for v in self._links.values()}.values()
            }
        before = self._selections
        self._selections = {
            secondary_id: Selection(made, mounts) for secondary_id, made in found.items() if made
        }
        for link, secondary in self._links.items():
            old, new = before.get(secondary.id), self._selections.get(secondary.id)
            session = link.session
            if not isinstance(session, PrimarySession) or session.hello is None:
                continue
            old_ids = () if old is None else old.withheld
            new_ids = () if new is None else new.withheld
            if (
                (old is None) != (new is None)
                or old_ids != new_ids
                or (old and new and old.allowed != new.allowed)
            ):
                session.selection_changed(compare=True)
                link.flush()

    def committed(self) -> None:
        for link in self._links:
            if isinstance(link.session, PrimarySession):
                link.session.committed()
                link.flush()

    @property
    def drained(self) -> bool:
        """Whether every session that streams has acknowledged all there is."""
        last = self._node.state.position()
        return all(
            session.acked == last
            for link in self._links
            if isinstance(session := link.session, PrimarySession) and session.streaming
        )

    def peers(self) -> tuple[PeerStatus, ...]:
        connected = {
            secondary.id: _peer(link.session, connected=not link.session.ended)
            for link, secondary in self._links.items()
            if isinstance(link.session, PrimarySession) and _streams(link)
        }
        return tuple({**self._gone, **connected}.values())

    # primary.Host

    def is_primary(self) -> bool:
        return self._node.role.mode == PRIMARY

    def cluster_id(self) -> str:
        return self._node.services.state.cluster_id

    def addresses(self) -> tuple[str, ...]:
        given = self._node.role.primary_cluster_addr or self._node.services.state.cluster_addr
        return (host_port(given),) if given else ()

    def api_addr(self) -> str:
        return self._node.services.state.api_addr

    def claim(self) -> bytes:
        role = self._node.role
        return b"" if role.fence is not None else role.claim

    def newest_rank(self) -> tuple[int, bytes]:
        fence = self._node.role.fence
        lineage = fence.lineage if fence is not None else self._node.state.lineage()
        return (0, b"") if lineage is None else lineage.rank

    def withheld(self, secondary_id: str) -> tuple[bytes, ...]:
        selection = self._selections.get(secondary_id)
        return () if selection is None else selection.withheld

    def passes(self, secondary_id: str) -> Passes | None:
        selection = self._selections.get(secondary_id)
        return None if selection is None else selection.passes

    def guard(self, *, found: bool) -> None:
        name = "guard_found" if found else "missing_guard"
        self._node.services.metrics.count(f"vault.logshipper.streamWALs.{name}")

    def forward(self, session: PrimarySession, number: int, call: bytes) -> None:
        """Audit, bound what the secondary vouches for, run, audit, answer."""
        node, began = self._node, time.perf_counter()
        now_ms = node.clock.wall_ms()
        node.state.advance()  # registry, filters and mounts as they are now
        if session.ended:  # it was revoked
            return
        try:
            vouched = _decode_vouched(call)
        except msgspec.MsgspecError:
            session.end("protocol", "a forwarded call that does not parse")
            return
        link = self._link_of(session)
        secondary = self._links[link]
        auditor = node.services.audit
        request, token = vouched.request, vouched.token() if vouched.authenticated else None

        def answered(answer: Answer) -> None:
            try:
                if auditor.active:
                    error = "" if answer.error is None else answer.error.message
                    response = answer.response
                    if response is not None and answer.data:
                        response = msgspec.structs.replace(response, data=msgspec.Raw(answer.data))
                    auditor.response(
                        request, None, token, response, node.clock.wall_ms(), error=error
                    )
            except UndercroftError as failed:
                answer = Answer(answer.id, error=failure_of(failed), position=answer.position)
            node.services.metrics.observe(
                "vault.replication.rpc.server.forwarding_request",
                (time.perf_counter() - began) * 1000,
            )
            session.answer(number, _encode(answer), answer.position)
            link.flush()

        try:
            if auditor.active:  # first: what is refused is audited like what is done
                with node.store.snapshot() as view:
                    auditor.refresh(view)
                auditor.request(request, None, token, now_ms)
            self._check_reach(secondary, request.path)
            allowed = vouched.bounded(
                forward_root=secondary.forward_root, ceiling=secondary.ceiling
            )
        except UndercroftError as error:
            answered(Answer(0, error=failure_of(error), position=node.state.position()))
            return
        node.link.run(allowed, answered)

    def _check_reach(self, secondary: Secondary, path: str) -> None:
        """What its filter withholds, it has not by a forward either. Raises PermissionDenied."""
        node = self._node
        passes = self.passes(secondary.id)
        if passes is None:
            return
        with node.store.snapshot() as view:
            mount = node.services.mounts.table(view).match(path)
        if mount is not None and not passes(mount.keyspace + mount.id):
            raise PermissionDenied

    def announce(self, session: PrimarySession, claim: bytes) -> None:
        link = self._link_of(session)

        def done(result: Done) -> None:
            if result.failure:
                log.warn("a claim was refused", by=session.secondary_id, reason=result.failure)
            else:
                log.error(
                    "this primary is fenced: a secondary of its set was promoted",
                    by=session.secondary_id,
                )
            session.announced(not result.failure, result.failure)
            link.flush()

        self._node.link.commit(changes.FenceBy(claim), done)

    def handover(self, session: PrimarySession) -> None:
        link = self._link_of(session)

        def done(result: Done) -> None:
            if result.failure:
                session.not_handed_over(result.failure)
            else:
                log.info("writes have stopped: handing over", to=session.secondary_id)
                session.handed_over(result.result)
            link.flush()

        self._node.link.commit(changes.GrantHandover(session.secondary_id), done)

    def certificate(self, session: PrimarySession, public_key: bytes) -> None:
        """The link is authenticated and its activation stands, or it would be closed."""
        made, secondary = self._authority, self._links[self._link_of(session)]
        if made is None:
            return
        named = authority.Named(secondary.id, secondary.ticket)
        try:
            issued = authority.issue_client(made, named, public_key, self._node.clock.wall_ms())
        except Distrusted as error:
            session.end("protocol", error.message)
            return
        session.certified(issued, made.certificate)

    def _link_of(self, session: PrimarySession) -> SessionLink:
        return next(link for link in self._links if link.session is session)


def _streams(link: SessionLink) -> bool:
    session = link.session
    return (
        isinstance(session, PrimarySession)
        and session.hello is not None
        and session.hello.intent == frames.STREAM
    )


def _peer(session: PrimarySession | Any, *, connected: bool) -> PeerStatus:
    beat, hello = session.last_heartbeat, session.hello
    return PeerStatus(
        session.secondary_id,
        (beat.api_addr if beat else "") or (hello.api_addr if hello else ""),
        (beat.cluster_addr if beat else "") or (hello.cluster_addr if hello else ""),
        connected,
        session.last_heartbeat_ms,
        session.round_trip_ms,
        session.clock_skew_ms,
        position=session.acked,
        state=beat.state if beat else "",
        bytes=session.bytes_sent,
        records=session.records_sent,
        local_mounts=believed(beat.local_mounts) if beat else (),
    )


def host_port(address: str) -> str:
    """`https://host:port` as host:port."""
    return address.removeprefix("https://").rstrip("/")


def _nothing(done: Done) -> None:
    if done.failure:
        log.warn("a change of replication was not made", reason=done.failure)
