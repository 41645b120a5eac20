"""Looking whether the disk still holds what was written: a secondary has somebody to get it from.

Digests follow the log, so they do not notice when a page goes bad behind the server's back. A scrub
walks over the shared entries while others write, opens each, and adds their leaves up anew. Where
the sum of a bucket is not what the digests say they are set right, so that the comparison of roots
sees it; and the entries of that bucket, like those that do not open, are had from the primary.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import msgspec

from undercroft.errors import Corrupt
from undercroft.replication.state import StoreState
from undercroft.storage.digest import LEAF_BYTES, NODE_BUCKETS, NODES, DigestTree, bucket_of
from undercroft.storage.keys import HEAD_BYTES, SHARED, stored_key
from undercroft.storage.record import open_record, parse_head, tag_of
from undercroft.storage.wal import NO_TAG

Correction = tuple[bytes, bytes]  # a key of the bucket that is off, and what by

SLICE: Final = 500  # entries looked at in one go: two or three milliseconds


class Suspects(msgspec.Struct):
    """What of one mount is to be had anew."""

    buckets: set[int] = msgspec.field(default_factory=set)
    damaged: set[bytes] = msgspec.field(default_factory=set)  # keys of entries that do not open


class Scrub:
    """One pass, in slices. The state tells it of what changes behind it (`StoreState.scrub`)."""

    def __init__(self, state: StoreState) -> None:
        self.entries = 0
        self.suspects: dict[bytes, Suspects] = {}
        self.corrections: list[Correction] = []
        self.aborted = False  # the digests were read anew meanwhile: what was added up is moot
        self._state = state
        self._tree = DigestTree()
        self._at = b""  # the last stored key that was looked at
        state.scrub = self

    def changed(self, changes: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Leaves of the log: what lies behind us already changes our sums, too."""
        self._tree.apply([change for change in changes if stored_key(change[0]) <= self._at])

    def step(self) -> bool:
        """A slice. Answers whether there is more. Raises Corrupt when it is no sequence of entries
        any more that it walks over: a page is gone.
        """
        state = self._state
        with state.store.snapshot() as view:
            if self.aborted or not state.level(view):
                state.scrub, self.aborted = None, True
                return False
            cursor = view.txn.cursor(state.store.data)
            found = cursor.set_range(self._at or SHARED)
            if found and cursor.key() == self._at:
                found = cursor.next()
            left = SLICE
            while found:
                stored, record = cursor.item()
                if stored <= self._at or stored[:1] != SHARED:  # nothing comes after what is shared
                    state.scrub = None
                    raise Corrupt("entries of the store are out of order")
                if not left:
                    return True
                left -= 1
                self._look(stored, record)
                self._at = stored
                found = cursor.next()
            self._compare()
        state.scrub = None
        return False

    def _look(self, stored: bytes, record: bytes) -> None:
        self.entries += 1
        try:
            full = parse_head(stored, record).full_key
        except Corrupt:
            full = stored  # a long name that went with its head is missing from its bucket, then
        sound = len(stored) >= HEAD_BYTES
        try:
            open_record(self._state.store.keyring, full, record)
        except Corrupt:
            sound = False
        if len(full) >= HEAD_BYTES:
            self._tree.apply([(full, NO_TAG, tag_of(record).rjust(LEAF_BYTES, b"\0"))])
        if not sound:
            suspects = self._of(full[:HEAD_BYTES])
            suspects.damaged.add(full)
            suspects.buckets.add(bucket_of(full))

    def _of(self, head: bytes) -> Suspects:
        return self.suspects.setdefault(head, Suspects())

    def _compare(self) -> None:
        for head in self._state.differing(self._tree):
            ours, theirs = partial(self._tree.buckets, head), partial(self._state.buckets, head)
            for key, off in off_by(head, ours, theirs):
                self.corrections.append((key, off))
                self._of(head).buckets.add(bucket_of(key))


def off_by(
    head: bytes, found: Callable[[int], bytes], believed: Callable[[int], bytes]
) -> list[Correction]:
    """Where the buckets of a mount differ, node by node."""
    off: dict[int, bytes] = {}
    for node in range(NODES):
        mine, theirs = found(node), believed(node)
        for number in range(NODE_BUCKETS if mine != theirs else 0):
            at = slice(number * LEAF_BYTES, (number + 1) * LEAF_BYTES)
            if mine[at] != theirs[at]:
                by = int.from_bytes(mine[at], "big") ^ int.from_bytes(theirs[at], "big")
                off[node * NODE_BUCKETS + number] = by.to_bytes(LEAF_BYTES, "big")
    keys = _keys_in(head, set(off))
    return [(keys[bucket], by) for bucket, by in off.items()]


def _keys_in(head: bytes, buckets: set[int]) -> dict[int, bytes]:
    """Some key of each bucket: corrections go by keys. Some 65,000 tries for one bucket, ten times
    that for all of them, half a second: it is seldom wanted.
    """
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < len(buckets):
        key = head + b"scrub/%d" % number
        bucket = bucket_of(key)
        if bucket in buckets:
            found.setdefault(bucket, key)
        number += 1
    return found
