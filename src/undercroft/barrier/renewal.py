"""Renewing the keys of an open barrier: new terms, by hand or by rule, and the count that rules.

A term is good for a number of encryptions (AES-GCM with random nonces) and, if one was set, for a
time. Like the seal, this decides by what the request's transaction reads, and changes memory once
the commit stands.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from undercroft.barrier.aead import NotOpened
from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.barrier.seal_store import (
    TERM_KEY,
    RotationPolicy,
    StoredKeyring,
    open_keyring,
    write_keyring,
)
from undercroft.errors import Corrupt, Sealed
from undercroft.storage.view import Snapshot, Transaction

# The count goes on record that often. What a crash forgets is far within the distance between
# OPERATIONS_MAX and the 2^32 that it keeps away from.
SAVE_COUNT: Final = 1 << 20
SAVE_MS: Final = 15 * 60 * 1000


class KeyStatus(msgspec.Struct, frozen=True):
    """Of the active term."""

    term: int
    installed_ms: int
    encryptions: int


class Renewal:
    """The keyring while the barrier is open; None while it is closed.

    `on_keyring` is told each keyring that comes into force.
    """

    def __init__(self, on_keyring: Callable[[Keyring], None]) -> None:
        self.keyring: Keyring | None = None
        self._on_keyring = on_keyring
        self._saved_ms: int | None = None  # None: the clock starts when `due` is asked first

    def __repr__(self) -> str:
        return f"<Renewal {self.keyring!r}>"

    def open(self, keyring: Keyring) -> None:
        self.keyring, self._saved_ms = keyring, None
        self._on_keyring(keyring)

    def close(self) -> None:
        self.keyring = None

    def opened(self) -> Keyring:
        """Raises Sealed."""
        if self.keyring is None:
            raise Sealed
        return self.keyring

    # what there is

    def key_status(self) -> KeyStatus:
        keyring = self.opened()
        active = keyring.active
        return KeyStatus(active.term, active.installed_ms, keyring.encryptions)

    def policy(self, view: Snapshot) -> RotationPolicy:
        return self._stored(view).rotation

    def due(
        self, view: Snapshot, now_ms: int, *, may_rotate: bool = True
    ) -> Callable[[Transaction, int], None] | None:
        """The change that is due now: a rotation, or the count; None while sealed, too.

        A secondary may not rotate: its primary does.
        """
        keyring = self.keyring
        if keyring is None:
            return None
        if self._saved_ms is None:
            self._saved_ms = now_ms
        stored = self._stored(view)
        if _is_worn(keyring, stored.rotation, now_ms):
            return self.rotate if may_rotate else None
        unsaved = keyring.encryptions - stored.encryptions
        late = unsaved > 0 and now_ms - self._saved_ms >= SAVE_MS
        return self.save_count if late or unsaved >= SAVE_COUNT else None

    # what changes

    def rotate(self, tx: Transaction, now_ms: int) -> None:
        """Add a term: from the commit on, everything is written under it. Raises Sealed.

        The number is a shared entry too: so it is the primary of a replication set that rotates.
        """
        stored, root_key = self._stored(tx), self.opened().root_key
        keyring = stored.keyring(root_key).rotated(now_ms)
        tx.put(TERM_KEY, msgspec.msgpack.encode(keyring.active.term))
        changed = msgspec.structs.replace(stored, terms=keyring.terms, encryptions=0)
        write_keyring(tx, changed, root_key)
        tx.after_commit.append(lambda: self._rotated(keyring))

    def adopt(
        self, tx: Transaction, terms: tuple[KeyTerm, ...], alternates: tuple[KeyTerm, ...]
    ) -> None:
        """Take over the terms of the primary of our replication set. Raises Sealed."""
        stored, root_key = self._stored(tx), self.opened().root_key
        before = stored.keyring(root_key)
        keyring = before.adopted(terms, alternates)
        if (keyring.terms, keyring.alternates) == (before.terms, before.alternates):
            return
        changed = msgspec.structs.replace(
            stored, terms=keyring.terms, alternates=keyring.alternates, encryptions=0
        )
        write_keyring(tx, changed, root_key)
        tx.after_commit.append(lambda: self._rotated(keyring))

    def _rotated(self, keyring: Keyring) -> None:
        if self.keyring is None:  # sealed by an earlier request of the same commit
            return
        self.open(keyring)

    def set_policy(self, tx: Transaction, policy: RotationPolicy) -> None:
        """Raises Sealed."""
        stored, root_key = self._stored(tx), self.opened().root_key
        write_keyring(tx, msgspec.structs.replace(stored, rotation=policy), root_key)

    def save_count(self, tx: Transaction, now_ms: int) -> None:
        """Put the count of encryptions on record, for the next process. Raises Sealed."""
        keyring, stored = self.opened(), self._stored(tx)
        if stored.terms[-1].term != keyring.active.term:  # rotated in this very commit
            return
        changed = msgspec.structs.replace(stored, encryptions=keyring.encryptions)
        write_keyring(tx, changed, keyring.root_key)

        def saved() -> None:
            self._saved_ms = now_ms

        tx.after_commit.append(saved)

    def _stored(self, view: Snapshot) -> StoredKeyring:
        """As the transaction has it: an earlier request of the same commit may have rotated."""
        try:
            return open_keyring(view, self.opened().root_key)
        except NotOpened:
            raise Corrupt("the stored keyring does not open under its root key") from None


def _is_worn(keyring: Keyring, policy: RotationPolicy, now_ms: int) -> bool:
    """By count or by time, as `sys/rotate/config` says."""
    if not policy.enabled:
        return False
    interval_ms = policy.interval_seconds * 1000
    old = bool(interval_ms) and now_ms - keyring.active.installed_ms >= interval_ms
    return old or keyring.encryptions >= policy.max_operations
