"""The keyring: numbered data keys, and the one AEAD that all stored values go through.

AES-256-GCM, random 96-bit nonces, the entry's key name (and record head) as associated data, so a
value moved to another name does not open. `encrypt` answers `term (4, big endian) | nonce (12) |
ciphertext | tag (16)`; the tag is also the entry's leaf in the digest tree.
"""

import os
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from undercroft.errors import Corrupt

KEY_BYTES: Final = 32
TERM_BYTES: Final = 4
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_BODY: Final = TERM_BYTES + NONCE_BYTES


@dataclass(frozen=True)
class KeyTerm:
    """One data key. Old terms stay, to read what was written under them."""

    term: int
    key: bytes = field(repr=False)
    installed_ms: int  # wall clock, Unix milliseconds


class _Serialized(msgspec.Struct, array_like=True):
    terms: list[tuple[int, bytes, int]]
    root_key: bytes


class Keyring:
    """All terms; the highest is active. Immutable but for its count: rotation makes a new one."""

    def __init__(self, terms: tuple[KeyTerm, ...], root_key: bytes) -> None:
        self.terms = terms
        self.root_key = root_key
        self.active = max(terms, key=lambda t: t.term)
        self.encryptions = 0  # by this process, under the active term, since it was loaded
        self._ciphers = {t.term.to_bytes(TERM_BYTES, "big"): AESGCM(t.key) for t in terms}
        self._active_term = self.active.term.to_bytes(TERM_BYTES, "big")
        self._active_encrypt = self._ciphers[self._active_term].encrypt

    def rotated(self, key: bytes, now_ms: int) -> "Keyring":
        """The same keyring with a new active term."""
        term = KeyTerm(self.active.term + 1, key, now_ms)
        return Keyring((*self.terms, term), self.root_key)

    def secrets(self) -> list[bytes]:
        """Every key, for `scrub` alone."""
        return [self.root_key, *(term.key for term in self.terms)]

    def serialize(self) -> bytes:
        """All of it, in clear: for the node's own processes, and to be sealed by the root key."""
        return msgspec.msgpack.encode(
            _Serialized([(t.term, t.key, t.installed_ms) for t in self.terms], self.root_key)
        )

    @classmethod
    def deserialize(cls, data: bytes) -> "Keyring":
        """Raises Corrupt."""
        try:
            held = msgspec.msgpack.decode(data, type=_Serialized)
        except msgspec.MsgspecError:
            raise Corrupt("the keyring does not parse") from None
        return cls(tuple(KeyTerm(*term) for term in held.terms), held.root_key)

    def __repr__(self) -> str:
        return f"<Keyring active_term={self.active.term}>"

    def encrypt(self, aad: bytes, plaintext: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        self.encryptions += 1
        return self._active_term + nonce + self._active_encrypt(nonce, plaintext, aad)

    def decrypt(self, aad: bytes, sealed: bytes) -> bytes:
        """The plaintext, or Corrupt: a wrong name, a flipped bit and a foreign term look alike."""
        cipher = self._ciphers.get(sealed[:TERM_BYTES])
        if cipher is None:
            raise Corrupt("a stored entry does not authenticate")
        try:
            return cipher.decrypt(sealed[TERM_BYTES:_BODY], sealed[_BODY:], aad)
        except InvalidTag:
            raise Corrupt("a stored entry does not authenticate") from None
