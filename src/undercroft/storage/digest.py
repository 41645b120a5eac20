"""The digest tree: what a cluster holds, as 16 bytes, comparable with another cluster's.

A leaf is an entry's AEAD tag (it already authenticates key name, nonce and value); a bucket is the
XOR of its leaves, a mount the XOR of its buckets, the root a hash over named mounts. One write
costs a few XORs, in any order. Own entries (`n/`) are no part of it: they never travel.

The tree lives in the writer's memory. Every so many records the parts that changed are written, in
an ordinary commit, with the sequence number they stand for; at start the rest is rolled forward
from the log (`store.py`).
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

from undercroft.storage.keys import HEAD_BYTES, OWN

BUCKETS: Final = 65_536
CHUNK_BUCKETS: Final = 256  # buckets per stored part: 4 KiB
LEAF_BYTES: Final = 16


class Delta(NamedTuple):
    """One entry changed: its full key, the leaf it had and the leaf it has (zeros: none)."""

    key: bytes
    old: bytes
    new: bytes


def bucket_of(key: bytes) -> int:
    return crc32(key) & (BUCKETS - 1)


class DigestTree:
    """`apply` follows every commit, so the tree never holds what a commit did not."""

    def __init__(self) -> None:
        # keyspace + mount id -> bucket -> XOR of its leaves; buckets of value 0 are left out
        self.mounts: dict[bytes, dict[int, int]] = {}
        self._changed: set[tuple[bytes, int]] = set()

    def apply(self, deltas: Iterable[Delta]) -> None:
        for key, old, new in deltas:
            head, bucket = key[:HEAD_BYTES], bucket_of(key)
            if head[:1] == OWN:
                continue
            buckets = self.mounts.get(head)
            if buckets is None:
                buckets = self.mounts[head] = {}
            value = buckets.get(bucket, 0) ^ int.from_bytes(old, "big") ^ int.from_bytes(new, "big")
            if value:
                buckets[bucket] = value
            else:
                buckets.pop(bucket, None)
            self._changed.add((head, bucket // CHUNK_BUCKETS))

    def mount(self, head: bytes) -> bytes:
        """The digest of one mount in one keyspace."""
        value = 0
        for bucket in self.mounts.get(head, {}).values():
            value ^= bucket
        return value.to_bytes(LEAF_BYTES, "big")

    def root(self, keyspaces: bytes) -> bytes:
        """The root over all mounts of the given keyspaces, e.g. b"s" or b"sl"."""
        root = 0
        for head, buckets in self.mounts.items():
            if buckets and head[:1] in keyspaces:
                named = blake2b(head + self.mount(head), digest_size=LEAF_BYTES).digest()
                root ^= int.from_bytes(named, "big")
        return root.to_bytes(LEAF_BYTES, "big")

    # persistence

    def changed_chunks(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Name and content of every part that changed since `saved`; None: it is empty now."""
        for head, chunk in self._changed:
            buckets, start = self.mounts.get(head, {}), chunk * CHUNK_BUCKETS
            values = [buckets.get(b, 0) for b in range(start, start + CHUNK_BUCKETS)]
            packed = (
                b"".join(v.to_bytes(LEAF_BYTES, "big") for v in values) if any(values) else None
            )
            yield head + bytes((chunk,)), packed

    def saved(self) -> None:
        """The changed parts have been committed."""
        self._changed.clear()

    def load(self, name: bytes, packed: bytes) -> None:
        """Take one stored part."""
        head, start = name[:HEAD_BYTES], name[HEAD_BYTES] * CHUNK_BUCKETS
        buckets = self.mounts.setdefault(head, {})
        for at in range(CHUNK_BUCKETS):
            leaf = packed[at * LEAF_BYTES : (at + 1) * LEAF_BYTES]
            value = int.from_bytes(leaf, "big")
            if value:
                buckets[start + at] = value

    def same_as(self, other: "DigestTree") -> bool:
        """Bucket by bucket."""
        mine = {head: buckets for head, buckets in self.mounts.items() if buckets}
        theirs = {head: buckets for head, buckets in other.mounts.items() if buckets}
        return mine == theirs
