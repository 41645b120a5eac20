"""A root token from a quorum of key shares.

One attempt at a time, known by its nonce; the token is given out XORed with a one-time password
that only who started the attempt has seen. Lives in the writer's memory: a restart forgets it.
"""

import hmac
import secrets
import string
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final

from undercroft.barrier.seal import SealManager
from undercroft.errors import InvalidRequest
from undercroft.storage.view import Transaction

OTP_CHARS: Final = 26  # as long as a root token
_ALPHABET: Final = string.ascii_letters + string.digits


class RootGeneration:
    """Raises InvalidRequest for what does not fit; a wrong nonce changes nothing (SEAL-01)."""

    def __init__(self, seal: SealManager) -> None:
        self._seal = seal
        self._nonce = ""
        self._otp = ""
        self._shares: list[bytes] = []

    def status(self, required: int) -> dict[str, Any]:
        """The attempt without its password."""
        status: dict[str, Any] = {
            "complete": False,
            "otp": "",
            "otp_length": OTP_CHARS,
            "progress": len(self._shares),
            "required": required,
            "started": bool(self._nonce),
        }
        if self._nonce:
            status |= {"nonce": self._nonce, "pgp_fingerprint": ""}
        return status

    def start(self, required: int) -> dict[str, Any]:
        if self._nonce:
            raise InvalidRequest("root generation already in progress for this namespace")
        self._nonce = str(uuid.uuid4())
        self._otp = "".join(secrets.choice(_ALPHABET) for _ in range(OTP_CHARS))
        self._shares = []
        return self.status(required) | {"otp": self._otp}

    def cancel(self, nonce: str) -> None:
        """With a nonce only that attempt; without, whatever runs (the caller may)."""
        if not nonce or self._is_ours(nonce):
            self._forget()

    def update(
        self,
        tx: Transaction,
        share: bytes,
        nonce: str,
        required: int,
        issue: Callable[[], str],
    ) -> dict[str, Any]:
        """One more share; with the last one the encoded token."""
        if not self._nonce:
            raise InvalidRequest("no root generation in progress")
        if not self._is_ours(nonce):
            raise InvalidRequest("incorrect nonce supplied")
        if any(hmac.compare_digest(share, held) for held in self._shares):
            raise InvalidRequest(
                "given key has already been provided during this generation operation"
            )
        self._shares.append(share)
        answer: dict[str, Any] = {
            "complete": False,
            "encoded_token": "",
            "nonce": nonce,
            "pgp_fingerprint": "",
            "progress": len(self._shares),
            "required": required,
            "started": True,
        }
        if len(self._shares) < required:
            return answer
        shares, self._shares = self._shares, []
        if not self._seal.proves_quorum(tx, shares):
            raise InvalidRequest("root generation aborted: the key shares are not valid")
        encoded = encode_token(issue(), self._otp)
        tx.after_commit.append(self._forget)
        return answer | {"complete": True, "encoded_token": encoded}

    def _is_ours(self, nonce: str) -> bool:
        return hmac.compare_digest(nonce.encode(), self._nonce.encode())

    def _forget(self) -> None:
        self._nonce, self._otp, self._shares = "", "", []


def encode_token(token: str, otp: str) -> str:
    """XOR, as base64 without padding. Both have the same length."""
    mixed = bytes(a ^ b for a, b in zip(token.encode(), otp.encode(), strict=True))
    return b64encode(mixed).decode().rstrip("=")


def decode_token(encoded: str, otp: str) -> str:
    """What `encode_token` encoded. Raises InvalidRequest when the two do not belong together."""
    try:
        mixed = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        return bytes(a ^ b for a, b in zip(mixed, otp.encode(), strict=True)).decode("ascii")
    except ValueError:
        raise InvalidRequest("the encoded token and the password do not belong together") from None
