"""What two states are compared by: roots, truncated sums, fingerprints. Pure functions."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

from undercroft.storage.digest import LEAF_BYTES, NODE_BUCKETS
from undercroft.storage.record import tag_of

SUM_BYTES: Final = 8
GROUP_BUCKETS: Final = 4096  # asked for at once: each question costs a walk over the mount


def root_of(heads: Mapping[bytes, bytes]) -> bytes:
    """The root over mounts by head and digest; the same as `DigestTree.root` gives."""
    root = 0
    for head, total in heads.items():
        named = blake2b(head + total, digest_size=LEAF_BYTES).digest()
        root ^= int.from_bytes(named, "big")
    return root.to_bytes(LEAF_BYTES, "big")


def fingerprint(record: bytes) -> bytes:
    """8 bytes that stand for an entry as it is: of its tag, which covers name, nonce and value."""
    return tag_of(record)[:SUM_BYTES]


def sums_of(buckets: bytes) -> bytes:
    """The first 8 bytes of each bucket of a node."""
    return b"".join([buckets[at : at + SUM_BYTES] for at in range(0, len(buckets), LEAF_BYTES)])


def differing_nodes(mine: bytes, theirs: bytes) -> bytes:
    """Numbers of the nodes that differ, a byte each."""
    return bytes(
        number
        for number in range(len(mine) // LEAF_BYTES)
        if mine[number * LEAF_BYTES : (number + 1) * LEAF_BYTES]
        != theirs[number * LEAF_BYTES : (number + 1) * LEAF_BYTES]
    )


def differing_buckets(node: int, mine: bytes, theirs: bytes) -> list[int]:
    """Buckets of a node whose sums differ."""
    return [
        node * NODE_BUCKETS + number
        for number in range(NODE_BUCKETS)
        if mine[number * SUM_BYTES : (number + 1) * SUM_BYTES]
        != theirs[number * SUM_BYTES : (number + 1) * SUM_BYTES]
    ]


def pack_buckets(buckets: Iterable[int]) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in buckets)


def unpack_buckets(packed: bytes) -> frozenset[int]:
    return frozenset(
        int.from_bytes(packed[at : at + 2], "big") for at in range(0, len(packed) - 1, 2)
    )


def unpack_sums(packed: bytes) -> set[bytes]:
    return {packed[at : at + SUM_BYTES] for at in range(0, len(packed), SUM_BYTES)}
