"""KV: one engine type, two route tables. A mount's option `version` says which it gets."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from undercroft.engines.base import Engine
from undercroft.engines.kv import v1, v2
from undercroft.errors import InvalidRequest

if TYPE_CHECKING:
    from undercroft.request.mounts import Mount


def version_of(mount: "Mount") -> str:
    """`"1"` or `"2"`; what a mount does not say is 1, as in Vault."""
    return (mount.options or {}).get("version") or "1"


def engine_for(mount: "Mount") -> Engine:
    return v2.ENGINE if version_of(mount) == "2" else v1.ENGINE


def check(mount: "Mount", before: "Mount | None") -> None:
    """Raises InvalidRequest for a version that is none, and for a mount that would change its own.

    The two versions store differently: a mount that changed would seem to have lost its secrets.
    """
    version = version_of(mount)
    if version not in ("1", "2"):
        raise InvalidRequest('options.version: a KV mount has version "1" or "2"')
    if before is not None and version_of(before) != version:
        raise InvalidRequest(
            "options.version: the version of a KV mount cannot be changed",
            hint="enable a new mount with the other version and copy the secrets",
        )


ENGINE: Final = replace(v1.ENGINE, variant=engine_for, check=check)
