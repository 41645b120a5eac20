"""The token store: issue, look up, use, renew, revoke.

Holds no state of its own: the salt and every entry are read from the view that the caller brings,
so all processes and all clusters that hold the same data answer alike. Invariants: TTL-FINITE
(`lifetimes.py`), CHAIN (`token_tree.py`), ROOT-BY-INTENT: a token with the policy root comes only
from `issue_root`, or from `issue` on behalf of a root token, and one that never ends only from one
that never ends.
"""

import os
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from undercroft.errors import InvalidRequest, PermissionDenied
from undercroft.request import token_tree
from undercroft.request.batch_tokens import open_batch, seal_batch
from undercroft.request.bound_cidrs import check_cidrs, is_within
from undercroft.request.lifetimes import Lifetime, Limits, Wish, lifetime
from undercroft.request.model import Auth
from undercroft.request.mounts import Mount
from undercroft.request.policy_names import check_policy_names
from undercroft.request.token_entry import (
    BATCH_PREFIX,
    ID_PREFIX,
    SALT_KEY,
    SPENT,
    WRAPPING_POLICY,
    TokenEntry,
    accessor_of,
    child_key,
    id_key,
    new_id,
    queue_key,
)
from undercroft.storage.view import Snapshot, Transaction

__all__ = ["Limits", "TokenEntry", "TokenStore"]

_SALT_BYTES: Final = 32
# Longer than any id issued: a batch token with 200 policies has about 4 KiB, and a header 32 KiB.
_ID_CHARS_MAX: Final = 1024
_ACCESSOR: Final = re.compile(r"[0-9a-f]{32}")


def make_salt(tx: Transaction) -> None:
    """What the token space of a new store begins with."""
    tx.put(SALT_KEY, msgspec.msgpack.encode(os.urandom(_SALT_BYTES)))


class TokenStore:
    """`limits` are the system's TTLs, from the configuration."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self.limits = limits

    # looking up

    def lookup(self, view: Snapshot, token: str, now_ms: int) -> TokenEntry | None:
        """The token's entry; None: unknown, malformed, expired, spent, or an ancestor is gone."""
        if token.startswith(BATCH_PREFIX):
            entry = open_batch(view, token)
        elif 0 < len(token) <= _ID_CHARS_MAX:
            try:
                accessor = accessor_of(view, token)
            except UnicodeEncodeError:  # a lone surrogate
                return None
            entry = view.read(ID_PREFIX + accessor.encode(), TokenEntry)
        else:
            return None
        if entry is None or not entry.is_live(now_ms):
            return None
        return entry if _chain_is_live(view, entry, now_ms) else None

    def lookup_accessor(self, view: Snapshot, accessor: str, now_ms: int) -> TokenEntry | None:
        """By accessor; batch tokens have none."""
        if _ACCESSOR.fullmatch(accessor) is None:
            return None
        entry = view.read(id_key(accessor), TokenEntry)
        if entry is None or not entry.is_live(now_ms):
            return None
        return entry if _chain_is_live(view, entry, now_ms) else None

    def authenticate(
        self, view: Snapshot, token: str, remote_address: str, now_ms: int
    ) -> TokenEntry:
        """The entry of a token that may call from there. Raises PermissionDenied, always alike.

        A wrapping token is no caller (WRAP-02): only the handlers of sys/wrapping take it.
        """
        entry = self.lookup(view, token, now_ms)
        if entry is None or entry.is_wrapping or not self.check_bound(entry, remote_address):
            raise PermissionDenied
        return entry

    def accessors(self, view: Snapshot) -> list[str]:
        """All of them, sorted; of tokens that expired and still wait to be reaped, too."""
        return view.children(ID_PREFIX)

    def check_bound(self, entry: TokenEntry, remote_address: str) -> bool:
        """Whether the token may be used from there."""
        return not entry.bound_cidrs or is_within(remote_address, entry.bound_cidrs)

    def limits_of(self, mount: Mount) -> Limits:
        """The TTLs that hold for tokens of a mount."""
        return self.limits.within_mount(mount.config.default_lease_ttl, mount.config.max_lease_ttl)

    # issuing

    def bootstrap(self, tx: Transaction, now_ms: int, root_id: str = "") -> str:
        """Write the salt and the first root token of a new store; answers that token's id."""
        make_salt(tx)
        return self.issue_root(tx, now_ms, root_id)

    def issue_root(self, tx: Snapshot, now_ms: int, root_id: str = "", path: str = "") -> str:
        """A root token that never ends, an orphan. `root_id` is for -dev-root-token-id."""
        entry = TokenEntry(
            accessor="",
            policies=("root",),
            path=path or "auth/token/root",
            display_name="root",
            created_ms=now_ms,
            expires_ms=0,
            ttl_seconds=0,
        )
        return _store_new(tx, entry, root_id)[0]

    def issue(
        self,
        tx: Snapshot,
        auth: Auth,
        mount: Mount,
        now_ms: int,
        *,
        path: str,
        parent: TokenEntry | None = None,
        remote_address: str = "",
        role: str = "",
        token_id: str = "",
        maker: TokenEntry | None = None,
    ) -> list[str]:
        """Issue the token that `auth` describes and fill in the rest of it; answers warnings.

        `parent` None makes an orphan; `maker` is the token that asks for another. `auth.policies`
        are as the method wants them; `default` is added here unless it said not to. Raises
        InvalidRequest for what no token may have.
        """
        policies = _policies_of(auth, maker)
        batch = auth.token_type == "batch"  # noqa: S105
        if batch:
            _check_batch(auth, policies)
        life = self._first_lifetime(auth, mount, now_ms, policies, maker)
        entry = TokenEntry(
            accessor="",
            policies=tuple(policies),
            path=path,
            display_name=_display_name(auth, mount),
            created_ms=now_ms,
            expires_ms=life.expires_ms,
            ttl_seconds=life.ttl_seconds,
            parent=parent.accessor if parent else "",
            meta=auth.metadata or None,
            num_uses=auth.num_uses,
            renewable=auth.renewable and not batch and life.expires_ms != 0,
            period_seconds=auth.period_seconds,
            explicit_max_ttl_seconds=auth.explicit_max_ttl_seconds,
            max_ttl_seconds=auth.max_ttl_seconds,
            renew_ttl_seconds=life.ttl_seconds,
            bound_cidrs=_bound(auth, remote_address),
            type="batch" if batch else "service",
            role=role,
            entity_id=auth.entity_id,
            mount_id=mount.id,
        )
        if batch:
            auth.client_token = seal_batch(tx, entry)
        else:
            auth.client_token, entry = _store_new(tx, entry, token_id)
        _fill(auth, entry, life.ttl_seconds)
        return list(life.warnings)

    def _first_lifetime(
        self,
        auth: Auth,
        mount: Mount,
        now_ms: int,
        policies: list[str],
        maker: TokenEntry | None,
    ) -> Lifetime:
        wish = _wish_of(auth)
        if policies == ["root"] and wish == Wish():
            if maker is None or maker.expires_ms:
                raise InvalidRequest("expiring root tokens cannot create non-expiring root tokens")
            return Lifetime(0, 0, ())
        return lifetime(now_ms, now_ms, self.limits_of(mount), wish)

    def issue_wrapping(
        self, tx: Snapshot, path: str, ttl_seconds: int, now_ms: int
    ) -> tuple[str, TokenEntry]:
        """A token that can do nothing but fetch one wrapped answer, once (`wrapping.py`)."""
        entry = TokenEntry(
            accessor="",
            policies=(WRAPPING_POLICY,),
            path=path,
            display_name="wrapping",
            created_ms=now_ms,
            expires_ms=now_ms + ttl_seconds * 1000,
            ttl_seconds=ttl_seconds,
            num_uses=1,
            explicit_max_ttl_seconds=ttl_seconds,
        )
        return _store_new(tx, entry, "")

    # using, renewing

    def use(self, tx: Snapshot, entry: TokenEntry, now_ms: int) -> TokenEntry:
        """Count one use of a token with a use limit; answers the entry as the request sees it.

        To be accepted whatever becomes of the request. After the last use the token is refused, the
        request that took it goes on (`num_uses` is SPENT), and the queue revokes what hangs on it:
        its cubbyhole is still there for this request. Raises PermissionDenied when another
        request took the last use first.
        """
        if entry.num_uses == 0:
            return entry
        current = tx.read(id_key(entry.accessor), TokenEntry)
        if current is None or not current.is_live(now_ms):
            raise PermissionDenied
        left = current.num_uses - 1 or SPENT
        used = msgspec.structs.replace(current, num_uses=left)
        tx.put(id_key(used.accessor), msgspec.msgpack.encode(used), used.expires_ms)
        if left == SPENT:
            tx.put(queue_key(used.accessor), b"")
        return used

    def renew(
        self,
        tx: Snapshot,
        entry: TokenEntry,
        increment_seconds: int,
        now_ms: int,
        limits: Limits,
        wish: Wish | None = None,
    ) -> tuple[TokenEntry, Lifetime]:
        """Move a token's end. `wish` is what its method grants today, None: as at issue.

        Raises InvalidRequest: not renewable, or past its maximum.
        """
        if entry.type == "batch":
            raise InvalidRequest("batch tokens cannot be renewed")
        if not entry.renewable or not entry.expires_ms:
            raise InvalidRequest("lease is not renewable")
        wish = wish or Wish(
            0, entry.period_seconds, entry.max_ttl_seconds, entry.explicit_max_ttl_seconds
        )
        explicit = _least_set(wish.explicit_max, entry.explicit_max_ttl_seconds)
        ttl = increment_seconds or wish.ttl or entry.renew_ttl_seconds
        wish = wish._replace(ttl=ttl, explicit_max=explicit)
        life = lifetime(now_ms, entry.created_ms, limits, wish)
        renewed = msgspec.structs.replace(
            entry,
            expires_ms=life.expires_ms,
            renew_ttl_seconds=life.ttl_seconds,
            last_renewal_ms=now_ms,
        )
        tx.put(id_key(renewed.accessor), msgspec.msgpack.encode(renewed), renewed.expires_ms)
        return renewed, life

    # ending

    def revoke(self, tx: Snapshot, accessor: str) -> None:
        """End a token and all below it. Nothing happens when there is none."""
        token_tree.revoke_tree(tx, [accessor])

    def revoke_orphan(self, tx: Snapshot, entry: TokenEntry) -> None:
        """End a token; its children live on as orphans."""
        token_tree.orphan_children(tx, entry)

    def reap(self, tx: Snapshot, full_keys: Iterable[bytes], now_ms: int) -> None:
        """Revoke what the expiry index says is due. Keys that are not of tokens are left alone."""
        due: list[str] = []
        for key in full_keys:
            entry = tx.read(key, TokenEntry) if key.startswith(ID_PREFIX) else None
            if entry is not None and 0 < entry.expires_ms <= now_ms:
                due.append(entry.accessor)
        if due:
            token_tree.revoke_tree(tx, due)

    def revoke_mount(self, tx: Snapshot, mount_id: bytes) -> None:
        """End every token that came by a mount (it is being disabled), by `continue_work`."""
        token_tree.revoke_mount(tx, mount_id)

    def tidy(self, tx: Snapshot) -> None:
        """Look for tokens and index entries that should not be there, by `continue_work`."""
        token_tree.start_tidy(tx)

    def has_work(self, view: Snapshot) -> bool:
        """Whether `continue_work` would find something."""
        return token_tree.has_work(view)

    def continue_work(self, tx: Transaction) -> bool:
        """One bounded step of queued revocations, for the writer's idle time; True: call again."""
        return token_tree.continue_work(tx)


def _chain_is_live(view: Snapshot, entry: TokenEntry, now_ms: int) -> bool:
    """Invariant CHAIN: every ancestor lives, up to an orphan or one that let its children go.

    A token that came by a mount which is disabled now ends at once, though the sweep takes time.
    """
    parent = entry.parent
    if token_tree.is_mount_leaving(view, entry.mount_id):
        return False
    while parent:
        above = view.read(id_key(parent), TokenEntry)
        if above is None:
            return False
        if above.leaving:
            return True
        if not above.is_live(now_ms) or token_tree.is_mount_leaving(view, above.mount_id):
            return False
        parent = above.parent
    return True


def _store_new(tx: Snapshot, entry: TokenEntry, token_id: str) -> tuple[str, TokenEntry]:
    """Give the entry an id and store it, and below its parent; answers id and entry."""
    token_id = token_id or new_id()
    accessor = accessor_of(tx, token_id)
    key = id_key(accessor)
    if tx.exists(key):
        raise InvalidRequest("cannot create a token with a duplicate ID")
    entry = msgspec.structs.replace(entry, accessor=accessor)
    tx.put(key, msgspec.msgpack.encode(entry), entry.expires_ms)
    if entry.parent:
        tx.put(child_key(entry.parent, accessor), b"")
    return token_id, entry


def _policies_of(auth: Auth, maker: TokenEntry | None) -> list[str]:
    policies = check_policy_names(auth.policies, root=True)
    if "root" in policies:
        if maker is None or not maker.is_root:
            raise InvalidRequest("auth methods cannot create root tokens")
        return ["root"]
    if WRAPPING_POLICY in policies:
        raise InvalidRequest(f'cannot assign policy "{WRAPPING_POLICY}"')
    if not auth.no_default_policy and "default" not in policies:
        policies = sorted([*policies, "default"])
    return policies


def _check_batch(auth: Auth, policies: list[str]) -> None:
    """Nothing that a batch token cannot keep account of."""
    if policies == ["root"]:
        raise InvalidRequest("batch tokens cannot be root tokens")
    for name, value in (
        ("period", auth.period_seconds),
        ("explicit_max_ttl", auth.explicit_max_ttl_seconds),
        ("num_uses", auth.num_uses),
    ):
        if value:
            raise InvalidRequest(f'batch tokens cannot have "{name}" set')


def _bound(auth: Auth, remote_address: str) -> tuple[str, ...]:
    if auth.strictly_bind_ip:
        return tuple(check_cidrs([remote_address], "remote address"))
    return tuple(check_cidrs(auth.bound_cidrs, "bound_cidrs")) if auth.bound_cidrs else ()


def _wish_of(auth: Auth) -> Wish:
    return Wish(
        ttl=auth.ttl_seconds,
        period=auth.period_seconds,
        role_max=auth.max_ttl_seconds,
        explicit_max=auth.explicit_max_ttl_seconds,
    )


def _display_name(auth: Auth, mount: Mount) -> str:
    """A login's name carries its mount's: `userpass-alice`."""
    if mount.type == "token":
        return auth.display_name
    return (mount.path.removeprefix("auth/").replace("/", "-") + auth.display_name).rstrip("-")


def _fill(auth: Auth, entry: TokenEntry, lease_seconds: int) -> None:
    auth.accessor = entry.accessor
    auth.policies = auth.token_policies = list(entry.policies)
    auth.lease_duration = lease_seconds
    auth.renewable = entry.renewable
    auth.orphan = entry.orphan
    auth.display_name = entry.display_name


def _least_set(a: int, b: int) -> int:
    return min(a, b) if a and b else a or b
