"""The seal: what protects the root key, and the way from sealed to open and back.

    seal key   (combined from key shares, or the static key of the configuration)
      └─ root key   entry `root-key`
           └─ keyring   entry `keyring`
                └─ every other value

The three entries below are the only ones stored in clear form, since they must be read while
sealed: what they hold is encrypted by the level above or is no secret. Lives in the writer. State
in memory changes only after the commit that it belongs to.
"""

import binascii
import hmac
import os
import uuid
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from undercroft.barrier import shamir
from undercroft.barrier.keyring import KEY_BYTES, NONCE_BYTES, Keyring, KeyTerm
from undercroft.errors import Corrupt, InvalidRequest, Refused, Sealed
from undercroft.node.state import UnsealProgress
from undercroft.storage.keys import OWN, SYSTEM, key
from undercroft.storage.view import Snapshot, Transaction

if TYPE_CHECKING:
    from undercroft.config import Seal as SealSettings

_CONFIG: Final = key(OWN, SYSTEM, "seal-config")
_ROOT_KEY: Final = key(OWN, SYSTEM, "root-key")
_KEYRING: Final = key(OWN, SYSTEM, "keyring")
_RECOVERY: Final = key(OWN, SYSTEM, "recovery-key")
_ROTATION: Final = key(OWN, SYSTEM, "rotation")

# NIST SP 800-38D: at most 2^32 messages a key with random nonces; Vault's bounds leave room.
OPERATIONS_MAX: Final = 3_865_470_566
OPERATIONS_MIN: Final = 1_000_000
INTERVAL_MIN_SECONDS: Final = 24 * 3600
_COUNT_STEP: Final = 100_000  # encryptions between two stored counts: what a crash may forget
_SHARE_BYTES_MIN: Final = 16


class SealConfig(msgspec.Struct, frozen=True):
    """How the seal was set up at initialisation. With a static seal the shares are recovery's."""

    type: str
    shares: int
    threshold: int


class Rotation(msgspec.Struct, frozen=True):
    """Automatic rotation, and what earlier processes encrypted under the active term."""

    enabled: bool = True
    max_operations: int = OPERATIONS_MAX
    interval_seconds: int = 0  # 0: not by time
    encryptions: int = 0


class Initialized(msgspec.Struct, frozen=True):
    """What the operator is given, once. All of it is secret."""

    shares: list[bytes]
    recovery_shares: list[bytes]
    root_token: str

    def __repr__(self) -> str:
        return f"<Initialized shares={len(self.shares)}>"


class SealManager:
    """`on_keyring` is told a keyring that is in force now, `on_sealed` that none is any more.

    `bootstrap` writes what a new cluster starts with and answers the root token; `on_progress` is
    told that `status` has changed.
    """

    def __init__(
        self,
        settings: "SealSettings",
        *,
        on_keyring: Callable[[Keyring], None],
        on_sealed: Callable[[], None],
        on_progress: Callable[[], None],
        bootstrap: Callable[[Transaction, int], str],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._settings = settings
        self._on_keyring = on_keyring
        self._on_sealed = on_sealed
        self._on_progress = on_progress
        self._bootstrap = bootstrap
        self._random = random
        self._shares: list[bytes] = []
        self._nonce = ""
        self._keyring: Keyring | None = None
        self._counted = 0  # of `keyring.encryptions`, what is stored already

    # what it is

    def config(self, view: Snapshot) -> SealConfig | None:
        raw = view.get(_CONFIG)
        return None if raw is None else msgspec.msgpack.decode(raw, type=SealConfig)

    def status(self, view: Snapshot) -> dict[str, Any]:
        """Fields of `NodeState`."""
        config = self.config(view)
        return {
            "initialized": config is not None,
            "seal_type": config.type if config else self._settings.type,
            "shares": config.shares if config else 0,
            "threshold": config.threshold if config else 0,
            "recovery_seal": self._settings.type != "shamir",
            "unseal": UnsealProgress(len(self._shares), self._nonce),
        }

    # initialise

    def initialize(
        self,
        tx: Transaction,
        *,
        shares: int = 0,
        threshold: int = 0,
        recovery_shares: int = 0,
        recovery_threshold: int = 0,
        now_ms: int,
    ) -> Initialized:
        """Make the keys of a new cluster. Raises InvalidRequest, also when there are keys."""
        if self.config(tx) is not None:
            raise InvalidRequest("Vault is already initialized")
        static = self._settings.type == "static"
        if static and (shares or threshold):
            raise InvalidRequest(
                "parameters secret_shares,secret_threshold not applicable to seal type static"
            )
        if not static and (recovery_shares or recovery_threshold):
            raise InvalidRequest(
                "parameters recovery_shares,recovery_threshold not applicable to seal type shamir"
            )
        if static:
            shares, threshold = recovery_shares, recovery_threshold
        if not (static and shares == threshold == 0):  # no recovery key is a choice
            check_shares(shares, threshold)
        keyring = Keyring(
            (KeyTerm(1, self._random(KEY_BYTES), now_ms),), root_key=self._random(KEY_BYTES)
        )
        split_key = self._random(KEY_BYTES)
        made = shamir.split(split_key, shares, threshold, self._random) if shares else []
        seal_key = self._static_key() if static else split_key
        config = SealConfig(self._settings.type, shares, threshold)
        tx.put_clear(_CONFIG, msgspec.msgpack.encode(config))
        tx.put_clear(_ROOT_KEY, self._wrap(seal_key, b"root-key", keyring.root_key))
        tx.put_clear(_KEYRING, self._wrap(keyring.root_key, b"keyring", keyring.serialize()))
        tx.use_keyring(keyring)
        tx.put(_ROTATION, msgspec.msgpack.encode(Rotation()))
        if static:
            tx.put(_RECOVERY, split_key)
        token = self._bootstrap(tx, now_ms)
        tx.after_commit.append(self._on_progress)
        if static:
            tx.after_commit.append(lambda: self.adopt(keyring))
        return Initialized([] if static else made, made if static else [], token)

    # unseal

    def unseal(self, tx: Transaction, share: bytes) -> Keyring | None:
        """Take one share; the keyring once there are enough. A wrong set starts over."""
        config = self.config(tx)
        if config is None:
            raise InvalidRequest("Vault is not initialized")
        if config.type != "shamir":
            raise InvalidRequest(f"the seal of type {config.type} takes no key shares")
        if len(share) < _SHARE_BYTES_MIN:
            raise InvalidRequest("invalid key: key is shorter than minimum 16 bytes")
        if not any(hmac.compare_digest(share, held) for held in self._shares):
            self._shares.append(share)
            self._nonce = self._nonce or str(uuid.uuid4())
        tx.after_commit.append(self._on_progress)
        if len(self._shares) < config.threshold:
            return None
        shares = self._shares
        self.reset()
        try:
            keyring = self._open(tx, self._combined(shares))
        except InvalidRequest as error:
            raise Refused(error.message) from None  # that the attempt is over stands
        tx.use_keyring(keyring)
        tx.after_commit.append(lambda: self.adopt(keyring))
        return keyring

    def reset(self) -> None:
        """Forget the shares given so far."""
        self._shares, self._nonce = [], ""

    def changed(self) -> None:
        """To be called after the commit of what changed `status`."""
        self._on_progress()

    def active_term(self) -> KeyTerm:
        if self._keyring is None:
            raise Sealed
        return self._keyring.active

    def progress(self) -> UnsealProgress:
        return UnsealProgress(len(self._shares), self._nonce)

    def auto_unseal(self, view: Snapshot) -> Keyring | None:
        """The keyring, with a static seal; None when there is nothing to open or shares are needed.

        Raises InvalidRequest when the configured key is not the one.
        """
        config = self.config(view)
        if config is None or config.type == "shamir":
            if config is not None and self._settings.type != "shamir":
                raise InvalidRequest(
                    f"the data is sealed with key shares, the configuration says "
                    f"{self._settings.type}",
                    hint="seal migration is not supported yet",
                )
            return None
        if self._settings.type != config.type:
            raise InvalidRequest(
                f"the data has a seal of type {config.type}: it must be configured",
                hint="seal migration is not supported yet",
            )
        for candidate in (self._settings.current_key, self._settings.previous_key):
            if candidate:
                try:
                    return self._open(view, candidate)
                except InvalidRequest:
                    continue
        raise InvalidRequest("neither the current nor the previous static key opens the seal")

    def rewrap(self, tx: Transaction) -> bool:
        """After a change of the static key: wrap the root key with the current one."""
        raw = tx.get(_ROOT_KEY)
        if self._settings.type != "static" or raw is None or self._keyring is None:
            return False
        try:
            self._unwrap(self._static_key(), b"root-key", raw)
        except InvalidTag:
            root_key = self._keyring.root_key
            tx.put_clear(_ROOT_KEY, self._wrap(self._static_key(), b"root-key", root_key))
            return True
        return False

    def adopt(self, keyring: Keyring) -> None:
        """This keyring is in force now."""
        self._keyring, self._counted = keyring, 0
        self._on_keyring(keyring)

    def is_current(self, view: Snapshot, keyring: Keyring) -> bool:
        """Whether it is the stored keyring, as its own root key opens it."""
        raw = view.get(_KEYRING)
        if raw is None:
            return False
        try:
            stored = self._unwrap(keyring.root_key, b"keyring", raw)
        except InvalidTag:
            return False
        return hmac.compare_digest(stored, keyring.serialize())

    def seal(self, tx: Transaction) -> None:
        def forget() -> None:
            self._keyring = None
            self.reset()
            self._on_sealed()

        tx.after_commit.append(forget)

    def proves_quorum(self, view: Snapshot, shares: list[bytes]) -> bool:
        """Whether the shares combine to the unseal key (static seal: to the recovery key)."""
        config = self.config(view)
        assert config is not None, "an open server is initialised"
        combined = self._combined(shares)
        if config.type != "shamir":
            recovery = view.get(_RECOVERY)
            return recovery is not None and hmac.compare_digest(combined, recovery)
        try:
            self._open(view, combined)
        except InvalidRequest:
            return False
        return True

    # rotation

    def rotate(self, tx: Transaction, now_ms: int) -> None:
        """A new term for everything written from now on."""
        if self._keyring is None:
            raise Sealed
        keyring = self._keyring.rotated(self._random(KEY_BYTES), now_ms)
        rotation = msgspec.structs.replace(self.rotation(tx), encryptions=0)
        tx.put_clear(_KEYRING, self._wrap(keyring.root_key, b"keyring", keyring.serialize()))
        tx.use_keyring(keyring)
        tx.put(_ROTATION, msgspec.msgpack.encode(rotation))
        tx.after_commit.append(lambda: self.adopt(keyring))

    def rotation(self, view: Snapshot) -> Rotation:
        raw = view.get(_ROTATION)
        return Rotation() if raw is None else msgspec.msgpack.decode(raw, type=Rotation)

    def set_rotation(self, tx: Transaction, changes: Mapping[str, Any]) -> None:
        rotation = msgspec.structs.replace(self.rotation(tx), **changes)
        if not OPERATIONS_MIN <= rotation.max_operations <= OPERATIONS_MAX:
            raise InvalidRequest(
                f"max_operations must be in the range [{OPERATIONS_MIN},{OPERATIONS_MAX}]"
            )
        if rotation.interval_seconds and rotation.interval_seconds < INTERVAL_MIN_SECONDS:
            raise InvalidRequest("interval must be greater or equal to 24h0m0s")
        tx.put(_ROTATION, msgspec.msgpack.encode(rotation))

    def encryptions(self, view: Snapshot) -> int:
        """Under the active term, by this and earlier processes."""
        now = self._keyring.encryptions - self._counted if self._keyring else 0
        return self.rotation(view).encryptions + now

    def maintain(self, view: Snapshot, now_ms: int) -> Callable[[Transaction, int], None] | None:
        """What is to be done about rotation now: rotate, store the count, or nothing."""
        keyring = self._keyring
        if keyring is None:
            return None
        rotation = self.rotation(view)
        aged = now_ms - keyring.active.installed_ms >= rotation.interval_seconds * 1000
        by_time = rotation.interval_seconds > 0 and aged
        if rotation.enabled and (by_time or self.encryptions(view) >= rotation.max_operations):
            return self.rotate
        if keyring.encryptions - self._counted >= _COUNT_STEP:
            return self._store_count
        return None

    def _store_count(self, tx: Transaction, now_ms: int) -> None:
        assert self._keyring is not None
        total, seen = self.encryptions(tx), self._keyring.encryptions
        rotation = msgspec.structs.replace(self.rotation(tx), encryptions=total)
        tx.put(_ROTATION, msgspec.msgpack.encode(rotation))

        def counted() -> None:
            self._counted = seen

        tx.after_commit.append(counted)

    # keys

    def _static_key(self) -> bytes:
        return self._settings.current_key

    def _combined(self, shares: list[bytes]) -> bytes:
        try:
            return shamir.combine(shares)
        except ValueError:
            raise InvalidRequest("the key shares do not belong together") from None

    def _open(self, view: Snapshot, seal_key: bytes) -> Keyring:
        """From the seal key down to the keyring. Raises InvalidRequest for a wrong key."""
        root, sealed = view.get(_ROOT_KEY), view.get(_KEYRING)
        if root is None or sealed is None:
            raise Corrupt("the seal's entries are missing")
        try:
            root_key = self._unwrap(seal_key, b"root-key", root)
        except (InvalidTag, ValueError):
            raise InvalidRequest(
                "unable to retrieve stored keys: invalid key: failed to decrypt keys from storage"
            ) from None
        try:
            return Keyring.deserialize(self._unwrap(root_key, b"keyring", sealed))
        except InvalidTag:
            raise Corrupt("the keyring does not authenticate under the root key") from None

    def _wrap(self, wrapping_key: bytes, purpose: bytes, plain: bytes) -> bytes:
        nonce = self._random(NONCE_BYTES)
        sealed = AESGCM(wrapping_key).encrypt(nonce, plain, b"\x01" + purpose)
        return b"\x01" + nonce + sealed

    def _unwrap(self, wrapping_key: bytes, purpose: bytes, sealed: bytes) -> bytes:
        nonce, rest = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        return AESGCM(wrapping_key).decrypt(nonce, rest, sealed[:1] + purpose)


def check_shares(shares: int, threshold: int) -> None:
    """Raises InvalidRequest, in Vault's words."""
    problem = ""
    if shares < 1:
        problem = "shares must be at least one"
    elif shares > shamir.SHARES_MAX:
        problem = "shares must be less than 256"
    elif threshold < 1:
        problem = "threshold must be at least one"
    elif threshold > shares:
        problem = "threshold cannot be larger than shares"
    elif shares > 1 and threshold == 1:
        problem = "threshold must be greater than one for multiple shares"
    if problem:
        raise InvalidRequest(f"invalid seal configuration: {problem}")


def parse_share(text: str) -> bytes:
    """A share in hex or base64. Raises InvalidRequest, never repeating it."""
    for decode in (bytes.fromhex, lambda t: b64decode(t, validate=True)):
        try:
            share: bytes = decode(text.strip())
        except (ValueError, binascii.Error):
            continue
        if share:
            return share
    raise InvalidRequest("'key' must be a valid hex or base64 string")
