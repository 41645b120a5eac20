"""A worker goes on to another store: nothing of the old one is served, what reads it still may."""

import gc
import os
import weakref
from pathlib import Path

import pytest

from tests.unit.node import committed
from tests.unit.pipeline_world import services
from undercroft.barrier.keyring import KEY_BYTES, Keyring
from undercroft.node.frames import State
from undercroft.node.state import NodeState
from undercroft.node.worker import Worker
from undercroft.request.mounts import Mount, new_mount_id
from undercroft.storage.keys import LOCAL, SYSTEM, key
from undercroft.storage.store import Store

ENTRY = key(LOCAL, SYSTEM, "which")
OPEN = NodeState(initialized=True, sealed=False)
SEALED = NodeState(initialized=True, sealed=True)


def make_store(directory: Path, keyring: Keyring, mount: str) -> None:
    """Every store made here has the same generation."""
    directory.mkdir(exist_ok=True)
    store = Store.open(directory, writable=True, durable=False)
    store.set_keyring(keyring)
    with committed(store) as tx:
        tx.put(ENTRY, mount.encode())
        services().mounts.put(tx, Mount(new_mount_id(), mount, "kv", "kv_1"))
    store.close()


@pytest.fixture(name="keyring")
def _keyring() -> Keyring:
    return Keyring.generate(0)


@pytest.fixture(name="worker")
def _worker(tmp_path: Path, keyring: Keyring) -> Worker:
    """Reading the store in the directory; `store-2` is beside it."""
    make_store(tmp_path, keyring, "old/")
    make_store(tmp_path / "store-2", keyring, "new/")
    worker = Worker(
        Store.open(tmp_path, writable=False),
        services(),
        str(tmp_path / "no writer"),
        store_name="",
        open_store=lambda name: Store.open(tmp_path / name, writable=False),
    )
    worker._on_state(State(1, OPEN, keyring.serialize(), ""))
    return worker


def mounted(worker: Worker) -> set[str]:
    with worker.store.snapshot() as view:
        return {mount.path for mount in worker.services.mounts.table(view).mounts.values()}


def test_what_was_cached_of_the_old_store_is_not_taken_for_the_new_ones(
    worker: Worker, keyring: Keyring
) -> None:
    assert mounted(worker) == {"old/"}
    worker._on_state(State(2, OPEN, keyring.serialize(), "store-2"))
    assert mounted(worker) == {"new/"}


def test_a_view_of_the_old_store_stays_readable_and_is_the_last_to_hold_it(
    tmp_path: Path, worker: Worker, keyring: Keyring
) -> None:
    before = worker.store
    view = before.snapshot()
    worker._on_state(State(2, OPEN, keyring.serialize(), "store-2"))
    (tmp_path / "data.mdb").unlink()
    assert view.get(ENTRY) == b"old/"
    view.txn.abort()
    gone = weakref.ref(before)
    del before, view
    gc.collect()
    assert gone() is None
    assert not [line for line in maps() if f"{tmp_path}/data.mdb" in line]


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def test_a_seal_takes_the_keys_of_a_store_that_was_left_behind_too(
    worker: Worker, keyring: Keyring
) -> None:
    before = worker.store
    held = keyring.secrets()
    worker._on_state(State(2, OPEN, Keyring.generate(0).serialize(), "store-2"))
    worker._on_state(State(3, SEALED, b"", "store-2"))
    assert worker.store.keyring is None
    assert before.keyring is None
    assert set(held) == {bytes(KEY_BYTES)}  # overwritten, wherever they were in this process


def test_a_seal_overwrites_the_keys_of_a_store_that_is_gone(
    worker: Worker, keyring: Keyring
) -> None:
    held = keyring.secrets()
    worker._on_state(State(2, OPEN, Keyring.generate(0).serialize(), "store-2"))
    worker._on_state(State(3, SEALED, b"", "store-2"))
    assert set(held) == {bytes(KEY_BYTES)}


def test_the_same_store_again_is_not_opened_again(worker: Worker, keyring: Keyring) -> None:
    before = worker.store
    worker._on_state(State(2, OPEN, keyring.serialize(), ""))
    assert worker.store is before


def test_a_worker_that_cannot_open_the_new_store_ends(worker: Worker, keyring: Keyring) -> None:
    """Rather than answer from a store that is no longer the node's."""
    pid = os.fork()
    if pid == 0:
        try:
            worker._on_state(State(2, OPEN, keyring.serialize(), "store-3"))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
