"""Sealing the few values that lie outside the keyring: the keyring itself, and the root key.

AES-256-GCM: `version (1) | nonce (12) | ciphertext | tag (16)`. The purpose is authenticated with
it, so no value opens in another's place. There is one failure for a wrong key, a wrong purpose and
a flipped bit, and no padding whose check could tell more (SEAL-04).
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from undercroft.barrier.keyring import KEY_BYTES, NONCE_BYTES

_VERSION: Final = b"\x01"
_DOMAIN: Final = b"undercroft/seal/1/"
_BODY: Final = 1 + NONCE_BYTES


class NotOpened(Exception):  # an outcome that every caller turns into its own error
    """The key, the purpose or the value is not the one; which of them cannot be told."""


def wrap(key: bytes, purpose: bytes, plaintext: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return _VERSION + nonce + AESGCM(key).encrypt(nonce, plaintext, _DOMAIN + purpose)


def unwrap(key: bytes, purpose: bytes, sealed: bytes) -> bytes:
    """Raises NotOpened, also for a key that cannot be one (combined from wrong shares)."""
    if len(key) != KEY_BYTES or sealed[:1] != _VERSION or len(sealed) < _BODY:
        raise NotOpened
    try:
        return AESGCM(key).decrypt(sealed[1:_BODY], sealed[_BODY:], _DOMAIN + purpose)
    except InvalidTag:
        raise NotOpened from None
