"""The digest tree: what a cluster holds, as 16 bytes, comparable with another cluster's.

A leaf is an entry's AEAD tag (it already authenticates key name, nonce and value). A mount has
65,536 buckets, chosen by the CRC of the full key; a bucket is the XOR of its leaves, one of the
256 nodes above the XOR of its 256 buckets, the mount the XOR of its nodes, the root the XOR of the
mounts' hashes. One write costs a few XORs, in any order. Own entries (`n/`) are no part of it:
they never travel.

The tree lives in the writer's memory. Every so often the nodes that changed are written, in an
ordinary commit, with the position they stand for; at start the rest is rolled forward from the log
(`store.py`).
"""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from undercroft.errors import Corrupt
from undercroft.storage.keys import HEAD_BYTES, LOCAL, OWN, SHARED
from undercroft.storage.turns import in_turns

NODES: Final = 256
NODE_BUCKETS: Final = 256
BUCKETS: Final = NODES * NODE_BUCKETS
LEAF_BYTES: Final = 16
NODE_BYTES: Final = NODE_BUCKETS * LEAF_BYTES

# A dictionary costs about 180 bytes a bucket in use, the plain array 1 MiB in all.
_SPARSE_MAX: Final = 4096
_EMPTY_NODE: Final = bytes(NODE_BYTES)
_DENSE: Final = b"\x00"
_SPARSE: Final = b"\x01"
_SPARSE_PAIR: Final = 1 + LEAF_BYTES
_TURN: Final = 128  # leaves: a tenth of a millisecond
_CHECK: Final = Struct(">I")


class Delta(NamedTuple):
    """One entry changed: its full key, the leaf it had and the leaf it has (zeros: none)."""

    key: bytes
    old: bytes
    new: bytes


def bucket_of(key: bytes) -> int:
    return crc32(key) & (BUCKETS - 1)


class MountDigest:
    """The buckets of one mount in one keyspace: a dictionary while few are in use, then an array.

    Invariant: `total` is the XOR of all buckets; `changed` are the nodes that no checkpoint has.
    """

    __slots__ = ("_array", "_few", "changed", "total")

    def __init__(self) -> None:
        self._few: dict[int, int] = {}
        self._array: bytearray | None = None
        self.total = 0
        self.changed: set[int] = set()

    def toggle(self, bucket: int, change: int) -> None:
        """XOR a change into a bucket."""
        self.total ^= change
        self.changed.add(bucket >> 8)
        if self._array is not None:
            at = bucket * LEAF_BYTES
            value = int.from_bytes(self._array[at : at + LEAF_BYTES], "big") ^ change
            self._array[at : at + LEAF_BYTES] = value.to_bytes(LEAF_BYTES, "big")
            return
        value = self._few.get(bucket, 0) ^ change
        if value:
            self._few[bucket] = value
            if len(self._few) > _SPARSE_MAX:
                self._spread()
        else:
            self._few.pop(bucket, None)

    def _spread(self) -> None:
        self._array = bytearray(BUCKETS * LEAF_BYTES)
        for bucket, value in self._few.items():
            at = bucket * LEAF_BYTES
            self._array[at : at + LEAF_BYTES] = value.to_bytes(LEAF_BYTES, "big")
        self._few.clear()

    def buckets(self, node: int) -> bytes:
        """The 256 buckets of a node, 16 bytes each."""
        if self._array is not None:
            return bytes(self._array[node * NODE_BYTES : (node + 1) * NODE_BYTES])
        out = bytearray(NODE_BYTES)
        for bucket, value in self._in_node(node):
            at = (bucket & 255) * LEAF_BYTES
            out[at : at + LEAF_BYTES] = value.to_bytes(LEAF_BYTES, "big")
        return bytes(out)

    def _in_node(self, node: int) -> Iterable[tuple[int, int]]:
        few, start = self._few, node * NODE_BUCKETS
        if len(few) <= NODE_BUCKETS:
            return [(b, v) for b, v in few.items() if b >> 8 == node]
        return [(b, few[b]) for b in range(start, start + NODE_BUCKETS) if b in few]

    def pack(self, node: int) -> bytes | None:
        """How a node is stored: as an array, or as pairs of bucket and value; None when empty."""
        if self._array is not None:
            dense = bytes(self._array[node * NODE_BYTES : (node + 1) * NODE_BYTES])
            return None if dense == _EMPTY_NODE else _DENSE + dense
        pairs = [
            bytes((bucket & 255,)) + value.to_bytes(LEAF_BYTES, "big")
            for bucket, value in self._in_node(node)
        ]
        return _SPARSE + b"".join(pairs) if pairs else None

    def load(self, node: int, packed: bytes) -> None:
        """Take what `pack` gave, into a node that is empty."""
        if packed[:1] == _DENSE:
            if self._array is None:
                self._spread()
                assert self._array is not None
            self._array[node * NODE_BYTES : (node + 1) * NODE_BYTES] = packed[1:]
            self.total ^= _xor(packed[1:])
            return
        changed = node in self.changed
        for at in range(1, len(packed), _SPARSE_PAIR):
            value = int.from_bytes(packed[at + 1 : at + _SPARSE_PAIR], "big")
            self.toggle(node * NODE_BUCKETS + packed[at], value)
        if not changed:
            self.changed.discard(node)

    def content(self) -> dict[int, int]:
        """Every bucket in use."""
        if self._array is None:
            return self._few
        leaves = (
            self._array[at : at + LEAF_BYTES] for at in range(0, len(self._array), LEAF_BYTES)
        )
        return {n: value for n, leaf in enumerate(leaves) if (value := int.from_bytes(leaf, "big"))}

    def same_as(self, other: "MountDigest") -> bool:
        """Bucket by bucket: the same damage to two entries cancels in `total`."""
        if self._array is None or other._array is None:
            return self.content() == other.content()
        return self._array == other._array

    def nodes(self) -> bytes:
        """The 256 nodes, 16 bytes each."""
        return b"".join(_xor(self.buckets(n)).to_bytes(LEAF_BYTES, "big") for n in range(NODES))


class DigestTree:
    """`apply` follows every commit, so the tree never holds what a commit did not."""

    def __init__(self) -> None:
        self._mounts: dict[bytes, MountDigest] = {}  # by keyspace + mount id
        self._named: dict[bytes, int] = {}  # hash of the mount's digest under its name
        self._roots: dict[bytes, int] = {}  # by keyspace: XOR of `_named`
        self._unnamed: set[bytes] = set()  # mounts that changed since

    def apply(self, deltas: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        number, last = int.from_bytes, b""
        mount = MountDigest()
        for key, old, new in in_turns(deltas, _TURN):
            head = key[:HEAD_BYTES]
            if head != last:
                if head[:1] == OWN:
                    continue
                mount, last = self._changing(head), head
            mount.toggle(crc32(key) & 0xFFFF, number(old, "big") ^ number(new, "big"))

    def _changing(self, head: bytes) -> MountDigest:
        self._unnamed.add(head)
        mount = self._mounts.get(head)
        if mount is None:
            mount = self._mounts[head] = MountDigest()
        return mount

    # comparing with another cluster

    def root(self, keyspaces: bytes) -> bytes:
        """The root over all mounts of the given keyspaces, e.g. b"s" or b"sl"."""
        for head in self._unnamed:
            found = self._mounts.get(head)
            total = found.total if found else 0
            named = 0
            if total:
                hashed = blake2b(head + total.to_bytes(LEAF_BYTES, "big"), digest_size=LEAF_BYTES)
                named = int.from_bytes(hashed.digest(), "big")
            space = head[:1]
            self._roots[space] = self._roots.get(space, 0) ^ self._named.get(head, 0) ^ named
            self._named[head] = named
        self._unnamed.clear()
        root = 0
        for space, value in self._roots.items():
            if space in keyspaces:
                root ^= value
        return root.to_bytes(LEAF_BYTES, "big")

    def heads(self, keyspaces: bytes) -> dict[bytes, bytes]:
        """Digest by keyspace + mount id, of every mount that holds anything."""
        return {
            head: mount.total.to_bytes(LEAF_BYTES, "big")
            for head, mount in self._mounts.items()
            if mount.total and head[:1] in keyspaces
        }

    def mount(self, head: bytes) -> bytes:
        """The digest of one mount in one keyspace."""
        found = self._mounts.get(head)
        return found.total.to_bytes(LEAF_BYTES, "big") if found else bytes(LEAF_BYTES)

    def nodes(self, head: bytes) -> bytes:
        """A mount's 256 nodes, 16 bytes each."""
        found = self._mounts.get(head)
        return found.nodes() if found else bytes(NODES * LEAF_BYTES)

    def buckets(self, head: bytes, node: int) -> bytes:
        """A node's 256 buckets, 16 bytes each; what is in them, `Snapshot.leaves` tells."""
        found = self._mounts.get(head)
        return found.buckets(node) if found else _EMPTY_NODE

    def differing(self, other: "DigestTree", keyspaces: bytes = SHARED + LOCAL) -> list[bytes]:
        """The mounts of which some bucket differs, as `heads` names them."""
        none = MountDigest()
        return [
            head
            for head in sorted(self._mounts.keys() | other._mounts.keys())
            if head[:1] in keyspaces
            and not self._mounts.get(head, none).same_as(other._mounts.get(head, none))
        ]

    def same_as(self, other: "DigestTree") -> bool:
        return not self.differing(other)

    # persistence

    def changed_nodes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Name and content of every node that changed since `saved`; None: it is empty now."""
        for head, mount in self._mounts.items():
            for node in mount.changed:
                name = head + bytes((node,))
                packed = mount.pack(node)
                yield name, packed and packed + _CHECK.pack(crc32(name + packed))

    def saved(self) -> None:
        """The changed nodes have been committed; mounts that are empty now are forgotten."""
        for head, mount in list(self._mounts.items()):
            mount.changed.clear()
            if not mount.total and not mount.content():
                del self._mounts[head]

    def touch(self, name: bytes) -> None:
        """Have a stored node written, or removed, by the next checkpoint."""
        self._mounts.setdefault(name[:HEAD_BYTES], MountDigest()).changed.add(name[HEAD_BYTES])

    def touch_all(self) -> None:
        """Have every node written by the next checkpoint."""
        for mount in self._mounts.values():
            mount.changed.update(range(NODES))

    def load(self, name: bytes, packed: bytes) -> None:
        """Take one stored node. Raises Corrupt when it is not as it was stored."""
        body, check = packed[:-4], packed[-4:]
        if len(name) != HEAD_BYTES + 1 or check != _CHECK.pack(crc32(name + body)):
            raise Corrupt("a stored part of the digest tree is damaged")
        self._changing(name[:HEAD_BYTES]).load(name[HEAD_BYTES], body)


def _xor(leaves: bytes) -> int:
    """The XOR of a power of two of leaves: halves are folded onto each other."""
    value, bits = int.from_bytes(leaves, "big"), len(leaves) * 8
    while bits > LEAF_BYTES * 8:
        bits //= 2
        value = (value >> bits) ^ (value & ((1 << bits) - 1))
    return value
