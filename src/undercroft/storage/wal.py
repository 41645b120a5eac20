"""The write-ahead log's record: what one request changed, as it is replicated.

    format      1 byte, 1
    epoch       8
    time_ms     8, wall clock of the cluster that wrote it
    chain       16, BLAKE2b of the record before's chain and everything else here
    operations  each: 1 kind | 16 old tag | 4 key length | key | 4 record length | record

Its sequence number is its LMDB key, 8 bytes big endian, so all integers sort. The old tag is the
digest leaf that the operation replaced (zeros: none): a replica that held something else at that
key knows at once that it had diverged. The chain makes a position `(epoch, seq, chain)` name one
history only.
"""

from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from undercroft.errors import Corrupt

CHAIN_BYTES: Final = 16
NO_TAG: Final = bytes(16)
PUT: Final = 1
DELETE: Final = 2

_HEAD: Final = Struct(">BQQ16s")
_OPERATION: Final = Struct(">B16sI")
_LENGTH: Final = Struct(">I")


class Operation(NamedTuple):
    """One change: `record` is None for a delete."""

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


def chain_of(previous: bytes, epoch: int, seq: int, time_ms: int, body: bytes) -> bytes:
    head = _HEAD.pack(1, epoch, time_ms, previous) + seq.to_bytes(8, "big")
    return blake2b(head + body, digest_size=CHAIN_BYTES).digest()


def encode_record(after: Position, epoch: int, time_ms: int, body: bytes) -> tuple[Position, bytes]:
    """The record that follows `after`, and the position it makes."""
    seq = after.seq + 1
    chain = chain_of(after.chain, epoch, seq, time_ms, body)
    return Position(epoch, seq, chain), _HEAD.pack(1, epoch, time_ms, chain) + body


class Record(NamedTuple):
    """A record, its operations not yet parsed."""

    epoch: int
    time_ms: int
    chain: bytes
    body: bytes

    def operations(self) -> Iterator[Operation]:
        """Raises Corrupt when the body does not parse to its very end."""
        body, at, end = self.body, 0, len(self.body)
        while at < end:
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
            if at > end or kind not in (PUT, DELETE) or (kind == DELETE and size):
                raise Corrupt("a log record does not parse")
            yield Operation(key, old_tag, None if kind == DELETE else record)


def decode_record(raw: bytes) -> Record:
    if len(raw) < _HEAD.size or raw[0] != 1:
        raise Corrupt("a log record has an unknown format")
    _, epoch, time_ms, chain = _HEAD.unpack_from(raw)
    return Record(epoch, time_ms, chain, raw[_HEAD.size :])
