"""What of the seal lies in the store, and how.

    seal-config   readable while sealed: type, shares, threshold
    root-key      the root key, wrapped by the seal; the seal-config is authenticated with it
    keyring       terms, their count and the rules of rotation, wrapped by the root key
    recovery-key  nothing, wrapped by the recovery key: opening it proves that key

All are own entries (they never leave the cluster) and clear records, since they must be read
before there is a keyring; all but the first are ciphertexts of `aead.py`.
"""

from typing import Final, TypeVar

import msgspec

from undercroft.barrier.aead import unwrap, wrap
from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.errors import Corrupt
from undercroft.storage.keys import OWN, SHARED, SYSTEM, key
from undercroft.storage.view import Snapshot, Transaction

CONFIG_KEY: Final = key(OWN, SYSTEM, "seal-config")
ROOT_KEY_KEY: Final = key(OWN, SYSTEM, "root-key")
KEYRING_KEY: Final = key(OWN, SYSTEM, "keyring")
TERM_KEY: Final = key(SHARED, SYSTEM, "keyring-term")  # the number of the last term, to be followed
RECOVERY_KEY: Final = key(OWN, SYSTEM, "recovery-key")

# AES-GCM with random nonces is good for 2^32 messages a key; Vault stops at nine tenths of that.
OPERATIONS_MAX: Final = 3_865_470_566

_FORMAT: Final = b"\x01"
T = TypeVar("T", bound=msgspec.Struct)


class SealConfig(msgspec.Struct, frozen=True):
    """How this store was initialised. For `static`, shares are those of the recovery key."""

    type: str  # "shamir" or "static"
    shares: int
    threshold: int


class WrappedRootKey(msgspec.Struct, frozen=True):
    """`key_id` names the static key that wrapped it; empty for shamir."""

    key_id: str
    sealed: bytes


class RotationPolicy(msgspec.Struct, frozen=True):
    """When a new term is made by itself. `interval_seconds` 0: never by time."""

    enabled: bool = True
    max_operations: int = OPERATIONS_MAX
    interval_seconds: int = 0


class StoredKeyring(msgspec.Struct, frozen=True):
    """The keyring without its root key, which wraps it. `encryptions` are of the last term."""

    terms: tuple[KeyTerm, ...]
    encryptions: int = 0
    rotation: RotationPolicy = RotationPolicy()
    alternates: tuple[KeyTerm, ...] = ()

    def __repr__(self) -> str:
        return f"<StoredKeyring terms={len(self.terms)}>"

    def keyring(self, root_key: bytes) -> Keyring:
        return Keyring(
            self.terms, root_key, encryptions=self.encryptions, alternates=self.alternates
        )


def read_config(view: Snapshot) -> SealConfig | None:
    """None before the store is initialised."""
    raw = view.get(CONFIG_KEY)
    return None if raw is None else _decode(raw, SealConfig)


def write_config(tx: Transaction, config: SealConfig) -> None:
    tx.put_clear(CONFIG_KEY, _encode(config))


def write_root_key(
    tx: Transaction, config: SealConfig, key_id: str, seal_key: bytes, root_key: bytes
) -> None:
    sealed = wrap(seal_key, _root_purpose(config, key_id), root_key)
    tx.put_clear(ROOT_KEY_KEY, _encode(WrappedRootKey(key_id, sealed)))


def wrapped_root_key(view: Snapshot) -> WrappedRootKey:
    return _decode(_present(view, ROOT_KEY_KEY), WrappedRootKey)


def open_root_key(view: Snapshot, config: SealConfig, seal_key: bytes) -> bytes:
    """Raises NotOpened for another key, and for a seal-config that was tampered with."""
    wrapped = wrapped_root_key(view)
    return unwrap(seal_key, _root_purpose(config, wrapped.key_id), wrapped.sealed)


def write_recovery_key(tx: Transaction, config: SealConfig, recovery_key: bytes) -> None:
    tx.put_clear(RECOVERY_KEY, wrap(recovery_key, b"recovery-key/" + _encode(config), b""))


def check_recovery_key(view: Snapshot, config: SealConfig, recovery_key: bytes) -> None:
    """Raises NotOpened for another key."""
    unwrap(recovery_key, b"recovery-key/" + _encode(config), _present(view, RECOVERY_KEY))


def write_keyring(tx: Transaction, stored: StoredKeyring, root_key: bytes) -> None:
    tx.put_clear(KEYRING_KEY, wrap(root_key, b"keyring", _encode(stored)))


def open_keyring(view: Snapshot, root_key: bytes) -> StoredKeyring:
    """Raises NotOpened for another root key."""
    return _decode(unwrap(root_key, b"keyring", _present(view, KEYRING_KEY)), StoredKeyring)


def _root_purpose(config: SealConfig, key_id: str) -> bytes:
    return b"root-key/" + _encode((config, key_id))


def _present(view: Snapshot, entry: bytes) -> bytes:
    raw = view.get(entry)
    if raw is None:
        raise Corrupt("an entry of the seal is missing from the store")
    return raw


def _encode(value: object) -> bytes:
    return _FORMAT + msgspec.msgpack.encode(value)


def _decode(raw: bytes, kind: type[T]) -> T:
    if raw[:1] != _FORMAT:
        raise Corrupt("an entry of the seal has an unknown format")
    try:
        return msgspec.msgpack.decode(raw[1:], type=kind)
    except msgspec.MsgspecError:
        raise Corrupt("an entry of the seal does not parse") from None
