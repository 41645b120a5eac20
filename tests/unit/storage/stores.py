"""Stores for tests, with a fixed keyring, so that a reopened store can be read."""

from pathlib import Path

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.storage.store import Retention, Store
from undercroft.storage.view import Space, Transaction
from undercroft.storage.wal import Position

KEYRING_KEY = bytes(range(32))
MOUNT = bytes(range(16))


def keyring() -> Keyring:
    return Keyring((KeyTerm(1, KEYRING_KEY, 0),), root_key=bytes(32))


def open_store(path: Path, *, writable: bool = True, retention: Retention | None = None) -> Store:
    path.mkdir(exist_ok=True)
    store = Store.open(path, writable=writable, retention=retention or Retention())
    store.set_keyring(keyring())
    return store


def write(store: Store, entries: dict[str, bytes | None], expires_ms: int = 0) -> Position:
    """One request in a commit of its own; None deletes."""
    batch = store.batch()
    try:
        tx = batch.transaction()
        change(tx, entries, expires_ms)
        position = batch.accept(tx)
        batch.commit()
    except BaseException:
        batch.abort()
        raise
    return position


def change(tx: Transaction, entries: dict[str, bytes | None], expires_ms: int = 0) -> None:
    space = Space(tx, b"s", MOUNT)
    for name, value in entries.items():
        if value is None:
            space.delete(name)
        else:
            space.put(name, value, expires_ms)


def contents(store: Store) -> dict[str, bytes]:
    with store.snapshot() as view:
        space = Space(view, b"s", MOUNT)
        return {name: space.get(name) or b"" for name in space.names()}
