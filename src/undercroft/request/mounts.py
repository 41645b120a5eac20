"""The mount table: which engine serves which path.

One entry a mount, below SYSTEM: `mounts/<uuid>` in the shared keyspace, or in the local one for
mounts with `local=true`. Built per generation (DESIGN idea 6); routing is a dictionary look-up.
"""

from typing import Any

import msgspec

from undercroft.storage.keys import LOCAL, SHARED


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
