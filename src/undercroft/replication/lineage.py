"""Epochs and positions: which history a cluster has, and where two histories part.

A lineage lists the epochs of a replication set, oldest first, and for the last of them when its
primary began to write anew. It is a shared entry, so it travels, and is ordered, like everything
else. Pure: no store, no clock.
"""

import os
from typing import Final, NamedTuple

import msgspec

from undercroft.storage.keys import SHARED, SYSTEM, key
from undercroft.storage.wal import Position

LINEAGE_KEY: Final = key(SHARED, SYSTEM, "replication/lineage")
EPOCH_ID_BYTES: Final = 8
STARTS_MAX: Final = 256  # that are kept, the newest


class Epoch(msgspec.Struct, frozen=True, array_like=True):
    """A span of the shared log in which one cluster wrote.

    `after` is the position that it continues: its first record has `after.seq + 1`. `cluster_id`
    is the opener's own id (`Cluster.id`), `opened_ms` its wall clock.
    """

    number: int
    id: bytes  # random: epochs of one number opened by two clusters differ
    after: Position
    cluster_id: str
    opened_ms: int

    @property
    def rank(self) -> tuple[int, bytes]:
        """Of two claims, the greater rank wins."""
        return self.number, self.id


class Branch(NamedTuple):
    """Where two lineages part: the last position that both have, if they have any epoch in common.

    `seq` is a position of the shared log: what either has beyond it, the other does not know.
    """

    seq: int
    epoch: int  # number of the last common epoch


class Start(msgspec.Struct, frozen=True, array_like=True):
    """A primary that was started wrote again, behind this seq of the shared log."""

    after: int
    id: bytes  # random: two starts of the same store, one of them an older copy, differ


class Lineage(msgspec.Struct, frozen=True, array_like=True):
    """The epochs of one set, oldest first; `set_id` is what status calls `cluster_id`.

    `starts` are of the current epoch, oldest first. A primary that was restored from an older copy
    is known by them, also when its log does not reach back to where it was restored (R-10).
    """

    set_id: str
    epochs: tuple[Epoch, ...]
    starts: tuple[Start, ...] = ()

    @property
    def current(self) -> Epoch:
        return self.epochs[-1]

    @property
    def rank(self) -> tuple[int, bytes]:
        return self.current.rank

    def opened(
        self, after: Position, cluster_id: str, now_ms: int, epoch_id: bytes = b""
    ) -> "Lineage":
        """With one more epoch, which begins after the given position; its id is random."""
        number = max(self.current.number, after.epoch) + 1
        made = epoch_id or os.urandom(EPOCH_ID_BYTES)
        epoch = Epoch(number, made, after, cluster_id, now_ms)
        return Lineage(self.set_id, (*self.epochs, epoch))

    def started(self, after: int) -> "Lineage":
        """With one more start of the current epoch's primary; its id is random."""
        start = Start(after, os.urandom(EPOCH_ID_BYTES))
        return Lineage(self.set_id, self.epochs, (*self.starts, start)[-STARTS_MAX:])

    def may_have(self, seq: int, other: "Lineage") -> bool:
        """Whether what the holder of the other has at a seq of our current epoch can be of our
        history: whoever wrote it last wrote so far here too. Of starts that are not kept any more
        nobody knows: those could be.
        """
        known = (b"", *(start.id for start in self.starts))
        last = other.starts[-1].id if other.starts else b""
        if last not in known:
            return len(self.starts) == STARTS_MAX and seq <= self.starts[0].after
        following = self.starts[known.index(last) :]
        return not following or seq <= following[0].after

    def end_of(self, index: int, last_seq: int) -> int:
        """Where the epoch at an index ends, for who has the log up to `last_seq`."""
        return self.epochs[index + 1].after.seq if index + 1 < len(self.epochs) else last_seq

    def contains(self, epoch: Epoch) -> bool:
        return any(known.id == epoch.id for known in self.epochs)

    def descends_from(self, other: "Lineage") -> bool:
        """Whether this history includes every epoch that the other knows, and goes on after it."""
        return (
            self.set_id == other.set_id
            and len(self.epochs) > len(other.epochs)
            and self.epochs[: len(other.epochs)] == other.epochs
        )

    def beats(self, other: "Lineage") -> bool:
        """Whether who holds the other must stop writing.

        True for a descendant, and between two claims that part from a common epoch for the greater
        rank; never for another set, nor for one without any epoch in common.
        """
        if self.set_id != other.set_id or not self.common_epochs(other):
            return False
        return self.rank > other.rank and not other.contains(self.current)

    def common_epochs(self, other: "Lineage") -> int:
        """How many epochs, from the oldest on, both have."""
        count = 0
        for mine, theirs in zip(self.epochs, other.epochs, strict=False):
            if mine.id != theirs.id:
                break
            count += 1
        return count

    def branch(self, last_seq: int, other: "Lineage", other_last_seq: int) -> Branch | None:
        """Where two parted, given how far either's log goes; None without a common epoch."""
        common = self.common_epochs(other) if self.set_id == other.set_id else 0
        if not common:
            return None
        mine = self.end_of(common - 1, last_seq)
        theirs = other.end_of(common - 1, other_last_seq)
        return Branch(min(mine, theirs), self.epochs[common - 1].number)


def founded(
    after: Position, set_id: str, cluster_id: str, now_ms: int, epoch_id: bytes = b""
) -> Lineage:
    """The lineage of a new set: one epoch, beginning after the given position."""
    made = epoch_id or os.urandom(EPOCH_ID_BYTES)
    epoch = Epoch(after.epoch + 1, made, after, cluster_id, now_ms)
    return Lineage(set_id, (epoch,))
