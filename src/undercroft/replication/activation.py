"""Letting a secondary in: the registry of activations, and what an activation token brings.

A token is either a signed wrapping token, whose answer the secondary fetches once at the primary's
API, or an opaque text sealed for a key that the secondary made. Either way it brings a `Grant`.
The registry has an own entry per id: it stays with this cluster, and dies with its role.
"""

import base64
import binascii
import os
import re
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from undercroft.errors import InvalidRequest
from undercroft.replication.authority import ID_CHARS_MAX
from undercroft.replication.role import PERFORMANCE, Credentials
from undercroft.storage.keys import OWN, SYSTEM, key
from undercroft.storage.view import Snapshot, Space, Transaction

TTL_SECONDS: Final = 1800
TTL_SECONDS_MAX: Final = 24 * 3600

ISSUED: Final = "issued"
ACTIVE: Final = "active"
EXPIRED: Final = "expired"

_PREFIX: Final = "replication/performance/secondaries/"
_PENDING_KEY: Final = key(OWN, SYSTEM, "replication/performance/pending-key")
_ID: Final = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
_KEY_KIND: Final = b"\x01"  # X25519
_SEALED_MARK: Final = "ucr1."
_PURPOSE: Final = b"undercroft replication activation 1"


class Secondary(msgspec.Struct, frozen=True):
    """One activation. `ticket` is in every certificate issued for it."""

    id: str
    ticket: str
    issued_ms: int
    expires_ms: int  # of the token
    state: str = ISSUED  # or active: it has connected
    promotable: bool = True
    forward_root: bool = False
    ceiling: tuple[str, ...] = ()  # policies that it may vouch for; empty: all but root
    wrapping_accessor: str = ""  # of an unused token

    def state_at(self, now_ms: int) -> str:
        expired = self.state == ISSUED and now_ms >= self.expires_ms
        return EXPIRED if expired else self.state


class Grant(msgspec.Struct, frozen=True):
    """What an activation token brings, once. As powerful as a root token."""

    type: str
    set_id: str
    secondary_id: str
    credentials: Credentials
    addresses: tuple[str, ...]  # of the primary's cluster port
    api_addr: str = ""
    expires_ms: int = 0

    def __repr__(self) -> str:
        return f"<Grant {self.secondary_id!r}>"


class TokenClaims(msgspec.Struct, frozen=True):
    """What an activation token in JWT form says; nobody but the primary can check its signature."""

    jti: str
    addr: str = ""
    exp: int = 0
    type: str = ""
    rtype: str = ""  # of replication
    ca: str = ""  # fingerprint of the primary's authority


# the registry


def _space(view: Snapshot) -> Space:
    return Space(view, OWN, SYSTEM)


def known(view: Snapshot) -> list[Secondary]:
    """All activations, by id."""
    space = _space(view)
    found = (space.read(name, Secondary) for name in space.names(_PREFIX))
    return [secondary for secondary in found if secondary is not None]


def find(view: Snapshot, secondary_id: str) -> Secondary | None:
    return _space(view).read(_PREFIX + secondary_id, Secondary)


def check_id(secondary_id: str) -> str:
    """Raises InvalidRequest for an id that could not be one (or part of a filter's path)."""
    if not secondary_id:
        raise InvalidRequest("missing id", hint="choose a name for the secondary, e.g. us-east")
    if len(secondary_id) > ID_CHARS_MAX:
        raise InvalidRequest(f"id is longer than {ID_CHARS_MAX} characters")
    if not _ID.fullmatch(secondary_id):
        raise InvalidRequest(
            "id may have letters, digits, '_', '-' and '.', and begins and ends with neither of "
            "the last two"
        )
    return secondary_id


def register(
    tx: Snapshot,
    secondary_id: str,
    *,
    ttl_seconds: int,
    now_ms: int,
    promotable: bool = True,
    forward_root: bool = False,
    ceiling: tuple[str, ...] = (),
) -> Secondary:
    """A new activation. Raises InvalidRequest for an id in use, and a TTL out of range.

    An id whose token expired unused may be used again.
    """
    check_id(secondary_id)
    if not 0 < ttl_seconds <= TTL_SECONDS_MAX:
        raise InvalidRequest("ttl must be positive and no longer than 24 hours")
    before = find(tx, secondary_id)
    if before is not None and before.state_at(now_ms) != EXPIRED:
        raise InvalidRequest(
            f"id '{secondary_id}' is {before.state_at(now_ms)} already",
            hint="choose another, or revoke it first",
        )
    made = Secondary(
        id=secondary_id,
        ticket=os.urandom(16).hex(),
        issued_ms=now_ms,
        expires_ms=now_ms + ttl_seconds * 1000,
        promotable=promotable,
        forward_root=forward_root,
        ceiling=ceiling,
    )
    write(tx, made)
    return made


def write(tx: Snapshot, secondary: Secondary) -> None:
    _space(tx).write(_PREFIX + secondary.id, secondary)


def with_wrapping(secondary: Secondary, accessor: str) -> Secondary:
    return msgspec.structs.replace(secondary, wrapping_accessor=accessor)


def activate(tx: Snapshot, secondary_id: str) -> None:
    """It has connected with its certificate."""
    found = find(tx, secondary_id)
    if found is not None and found.state != ACTIVE:
        write(tx, msgspec.structs.replace(found, state=ACTIVE, wrapping_accessor=""))


def revoke(tx: Snapshot, secondary_id: str) -> Secondary:
    """Its certificates and its unused token count no more. Raises InvalidRequest."""
    found = find(tx, secondary_id) if secondary_id else None
    if found is None:
        ids = ", ".join(secondary.id for secondary in known(tx)) or "none"
        raise InvalidRequest(f"no secondary has that id; known ids: {ids}")
    _space(tx).delete(_PREFIX + secondary_id)
    return found


def forget_all(tx: Snapshot) -> None:
    for secondary in known(tx):
        _space(tx).delete(_PREFIX + secondary.id)


# a secondary's own key


def make_pending_key(tx: Transaction) -> str:
    """A new key pair; the private half stays here until it is used. Answers the public one."""
    private = X25519PrivateKey.generate()
    raw = private.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    tx.put(_PENDING_KEY, raw)
    return base64.b64encode(_KEY_KIND + private.public_key().public_bytes_raw()).decode()


def forget_pending_key(tx: Transaction) -> None:
    if tx.exists(_PENDING_KEY):
        tx.delete(_PENDING_KEY)


def seal_for(public_key: str, grant: Grant) -> str:
    """The activation token for a secondary's public key. Raises InvalidRequest."""
    theirs = _public_key(public_key)
    ephemeral = X25519PrivateKey.generate()
    mine = ephemeral.public_key().public_bytes_raw()
    sealed = AESGCM(_agreed(ephemeral.exchange(theirs), mine)).encrypt(
        bytes(12),
        msgspec.msgpack.encode(grant),
        _PURPOSE,  # the key is used once: a fixed nonce
    )
    return _SEALED_MARK + base64.urlsafe_b64encode(mine + sealed).decode().rstrip("=")


def is_sealed(token: str) -> bool:
    return token.startswith(_SEALED_MARK)


def open_sealed(view: Snapshot, token: str) -> Grant:
    """Raises InvalidRequest: no token, for another key, of another type."""
    try:
        raw = _unbase64(token.removeprefix(_SEALED_MARK))
        mine, sealed = X25519PublicKey.from_public_bytes(raw[:32]), raw[32:]
    except (binascii.Error, ValueError):
        raise InvalidRequest("the token is no activation token") from None
    pending = view.get(_PENDING_KEY)
    if pending is None:
        raise InvalidRequest(_NO_KEY, hint=_NO_KEY_HINT)
    try:
        shared = X25519PrivateKey.from_private_bytes(pending).exchange(mine)
        opened = AESGCM(_agreed(shared, raw[:32])).decrypt(bytes(12), sealed, _PURPOSE)
        grant = msgspec.msgpack.decode(opened, type=Grant)
    except (InvalidTag, ValueError, msgspec.MsgspecError):
        raise InvalidRequest(_NO_KEY, hint=_NO_KEY_HINT) from None
    return check_grant(grant)


def expired() -> InvalidRequest:
    """Whether a token is, the primary decides: clocks may be an hour apart. This is what to say
    when it refuses one that is over by our clock.
    """
    return InvalidRequest("the activation token has expired", hint="ask for a new one")


def check_grant(grant: Grant) -> Grant:
    if grant.type != PERFORMANCE:
        raise InvalidRequest(f"the activation token is for {grant.type} replication")
    return grant


_NO_KEY: Final = "the token was made for a public key whose private half is not held here"
_NO_KEY_HINT: Final = "generate a public key and a token again"


def _agreed(shared: bytes, ephemeral: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=ephemeral, info=_PURPOSE).derive(shared)


def _public_key(text: str) -> X25519PublicKey:
    try:
        raw = base64.b64decode(text, validate=True)
        if raw[:1] != _KEY_KIND:
            raise ValueError
        public = X25519PublicKey.from_public_bytes(raw[1:])
        # A point of low order agrees with nobody: found out here, by a first try.
        X25519PrivateKey.generate().exchange(public)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            "secondary_public_key is no key of a kind known here",
            hint="take what secondary/generate-public-key answers",
        ) from None
    return public


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# tokens that are unwrapped


def parse_token(token: str) -> TokenClaims:
    """What a token in JWT form says, or a bare wrapping token. Raises InvalidRequest.

    Its signature is for the primary to check: whoever unwraps at a wrong address gets nothing, and
    the session believes only the authority whose fingerprint the token names.
    """
    if not token:
        raise InvalidRequest("missing token")
    if token.count(".") != 2:
        if re.fullmatch(r"(?:hvs|s)\.[\w-]{10,}|[0-9a-fA-F-]{36}", token) is None:
            raise InvalidRequest("the token is no activation token")
        return TokenClaims(jti=token)
    try:
        claims: Any = msgspec.json.decode(_unbase64(token.split(".")[1]), type=TokenClaims)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidRequest("the token is no activation token") from None
    if claims.type != "wrapping":
        raise InvalidRequest("the token is no activation token")
    if claims.rtype and claims.rtype != PERFORMANCE:
        raise InvalidRequest(f"the activation token is for {claims.rtype} replication")
    return TokenClaims(token, claims.addr, claims.exp, claims.type, claims.rtype, claims.ca)
