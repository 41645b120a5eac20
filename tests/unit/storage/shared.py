"""Two or more stores of one set, without the network between them."""

from collections.abc import Callable, Iterable
from typing import Protocol

from tests.unit.storage.stores import MOUNT, change, write
from undercroft.storage.batch import Batch
from undercroft.storage.keys import LOCAL, OWN, SHARED
from undercroft.storage.record import full_key_of
from undercroft.storage.store import Retention, Store
from undercroft.storage.verify import problems
from undercroft.storage.view import Space
from undercroft.storage.wal import Position, SharedRecord, digest_operation, shared_chain_of


class Opener(Protocol):
    def __call__(self, name: str, retention: Retention | None = None) -> Store: ...


def committed(store: Store, step: Callable[[Batch], int | None]) -> int:
    """One step in a commit of its own; what fails leaves nothing."""
    batch = store.batch()
    try:
        result = step(batch)
        batch.commit()
    except BaseException:
        batch.abort()
        raise
    return result or 0


def write_beside(store: Store, keyspace: bytes, entries: dict[str, bytes]) -> None:
    """Entries that do not travel: of the keyspaces local and own."""

    def step(batch: Batch) -> None:
        tx = batch.transaction()
        for name, value in entries.items():
            Space(tx, keyspace, MOUNT).put(name, value)
        batch.accept(tx)

    committed(store, step)


def history(store: Store, count: int = 4) -> list[Position]:
    """Shared records, local and own ones between them. Answers the positions, also that before."""
    positions = [store.extent.shared]
    for n in range(count):
        write_beside(store, LOCAL, {f"local{n}": b"x"})
        write(store, {f"shared{n}": b"x", f"shared{n - 1}": None})
        write_beside(store, OWN, {f"own{n}": b"x"})
        positions.append(store.extent.shared)
    return positions


def open_epoch(store: Store, number: int, entries: dict[str, bytes | None]) -> Position:
    def step(batch: Batch) -> None:
        tx = batch.transaction()
        tx.opens_epoch = number
        change(tx, entries)
        batch.accept(tx)

    committed(store, step)
    return store.extent.shared


def records_after(store: Store, after: Position) -> list[SharedRecord]:
    """As they arrive at another store."""
    return [SharedRecord.decode(r.encode()) for _, r in store.shared_log(after)]


def accept(batch: Batch, record: SharedRecord) -> int:
    """As the writer does it: the short way for what is plain."""
    return 0 if batch.accept_plain([record.encode()]) else batch.accept_shared(record)


def apply(store: Store, records: Iterable[SharedRecord], *, beside: bool = False) -> int:
    """All of them in one commit. Answers how many of their entries had diverged.

    `beside`: with room for entries of the store's own, as the node does where a mount goes; a plain
    record then takes the long way.
    """

    def step(batch: Batch) -> int:
        if not beside:
            return sum(accept(batch, record) for record in records)
        return sum(batch.accept_shared(record, batch.transaction()) for record in records)

    return committed(store, step)


def follow(replica: Store, origin: Store) -> int:
    return apply(replica, records_after(origin, replica.extent.shared))


def copy_state(replica: Store, origin: Store) -> None:
    """What a comparison of states does: entries first, then the position they are of."""
    theirs, mine = shared_entries(origin), shared_entries(replica)
    gone = dict.fromkeys(mine.keys() - theirs.keys())
    committed(replica, lambda b: b.accept_entries({**theirs, **gone}.items(), b.transaction()))
    committed(replica, lambda b: b.accept_jump(origin.extent.shared))


def diverge(store: Store, changes: dict[str, bytes | None]) -> None:
    """Shared entries change and no position does: a replica that is no longer what it was."""
    scratch = store.batch()
    tx = scratch.transaction()
    change(tx, changes)
    scratch.abort()
    committed(store, lambda b: b.accept_entries(tx.writes.items(), b.transaction()))


def forged(after: Position, *operations: bytes, epoch: int = 1, time_ms: int = 5) -> SharedRecord:
    """A record that its chain speaks for, whatever its operations are."""
    chain = shared_chain_of(after, epoch, time_ms, map(digest_operation, operations))
    return SharedRecord(epoch, after.seq + 1, time_ms, chain, b"".join(operations))


def shared_entries(store: Store) -> dict[bytes, bytes]:
    """Records by full key."""
    with store.snapshot() as view:
        return {
            full_key_of(stored, raw): raw
            for stored, raw in view.entries_of(store.data)
            if stored[:1] == SHARED
        }


def everything(store: Store) -> tuple[object, ...]:
    """All that a store holds, to see that nothing of it has changed."""
    with store.snapshot() as view:
        databases = (store.data, store.wal, store.meta, store.expiry)
        held = [list(view.entries_of(database)) for database in databases]
    return held, store.extent, store.digests.root(b"sl")


def assert_sound(store: Store) -> None:
    """The tree in memory, and the one that a start would make, are those of the entries."""
    with store.env.begin() as txn:
        assert store.digests.same_as(store.recompute(txn))
    assert problems(store) == []


def assert_same(replica: Store, origin: Store) -> None:
    assert replica.extent.shared == origin.extent.shared
    assert shared_entries(replica) == shared_entries(origin)
    assert replica.digests.root(b"s") == origin.digests.root(b"s")
