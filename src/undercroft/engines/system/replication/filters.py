"""Path filters of secondaries."""

from typing import Any

from undercroft.engines.base import Call
from undercroft.errors import NotFound
from undercroft.replication import activation, filters, membership
from undercroft.replication.filters import PathFilter, Selection
from undercroft.replication.role import PRIMARY, SECONDARY, read_role
from undercroft.request.model import Response

_OLD_MODES = {"allow": "whitelist", "deny": "blacklist"}


def _require(call: Call, mode: str) -> None:
    role = read_role(call.view)
    if role.mode != mode:
        raise membership.wrong_role(role, mode)


def _found(call: Call) -> PathFilter:
    _require(call, PRIMARY)
    found = filters.read_filter(call.view, call.params["id"])
    if found is None:
        raise NotFound
    return found


def read(call: Call) -> Response:
    found = _found(call)
    return Response({"mode": found.mode, "paths": list(found.paths)})


def read_old(call: Call) -> Response:
    """mount-filter: the same record under its older words."""
    found = _found(call)
    return Response({"mode": _OLD_MODES[found.mode], "paths": list(found.paths)})


def write(call: Call) -> Response:
    membership.writing_primary(call.view)
    secondary_id = activation.check_id(call.params["id"])
    made = filters.make_filter(str(call.get("mode") or ""), call.get("paths") or ())
    filters.write_filter(call.view, secondary_id, made)
    mounts = call.services.mounts.table(call.view).mounts
    unknown = [p for p in made.paths if not any(path.startswith(p) for path in mounts)]
    if not unknown:
        return Response(status=204)
    return Response(status=200).warn(f"no mount is there now: {', '.join(unknown)}")


def delete(call: Call) -> None:
    membership.writing_primary(call.view)
    filters.delete_filter(call.view, call.params["id"])


def _names(call: Call, ids: tuple[bytes, ...]) -> dict[str, Any]:
    by_id = {m.id: m.path for m in call.services.mounts.table(call.view).mounts.values()}
    paths = sorted(by_id[mount_id] for mount_id in ids if mount_id in by_id)
    return {"dynamic_filtered_mounts": paths, "dynamic_filtered_namespaces": []}


def dynamic_at_primary(call: Call) -> Response:
    """What that secondary lacks now."""
    _require(call, PRIMARY)
    found = filters.read_filter(call.view, call.params["id"])
    if found is None:
        return Response(_names(call, ()))
    mounts = call.services.mounts.table(call.view).mounts.values()
    return Response(_names(call, Selection(found, mounts).withheld))


def dynamic_at_secondary(call: Call) -> Response:
    """The same, as this secondary was told."""
    _require(call, SECONDARY)
    return Response(_names(call, read_role(call.view).withheld))
