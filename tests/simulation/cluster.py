"""A cluster of the simulation: real sessions and rules over a model of everything else.

Every change of the store and of the role is a change in its queue, as in the writer of a server.
"""

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from tests.simulation.network import Connection
from tests.simulation.oracle import Violation
from tests.simulation.store import (
    CopySink,
    Disk,
    Failure,
    LiveSink,
    Member,
    Queue,
    Terms,
    encode_lineage,
    sealed,
)
from undercroft.errors import NeedsPrimary, UndercroftError
from undercroft.replication import moves
from undercroft.replication.lineage import LINEAGE_KEY, Lineage, founded
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.ports import Passes
from undercroft.replication.protocol.primary import PrimarySession
from undercroft.replication.protocol.secondary import SecondarySession
from undercroft.replication.role import (
    BOOTSTRAPPING,
    PRIMARY,
    SECONDARY,
    Announcement,
    Credentials,
    Fence,
    Role,
    Upstream,
)
from undercroft.storage.wal import Position

if TYPE_CHECKING:
    from tests.simulation.world import World

HANDOVER_MS = 10_000


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """What stands for a certificate: whose, and which activation."""

    authority: int
    secondary_id: str
    ticket: int


class ModelClaim(msgspec.Struct, frozen=True, array_like=True):
    """A claim; nobody else can make one with that ticket."""

    lineage: Lineage
    ticket: Ticket
    claimant: str


def credentials_of(ticket: Ticket) -> Credentials:
    return Credentials(msgspec.msgpack.encode(ticket), b"", b"")


def ticket_of(credentials: Credentials) -> Ticket:
    return msgspec.msgpack.decode(credentials.certificate, type=Ticket)


class Promotion(Enum):
    """How a secondary becomes primary."""

    SWITCHOVER = "switchover"  # the primary stops first: nothing is lost
    FORCED = "forced"  # without the primary, which is fenced when it can be
    DRILL = "drill"  # detached: nobody is told


class Switchover:
    """A promotion that waits for the primary to stop; in memory only."""

    def __init__(self, session: SecondarySession, upstream: Upstream | None, until_ms: int) -> None:
        self.session = session
        self.upstream = upstream
        self.until_ms = until_ms
        self.seq: int | None = None
        self.opening = False


class Cluster:
    """`Host` of its sessions of either kind, and their clock."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.rng = world.rng
        self.name = name
        self.disk = Disk()
        self.copy: Disk | None = None  # a first copy, beside the live data
        self.up = True
        self.exact_from = 0  # from this place on, the state is that of the position
        self.compares: object = None  # the newest comparison
        self.steady_offset_ms = self.rng.randrange(1_000_000)
        self.wall_offset_ms = self.rng.randrange(-3_600_000, 3_600_000)
        self._start()

    def __repr__(self) -> str:
        return self.name

    def _start(self) -> None:
        self.queue = Queue()
        self.view = LiveSink(self.disk, self.rng, self.queue)
        self.copy_view = None if self.copy is None else CopySink(self.copy, self.rng)
        self.serving: dict[Connection, str] = {}  # secondary id by connection
        self.granted_on: Connection | None = None  # where a handover was granted, since the start
        self.selections: dict[str, frozenset[bytes] | None] = {}  # as the sessions know them
        self.client: Connection | None = None
        self.claiming: Connection | None = None
        self.switchover: Switchover | None = None
        self.next_connect_ms = 0
        self.next_claim_ms = 0
        self.idle = ""  # why it does not connect any more

    # clock

    def steady_ms(self) -> int:
        return self.world.now_ms + self.steady_offset_ms

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.world.now_ms + self.wall_offset_ms

    # life

    def crash(self) -> None:
        self.world.say(f"{self} crashes, {len(self.queue.pending)} changes are lost")
        self.up = False
        for connection in self.world.network.connections:
            if self.name in (connection.client, connection.server):
                if connection.client == self.name:
                    connection.client_open, connection.client_session = False, None
                else:
                    connection.server_open, connection.server_session = False, None
                self.world.network.cut(connection)

    def restart(self) -> None:
        self.world.say(f"{self} starts")
        self.up = True
        self._start()

    @property
    def role(self) -> Role:
        return self.disk.role

    @property
    def session(self) -> SecondarySession | None:
        """As a secondary, while it lasts."""
        session = self.client.client_session if self.client is not None else None
        return session if isinstance(session, SecondarySession) and not session.ended else None

    def change(self, change: Callable[[], int], done: Callable[[int], None] | None = None) -> None:
        """A change of the role or of shared data, in the queue."""

        def guarded() -> int:
            try:
                return change()
            except (UndercroftError, NeedsPrimary) as error:
                raise Failure(str(error) or type(error).__name__) from None

        self.queue.ask(guarded, done or (lambda _: None), None)

    def complete(self) -> None:
        """The sessions hear of what has been committed."""
        self.view.advance()
        while self.queue.completed:
            result, done, session = self.queue.completed.popleft()
            if not isinstance(result, Failure):
                done(result)
                continue
            self.world.say(f"{self}: not done: {result}")
            if isinstance(session, SecondarySession):
                session.failed(str(result))
            if isinstance(done, _Told):
                done.failed(str(result))
        self._refresh()
        session = self.session
        if session is not None and session.following and session.submit:
            session.submit = False
            self.change(self._submitted)
        for connection in list(self.serving):
            if isinstance(connection.server_session, PrimarySession):
                connection.server_session.committed()
        self._go_on_with_switchover()

    # writing

    def write(
        self,
        changes: list[tuple[bytes, bytes | None]],
        done: Callable[[int], None] | None = None,
        call: int | None = None,
    ) -> None:
        """A request that writes shared entries: acknowledged once it is durable."""
        chains: list[bytes] = []

        def change() -> int:
            refused = moves.refusal(self.role)
            if refused is not None:
                raise refused
            if call is not None:
                self.world.oracle.ran(call)
            chain = self._write(changes)
            if chain:
                chains.append(chain)
            return self.disk.shared.seq

        def acknowledged(result: int) -> None:
            self.world.oracle.acknowledged.update(chains)
            if done is not None:
                done(result)

        self.change(change, _Told(acknowledged, done if isinstance(done, _Told) else None))

    def _write(self, changes: list[tuple[bytes, bytes | None]], epoch: int = 0) -> bytes:
        before = self.disk.shared
        record, deltas = self.disk.write(changes, self.wall_ms(), epoch)
        self.view.committed(deltas)
        if record is None:
            return b""
        lineage = self.disk.lineage()
        if lineage is not None:
            self.world.oracle.wrote(self, lineage, before, record)
        return record.chain

    def _open(self, lineage: Lineage) -> None:
        self._write([(LINEAGE_KEY, encode_lineage(lineage, self.rng))], lineage.current.number)

    # role changes, each one change

    def enable_primary(self) -> None:
        set_id = f"set-{self.rng.randrange(1 << 30)}"
        self.disk.authority = self.world.number()
        self.disk.role = Role(PRIMARY, set_id=set_id)
        self.disk.terms[1] = (self.rng.randbytes(4), 0)
        self._open(
            founded(self.disk.shared, set_id, self.name, self.wall_ms(), self.rng.randbytes(8))
        )
        self.view.advance()

    def secondary_token(self, secondary_id: str, *, promotable: bool = True) -> Upstream | None:
        """A new activation, as one change that is done at once."""
        if self.role.mode != PRIMARY or secondary_id in self.disk.members:
            return None
        ticket = Ticket(self.disk.authority, secondary_id, self.world.number())
        self.disk.members[secondary_id] = Member(ticket.ticket, promotable)
        return Upstream(secondary_id, credentials_of(ticket), (self.name,))

    def begin_copy(self, upstream: Upstream, set_id: str) -> None:
        self.disk.role = Role(BOOTSTRAPPING, set_id=set_id, upstream=upstream)
        self.copy = Disk()
        self.copy_view = CopySink(self.copy, self.rng)

    def follow(self, upstream: Upstream | None) -> None:
        def change() -> int:
            self.disk.role = moves.following(self.role, upstream, self.wall_ms())
            self.disk.submits = upstream is not None
            return 0

        def done(_: int) -> None:
            self.idle = ""
            self.hang_up("another primary")

        self.change(change, done)

    def demote(self) -> None:
        def change() -> int:
            self.disk.role = moves.demoted(self.role, self.wall_ms())
            return 0

        self.change(change)

    def promote(self, *, force: bool) -> None:
        try:
            moves.check_promotable(self.role, force=force)
        except UndercroftError as error:
            self.world.say(f"{self}: no promotion: {error.message}")
            return
        session, upstream = self.session, self.role.upstream
        connected = session is not None and session.following
        kind = Promotion.FORCED
        if upstream is None:
            kind = Promotion.DRILL
        elif connected and not force:
            kind = Promotion.SWITCHOVER
        self.world.say(f"{self}: promotion, {kind.value}")
        if kind is not Promotion.SWITCHOVER:
            self.change(lambda: self._promote(kind, upstream, force=force))
        elif self.switchover is None:
            assert session is not None
            until_ms = self.steady_ms() + HANDOVER_MS
            waiting = self.switchover = Switchover(session, upstream, until_ms)
            session.ask_handover(lambda answer: self._handed_over(waiting, answer))

    def _handed_over(self, waiting: Switchover, answer: frames.Handover | None) -> None:
        if self.switchover is not waiting:
            return
        if answer is None or not answer.granted:
            if waiting.seq is None:
                self.world.say(f"{self}: no handover: {answer.reason if answer else 'lost'}")
                self.switchover = None
            return
        self.world.say(f"{self}: the primary has stopped at {answer.seq}")
        waiting.seq = answer.seq
        self._go_on_with_switchover()

    def _go_on_with_switchover(self) -> None:
        waiting = self.switchover
        if waiting is None or waiting.opening:
            return
        if waiting.seq is not None and moves.may_open(
            self.view.position().seq,
            waiting.seq,
            session_is_newest=self.client is not None
            and self.client.client_session is waiting.session,
        ):
            waiting.opening = True

            def done(_: int) -> None:
                self.switchover = None

            def refused(_: str) -> None:
                self.switchover = None
                waiting.session.end("handover", "the promotion was not completed")

            self.change(
                lambda: self._promote(Promotion.SWITCHOVER, waiting.upstream, force=False),
                _Told(done, refused),
            )
        elif waiting.session.ended or self.steady_ms() > waiting.until_ms:
            # The primary may have stopped for us: only a new session shows it that we gave up.
            self.world.say(f"{self}: gives the handover up")
            self.switchover = None
            waiting.session.end("handover", "the handover took too long")

    def _promote(self, kind: Promotion, planned: Upstream | None, *, force: bool) -> int:
        before = self.disk.lineage()
        assert before is not None
        role, upstream = self.role, self.role.upstream
        if upstream != planned:
            raise Failure("the primary has been changed meanwhile")
        moves.check_promotable(role, force=force)
        made = moves.promoted(role, "", self.wall_ms())
        if kind is Promotion.SWITCHOVER:
            assert upstream is not None
            self._check_switchover(upstream, before)
        lineage = before.opened(self.disk.shared, self.name, self.wall_ms(), self.rng.randbytes(8))
        claim, announcements = role.claim, role.announcements
        if upstream is not None and kind is not Promotion.DRILL:
            ticket = ticket_of(upstream.credentials)
            claim = msgspec.msgpack.encode(ModelClaim(lineage, ticket, self.name))
            announcements = (Announcement(upstream.addresses, upstream.credentials),)
        self.disk.role = msgspec.structs.replace(made, claim=claim, announcements=announcements)
        self.disk.authority, self.disk.members = self.world.number(), {}
        self.disk.role = msgspec.structs.replace(self.disk.role, comparing=role.comparing)
        self._open(lineage)
        self.disk.role = msgspec.structs.replace(self.disk.role, comparing=False)
        self.world.say(
            f"{self}: opens epoch {lineage.current.number} behind {self.disk.shared.seq}"
        )
        return 0

    def _check_switchover(self, upstream: Upstream, lineage: Lineage) -> None:
        old = self.world.by_name[upstream.addresses[0]]
        member = old.disk.members.get(upstream.secondary_id)
        if member is None or member.ticket != ticket_of(upstream.credentials).ticket:
            return  # it was revoked meanwhile
        if old.role.mode != PRIMARY or old.role.fence is not None:
            return
        if old.disk.shared != self.disk.shared:
            raise Violation(f"SWITCHOVER: {self} lacks what {old} has")
        self.world.oracle.closed[lineage.rank] = self.name

    def revoke(self, secondary_id: str) -> None:
        def change() -> int:
            mine = self.disk.lineage()
            assert mine is not None
            result = moves.revoked(
                self.role,
                mine,
                secondary_id,
                self.disk.shared,
                self.name,
                self.wall_ms(),
                self.rng.randbytes(8),
            )
            self.disk.members.pop(secondary_id, None)
            self.disk.role = result.role
            if result.lineage is not None:
                self.world.say(f"{self}: overrules, epoch {result.lineage.current.number}")
                self._open(result.lineage)
            return 0

        self.change(change)

    def filter(self, secondary_id: str, withheld: frozenset[bytes] | None) -> None:
        def change() -> int:
            member = self.disk.members.get(secondary_id)
            if member is not None:
                self.disk.members[secondary_id] = msgspec.structs.replace(member, withheld=withheld)
            return 0

        self.change(change)

    def rotate(self) -> None:
        def change() -> int:
            if moves.refusal(self.role) is None:
                number = max(self.disk.terms) + 1
                self.disk.terms[number] = (self.rng.randbytes(4), self.wall_ms())
            return 0

        self.change(change)

    def _submitted(self) -> int:
        self.disk.submits = False
        return 0

    # the primary's side

    def accept(self, connection: Connection) -> None:
        authority, secondary_id, ticket = connection.credentials
        connection.accepted = True
        member = self.disk.members.get(secondary_id)
        if (
            not self.up
            or authority != self.disk.authority
            or member is None
            or member.ticket != ticket
        ):
            self.world.network.close(connection, client=False)
            return
        session = PrimarySession(secondary_id, self.rng.randbytes(16), self.view, self, self)
        for other, known in list(self.serving.items()):
            # That a stream replaces another is known by its hello alone: claims are short.
            if known == secondary_id and other.purpose == connection.purpose == frames.STREAM:
                self._end(other, "replaced", "another session of the same secondary")
        connection.server_session = session
        if secondary_id not in self.serving.values():
            self.selections[secondary_id] = member.withheld
        self.serving[connection] = secondary_id

    def _end(self, connection: Connection, code: str, text: str) -> None:
        session = connection.server_session
        if isinstance(session, PrimarySession):
            session.end(code, text)
        self.world.flush(connection)
        self.serving.pop(connection, None)

    def _refresh(self) -> None:
        """Role, registry or filters may have changed."""
        for connection, secondary_id in list(self.serving.items()):
            member = self.disk.members.get(secondary_id)
            authority, _, ticket = connection.credentials
            if member is None or member.ticket != ticket or authority != self.disk.authority:
                self._end(connection, "revoked", "this secondary was revoked")
            elif self.role.mode != PRIMARY and connection.purpose == frames.STREAM:
                if self.rng.random() < 0.3:  # it may drain for a while
                    self._end(connection, "demoted", "this cluster is no primary any more")
            elif self.selections.get(secondary_id) != member.withheld:
                self.selections[secondary_id] = member.withheld
                for other, known in self.serving.items():
                    if known == secondary_id and isinstance(other.server_session, PrimarySession):
                        other.server_session.selection_changed(compare=True)

    def look_at_handover(self) -> None:
        """If we stopped in favour of one that is back without an epoch, go on writing."""
        handover, mine = self.role.handover, self.disk.lineage()
        if handover is None or mine is None:
            return
        for connection, secondary_id in self.serving.items():
            session = connection.server_session
            if not isinstance(session, PrimarySession) or session.hello is None:
                continue
            if moves.handover_is_void(
                self.role,
                mine,
                secondary_id,
                session.hello.lineage,
                begun_since=connection is not self.granted_on
                and session.round_trips > 0
                and session.hello.intent == frames.STREAM,
            ):

                def change() -> int:
                    if self.role.handover == handover:
                        self.world.say(f"{self}: the handover is void")
                        self.disk.role = moves.withdrawn(self.role)
                    return 0

                self.change(change)
                return

    # primary.Host

    def is_primary(self) -> bool:
        return self.role.mode == PRIMARY

    def cluster_id(self) -> str:
        return self.name

    def addresses(self) -> tuple[str, ...]:
        return (self.name,)

    def api_addr(self) -> str:
        return self.name

    def cluster_addr(self) -> str:
        return self.name

    def local_mounts(self) -> tuple[str, ...]:
        return ()

    def guard(self, *, found: bool) -> None:
        """Nobody counts it here."""

    def claim(self) -> bytes:
        return b""

    def claimed(self, claim: bytes) -> None:
        """Announcements are made by the operators of the simulation."""

    def newest_rank(self) -> tuple[int, bytes]:
        fence = self.role.fence
        lineage = fence.lineage if fence is not None else self.disk.lineage()
        return (0, b"") if lineage is None else lineage.rank

    def withheld(self, secondary_id: str) -> tuple[bytes, ...]:
        return tuple(sorted(self.selections.get(secondary_id) or ()))

    def passes(self, secondary_id: str) -> Passes | None:
        withheld = self.selections.get(secondary_id)
        return None if withheld is None else lambda head: head[1:] not in withheld

    def forward(self, session: PrimarySession, number: int, call: bytes) -> None:
        serial, key, record = msgspec.msgpack.decode(call)

        def answered(seq: int) -> None:
            session.answer(number, b"ok", self.disk.shared)

        self.write([(key, record)], _Told(answered, lambda text: None), serial)

    def announce(self, session: PrimarySession, claim: bytes) -> None:
        parsed = msgspec.msgpack.decode(claim, type=ModelClaim)
        ticket = parsed.ticket

        def change() -> int:
            mine = self.disk.lineage()
            if self.role.mode != PRIMARY or mine is None:
                return 0
            member = self.disk.members.get(ticket.secondary_id)
            known = (
                member is not None
                and member.ticket == ticket.ticket
                and ticket.authority == self.disk.authority
            )
            fence = Fence(parsed.lineage, ticket.secondary_id, parsed.claimant, "", self.wall_ms())
            self.disk.role = moves.fenced(
                self.role,
                mine,
                fence,
                known=known,
                promotable=member is not None and member.promotable,
                filtered=member is not None and member.withheld is not None,
            )
            self.world.say(f"{self}: fenced by {parsed.claimant}")
            return 0

        self.change(
            change,
            _Told(lambda _: session.announced(True), lambda text: session.announced(False, text)),
        )

    def handover(self, session: PrimarySession) -> None:
        secondary_id = session.secondary_id
        connection = next(c for c in self.serving if c.server_session is session)

        def change() -> int:
            member = self.disk.members.get(secondary_id)
            self.disk.role = moves.granted(
                self.role,
                secondary_id,
                self.disk.shared.seq,
                promotable=member is not None and member.promotable,
                filtered=member is not None and member.withheld is not None,
                now_ms=self.wall_ms(),
            )
            self.granted_on = connection
            self.world.say(f"{self}: stops for {secondary_id} at {self.disk.shared.seq}")
            return self.disk.shared.seq

        self.change(change, _Told(session.handed_over, session.not_handed_over))

    def certificate(self, session: PrimarySession, public_key: bytes) -> None:
        pass

    # the secondary's side

    def tick(self) -> None:
        """Connect, announce, give up."""
        now = self.steady_ms()
        role = self.role
        self._go_on_with_switchover()
        if self.client is not None and not self.client.client_open:
            self.client = None
            self.next_connect_ms = now + self.rng.randrange(50, 3000)
        if self.client is None and now >= self.next_connect_ms and not self.idle:
            following = role.mode in (SECONDARY, BOOTSTRAPPING) and role.upstream is not None
            busy = self.queue.pending or self.queue.completed
            if following and self.switchover is None and not busy:
                assert role.upstream is not None
                self._connect(role.upstream)
        elif self.client is not None and role.mode not in (SECONDARY, BOOTSTRAPPING):
            self.hang_up("the role has changed")
        if self.claiming is not None and not self.claiming.client_open:
            self.claiming = None
            self.next_claim_ms = now + self.rng.randrange(100, 10_000)
        if self.claiming is None and role.announcements and now >= self.next_claim_ms:
            self._announce(role.announcements[0], role.claim)

    def _dial(self, to: str, credentials: Credentials, purpose: str) -> Connection | None:
        world = self.world
        if not world.network.reachable(self.name, to) or not world.by_name[to].up:
            return None
        connection = world.network.connect(self.name, to, purpose)
        ticket = ticket_of(credentials)
        connection.credentials = (ticket.authority, ticket.secondary_id, ticket.ticket)
        return connection

    def _connect(self, upstream: Upstream) -> None:
        connection = self._dial(upstream.addresses[0], upstream.credentials, frames.STREAM)
        if connection is None:
            self.next_connect_ms = self.steady_ms() + 1000
            return
        sink = self.view if self.copy_view is None else self.copy_view
        session = SecondarySession(sink, self, self, submit=self.disk.submits)
        self.view.session = session
        self.client, connection.client_session = connection, session
        self.world.flush(connection)

    def _announce(self, announcement: Announcement, claim: bytes) -> None:
        connection = self._dial(announcement.addresses[0], announcement.credentials, frames.CLAIM)
        if connection is None:
            self.next_claim_ms = self.steady_ms() + 1000
            return
        session = SecondarySession(self.view, self, self, intent=frames.CLAIM)
        self.claiming, connection.client_session = connection, session

        def told(answer: frames.Announced | None) -> None:
            if answer is not None and answer.accepted:
                self.change(lambda: self._acknowledged(announcement))
            if answer is not None:
                session.end("done", "")

        session.announce(claim, told)
        self.world.flush(connection)

    def _acknowledged(self, announcement: Announcement) -> int:
        left = tuple(a for a in self.role.announcements if a != announcement)
        self.disk.role = msgspec.structs.replace(self.role, announcements=left)
        return 0

    def hang_up(self, why: str) -> None:
        session = self.session
        if session is not None and self.client is not None:
            session.end("role", why)
            self.world.flush(self.client)

    def ended(self, session: SecondarySession) -> None:
        """A session of ours is over."""
        if session.idle_reason:
            self.idle = session.idle_reason
            raise Violation(f"NEVER-BEHIND: {self} has more than its primary")

    # secondary.Host

    def is_partial(self) -> bool:
        return self.copy is not None

    def welcomed(self) -> None:
        pass

    def learned(self, lineage: Lineage, addresses: tuple[str, ...], api_addr: str) -> None:
        pass

    def newer_epoch(self, rank: tuple[int, bytes]) -> None:
        pass

    def copied(self) -> None:
        """One swap: the copy is the live data now, under the terms that came with it."""
        copy, old = self.copy, self.disk
        assert copy is not None
        self.world.say(f"{self}: the copy is complete")
        withheld = copy.role.withheld
        session = self.session
        copy.role = msgspec.structs.replace(
            old.role,
            mode=SECONDARY,
            withheld=withheld,
            comparing=session is not None and session.unsettled,
        )
        copy.quarantine = old.quarantine
        copy.submits = False
        copy.members, copy.authority = {}, 0
        self.disk, self.copy, self.copy_view = copy, None, None
        self.queue = Queue()  # the processes of the node begin anew on the other store
        self.hang_up("the copy is complete")
        self.view = LiveSink(self.disk, self.rng, self.queue)

    def certified(self, certificate: bytes, authority: bytes) -> None:
        pass


class _Told:
    """A callback that also hears of a failure."""

    def __init__(
        self, done: Callable[[int], None], failed: "Callable[..., None] | _Told | None"
    ) -> None:
        self._done = done
        self._failed = failed

    def __call__(self, result: int) -> None:
        self._done(result)

    def failed(self, text: str) -> None:
        if isinstance(self._failed, _Told):
            self._failed.failed(text)
        elif self._failed is not None and not isinstance(self._failed, int):
            self._failed(text)


__all__ = ["Cluster", "Position", "Terms", "sealed"]
