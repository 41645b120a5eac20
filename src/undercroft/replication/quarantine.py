"""Writes that only a former primary had: set aside, never dropped, never merged.

One local entry per operation, named by its place in the log that lost: what was written is kept as
it was, sealed. Whoever lists them sees where and when, not what; one can be read, restored (written
again, as a new write) or discarded.
"""

from collections.abc import Iterator

import msgspec

from undercroft.storage.keys import LOCAL, QUARANTINE
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot, Space, Transaction
from undercroft.storage.wal import (
    PUT,
    SHARED_RECORD,
    WITHHELD,
    Position,
    decode_record,
    operations_of,
)


class Quarantined(msgspec.Struct, frozen=True):
    """One operation that was set aside. `record` as stored (sealed), None: it was a deletion."""

    key: bytes
    record: bytes | None
    epoch: int
    seq: int  # in the shared log of that epoch
    written_ms: int  # wall clock of the cluster that wrote it
    set_aside_ms: int

    def __repr__(self) -> str:
        return f"<Quarantined {self.epoch}/{self.seq}>"


def name_of(position: Position, index: int) -> str:
    """Its id, in the order in which things were written.

    The chain belongs to it: a cluster may open two epochs of one number, one drill after another.
    """
    return f"{position.epoch:06d}-{position.seq:012d}-{index:04d}-{position.chain.hex()[:8]}"


def set_aside(store: Store, tx: Transaction, behind_seq: int, now_ms: int) -> int:
    """Quarantine every shared record of our own log behind that place of the shared log.

    Answers how many operations it found. Doing it twice changes nothing. What the log no longer
    holds cannot be told from what is merely old: then everything that is held is taken.
    """
    space, count = Space(tx, LOCAL, QUARANTINE), 0
    for raw in _backwards(store, tx):
        record = decode_record(raw)
        if record.shared_seq <= behind_seq:
            break
        if record.kind != SHARED_RECORD:
            continue
        operations = operations_of(record.body[: record.shared_size])
        for index, (kind, _, key, value, _) in enumerate(operations):
            name = name_of(record.shared, index)
            if kind == WITHHELD or space.exists(name):
                continue
            entry = Quarantined(
                key,
                value if kind == PUT else None,
                record.epoch,
                record.shared_seq,
                record.time_ms,
                now_ms,
            )
            space.write(name, entry)
            count += 1
    return count


def _backwards(store: Store, tx: Transaction) -> Iterator[bytes]:
    cursor = tx.txn.cursor(store.wal)
    found = cursor.last()
    while found:
        yield cursor.value()
        found = cursor.prev()


def names(view: Snapshot) -> list[str]:
    return Space(view, LOCAL, QUARANTINE).list()


def find(view: Snapshot, name: str) -> Quarantined | None:
    return Space(view, LOCAL, QUARANTINE).read(name, Quarantined)


def discard(tx: Snapshot, name: str) -> None:
    Space(tx, LOCAL, QUARANTINE).delete(name)
