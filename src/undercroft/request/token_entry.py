"""What is stored of a token, where it lies, and how its id becomes its name.

The id itself is stored nowhere. An entry's name is its accessor, and the accessor is the keyed hash
of the id (`accessor_of`), so looking up by id and by accessor is the same single read, and whoever
reads accessors, or the whole store, learns no id.

    l | TOKENS | salt                       32 random bytes: the hash's key
    l | TOKENS | id/<accessor>              TokenEntry; the record's expiry is the token's
    l | TOKENS | child/<parent>/<child>     empty: the index that revocation descends by
    l | QUEUE  | revoke/<accessor>          what a revocation left for later (`token_tree.py`)
    l | QUEUE  | revoke/mount:<mount id>    all tokens of a mount are to go; value: the next step
    l | QUEUE  | revoke/tidy                a search for what should not be there; value: the same
"""

import os
from hashlib import blake2b
from typing import Final

import msgspec

from undercroft.storage.keys import CUBBYHOLE, LOCAL, QUEUE, TOKENS
from undercroft.storage.view import Snapshot

SALT_KEY: Final = LOCAL + TOKENS + b"salt"
ID_PREFIX: Final = LOCAL + TOKENS + b"id/"
CHILD_PREFIX: Final = LOCAL + TOKENS + b"child/"
QUEUE_PREFIX: Final = LOCAL + QUEUE + b"revoke/"
MOUNT_JOB_PREFIX: Final = QUEUE_PREFIX + b"mount:"
TIDY_JOB: Final = QUEUE_PREFIX + b"tidy"
CUBBYHOLE_PREFIX: Final = LOCAL + CUBBYHOLE

WRAPPING_POLICY: Final = "response-wrapping"
SERVICE_PREFIX: Final = "s."
BATCH_PREFIX: Final = "b."
SPENT: Final = -1  # `num_uses` after the last use: refused, waiting to be revoked

_ID_CHARS: Final = 24  # 142 bits
_ALPHABET: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTERS: Final = (_ALPHABET * 5)[:256]
_UNFAIR: Final = bytes(
    range(248, 256)
)  # 248 = 4 * 62: without these bytes letters are equally likely


class TokenEntry(msgspec.Struct, frozen=True, array_like=True):
    """One token. Stored as an array: new fields go to the end, with a default.

    Times are Unix milliseconds, durations seconds, 0 is "none". Invariant TTL-FINITE: `expires_ms`
    is 0 only for a root token. `parent` is an accessor, "" for an orphan.
    """

    accessor: str  # "" for a batch token
    policies: tuple[str, ...]
    path: str
    display_name: str
    created_ms: int
    expires_ms: int
    ttl_seconds: int  # as issued
    parent: str = ""
    meta: dict[str, str] | None = None
    num_uses: int = 0
    renewable: bool = False
    period_seconds: int = 0
    explicit_max_ttl_seconds: int = 0
    max_ttl_seconds: int = 0  # of the role or user that it came by
    renew_ttl_seconds: int = 0  # what a renewal without increment asks for
    last_renewal_ms: int = 0
    bound_cidrs: tuple[str, ...] = ()
    type: str = "service"
    role: str = ""
    entity_id: str = ""
    mount_id: bytes = b""
    leaving: bool = False  # revoked itself; stays until its children are orphans (`token_tree.py`)

    def __repr__(self) -> str:
        return f"<TokenEntry {self.type} {self.path!r} policies={self.policies!r}>"

    def is_live(self, now_ms: int) -> bool:
        """Alive as far as the entry alone can tell; its ancestors must be too."""
        if self.num_uses < 0 or self.leaving:
            return False
        if self.expires_ms:
            return now_ms < self.expires_ms
        return "root" in self.policies

    @property
    def orphan(self) -> bool:
        return not self.parent

    @property
    def is_root(self) -> bool:
        return "root" in self.policies

    @property
    def is_wrapping(self) -> bool:
        return self.policies == (WRAPPING_POLICY,)


def id_key(accessor: str) -> bytes:
    return ID_PREFIX + accessor.encode()


def child_key(parent: str, child: str) -> bytes:
    return CHILD_PREFIX + f"{parent}/{child}".encode()


def queue_key(accessor: str) -> bytes:
    return QUEUE_PREFIX + accessor.encode()


def cubbyhole_prefix(accessor: str) -> bytes:
    """Where a token's cubbyhole lies: names below it are the client's paths."""
    return CUBBYHOLE_PREFIX + accessor.encode() + b"/"


def accessor_of(view: Snapshot, token_id: str) -> str:
    """The accessor: keyed BLAKE2b of the id under the store's salt, 16 bytes, in hex.

    128 bits: a second id with the same accessor is out of reach, and so is the id. BLAKE2b with a
    key is a MAC as HMAC is (RFC 7693), at a third of its time here. "" while there is no salt
    (before initialisation).
    """
    salt = view.read(SALT_KEY, bytes)
    if salt is None:
        return ""
    return blake2b(token_id.encode(), digest_size=16, key=salt).hexdigest()


def new_id() -> str:
    """A fresh service token id."""
    letters = b""
    while len(letters) < _ID_CHARS:
        letters = os.urandom(40).translate(_LETTERS, _UNFAIR)
    return SERVICE_PREFIX + letters[:_ID_CHARS].decode()
