"""How a process that is not the writer follows a store: position at once, digests in time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.node import open_store
from tests.unit.storage.stores import write
from undercroft.replication import state as module
from undercroft.replication.state import StoreState
from undercroft.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def grow(store: Store, count: int, first: int = 0) -> list[bytes]:
    """Answers the root after each."""
    roots = []
    for number in range(first, first + count):
        write(store, {f"n{number}": b"%d" % number})
        roots.append(store.digests.root(b"s"))
    return roots


def test_a_few_records_are_digested_as_they_come(store: Store) -> None:
    state = StoreState(store)
    *_, root = grow(store, 3)
    state.advance()
    assert (state.undigested, state.root()) == (0, root)


def test_a_bulk_is_digested_when_it_is_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    state = StoreState(store)
    grow(store, 10)
    state.advance()
    assert state.position() == store.extent.shared
    assert state.undigested == 10
    assert state.heads() == store.digests.heads(b"s")
    assert state.undigested == 0


def test_whoever_watches_a_place_is_told_the_root_of_just_that_place(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    state = StoreState(store)
    roots = grow(store, 10)
    first = store.extent.shared.seq - 9
    told: dict[int, bytes] = {}
    for seq in (first + 2, first + 7):
        state.watch_root(seq, lambda root, seq=seq: told.update({seq: root}))
    state.advance()
    assert told == {}
    state.digest()
    assert told == {first + 2: roots[2], first + 7: roots[7]}


def test_a_watcher_may_ask_for_the_digests(store: Store) -> None:
    state = StoreState(store)
    heads: list[object] = []
    roots = grow(store, 4)
    state.watch_root(store.extent.shared.seq - 1, lambda _: heads.append(state.heads()))
    state.advance()
    assert heads == [store.digests.heads(b"s")]
    assert state.root() == roots[-1]


def test_after_very_many_records_the_checkpoint_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 0)
    monkeypatch.setattr(module, "_RELOAD", 5)
    state = StoreState(store)
    told: list[bytes] = []
    roots = grow(store, 8)
    state.watch_root(store.extent.shared.seq - 3, told.append)
    state.watch_root(store.extent.shared.seq, told.append)
    state.advance()
    assert state.nodes(b"") == store.digests.nodes(b"")
    assert state.root() == roots[-1]
    assert told == [roots[-1]]
