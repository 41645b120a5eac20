"""What the digests are off by, found over a snapshot while others write."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.node import open_store
from tests.unit.storage.shared import assert_sound, committed, write_beside
from tests.unit.storage.stores import MOUNT, write
from undercroft.replication import reindexing
from undercroft.replication.reindexing import Walk, corrections
from undercroft.replication.scrub import Correction
from undercroft.storage.digest import BUCKETS, DigestTree, bucket_of
from undercroft.storage.keys import LOCAL, SHARED, stored_key
from undercroft.storage.store import Store

HEAD = SHARED + MOUNT
LONG = "long/" + "x" * 600
NAMES = [*(f"n{number}" for number in range(30)), LONG]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = filled(tmp_path)
    yield opened
    opened.close()


def filled(directory: Path) -> Store:
    opened = open_store(directory)
    for name in NAMES:
        write(opened, {name: name.encode()})
    write_beside(opened, LOCAL, {"here": b"1", "too": b"2"})
    return opened


def tamper(store: Store, key: bytes, raw: bytes | None) -> None:
    """Past the store, as a bad disk would."""
    with store.env.begin(write=True, db=store.data) as txn:
        if raw is None:
            txn.delete(stored_key(key))
        else:
            txn.put(stored_key(key), raw)


def found(store: Store, meanwhile: list[dict[str, bytes | None]]) -> list[Correction]:
    with store.snapshot() as view:
        _, believed, _ = store.digests_of(view.txn)
        walk = Walk(store, view)
        while walk.step():
            if meanwhile:
                write(store, meanwhile.pop())
        for entries in meanwhile:
            write(store, entries)
        return corrections(believed, walk.tree)


def set_right(store: Store, off: list[Correction]) -> None:
    committed(store, lambda batch: batch.correct_digests(off))


CHANGES = st.dictionaries(
    st.sampled_from([*NAMES[::3], "a", "z", LONG]),
    st.one_of(st.none(), st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(
    meanwhile=st.lists(CHANGES, max_size=12),
    lost=st.sets(st.sampled_from(NAMES), max_size=5),
    size=st.integers(1, 9),
)
def test_whatever_is_written_meanwhile_the_digests_become_what_the_entries_say(
    tmp_path_factory: pytest.TempPathFactory,
    meanwhile: list[dict[str, bytes | None]],
    lost: set[str],
    size: int,
) -> None:
    opened, before = filled(tmp_path_factory.mktemp("store")), reindexing.SLICE
    reindexing.SLICE = size  # type: ignore[misc]
    try:
        for name in lost:
            tamper(opened, HEAD + name.encode(), None)
        off = found(opened, meanwhile)
        assert bool(off) == bool(lost)
        set_right(opened, off)
        assert_sound(opened)
    finally:
        reindexing.SLICE = before  # type: ignore[misc]
        opened.close()


def test_corrections_may_be_made_one_by_one_with_writes_between(store: Store) -> None:
    for name in NAMES[::2]:
        tamper(store, HEAD + name.encode(), None)
    off = found(store, [])
    assert len(off) > 10
    for number, one in enumerate(off):
        set_right(store, [one])
        write(store, {f"n{number}": b"again"})
    assert_sound(store)


def test_those_that_are_made_stay_when_the_rest_is_not(tmp_path: Path) -> None:
    opened = filled(tmp_path)
    for name in ("n1", "n2", "n3"):
        tamper(opened, HEAD + name.encode(), None)
    set_right(opened, found(opened, [])[:1])
    opened.close()
    again = open_store(tmp_path)
    left = found(again, [])
    assert len(left) == 2
    set_right(again, left)
    assert_sound(again)
    again.close()


def test_local_entries_are_covered_and_own_ones_are_not(store: Store) -> None:
    tamper(store, LOCAL + MOUNT + b"here", None)
    tamper(store, b"n" + MOUNT + b"own", b"\x01\x00" + bytes(range(40)))
    (key, _) = found(store, [])[0]
    assert key.startswith(LOCAL + MOUNT)
    assert bucket_of(key) == bucket_of(LOCAL + MOUNT + b"here")


def test_two_buckets_that_are_off_by_the_same_are_found(store: Store) -> None:
    """Their mount's digest is as it was: only bucket by bucket do they differ."""
    mine, theirs = DigestTree(), DigestTree()
    leaf = bytes(range(16))
    mine.apply([(HEAD + b"a", bytes(16), leaf)])
    theirs.apply([(HEAD + b"b", bytes(16), leaf)])
    assert mine.root(SHARED) == theirs.root(SHARED)
    assert {bucket_of(key) for key, _ in corrections(theirs, mine)} == {
        bucket_of(HEAD + b"a"),
        bucket_of(HEAD + b"b"),
    }


def test_every_bucket_can_be_corrected() -> None:
    """A store whose digests are lost altogether."""
    full = DigestTree()
    number = 0
    reached: set[int] = set()
    while len(reached) < BUCKETS:
        key = HEAD + b"some/%d" % number
        number += 1
        if bucket_of(key) not in reached:
            reached.add(bucket_of(key))
            full.apply([(key, bytes(16), b"\1" * 16)])
    off = corrections(DigestTree(), full)
    assert {bucket_of(key) for key, _ in off} == reached
    assert len(off) == BUCKETS


def test_what_does_not_open_is_counted(store: Store) -> None:
    with store.env.begin(db=store.data) as txn:
        raw = bytearray(txn.get(HEAD + b"n7") or b"")
    raw[12] ^= 1
    tamper(store, HEAD + b"n7", bytes(raw))
    with store.snapshot() as view:
        walk = Walk(store, view)
        while walk.step():
            pass
    assert walk.unreadable == 1
