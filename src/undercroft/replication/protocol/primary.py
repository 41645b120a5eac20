"""The primary's side of a session: bytes and clock in, bytes and calls to the host out. No I/O.

One session serves one secondary. It answers what the secondary asks (comparing), and once the
secondary is at a place of the log, ships what follows. Nothing here trusts a name in a frame: who
the secondary is, and what it may have, comes with the connection.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from undercroft import __version__
from undercroft.errors import Corrupt
from undercroft.replication.lineage import Lineage
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.compare import (
    fingerprint,
    root_of,
    sums_of,
    unpack_buckets,
    unpack_sums,
)
from undercroft.replication.protocol.frames import Frame, ProtocolError
from undercroft.replication.protocol.ports import Clock, Passes, Source
from undercroft.storage.digest import NODE_BUCKETS
from undercroft.storage.keys import HEAD_BYTES, SHARED
from undercroft.storage.log import Foreign, Trimmed
from undercroft.storage.wal import START, Position, SharedRecord, has_holes

HEARTBEAT_MS: Final = 1000
SILENCE_MS: Final = 10_000  # without a frame for so long the other side is gone
_OF_ANY_SESSION: Final = (frames.Announce, frames.Heartbeat, frames.Echo, frames.Bye)
_QUESTIONS: Final = (frames.AskHeads, frames.AskNodes, frames.AskBuckets, frames.AskScan)
QUESTIONS_MAX: Final = 64
FORWARDS_MAX: Final = 64  # that run at once, for one secondary
_WAITING_BYTES: Final = 8 << 20  # of forwards that do not run yet: then no more is received
_BUCKETS_BYTES_MAX: Final = 2 * NODE_BUCKETS * NODE_BUCKETS  # the numbers of all that there are
SMALL_BYTES_MAX: Final = 2 << 20  # of a frame that carries nobody's request
WINDOW_BYTES: Final = 8 << 20  # of bulk frames that the secondary has not consumed yet


class Host(Protocol):
    """What a session asks of the cluster; answers come by the session's methods."""

    def is_primary(self) -> bool: ...
    def cluster_id(self) -> str: ...
    def addresses(self) -> tuple[str, ...]: ...
    def api_addr(self) -> str: ...
    def claim(self) -> bytes:
        """The signed claim by which this cluster opened its epoch; empty without one."""
        ...

    def newest_rank(self) -> tuple[int, bytes]:
        """Of the newest epoch of the set that this cluster has heard of."""
        ...

    def withheld(self, secondary_id: str) -> tuple[bytes, ...]: ...
    def passes(self, secondary_id: str) -> Passes | None:
        """What may go to that secondary; None: everything shared."""
        ...

    def guard(self, *, found: bool) -> None:
        """A secondary has shown its place: the log reaches back to it, or states are compared."""
        ...

    def forward(self, session: "PrimarySession", number: int, call: bytes) -> None: ...
    def announce(self, session: "PrimarySession", claim: bytes) -> None: ...
    def handover(self, session: "PrimarySession") -> None: ...
    def certificate(self, session: "PrimarySession", public_key: bytes) -> None: ...


class PrimarySession:
    """Made when a connection stands; `secondary_id` is that of its certificate.

    The link calls `receive`, `tick` (ten times a second), `committed` (there is more of the log)
    and `work` while that answers True; it sends what `take_output` gives. `ended`: why it is over.
    """

    def __init__(
        self, secondary_id: str, session: bytes, source: Source, host: Host, clock: Clock
    ) -> None:
        self.secondary_id = secondary_id
        self.session = session
        self.source = source
        self.hello: frames.Hello | None = None
        self.ended = ""
        self.streaming = False
        self.acked: Position = START
        self.bytes_sent = 0
        self.records_sent = 0
        self.last_heard_ms = clock.steady_ms()
        self.last_heartbeat: frames.Heartbeat | None = None  # of the secondary
        self.last_heartbeat_ms = 0  # our wall clock
        self.round_trip_ms = 0
        self.round_trips = 0  # heartbeats that were answered: the other side lives, here and now
        self.clock_skew_ms = 0
        self._host = host
        self._clock = clock
        self._decoder = frames.Decoder()
        self._out: list[bytes] = []
        self._bulk_sent = 0
        self._bulk_consumed = 0
        self._start: Position | None = None  # the stream begins once the secondary is there
        self._sent: Position = START
        self._known_term = 0
        self._passes: Passes | None = None
        self._serves = False  # it is a session of a secondary that may have our data
        self._jobs: deque[Iterator[None]] = deque()
        self._answered = 0  # questions whose answers have not been taken to the network
        self._asked = frames.AskEntries(b"", b"", b"")  # frames of a question that is not complete
        self.is_read = True  # said by the link: what is sent is taken
        self._forwarded = 0
        self._waiting: deque[frames.Forward] = deque()
        self._waiting_bytes = 0
        self._running = 0  # forwards that are not answered
        self._starting = False
        self._beat = 0
        self._beats: dict[int, int] = {}
        self._next_beat_ms = 0

    # what the link calls

    def receive(self, data: bytes) -> None:
        if self.ended:
            return
        self.heard()
        try:
            for frame, size in self._decoder.feed(data):
                _check_size(frame, size)
                self._handle(frame)
                if self.ended:
                    return
        except ProtocolError as error:
            self.end("protocol", str(error))
        except Corrupt as error:
            self.end("failed", error.message)

    def heard(self) -> None:
        """The other side lives: its silence is counted from now on."""
        self.last_heard_ms = self._clock.steady_ms()

    def tick(self) -> None:
        if self.ended:
            return
        now = self._clock.steady_ms()
        if now - self.last_heard_ms > SILENCE_MS:
            self.ended = "nothing was heard of it"
            return
        if (
            self.hello is not None
            and self.hello.intent == frames.STREAM
            and now >= self._next_beat_ms
        ):
            self._next_beat_ms = now + HEARTBEAT_MS
            self._send_heartbeat(now)

    def committed(self) -> None:
        """The log has grown, or the secondary has room again: what follows goes with `work`."""
        self._ship()

    def _ship(self) -> bool:
        """One frame of records, so that the other side works while the next is read.

        Answers whether there may be more.
        """
        if not self.streaming or self.ended or not self._has_room():
            return False
        try:
            batch = _whole(self.source.records(self._sent))
            if batch:
                self._send_bulk(frames.Records([self._visible(record) for record in batch]))
                self._sent = batch[-1].position
                self.records_sent += len(batch)
                return True
        except Trimmed:
            self.end("trimmed", "the log no longer reaches back so far: compare states")
        except Foreign:
            self.end("foreign", "the history has changed under the session")
        except Corrupt as error:  # damaged, or of a later release: nothing is skipped
            self.end("failed", error.message)
        return False

    def work(self) -> bool:
        """A slice of what was asked and takes long, or a frame of the log.

        Answers whether there is more to do now.
        """
        self._run_forwards()
        if self.ended or not self._has_room():
            return False
        if not self._jobs:
            return self._ship()
        if next(self._jobs[0], self) is self:
            self._jobs.popleft()
        return self._has_room() and (bool(self._jobs) or self.streaming)

    @property
    def is_full(self) -> bool:
        return self._waiting_bytes > _WAITING_BYTES

    def take_output(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        self._answered = 0
        self.bytes_sent += len(out)
        return out

    def end(self, code: str, text: str) -> None:
        """Say why, and stop. The link closes once the output is sent."""
        if not self.ended:
            self._send(frames.Bye(code, text, self.source.lineage(), self.source.position()))
            self.ended = text or code

    # what the host calls

    def answer(self, number: int, answer: bytes, position: Position) -> None:
        self._running -= 1
        self._send(frames.Forwarded(number, answer, position))
        self._run_forwards()

    def announced(self, accepted: bool, reason: str = "") -> None:
        self._send(frames.Announced(accepted, reason))

    def handed_over(self, seq: int) -> None:
        self._send(frames.Handover(True, seq))

    def not_handed_over(self, reason: str) -> None:
        self._send(frames.Handover(False, 0, reason))

    def certified(self, certificate: bytes, authority: bytes) -> None:
        self._send(frames.Certificate(certificate, authority))

    def selection_changed(self, *, compare: bool) -> None:
        """The secondary's filter, or the mounts it speaks of, are others now."""
        self._passes = self._host.passes(self.secondary_id)
        if self.hello is not None and self.hello.intent == frames.STREAM:
            withheld = self._host.withheld(self.secondary_id)
            self._send(frames.Withheld(withheld, compare))

    # frames

    def _handle(self, frame: Frame) -> None:
        if self.hello is None:
            if not isinstance(frame, frames.Hello):
                raise ProtocolError("a session begins with a Hello")
            self._greet(frame)
            return
        if not self._serves and not isinstance(frame, _OF_ANY_SESSION):
            raise ProtocolError(f"a {type(frame).__name__} in a session that is for something else")
        if isinstance(frame, _QUESTIONS):
            self._check_patience()
        if isinstance(frame, frames.Ack):
            self._acknowledged(frame)
        elif isinstance(frame, frames.Heartbeat):
            self.last_heartbeat, self.last_heartbeat_ms = frame, self._clock.wall_ms()
            self._send(frames.Echo(frame.number, self._clock.wall_ms()))
        elif isinstance(frame, frames.Echo):
            self._echoed(frame)
        elif isinstance(frame, frames.AskHeads):
            self.source.advance()  # walks read entries that are newer: not beyond what we say here
            heads, entries = self._heads(), self.source.entries()
            self._send(frames.Heads(self.source.position(), heads, entries))
        elif isinstance(frame, frames.AskNodes):
            nodes = self.source.nodes(frame.head) if self._may(frame.head) else b""
            self._send(frames.Nodes(frame.head, nodes))
        elif isinstance(frame, frames.AskBuckets):
            if len(frame.nodes) > NODE_BUCKETS:  # there are no more
                raise ProtocolError("a question that is too long")
            self._jobs.append(self._buckets(frame))
        elif isinstance(frame, frames.AskEntries):
            self._ask_entries(frame)
        elif isinstance(frame, frames.AskScan):
            self._jobs.append(self._scan(frame))
        elif isinstance(frame, frames.Forward):
            if frame.number != self._forwarded + 1:  # never twice, never out of order
                raise ProtocolError("a forward out of order")
            self._forwarded = frame.number
            self._waiting.append(frame)
            self._waiting_bytes += len(frame.call)
            self._run_forwards()
        elif isinstance(frame, frames.Announce):
            self._host.announce(self, frame.claim)
        elif isinstance(frame, frames.AskHandover):
            self._host.handover(self)
        elif isinstance(frame, frames.AskCertificate):
            self._host.certificate(self, frame.public_key)
        elif isinstance(frame, frames.Bye):
            self.ended = frame.text or frame.code
        else:
            raise ProtocolError(f"a {type(frame).__name__} that only a primary sends")

    def _check_patience(self) -> None:
        """A secondary asks one thing after the other; none is to fill our memory with questions,
        or with answers (R-24).
        """
        self._answered += 1
        if self._answered + len(self._jobs) > QUESTIONS_MAX:
            raise ProtocolError("too many questions at once")

    def _run_forwards(self) -> None:
        """So many at once as their answers have room, and none whose answer is not taken."""
        if self._starting:  # refused at once, within the loop below
            return
        self._starting = True
        try:
            while (
                self._waiting and self._running < FORWARDS_MAX and self.is_read and not self.ended
            ):
                frame = self._waiting.popleft()
                self._waiting_bytes -= len(frame.call)
                self._running += 1
                self._host.forward(self, frame.number, frame.call)
        finally:
            self._starting = False

    def _greet(self, hello: frames.Hello) -> None:
        self.hello = hello
        self._decoder.limit = frames.FRAME_BYTES_MAX
        low, high = frames.VERSION_LOW, frames.VERSION_HIGH
        if hello.high < low or hello.low > high:
            self._refuse(
                "version",
                f"this primary ({__version__}) speaks protocol {low} to {high}, the secondary "
                f"({hello.release}) {hello.low} to {hello.high}: upgrade secondaries first",
            )
            return
        lineage = self.source.lineage()
        if hello.intent == frames.CLAIM and lineage is not None:
            self._welcome(hello, lineage, frames.FOLLOW, 0)
            return
        if not self._host.is_primary() or lineage is None:
            self._refuse("role", "this cluster is not a primary now")
            return
        verdict, branch_seq = frames.COMPARE, 0
        if hello.intent == frames.STREAM and not hello.partial and hello.lineage is not None:
            problem = _stale(hello, hello.lineage, lineage)
            if problem:
                self._refuse(*problem)
                return
            verdict, branch_seq = self._judge(hello, hello.lineage, lineage)
            self._host.guard(found=verdict == frames.FOLLOW)
        self._welcome(hello, lineage, verdict, branch_seq)

    def _judge(self, hello: frames.Hello, theirs: Lineage, lineage: Lineage) -> tuple[str, int]:
        """How the secondary gets from where it is to where we are.

        One whose comparison is unfinished may have our lineage and a position of its own history.
        """
        at = hello.position
        branch = lineage.branch(self.source.position().seq, theirs, at.seq)
        assert branch is not None, "lineages without a common epoch are refused before"
        if at.seq > branch.seq:
            if theirs.rank == lineage.rank and not hello.unfinished:
                return frames.BEHIND, 0
            return frames.DIVERGED, branch.seq
        if hello.unfinished:
            return frames.COMPARE, 0
        try:
            _whole(self.source.records(at))
        except Trimmed:
            restored = theirs.rank == lineage.rank and not lineage.may_have(at.seq, theirs)
            return frames.BEHIND if restored else frames.COMPARE, 0
        except Foreign:
            return frames.BEHIND, 0
        return frames.FOLLOW, 0

    def _welcome(
        self, hello: frames.Hello, lineage: Lineage, verdict: str, branch_seq: int
    ) -> None:
        position = self.source.position()
        self._send(
            frames.Welcome(
                min(frames.VERSION_HIGH, hello.high),
                __version__,
                self.session,
                self.secondary_id,
                self._host.cluster_id(),
                lineage,
                position,
                verdict,
                branch_seq,
                self._host.addresses(),
                self._host.api_addr(),
            )
        )
        if hello.intent != frames.STREAM or verdict == frames.BEHIND:
            return
        self._serves = True  # only now: before the filter is known nothing is answered
        self.selection_changed(compare=False)
        claim = self._host.claim()
        if claim:  # so that it can tell the primary that it had before
            self._send(frames.Announce(claim))
        # In every session anew: who was under another primary may have other keys under the same
        # numbers, whatever its newest term is.
        self._send_terms()
        if verdict == frames.FOLLOW:
            self._sent, self.acked, self.streaming = hello.position, hello.position, True
            self.committed()
        else:
            self._start = position

    def _acknowledged(self, ack: frames.Ack) -> None:
        if ack.consumed > self._bulk_sent:
            raise ProtocolError("more was acknowledged than was sent")
        self._bulk_consumed, self.acked = ack.consumed, ack.position
        if self._start is not None and ack.position == self._start:
            self._sent, self._start, self.streaming = ack.position, None, True
        self.committed()

    def _echoed(self, echo: frames.Echo) -> None:
        sent_ms = self._beats.pop(echo.number, None)
        if sent_ms is not None:
            self.round_trip_ms = self._clock.steady_ms() - sent_ms
            self.round_trips += 1
            self.clock_skew_ms = echo.time_ms + self.round_trip_ms // 2 - self._clock.wall_ms()

    # comparing

    def _may(self, head: bytes) -> bool:
        if head[:1] != SHARED or len(head) != HEAD_BYTES:  # whatever is asked for
            return False
        return self._passes is None or self._passes(head)

    def _may_still(self, head: bytes) -> bool:
        """After a read, which may have shown what a newer filter withholds: that is known now."""
        self.source.advance()
        return self._may(head)

    def _heads(self) -> dict[bytes, bytes]:
        return {head: total for head, total in self.source.heads().items() if self._may(head)}

    def _buckets(self, asked: frames.AskBuckets) -> Iterator[None]:
        sums: list[bytes] = []
        for node in asked.nodes:
            if not self._may(asked.head):  # asked before every slice: filters change meanwhile
                sums.clear()
                break
            sums.append(sums_of(self.source.buckets(asked.head, node)))
            if len(sums) % 32 == 0:
                yield
        self._send_bulk(frames.Buckets(asked.head, asked.nodes, b"".join(sums)))

    def _ask_entries(self, frame: frames.AskEntries) -> None:
        asked = self._asked
        if asked.head != frame.head:
            asked = frames.AskEntries(frame.head, b"", b"")
        if (
            len(asked.leaves) + len(frame.leaves) > frames.FRAME_BYTES_MAX
            or len(asked.buckets) + len(frame.buckets) > _BUCKETS_BYTES_MAX
        ):
            raise ProtocolError("a question that is too long")
        whole = frames.AskEntries(
            frame.head, asked.buckets + frame.buckets, asked.leaves + frame.leaves
        )
        if frame.more:
            self._asked = whole
        else:
            self._check_patience()
            self._asked = frames.AskEntries(b"", b"", b"")
            self._jobs.append(self._entries(whole))

    def _entries(self, asked: frames.AskEntries) -> Iterator[None]:
        """What the secondary lacks of these buckets, then which of its entries we have not."""
        theirs = unpack_sums(asked.leaves)
        buckets = unpack_buckets(asked.buckets)
        after: bytes | None = b""
        while after is not None and self._may(asked.head):
            part = self.source.leaves(asked.head, buckets, after)
            if not self._may_still(asked.head):
                break
            missing: list[bytes] = []
            for at in range(0, len(part.entries), 2):
                record = part.entries[at + 1]
                leaf = fingerprint(record)
                if leaf in theirs:
                    theirs.discard(leaf)
                else:
                    missing += (part.entries[at], record)
            if missing:
                self._send_bulk(frames.Entries(asked.head, missing))
            after = part.after
            yield
        self._send_bulk(frames.Entries(asked.head, [], b"".join(theirs), done=True))

    def _scan(self, asked: frames.AskScan) -> Iterator[None]:
        after: bytes | None = asked.after
        while after is not None and self._may(asked.head):
            part = self.source.scan(asked.head, after)
            if not self._may_still(asked.head):
                break
            after = part.after
            self._send_bulk(frames.Entries(asked.head, part.entries, done=after is None))
            if after is None:
                return
            yield
        self._send_bulk(frames.Entries(asked.head, [], done=True))

    # sending

    def _visible(self, record: SharedRecord) -> bytes:
        """The record as this secondary may see it: what is withheld is there as its digest only."""
        passes = self._passes
        if passes is None:
            return record.encode()
        return record.seen_by(lambda key: passes(key[:HEAD_BYTES])).encode()

    def _send_terms(self) -> None:
        if self.source.term() > self._known_term:
            terms, alternates = self.source.terms()
            self._known_term = self.source.term()
            self._send(frames.Terms(terms, alternates))

    def _send_heartbeat(self, now: int) -> None:
        self._beat += 1
        self._beats = {self._beat: now, **dict(list(self._beats.items())[:4])}
        root = root_of(self._heads())
        self._send(
            frames.Heartbeat(
                self._beat,
                self._clock.wall_ms(),
                self.source.position(),
                root,
                "running",
                self._host.addresses(),
                self._host.api_addr(),
                rank=self._host.newest_rank(),
            )
        )

    def _refuse(self, code: str, text: str) -> None:
        self._send(frames.Refuse(code, text))
        self.ended = text

    def _has_room(self) -> bool:
        return self._bulk_sent - self._bulk_consumed < WINDOW_BYTES

    def _send_bulk(self, frame: Frame) -> None:
        self._send_terms()  # before anything that was sealed under them
        data = frames.encode(frame)
        self._bulk_sent += len(data)
        self._out.append(data)

    def _send(self, frame: Frame) -> None:
        self._out.append(frames.encode(frame))


def _check_size(frame: Frame, size: int) -> None:
    """Only who forwards a request has reason for a large frame. Raises ProtocolError."""
    if size > SMALL_BYTES_MAX and not isinstance(frame, frames.Forward):
        raise ProtocolError(f"a {type(frame).__name__} of {size} bytes")


def _whole(records: list[SharedRecord]) -> list[SharedRecord]:
    """Records up to the first that has a hole. Raises Trimmed when that is the first of all.

    A cluster that was a filtered secondary has holes in its log, where data was withheld from it.
    """
    for index, record in enumerate(records):
        if has_holes(record.body):
            if not index:
                raise Trimmed
            return records[:index]
    return records


def _stale(hello: frames.Hello, theirs: Lineage, mine: Lineage) -> tuple[str, str] | None:
    """Why a secondary with that lineage gets nothing from us."""
    if theirs.set_id != mine.set_id or not mine.common_epochs(theirs):
        return "set", "the secondary belongs to another replication set: enable it anew (wipes it)"
    if theirs.beats(mine) and not hello.submits:
        return "stale", "the secondary knows a newer epoch than this primary"
    return None
