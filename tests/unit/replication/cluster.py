"""A cluster as the modules of this area see it: views and transactions of a real store."""

from collections.abc import Iterator
from contextlib import contextmanager

from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot, Transaction

NOW_MS = 1_900_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Cluster:
    """A store, one transaction a commit."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """A transaction that is committed, unless the body raises."""
        batch = self.store.batch()
        try:
            tx = batch.transaction()
            yield tx
            batch.accept(tx)
            batch.commit()
        except BaseException:
            batch.abort()
            raise

    @contextmanager
    def view(self) -> Iterator[Snapshot]:
        with self.store.snapshot() as view:
            yield view
