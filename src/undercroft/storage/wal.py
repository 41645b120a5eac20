"""The write-ahead log's record: what one request changed, as it is replicated.

    format        1 byte, 2
    kind          1 byte: LOCAL 0, SHARED 1, JUMP 2
    epoch         8
    time_ms       8, wall clock of the cluster that wrote it first
    chain         16, BLAKE2b of the record before's chain and everything else here
    shared seq    8, place in the shared log as of this record
    shared chain  16
    shared size   4, so many bytes of the operations concern shared entries; they come first
    operations    each: 1 kind | 16 old tag | 4 key length | key | 4 record length | record

Its number in this cluster's log is its LMDB key, 8 bytes big endian, so all integers sort. The old
tag is the digest leaf that the operation replaced (zeros: none): a replica that held something else
at that key knows at once that it had diverged. It keeps the operation as it came, since the shared
chain names that, and a CORRECTION among its local ones says what it really replaced.

What travels is the **shared log**: the records of kind SHARED, each one place after the other,
across promotions too. A position in it `(epoch, seq, chain)` means the same on every member of a
set, and its chain makes it name one history only. A record of kind JUMP says that the state has
become that of a position without the records between (a comparison of states has run).
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from undercroft.errors import Corrupt

CHAIN_BYTES: Final = 16
DIGEST_BYTES: Final = 16
NO_TAG: Final = bytes(16)
FORMAT: Final = 2

# kinds of records
LOCAL_RECORD: Final = 0
SHARED_RECORD: Final = 1
JUMP_RECORD: Final = 2

# kinds of operations
PUT: Final = 1
DELETE: Final = 2
WITHHELD: Final = 3  # on the way to a filtered secondary: the old tag is the operation's digest
CORRECTION: Final = 4  # a leaf became another, with no entry changed; never in the shared part

_HEAD: Final = Struct(">BBQQ16sQ16sI")
OPERATIONS_AT: Final = _HEAD.size
_SHARED_HEAD: Final = Struct(">QQQ16s")
_SHARED_BEGIN: Final = bytes((FORMAT, SHARED_RECORD))
_OPERATION: Final = Struct(">B16sI")
_SHARED_FIRST: Final = Struct(">QQQ16s B16sI")  # a shared record up to its first operation's key
_BEFORE_CHAIN: Final = 2 + 8 + 8  # of a record as stored
_BEHIND_CHAIN: Final = _BEFORE_CHAIN + CHAIN_BYTES
_SHARED_NUMBERS: Final = 3 * 8  # of a shared record, before its chain
_HOLE: Final = bytes(8)  # no key and no record: seldom anything else
_LENGTH: Final = Struct(">I")


class Operation(NamedTuple):
    """One change: `record` is None for a delete, and the new leaf alone for a correction."""

    key: bytes
    old_tag: bytes
    record: bytes | None


class Position(NamedTuple):
    """A place in a log. `seq` counts records from 1; 0 is the empty log."""

    epoch: int
    seq: int
    chain: bytes


START: Final = Position(epoch=0, seq=0, chain=bytes(CHAIN_BYTES))


def encode_operation(key: bytes, old_tag: bytes, record: bytes | None) -> bytes:
    head = _OPERATION.pack(DELETE if record is None else PUT, old_tag, len(key)) + key
    return head + _LENGTH.pack(0) if record is None else head + _LENGTH.pack(len(record)) + record


def digest_operation(encoded: bytes) -> bytes:
    """What stands for an operation in the shared chain, and in its place when it is withheld."""
    return blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def encode_withheld(digest: bytes) -> bytes:
    return _OPERATION.pack(WITHHELD, digest, 0) + _LENGTH.pack(0)


def encode_correction(key: bytes, actual: bytes, believed: bytes) -> bytes:
    """The leaf at `key` was `actual` where another operation of the record replaces `believed`."""
    head = _OPERATION.pack(CORRECTION, actual, len(key)) + key
    return head + _LENGTH.pack(len(believed)) + believed


def operations_of(body: bytes) -> Iterator[tuple[int, bytes, bytes, bytes, bytes]]:
    """Kind, old tag, key, record and the operation as encoded. Raises Corrupt for what does not
    parse to its very end.
    """
    at, end = 0, len(body)
    while at < end:
        start = at
        try:
            kind, old_tag, key_size = _OPERATION.unpack_from(body, at)
            at += _OPERATION.size
            key = body[at : at + key_size]
            at += key_size
            (size,) = _LENGTH.unpack_from(body, at)
        except StructError:
            raise Corrupt("a log record is cut short") from None
        at += _LENGTH.size
        record = body[at : at + size]
        at += size
        if at > end or not _well_formed(kind, key_size, size):
            raise Corrupt("a log record does not parse")
        yield kind, old_tag, key, record, body[start:at]


def has_holes(body: bytes) -> bool:
    """Whether something was withheld from it. Raises Corrupt."""
    if _HOLE not in body:
        return False
    kind, _, key_size = _OPERATION.unpack_from(body)
    at = _OPERATION.size + key_size + _LENGTH.size
    if body[at - _LENGTH.size : at] == _LENGTH.pack(len(body) - at):  # one operation, as mostly
        return bool(kind == WITHHELD)
    return any(operation[0] == WITHHELD for operation in operations_of(body))


def leaf_changes(raw: bytes, at: int = 0) -> list[tuple[bytes, bytes, bytes]]:
    """Key, leaf before and leaf after, of every operation on an entry, in what lies behind `at`:
    operations, or (`OPERATIONS_AT`) a record as stored. Raises Corrupt.
    """
    changes: list[tuple[bytes, bytes, bytes]] = []
    body, end = raw, len(raw)
    try:
        while at < end:
            kind, old_tag, key_size = _OPERATION.unpack_from(body, at)
            start = at + _OPERATION.size
            at = start + key_size
            key = body[start:at]
            (size,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size + size
            if at > end or not _well_formed(kind, key_size, size):
                raise Corrupt("a log record does not parse")
            if kind != WITHHELD:
                changes.append((key, old_tag, body[at - DIGEST_BYTES : at] if size else NO_TAG))
    except StructError:
        raise Corrupt("a log record is cut short") from None
    return changes


def _well_formed(kind: int, key_size: int, record_size: int) -> bool:
    return (
        kind == PUT
        or (kind == DELETE and not record_size)
        or (kind == WITHHELD and not key_size and not record_size)
        or (kind == CORRECTION and record_size == DIGEST_BYTES)
    )


def shared_chain_of(after: Position, epoch: int, time_ms: int, digests: Iterable[bytes]) -> bytes:
    """The chain of the shared record that follows `after`."""
    head = _SHARED_HEAD.pack(epoch, after.seq + 1, time_ms, after.chain)
    return blake2b(head + b"".join(digests), digest_size=CHAIN_BYTES).digest()


def single_put(
    raw: bytes, epoch: int, seq: int, chain: bytes
) -> tuple[int, bytes, bytes, bytes, bytes] | None:
    """Of a shared record as it travels: epoch, chain, key, old tag and record; None unless it
    follows that position, is what its chain says, and is one PUT and nothing else.
    """
    if len(raw) < _SHARED_FIRST.size:
        return None
    its_epoch, its_seq, _, its_chain, kind, old_tag, key_size = _SHARED_FIRST.unpack_from(raw)
    at = _SHARED_FIRST.size + key_size
    value = raw[at + _LENGTH.size :]
    if (
        kind != PUT
        or its_seq != seq + 1
        or its_epoch < epoch
        or raw[at : at + _LENGTH.size] != _LENGTH.pack(len(value))
    ):
        return None
    digest = blake2b(raw[_SHARED_HEAD.size :], digest_size=DIGEST_BYTES).digest()
    followed = raw[:_SHARED_NUMBERS] + chain + digest
    if blake2b(followed, digest_size=CHAIN_BYTES).digest() != its_chain:
        return None
    return its_epoch, its_chain, raw[_SHARED_FIRST.size : at], old_tag, value


def follow_shared(number: int, chain: bytes, raw: bytes) -> tuple[bytes, bytes]:
    """`follow` after the record `number` of that chain, for a shared record as it travels and
    nothing beside it: the chain, and the record as it is stored.
    """
    body = raw[_SHARED_HEAD.size :]
    before = _SHARED_BEGIN + raw[:8] + raw[16:_SHARED_NUMBERS]
    behind = raw[8:16] + raw[_SHARED_NUMBERS : _SHARED_HEAD.size] + _LENGTH.pack(len(body))
    hashed = before + chain + behind + (number + 1).to_bytes(8, "big") + body
    own = blake2b(hashed, digest_size=CHAIN_BYTES).digest()
    return own, before + own + behind + body


class SharedRecord(NamedTuple):
    """One place of the shared log, as it travels: `body` holds operations on shared entries."""

    epoch: int
    seq: int
    time_ms: int
    chain: bytes
    body: bytes

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.chain)

    def encode(self) -> bytes:
        return _SHARED_HEAD.pack(*self[:4]) + self.body

    def seen_by(self, passes: Callable[[bytes], bool]) -> "SharedRecord":
        """As a secondary may see it to whom only keys that pass may go. The chain stays whole.

        What was withheld from this cluster already is its digest here; it goes on as that.
        """
        body = [
            encoded
            if kind == WITHHELD or passes(key)
            else encode_withheld(digest_operation(encoded))
            for kind, _, key, _, encoded in operations_of(self.body)
        ]
        return self._replace(body=b"".join(body))

    @classmethod
    def decode(cls, raw: bytes) -> "SharedRecord":
        """Raises Corrupt."""
        if len(raw) < _SHARED_HEAD.size:
            raise Corrupt("a shared record is cut short")
        return cls._make((*_SHARED_HEAD.unpack_from(raw), raw[_SHARED_HEAD.size :]))


class Record(NamedTuple):
    """A record, its operations not yet parsed."""

    kind: int
    epoch: int
    time_ms: int
    chain: bytes
    shared_seq: int
    shared_chain: bytes
    shared_size: int
    body: bytes

    @property
    def shared(self) -> Position:
        """The position in the shared log as of this record."""
        return Position(self.epoch, self.shared_seq, self.shared_chain)

    def shared_record(self) -> SharedRecord:
        """What of it travels; only for the kind SHARED."""
        return SharedRecord(
            self.epoch,
            self.shared_seq,
            self.time_ms,
            self.shared_chain,
            self.body[: self.shared_size],
        )

    def operations(self) -> Iterator[Operation]:
        """All of them but those withheld. Raises Corrupt."""
        for kind, old_tag, key, record, _ in operations_of(self.body):
            if kind != WITHHELD:
                yield Operation(key, old_tag, None if kind == DELETE else record)

    def encode(self) -> bytes:
        return _HEAD.pack(FORMAT, *self[:7]) + self.body


def follow(
    after: Position, kind: int, shared: Position, time_ms: int, shared_size: int, body: bytes
) -> tuple[Position, bytes]:
    """The record that follows `after` in a cluster's own log, and the position it makes."""
    seq = after.seq + 1
    epoch, shared_seq, shared_chain = shared
    head = _HEAD.pack(
        FORMAT, kind, epoch, time_ms, after.chain, shared_seq, shared_chain, shared_size
    )
    chain = blake2b(head + seq.to_bytes(8, "big") + body, digest_size=CHAIN_BYTES).digest()
    raw = head[:_BEFORE_CHAIN] + chain + head[_BEHIND_CHAIN:] + body
    return Position(epoch, seq, chain), raw


def chain_holds(raw: bytes, previous: bytes, name: bytes) -> bool:
    """Whether a record as stored under `name` is unaltered, and follows the chain `previous`."""
    head = raw[:_BEFORE_CHAIN] + previous + raw[_BEHIND_CHAIN:OPERATIONS_AT]
    chain = blake2b(head + name + raw[OPERATIONS_AT:], digest_size=CHAIN_BYTES).digest()
    return chain == raw[_BEFORE_CHAIN:_BEHIND_CHAIN]


def shared_position_of(raw: bytes) -> Position:
    """The position in the shared log as of a record as stored."""
    head = _HEAD.unpack_from(raw)
    return Position(head[2], head[5], head[6])


def decode_record(raw: bytes) -> Record:
    """Raises Corrupt."""
    kind_of(raw)
    return Record._make((*_HEAD.unpack_from(raw)[1:], raw[OPERATIONS_AT:]))


def kind_of(raw: bytes) -> int:
    """Of a record as stored. Raises Corrupt for what has no head."""
    if len(raw) < OPERATIONS_AT or raw[0] != FORMAT or raw[1] > JUMP_RECORD:
        raise Corrupt("a log record has an unknown format")
    return raw[1]
