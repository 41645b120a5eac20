"""What the store alone costs: `python -m bench.storage [DIRECTORY]`.

Puts per second by size of the group commit, reads per second, one commit's latency, and how long a
start takes. Compare runs on one machine and disk only.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.storage.store import Store
from undercroft.storage.view import Space

MOUNT = bytes(range(16))
VALUE = b"v" * 200
SECONDS = 1.0


def per_second(work: Callable[[int], int]) -> float:
    """Runs `work(n)`, which answers how many operations it did, for about a second."""
    done, number, started = 0, 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        done += work(number)
        number += 1
    return done / elapsed


def puts(store: Store, size: int) -> Callable[[int], int]:
    def commit(number: int) -> int:
        batch = store.batch()
        for at in range(size):
            tx = batch.transaction()
            Space(tx, b"s", MOUNT).put(f"app/{(number * size + at) % 50_000}", VALUE)
            batch.accept(tx)
        batch.commit()
        return size

    return commit


def gets(store: Store) -> Callable[[int], int]:
    def read(number: int) -> int:
        with store.snapshot() as view:
            space = Space(view, b"s", MOUNT)
            for at in range(100):
                space.get(f"app/{(number * 7919 + at) % 1000}")
        return 100

    return read


def snapshots(store: Store) -> Callable[[int], int]:
    def read(number: int) -> int:
        with store.snapshot() as view:
            Space(view, b"s", MOUNT).get(f"app/{number % 1000}")
        return 1

    return read


def run(directory: Path) -> dict[str, float]:
    keyring = Keyring((KeyTerm(1, bytes(32), 0),), root_key=bytes(32))
    figures: dict[str, float] = {}
    for durable in (True, False):
        path = directory / ("durable" if durable else "memory")
        path.mkdir(mode=0o700)
        store = Store.open(path, writable=True, durable=durable)
        store.set_keyring(keyring)
        kind = "durable" if durable else "not synced"
        for size in (1, 32, 512):
            figures[f"puts/s, {kind}, batch {size}"] = per_second(puts(store, size))
        figures[f"reads/s, {kind}, 100 a snapshot"] = per_second(gets(store))
        figures[f"reads/s, {kind}, 1 a snapshot"] = per_second(snapshots(store))
        store.close()
        started = time.perf_counter()
        Store.open(path, writable=True, durable=durable).close()
        figures[f"start, {kind}, ms"] = (time.perf_counter() - started) * 1000
    return figures


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=base) as directory:
        for name, figure in run(Path(directory)).items():
            print(f"{figure:12,.0f}  {name}")


if __name__ == "__main__":
    main()
