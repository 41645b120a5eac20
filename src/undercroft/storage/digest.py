"""The digest tree: what a cluster holds, as 16 bytes, comparable with another cluster's.

A leaf is an entry's AEAD tag; a bucket is the XOR of its leaves, a mount the XOR of its buckets,
so one write costs a few XORs in any order. One tree per keyspace and mount.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final
from zlib import crc32

from undercroft.storage.keys import HEAD_BYTES

BUCKETS: Final = 65_536


class DigestTree:
    """Kept in the writer's memory; `apply` follows every commit."""

    def __init__(self) -> None:
        self.mounts: dict[bytes, dict[int, int]] = {}  # keyspace + mount id -> bucket -> XOR

    def apply(self, deltas: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Each delta: full key, old tag, new tag (zeros where there is none)."""
        for key, old, new in deltas:
            buckets = self.mounts.setdefault(key[:HEAD_BYTES], {})
            bucket = crc32(key) & (BUCKETS - 1)
            change = int.from_bytes(old, "big") ^ int.from_bytes(new, "big")
            value = buckets.get(bucket, 0) ^ change
            if value:
                buckets[bucket] = value
            else:
                buckets.pop(bucket, None)

    def root(self, keyspaces: bytes) -> bytes:
        """The root over all mounts of the given keyspaces, e.g. b"s" or b"sl"."""
        root = 0
        for head, buckets in self.mounts.items():
            if head[:1] in keyspaces and buckets:
                value = 0
                for bucket in buckets.values():
                    value ^= bucket
                named = blake2b(head + value.to_bytes(16, "big"), digest_size=16).digest()
                root ^= int.from_bytes(named, "big")
        return root.to_bytes(16, "big")
