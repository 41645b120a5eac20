"""The KV engine: a mount's option `version` chooses between the two."""

from dataclasses import replace
from typing import Final

from undercroft.engines.base import Engine
from undercroft.engines.kv import v1, v2
from undercroft.errors import InvalidRequest
from undercroft.request.mounts import Mount


def engine_for(mount: Mount) -> Engine:
    return v2.ENGINE if (mount.options or {}).get("version") == "2" else v1.ENGINE


def check(mount: Mount, before: Mount | None = None) -> None:
    """Raises InvalidRequest for a version that does not exist or a change of the version."""
    version = (mount.options or {}).get("version", "1")
    if version not in ("1", "2"):
        raise InvalidRequest("the kv engine has the versions 1 and 2", hint="see options.version")
    if before is not None and engine_for(before) is not engine_for(mount):
        raise InvalidRequest(
            "cannot upgrade or downgrade the version of a mount",
            hint="mount the other version at a new path and copy the data",
        )


ENGINE: Final = replace(v1.ENGINE, variant=engine_for, check=check)
