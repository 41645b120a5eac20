"""The secondary's part of a comparison of states: ask, look, ask closer, take what differs.

    heads → for each mount that differs: nodes → buckets → entries

One mechanism for a first copy (nothing here: the mount is scanned), a long absence, another
primary, a changed filter and healing. It runs against the moving state of the primary: what changes
there meanwhile comes, or comes again, with the log (decision 0010).
"""

from collections.abc import Callable, Generator, Mapping, Set
from enum import Enum, auto
from typing import Any, Final, Protocol

from undercroft.errors import Corrupt
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.compare import (
    GROUP_BUCKETS,
    differing_buckets,
    differing_nodes,
    fingerprint,
    pack_buckets,
    sums_of,
    unpack_sums,
)
from undercroft.replication.protocol.frames import Frame, ProtocolError
from undercroft.replication.protocol.ports import Sink
from undercroft.storage.wal import Position, SharedRecord, operations_of


class Suspects(Protocol):
    """What of a mount is to be had anew: buckets, and the keys in them that are damaged."""

    buckets: set[int]
    damaged: set[bytes]


_REPLIES: Final = (frames.Heads, frames.Nodes, frames.Buckets, frames.Entries)
_LEAVES_BYTES: Final = 512 << 10  # fingerprints per frame
_DELETES: Final = 1000


class _Wait(Enum):
    REPLY = auto()  # the next frame of the primary
    STORED = auto()  # until everything given to the sink is done
    SLICE = auto()  # give others a turn


_Step = Generator[_Wait, Any, Any]


class Comparison:
    """Runs until `finished` is called with the position up to which entries were read.

    Entries at `held_key` are not stored but kept in `held`, for the owner to store.
    """

    def __init__(
        self,
        sink: Sink,
        send: Callable[[Frame], None],
        consume: Callable[[int], None],
        finished: Callable[[Position], None],
        *,
        resume: bool,
        held_key: bytes = b"",
        suspects: Mapping[bytes, Suspects] | None = None,
    ) -> None:
        self.held: list[tuple[bytes, bytes | None]] = []
        self._held_key = held_key
        self._sink = sink
        self._send = send
        self._consume = consume
        self._finished = finished
        self._resume = resume
        self._suspects = suspects or {}
        self._written: set[bytes] = set()  # keys that the log has written since it began
        self._storing = 0
        self._frames: list[tuple[Frame, int]] = []
        self._waits = _Wait.SLICE
        self._came = 0
        self._total = 0
        self.healed = 0
        self._run: _Step = self._all()
        self._advance(None)

    @property
    def progress(self) -> tuple[int, int]:
        """Entries that came, and about how many the primary has in all."""
        return self._came, self._total

    def takes(self, frame: Frame) -> bool:
        return isinstance(frame, _REPLIES)

    def receive(self, frame: Frame, size: int) -> None:
        self._frames.append((frame, size))
        self._pump()

    def logged(self, records: list[bytes]) -> None:
        """Records of the log go to the sink meanwhile. What they write is newer than what was
        looked at before: that the primary had it not, then, says nothing. Raises ProtocolError.
        """
        try:
            for raw in records:
                for _, _, key, _, _ in operations_of(SharedRecord.decode(raw).body):
                    self._written.add(key)
        except Corrupt as error:
            raise ProtocolError(error.message) from None

    def work(self) -> bool:
        if self._waits is _Wait.SLICE:
            self._advance(None)
        return self._waits is _Wait.SLICE

    def _pump(self) -> None:
        while self._waits is _Wait.REPLY and self._frames:
            self._advance(self._frames.pop(0))

    def _advance(self, value: Any) -> None:
        try:
            self._waits = self._run.send(value)
            if self._waits is _Wait.STORED and not self._storing:
                self._waits = _Wait.SLICE
        except StopIteration as stop:
            self._waits = _Wait.REPLY
            self._finished(stop.value)

    # what is done, in order

    def _all(self) -> _Step:
        theirs = yield from self._ask(frames.AskHeads())
        self._total = theirs.entries
        for head, suspects in self._suspects.items():
            if head in theirs.heads:
                yield from self._renew(head, suspects)
        yield _Wait.STORED  # and the digests follow
        mine = self._sink.heads()
        for head in sorted(theirs.heads.keys() | mine.keys()):
            if head not in theirs.heads:
                yield from self._drop(head)
            elif theirs.heads[head] != mine.get(head):
                yield from self._mount(head, known=head in mine)
        yield _Wait.STORED
        last = yield from self._ask(frames.AskHeads())  # how far the primary's state has moved
        return last.position

    def _ask(self, question: Frame) -> _Step:
        self._send(question)
        frame, size = yield _Wait.REPLY
        if not isinstance(frame, frames.Heads | frames.Nodes):
            self._consume(size)
        return frame

    def _mount(self, head: bytes, *, known: bool) -> _Step:
        last = self._sink.resume_point(head) if self._resume else None
        if not known or last is not None:
            yield from self._take(head, frames.AskScan(head, last or b""), None)
        if known or last is not None:  # what a copy has not written yet, its digests lack
            yield from self._closer(head)

    def _closer(self, head: bytes) -> _Step:
        """What is on both sides but differs: find the buckets, exchange fingerprints."""
        nodes = yield from self._ask(frames.AskNodes(head))
        wanted = differing_nodes(self._sink.nodes(head), nodes.nodes)
        if not wanted:
            return
        answer = yield from self._ask(frames.AskBuckets(head, wanted))
        size = len(answer.sums) // max(len(wanted), 1)
        buckets: list[int] = []
        for at, node in enumerate(wanted):
            mine = sums_of(self._sink.buckets(head, node))
            buckets += differing_buckets(node, mine, answer.sums[at * size : (at + 1) * size])
        for at in range(0, len(buckets), GROUP_BUCKETS):
            yield from self._exchange(head, frozenset(buckets[at : at + GROUP_BUCKETS]))

    def _renew(self, head: bytes, suspects: Suspects) -> _Step:
        """Get what is damaged here anew, whatever the digests say; what nobody has is to go."""
        buckets, came = sorted(suspects.buckets), set()
        for at in range(0, len(buckets), GROUP_BUCKETS):
            group = frozenset(buckets[at : at + GROUP_BUCKETS])
            came |= yield from self._exchange(head, group, suspects.damaged)
        self._put([(key, None) for key in suspects.damaged - came - self._written], 0)

    def _exchange(
        self, head: bytes, buckets: frozenset[int], damaged: Set[bytes] = frozenset()
    ) -> _Step:
        """Tell what we have in these buckets; get what we lack, and what is to go. Answers the keys
        that came.
        """
        names: dict[bytes, bytes] = {}  # key by fingerprint
        after: bytes | None = b""
        while after is not None:
            part = self._sink.leaves(head, buckets, after)
            for at in range(0, len(part.entries), 2):
                if part.entries[at] not in damaged:
                    names[fingerprint(part.entries[at + 1])] = part.entries[at]
            after = part.after
            yield _Wait.SLICE
        leaves = b"".join(names)
        packed = pack_buckets(sorted(buckets))
        while len(leaves) > _LEAVES_BYTES:
            self._send(frames.AskEntries(head, packed, leaves[:_LEAVES_BYTES], more=True))
            packed, leaves = b"", leaves[_LEAVES_BYTES:]
        came = yield from self._take(head, frames.AskEntries(head, packed, leaves), names)
        return came

    def _take(self, head: bytes, question: Frame, names: dict[bytes, bytes] | None) -> _Step:
        """Ask, and store what comes until it is all there. Answers its keys if there are `names`:
        a whole mount's would be too many.
        """
        self._send(question)
        came: set[bytes] = set()
        while True:
            frame, size = yield _Wait.REPLY
            flat: list[bytes] = frame.entries
            entries: list[tuple[bytes, bytes | None]] = list(
                zip(flat[::2], flat[1::2], strict=True)
            )
            if names is not None:
                came.update(flat[::2])
                gone = (names.get(leaf) for leaf in unpack_sums(frame.gone))
                entries += [
                    (key, None)
                    for key in gone
                    if key is not None and key not in came and key not in self._written
                ]
            self._came += len(entries)
            self._put(entries, size)
            if frame.done:
                return came

    def _drop(self, head: bytes) -> _Step:
        """Nothing of this mount belongs here (any more)."""
        after: bytes | None = b""
        while after is not None:
            part = self._sink.scan(head, after)
            after = part.after
            self._put([(key, None) for key in part.entries[::2] if key not in self._written], 0)
            yield _Wait.SLICE

    def _put(self, entries: list[tuple[bytes, bytes | None]], size: int) -> None:
        held = [entry for entry in entries if entry[0] == self._held_key]
        if held:
            self.held = held
            entries = [entry for entry in entries if entry[0] != self._held_key]
        if not entries:
            if size:
                self._consume(size)
            return
        self._storing += 1
        self._sink.store_entries(entries, lambda differing: self._stored(size, differing))

    def _stored(self, size: int, differing: int) -> None:
        self._storing -= 1
        self.healed += differing
        if size:
            self._consume(size)
        if self._waits is _Wait.STORED and not self._storing:
            self._waits = _Wait.SLICE
