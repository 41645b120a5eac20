"""The mount table: which engine serves which path.

One entry a mount, below SYSTEM: `mounts/<uuid>` in the shared keyspace, or in the local one for
mounts with `local=true`. Built per generation (DESIGN idea 6); routing is a dictionary look-up.
"""

import os
import uuid
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from undercroft.errors import InvalidRequest
from undercroft.storage.keys import (
    CUBBYHOLE,
    HEAD_BYTES,
    LOCAL,
    MOUNT_ID_BYTES,
    SHARED,
    SYSTEM,
    TOKENS,
)
from undercroft.storage.view import Snapshot, Space, Transaction

_PREFIX: Final = "mounts/"
# Paths that belong to the server, with and without anything below them.
_PROTECTED: Final = ("sys/", "cubbyhole/", "auth/", "identity/", "audit/")


class MountConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tuning of a mount; 0 and None mean: the system's."""

    default_lease_ttl: int = 0  # seconds
    max_lease_ttl: int = 0
    force_no_cache: bool = False
    listing_visibility: str = ""  # "", "hidden" or "unauth"
    audit_non_hmac_request_keys: list[str] | None = None
    audit_non_hmac_response_keys: list[str] | None = None
    passthrough_request_headers: list[str] | None = None
    allowed_response_headers: list[str] | None = None
    token_type: str = "default-service"  # noqa: S105
    user_lockout_config: dict[str, Any] | None = None


class Mount(msgspec.Struct, frozen=True):
    """One mount. `path` ends in a slash; auth mounts' paths begin with `auth/`."""

    id: bytes  # 16 bytes, the part of every key
    path: str
    type: str  # engine: "kv", "cubbyhole", "system", "token", "userpass" …
    accessor: str
    description: str = ""
    config: MountConfig = MountConfig()
    options: dict[str, str] | None = None  # e.g. {"version": "2"}
    local: bool = False
    seal_wrap: bool = False
    external_entropy_access: bool = False

    @property
    def keyspace(self) -> bytes:
        return LOCAL if self.local else SHARED

    @property
    def auth(self) -> bool:
        return self.path.startswith("auth/")

    @property
    def uuid(self) -> str:
        text = self.id.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Table:
    """All mounts of one generation."""

    def __init__(self, mounts: Mapping[str, Mount]) -> None:
        self.mounts = mounts
        self._depth = max((path.count("/") for path in mounts), default=0)

    def match(self, path: str) -> Mount | None:
        """The mount whose path is the longest prefix of `path`; a path may lack the last slash."""
        mounts, end, found = self.mounts, -1, None
        for _ in range(self._depth):
            end = path.find("/", end + 1)
            if end < 0:
                return mounts.get(path + "/") or found
            found = mounts.get(path[: end + 1]) or found
        return found

    def conflict(self, path: str) -> str:
        """The mounted path that `path` would lie above or below, or an empty text."""
        found = self.match(path)
        if found is not None:
            return found.path
        return next((p for p in self.mounts if p.startswith(path)), "")

    def by_accessor(self, accessor: str) -> Mount | None:
        return next((m for m in self.mounts.values() if m.accessor == accessor), None)


class MountTable:
    """Reads the table of a view, and changes it in a transaction."""

    def __init__(self) -> None:
        self._generation = -1
        self._table = Table({})

    def table(self, view: Snapshot) -> Table:
        """The view's table; rebuilt only when the generation has moved."""
        if view.writable and cast(Transaction, view).writes:
            return self._read(view)  # the request itself may have changed it
        generation = view.generation
        if generation != self._generation:
            self._table = self._read(view)
            self._generation = generation
        return self._table

    def forget(self) -> None:
        """Drop what is cached (seal)."""
        self._generation, self._table = -1, Table({})

    def _read(self, view: Snapshot) -> Table:
        mounts: dict[str, Mount] = {}
        for keyspace in (SHARED, LOCAL):  # a local mount shadows a shared one
            for mount in view.read_all(keyspace + SYSTEM + _PREFIX.encode(), Mount):
                mounts[mount.path] = mount
        return Table(mounts)

    def shadowed(self, view: Snapshot) -> list[str]:
        """Paths of shared mounts that a local one of this cluster hides."""
        paths = [
            {m.path for m in view.read_all(keyspace + SYSTEM + _PREFIX.encode(), Mount)}
            for keyspace in (LOCAL, SHARED)
        ]
        return sorted(paths[0] & paths[1])

    def put(self, tx: Snapshot, mount: Mount) -> None:
        Space(tx, mount.keyspace, SYSTEM).write(_PREFIX + mount.uuid, mount)

    def remove(self, tx: Snapshot, mount: Mount) -> None:
        Space(tx, mount.keyspace, SYSTEM).delete(_PREFIX + mount.uuid)

    def bootstrap(self, tx: Snapshot) -> None:
        """The mounts that every cluster has from its first moment."""
        sys_config = MountConfig(passthrough_request_headers=["Accept"])
        for mount in (
            Mount(
                SYSTEM,
                "sys/",
                "system",
                new_accessor("system"),
                "system endpoints used for control, policy and debugging",
                sys_config,
                seal_wrap=True,
            ),
            Mount(
                TOKENS,
                "auth/token/",
                "token",
                new_accessor("auth_token"),
                "token based credentials",
            ),
        ):
            self.put(tx, mount)
        bootstrap_local(tx)


def bootstrap_local(tx: Snapshot) -> None:
    """The local part of that: a secondary gets the rest from its primary."""
    mount = Mount(
        CUBBYHOLE,
        "cubbyhole/",
        "cubbyhole",
        new_accessor("cubbyhole"),
        "per-token private secret storage",
        local=True,
    )
    Space(tx, LOCAL, SYSTEM).write(_PREFIX + mount.uuid, mount)


def mount_id_of(key: bytes) -> bytes:
    """The id of the mount whose entry in the table has that key."""
    return uuid.UUID(key[HEAD_BYTES + len(_PREFIX) :].decode()).bytes


def new_accessor(kind: str) -> str:
    return f"{kind}_{os.urandom(4).hex()}"


def new_mount_id() -> bytes:
    return os.urandom(MOUNT_ID_BYTES)


def check_new_path(table: Table, path: str, *, auth: bool) -> None:
    """Raises InvalidRequest when nothing may be mounted at `path` (which ends in a slash)."""
    if not auth and path.startswith(_PROTECTED):
        raise InvalidRequest(f'cannot mount "{path}"')
    conflict = table.conflict(path)
    if conflict:
        raise InvalidRequest(f"path is already in use at {conflict.removeprefix('auth/')}")


def check_removable(mount: Mount) -> None:
    if mount.id in (SYSTEM, CUBBYHOLE):
        raise InvalidRequest(f'cannot unmount "{mount.path}"')
    if mount.id == TOKENS:
        raise InvalidRequest("token credential backend cannot be disabled")
