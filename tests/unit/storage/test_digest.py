"""The digest tree against a plain computation, for mounts of every size, stored and loaded."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.storage.stores import MOUNT, open_store, write
from undercroft.errors import Corrupt
from undercroft.storage.digest import BUCKETS, Delta, DigestTree, bucket_of
from undercroft.storage.wal import NO_TAG

HEADS = [b"s" + MOUNT, b"s" + bytes(16), b"l" + MOUNT]
KEYS = st.tuples(st.sampled_from(HEADS), st.binary(max_size=3)).map(b"".join)
LEAVES = st.binary(min_size=16, max_size=16)


def put_all(entries: dict[bytes, bytes]) -> DigestTree:
    tree = DigestTree()
    tree.apply(Delta(key, NO_TAG, leaf) for key, leaf in entries.items())
    return tree


def stored(tree: DigestTree, before: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What the disk holds after a checkpoint."""
    after = dict(before)
    for name, packed in tree.changed_nodes():
        after.pop(name, None)
        if packed is not None:
            after[name] = packed
    tree.saved()
    return after


def loaded(parts: dict[bytes, bytes]) -> DigestTree:
    tree = DigestTree()
    for name, packed in parts.items():
        tree.load(name, packed)
    return tree


@settings(deadline=None)
@given(history=st.lists(st.tuples(KEYS, st.none() | LEAVES), max_size=40), cut=st.integers(0, 40))
def test_any_history_ends_in_the_tree_of_what_is_left(
    history: list[tuple[bytes, bytes | None]], cut: int
) -> None:
    tree, model, parts = DigestTree(), dict[bytes, bytes](), dict[bytes, bytes]()
    for number, (key, leaf) in enumerate(history):
        if number == cut:
            parts = stored(tree, parts)
        tree.apply([Delta(key, model.get(key, NO_TAG), leaf or NO_TAG)])
        model[key] = leaf or NO_TAG
        tree.root(b"sl")  # asked at any time, it remembers nothing wrong
    plain = put_all(model)
    assert tree.same_as(plain)
    for spaces in (b"s", b"l", b"sl"):
        assert tree.root(spaces) == plain.root(spaces)
    parts = stored(tree, parts)
    assert loaded(parts).same_as(plain)
    assert loaded(parts).root(b"sl") == plain.root(b"sl")


def large() -> dict[bytes, bytes]:
    dice = random.Random(7)
    return {HEADS[0] + str(n).encode(): dice.randbytes(16) for n in range(20_000)}


def test_a_mount_of_many_entries_counts_like_one_of_few() -> None:
    entries = large()
    tree = put_all(entries)
    buckets: dict[int, int] = {}
    for key, leaf in entries.items():
        buckets[bucket_of(key)] = buckets.get(bucket_of(key), 0) ^ int.from_bytes(leaf, "big")
    total = 0
    for value in buckets.values():
        total ^= value
    assert int.from_bytes(tree.mount(HEADS[0]), "big") == total
    for node in (0, 17, 255):
        packed = tree.buckets(HEADS[0], node)
        values = [int.from_bytes(packed[n * 16 : n * 16 + 16], "big") for n in range(256)]
        assert values == [buckets.get(node * 256 + n, 0) for n in range(256)]
    parts = stored(tree, {})
    assert loaded(parts).same_as(tree)
    tree.apply(Delta(key, leaf, NO_TAG) for key, leaf in entries.items())
    assert tree.root(b"s") == DigestTree().root(b"s")
    assert stored(tree, parts) == {}
    assert tree.heads(b"s") == {}


def test_two_trees_are_told_apart_from_the_root_down_to_the_bucket() -> None:
    entries = large()
    mine, theirs = put_all(entries), put_all(entries)
    key = HEADS[0] + b"17"
    theirs.apply([Delta(key, entries[key], bytes(15) + b"\x01")])
    assert mine.root(b"s") != theirs.root(b"s")
    assert mine.root(b"l") == theirs.root(b"l")
    ours, others = mine.nodes(HEADS[0]), theirs.nodes(HEADS[0])
    nodes = [n for n in range(256) if ours[n * 16 :][:16] != others[n * 16 :][:16]]
    assert nodes == [bucket_of(key) // 256]
    ours, others = mine.buckets(HEADS[0], nodes[0]), theirs.buckets(HEADS[0], nodes[0])
    buckets = [n for n in range(256) if ours[n * 16 :][:16] != others[n * 16 :][:16]]
    assert [nodes[0] * 256 + bucket for bucket in buckets] == [bucket_of(key)]


def test_what_is_in_a_bucket_comes_from_the_entries(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    names = [str(n) for n in range(50)] + ["long/" + "x" * 600]
    write(store, dict.fromkeys(names, b"x"))
    head = b"s" + MOUNT
    wanted = frozenset(bucket_of(head + name.encode()) for name in ("3", names[-1]))
    with store.snapshot() as view:
        found = dict(view.leaves(head, wanted))
    assert (
        {head + b"3", head + names[-1].encode()}
        <= found.keys()
        < {head + n.encode() for n in names}
    )
    for bucket in wanted:
        value = 0
        for key, leaf in found.items():
            value ^= int.from_bytes(leaf, "big") if bucket_of(key) == bucket else 0
        packed = store.digests.buckets(head, bucket // 256)
        assert packed[bucket % 256 * 16 :][:16] == value.to_bytes(16, "big")


def test_a_stored_part_that_was_altered_or_moved_does_not_load() -> None:
    parts = stored(put_all(large()), {})
    (first, packed), (second, _) = list(parts.items())[:2]
    for name, content in (
        (first, packed[:-1] + bytes((packed[-1] ^ 1,))),
        (first, packed[:5] + b"\xff" + packed[6:]),
        (second, packed),
        (first, b""),
    ):
        with pytest.raises(Corrupt):
            DigestTree().load(name, content)
    assert BUCKETS == 65_536
