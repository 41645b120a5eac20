"""The log's extent: where it begins and ends, what it may hold, and reading it without a hole.

The extent lies in `meta` and changes in the commits that change the log, so a log that lost its
end, its beginning or a record between them contradicts it (LOG-WHOLE). A `Batch` evolves a copy and
the store takes it over once the commit stands.
"""

from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import lmdb
import msgspec

from undercroft.errors import Corrupt
from undercroft.storage.wal import (
    JUMP_RECORD,
    SHARED_RECORD,
    START,
    Position,
    Record,
    SharedRecord,
    chain_holds,
    decode_record,
)

if TYPE_CHECKING:
    from undercroft.storage.view import Txn

_EXTENT_KEY: Final = b"log"
_EXTENT: Final = Struct(">QQ16s QQ16s QQ16s QQ16s Q")
_CHECK: Final = Struct(">I")
_NAME_BYTES: Final = 8


class Retention(msgspec.Struct, frozen=True):
    """How much log is kept for secondaries to catch up: a record goes when any limit is crossed.

    Records since the last checkpoint of the digest tree stay in any case (`batch.py` bounds them).
    """

    records: int = 1_000_000
    bytes: int = 1 << 30
    age_seconds: int = 0  # 0: of any age


class Trimmed(Exception):
    """The log does not reach back so far: compare states instead."""


class Foreign(Exception):
    """The position belongs to another history than this log's: compare lineages instead."""


class Extent(NamedTuple):
    """Invariant: the log has exactly the records `first` to `last.seq`, `size_bytes` in all."""

    first: int = 1  # one past the last when the log is empty
    size_bytes: int = 0
    base: bytes = START.chain  # the chain that record `first` continues
    last: Position = START
    shared_base: Position = START  # of the shared log, as of the record before `first`
    shared: Position = START  # of the shared log, as of the last record
    jumped: int = 0  # the last record of kind JUMP that is held; 0: none


def load_extent(txn: "Txn", meta: "lmdb._Database") -> Extent:
    """Raises Corrupt."""
    raw = txn.get(_EXTENT_KEY, None, meta)
    if raw is None:
        return Extent()
    if len(raw) != _EXTENT.size + 4 or raw[-4:] != _CHECK.pack(crc32(raw[:-4])):
        raise Corrupt("the extent of the log is damaged")
    n = _EXTENT.unpack_from(raw)
    return Extent(
        n[0], n[1], n[2], Position(*n[3:6]), Position(*n[6:9]), Position(*n[9:12]), jumped=n[12]
    )


def save_extent(txn: "Txn", meta: "lmdb._Database", extent: Extent) -> None:
    raw = _EXTENT.pack(
        extent.first,
        extent.size_bytes,
        extent.base,
        *extent.last,
        *extent.shared_base,
        *extent.shared,
        extent.jumped,
    )
    txn.put(_EXTENT_KEY, raw + _CHECK.pack(crc32(raw)), db=meta)


def records(
    txn: "Txn", wal: "lmdb._Database", first: int, chain: bytes = b""
) -> Iterator[tuple[int, bytes, Record]]:
    """The log from a record on: number, as stored, parsed.

    `chain` is that of the record before; without it the first is taken as it is. Raises Corrupt
    for a gap, and for a record that was altered.
    """
    for name, raw in stored(txn, wal, first):
        record = decode_record(raw)
        seq = int.from_bytes(name, "big")
        if chain and not chain_holds(raw, chain, name):
            raise Corrupt(f"log record {seq} was altered")
        chain = record.chain
        yield seq, raw, record


def stored(txn: "Txn", wal: "lmdb._Database", first: int) -> Iterator[tuple[bytes, bytes]]:
    """The log from a record on, as stored, under its name: the number. Raises Corrupt for a gap."""
    cursor = txn.cursor(wal)
    if not cursor.set_range(first.to_bytes(_NAME_BYTES, "big")):
        return
    for name, raw in cursor.iternext():
        if name != first.to_bytes(_NAME_BYTES, "big"):
            if len(name) != _NAME_BYTES:  # of a damaged page: no number to show
                raise Corrupt("the log has a record without a number")
            raise Corrupt(f"the log has a gap before record {int.from_bytes(name, 'big')}")
        yield name, raw
        first += 1


def shared_records(
    txn: "Txn", wal: "lmdb._Database", extent: Extent, after: Position
) -> Iterator[tuple[int, SharedRecord]]:
    """The shared log behind a position: number in this cluster's log, and the record.

    Raises Trimmed when the log does not hold what follows (it was dropped, or a jump lies between),
    Foreign when the position is none of this history's, Corrupt.
    """
    if after == extent.shared:
        return
    start = _find(txn, wal, extent, after)
    for number, _, record in records(txn, wal, start):
        if record.kind == JUMP_RECORD:
            raise Trimmed
        if record.kind == SHARED_RECORD:
            yield number, record.shared_record()


def _find(txn: "Txn", wal: "lmdb._Database", extent: Extent, after: Position) -> int:
    """The number in this cluster's log behind which the records that follow `after` are.

    The shared seq only rises from one jump to the next, so it can be searched by halves.
    """
    low, base = extent.first, extent.shared_base
    if extent.jumped:
        low, base = extent.jumped + 1, _record(txn, wal, extent.jumped).shared
    if after.seq >= extent.shared.seq:
        raise Foreign
    if after.seq < base.seq:
        raise Trimmed
    if after.seq == base.seq:
        if after != base:
            raise Foreign
        return low
    high = extent.last.seq  # invariant: the record of that seq is in low..high
    while low < high:
        middle = (low + high) // 2
        if _record(txn, wal, middle).shared_seq < after.seq:
            low = middle + 1
        else:
            high = middle
    if _record(txn, wal, low).shared != after:
        raise Foreign
    return low + 1


def _record(txn: "Txn", wal: "lmdb._Database", number: int) -> Record:
    raw = txn.get(number.to_bytes(8, "big"), None, wal)
    if raw is None:
        raise Corrupt(f"the log has a gap at record {number}")
    return decode_record(raw)


def check_ends(txn: "Txn", wal: "lmdb._Database", extent: Extent) -> None:
    """Raises Corrupt when the log is not as long as it should be."""
    cursor = txn.cursor(wal)
    first = int.from_bytes(cursor.key(), "big") if cursor.first() else extent.last.seq + 1
    last = int.from_bytes(cursor.key(), "big") if cursor.last() else extent.last.seq
    held = txn.stat(wal)["entries"]
    if (first, last) != (extent.first, extent.last.seq) or held != last - first + 1:
        raise Corrupt(
            f"the log has {held} records from {first} to {last}, and should have those from "
            f"{extent.first} to {extent.last.seq}"
        )


def trim(
    txn: "Txn",
    wal: "lmdb._Database",
    extent: Extent,
    retention: Retention,
    now_ms: int,
    **most: int,
) -> Extent:
    """Drop records from the log's beginning, `most` of them: `records`, `bytes`, up to `seq`."""
    oldest_ms = now_ms - retention.age_seconds * 1000 if retention.age_seconds else 0
    first, size_bytes, base, last = extent[:4]
    shared_base = extent.shared_base
    left_records, left_bytes = most["records"], most["bytes"]
    cursor = txn.cursor(wal)
    more = cursor.first()
    while more and left_records > 0 and left_bytes > 0 and first <= most["seq"]:
        over = last.seq - first + 1 > retention.records or size_bytes > retention.bytes
        if not over and not oldest_ms:
            break
        raw = cursor.value()
        record = decode_record(raw)
        if not over and record.time_ms >= oldest_ms:
            break
        first, size_bytes, base = first + 1, size_bytes - len(raw), record.chain
        shared_base = record.shared
        left_records, left_bytes = left_records - 1, left_bytes - len(raw)
        cursor.delete()
        more = cursor.first()
    jumped = extent.jumped if extent.jumped >= first else 0
    return Extent(first, size_bytes, base, last, shared_base, extent.shared, jumped)
