"""Wrapping tokens as signed JWTs (`X-Vault-Wrap-Format: jwt`): ES512 under a key of this cluster.

Whoever gets one can read where to unwrap it, and check with `sys/wrapping/pubkey` that it comes
from there; replication activation tokens are such. The key is made when first needed and lies in
the local token space: wrapping tokens are local, too.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from undercroft.request.token_entry import TokenEntry
from undercroft.storage.keys import LOCAL, TOKENS
from undercroft.storage.view import Snapshot

_KEY: Final = LOCAL + TOKENS + b"wrapping-key"
_HEADER: Final = b'{"alg":"ES512","kid":"","typ":"JWT"}'
_NUMBER_BYTES: Final = 66  # of P-521
_CHARS_MAX: Final = 4096
_SKEW_SECONDS: Final = 5  # clocks differ a little: valid from just before it was made


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signing_key(tx: Snapshot) -> ec.EllipticCurvePrivateKey:
    stored = tx.get(_KEY)
    if stored is not None:
        return _loaded(stored)
    key = ec.generate_private_key(ec.SECP521R1())
    tx.put(
        _KEY,
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),  # the barrier encrypts it
        ),
    )
    return key


def _loaded(der: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_der_private_key(der, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "only such keys are stored here"
    return key


def public_key(tx: Snapshot) -> dict[str, str]:
    """The key that checks the signatures, with Vault's names for its numbers, and as PEM.

    Makes it if there is none: raises ReadOnly then.
    """
    key = _signing_key(tx).public_key()
    numbers = key.public_numbers()
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "jwt_x": str(numbers.x),
        "jwt_y": str(numbers.y),
        "jwt_curve": "p521",
        "public_key": pem.decode(),
    }


def sign_jwt(
    tx: Snapshot,
    token: str,
    entry: TokenEntry,
    wrapped_accessor: str,
    address: str,
    more: Mapping[str, str],
) -> str:
    """The wrapping token inside a signed statement of where and until when it is good."""
    issued = entry.created_ms // 1000
    claims = {
        "accessor": wrapped_accessor,
        "addr": address,
        "exp": entry.expires_ms // 1000,
        "iat": issued,
        "jti": token,
        "nbf": issued - _SKEW_SECONDS,
        "type": "wrapping",
        **more,
    }
    signed = f"{_text(_HEADER)}.{_text(msgspec.json.encode(claims))}"
    der = _signing_key(tx).sign(signed.encode(), ec.ECDSA(hashes.SHA512()))
    r, s = decode_dss_signature(der)
    signature = r.to_bytes(_NUMBER_BYTES, "big") + s.to_bytes(_NUMBER_BYTES, "big")
    return f"{signed}.{_text(signature)}"


def token_of(view: Snapshot, text: str, now_ms: int) -> str:
    """The token itself: `text`, or what a JWT of ours carries; "" for a JWT that is not good.

    Only ES512 under our own key is ever tried, whatever the header says; and it signs the header.
    """
    if text.count(".") != 2:
        return text
    stored = view.get(_KEY)
    if len(text) > _CHARS_MAX or stored is None or not text.isascii():
        return ""
    try:
        _verify(text, _loaded(stored).public_key())
        claims: dict[str, Any] = msgspec.json.decode(_raw(text.split(".")[1]))
    except (binascii.Error, ValueError, InvalidSignature, msgspec.MsgspecError):
        return ""
    return str(claims["jti"]) if now_ms // 1000 <= claims["exp"] else ""


def is_signed_by(text: str, numbers: Mapping[str, str]) -> bool:
    """Whether a JWT is signed by another cluster's key, as its `public_key` shows it.

    Raises KeyError, ValueError for what is no key.
    """
    key = ec.EllipticCurvePublicNumbers(
        int(numbers["jwt_x"]), int(numbers["jwt_y"]), ec.SECP521R1()
    ).public_key()
    try:
        _verify(text, key)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def _verify(text: str, key: ec.EllipticCurvePublicKey) -> None:
    """Raises InvalidSignature, ValueError."""
    signed, _, signature_text = text.rpartition(".")
    signature = _raw(signature_text)
    if len(signature) != 2 * _NUMBER_BYTES:
        raise InvalidSignature
    r = int.from_bytes(signature[:_NUMBER_BYTES], "big")
    s = int.from_bytes(signature[_NUMBER_BYTES:], "big")
    key.verify(encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA512()))
