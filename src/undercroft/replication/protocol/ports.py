"""What a session needs of the world around it: a state to read, one to change, and a clock.

The node gives it a store and a process that writes; the simulator gives it dictionaries. Reads are
at once, changes are done later, in the order in which they were asked, and say so by a callback. A
callback that never comes is a crash.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from undercroft.replication.lineage import Lineage
from undercroft.storage.wal import Position, SharedRecord

Passes = Callable[[bytes], bool]  # may what lies under this head (keyspace, mount id) travel?
Done = Callable[[], None]


class Clock(Protocol):
    """Both in milliseconds. Order and timeouts come from the steady one alone (R-13)."""

    def steady_ms(self) -> int: ...
    def wall_ms(self) -> int: ...


class Slice(NamedTuple):
    """A part of a walk: key, record, key, record …; `after`: where to go on, None at the end."""

    entries: list[bytes]
    after: bytes | None


class State(Protocol):
    """A cluster's shared data and log, as of a position that only advances between calls."""

    def position(self) -> Position: ...
    def lineage(self) -> Lineage | None: ...
    def term(self) -> int:
        """The newest key term of this cluster's keyring."""
        ...

    def entries(self) -> int:
        """About how many entries it has."""
        ...

    def heads(self) -> dict[bytes, bytes]:
        """Digest of every shared mount that holds anything, as of `position` after the call."""
        ...

    def nodes(self, head: bytes) -> bytes: ...
    def buckets(self, head: bytes, node: int) -> bytes: ...

    def scan(self, head: bytes, after: bytes) -> Slice:
        """Entries of a mount behind a key, in the order of stored keys: a piece for one frame."""
        ...

    def leaves(self, head: bytes, buckets: frozenset[int], after: bytes) -> Slice:
        """Key, record … of the entries in these buckets: a piece of the walk over the mount."""
        ...


class Source(State, Protocol):
    """What a primary session reads."""

    def advance(self) -> None:
        """Let the position come up to the newest entry that a walk may have shown."""
        ...

    def records(self, after: Position) -> list[SharedRecord]:
        """What follows, as much as fits a frame. Raises Trimmed, Foreign."""
        ...

    def terms(
        self,
    ) -> tuple[tuple[tuple[int, bytes, int], ...], tuple[tuple[int, bytes, int], ...]]:
        """The keyring's terms and alternates, as in the frame Terms."""
        ...


class Sink(State, Protocol):
    """What a secondary session reads and changes."""

    def apply(self, records: list[bytes], done: Callable[[int], None]) -> None:
        """Records of the shared log, in order; `done` gets how many entries had diverged.

        What does not follow, or is not what its chain says, ends the session (`failed` of it).
        """
        ...

    def store_entries(
        self, entries: list[tuple[bytes, bytes | None]], done: Callable[[int], None]
    ) -> None:
        """Make entries (None: gone) what the primary has; `done` gets how many differed."""
        ...

    def begin_comparison(self) -> None:
        """Entries are about to change, and the position is none of theirs until `settled`."""
        ...

    def unfinished(self) -> bool:
        """Whether a comparison has begun, in whatever session, that is not `settled`."""
        ...

    def settled(self) -> None:
        """The log has come past all that a comparison has read: the state is the position's."""
        ...

    def jump(self, position: Position, done: Done) -> None:
        """The state is that of the position now."""
        ...

    def set_aside(self, behind_seq: int, done: Done) -> None:
        """Put into quarantine what the log has behind that place of the shared log."""
        ...

    def adopt(
        self,
        terms: tuple[tuple[int, bytes, int], ...],
        alternates: tuple[tuple[int, bytes, int], ...],
        done: Done,
    ) -> None:
        """Take over the primary's key terms."""
        ...

    def withhold(self, mounts: tuple[bytes, ...]) -> None:
        """The primary keeps these mounts' data from us."""
        ...

    def lacks(self) -> tuple[bytes, ...]:
        """The mounts given to `withhold` last, across restarts and changes of the primary."""
        ...

    def resume_point(self, head: bytes) -> bytes | None:
        """The last key that a copy which is not complete has of a mount; None: nothing of it."""
        ...

    def watch_root(self, seq: int, seen: Callable[[bytes], None]) -> None:
        """Call once with the root of all shared mounts when the state is exactly at that place."""
        ...
