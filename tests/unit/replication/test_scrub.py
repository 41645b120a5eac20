"""Looking whether a store holds what was written, while others write."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.node import open_store
from tests.unit.storage.shared import assert_sound, committed
from tests.unit.storage.stores import MOUNT, write
from undercroft.errors import Corrupt
from undercroft.replication import scrub as module
from undercroft.replication import state as states
from undercroft.replication.scrub import Scrub
from undercroft.replication.state import StoreState
from undercroft.storage.digest import bucket_of
from undercroft.storage.keys import SHARED, stored_key
from undercroft.storage.store import Store

HEAD = SHARED + MOUNT
LONG = "long/" + "x" * 600


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path)
    for number in range(30):
        write(opened, {f"n{number}": b"%d" % number})
    write(opened, {LONG: b"1"})
    yield opened
    opened.close()


def through(store: Store, between: Callable[[], None] = lambda: None) -> Scrub:
    state = StoreState(store)
    scrub = Scrub(state)
    while scrub.step():
        between()
    return scrub


def tamper(store: Store, name: str, raw: bytes | None) -> None:
    """Past the store, as a bad disk would."""
    key = stored_key(HEAD + name.encode())
    with store.env.begin(write=True, db=store.data) as txn:
        if raw is None:
            txn.delete(key)
        else:
            txn.put(key, raw)


def raw_of(store: Store, name: str) -> bytes:
    with store.env.begin(db=store.data) as txn:
        return bytes(txn.get(stored_key(HEAD + name.encode())) or b"")


def test_a_sound_store_has_no_suspects(store: Store) -> None:
    scrub = through(store)
    assert (scrub.suspects, scrub.corrections, scrub.aborted) == ({}, [], False)
    assert scrub.entries >= 31


CHANGES = st.dictionaries(
    st.sampled_from([*(f"n{number}" for number in range(0, 30, 3)), "a", "z", LONG]),
    st.one_of(st.none(), st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(CHANGES, max_size=12), size=st.integers(1, 9))
def test_whatever_is_written_meanwhile_a_sound_store_has_no_suspects(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[dict[str, bytes | None]],
    size: int,
) -> None:
    opened = open_store(tmp_path_factory.mktemp("store"))
    left = list(rounds)
    before = module.SLICE
    module.SLICE = size  # type: ignore[misc]
    try:
        for number in range(30):
            write(opened, {f"n{number}": b"%d" % number})

        def between() -> None:
            if left:
                write(opened, left.pop())

        scrub = through(opened, between)
        assert (scrub.suspects, scrub.corrections, scrub.aborted) == ({}, [], False)
    finally:
        module.SLICE = before  # type: ignore[misc]
        opened.close()


@pytest.mark.parametrize("name", ["n7", LONG])
@pytest.mark.parametrize("at", [0, 1, 12, -1], ids=["format", "flags", "value", "tag"])
def test_an_entry_that_does_not_open_is_suspect(store: Store, name: str, at: int) -> None:
    raw = bytearray(raw_of(store, name))
    raw[at] ^= 8
    tamper(store, name, bytes(raw))
    (suspects,) = through(store).suspects.values()
    assert len(suspects.damaged) == 1
    assert suspects.buckets


def test_two_entries_with_the_same_damage_do_not_cancel_each_other(store: Store) -> None:
    for name in ("n7", "n8"):
        raw = bytearray(raw_of(store, name))
        raw[-1] ^= 8
        tamper(store, name, bytes(raw))
    scrub = through(store)
    assert len(scrub.corrections) == 2
    assert {bucket_of(key) for key, _ in scrub.corrections} == scrub.suspects[HEAD].buckets


def test_where_an_entry_is_missing_or_too_much_its_bucket_is_suspect(store: Store) -> None:
    tamper(store, "n3", None)
    tamper(store, "alien", raw_of(store, "n4"))
    (suspects,) = through(store).suspects.values()
    assert suspects.buckets == {bucket_of(HEAD + b"n3"), bucket_of(HEAD + b"alien")}
    assert suspects.damaged == {HEAD + b"alien"}


def test_with_its_corrections_the_digests_are_what_the_entries_say(store: Store) -> None:
    tamper(store, "n3", None)
    tamper(store, "n5", raw_of(store, "n6"))
    scrub = through(store)
    assert scrub.corrections
    state = StoreState(store)
    committed(store, lambda batch: batch.correct_digests(scrub.corrections))
    state.advance()
    assert state.root() == store.digests.root(SHARED)
    again = through(store)
    assert again.corrections == []
    assert [s.damaged for s in again.suspects.values()] == [{HEAD + b"n5"}]


def test_a_correction_counts_however_much_is_written_before_it_is_made(store: Store) -> None:
    tamper(store, "n3", None)
    scrub = through(store)
    write(store, {"n3": b"again", "n8": b"other", "n9": None})
    committed(store, lambda batch: batch.correct_digests(scrub.corrections))
    assert through(store).corrections == []
    assert_sound(store)


def test_a_correction_lasts_over_a_restart(tmp_path: Path) -> None:
    opened = open_store(tmp_path)
    write(opened, {"a": b"1", "b": b"2"})
    tamper(opened, "a", None)
    scrub = through(opened)
    committed(opened, lambda batch: batch.correct_digests(scrub.corrections))
    opened.close()
    again = open_store(tmp_path)
    assert_sound(again)
    again.close()


@pytest.mark.parametrize("key", [b"t", b"\xff" * 40, b"z" + HEAD])
def test_what_is_no_sequence_of_shared_entries_is_beyond_healing(store: Store, key: bytes) -> None:
    with store.env.begin(write=True, db=store.data) as txn:
        txn.put(key, b"noise of a lost page")
    with pytest.raises(Corrupt, match="out of order"):
        through(store)


def test_when_the_digests_are_read_anew_the_pass_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 5)
    monkeypatch.setattr(states, "_RELOAD", 3)

    def between() -> None:
        for number in range(5):
            write(store, {f"m{number}": b"x"})

    scrub = through(store, between)
    assert scrub.aborted
    assert not scrub.corrections
