"""The secondary's side of a session: bytes and clock in, bytes and changes to the sink out. No I/O.

It says where it is, and does what the primary's verdict asks for: follow the log, or compare states
first (`comparing.py`). Whatever it is sent it checks against its own state; a wrong record ends the
session, and the next one begins with the position that is durable then.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from undercroft import __version__
from undercroft.errors import Corrupt
from undercroft.replication.lineage import LINEAGE_KEY, Lineage
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.comparing import Comparison, Suspects
from undercroft.replication.protocol.frames import Frame, ProtocolError
from undercroft.replication.protocol.ports import Clock, Sink
from undercroft.storage.keys import SHARED
from undercroft.storage.wal import START, Position, SharedRecord

HEARTBEAT_MS: Final = 1000
SILENCE_MS: Final = 10_000
SILENT: Final = "nothing was heard of the primary"  # why a session has ended
_OF_ANY_SESSION: Final = (frames.Announced, frames.Heartbeat, frames.Echo)
_BEATS_KEPT: Final = 600  # heartbeats whose state is still to come

_FAILURES: Final = ("failed", "protocol")  # codes of a Bye

# Vault's words for the state of a secondary
STREAM_WALS: Final = "stream-wals"
MERKLE_DIFF: Final = "merkle-diff"
MERKLE_SYNC: Final = "merkle-sync"
IDLE: Final = "idle"


class Host(Protocol):
    """What a session asks of the cluster."""

    def cluster_id(self) -> str: ...
    def cluster_addr(self) -> str: ...
    def api_addr(self) -> str: ...
    def local_mounts(self) -> tuple[str, ...]:
        """Where this cluster has mounts of its own."""
        ...

    def is_partial(self) -> bool:
        """Whether the copy is not complete yet: no history of its own counts."""
        ...

    def welcomed(self) -> None:
        """The session stands."""
        ...

    def learned(self, lineage: Lineage, addresses: tuple[str, ...], api_addr: str) -> None:
        """What the primary says of itself (at the Welcome, and with every heartbeat)."""
        ...

    def newer_epoch(self, rank: tuple[int, bytes]) -> None:
        """The primary has heard of an epoch beyond its own: it is fenced, or about to be."""
        ...

    def copied(self) -> None:
        """A copy that was partial is complete now; if the session is `unsettled`, it is to be
        compared once more, as one whose comparison is unfinished.
        """
        ...

    def certified(self, certificate: bytes, authority: bytes) -> None: ...
    def claimed(self, claim: bytes) -> None:
        """The signed claim by which the primary opened its epoch."""
        ...


class Progress:
    """Of a comparison: entries that have been asked for and have come, of the estimated total."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0


class SecondarySession:
    """Made when a connection stands; it greets at once. The link treats it like PrimarySession.

    `submit`: an operator chose this primary (update-primary) and no session with it has stood yet.
    Then it is followed even from a newer epoch, whose writes are set aside: so a drill ends.
    """

    is_read = True
    is_full = False  # what the primary sends is bounded by what we consume

    def __init__(
        self,
        sink: Sink,
        host: Host,
        clock: Clock,
        *,
        intent: str = frames.STREAM,
        submit: bool = False,
    ) -> None:
        self.sink = sink
        self.intent = intent
        self.submit = submit
        self.welcome: frames.Welcome | None = None
        self.refused: frames.Refuse | frames.Bye | None = None
        self.ended = ""
        self.failing = False  # it ended by what was said in it, not by the link
        self.idle_reason = ""  # why it must not be tried again before an operator looks
        self.state = IDLE
        self.divergences = 0
        self.primary_position: Position = START  # as far as we have heard
        self.canary_ms = 0  # steady clock: when the newest heartbeat came whose state we have
        self.last_heartbeat_ms = 0  # our wall clock
        self.round_trip_ms = 0
        self.clock_skew_ms = 0
        self.bytes_received = 0
        self.records_received = 0
        self.compared_ms: list[int] = []  # what comparisons took, for whoever takes it from here
        self.last_heard_ms = clock.steady_ms()
        self._host = host
        self._clock = clock
        self._decoder = frames.Decoder()
        self._out: list[bytes] = []
        self._consumed = 0
        self._comparison: Comparison | None = None
        self._comparing_ms = 0  # steady clock: since when
        self._again = False  # what is being compared has changed: once more, then
        self._withheld: tuple[bytes, ...] | None = None  # as the sink was told last
        self._lacks: tuple[bytes, ...] | None = None  # what it is told once a comparison is over
        self._streaming = False
        self.unsettled = False  # the state is ahead of its position, after a comparison
        self._trusted_from = 0  # place of the log from which on differences mean divergence
        self._pending_beats: list[tuple[int, int]] = []  # (seq, steady ms at which it came)
        self._forward_number = 0
        self._forwards: dict[int, Callable[[frames.Forwarded | None], None]] = {}
        self._on_handover: Callable[[frames.Handover | None], None] | None = None
        self._on_announced: Callable[[frames.Announced | None], None] | None = None
        self._beat = 0
        self._beats: dict[int, int] = {}
        self._next_beat_ms = 0
        self._greet()

    # what the link calls

    def receive(self, data: bytes) -> None:
        if self.ended:
            return
        self.heard()
        self.bytes_received += len(data)
        try:
            for frame, size in self._decoder.feed(data):
                self._handle(frame, size)
                if self.ended:
                    return
        except ProtocolError as error:
            self.failing = True
            self.end("protocol", str(error))

    def heard(self) -> None:
        """The other side lives: its silence is counted from now on."""
        self.last_heard_ms = self._clock.steady_ms()

    def tick(self) -> None:
        if self.ended:
            return
        now = self._clock.steady_ms()
        if now - self.last_heard_ms > SILENCE_MS:
            self._over(SILENT)
        elif (
            self.welcome is not None and self.intent == frames.STREAM and now >= self._next_beat_ms
        ):
            self._next_beat_ms = now + HEARTBEAT_MS
            self._send_heartbeat(now)

    def work(self) -> bool:
        """A slice of a comparison. Answers whether there is more to do now."""
        return self._comparison is not None and not self.ended and self._comparison.work()

    def take_output(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def end(self, code: str, text: str) -> None:
        if not self.ended:
            self.send(frames.Bye(code, text))
            self._over(text or code)

    def closed(self) -> None:
        """The connection is gone: nobody answers what was asked."""
        self._over("the connection was lost")

    # what the host calls

    @property
    def following(self) -> bool:
        return self._streaming and not self.ended

    @property
    def settled(self) -> bool:
        """Whether it follows, and all that we have heard of has been applied."""
        at = self.sink.position().seq
        return self.following and self._comparison is None and at >= self.primary_position.seq

    def forward(self, call: bytes, done: Callable[[frames.Forwarded | None], None]) -> None:
        """Have a vouched call run at the primary; None: the outcome is unknown."""
        self._forward_number += 1
        self._forwards[self._forward_number] = done
        self.send(frames.Forward(self._forward_number, call))

    def ask_handover(self, done: Callable[[frames.Handover | None], None]) -> None:
        self._on_handover = done
        self.send(frames.AskHandover())

    def announce(self, claim: bytes, done: Callable[[frames.Announced | None], None]) -> None:
        self._on_announced = done
        self.send(frames.Announce(claim))

    def ask_certificate(self, public_key: bytes) -> None:
        self.send(frames.AskCertificate(public_key))

    def failed(self, text: str) -> None:
        """The sink could not apply what it was given: begin anew from what is durable."""
        self.failing = not self.ended or self.failing
        self.end("failed", text)

    def compare_now(self) -> None:
        """Heal: compare states while the stream goes on."""
        if self._comparison is None and self._streaming:
            self._compare(None)

    def renew(self, suspects: Mapping[bytes, Suspects]) -> bool:
        """Heal what a look at the disk has found. False: not now."""
        if self._comparison is not None or not self._streaming:
            return False
        self.divergences += 1
        self._compare(None, suspects)
        return True

    @property
    def progress(self) -> tuple[int, int] | None:
        """Entries that came and that are expected, during a comparison."""
        return None if self._comparison is None else self._comparison.progress

    # frames

    def _greet(self) -> None:
        host, sink = self._host, self.sink
        partial = host.is_partial()
        self.send(
            frames.Hello(
                frames.VERSION_LOW,
                frames.VERSION_HIGH,
                self.intent,
                __version__,
                host.cluster_id(),
                None if partial else sink.lineage(),
                START if partial else sink.position(),
                0 if partial else sink.term(),
                host.cluster_addr(),
                host.api_addr(),
                partial,
                self.submit,
                sink.unfinished(),
            )
        )

    def _handle(self, frame: Frame, size: int) -> None:
        if isinstance(frame, frames.Refuse | frames.Bye):
            self.refused = frame
            self.failing = frame.code in _FAILURES
            self._over(frame.text or frame.code)
        elif self.welcome is None:
            if not isinstance(frame, frames.Welcome):
                raise ProtocolError("a session begins with a Welcome")
            self._welcomed(frame)
        elif self.intent != frames.STREAM and not isinstance(frame, _OF_ANY_SESSION):
            # Who is told that its epoch is over has no say in keys, filters or data any more.
            raise ProtocolError(f"a {type(frame).__name__} in a session that is for something else")
        elif isinstance(frame, frames.Records):
            if not self._streaming:
                raise ProtocolError("records before they were asked for")
            self.records_received += len(frame.records)
            if self._comparison is not None:
                self._comparison.logged(frame.records)
            first = _seq_of(frame.records)
            self.sink.apply(frame.records, lambda count: self._applied(size, first, count))
        elif isinstance(frame, frames.Heartbeat):
            self._heard(frame)
        elif isinstance(frame, frames.Echo):
            self._echoed(frame)
        elif isinstance(frame, frames.Terms):
            self.sink.adopt(frame.terms, frame.alternates, lambda: None)
        elif isinstance(frame, frames.Forwarded):
            done = self._forwards.pop(frame.number, None)
            if done is not None:
                done(frame)
        elif isinstance(frame, frames.Handover):
            handler, self._on_handover = self._on_handover, None
            if handler is not None:
                handler(frame)
        elif isinstance(frame, frames.Announced):
            told, self._on_announced = self._on_announced, None
            if told is not None:
                told(frame)
        elif isinstance(frame, frames.Withheld):
            self._select(frame)
        elif isinstance(frame, frames.Announce):
            self._host.claimed(frame.claim)
        elif isinstance(frame, frames.Certificate):
            self._host.certified(frame.certificate, frame.authority)
        elif self._comparison is not None and self._comparison.takes(frame):
            self._comparison.receive(frame, size)
        else:
            raise ProtocolError(f"a {type(frame).__name__} that nobody asked for")

    def _welcomed(self, welcome: frames.Welcome) -> None:
        self.welcome = welcome
        self._decoder.limit = frames.FRAME_BYTES_MAX
        self.primary_position = welcome.position
        self._host.welcomed()
        if self.intent != frames.STREAM:
            return
        mine = None if self._host.is_partial() else self.sink.lineage()
        if mine is not None and mine.beats(welcome.lineage) and not self.submit:
            self.end("stale", "the primary belongs to an epoch that is over")
            return
        self._host.learned(welcome.lineage, welcome.addresses, welcome.api_addr)
        if welcome.verdict == frames.FOLLOW:
            self._follow()
        elif welcome.verdict == frames.COMPARE:
            self._compare(welcome.position)
        elif welcome.verdict == frames.DIVERGED:
            self.state = MERKLE_DIFF
            self.sink.set_aside(welcome.branch_seq, lambda: self._compare(welcome.position))
        else:
            self.idle_reason = (
                "the primary has less of the log than this secondary: it was restored from an "
                "older copy, or lost data; promote a secondary, or enable this one anew"
            )
            self.end("behind", self.idle_reason)

    # following

    def _follow(self) -> None:
        # A comparison of an earlier session may have read what the primary had till now.
        self._streaming, self.state = True, STREAM_WALS
        self._trusted_from = max(self._trusted_from, self.primary_position.seq)
        self._note_canary()

    def _applied(self, size: int, first: int, differing: int) -> None:
        """Records from the place `first` on; later ones may have been applied by now, too."""
        if self.ended:
            return
        self._note_settled()
        if differing and first > self._trusted_from:
            self._diverged()
        self._note_canary()
        self.consume(size)

    def consume(self, size: int) -> None:
        """Bulk frames of that size are done with: the primary may send more."""
        if not self.ended:
            self._consumed += size
            self.send(frames.Ack(self._consumed, self.sink.position()))

    def _heard(self, beat: frames.Heartbeat) -> None:
        now = self._clock.steady_ms()
        self.send(frames.Echo(beat.number, self._clock.wall_ms()))
        self.last_heartbeat_ms = self._clock.wall_ms()
        self.primary_position = max(self.primary_position, beat.position)
        self._pending_beats.append((beat.position.seq, now))
        del self._pending_beats[:-_BEATS_KEPT]
        self._host.learned(self._lineage(), beat.addresses, beat.api_addr)
        assert self.welcome is not None
        if beat.rank > max(self._lineage().rank, self.welcome.lineage.rank):
            self._host.newer_epoch(beat.rank)
        if self._streaming:
            seq = beat.position.seq
            if seq >= self._trusted_from and self._comparison is None:
                self.sink.watch_root(seq, lambda root: self._check(seq, root, beat.root))
            self._note_canary()

    def _lineage(self) -> Lineage:
        assert self.welcome is not None
        if self._host.is_partial():  # what the copy has of it cannot be read yet
            return self.welcome.lineage
        return self.sink.lineage() or self.welcome.lineage

    def _check(self, seq: int, mine: bytes, theirs: bytes) -> None:
        if mine != theirs and seq >= self._trusted_from and not self.ended:
            self._diverged()

    def _diverged(self) -> None:
        """Heal by a comparison, and count it; the stream goes on."""
        if self._comparison is None:
            self.divergences += 1
            self.compare_now()

    def _note_canary(self) -> None:
        seq = self.sink.position().seq
        while self._pending_beats and self._pending_beats[0][0] <= seq:
            self.canary_ms = self._pending_beats.pop(0)[1]

    # comparing

    def _compare(
        self, jump_to: Position | None, suspects: Mapping[bytes, Suspects] | None = None
    ) -> None:
        """Compare states; then the position is `jump_to` (None: it stays, the stream goes on)."""
        if self.ended:
            return
        if jump_to is not None:
            self.state = MERKLE_SYNC if self._host.is_partial() else MERKLE_DIFF
            self.unsettled = True
            self.sink.begin_comparison()
        self._comparing_ms = self._clock.steady_ms()
        self._again = False
        partial = self._host.is_partial()
        self._comparison = Comparison(
            self.sink,
            self.send,
            self.consume,
            lambda upto: self._compared(jump_to, upto),
            resume=partial,
            held_key=LINEAGE_KEY if jump_to is not None and not partial else b"",
            suspects=suspects,
        )

    def _compared(self, jump_to: Position | None, upto: Position) -> None:
        """The states were equal but for what the log behind `jump_to` brings.

        Entries were read up to the position `upto`: before it is reached, the log may for a moment
        take some of them back, which is no divergence.

        The lineage comes last, just before the jump: who is promoted by force before must open its
        epoch behind the history that its position belongs to. A crash between the two makes us say
        that the comparison is unfinished, and it is made again.
        """
        assert self._comparison is not None
        held, self._comparison = self._comparison.held, None
        self.compared_ms.append(self._clock.steady_ms() - self._comparing_ms)
        self._trusted_from = max(self._trusted_from, upto.seq)
        if self._again:
            self._compare(jump_to)
            return
        if self._lacks is not None:
            self._withhold(self._lacks)
            self._lacks = None
        if jump_to is not None:
            if held:
                self.sink.store_entries(held, lambda _: None)
            self.sink.jump(jump_to, self._jumped)

    def _jumped(self) -> None:
        if self.ended:
            return
        self._note_settled()
        if self._host.is_partial():
            self._host.copied()
            return
        self._streaming, self.state = True, STREAM_WALS
        self.consume(0)
        if self._again:  # a filter changed while the jump was on its way
            self.compare_now()

    def _note_settled(self) -> None:
        """A comparison reads what is newer than the position it ends at: only the log brings the
        state to one that there was.
        """
        if self.unsettled and self.sink.position().seq >= self._trusted_from:
            self.unsettled = False
            self.sink.settled()

    def _select(self, frame: frames.Withheld) -> None:
        """What the primary keeps from us is another. Data that we did not get until now is lacking
        until a comparison has brought it: who lacks data must not be promoted unawares.
        """
        if self._withheld is None:
            self._withheld = self.sink.lacks()
        lacking = set(self._withheld) - set(frame.mounts)
        self._lacks = frame.mounts if lacking else None
        self._withhold((*frame.mounts, *sorted(lacking)))
        if self._comparison is None and self._streaming:
            heads = self.sink.heads()  # what was denied while we were away is to go
            if frame.changed or lacking or any(SHARED + id_ in heads for id_ in frame.mounts):
                self.compare_now()
        elif frame.changed:
            self._again = True

    def _withhold(self, mounts: tuple[bytes, ...]) -> None:
        self._withheld = mounts
        self.sink.withhold(mounts)

    # sending

    def _echoed(self, echo: frames.Echo) -> None:
        sent_ms = self._beats.pop(echo.number, None)
        if sent_ms is not None:
            self.round_trip_ms = self._clock.steady_ms() - sent_ms
            self.clock_skew_ms = echo.time_ms + self.round_trip_ms // 2 - self._clock.wall_ms()

    def _send_heartbeat(self, now: int) -> None:
        self._beat += 1
        self._beats = {self._beat: now, **dict(list(self._beats.items())[:4])}
        position = START if self._host.is_partial() else self.sink.position()
        self.send(
            frames.Heartbeat(
                self._beat,
                self._clock.wall_ms(),
                position,
                b"",
                self.state,
                api_addr=self._host.api_addr(),
                cluster_addr=self._host.cluster_addr(),
                rank=self._lineage().rank,
                local_mounts=self._host.local_mounts(),
            )
        )

    def send(self, frame: Frame) -> None:
        self._out.append(frames.encode(frame))

    def _over(self, why: str) -> None:
        if self.ended:
            return
        self.ended = why
        self.state, self._streaming = IDLE, False
        waiting, self._forwards = self._forwards, {}
        for done in waiting.values():
            done(None)
        if self._on_handover is not None:
            self._on_handover(None)
        if self._on_announced is not None:
            self._on_announced(None)


def _seq_of(records: list[bytes]) -> int:
    """Where the first of them belongs. Raises ProtocolError."""
    try:
        return SharedRecord.decode(records[0]).seq
    except (Corrupt, IndexError):
        raise ProtocolError("records that do not parse") from None
