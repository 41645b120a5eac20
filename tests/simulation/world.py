"""One run: a seed decides everything. A step moves some bytes, works at a disk, lets time pass, or
has a client, an operator or a fault do something.
"""

from collections.abc import Callable
from random import Random

import msgspec

from tests.simulation.cluster import Cluster, _Told
from tests.simulation.network import Connection, Network, Pipe
from tests.simulation.operators import Operator
from tests.simulation.oracle import Oracle, Violation
from tests.simulation.store import sealed
from undercroft.replication import moves
from undercroft.replication.protocol.primary import PrimarySession
from undercroft.replication.protocol.secondary import SecondarySession
from undercroft.replication.role import BOOTSTRAPPING, DISABLED, PRIMARY, SECONDARY
from undercroft.storage.keys import HEAD_BYTES, SHARED, SYSTEM

KEYS = 6  # names per mount: few, so that writes meet
QUIET_ROUNDS = 3000
LACKING = 1 << 60  # it was filtered, and no comparison has brought the rest yet


class World:
    """`operators`: role changes happen; `faults`: crashes, cuts, partitions, clock jumps."""

    def __init__(
        self,
        seed: int,
        *,
        operators: bool = True,
        faults: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.operators = operators
        self.faults = faults
        self._say = say
        self.now_ms = 0
        self.steps = 0
        self.divergences = 0  # that were counted; there are none but between a comparison's reads
        self.oracle = Oracle()
        self.network = Network(self.rng)
        self._numbers = 0
        self.mounts = [self.rng.randbytes(16) for _ in range(self.rng.randrange(1, 4))]
        names = "ABCD"[: self.rng.choice((2, 3, 3, 4))]
        self.clusters = [Cluster(self, name) for name in names]
        self.by_name = {cluster.name: cluster for cluster in self.clusters}
        self._set_up()
        self.operator = Operator(self)
        self._acts = self._actions()

    def say(self, text: str) -> None:
        if self._say is not None:
            self._say(f"{self.steps:6} {self.now_ms / 1000:9.3f} s  {text}")

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _set_up(self) -> None:
        first, *others = self.clusters
        first.enable_primary()
        for _ in range(self.rng.randrange(12)):
            first._write(self._changes(first))
        first.view.advance()
        for other in others:
            upstream = first.secondary_token(self.new_id(other))
            assert upstream is not None
            other.begin_copy(upstream, first.role.set_id)

    def new_id(self, cluster: Cluster) -> str:
        return f"{cluster.name.lower()}{self.number()}"

    # content

    def _changes(self, cluster: Cluster) -> list[tuple[bytes, bytes | None]]:
        rng = self.rng
        changes: dict[bytes, bytes | None] = {}
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            mount = rng.choice([*self.mounts, SYSTEM])
            key = SHARED + mount + b"k/%d" % rng.randrange(KEYS)
            changes[key] = None if rng.random() < 0.2 else self._record(cluster, mount)
        return list(changes.items())

    def _record(self, cluster: Cluster, mount: bytes) -> bytes:
        """Marked with its mount and the key that it is sealed under, to be found on the wire."""
        terms = cluster.disk.terms
        key = terms[max(terms)][0] if terms else bytes(4)
        return sealed(self.marker(mount) + key, self.rng)

    def marker(self, mount: bytes) -> bytes:
        return b"<" + mount[:10] + b">"

    # the network

    def flush(self, connection: Connection) -> None:
        """What the sessions have to say goes onto the wire; who is over hangs up."""
        self._note_reading(connection)
        client, server = connection.client_session, connection.server_session
        if client is not None and connection.client_open:
            out = client.take_output()
            if not connection.up.closing:
                connection.up.data += out
            if client.ended:
                self.network.close(connection, client=True)
                if isinstance(client, SecondarySession):
                    self.by_name[connection.client].ended(client)
        if server is not None and connection.server_open:
            out = server.take_output()
            if out:
                self._check_wire(connection, out)
                if not connection.down.closing:
                    connection.down.data += out
            if server.ended:
                self.network.close(connection, client=False)
                self.by_name[connection.server].serving.pop(connection, None)

    def _check_wire(self, connection: Connection, out: bytes) -> None:
        """FILTERED-STAYS: neither names nor values of a withheld mount are on the wire."""
        cluster = self.by_name[connection.server]
        withheld = cluster.selections.get(connection.credentials[1])
        for mount in withheld or ():
            if self.marker(mount) in out or SHARED + mount + b"k/" in out:
                raise Violation(f"FILTERED-STAYS: {connection} carries what is withheld")

    def _deliver(self, connection: Connection, pipe: Pipe, size: int) -> None:
        up = pipe is connection.up
        if up and not connection.accepted:
            self.by_name[connection.server].accept(connection)
        data = bytes(pipe.data[:size])
        del pipe.data[:size]
        session = connection.server_session if up else connection.client_session
        is_open = connection.server_open if up else connection.client_open
        if session is not None and is_open:
            if data:
                session.receive(data)
            if pipe.closing and not pipe.data:
                pipe.told = True
                self._ended(connection, up)
        elif pipe.closing and not pipe.data:
            pipe.told = True
            if up:
                self.network.close(connection, client=False)
            else:
                self.network.close(connection, client=True)
        self.flush(connection)

    def _ended(self, connection: Connection, up: bool) -> None:
        """The other side has hung up."""
        if up:
            session = connection.server_session
            if isinstance(session, PrimarySession) and not session.ended:
                session.ended = "the connection was lost"
        elif isinstance(connection.client_session, SecondarySession):
            connection.client_session.closed()

    # steps

    def _actions(self) -> list[tuple[int, Callable[[], None]]]:
        actions: list[tuple[int, Callable[[], None]]] = [
            (450, self._move_bytes),
            (160, self._work_at_disk),
            (120, self._work_in_sessions),
            (120, self._pass_time),
            (90, self._client_writes),
            (8, self._trim),
        ]
        if self.faults:
            actions += [(5, self._cut), (4, self._crash), (15, self._restart)]
            actions += [(3, self._partition), (4, self._heal), (1, self._jump)]
        if self.operators:
            actions += [(12, self._operate)]
        return actions

    def step(self) -> None:
        self.steps += 1
        actions = self._acts
        act = self.rng.choices(actions, _weights(actions))[0][1]
        act()

    def run(self, steps: int) -> None:
        try:
            for _ in range(steps):
                self.step()
            self.settle()
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error

    def _move_bytes(self) -> None:
        moving = self.network.moving()
        if not moving:
            self._pass_time()
            return
        connection, pipe = self.rng.choice(moving)
        size = len(pipe.data)
        if self.rng.random() < 0.3:
            size = self.rng.randrange(size + 1)
        self._deliver(connection, pipe, size)

    def _work_at_disk(self) -> None:
        busy = [c for c in self.clusters if c.up and (c.queue.pending or c.queue.completed)]
        if not busy:
            return
        cluster = self.rng.choice(busy)
        if cluster.queue.pending and self.rng.random() < 0.6:
            cluster.queue.commit(self.rng.randrange(1, 6))
        else:
            self._complete(cluster)

    def _complete(self, cluster: Cluster) -> None:
        cluster.complete()
        self._flush_all(cluster)
        session = cluster.session
        if self._is_filtered(cluster):
            cluster.exact_from = LACKING
            return
        if cluster.role.withheld:  # it has not heard yet that it is filtered no more
            return
        if session is None or not session.following or cluster.role.mode != SECONDARY:
            return
        if session.divergences:
            self.divergences += session.divergences
            session.divergences = 0
        if session.progress is None and cluster.disk.shared.seq >= cluster.exact_from:
            self.oracle.check_root(cluster)

    def _is_filtered(self, cluster: Cluster) -> bool:
        upstream = cluster.role.upstream
        if upstream is None:
            return False
        member = self.by_name[upstream.addresses[0]].disk.members.get(upstream.secondary_id)
        return member is None or member.withheld is not None

    def _flush_all(self, cluster: Cluster) -> None:
        for connection in self.network.connections:
            if cluster.name in (connection.client, connection.server):
                self.flush(connection)
        self.network.forget()

    def _work_in_sessions(self) -> None:
        connections = self.network.connections
        if connections:
            connection = self.rng.choice(connections)
            for session in (connection.client_session, connection.server_session):
                if session is not None:
                    session.work()
            self.flush(connection)

    def _note_reading(self, connection: Connection) -> None:
        """What a comparison brings may be as new as the primary's disk."""
        client = connection.client_session
        if isinstance(client, SecondarySession) and client.progress is not None:
            cluster = self.by_name[connection.client]
            primary = self.by_name[connection.server]
            if cluster.exact_from == LACKING and client._comparison is not cluster.compares:
                cluster.exact_from = 0
            cluster.exact_from = max(cluster.exact_from, primary.disk.shared.seq)
            cluster.compares = client._comparison

    def _pass_time(self) -> None:
        self.now_ms += self.rng.choice((1, 10, 100, 100, 500, 1000, 3000))
        self._tick()

    def _tick(self) -> None:
        for connection in self.network.connections:
            for session, is_open in (
                (connection.client_session, connection.client_open),
                (connection.server_session, connection.server_open),
            ):
                if session is not None and is_open:
                    session.tick()
            self.flush(connection)
        for cluster in self.clusters:
            if cluster.up:
                cluster.look_at_handover()
                cluster.tick()
                if cluster.client is not None:
                    self.flush(cluster.client)
        self.network.forget()

    def _client_writes(self) -> None:
        cluster = self.rng.choice(self.clusters)
        if not cluster.up or cluster.role.mode == BOOTSTRAPPING:
            return
        session = cluster.session
        if session is not None and session.following and self.rng.random() < 0.5:
            key, record = self._changes(cluster)[0]
            call = msgspec.msgpack.encode((self.number(), key, record))
            session.forward(call, lambda _: None)
            assert cluster.client is not None
            self.flush(cluster.client)
        elif moves.refusal(cluster.role) is None:
            cluster.write(self._changes(cluster))

    def _trim(self) -> None:
        cluster = self.rng.choice(self.clusters)
        cluster.disk.trim(self.rng.randrange(3, 60))

    # faults

    def _cut(self) -> None:
        if self.network.connections:
            connection = self.rng.choice(self.network.connections)
            self.say(f"{connection} is cut")
            self.network.cut(connection)

    def _crash(self) -> None:
        cluster = self.rng.choice(self.clusters)
        if cluster.up:
            cluster.crash()

    def _restart(self) -> None:
        cluster = self.rng.choice(self.clusters)
        if not cluster.up:
            cluster.restart()

    def _partition(self) -> None:
        blocked = self.network.blocked
        one, other = self.rng.sample(self.clusters, 2)
        blocked.add((one.name, other.name))
        both = self.rng.random() < 0.6
        if both:
            blocked.add((other.name, one.name))
        self.say(f"nothing goes from {one} to {other}{' and back' if both else ''}")

    def _heal(self) -> None:
        if self.network.blocked:
            self.say("the network heals")
            self.network.blocked.clear()

    def _jump(self) -> None:
        cluster = self.rng.choice(self.clusters)
        cluster.wall_offset_ms += self.rng.randrange(-3_600_000, 3_600_000)

    # operators

    def _operate(self) -> None:
        cluster = self.rng.choice(self.clusters)
        if cluster.up:
            self.operator.act(cluster)
            self._flush_all(cluster)

    # the end

    def settle(self) -> None:
        """Heal everything, let operators tidy up, and look whether all is as promised."""
        self.say("everything heals")
        self.network.blocked.clear()
        for cluster in self.clusters:
            if not cluster.up:
                cluster.restart()
        self._run_on(100)
        winner = self.operator.tidy_up(self._run_on)
        self._quiet()
        self._check_settled(winner)

    def _quiet(self) -> None:
        if not self._run_on(QUIET_ROUNDS, until=self._is_quiet):
            waiting = [c.name for c in self.clusters if not self._is_settled(c)]
            raise Violation(f"COMPARISON-ENDS: {waiting} do not come to rest")

    def _run_on(self, rounds: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Run without faults; answers whether `until` came true, and stayed so for seconds."""
        quiet = 0
        for _ in range(rounds):
            for _ in range(20):
                moving = self.network.moving()
                if not moving:
                    break
                for connection, pipe in moving:
                    self._deliver(connection, pipe, len(pipe.data))
            for connection in self.network.connections:
                for session in (connection.client_session, connection.server_session):
                    if session is not None:
                        session.work()
                self.flush(connection)
            for cluster in self.clusters:
                cluster.queue.commit(100)
                self._complete(cluster)
            self.now_ms += 100
            self._tick()
            quiet = quiet + 1 if until() else 0
            if quiet > 30:  # heartbeats have been exchanged, and roots compared
                return True
        return False

    def _is_quiet(self) -> bool:
        return all(self._is_settled(cluster) for cluster in self.clusters)

    def _is_settled(self, cluster: Cluster) -> bool:
        role = cluster.role
        if cluster.queue.pending or cluster.queue.completed or cluster.switchover is not None:
            return False
        if role.mode in (PRIMARY, DISABLED) or role.upstream is None:
            return True
        upstream = self.by_name[role.upstream.addresses[0]]
        session = cluster.session
        if session is None or not session.following or session.progress is not None:
            return False
        return (
            role.mode == SECONDARY
            and cluster.view.position() == upstream.view.position()
            and not session._pending_beats
        )

    def _check_settled(self, winner: Cluster) -> None:
        for cluster in self.clusters:
            upstream = cluster.role.upstream
            if upstream is None or cluster.role.mode != SECONDARY:
                continue
            primary = self.by_name[upstream.addresses[0]]
            member = primary.disk.members[upstream.secondary_id]
            passed = {
                key: record
                for key, record in primary.disk.entries.items()
                if member.withheld is None or key[1:HEAD_BYTES] not in member.withheld
            }
            if cluster.disk.entries != passed:
                raise Violation(f"CONVERGES: {cluster} is not what {primary} lets it be")
            if set(cluster.role.withheld) != (member.withheld or set()):
                raise Violation(f"CONVERGES: {cluster} is wrong about what it lacks")
        for cluster in self.clusters:
            self.oracle.check_quarantine(cluster)
        self.oracle.check_nothing_lost(winner, self.clusters)
        if self.divergences and not self.oracle.vague:
            raise Violation(f"NO-FALSE-ALARM: {self.divergences} divergences that were none")


def _weights(actions: list[tuple[int, Callable[[], None]]]) -> list[int]:
    return [weight for weight, _ in actions]


def settled(text: str) -> _Told:
    return _Told(lambda _: None, lambda _: None)


def run(seed: int, steps: int, say: Callable[[str], None] | None = None, **options: bool) -> World:
    """One run. Raises Violation, with the seed in its text."""
    world = World(seed, say=say, **options)
    try:
        world.run(steps)
    except Violation as violation:
        raise Violation(
            f"{violation} (step {world.steps}; python -m tests.simulation --seed {seed} "
            f"--steps {steps} -v)"
        ) from violation
    return world
