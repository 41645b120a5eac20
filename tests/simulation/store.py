"""A cluster's store as a model: dictionaries, with a queue of changes in front of them.

A change waits (`pending`), is durable (`commit`), and is then seen by the sessions (`complete`),
each at a moment of its own. A crash loses what waits and forgets what was not told. The digests,
the log's records and their chains are the real ones.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import msgspec

from tests.simulation.oracle import Violation
from undercroft.replication.lineage import LINEAGE_KEY, Lineage
from undercroft.replication.protocol.ports import Slice
from undercroft.replication.quarantine import name_of
from undercroft.replication.role import Role
from undercroft.storage.digest import Delta, DigestTree, bucket_of
from undercroft.storage.keys import HEAD_BYTES, SHARED
from undercroft.storage.log import Foreign, Trimmed
from undercroft.storage.record import tag_of
from undercroft.storage.wal import (
    DELETE,
    NO_TAG,
    PUT,
    START,
    WITHHELD,
    Position,
    SharedRecord,
    digest_operation,
    encode_operation,
    operations_of,
    shared_chain_of,
)

Terms = tuple[tuple[int, bytes, int], ...]
_PLAIN = b"\x01\x00"


class Failure(Exception):
    """A change that is refused; the session that asked for it is told."""


class Member(msgspec.Struct, frozen=True):
    """A secondary that this cluster has issued a certificate to."""

    ticket: int
    promotable: bool = True
    withheld: frozenset[bytes] | None = None  # mount ids of its filter; None: no filter


class Logged(NamedTuple):
    """A record of the log; `record` is None for a jump."""

    position: Position
    record: SharedRecord | None


def sealed(value: bytes, rng: Random) -> bytes:
    """A record as the barrier would make one: unreadable, other each time, a tag at the end."""
    return _PLAIN + value + rng.randbytes(16)


def encode_lineage(lineage: Lineage, rng: Random) -> bytes:
    return sealed(msgspec.msgpack.encode(lineage), rng)


class Disk:
    """What survives a crash."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.log: list[Logged] = []
        self.base: Position = START  # of the shared log, before the first record that is held
        self.shared: Position = START
        self.quarantine: dict[str, tuple[bytes, bytes, bytes | None]] = {}  # chain, key, record
        self.role = Role()
        self.tree = DigestTree()
        self.terms: dict[int, tuple[bytes, int]] = {}
        self.alternates: set[tuple[int, bytes, int]] = set()
        self.members: dict[str, Member] = {}
        self.authority = 0
        self.submits = False  # an operator chose the primary: whatever epochs we know, we follow
        self.held: dict[bytes, Position] = {}  # every record that was ever here, by chain
        self.records_held: dict[bytes, SharedRecord] = {}
        self.unheld = 0  # the greatest place that the log had lost when something was set aside

    def lineage(self) -> Lineage | None:
        raw = self.entries.get(LINEAGE_KEY)
        return None if raw is None else msgspec.msgpack.decode(raw[2:-16], type=Lineage)

    def _change(self, key: bytes, record: bytes | None) -> Delta:
        old = self.entries.get(key)
        if record is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = record
        delta = Delta(
            key,
            NO_TAG if old is None else tag_of(old),
            NO_TAG if record is None else tag_of(record),
        )
        self.tree.apply((delta,))
        return delta

    def write(
        self, changes: list[tuple[bytes, bytes | None]], time_ms: int, epoch: int = 0
    ) -> tuple[SharedRecord | None, list[Delta]]:
        """A request's writes as the next record of the shared log."""
        deltas, encoded = [], []
        for key, record in changes:
            if record is None and key not in self.entries:
                continue
            delta = self._change(key, record)
            deltas.append(delta)
            encoded.append(encode_operation(key, delta.old, record))
        if not deltas:
            return None, []
        after = self.shared
        epoch = epoch or max(after.epoch, 1)
        chain = shared_chain_of(after, epoch, time_ms, [digest_operation(o) for o in encoded])
        record = SharedRecord(epoch, after.seq + 1, time_ms, chain, b"".join(encoded))
        self._append(record)
        return record, deltas

    def apply(self, raw: bytes) -> tuple[int, list[Delta]]:
        """A record of another cluster. Answers how many entries differed."""
        record = SharedRecord.decode(raw)
        if record.seq != self.shared.seq + 1 or record.epoch < self.shared.epoch:
            raise Failure("out of order")
        digests, todo = [], []
        for kind, old_tag, key, value, encoded in operations_of(record.body):
            if kind == WITHHELD:
                digests.append(old_tag)
                continue
            digests.append(digest_operation(encoded))
            todo.append((key, None if kind == DELETE else value, old_tag))
        if shared_chain_of(self.shared, record.epoch, record.time_ms, digests) != record.chain:
            raise Failure("a record is not what its chain says")
        differing, deltas = 0, []
        for key, value, old_tag in todo:
            self.check_readable(value)
            if self.entries.get(key) == value:
                differing += old_tag != (NO_TAG if value is None else tag_of(value))
                continue
            delta = self._change(key, value)
            differing += delta.old != old_tag
            deltas.append(delta)
        self._append(record)
        return differing, deltas

    def check_readable(self, record: bytes | None) -> None:
        """KEYS-FIRST: nothing arrives before the key that it is sealed under."""
        if record is not None and record[2:3] == b"<" and record[14:18] not in self.keys():
            raise Violation("KEYS-FIRST: an entry came before its key")

    def _append(self, record: SharedRecord) -> None:
        self.shared = record.position
        self.log.append(Logged(record.position, record))
        self.held[record.chain] = record.position
        self.records_held[record.chain] = record

    def store(self, entries: list[tuple[bytes, bytes | None]]) -> tuple[int, list[Delta]]:
        for _, value in entries:
            self.check_readable(value)
        deltas = [
            self._change(key, value) for key, value in entries if self.entries.get(key) != value
        ]
        return len(deltas), deltas

    def jump(self, position: Position) -> None:
        if position != self.shared:
            self.shared = position
            self.log.append(Logged(position, None))

    def set_aside(self, behind_seq: int) -> int:
        count = 0
        for logged in reversed(self.log):
            if logged.position.seq <= behind_seq:
                break
            if logged.record is None:
                continue
            record = logged.record
            for index, (kind, _, key, value, _) in enumerate(operations_of(record.body)):
                name = name_of(record.position, index)
                if kind != WITHHELD and name not in self.quarantine:
                    self.quarantine[name] = (record.chain, key, value if kind == PUT else None)
                    count += 1
        else:
            if self.base.seq > behind_seq:
                self.unheld = max(self.unheld, self.base.seq)
        return count

    def was_set_aside(self, record: SharedRecord, index: int) -> bool:
        found = self.quarantine.get(name_of(record.position, index))
        return found is not None and found[0] == record.chain

    def adopt(self, terms: Terms, alternates: Terms) -> None:
        """Another cluster's key terms; own ones of the same number stay, to read by."""
        for number, key, ms in terms:
            mine = self.terms.get(number)
            if mine is not None and mine[0] != key:
                self.alternates.add((number, *mine))
            self.terms[number] = (key, ms)
        self.alternates.update(alternates)

    def keys(self) -> set[bytes]:
        return {key for key, _ in self.terms.values()} | {key for _, key, _ in self.alternates}

    def trim(self, keep: int) -> None:
        while len(self.log) > keep:
            self.base = self.log.pop(0).position

    def records(self, after: Position, upto: int, limit: int) -> list[SharedRecord]:
        """Like `storage.log.shared_records`."""
        if after == self.shared:
            return []
        start, base = 0, self.base
        for at in range(len(self.log) - 1, -1, -1):
            if self.log[at].record is None:
                start, base = at + 1, self.log[at].position
                break
        if after.seq >= self.shared.seq:
            raise Foreign
        if after.seq < base.seq:
            raise Trimmed
        index = start + after.seq - base.seq
        if after != (base if after.seq == base.seq else self.log[index - 1].position):
            raise Foreign
        found = [item.record for item in self.log[index : index + limit]]
        return [record for record in found if record is not None and record.seq <= upto]


class Queue:
    """The way to the disk: in order, late, and lost in a crash."""

    def __init__(self) -> None:
        self.pending: deque[tuple[Callable[[], int], Callable[[int], None], object]] = deque()
        self.completed: deque[tuple[int | Failure, Callable[[int], None], object]] = deque()
        self.broken: object = None  # a session of which a change was refused: no more of it

    def ask(
        self, change: Callable[[], int], done: Callable[[int], None], session: object = None
    ) -> None:
        self.pending.append((change, done, session))

    def commit(self, count: int) -> None:
        """The oldest changes become durable; each either whole or not at all."""
        for _ in range(min(count, len(self.pending))):
            change, done, session = self.pending.popleft()
            result: int | Failure
            if session is not None and session is self.broken:
                result = Failure("a change before it was refused")
            else:
                try:
                    result = change()
                except Failure as failure:
                    result, self.broken = failure, session or self.broken
            self.completed.append((result, done, session))


class View:
    """A disk as sessions see it: tree and position of the last look, entries of now."""

    def __init__(self, disk: Disk, rng: Random) -> None:
        self.disk = disk
        self._rng = rng
        self._watched: list[tuple[int, Callable[[bytes], None]]] = []
        self._unseen: list[tuple[Position, list[Delta]]] = []
        self._sorted: list[bytes] | None = None
        self.page = 4
        self.load()

    def load(self) -> None:
        self.tree = DigestTree()
        self.tree.apply(
            Delta(key, NO_TAG, tag_of(record)) for key, record in self.disk.entries.items()
        )
        self._position = self.disk.shared
        self._unseen.clear()
        self._watched.clear()
        self._sorted = None

    def committed(self, deltas: list[Delta]) -> None:
        self._unseen.append((self.disk.shared, deltas))
        self._sorted = None

    def advance(self) -> None:
        unseen, self._unseen = self._unseen, []
        for position, deltas in unseen:
            self.tree.apply(deltas)
            if position != self._position:
                self._position = position
                if self._watched:
                    self._tell_roots()

    def _tell_roots(self) -> None:
        at = self._position.seq
        due = [seen for seq, seen in self._watched if seq == at]
        self._watched = [(seq, seen) for seq, seen in self._watched if seq > at]
        for seen in due:
            seen(self.root())

    # ports.State

    def position(self) -> Position:
        return self._position

    def lineage(self) -> Lineage | None:
        return self.disk.lineage()

    def term(self) -> int:
        return max(self.disk.terms, default=0)

    def entries(self) -> int:
        return len(self.disk.entries)

    def heads(self) -> dict[bytes, bytes]:
        return self.tree.heads(SHARED)

    def root(self) -> bytes:
        return self.tree.root(SHARED)

    def nodes(self, head: bytes) -> bytes:
        return self.tree.nodes(head)

    def buckets(self, head: bytes, node: int) -> bytes:
        return self.tree.buckets(head, node)

    def _walk(self, head: bytes, after: bytes, buckets: frozenset[int] | None) -> Slice:
        if self._sorted is None:
            self._sorted = sorted(self.disk.entries)
        found: list[bytes] = []
        looked = 0
        for key in self._sorted:
            if key[:HEAD_BYTES] != head or key <= after:
                continue
            if looked == self.page:
                return Slice(found, after)
            looked += 1
            after = key
            if buckets is None or bucket_of(key) in buckets:
                found += (key, self.disk.entries[key])
        return Slice(found, None)

    def scan(self, head: bytes, after: bytes) -> Slice:
        return self._walk(head, after, None)

    def leaves(self, head: bytes, buckets: frozenset[int], after: bytes) -> Slice:
        return self._walk(head, after, buckets)

    def watch_root(self, seq: int, seen: Callable[[bytes], None]) -> None:
        self._watched.append((seq, seen))
        self._tell_roots()

    # ports.Source

    def records(self, after: Position) -> list[SharedRecord]:
        return self.disk.records(after, self._position.seq, self._rng.choice((1, 3, 1000)))

    def terms(self) -> tuple[Terms, Terms]:
        disk = self.disk
        terms = tuple((n, key, ms) for n, (key, ms) in sorted(disk.terms.items()))
        return terms, tuple(sorted(disk.alternates))


class LiveSink(View):
    """What a session of a secondary changes: by the queue, in order."""

    def __init__(self, disk: Disk, rng: Random, queue: Queue) -> None:
        super().__init__(disk, rng)
        self._queue = queue
        self.session: object = None  # whose changes are asked for
        self.needed_terms = 0

    def _ask(self, change: Callable[[], int], done: Callable[[int], None]) -> None:
        self._queue.ask(change, done, self.session)

    def apply(self, records: list[bytes], done: Callable[[int], None]) -> None:
        def change() -> int:
            self._refuse_others()
            differing = 0
            for raw in records:
                count, deltas = self.disk.apply(raw)
                self.committed(deltas)
                differing += count
            return differing

        self._ask(change, done)

    def store_entries(
        self, entries: list[tuple[bytes, bytes | None]], done: Callable[[int], None]
    ) -> None:
        def change() -> int:
            self._refuse_others()
            count, deltas = self.disk.store(entries)
            self.committed(deltas)
            return count

        self._ask(change, done)

    def begin_comparison(self) -> None:
        def change() -> int:
            self._refuse_others()
            self.disk.role = msgspec.structs.replace(self.disk.role, comparing=True)
            return 0

        self._ask(change, lambda _: None)

    def unfinished(self) -> bool:
        return self.disk.role.comparing

    def settled(self) -> None:
        def change() -> int:
            self._refuse_others()
            self.disk.role = msgspec.structs.replace(self.disk.role, comparing=False)
            return 0

        self._ask(change, lambda _: None)

    def jump(self, position: Position, done: Callable[[], None]) -> None:
        def change() -> int:
            self._refuse_others()
            self.disk.jump(position)
            self.disk.submits = False
            self.committed([])
            return 0

        self._ask(change, lambda _: done())

    def set_aside(self, behind_seq: int, done: Callable[[], None]) -> None:
        def change() -> int:
            self._refuse_others()
            return self.disk.set_aside(behind_seq)

        self._ask(change, lambda _: done())

    def adopt(self, terms: Terms, alternates: Terms, done: Callable[[], None]) -> None:
        def change() -> int:
            self._refuse_others()
            self.disk.adopt(terms, alternates)
            return 0

        self._ask(change, lambda _: done())

    def withhold(self, mounts: tuple[bytes, ...]) -> None:
        def change() -> int:
            self._refuse_others()
            self.disk.role = msgspec.structs.replace(self.disk.role, withheld=mounts)
            return 0

        self._ask(change, lambda _: None)

    def lacks(self) -> tuple[bytes, ...]:
        return self.disk.role.withheld

    def resume_point(self, head: bytes) -> bytes | None:
        return None

    def _refuse_others(self) -> None:
        role = self.disk.role
        if role.mode != "secondary" or role.upstream is None:
            raise Failure("this cluster follows no primary now")


class CopySink(View):
    """A copy beside the live data. What was not flushed is lost in a crash."""

    def __init__(self, disk: Disk, rng: Random) -> None:
        super().__init__(disk, rng)
        self._batch: list[tuple[bytes, bytes | None]] = []

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        _, deltas = self.disk.store(batch)
        self.committed(deltas)
        self.advance()

    def nodes(self, head: bytes) -> bytes:
        self._flush()
        return super().nodes(head)

    def scan(self, head: bytes, after: bytes) -> Slice:
        self._flush()
        return super().scan(head, after)

    def leaves(self, head: bytes, buckets: frozenset[int], after: bytes) -> Slice:
        self._flush()
        return super().leaves(head, buckets, after)

    def resume_point(self, head: bytes) -> bytes | None:
        self._flush()
        return max((key for key in self.disk.entries if key[:HEAD_BYTES] == head), default=None)

    def watch_root(self, seq: int, seen: Callable[[bytes], None]) -> None:
        pass

    def apply(self, records: list[bytes], done: Callable[[int], None]) -> None:
        raise AssertionError("a copy follows no log")

    def begin_comparison(self) -> None:
        pass

    def unfinished(self) -> bool:
        return False

    def settled(self) -> None:
        pass

    def store_entries(
        self, entries: list[tuple[bytes, bytes | None]], done: Callable[[int], None]
    ) -> None:
        self._batch += entries
        if self._rng.random() < 0.2:
            self._flush()
        done(len(entries))

    def jump(self, position: Position, done: Callable[[], None]) -> None:
        self._flush()
        self.disk.jump(position)
        self.committed([])
        self.advance()
        done()

    def set_aside(self, behind_seq: int, done: Callable[[], None]) -> None:
        raise AssertionError("a copy has no history")

    def adopt(self, terms: Terms, alternates: Terms, done: Callable[[], None]) -> None:
        self.disk.adopt(terms, alternates)
        done()

    def withhold(self, mounts: tuple[bytes, ...]) -> None:
        self.disk.role = msgspec.structs.replace(self.disk.role, withheld=mounts)

    def lacks(self) -> tuple[bytes, ...]:
        return ()
