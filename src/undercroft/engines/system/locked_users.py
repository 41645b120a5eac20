"""sys/locked-users: who is locked out after failed logins, and letting one in again."""

from typing import Any, Final

from undercroft.engines.base import Call, Field, Route, reads, writes
from undercroft.request.lockouts import forget_failures, locked_users
from undercroft.request.model import Response


def read(call: Call) -> Response:
    """Counts and names by auth mount, or of the one mount whose accessor is given."""
    wanted = call.get("mount_accessor") or ""
    by_mount: list[dict[str, Any]] = []
    for mount in call.services.mounts.table(call.view).mounts.values():
        if not mount.path.startswith("auth/") or wanted not in ("", mount.accessor):
            continue
        names = locked_users(call.view, mount, call.now_ms)
        if names:
            by_mount.append(_of_mount(mount.accessor, names))
    if wanted and not by_mount:
        by_mount = [_of_mount(wanted, None)]
    total = sum(m["counts"] for m in by_mount)
    namespace = {
        "namespace_id": "root",
        "namespace_path": "",
        "counts": total,
        "mount_accessors": sorted(by_mount, key=lambda m: -m["counts"]),
    }
    return Response(data={"by_namespace": [namespace], "total": total})


def _of_mount(accessor: str, names: list[str] | None) -> dict[str, Any]:
    return {
        "mount_accessor": accessor,
        "counts": len(names or ()),
        "alias_identifiers": names,
    }


def unlock(call: Call) -> None:
    """Idempotent: unlocking who is not locked is fine."""
    forget_failures(call.view, call.params["mount_accessor"], call.params["alias_identifier"])


ROUTES: Final = (
    Route(
        "locked-users",
        reads(read),
        fields=(Field("mount_accessor", doc="Only this auth mount."),),
        summary="Who is locked out.",
    ),
    Route(
        "locked-users/{mount_accessor}/unlock/{alias_identifier*}",
        writes(unlock),
        summary="Let a user log in again.",
    ),
)
