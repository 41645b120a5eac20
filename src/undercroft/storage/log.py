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
    START,
    Position,
    Record,
    chain_of,
    decode_record,
)

if TYPE_CHECKING:
    from undercroft.storage.view import Txn

_EXTENT_KEY: Final = b"log"
_EXTENT: Final = Struct(">QQ16sQQ16s")
_CHECK: Final = Struct(">I")


class Retention(msgspec.Struct, frozen=True):
    """How much log is kept for secondaries to catch up: a record goes when any limit is crossed.

    Records since the last checkpoint of the digest tree stay in any case (`batch.py` bounds them).
    """

    records: int = 1_000_000
    bytes: int = 1 << 30
    age_seconds: int = 0  # 0: of any age


class Trimmed(Exception):
    """The log does not reach back so far, or not yet so far: compare states instead."""


class Extent(NamedTuple):
    """Invariant: the log has exactly the records `first` to `last.seq`, `size_bytes` in all."""

    first: int = 1  # one past the last when the log is empty
    size_bytes: int = 0
    base: bytes = START.chain  # the chain that record `first` continues
    last: Position = START


def load_extent(txn: "Txn", meta: "lmdb._Database") -> Extent:
    """Raises Corrupt."""
    raw = txn.get(_EXTENT_KEY, None, meta)
    if raw is None:
        return Extent()
    if len(raw) != _EXTENT.size + 4 or raw[-4:] != _CHECK.pack(crc32(raw[:-4])):
        raise Corrupt("the extent of the log is damaged")
    first, size_bytes, base, epoch, seq, chain = _EXTENT.unpack_from(raw)
    return Extent(first, size_bytes, base, Position(epoch, seq, chain))


def save_extent(txn: "Txn", meta: "lmdb._Database", extent: Extent) -> None:
    raw = _EXTENT.pack(extent.first, extent.size_bytes, extent.base, *extent.last)
    txn.put(_EXTENT_KEY, raw + _CHECK.pack(crc32(raw)), db=meta)


def records(
    txn: "Txn", wal: "lmdb._Database", first: int, chain: bytes = b""
) -> Iterator[tuple[int, bytes, Record]]:
    """The log from a record on: number, as stored, parsed.

    `chain` is that of the record before; without it the first is taken as it is. Raises Corrupt
    for a gap, and for a record that was altered.
    """
    cursor = txn.cursor(wal)
    found = cursor.set_range(first.to_bytes(8, "big"))
    while found:
        seq, raw = int.from_bytes(cursor.key(), "big"), cursor.value()
        if seq != first:
            raise Corrupt(f"the log has a gap before record {seq}")
        record = decode_record(raw)
        after = (record.epoch, seq, record.time_ms, record.body)
        if chain and record.chain != chain_of(chain, *after):
            raise Corrupt(f"log record {seq} was altered")
        chain, first = record.chain, seq + 1
        yield seq, raw, record
        found = cursor.next()


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
    first, size_bytes, base, last = extent
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
        left_records, left_bytes = left_records - 1, left_bytes - len(raw)
        cursor.delete()
        more = cursor.first()
    return Extent(first, size_bytes, base, last)
