"""The replicator: the process of a node that talks to other clusters.

It reads the store like a worker and has every change made by the writer. What it does follows from
the stored role, which it reads anew after each commit that touched configuration; so a promotion, a
revocation or a changed filter takes effect here by the same commit as everywhere.
"""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from undercroft.barrier.keyring import Keyring
from undercroft.barrier.scrub import scrub
from undercroft.engines.base import Services
from undercroft.errors import Corrupt, Unavailable, UndercroftError
from undercroft.node.frames import (
    Answer,
    AskPrimary,
    PrimaryAnswered,
    Report,
    State,
    failure_of,
)
from undercroft.node.writer_link import WRITER_GONE, ChangeLink
from undercroft.observe.logs import get_logger
from undercroft.replication import authority
from undercroft.replication.announcing import Announcing
from undercroft.replication.control import RECHECK, REINDEX, Question, Reply
from undercroft.replication.copying import finish_copy, finish_replacement
from undercroft.replication.following import Following, reason_of
from undercroft.replication.protocol.ports import Clock
from undercroft.replication.reindexing import Reindexing
from undercroft.replication.replacing import Replacement, Replacing, same_primary
from undercroft.replication.role import (
    BOOTSTRAPPING,
    PRIMARY,
    SECONDARY,
    Role,
    read_checks,
    read_role,
)
from undercroft.replication.serving import Serving, SystemClock
from undercroft.replication.sinks import CopySink, LiveSink
from undercroft.replication.status import IDLE, READY, REINDEX_STAGES, ReplicationStatus
from undercroft.storage.location import discard_staging, stage
from undercroft.storage.probe import Readable, probe
from undercroft.storage.store import Retention, Store

log = get_logger("replicator")

_REPORT_SECONDS: Final = 0.05  # at most so often
_TICK_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 0.05  # without records: the digest tree may follow
_BLIND: Final = "reading the store ends processes"
_COPYING_NICE: Final = 10
_FENCED_ABOVE: Final = "the primary's epoch is over: use update-primary with a token of the new one"


class Replicator:
    """Implements `serving.Node` and `writer_link.Listener`."""

    def __init__(
        self,
        store: Store,
        services: Services,
        socket_path: str,
        directory: Path,
        sockets: Sequence[socket.socket],
        *,
        store_name: str,
        is_reading_deadly: bool,
    ) -> None:
        """`sockets` are the cluster port's; `store_name` is `location.name_of` the store.

        `is_reading_deadly`: the process before died in a way that damaged pages bring about.
        """
        self._is_reading_deadly = is_reading_deadly
        self.replacing = Replacing(self)
        self.store = store
        self.services = services
        self.clock: Clock = SystemClock()
        self.link = ChangeLink(socket_path, self, self._keyring_to_offer)
        self.role = Role()
        self._directory = directory
        self._sockets = sockets
        self._state: LiveSink | None = None
        self._generation = -1
        self._serving: Serving | None = None
        self._following: Following | None = None
        self._announcing: list[Announcing] = []
        self._reindexing: Reindexing | None = None
        self._refreshing = asyncio.Lock()
        self._report_at = 0.0
        self._reporting = False
        self._store_name = store_name
        self._copied = False  # the node is to switch to the first copy
        self._finished: Following | None = None  # whose copy replaces the store, or could not
        self._digesting = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> LiveSink:
        assert self._state is not None, "only while unsealed"
        return self._state

    async def run(self, stop: asyncio.Event) -> None:
        if self._is_reading_deadly:
            found = await probe(Path(self.store.env.path()))
            self._is_reading_deadly = found is not Readable.ALL
        await self.link.connect()
        ticking = asyncio.ensure_future(self._tick_for_ever())
        await stop.wait()
        ticking.cancel()
        self._stop_services()
        await asyncio.sleep(0.05)  # the good-byes
        self.link.close()

    # what the writer says

    def on_state(self, frame: State) -> None:
        self.services.state = frame.state
        if frame.store != self._store_name:
            log.info("the node has switched stores: beginning anew", store=frame.store)
            os._exit(0)  # and with the priority that copying gave up
        if frame.keyring:
            self.store.set_keyring(Keyring.deserialize(frame.keyring))
            self.services.audit.activate()
            if self._state is None:
                self._state = self._begin()
                self._state.advanced = self._look
                self._state.log_read = self._log_read
            self._generation = -1
            self.on_committed()  # a writer that died may have told nobody of its last commit
            return
        secrets = [] if self.store.keyring is None else self.store.keyring.secrets()
        self._stop_services()
        self.replacing.stop()
        self._state = None
        self.role = Role()
        self.store.set_keyring(None)
        self.services.audit.forget()
        self.services.mounts.forget()
        self.services.policies.forget()
        scrub(secrets)
        self.link.dropped(frame.serial)

    def _begin(self) -> LiveSink:
        """Raises Corrupt, lmdb.Error. A secondary goes on without, and has its store replaced."""
        with self.store.snapshot() as view:
            self.role = read_role(view)
        damage, is_secondary = _BLIND, self.role.mode == SECONDARY
        if not (self._is_reading_deadly and is_secondary):
            try:
                return LiveSink(self.store, self.link, self._sink_failed)
            except (Corrupt, lmdb.Error) as error:
                if not is_secondary:
                    raise
                damage = str(error)
        self.replacing.found(damage)
        return LiveSink(self.store, self.link, self._sink_failed, blind=True)

    def on_committed(self) -> None:
        if self._state is None:
            return
        try:
            self._state.advance()
        except (Corrupt, lmdb.Error) as error:
            if self.role.mode != SECONDARY:
                raise
            self.replacing.found(str(error))
            return
        self._digest_soon()
        if self._serving is not None:
            self._serving.committed()
        if self._following is not None:
            self._following.committed()
        self.report_soon()

    def _digest_soon(self) -> None:
        """Let the tree follow once no more records come in bulk."""
        if self._state is not None and self._state.undigested and not self._digesting:
            self._digesting = True
            at = self._state.number
            asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._digest, at)

    def _digest(self, at: int) -> None:
        self._digesting = False
        if self._state is not None:
            if self._state.number == at:
                self._state.digest()
            self._digest_soon()

    async def answer(self, question: Question) -> Reply:
        """What a request's `prepare` asks (`replication/control.py`)."""
        if question.what == REINDEX:
            return self._begin_reindex()
        following = self._following
        if following is None:
            return Reply("unreachable", reason="this cluster follows no primary")
        if question.what == RECHECK:
            self.replacing.allow()
            following.recheck()
            return Reply("ready")
        result, seq, reason = await following.hand_over(question.seconds)
        return Reply(result, seq, reason)

    def _begin_reindex(self) -> Reply:
        running = self._reindexing and self._reindexing.progress
        if running:
            at = f"{running.stage}, {running.done} of {running.total} entries"
            return Reply("refused", reason=at)
        if self._state is None:
            return Reply("unreachable", reason="the node is sealed")
        self._reindexing = Reindexing(self)
        self._report()  # now: who polls status after the answer must not think it is over
        return Reply("ready")

    def on_ask_primary(self, frame: AskPrimary) -> None:
        if self._following is None:
            self._no_primary(frame)
        else:
            self._following.ask(frame)

    def _no_primary(self, frame: AskPrimary) -> None:
        failure = failure_of(
            Unavailable(
                "this secondary has no primary (it is detached); nothing was applied",
                hint="use secondary/update-primary with a token, or secondary/promote",
            )
        )
        self.link.tell(PrimaryAnswered(Answer(frame.id, error=failure)))

    def on_writer_lost(self) -> None:
        """Changes under way are answered as failed; sessions end by that and begin anew."""

    def _keyring_to_offer(self) -> bytes:
        keyring = self.store.keyring
        return b"" if keyring is None else keyring.serialize()

    def _sink_failed(self, reason: str) -> None:
        if self._following is not None:
            self._following.failed(reason)

    # role

    def _look(self) -> None:
        """Read the role again if configuration was touched since.

        Filters and revocations count at once: what follows them in the log may be shipped next.
        """
        with self.store.snapshot() as view:
            generation = view.generation
        if generation != self._generation:
            self._generation = generation
            if self._serving is not None:
                self._serving.look()
            self.refresh_soon()

    def refresh_soon(self) -> None:
        task = asyncio.ensure_future(self._refresh())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self) -> None:
        async with self._refreshing:
            if self._state is None:
                return
            try:
                with self.store.snapshot() as view:
                    role, own = read_role(view), authority.read_authority(view)
                    hidden = len(self.services.mounts.shadowed(view))
                    replacements = read_checks(view).replacements
                gauge = self.services.metrics.set
                gauge("undercroft.replication.shadowed_mounts", to=hidden)
                gauge("undercroft.replication.store_replacements", to=replacements)
                before, self.role = self.role, role
                await self._refresh_serving(role, own)
                if self._copied:
                    await self._switch()
                self._refresh_following(before, role)
                self._refresh_announcing(role)
            except UndercroftError as error:
                log.error("the role could not be taken up", error=error.message)
            except Exception as error:
                log.exception("the role could not be taken up", error)
        self.report_soon()

    async def _refresh_serving(self, role: Role, own: authority.Authority | None) -> None:
        if self._serving is None and own is not None and role.mode == PRIMARY:
            self._serving = Serving(self, self._sockets)
        if self._serving is not None:
            await self._serving.refresh(own)
            self._serving.committed()

    def _refresh_following(self, before: Role, role: Role) -> None:
        wanted = role.upstream if role.mode in (SECONDARY, BOOTSTRAPPING) else None
        if self._copied:  # the node is about to switch to it
            return
        following = self._following
        replacement, was_copying = self.replacing.current, before.mode == BOOTSTRAPPING
        if replacement is not None and not same_primary(replacement.upstream, wanted):
            self.replacing.forget()
            replacement, was_copying = None, True
        copying = role.mode == BOOTSTRAPPING or replacement is not None
        if following is not None:
            was_copying = was_copying or following.copy is not None
            if (
                wanted is not None
                and copying == (following.copy is not None)
                and same_primary(following.upstream, wanted)
            ):
                following.upstream = wanted  # new addresses, a renewed certificate
                return
            following.stop()
            self._following = None
        if was_copying and not copying:
            discard_staging(self._directory)
        if wanted is not None and (copying or not self.state.is_blind):
            copy = None
            if copying:
                retention = Retention(records=1, bytes=1 << 20)
                copy = CopySink(stage(self._directory), retention)
                os.nice(_COPYING_NICE)  # until the switch, when another process takes over
            self._following = Following(self, wanted, copy, replacement)

    def _refresh_announcing(self, role: Role) -> None:
        wanted = role.announcements if role.claim else ()
        for running in list(self._announcing):
            if running.announcement not in wanted:
                running.stop()
                self._announcing.remove(running)
        known = [running.announcement for running in self._announcing]
        for announcement in wanted:
            if announcement not in known:
                self._announcing.append(Announcing(self, announcement, role.claim))

    def _stop_services(self) -> None:
        if self._reindexing is not None:
            self._reindexing.stop()
        if self._following is not None:
            self._following.stop()
            self._following = None
        if self._serving is not None:
            self._serving.close()
            self._serving = None
        for running in self._announcing:
            running.stop()
        self._announcing.clear()

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._state is None:
                continue
            try:
                await self._tick()
            except Exception as error:
                log.exception("what is due every second failed", error)
            self.report_soon()

    async def _tick(self) -> None:
        if self._serving is not None and self._serving.renewal_due:
            self.refresh_soon()  # without any change, too: a certificate runs out by itself
        if self._state is not None and self._state.is_blind:
            self.replacing.found(_BLIND)
        following = self._following
        if following is not None:
            following.tick()
            if following.copy_complete and following is not self._finished:
                await self._finish_copy(following)

    # copies

    async def _finish_copy(self, following: Following) -> None:
        copy, now_ms, unsettled = following.copy, self.clock.wall_ms(), following.copy_unsettled
        assert copy is not None
        if following.replacement is not None:
            await self._finish_replacement(following, copy, following.replacement)
            return
        try:
            finish_copy(
                self.store, copy, following.upstream, self.role, now_ms, unsettled=unsettled
            )
        except UndercroftError as error:
            log.error("the first copy could not be finished", error=error.message)
            return
        following.stop()
        self._following = None
        self._copied = True
        await self._switch()

    async def _switch(self) -> str:
        failure = await self.link.switch(stage(self._directory))
        if failure:
            log.error("the node could not switch stores", error=failure)
        return failure

    async def _finish_replacement(
        self, following: Following, copy: CopySink, replacement: Replacement
    ) -> None:
        """While the writer stands still, so that nothing of our own is left behind."""
        if await self.link.pause():
            return  # the writer is starting: again at the next tick
        now_ms, unsettled, state = self.clock.wall_ms(), following.copy_unsettled, self._state
        try:
            wanted = self._following is following and self.replacing.current is replacement
            if state is None or not wanted:  # sealed, or the role has changed meanwhile
                return
            self._finished = following
            finish_replacement(
                self.store, copy, replacement, now_ms, unsettled=unsettled, is_blind=state.is_blind
            )
            failure = await self._switch()
        except Exception as error:  # whatever it is, the node goes on with the store it has
            log.exception("the store could not be replaced", error)
            failure = reason_of(error)
        finally:
            self.link.resume()
        if failure:
            copy.store.close()
        if failure == WRITER_GONE:  # it has switched, then we end as well, or it has not
            self.replacing.begin_anew()
        elif failure:
            self.replacing.given_up(failure)

    # status

    def report_soon(self) -> None:
        """Tell the node how it is going: soon, and not too often."""
        if self._reporting:
            return
        self._reporting = True
        delay = max(0.0, self._report_at - time.monotonic())
        asyncio.get_running_loop().call_later(delay, self._report)

    def _report(self) -> None:
        self._reporting = False
        self._report_at = time.monotonic() + _REPORT_SECONDS
        if self._state is not None:
            self.services.replication = self._status(self._state)
            self._measure(self.services.replication)
            self.link.tell(Report(self.services.replication))

    def _log_read(self, seconds: float) -> None:
        self.services.metrics.observe("vault.wal.loadWAL", seconds * 1000)

    def _measure(self, status: ReplicationStatus) -> None:
        gauge, last = self.services.metrics.set, status.position.seq
        primary, secondary = status.mode == PRIMARY, status.mode == SECONDARY
        connected = [peer for peer in status.peers if peer.connected] if primary else []
        behind = max(0, status.primary_position.seq - last)
        gauge("vault.core.replication.performance.primary", to=float(primary))
        gauge("vault.core.replication.performance.secondary", to=float(secondary))
        gauge("vault.replication.wal.last_wal", to=self.state.number)
        gauge("vault.replication.wal.last_performance_wal", to=last if primary else 0)
        gauge("vault.replication.fsm.last_remote_wal", to=last if secondary else 0)
        gauge("vault.replication.merkle.commit_index", to=status.root_seq)
        reindex = status.reindex
        stage = REINDEX_STAGES.index(reindex.stage if reindex else "")
        gauge("vault.core.replication.reindex_stage", to=stage)
        gauge("vault.core.replication.build_progress", to=reindex.done if reindex else 0)
        gauge("vault.core.replication.build_total", to=reindex.total if reindex else 0)
        gauge("undercroft.replication.epoch", to=status.position.epoch)
        gauge("undercroft.replication.fenced", to=float(self.role.fence is not None))
        gauge("undercroft.replication.connected", to=float(status.connection_state == READY))
        gauge("undercroft.replication.lag_records", to=behind if secondary else 0)
        gauge("undercroft.replication.lag_ms", to=status.lag_ms or 0)
        gauge("undercroft.replication.secondaries", to=len(connected))
        slowest = max((last - peer.position.seq for peer in connected), default=0)
        gauge("undercroft.replication.secondary_lag_records", to=slowest)
        gauge("undercroft.replication.divergences", to=status.divergences)
        gauge("undercroft.replication.store_damaged", to=float(bool(status.damage)))
        gauge("undercroft.replication.bytes_sent", to=sum(peer.bytes for peer in connected))
        gauge("undercroft.replication.bytes_received", to=status.bytes)

    def _status(self, state: LiveSink) -> ReplicationStatus:
        role = self.role
        status = ReplicationStatus(
            mode=role.mode,
            state=IDLE,
            position=state.position(),
            root=state.root(),
            root_seq=state.digested_seq,
            reindex=self._reindexing.progress if self._reindexing is not None else None,
            damage=self.replacing.damage,
        )
        if role.mode == PRIMARY:
            peers = () if self._serving is None else self._serving.peers()
            return msgspec.structs.replace(
                status,
                state="running",
                state_reason="fenced: a newer epoch was opened elsewhere" if role.fence else "",
                peers=peers,
            )
        following = self._following
        if following is None:
            reason = "" if role.mode == "disabled" else "detached: it has no primary"
            return msgspec.structs.replace(status, state_reason=reason)
        session, peer = following.session, following.peer()
        progress = session.progress if session is not None else None
        behind = session is not None and session.primary_position.seq > state.position().seq
        return msgspec.structs.replace(
            status,
            state=session.state if session is not None else IDLE,
            state_reason=following.reason
            or (
                "the primary is fenced by a newer epoch: use update-primary"
                if following.newer
                else ""
            ),
            state_since_ms=following.since_ms,
            connection_state=following.connection,
            last_start_ms=following.started_ms,
            peers=() if peer is None else (peer,),
            known_addresses=following.upstream.addresses,
            primary_position=session.primary_position if session is not None else status.position,
            lag_ms=None
            if peer is None or following.connection != READY
            else peer.canary_age_ms
            if behind
            else 0,
            sync_done=progress[0] if progress else 0,
            sync_total=progress[1] if progress else 0,
            divergences=following.divergences,
            last_divergence_ms=following.last_divergence_ms,
            upstream_epoch=following.newer[0] if following.newer else status.position.epoch,
            bytes=session.bytes_received if session is not None else 0,
            records=session.records_received if session is not None else 0,
        )
