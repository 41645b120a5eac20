"""The secondary's side of the node: a session with the primary, kept up for ever.

    follow   records of the log go to the writer; calls that must write go to the primary
    copy     the first copy is made in a store beside the live one, then the node switches to it

The connection is always opened from here. Whatever ends it, the next session begins with what is
durable then.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

import lmdb
import msgspec

from undercroft.errors import Corrupt, Unavailable, UndercroftError
from undercroft.node.frames import Answer, AskPrimary, Done, PrimaryAnswered, failure_of
from undercroft.observe.logs import get_logger
from undercroft.replication import authority, changes
from undercroft.replication.clashes import local_paths
from undercroft.replication.headway import HINT, Headway
from undercroft.replication.lineage import Lineage
from undercroft.replication.link import SessionLink
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.secondary import SILENT, SecondarySession
from undercroft.replication.replacing import BEING_COPIED, Replacement, Replacing
from undercroft.replication.role import Credentials, Upstream
from undercroft.replication.scrub import Scrub
from undercroft.replication.serving import Node as BothSidesNode
from undercroft.replication.sinks import CopySink, LiveSink
from undercroft.replication.status import CONNECTING, IDLE, READY, TRANSIENT_FAILURE, PeerStatus
from undercroft.storage.environment import read_failure
from undercroft.storage.wal import Position

log = get_logger("replication")

CONNECT_SECONDS: Final = 10.0
HOLD_SECONDS: Final = 15.0  # longer than a promotion may take after the primary's grant
_STOPPED_RETRY_SECONDS: Final = 15.0  # after a refusal that an operator has to look at
_SCRUB_SECONDS: Final = 3.0  # from the end of one look at the disk to the next, at least
_SCRUB_SHARE: Final = 19.0  # seconds of rest for each of work
# So many times damage or a divergence, and never so long without: it does not heal.
_UNHEALED_MAX: Final = 30
_UNHEALED_SECONDS: Final = 10.0
_HUNG_UP: Final = "the primary hung up without a greeting: this secondary's id may be revoked"
_decode_answer: Final = msgspec.msgpack.Decoder(Answer).decode
_encode: Final = msgspec.msgpack.Encoder().encode


async def dial(
    address: str,
    credentials: Credentials,
    set_id: str,
    make: Callable[[SessionLink], SecondarySession],
    on_end: Callable[[SessionLink], None],
) -> SessionLink:
    """A session with the cluster port at `host:port`. Raises OSError, TimeoutError."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    context = authority.client_context(credentials)
    async with asyncio.timeout(CONNECT_SECONDS):
        transport, link = await loop.create_connection(
            lambda: SessionLink(make, on_end),
            host.strip("[]"),
            int(port),
            ssl=context,
            server_hostname=authority.server_name(set_id),
        )
    if transport.get_extra_info("ssl_object").selected_alpn_protocol() != frames.ALPN:
        transport.abort()
        raise ConnectionRefusedError("it is no cluster port")
    return link


class Node(BothSidesNode, Protocol):
    """What this side needs of the process."""

    replacing: Replacing


class Following:
    """Alive while the role has an upstream. It is `secondary.Host` for its sessions."""

    def __init__(
        self,
        node: Node,
        upstream: Upstream,
        copy: CopySink | None,
        replacement: Replacement | None = None,
    ) -> None:
        """`replacement`: what the copy is to replace; None: it is the first."""
        self._node = node
        self.upstream = upstream
        self.copy = copy
        self.replacement = replacement
        self.session: SecondarySession | None = None
        self.connection = CONNECTING
        self.reason = ""
        self.since_ms = node.clock.wall_ms()
        self.started_ms = node.clock.wall_ms()
        self.last_divergence_ms = 0
        self.divergences = 0
        self.newer: tuple[int, bytes] | None = None
        self._unhealed = 0  # times that something was found, in a row
        self._unhealed_at = 0.0
        self.copy_complete = False
        self.copy_unsettled = False
        self._granted: SecondarySession | None = None  # in which the primary stopped for us
        self._held_until = 0.0  # no session begins, since the promotion may still come
        self._link: SessionLink | None = None
        self._stopping = False
        self._stopped = False  # an operator has to look
        self._headway = Headway()
        self._pending_key: bytes | None = None
        self._arrivals: list[tuple[Position, asyncio.Future[None]]] = []
        self._learned: tuple[tuple[str, ...], str] | None = None
        self._sink: LiveSink | CopySink = copy or node.state
        self._scrub_now = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())
        self._scrubbing = asyncio.ensure_future(self._scrub_for_ever())

    # life

    async def _run(self) -> None:
        while not self._stopping:
            connected = False
            held = self._held_until - time.monotonic()
            if held > 0:
                await asyncio.sleep(held)
            for address in self.upstream.addresses:
                connected = await self._session_with(address)
                if connected or self._stopping:
                    break
            if self._stopping or self.copy_complete:
                return
            pause = self._headway.pause_seconds(connected=connected)
            if self._stopped:
                pause = _STOPPED_RETRY_SECONDS
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - no secret

    async def _session_with(self, address: str) -> bool:
        """Until it ends. Answers whether there was one."""
        ended = asyncio.get_running_loop().create_future()
        node = self._node

        def on_end(link: SessionLink) -> None:
            if not ended.done():
                ended.set_result(None)

        self._note(CONNECTING, self.reason)
        await self._sink.begin_session()
        try:
            link = await dial(
                address, self.upstream.credentials, node.role.set_id, self._make, on_end
            )
        except (OSError, TimeoutError) as error:
            self._note(TRANSIENT_FAILURE, f"{address}: {reason_of(error)}")
            return False
        self._link = link
        try:
            await ended
        finally:
            session, self._link = self.session, None
            if session is not None:
                session.closed()
                self._ended(session)
        return session is not None and session.welcome is not None

    def _make(self, link: SessionLink) -> SecondarySession:
        self._link = link
        submit = self._node.role.submits
        self.session = SecondarySession(self._sink, self, self._node.clock, submit=submit)
        return self.session

    def _measure(self, session: SecondarySession) -> None:
        for took_ms in session.compared_ms:
            self._node.services.metrics.observe("vault.replication.merkleSync", took_ms)
        session.compared_ms.clear()

    def _ended(self, session: SecondarySession) -> None:
        self._measure(session)
        self._pending_key = None  # an answer that has not come now never comes: ask again
        refused = session.refused
        self._stopped = bool(session.idle_reason) or isinstance(refused, frames.Refuse)
        if self._stopped:
            self._note(IDLE, session.idle_reason or session.ended)
            log.error("replication has stopped", reason=self.reason)
        elif not self.copy_complete:
            reason = session.ended
            if session.welcome is None and refused is None:
                reason = _HUNG_UP  # to whom it does not know, it says nothing
            if session.failing:
                self._failed_again(reason)
                return
            self._note(TRANSIENT_FAILURE, reason)
            log.warn("lost the primary", reason=reason)

    def _failed_again(self, reason: str) -> None:
        """Told twice: when it happens, and when it happens again and again."""
        headway, seq = self._headway, self._sink.position().seq
        headway.failed(seq)
        if headway.failures == 1:
            log.warn("lost the primary", reason=reason)
        if headway.is_to_be_told:
            log.error(
                "replication makes no headway: what follows in the primary's log cannot be applied",
                reason=reason,
                applied=seq,
                hint=HINT,
            )
        if headway.stands_still and self.replacement is not None:
            self._node.replacing.given_up(reason)
        if headway.stands_still:
            reason = f"no headway since place {seq} of the log: {reason}; {HINT}"
        self._note(TRANSIENT_FAILURE, reason)

    def _makes_headway(self) -> None:
        self._headway.reset()
        log.info("replication makes headway again", applied=self._sink.position().seq)
        self._note(self.connection, "")

    def _note(self, connection: str, reason: str) -> None:
        if connection != self.connection:
            self.since_ms = self._node.clock.wall_ms()
        self.connection, self.reason = connection, reason
        self._node.report_soon()

    def failed(self, reason: str) -> None:
        """A change was not made: begin anew from what is durable."""
        if self.session is not None:
            self.session.failed(reason)
            self.flush()

    def flush(self) -> None:
        if self._link is not None:
            self._link.flush()

    def stop(self) -> None:
        """Say good-bye and stay away."""
        self._stopping = True
        if self.session is not None and self._link is not None:
            self.session.end("stopping", "this secondary is stopping")
            self.flush()
            self._link.close()
        self._task.cancel()
        self._scrubbing.cancel()
        if self.copy is not None and not self.copy_complete:
            self.copy.close()

    def committed(self) -> None:
        """The log here has grown."""
        at = self._sink.position()
        if self._headway.reached(at.seq):
            self._makes_headway()
        for position, arrived in self._arrivals:
            if position <= at and not arrived.done():
                arrived.set_result(None)
        self._arrivals = [(p, future) for p, future in self._arrivals if not future.done()]
        self.flush()

    def recheck(self) -> None:
        """What `recover` asks for: try again now, compare states, look at the disk."""
        self._stopped = False
        self._headway.reset()
        self._scrub_now.set()
        if self.session is not None and self.session.following:
            self.session.compare_now()
            self.flush()
        elif not self._task.done():
            self._task.cancel()
            self._task = asyncio.ensure_future(self._run())

    # what the disk holds

    async def _scrub_for_ever(self) -> None:
        """Pass after pass, in a twentieth of this process's time at most."""
        pause = _SCRUB_SECONDS
        while self.copy is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._scrub_now.wait(), pause)
            self._scrub_now.clear()
            if self.session is None or not (self.session.following or self._headway.failures):
                continue
            busy, replacing = 0.0, self._node.replacing
            try:
                busy = await self._scrub()
                if self._unhealed < _UNHEALED_MAX:
                    replacing.sound()
                else:
                    replacing.found("entries on this disk do not heal")
            except (UndercroftError, lmdb.Error) as error:
                failure = read_failure(error) if isinstance(error, lmdb.Error) else error
                if isinstance(failure, Corrupt):
                    replacing.found(failure.message)
                else:
                    log.warn("the store could not be looked through now", error=failure.message)
            pause = max(_SCRUB_SECONDS, busy * _SCRUB_SHARE)

    async def _scrub(self) -> float:
        """One pass, and what comes of it. Answers for how many seconds it was at work."""
        busy, more, heals = 0.0, True, False
        async with self._node.state.correcting:
            scrub = Scrub(self._node.state)
            while more:
                began = time.monotonic()
                more = scrub.step()
                took = time.monotonic() - began
                busy += took
                await asyncio.sleep(took * _SCRUB_SHARE if more else 0)
            if scrub.suspects and not scrub.aborted:
                self._found_off()
                log.error(
                    "entries on this disk are not what was written: they are had from the primary "
                    "anew",
                    unreadable=sum(len(of.damaged) for of in scrub.suspects.values()),
                    buckets_off=len(scrub.corrections),
                    hint="look at the disk",
                )
                heals = await self._correct(scrub)
        if heals:
            await self._heal(scrub)
        return busy

    def _found_off(self) -> None:
        """Damage, or a divergence."""
        now, before = time.monotonic(), self._unhealed_at
        self._unhealed = self._unhealed + 1 if now - before < _UNHEALED_SECONDS else 1
        self._unhealed_at = now

    async def _correct(self, scrub: Scrub) -> bool:
        """Digests first: what they say is to be what is there, when the states are compared."""
        done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        change = changes.CorrectDigests(scrub.corrections)
        self._node.link.commit(change, done.set_result)
        result = await done
        if result.failure:
            log.warn("the digests could not be set right", reason=result.failure)
            return False
        self._node.state.advance()
        return True

    async def _heal(self, scrub: Scrub) -> None:
        session = self.session
        while session is not None and session.following and not session.renew(scrub.suspects):
            await asyncio.sleep(0.1)  # a comparison is under way
            session = self.session
        self.flush()

    # what the primary runs for us

    def ask(self, asked: AskPrimary) -> None:
        session = self.session
        if session is None or not session.following:
            why = self.reason or (BEING_COPIED if self.copy else "the session is being set up")
            failure = failure_of(
                Unavailable(f"the primary cannot be reached ({why}); nothing was applied")
            )
            self._node.link.tell(PrimaryAnswered(Answer(asked.id, error=failure)))
            return

        began = time.perf_counter()

        def done(reply: frames.Forwarded | None) -> None:
            self._node.services.metrics.observe(
                "vault.replication.rpc.client.forward", (time.perf_counter() - began) * 1000
            )
            if reply is None:
                failure = failure_of(
                    Unavailable(
                        "the link to the primary broke after the request was sent: its outcome is "
                        "unknown"
                    )
                )
                self._node.link.tell(PrimaryAnswered(Answer(asked.id, error=failure)))
            else:
                answer: Answer = _decode_answer(reply.answer)
                answer = msgspec.structs.replace(answer, id=asked.id, position=reply.position)
                asyncio.ensure_future(self._when_arrived(answer))  # noqa: RUF006 - bounded wait

        session.forward(_encode(asked.vouched), done)
        self.flush()

    async def _when_arrived(self, answer: Answer) -> None:
        """Hold the answer until its write is here, so that the client reads what it wrote."""
        arrived = answer.error is not None or await self.arrival(
            answer.position, self._node.services.settings.replication.best_effort_wal_wait_duration
        )
        self._node.link.tell(PrimaryAnswered(answer, arrived))

    async def arrival(self, position: Position, seconds: float) -> bool:
        """Whether the shared log has come so far, after waiting for it at most so long."""
        if position <= self._sink.position():
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals.append((position, future))
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        return True

    async def hand_over(self, seconds: float) -> tuple[str, int, str]:
        """Ask the primary to stop, wait for its last record: (`ready`, seq, "") is success.

        `unreachable` when there is no session, `refused` with the reason when it would not.
        """
        session = self.session
        if session is None or not session.following:
            return "unreachable", 0, self.reason
        asked: asyncio.Future[frames.Handover | None] = asyncio.get_running_loop().create_future()

        def done(reply: frames.Handover | None) -> None:
            if not asked.done():
                asked.set_result(reply)

        session.ask_handover(done)
        self.flush()
        try:
            reply = await asyncio.wait_for(asked, seconds)
        except TimeoutError:
            return self._give_up(session, "the primary did not stop in time")
        if reply is None and session.ended == SILENT:  # it stood when it was asked: it may live on
            return "refused", 0, "the primary did not answer in time"
        if reply is None:
            return "unreachable", 0, "the link broke"
        if not reply.granted:
            return "refused", 0, reply.reason
        last = Position(self._sink.position().epoch, reply.seq, b"")
        if not await self.arrival(last, seconds):
            return self._give_up(session, "the primary's last records did not arrive in time")
        if session.ended:
            return "refused", 0, "the link broke"
        # Whoever shows itself without an epoch after a grant must open none (`moves.may_open`).
        self._granted, self._held_until = session, time.monotonic() + HOLD_SECONDS
        return "ready", reply.seq, ""

    def _give_up(self, session: SecondarySession, reason: str) -> tuple[str, int, str]:
        """The primary may have stopped for us, now or a moment later: it goes on writing only when
        a new session shows that we have opened no epoch.
        """
        session.end("handover", reason)
        self.flush()
        return "refused", 0, reason

    # secondary.Host

    def cluster_id(self) -> str:
        return self._node.services.state.cluster_id

    def cluster_addr(self) -> str:
        return self._node.services.state.cluster_addr

    def api_addr(self) -> str:
        return self._node.services.state.api_addr

    def local_mounts(self) -> tuple[str, ...]:
        if self.copy is not None and self.replacement is None:
            return ()  # they go with the switch
        node = self._node
        try:
            with node.store.snapshot() as view:
                return local_paths(node.services.mounts.table(view))
        except UndercroftError:  # whoever needs them says so; a heartbeat goes on
            return ()

    def is_partial(self) -> bool:
        return self.copy is not None

    def welcomed(self) -> None:
        session = self.session
        assert session is not None
        assert session.welcome is not None
        if self.replacement is not None:
            theirs, at = session.welcome, self._node.state.position()
            objection = self.replacement.objection(theirs.lineage, theirs.position, at)
            if objection:  # a session that follows finds out what is to be done about it
                session.end("behind", objection)
                self._node.replacing.given_up(objection)
                return
        failing = self._headway.failures
        self._note(READY, self.reason if failing else "")
        self._renew()
        if not failing:
            log.info("connected to the primary")

    def learned(self, lineage: Lineage, addresses: tuple[str, ...], api_addr: str) -> None:
        if (
            self.copy is not None
            or not self._node.services.settings.replication.resolver_discover_servers
        ):
            return
        upstream = self.upstream
        fresh = (addresses, api_addr)
        known = set(addresses) <= set(upstream.addresses) and (
            not api_addr or api_addr == upstream.api_addr
        )
        if not known and fresh != self._learned:
            self._learned = fresh
            self._node.link.commit(changes.LearnAddresses(addresses, api_addr), _ignore)

    def newer_epoch(self, rank: tuple[int, bytes]) -> None:
        if self.newer != rank:
            self.newer = rank
            log.error(
                "the primary has heard of a newer epoch: another cluster of the set was promoted",
                epoch=rank[0],
            )
            self._node.report_soon()

    def copied(self) -> None:
        self.copy_complete = True
        if self.session is not None:
            self.copy_unsettled = self.session.unsettled
            self.session.end("copied", "the first copy is complete")
        self._node.report_soon()

    def certified(self, certificate: bytes, authority_certificate: bytes) -> None:
        key, self._pending_key = self._pending_key, None
        if key is not None:
            change = changes.NewCertificate(certificate, key, authority_certificate)
            self._node.link.commit(change, _ignore)

    def claimed(self, claim: bytes) -> None:
        if self.copy is None and claim != self._node.role.claim:
            self._node.link.commit(changes.KeepClaim(claim), _ignore)

    def _renew(self) -> None:
        """In time, so that no certificate ever runs out while the primary can be reached."""
        session = self.session
        now_ms = self._node.clock.wall_ms()
        if session is None or self.copy is not None or self._pending_key is not None:
            return
        if authority.renewal_due(self.upstream.credentials.certificate, now_ms):
            self._pending_key, public = authority.new_key()
            session.ask_certificate(public)

    def tick(self) -> None:
        """Once a second."""
        self._renew()
        session = self.session
        if self._granted is not None and time.monotonic() > self._held_until:
            granted, self._granted = self._granted, None
            if not granted.ended:
                self._give_up(granted, "the promotion was not completed")
                log.warn(
                    "a promotion was not completed: the primary, which stopped for it, is told"
                )
        if self._headway.failures and session is not None and session.settled:
            self._makes_headway()  # all there is has been applied
        if session is not None and session.following and self._node.role.submits:
            self._node.link.commit(changes.Submitted(), _ignore)
        if session is not None:
            self._measure(session)
        if session is not None and session.divergences:
            self._found_off()
            self.divergences += session.divergences
            session.divergences = 0
            self.last_divergence_ms = self._node.clock.wall_ms()
            log.error("the state had diverged from the primary's: healing by a comparison")
        self.flush()

    def peer(self) -> PeerStatus | None:
        session = self.session
        if session is None:
            return None
        now = self._node.clock.steady_ms()
        return PeerStatus(
            "",
            self.upstream.api_addr,
            f"https://{self.upstream.addresses[0]}" if self.upstream.addresses else "",
            self.connection == READY,
            session.last_heartbeat_ms,
            session.round_trip_ms,
            session.clock_skew_ms,
            now - session.canary_ms if session.canary_ms else 0,
            session.primary_position,
        )


def reason_of(error: BaseException) -> str:
    """For status and logs: what failed, no secret."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _ignore(done: Done) -> None:
    if done.failure:
        log.warn("a change of replication was not made", reason=done.failure)
