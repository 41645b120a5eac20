"""The seal: what opens the barrier, and closes it. Lives in the writer's process.

    shamir   shares of a key combine to the key that wraps the root key; people unseal
    static   a key of the configuration wraps the root key; the server unseals itself at start

The root key wraps the keyring, so the seal can change without a byte of data being rewritten.

What is read to decide comes from the request's transaction, never from memory, since another
request of the same commit may have written it; what changes in memory changes after the commit
stands. Only the progress of an attempt is memory alone: it advances, or is lost, whatever becomes
of the request.
"""

import os
import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from undercroft.barrier.aead import NotOpened
from undercroft.barrier.keyring import KEY_BYTES, Keyring
from undercroft.barrier.renewal import Renewal
from undercroft.barrier.root_generation import OpenSlot, Slot
from undercroft.barrier.seal_store import (
    SealConfig,
    StoredKeyring,
    check_recovery_key,
    open_keyring,
    open_root_key,
    read_config,
    wrapped_root_key,
    write_config,
    write_keyring,
    write_recovery_key,
    write_root_key,
)
from undercroft.barrier.shamir import SHARES_MAX, split
from undercroft.barrier.shares import Collected, check_share
from undercroft.errors import Corrupt, InvalidRequest
from undercroft.node.state import UnsealProgress
from undercroft.storage.view import Snapshot, Transaction

SHAMIR: Final = "shamir"
STATIC: Final = "static"

_WRONG_SHARES: Final = "invalid key: these shares do not combine to the key of this server"


class SealSettings(Protocol):
    """The `seal` stanza; keys are 32 bytes, and only `static` has them."""

    @property
    def type(self) -> str: ...
    @property
    def current_key_id(self) -> str: ...
    @property
    def current_key(self) -> bytes: ...
    @property
    def previous_key_id(self) -> str: ...
    @property
    def previous_key(self) -> bytes: ...


class Initialized(msgspec.Struct, frozen=True):
    """What init answers, once: nobody can read any of it again."""

    shares: tuple[bytes, ...]
    recovery_shares: tuple[bytes, ...]
    root_token: str

    def __repr__(self) -> str:
        return f"<Initialized shares={len(self.shares)}>"


class SealManager:
    """One per node. `on_keyring` is told the keyring that is in force from now on (unsealed, or
    rotated), `on_sealed` that there is none; both after the commit that did it.

    `on_progress` hears of everything else that `status` shows. `bootstrap` writes what a new
    cluster starts with, inside the transaction of init, and answers the root token: if any of it
    fails, nothing of it is there (TOK-18).
    """

    def __init__(
        self,
        settings: SealSettings,
        *,
        on_keyring: Callable[[Keyring], None],
        on_sealed: Callable[[], None],
        on_progress: Callable[[], None],
        bootstrap: Callable[[Transaction, int], str],
    ) -> None:
        _check_settings(settings)
        self._settings = settings
        self._on_sealed = on_sealed
        self._on_progress = on_progress
        self._bootstrap = bootstrap
        self.renewal = Renewal(on_keyring)
        self._unsealing = Collected()
        self._unseal_nonce = ""
        self.root_generation = Slot()
        self.open_root_generation = OpenSlot()

    def __repr__(self) -> str:
        return f"<SealManager {self._settings.type} unsealed={self.unsealed}>"

    # what there is

    @property
    def unsealed(self) -> bool:
        return self.renewal.keyring is not None

    def status(self, view: Snapshot) -> dict[str, Any]:
        """Fields of NodeState, all but those that the node knows better (`sealed`, names)."""
        config = read_config(view)
        kind = self._settings.type if config is None else config.type
        return {
            "initialized": config is not None,
            "seal_type": kind,
            "shares": 0 if config is None else config.shares,
            "threshold": 0 if config is None else config.threshold,
            "unseal": UnsealProgress(len(self._unsealing), self._unseal_nonce),
            "recovery_seal": kind != SHAMIR,
        }

    def required_shares(self, view: Snapshot) -> int:
        """How many shares prove that the operators agree; 0: there are none to prove it with."""
        return self._config(view).threshold

    # init

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
        """Make the keys of a new cluster and write all that it starts with.

        Afterwards a shamir server is still sealed; a static one opens with the commit. Raises
        InvalidRequest for counts out of range, and when there is a cluster already.
        """
        asked = self._checked_config(shares, threshold, recovery_shares, recovery_threshold)
        if read_config(tx) is not None:
            raise InvalidRequest("Vault is already initialized")
        keyring = Keyring.generate(now_ms)
        tx.use_keyring(keyring)
        write_config(tx, asked)
        made = self._protect_root_key(tx, asked, keyring.root_key)
        token = self._bootstrap(tx, now_ms)
        stored = StoredKeyring(keyring.terms, keyring.encryptions)
        write_keyring(tx, stored, keyring.root_key)
        if asked.type == STATIC:
            tx.after_commit.append(lambda: self.adopt(keyring))
            return Initialized((), made, token)
        tx.after_commit.append(self._on_progress)
        return Initialized(made, (), token)

    def _checked_config(
        self, shares: int, threshold: int, recovery_shares: int, recovery_threshold: int
    ) -> SealConfig:
        shamir = {"secret_shares": shares, "secret_threshold": threshold}
        recovery = {"recovery_shares": recovery_shares, "recovery_threshold": recovery_threshold}
        kind = self._settings.type
        wrong = [name for name, n in (recovery if kind == SHAMIR else shamir).items() if n]
        if wrong:
            raise InvalidRequest(f"parameters {','.join(wrong)} not applicable to seal type {kind}")
        if kind == SHAMIR:
            check_counts(shares, threshold, "seal")
            return SealConfig(SHAMIR, shares, threshold)
        if recovery_shares or recovery_threshold:
            check_counts(recovery_shares, recovery_threshold, "recovery")
        return SealConfig(STATIC, recovery_shares, recovery_threshold)

    def _protect_root_key(
        self, tx: Transaction, config: SealConfig, root_key: bytes
    ) -> tuple[bytes, ...]:
        """Wrap it by the seal; answers the shares (of the recovery key, when that is static)."""
        if config.type == SHAMIR:
            seal_key = os.urandom(KEY_BYTES)
            write_root_key(tx, config, "", seal_key, root_key)
            return _shares_of(seal_key, config)
        settings = self._settings
        write_root_key(tx, config, settings.current_key_id, settings.current_key, root_key)
        if not config.shares:
            return ()
        recovery_key = os.urandom(KEY_BYTES)
        write_recovery_key(tx, config, recovery_key)
        return _shares_of(recovery_key, config)

    # unseal

    def unseal(self, tx: Transaction, share: bytes) -> None:
        """One more share; `status` tells how far it has come.

        The last share opens the seal once `tx` is committed. Shares that do not fit are forgotten
        all together, as nobody can tell which was wrong. Raises InvalidRequest.
        """
        config = self._config(tx)
        if self.unsealed:
            return
        if config.type != SHAMIR:
            raise InvalidRequest(
                "this server is unsealed by the key of its configuration",
                hint="it does so when it starts: restart it",
            )
        check_share(share)
        self._collect(tx, config, share)

    def reset(self) -> None:
        """Forget the shares given so far. Raises InvalidRequest when nobody is giving any."""
        if self.unsealed:
            raise InvalidRequest("vault is unsealed")
        self._forget_unsealing()
        self._on_progress()

    def _collect(self, tx: Transaction, config: SealConfig, share: bytes) -> None:
        if not self._unsealing.add(share):
            return
        self._unseal_nonce = self._unseal_nonce or str(uuid.uuid4())
        if len(self._unsealing) < config.threshold:
            self._on_progress()
            return
        collected = self._unsealing
        self._forget_unsealing()
        try:
            keyring = self._open_with(tx, config, collected.combine())
        except InvalidRequest:
            self._on_progress()
            raise
        tx.after_commit.append(lambda: self.adopt(keyring))

    def auto_unseal(self, view: Snapshot) -> Keyring | None:
        """The keyring of a static seal; None where people unseal, or before init.

        Raises InvalidRequest when the configuration's seal or key is not the store's.
        """
        config = read_config(view)
        if config is None:
            return None
        self._check_type(config)
        if config.type == SHAMIR:
            return None
        return self._open_with(view, config, self._static_key(wrapped_root_key(view).key_id))

    def adopt(self, keyring: Keyring) -> None:
        """This keyring, of `auto_unseal` or `recover`, is in force from now on."""
        self._forget_unsealing()
        self.renewal.open(keyring)

    def rewrap(self, tx: Transaction) -> bool:
        """Wrap the root key by the current static key, if the previous one still does."""
        config, settings = self._config(tx), self._settings
        if config.type != STATIC or wrapped_root_key(tx).key_id == settings.current_key_id:
            return False
        root_key = self.renewal.opened().root_key
        write_root_key(tx, config, settings.current_key_id, settings.current_key, root_key)
        return True

    def recover(self, view: Snapshot, offered: Keyring) -> Keyring | None:
        """The store's keyring, opened by the root key that another process of the node still had.

        None when it is not the root key of this store.
        """
        if read_config(view) is None:
            return None
        try:
            stored = open_keyring(view, offered.root_key)
        except NotOpened:
            return None
        keyring = stored.keyring(offered.root_key)
        if keyring.active.term == offered.active.term:
            keyring.encryptions = max(keyring.encryptions, offered.encryptions)
        return keyring

    def check_shares(self, view: Snapshot, combined: bytes) -> None:
        """Is this the key that the operators' shares (of unseal, or recovery) combine to?

        Raises InvalidRequest when it is not.
        """
        config = self._config(view)
        try:
            if config.type == SHAMIR:
                open_root_key(view, config, combined)
            else:
                check_recovery_key(view, config, combined)
        except NotOpened:
            raise InvalidRequest(_WRONG_SHARES) from None

    def _open_with(self, view: Snapshot, config: SealConfig, seal_key: bytes) -> Keyring:
        self._check_type(config)
        try:
            root_key = open_root_key(view, config, seal_key)
        except NotOpened:
            if config.type == SHAMIR:
                raise InvalidRequest(_WRONG_SHARES) from None
            raise InvalidRequest(
                "the static seal's key does not open this store",
                hint="current_key must be the key that was current_key_id when it was sealed",
            ) from None
        try:
            stored = open_keyring(view, root_key)
        except NotOpened:
            raise Corrupt("the stored keyring does not open under its root key") from None
        return stored.keyring(root_key)

    def _static_key(self, key_id: str) -> bytes:
        settings = self._settings
        if key_id == settings.current_key_id:
            return settings.current_key
        if settings.previous_key_id and key_id == settings.previous_key_id:
            return settings.previous_key
        raise InvalidRequest(
            "the store is sealed by a static key that the configuration does not name",
            hint="give that key as previous_key, with its id as previous_key_id",
        )

    def _check_type(self, config: SealConfig) -> None:
        if config.type != self._settings.type:
            raise InvalidRequest(
                f"the store was initialised with seal {config.type}, and the configuration says "
                f"{self._settings.type}",
                hint="moving data from one seal to another is not supported",
            )

    # seal

    def seal(self, tx: Transaction, now_ms: int) -> None:
        """Close it once `tx` is committed; every process has dropped its keys when it answers."""
        self.renewal.save_count(tx, now_ms)
        tx.after_commit.append(self._closed)

    # rotation

    def maintain(
        self, view: Snapshot, now_ms: int, *, may_rotate: bool = True
    ) -> Callable[[Transaction, int], None] | None:
        """What the writer should commit now, asked now and then; None: nothing."""
        return self.renewal.due(view, now_ms, may_rotate=may_rotate)

    # what a commit brings about

    def _closed(self) -> None:
        self.renewal.close()
        self._forget_unsealing()
        self.root_generation.cancel()
        self.open_root_generation.cancel()
        self._on_sealed()

    # inside

    def _forget_unsealing(self) -> None:
        self._unsealing, self._unseal_nonce = Collected(), ""

    def _config(self, view: Snapshot) -> SealConfig:
        config = read_config(view)
        if config is None:
            raise InvalidRequest("Vault is not initialized")
        return config


def check_counts(shares: int, threshold: int, what: str) -> None:
    """Raises InvalidRequest with Vault's words."""
    problem = ""
    if shares < 1:
        problem = "shares must be at least one"
    elif threshold < 1:
        problem = "threshold must be at least one"
    elif shares > SHARES_MAX:
        problem = "shares must be less than 256"
    elif threshold > SHARES_MAX:
        problem = "threshold must be less than 256"
    elif threshold > shares:
        problem = "threshold cannot be larger than shares"
    elif shares > 1 and threshold == 1:
        problem = "threshold must be greater than one for multiple shares"
    if problem:
        raise InvalidRequest(f"invalid {what} configuration: {problem}")


def _shares_of(key: bytes, config: SealConfig) -> tuple[bytes, ...]:
    return tuple(split(key, config.shares, config.threshold))


def _check_settings(settings: SealSettings) -> None:
    if settings.type == SHAMIR:
        return
    if settings.type != STATIC:
        raise InvalidRequest("the seal must be shamir or static")
    if not settings.current_key_id or len(settings.current_key) != KEY_BYTES:
        raise InvalidRequest("the static seal needs current_key_id and 32 bytes of current_key")
    if settings.previous_key_id == settings.current_key_id:
        raise InvalidRequest("previous_key_id must differ from current_key_id")
    if bool(settings.previous_key_id) != (len(settings.previous_key) == KEY_BYTES):
        raise InvalidRequest("previous_key_id goes with 32 bytes of previous_key")
