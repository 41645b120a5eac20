"""The writer: the one process of a node that changes the store.

It takes requests from the workers, runs all that are waiting in one LMDB transaction (a savepoint
each), commits once, and only then answers them: one fsync for many. Between commits it reaps what
has expired and does queued work in slices. It holds the seal, and tells every worker what changes.
"""

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec

from undercroft.barrier.keyring import Keyring
from undercroft.barrier.scrub import scrub
from undercroft.engines.base import Services
from undercroft.errors import Corrupt, Internal, StorageFailed, Unavailable, UndercroftError
from undercroft.node.applier import Applier
from undercroft.node.frames import (
    Answer,
    AskPrimary,
    Commit,
    Committed,
    Decoder,
    Done,
    Dropped,
    Execute,
    Failure,
    FromWorker,
    FromWriter,
    Hello,
    Leaving,
    Pause,
    Paused,
    PrimaryAnswered,
    Report,
    RunVouched,
    State,
    Switch,
    Switched,
    encode,
    failure_of,
)
from undercroft.node.switch import check_staged
from undercroft.observe.logs import Rarely, get_logger
from undercroft.replication.changes import ApplyRecords, StoreEntries
from undercroft.replication.membership import mark_start, refusal
from undercroft.replication.role import PRIMARY, ROLE_KEY, Role, read_role
from undercroft.replication.status import ReplicationStatus
from undercroft.request import index
from undercroft.request.model import Response
from undercroft.request.pipeline import Admitted, Elsewhere, Pipeline
from undercroft.request.work import has_work, work
from undercroft.storage.batch import Batch, OutOfOrder
from undercroft.storage.keys import HEAD_BYTES, SHARED, TOKENS
from undercroft.storage.location import location, name_of, require_staging, swap
from undercroft.storage.store import Store
from undercroft.storage.view import Transaction
from undercroft.storage.wal import START

log = get_logger("writer")

BATCH_MAX: Final = 256  # requests per commit: bounds how long a commit may hold the loop
QUEUE_MAX: Final = 8192  # requests waiting: past it, 503 with Retry-After
_TICK_SECONDS: Final = 0.5
_REAP_MAX: Final = 200
_FAREWELL_SECONDS: Final = 1.0  # for workers to take their last answers
_PEER_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

_OUTCOME_UNKNOWN: Final = (
    "the link to the primary broke after the request was sent: its outcome is unknown"
)
_NOT_ARRIVED: Final = (
    "the write was made at the primary and has not arrived here yet: reads may be old for a while"
)

_encode_json: Final = msgspec.json.Encoder().encode
_decode_prepared: Final = msgspec.msgpack.Decoder().decode


class WorkerLink(asyncio.Protocol):
    """One connected worker."""

    def __init__(self, writer: "Writer") -> None:
        self._writer = writer
        self._decoder = Decoder(FromWorker)
        self._out: list[bytes] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        raw = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
        )
        if _PEER_CREDENTIALS.unpack(raw)[1] != os.getuid():
            log.error("refused a connection of another user on the writer's socket")
            transport.abort()
            return
        self.transport = transport
        self._writer.links.add(self)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if isinstance(frame, Execute | Commit | RunVouched):
                self._writer.submit(self, frame)
            elif isinstance(frame, Switch):
                self._writer.asked_to_switch(self, frame)
            elif isinstance(frame, Pause):
                self._writer.asked_to_pause(self, frame)
            else:
                self._writer.told(self, frame)

    def eof_received(self) -> None:
        """The worker sends no more. What it sent is answered before the transport closes itself."""
        self._writer.finish()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._writer.lost(self)

    def send(self, frame: FromWriter) -> None:
        """Queue a frame; `flush` sends all that is queued in one write."""
        self._out.append(encode(frame))

    def flush(self) -> None:
        if self._out and self.transport is not None:
            self.transport.write(b"".join(self._out))
        self._out.clear()


class _Complete(NamedTuple):
    """The primary has answered; what is the business of this cluster is still to be done."""

    id: int
    admitted: Admitted
    response: Response


_Waiting = tuple[WorkerLink, Execute | Commit | RunVouched | _Complete]


class Writer:
    """Made by `run_writer`; everything here happens on one event loop."""

    def __init__(
        self,
        store: Store,
        services: Services,
        loop: asyncio.AbstractEventLoop,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        *,
        directory: Path,
        stop: Callable[[], None],
    ) -> None:
        """`directory` is the node's, `stop` ends this process in an orderly way."""
        self._directory = directory
        self._stop = stop
        self._store_name = name_of(directory, Path(store.env.path()))
        self._left_to: str | None = None  # the store that has taken the place of ours
        self._paused_by: WorkerLink | None = None  # who copies what is committed
        self._alone = asyncio.Event()  # after that, once no worker is connected any more
        self.store = store
        self.services = services
        services.store = store
        self.pipeline = Pipeline(services)
        self.links: set[WorkerLink] = set()
        self._loop = loop
        self._clock_ms = clock_ms
        self._queue: deque[_Waiting] = deque()
        self._scheduled = False
        self._serial = 0  # of the State frame sent last
        self._undropped: set[WorkerLink] = set()  # workers that have not confirmed the seal yet
        self._held: list[tuple[WorkerLink, Answer | Done]] = []  # answers that wait for them
        self._offers_allowed = True  # a keyring offered by a worker after our predecessor died
        self.applier = Applier(store, services)
        self._broken_session = 0  # of the replicator: one of its changes was refused
        self._replicator: WorkerLink | None = None
        self._report = Report(ReplicationStatus())
        self._elsewhere: dict[int, tuple[WorkerLink, int, Admitted]] = {}  # at the primary
        self._elsewhere_id = 0
        self.role = Role()
        self._may_report = Rarely()

    # frames

    def submit(self, link: WorkerLink, frame: Execute | Commit | RunVouched) -> None:
        if len(self._queue) >= QUEUE_MAX and not isinstance(frame, Commit):
            full = Unavailable("too many writes are waiting")
            link.send(Answer(frame.id, error=failure_of(full)))
            link.flush()
            return
        self._queue.append((link, frame))
        self._schedule()

    def told(self, link: WorkerLink, frame: Hello | Dropped | PrimaryAnswered | Report) -> None:
        if isinstance(frame, Dropped):
            if frame.serial == self._serial:
                self._dropped(link)
        elif isinstance(frame, PrimaryAnswered):
            self._primary_answered(frame)
        elif isinstance(frame, Report):
            self._reported(frame)
        else:
            if frame.keyring and self._offers_allowed and self.services.state.sealed:
                self._take_offer(frame.keyring)
            if frame.replicator:
                self._replicator = link
            link.send(self._state_frame())
            link.send(self._report)
            link.flush()

    def lost(self, link: WorkerLink) -> None:
        self.links.discard(link)
        self._queue = deque((peer, frame) for peer, frame in self._queue if peer is not link)
        self.store.reap_readers()
        self._dropped(link)
        if link is self._paused_by:
            self._paused_by = None
        if link is self._replicator:
            self._replicator = None
            for number in list(self._elsewhere):
                failure = failure_of(Unavailable(_OUTCOME_UNKNOWN))
                self._primary_answered(PrimaryAnswered(Answer(number, error=failure)))
        if not self.links:
            self._alone.set()

    def _reported(self, report: Report) -> None:
        """How replication is going: everybody of the node is told."""
        self._report = report
        self.services.replication = report.status
        for link in self.links:
            if link is not self._replicator:
                link.send(report)
                link.flush()

    # what the primary runs for us

    def _primary_answered(self, frame: PrimaryAnswered) -> None:
        waiting = self._elsewhere.pop(frame.answer.id, None)
        if waiting is None:
            return
        link, number, admitted = waiting
        answer = frame.answer
        if answer.error is not None or answer.response is None:
            self._answer([(link, msgspec.structs.replace(answer, id=number))])
            return
        response = answer.response
        if not frame.arrived:
            response.warn(_NOT_ARRIVED)
        unissued = response.auth is not None and not response.auth.issued
        if unissued or admitted.call.request.wrap_ttl_seconds:
            if answer.data:
                response.data = msgspec.Raw(answer.data)
            self._queue.append((link, _Complete(number, admitted, response)))
            self._schedule()
        else:
            self._answer([(link, msgspec.structs.replace(answer, id=number))])

    # group commit

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._commit_waiting)

    def _commit_waiting(self) -> None:
        self._scheduled = False
        waiting: list[_Waiting] = []
        weight = 0
        while self._queue and weight < BATCH_MAX:
            waiting.append(self._queue.popleft())
            weight += _weight(waiting[-1][1])
        if self._queue:
            self._schedule()
        if not waiting:
            return
        metrics = self.services.metrics
        started = time.perf_counter()
        before = self.store.position.seq
        batch: _Batch | None = None
        try:
            batch = self._run_batch(waiting)
            answers = batch.answers
        except UndercroftError as error:
            answers = [(link, _failed(frame, error)) for link, frame in waiting]
            for _, frame in waiting:
                self._note_refused(frame)
            self.load_role()
        if batch is not None:
            for effect in batch.effects:
                effect()
            if batch.role_changed:
                self.publish_role()
        metrics.count("undercroft.commit.count")
        metrics.count("undercroft.writer.requests", by=len(waiting))
        metrics.observe("undercroft.commit.batch", len(waiting))
        metrics.observe("undercroft.commit.seconds", time.perf_counter() - started)
        metrics.set("undercroft.writer.queue", to=len(self._queue))
        metrics.set("vault.wal.flushReady.queue_len", to=len(self._queue))
        metrics.set("undercroft.wal.last_seq", to=self.store.position.seq)
        if self.store.position.seq != before:
            self._tell_committed()
        self._answer(answers)

    def _tell_committed(self) -> None:
        if self._replicator is not None:
            self._replicator.send(Committed(self.store.position.seq))
            self._replicator.flush()

    def _run_batch(self, waiting: list[_Waiting]) -> "_Batch":
        """Run, commit, and only then hand out the answers."""
        done = _Batch()
        self._refuse_while_leaving()
        batch = self.store.batch(self._clock_ms)
        try:
            for link, frame in waiting:
                tx = batch.transaction()
                answer: Answer | Done | None
                if isinstance(frame, Commit):
                    answer, tx = self._run_change(batch, frame)
                else:
                    answer = self._run_one(batch, tx, link, frame)
                if answer is not None:
                    done.answers.append((link, answer))
                done.effects += tx.after_commit
                if ROLE_KEY in tx.writes:  # before the next request of this commit
                    self._take_role(read_role(batch.transaction()))
                    done.role_changed = True
            self._commit(batch)
        except BaseException:
            batch.abort()
            raise
        return done

    def _commit(self, batch: Batch) -> None:
        """And what it cost."""
        metrics, store = self.services.metrics, self.store
        before, first, saved = store.position.seq, store.log_first, store.saved.times
        began = time.perf_counter()
        batch.commit()
        took = time.perf_counter() - began
        if store.position.seq != before:
            metrics.observe("vault.wal.persistWALs", took * 1000)
        if before and store.log_first > first:
            metrics.count("vault.wal.gc.deleted", by=store.log_first - first)
        if store.saved.times != saved:
            metrics.observe("vault.merkle.saveCheckpoint", store.saved.seconds * 1000)
            metrics.set("vault.merkle.saveCheckpoint.num_dirty", to=store.saved.nodes)

    def _run_change(self, batch: Batch, frame: Commit) -> tuple[Done, Transaction]:
        """What the replicator asks for."""
        if frame.session and frame.session == self._broken_session:
            failure = "a change before it was refused"
        else:
            try:
                result, tx = self.applier.run(batch, frame.change)
                return Done(frame.id, batch.shared, result), tx
            except OutOfOrder:
                failure = "out of order"
            except StorageFailed:
                raise
            except UndercroftError as error:
                failure = error.message
            self._note_refused(frame)
        return Done(frame.id, batch.shared, failure=failure), batch.transaction()

    def _note_refused(self, frame: Any) -> None:
        """Nothing of its session is to be changed any more."""
        if isinstance(frame, Commit) and frame.session:
            self._broken_session = frame.session

    def _run_one(
        self,
        batch: Batch,
        tx: Transaction,
        link: WorkerLink,
        frame: Execute | RunVouched | _Complete,
    ) -> Answer | None:
        """None: the primary of the replication set is asked."""
        failure: Failure | None = None
        response: Response | None = None
        data = b""
        elsewhere: Elsewhere | None = None
        try:
            response = self._respond(tx, batch.now_ms, frame)
            if response.data is not None:
                data, response.data = _encode_json(response.data), None
        except StorageFailed:
            raise
        except UndercroftError as error:
            failure = failure_of(error)
        except Elsewhere as sent_on:
            elsewhere = sent_on
        except Exception as error:
            log.exception("a handler failed", error)
            failure = failure_of(Internal("internal error"))
            tx.writes.clear()
            tx.after_commit.clear()
        before = batch.shared
        try:
            batch.accept(tx)
        except Corrupt as error:  # what it would replace is damaged: it has failed alone
            tx.after_commit.clear()
            return Answer(frame.id, error=failure_of(error))
        if elsewhere is not None:
            assert isinstance(frame, Execute)
            return self._ask_primary(tx, link, frame, elsewhere)
        if failure is not None:
            return Answer(frame.id, error=failure)
        assert response is not None
        if batch.shared != before:
            response.position = batch.shared
        if tx.writes:
            self._add_index(response, batch)
        return Answer(frame.id, response, data, position=batch.shared)

    def _add_index(self, response: Response, batch: Batch) -> None:
        """What a client may ask not to read behind."""
        cluster_id = self.services.state.cluster_id
        tx = batch.transaction()
        made = index.encode(tx, cluster_id, batch.shared, batch.position.seq) if cluster_id else ""
        if made:
            response.headers = {**response.headers, index.HEADER: made}

    def _respond(
        self, tx: Transaction, now_ms: int, frame: Execute | RunVouched | _Complete
    ) -> Response:
        if isinstance(frame, RunVouched):
            return self.pipeline.execute_vouched(frame.vouched, tx, now_ms)
        if isinstance(frame, _Complete):
            frame.admitted.call.view, frame.admitted.call.now_ms = tx, now_ms
            return self.pipeline.complete(frame.admitted, frame.response)
        return self.pipeline.execute(frame.request, tx, now_ms, _decode_prepared(frame.prepared))

    def _ask_primary(
        self, tx: Transaction, link: WorkerLink, frame: Execute, sent_on: Elsewhere
    ) -> Answer | None:
        """Send the call on, once what stands here (the use of a token) is committed."""
        if self._replicator is None:
            failure = failure_of(Unavailable("replication is starting; nothing was applied"))
            return Answer(frame.id, error=failure)
        self._elsewhere_id += 1
        number, replicator = self._elsewhere_id, self._replicator
        self._elsewhere[number] = (link, frame.id, sent_on.admitted)

        def ask() -> None:
            replicator.send(AskPrimary(number, sent_on.vouched))
            replicator.flush()

        tx.after_commit.append(ask)
        return None

    def _answer(self, answers: Sequence[tuple[WorkerLink, Answer | Done]]) -> None:
        if self._undropped:  # a seal is under way: it has happened once every worker says so
            self._held += answers
            return
        for link, answer in answers:
            link.send(answer)
        for link in {link for link, _ in answers}:
            link.flush()

    # internal work

    def commit_internal(self, change: Callable[[Transaction, int], object]) -> None:
        """Run one change of our own in a commit of its own, now. Raises what it raises."""
        self._refuse_while_leaving()
        batch = self.store.batch(self._clock_ms)
        try:
            tx = batch.transaction()
            change(tx, batch.now_ms)
            batch.accept(tx)
            self._commit(batch)
        except BaseException:
            batch.abort()
            raise
        for effect in tx.after_commit:
            effect()
        self._tell_committed()

    def _measure_store(self) -> None:
        metrics, extent = self.services.metrics, self.store.extent
        records, kept = extent.last.seq - extent.first + 1, self.store.retention
        for name in ("undercroft.wal.records", "vault.wal.gc.total"):
            metrics.set(name, to=records)
        metrics.set("undercroft.wal.bytes", to=extent.size_bytes)
        metrics.set("vault.logshipper.buffer.length", to=records)
        metrics.set("vault.logshipper.buffer.max_length", to=kept.records)
        metrics.set("vault.logshipper.buffer.size", to=extent.size_bytes)
        metrics.set("vault.logshipper.buffer.max_size", to=kept.bytes)
        metrics.set("undercroft.storage.bytes", to=self.store.used_bytes())

    def tick(self) -> None:
        """Now and then: reap the expired, do queued work; at once again while there is more."""
        if self._left_to is not None:
            return
        self._measure_store()
        more = False
        if not self.services.state.sealed and self._paused_by is None:
            for kind in (self._reap_expired, self._do_queued, self._maintain_seal):
                try:
                    more = kind() or more
                except Exception as error:  # what one of them meets keeps no other from its work
                    if self._may_report((type(error), str(error))):
                        log.exception("background work failed", error)
        self._loop.call_later(0.0 if more else _TICK_SECONDS, self.tick)

    def _reap_expired(self) -> bool:
        """Whether there may be more."""
        due = self.store.due(self._clock_ms(), _REAP_MAX)
        if self.store.refuse_shared is not None:  # what is shared, the primary reaps
            due = [key for key in due if key[:1] != SHARED]
        return self._reap_readable(due) == _REAP_MAX

    def _reap_readable(self, due: list[bytes]) -> int:
        """How many could be reaped: a damaged one stays, and the others go without it."""
        if not due:
            return 0
        try:
            self.commit_internal(lambda tx, now: self._reap(tx, due, now))
        except Corrupt:
            if len(due) == 1:
                return 0
            half = len(due) // 2
            return self._reap_readable(due[:half]) + self._reap_readable(due[half:])
        self.services.metrics.count("undercroft.expire.reaped", by=len(due))
        return len(due)

    def _do_queued(self) -> bool:
        """One slice of work that requests have left; whether there may be more."""
        more = False

        def slice_of_work(tx: Transaction, now: int) -> None:
            nonlocal more
            more = work(tx, self.services)

        with self.store.snapshot() as view:
            waiting = has_work(view, self.services)
        if waiting:
            self.commit_internal(slice_of_work)
        return more

    def _maintain_seal(self) -> bool:
        seal, may_rotate = self.services.seal, self.store.refuse_shared is None
        assert seal is not None
        with self.store.snapshot() as view:
            rotation = seal.maintain(view, self._clock_ms(), may_rotate=may_rotate)
        if rotation is not None:
            self.commit_internal(rotation)
        return False

    def _reap(self, tx: Transaction, due: list[bytes], now_ms: int) -> None:
        tokens = [key for key in due if key[1:HEAD_BYTES] == TOKENS]
        self.services.tokens.reap(tx, tokens, now_ms)
        for key in due:
            if key[1:HEAD_BYTES] != TOKENS:
                tx.delete(key)

    # role

    def load_role(self) -> None:
        """From the store, as it is committed."""
        if self.store.keyring is not None:
            with self.store.snapshot() as view:
                self._take_role(read_role(view))

    def _take_role(self, role: Role) -> None:
        self.role = role
        self.store.refuse_shared = refusal(role)

    def publish_role(self) -> None:
        self.publish(**self._role_facts())

    def _role_facts(self) -> dict[str, Any]:
        role = self.role
        return {
            "performance_mode": role.mode,
            "fenced": role.fence is not None,
            "withheld": role.withheld,
        }

    # another store

    def asked_to_switch(self, link: WorkerLink, frame: Switch) -> None:
        try:
            answer = Switched(self.switch_store(Path(frame.path)))
        except UndercroftError as error:
            log.error("cannot switch to the staged store", error=error.message, hint=error.hint)
            answer = Switched(error=failure_of(error))
            self._paused_by = None
        link.send(answer)
        link.flush()

    def switch_store(self, staged: Path) -> str:
        """Give up this store for the staged one, and end: the next writer opens that one.

        The caller has filled it completely, own entries included, has synced it and has it open no
        more. Every write is refused from here on; what was committed to this store stays behind.
        Answers the new store's name. Raises StorageFailed, StorageFull or Unavailable when nothing
        has changed.
        """
        if self._left_to is not None:
            raise _switching()
        seal = self.services.seal
        assert seal is not None
        require_staging(self._directory, staged)
        check_staged(staged, seal, self.store.keyring)
        try:
            swap(self._directory, staged)
        except UndercroftError:
            if name_of(self._directory, location(self._directory)) == self._store_name:
                raise
            # The switch itself could not be synced. Either store is whole, whichever is found after
            # a power cut, so the node goes on with the one that everybody else would open now.
        self._left_to = name_of(self._directory, location(self._directory))
        log.info("switching to the new store", store=self._left_to)
        self._stop()
        return self._left_to

    def asked_to_pause(self, link: WorkerLink, frame: Pause) -> None:
        """No commit is under way here, ever: from now on there is none."""
        self._paused_by = link if frame.on else None
        if frame.on:
            link.send(Paused())
            link.flush()

    async def farewell(self) -> None:
        """Before this process ends after a switch: let the workers have all their answers.

        Nobody connects any more: new connections wait for the next writer.
        """
        if self._left_to is None or not self.links:
            return
        for link in self.links:
            link.send(Leaving())
            link.flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._alone.wait(), _FAREWELL_SECONDS)

    def finish(self) -> None:
        """Answer, now, what came after the switch: with a refusal."""
        while self._left_to is not None and self._queue:
            self._commit_waiting()

    def _refuse_while_leaving(self) -> None:
        if self._left_to is not None or self._paused_by is not None:
            raise _switching()

    # seal

    def unsealed(self, keyring: Keyring, **facts: Any) -> None:
        """The seal has opened, or the keyring has changed; `facts` are fields of the state."""
        self.store.set_keyring(keyring)
        self._offers_allowed = False
        self.load_role()
        if self.services.state.sealed and self.role.mode == PRIMARY:
            self.store.begin_shared = mark_start
        self.publish_seal(
            sealed=False,
            active_since_ms=self._clock_ms(),
            **self._role_facts(),
            **facts,
        )

    def sealed(self) -> None:
        """Drop the keyring here and everywhere; answers wait until every worker has confirmed."""
        secrets = [] if self.store.keyring is None else self.store.keyring.secrets()
        self.store.set_keyring(None)
        self._offers_allowed = False
        scrub(secrets)
        self.services.mounts.forget()
        self.services.policies.forget()
        self._undropped = set(self.links)
        self.publish_seal(sealed=True, cluster_name="", cluster_id="")

    def _take_offer(self, serialized: bytes) -> None:
        """After a crash of the writer: the workers of this node still hold the keyring."""
        seal = self.services.seal
        assert seal is not None
        with self.store.snapshot() as view:
            keyring = seal.recover(view, Keyring.deserialize(serialized))
        if keyring is None:
            return
        log.warn("the writer was restarted and took the keyring back from a worker")
        seal.adopt(keyring)

    def _dropped(self, link: WorkerLink) -> None:
        if self._undropped:
            self._undropped.discard(link)
            if not self._undropped:
                held, self._held = self._held, []
                self._answer(held)

    def publish_seal(self, **changes: Any) -> None:
        """The same, with what the seal says of itself (shares, threshold, unseal progress)."""
        seal = self.services.seal
        assert seal is not None
        with self.store.snapshot() as view:
            self.publish(**seal.status(view), **changes)

    def publish(self, **changes: Any) -> None:
        """Tell every worker the new state."""
        self.services.state = msgspec.structs.replace(self.services.state, **changes)
        self._serial += 1
        sealed = self.services.state.sealed
        self.services.metrics.set("vault.core.unsealed", to=0.0 if sealed else 1.0)
        self.services.metrics.set("vault.core.active", to=0.0 if sealed else 1.0)
        frame = self._state_frame()
        for link in self.links:
            link.send(frame)
            link.flush()

    def _state_frame(self) -> State:
        keyring = self.store.keyring
        return State(
            self._serial,
            self.services.state,
            b"" if keyring is None else keyring.serialize(),
            self._store_name,
        )


@dataclass
class _Batch:
    """What a commit brings about once it stands."""

    answers: list[tuple[WorkerLink, Answer | Done]] = field(default_factory=list)
    effects: list[Callable[[], None]] = field(default_factory=list)
    role_changed: bool = False


def _switching() -> Unavailable:
    return Unavailable("the node is switching to another store; nothing was applied")


def _weight(frame: Execute | Commit | RunVouched | _Complete) -> int:
    """In requests: a frame of replicated records or entries holds the loop as long as many."""
    bulk = isinstance(frame, Commit) and isinstance(frame.change, ApplyRecords | StoreEntries)
    return BATCH_MAX // 4 if bulk else 1


def _failed(
    frame: Execute | Commit | RunVouched | _Complete, error: UndercroftError
) -> Answer | Done:
    """The commit failed as a whole: nothing of anything was applied."""
    if isinstance(frame, Commit):
        return Done(frame.id, START, failure=error.message)
    if isinstance(frame, _Complete):  # the primary has run it; only our own part has failed
        error = Internal("the primary has made the change, but the answer could not be completed")
    return Answer(frame.id, error=failure_of(error))
