"""The keyring: numbered data keys, and the one AEAD that all stored values go through.

AES-256-GCM, random 96-bit nonces, the entry's key name (and record head) as associated data, so a
value moved to another name does not open. `encrypt` answers `term (4, big endian) | nonce (12) |
ciphertext | tag (16)`; the tag is also the entry's leaf in the digest tree.
"""

import contextlib
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


_Term = tuple[int, bytes, int]
_Serialized = tuple[bytes, int, tuple[_Term, ...], tuple[_Term, ...]]
_decode_serialized: Final = msgspec.msgpack.Decoder(_Serialized).decode


class Keyring:
    """All terms; the highest is active. Immutable but for its count: rotation makes a new one.

    `encryptions` under the active term: as many as are on record, and those of this process.
    `alternates` are other keys under numbers that may be taken: of a cluster that rotated while it
    was apart from its replication set. They open what was sealed then, and seal nothing.
    """

    def __init__(
        self,
        terms: tuple[KeyTerm, ...],
        root_key: bytes,
        *,
        encryptions: int = 0,
        alternates: tuple[KeyTerm, ...] = (),
    ) -> None:
        self.terms = terms
        self.root_key = root_key
        self.alternates = alternates
        self.active = max(terms, key=lambda t: t.term)
        self.encryptions = encryptions
        self._ciphers = {t.term.to_bytes(TERM_BYTES, "big"): AESGCM(t.key) for t in terms}
        self._others: dict[bytes, list[AESGCM]] = {}
        for other in alternates:
            ciphers = self._others.setdefault(other.term.to_bytes(TERM_BYTES, "big"), [])
            ciphers.append(AESGCM(other.key))
        self._active_term = self.active.term.to_bytes(TERM_BYTES, "big")
        self._active_encrypt = self._ciphers[self._active_term].encrypt

    def secrets(self) -> list[bytes]:
        """Every key, for `scrub` alone."""
        return [self.root_key, *(term.key for term in self.terms + self.alternates)]

    def __repr__(self) -> str:
        return f"<Keyring active_term={self.active.term}>"

    @classmethod
    def generate(cls, now_ms: int) -> "Keyring":
        """A root key and the first term of a new cluster."""
        return cls((KeyTerm(1, os.urandom(KEY_BYTES), now_ms),), os.urandom(KEY_BYTES))

    def rotated(self, now_ms: int) -> "Keyring":
        """With one more term, which is active; what is stored stays readable."""
        new = KeyTerm(self.active.term + 1, os.urandom(KEY_BYTES), now_ms)
        return Keyring((*self.terms, new), self.root_key, alternates=self.alternates)

    def adopted(self, terms: tuple[KeyTerm, ...], alternates: tuple[KeyTerm, ...]) -> "Keyring":
        """With another cluster's terms instead; whatever only we have stays, to read by."""
        own = [t for t in self.terms + self.alternates + alternates if t not in terms]
        return Keyring(terms, self.root_key, alternates=tuple(dict.fromkeys(own)))

    def serialize(self) -> bytes:
        """All of it, root key included, for a process of the same trust (DESIGN section 3)."""
        terms, others = (
            [(t.term, t.key, t.installed_ms) for t in some]
            for some in (self.terms, self.alternates)
        )
        return _FORMAT + msgspec.msgpack.encode((self.root_key, self.encryptions, terms, others))

    @classmethod
    def deserialize(cls, raw: bytes) -> "Keyring":
        """What `serialize` gave. Raises Corrupt."""
        try:
            if raw[:1] != _FORMAT:
                raise ValueError
            root_key, encryptions, terms, others = _decode_serialized(raw[1:])
            if len(root_key) != KEY_BYTES:
                raise ValueError
            made = tuple(KeyTerm(*term) for term in terms)
            alternates = tuple(KeyTerm(*term) for term in others)
            return cls(made, root_key, encryptions=encryptions, alternates=alternates)
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
        term, nonce, body = sealed[:TERM_BYTES], sealed[TERM_BYTES:_BODY], sealed[_BODY:]
        cipher = self._ciphers.get(term)
        if cipher is not None:
            try:
                return cipher.decrypt(nonce, body, aad)
            except (InvalidTag, ValueError):  # ValueError: too short to be anything
                pass
        for other in self._others.get(term, ()):
            with contextlib.suppress(InvalidTag, ValueError):
                return other.decrypt(nonce, body, aad)
        if cipher is None and term not in self._others:
            raise UnknownTerm("a stored entry does not authenticate")
        raise Corrupt("a stored entry does not authenticate")
