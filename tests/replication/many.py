"""A store with many entries: written past the API, which would take minutes."""

import base64
from pathlib import Path

from tests.support.undercroft import Undercroft, restart
from undercroft.barrier.seal import SealManager
from undercroft.config.settings import Seal
from undercroft.request.mounts import Mount
from undercroft.storage.keys import SHARED, SYSTEM, key
from undercroft.storage.location import location
from undercroft.storage.store import Store
from undercroft.storage.view import Space

_PER_COMMIT = 5000


def plant(server: Undercroft, directory: Path, mount: str, count: int) -> None:
    """`n0`, `n1` … in a mount of KV v1, while the server is stopped; then it is started again."""
    server.stop()
    store = Store.open(location(directory / "data"), writable=True)
    try:
        _unseal(store, base64.b64decode(server.keys[0]))
        with store.snapshot() as view:
            mounts = view.read_all(key(SHARED, SYSTEM, "mounts/"), Mount)
        (mount_id,) = [found.id for found in mounts if found.path == mount]
        for first in range(0, count, _PER_COMMIT):
            batch = store.batch()
            tx = batch.transaction()
            for number in range(first, min(first + _PER_COMMIT, count)):
                Space(tx, SHARED, mount_id).put(f"d/n{number}", b'{"v":%d}' % number)
            batch.accept(tx)
            batch.commit()
    finally:
        store.close()
    restart(server, directory)


def _unseal(store: Store, share: bytes) -> None:
    seal = SealManager(
        Seal(),
        on_keyring=store.set_keyring,
        on_sealed=lambda: None,
        on_progress=lambda: None,
        bootstrap=lambda tx, now_ms: "",
    )
    batch = store.batch()
    tx = batch.transaction()
    seal.unseal(tx, share)
    batch.abort()
    for opened in tx.after_commit:
        opened()
