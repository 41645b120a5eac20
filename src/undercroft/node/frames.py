"""The frames between the processes of a node: what worker, replicator and writer tell each other.

Each frame is a 4-byte big-endian length and a MessagePack array whose first element names its type.
Sans I/O: bytes in, frames out.
"""

from struct import Struct
from typing import Any, Final

import msgspec

from undercroft.errors import Internal, Unavailable, UndercroftError
from undercroft.node.state import NodeState
from undercroft.replication.changes import Change
from undercroft.replication.status import ReplicationStatus
from undercroft.request.model import Request, Response
from undercroft.request.vouched import Vouched
from undercroft.storage.wal import START, Position

FRAME_BYTES_MAX: Final = 256 * 1024 * 1024  # a 32 MiB body, and an answer that carries it
_LENGTH: Final = Struct(">I")


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A worker's first frame. `keyring`, serialised, is what it held when the last writer died."""

    pid: int
    keyring: bytes = b""
    replicator: bool = False

    def __repr__(self) -> str:
        return f"<Hello pid={self.pid}>"


class Execute(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Run this request in a transaction. `prepared` is MessagePack of what its prepare returned."""

    id: int
    request: Request
    prepared: bytes = b"\xc0"  # nil

    def __repr__(self) -> str:
        return f"<Execute {self.id} {self.request!r}>"


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The worker holds no keyring any more (answer to a State without one)."""

    serial: int


class State(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The node's state and keyring, whenever either changes; without keyring: drop yours.

    `store` names the store that all of this is of (`location.name_of`): read that one from now on.
    """

    serial: int
    state: NodeState
    keyring: bytes = b""
    store: str = ""

    def __repr__(self) -> str:
        return f"<State {self.serial} sealed={self.state.sealed}>"


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """What became of an Execute. `data` is `Response.data` as JSON; `error` replaces both."""

    id: int
    response: Response | None = None
    data: bytes = b""
    error: "Failure | None" = None
    position: Position = START  # of the shared log, as of its commit

    def __repr__(self) -> str:
        return f"<Answer {self.id}>"


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error type of `errors.py` on its way between processes."""

    kind: str
    message: str
    hint: str = ""
    retry_after_seconds: int = 1


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """From the replicator: make this change in a transaction (`changes.py`).

    `session`: whose change it is; after one that was refused none of that session is made any more,
    since each takes it for granted that those before are there. 0: it stands alone.
    """

    id: int
    change: Change
    session: int = 0

    def __repr__(self) -> str:
        return f"<Commit {self.id} {type(self.change).__name__}>"


class Done(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """What became of a Commit. `position` is that of the shared log afterwards."""

    id: int
    position: Position
    result: int = 0
    failure: str = ""  # for the log: why nothing was changed


class RunVouched(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """From the replicator of a primary: run a call that a secondary vouches for."""

    id: int
    vouched: Vouched

    def __repr__(self) -> str:
        return f"<RunVouched {self.id}>"


class AskPrimary(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """To the replicator of a secondary: have the primary run this."""

    id: int
    vouched: Vouched

    def __repr__(self) -> str:
        return f"<AskPrimary {self.id}>"


class PrimaryAnswered(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """What the primary said to it; `arrived`: its write has been applied here."""

    answer: Answer
    arrived: bool = True


class Committed(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """To the replicator: the log has grown."""

    seq: int


class Report(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """From the replicator to everybody: how replication is going (`replication/status.py`)."""

    status: ReplicationStatus


class Switch(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Make the store that is staged at `path` the node's, in one step."""

    path: str


class Switched(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """What became of a Switch: the new store's name, or why nothing has changed."""

    store: str = ""
    error: Failure | None = None


class Pause(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """From the replicator: commit nothing (`on`) until a Switch, the end of this link, or `off`."""

    on: bool = True


class Paused(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """What is committed now stays all there is."""


class Leaving(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The writer is about to end by itself: send no more, it still answers what it was sent."""


FromWorker = (
    Hello | Execute | Dropped | Commit | RunVouched | PrimaryAnswered | Report | Switch | Pause
)
FromWriter = State | Answer | Done | AskPrimary | Committed | Report | Switched | Leaving | Paused

_encoder: Final = msgspec.msgpack.Encoder()


def encode(frame: FromWorker | FromWriter) -> bytes:
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a byte stream into frames of one direction. Any oddity is our own bug: ValueError."""

    def __init__(self, kinds: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kinds).decode
        self._buffer = b""

    def feed(self, data: bytes) -> list[Any]:
        buffer = self._buffer + data if self._buffer else data
        frames, at, end = [], 0, len(buffer)
        while end - at >= 4:
            (size,) = _LENGTH.unpack_from(buffer, at)
            if size > FRAME_BYTES_MAX:
                raise ValueError("a frame is over the limit")
            if end - at - 4 < size:
                break
            frames.append(self._decode(buffer[at + 4 : at + 4 + size]))
            at += 4 + size
        self._buffer = buffer[at:]
        return frames


def failure_of(error: UndercroftError) -> Failure:
    return Failure(
        type(error).__name__,
        error.message,
        error.hint,
        error.retry_after_seconds if isinstance(error, Unavailable) else 1,
    )


def error_of(failure: Failure) -> UndercroftError:
    kind = _KINDS.get(failure.kind, Internal)
    if kind is Unavailable:
        return Unavailable(
            failure.message, retry_after_seconds=failure.retry_after_seconds, hint=failure.hint
        )
    return kind(failure.message, hint=failure.hint)


def _all_kinds(base: type[UndercroftError]) -> dict[str, type[UndercroftError]]:
    kinds = {base.__name__: base}
    for sub in base.__subclasses__():
        kinds |= _all_kinds(sub)
    return kinds


_KINDS: Final[dict[str, type[UndercroftError]]] = _all_kinds(UndercroftError)
