"""The frames of a session between two clusters, as bytes (docs/replication-protocol.md).

    length   4, big endian: of all that follows
    type     1
    flags    1: SKIPPABLE 1: who does not know the type ignores the frame instead of giving up
    payload  MessagePack array of the frame's fields, in the order below

Fields are only ever added at the end: who does not know them ignores them, who does not get them
takes the default. Sans I/O.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from undercroft.replication.lineage import Lineage
from undercroft.storage.wal import START, Position

VERSION_LOW: Final = 1  # of the protocol; a session speaks the greatest that both know
VERSION_HIGH: Final = 1
ALPN: Final = "undercroft-replication/1"

SKIPPABLE: Final = 1
FRAME_BYTES_MAX: Final = 96 << 20  # one record of one request, whose body may have 32 MiB as base64
HELLO_BYTES_MAX: Final = 1 << 20  # before the other side has said who it is
_HEAD: Final = Struct(">IBB")

# what a Hello wants
STREAM: Final = "stream"
PROBE: Final = "probe"  # nothing but the Welcome
CLAIM: Final = "claim"  # to announce an epoch

# what a Welcome says is to be done
FOLLOW: Final = "follow"  # records come from the secondary's position on
COMPARE: Final = "compare"  # the log does not reach back: compare states first
DIVERGED: Final = "diverged"  # set aside what is behind the branch, then compare
BEHIND: Final = "behind"  # the primary has less than the secondary: something was restored


class ProtocolError(Exception):
    """The other side breaks the protocol: end the session. The text is for logs."""


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    TYPE: ClassVar[int]
    FLAGS: ClassVar[int] = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # never what it carries


class Hello(_Frame, frozen=True, array_like=True):
    """The secondary's first frame: which history it has, and how far."""

    TYPE = 1
    low: int
    high: int
    intent: str
    release: str  # of the software, for messages
    cluster_id: str  # the cluster's own id
    lineage: Lineage | None  # None: it has none yet
    position: Position
    term: int  # the newest key term it has
    cluster_addr: str = ""
    api_addr: str = ""
    partial: bool = False  # its copy is not complete yet
    submits: bool = False  # an operator chose this primary: newer epochs of ours are given up
    unfinished: bool = False  # its state is not that of its position: compare in any case


class Welcome(_Frame, frozen=True, array_like=True):
    """The primary's answer. `session` names the session; forwards are bound to it."""

    TYPE = 2
    version: int
    release: str
    session: bytes
    secondary_id: str
    cluster_id: str
    lineage: Lineage
    position: Position  # of the primary, now; a comparison's stream starts behind it
    verdict: str
    branch_seq: int = 0  # with DIVERGED: the last place that both histories have
    addresses: tuple[str, ...] = ()
    api_addr: str = ""


class Refuse(_Frame, frozen=True, array_like=True):
    """No session, or no more. `code` is for programs: version, revoked, role, set, protocol …"""

    TYPE = 3
    code: str
    text: str


class Terms(_Frame, frozen=True, array_like=True):
    """The key terms: sent before the first record that needs them (number, key, made at ms)."""

    TYPE = 4
    terms: tuple[tuple[int, bytes, int], ...]
    alternates: tuple[tuple[int, bytes, int], ...] = ()


class Records(_Frame, frozen=True, array_like=True):
    """Records of the shared log, without a gap."""

    TYPE = 5
    records: list[bytes]  # SharedRecord.encode


class Ack(_Frame, frozen=True, array_like=True):
    """How far the secondary has got: bytes of bulk frames consumed in all, position durable."""

    TYPE = 6
    consumed: int
    position: Position


class Heartbeat(_Frame, frozen=True, array_like=True):
    """Once a second, both ways. `root` is the digest root of what the other side may have, at the
    position; empty from a secondary that is comparing.
    """

    TYPE = 7
    FLAGS = SKIPPABLE
    number: int
    time_ms: int  # wall clock
    position: Position
    root: bytes = b""
    state: str = ""
    addresses: tuple[str, ...] = ()  # of the primary's cluster ports
    api_addr: str = ""
    cluster_addr: str = ""
    rank: tuple[int, bytes] = (0, b"")  # of the newest epoch that the sender knows of
    local_mounts: tuple[str, ...] = ()  # paths on a secondary that a shared mount would clash with


class Echo(_Frame, frozen=True, array_like=True):
    """The answer to a heartbeat, at once."""

    TYPE = 8
    FLAGS = SKIPPABLE
    number: int
    time_ms: int


# comparing: the secondary asks


class AskHeads(_Frame, frozen=True, array_like=True):
    TYPE = 16


class Heads(_Frame, frozen=True, array_like=True):
    """Digest of every mount that the secondary may have; `position` is that of these digests.

    `entries`: about how many entries the primary has in all, to show progress by.
    """

    TYPE = 17
    position: Position
    heads: dict[bytes, bytes]
    entries: int = 0


class AskNodes(_Frame, frozen=True, array_like=True):
    TYPE = 18
    head: bytes


class Nodes(_Frame, frozen=True, array_like=True):
    """A mount's 256 nodes, 16 bytes each."""

    TYPE = 19
    head: bytes
    nodes: bytes


class AskBuckets(_Frame, frozen=True, array_like=True):
    TYPE = 20
    head: bytes
    nodes: bytes  # their numbers, one byte each


class Buckets(_Frame, frozen=True, array_like=True):
    """The first 8 bytes of each of 256 buckets, for every node asked for, in that order."""

    TYPE = 21
    head: bytes
    nodes: bytes
    sums: bytes


class AskEntries(_Frame, frozen=True, array_like=True):
    """What differs in some buckets of a mount: `leaves` are fingerprints of what the secondary has
    there (8 bytes each, see `compare.fingerprint`). `more`: further frames belong to the question.
    """

    TYPE = 22
    head: bytes
    buckets: bytes  # their numbers, two bytes each, big endian
    leaves: bytes
    more: bool = False


class AskScan(_Frame, frozen=True, array_like=True):
    """Every entry of a mount behind a key (b"": from its first), in the order of stored keys."""

    TYPE = 23
    head: bytes
    after: bytes


class Entries(_Frame, frozen=True, array_like=True):
    """Entries: key, record, key, record … `gone` are fingerprints that the primary has not.

    `done`: nothing more belongs to the question.
    """

    TYPE = 24
    head: bytes
    entries: list[bytes]
    gone: bytes = b""
    done: bool = False


# everything else


class Forward(_Frame, frozen=True, array_like=True):
    """A vouched call (`request/vouched.py`); `number` rises by one with each in a session."""

    TYPE = 32
    number: int
    call: bytes


class Forwarded(_Frame, frozen=True, array_like=True):
    """What became of it: the answer, and where in the shared log its writes are."""

    TYPE = 33
    number: int
    answer: bytes
    position: Position


class Announce(_Frame, frozen=True, array_like=True):
    """A signed claim (`replication/claims.py`)."""

    TYPE = 34
    claim: bytes


class Announced(_Frame, frozen=True, array_like=True):
    """Whether the claim fenced its receiver; if not, why."""

    TYPE = 35
    accepted: bool
    reason: str = ""


class AskHandover(_Frame, frozen=True, array_like=True):
    """Stop writing in our favour: we are to open the next epoch."""

    TYPE = 36


class Handover(_Frame, frozen=True, array_like=True):
    """The primary has stopped; its last record has that seq. Not granted: `reason` says why."""

    TYPE = 37
    granted: bool
    seq: int = 0
    reason: str = ""


class AskCertificate(_Frame, frozen=True, array_like=True):
    """A new certificate for a new public key (SubjectPublicKeyInfo, DER)."""

    TYPE = 38
    public_key: bytes


class Certificate(_Frame, frozen=True, array_like=True):
    TYPE = 39
    certificate: bytes
    authority: bytes


class Withheld(_Frame, frozen=True, array_like=True):
    """Ids of the mounts whose data the secondary does not get; `changed`: compare states now."""

    TYPE = 40
    mounts: tuple[bytes, ...]
    changed: bool = False


class Bye(_Frame, frozen=True, array_like=True):
    """The end, said in order: `code` like that of Refuse, or `stopping`, `demoted`."""

    TYPE = 41
    code: str
    text: str = ""
    lineage: Lineage | None = None
    position: Position = START


Frame: TypeAlias = _Frame

KINDS: Final[dict[int, type[_Frame]]] = {kind.TYPE: kind for kind in _Frame.__subclasses__()}
_encoder: Final = msgspec.msgpack.Encoder()
_decoders: Final[dict[int, Any]] = {
    number: msgspec.msgpack.Decoder(kind).decode for number, kind in KINDS.items()
}


def encode(frame: Frame) -> bytes:
    payload = _encoder.encode(frame)
    return _HEAD.pack(len(payload) + 2, frame.TYPE, frame.FLAGS) + payload


class Decoder:
    """Cuts a stream into frames, none over `limit` bytes."""

    def __init__(self, limit: int = HELLO_BYTES_MAX) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Frame, int]]:
        """Frames and their sizes in bytes. Raises ProtocolError."""
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        try:
            while end - at >= _HEAD.size:
                size, kind, flags = _HEAD.unpack_from(buffer, at)
                if size > self.limit or size < 2:
                    raise ProtocolError(f"a frame of {size} bytes")
                if end - at < size + 4:
                    return
                payload = bytes(memoryview(buffer)[at + _HEAD.size : at + size + 4])
                at += size + 4
                frame = _decode(kind, flags, payload)
                if frame is not None:
                    yield frame, size + 4
        finally:
            del buffer[:at]


def _decode(kind: int, flags: int, payload: bytes) -> Frame | None:
    decode = _decoders.get(kind)
    if decode is None:
        if flags & SKIPPABLE:
            return None
        raise ProtocolError(f"an unknown frame of type {kind}")
    try:
        frame: Frame = decode(payload)
    except msgspec.MsgspecError:
        raise ProtocolError(f"a frame of type {kind} does not parse") from None
    return frame
