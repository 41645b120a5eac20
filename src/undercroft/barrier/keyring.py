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

from undercroft.errors import Corrupt, Internal

KEY_BYTES: Final = 32
TERM_BYTES: Final = 4
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_BODY: Final = TERM_BYTES + NONCE_BYTES
_FORMAT: Final = b"\x01"


class UnknownTerm(Corrupt):
    """Sealed under a term that this keyring does not have.

    In a worker that is a rotation which it has not heard of yet: the request moves one hop up. In
    the writer it is a damaged or foreign entry, like any other that does not open.
    """


@dataclass(frozen=True)
class KeyTerm:
    """One data key. Old terms stay, to read what was written under them."""

    term: int
    key: bytes = field(repr=False)
    installed_ms: int  # wall clock, Unix milliseconds


_Serialized = tuple[bytes, int, tuple[tuple[int, bytes, int], ...]]
_decode_serialized: Final = msgspec.msgpack.Decoder(_Serialized).decode


class Keyring:
    """All terms; the highest is active. Immutable but for its count: rotation makes a new one.

    `encryptions` under the active term: as many as are on record, and those of this process.
    """

    def __init__(
        self, terms: tuple[KeyTerm, ...], root_key: bytes, *, encryptions: int = 0
    ) -> None:
        self.terms = terms
        self.root_key = root_key
        self.active = max(terms, key=lambda t: t.term)
        self.encryptions = encryptions
        self._ciphers = {t.term.to_bytes(TERM_BYTES, "big"): AESGCM(t.key) for t in terms}
        self._active_term = self.active.term.to_bytes(TERM_BYTES, "big")
        self._active_encrypt = self._ciphers[self._active_term].encrypt

    def secrets(self) -> list[bytes]:
        """Every key, for `scrub` alone."""
        return [self.root_key, *(term.key for term in self.terms)]

    def __repr__(self) -> str:
        return f"<Keyring active_term={self.active.term}>"

    @classmethod
    def generate(cls, now_ms: int) -> "Keyring":
        """A root key and the first term of a new cluster."""
        return cls((KeyTerm(1, os.urandom(KEY_BYTES), now_ms),), os.urandom(KEY_BYTES))

    def rotated(self, now_ms: int) -> "Keyring":
        """With one more term, which is active; what is stored stays readable."""
        new = KeyTerm(self.active.term + 1, os.urandom(KEY_BYTES), now_ms)
        return Keyring((*self.terms, new), self.root_key)

    def serialize(self) -> bytes:
        """All of it, root key included, for a process of the same trust (DESIGN section 3)."""
        terms = [(t.term, t.key, t.installed_ms) for t in self.terms]
        return _FORMAT + msgspec.msgpack.encode((self.root_key, self.encryptions, terms))

    @classmethod
    def deserialize(cls, raw: bytes) -> "Keyring":
        """What `serialize` gave. Raises Corrupt."""
        try:
            if raw[:1] != _FORMAT:
                raise ValueError
            root_key, encryptions, terms = _decode_serialized(raw[1:])
            if len(root_key) != KEY_BYTES:
                raise ValueError
            made = tuple(KeyTerm(term, key, installed_ms) for term, key, installed_ms in terms)
            return cls(made, root_key, encryptions=encryptions)
        except (ValueError, msgspec.MsgspecError):
            raise Corrupt("a keyring does not parse") from None

    def encrypt(self, aad: bytes, plaintext: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        if len(nonce) != NONCE_BYTES:  # AES-GCM would take a shorter one, and it could repeat
            raise Internal("the system gave too little randomness")
        self.encryptions += 1
        return self._active_term + nonce + self._active_encrypt(nonce, plaintext, aad)

    def decrypt(self, aad: bytes, sealed: bytes) -> bytes:
        """The plaintext, or Corrupt: a wrong name, a flipped bit and a foreign term look alike."""
        cipher = self._ciphers.get(sealed[:TERM_BYTES])
        if cipher is None:
            raise UnknownTerm("a stored entry does not authenticate")
        try:
            return cipher.decrypt(sealed[TERM_BYTES:_BODY], sealed[_BODY:], aad)
        except InvalidTag:
            raise Corrupt("a stored entry does not authenticate") from None
