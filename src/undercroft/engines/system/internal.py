"""sys/internal: what the `kv` commands and user interfaces ask before they ask the real thing.

The mounts' routes take requests without a token, so they look at the token themselves: without one,
only mounts with `listing_visibility=unauth` are shown; with a bad one, nothing is. A mount that a
caller may not see and one that does not exist get the same answer.
"""

from typing import Any, Final

from undercroft.engines.base import Call, Caller, Field, Route, reads
from undercroft.engines.system.mounts import describe
from undercroft.errors import PermissionDenied
from undercroft.request.model import Response
from undercroft.request.mounts import Mount

_DENY: Final = ["deny"]
_AUTH: Final = "auth/"
_SHOWN_MAX: Final = 256  # characters of a path in an error


def caller_of(call: Call) -> Caller | None:
    """Who asks, on an open route: None without a token. Raises PermissionDenied for a bad one."""
    token = call.request.token
    if call.caller is not None or not token:
        return call.caller
    services = call.services
    entry = services.tokens.lookup(call.view, token, call.now_ms)
    if entry is None:
        raise PermissionDenied
    if entry.bound_cidrs and not services.tokens.check_bound(entry, call.request.remote_address):
        raise PermissionDenied
    return Caller(entry, services.policies.acl_for(call.view, tuple(entry.policies)))


def visible_mounts(call: Call, caller: Caller | None) -> list[Mount]:
    """Mounts that the caller has any rule for, or that are listed for everyone."""
    mounts = call.services.mounts.table(call.view).mounts.values()
    return [mount for mount in mounts if _listed(mount) or may_see(caller, mount.path)]


def _listed(mount: Mount) -> bool:
    return mount.config.listing_visibility == "unauth"


def may_see(caller: Caller | None, mount_path: str) -> bool:
    """Whether any rule of the caller grants anything at or below the mount."""
    if caller is None:
        return False
    if caller.acl.is_root:
        return True
    return any(
        capabilities != _DENY and touches(pattern, mount_path)
        for pattern, capabilities in caller.acl.rules()
    )


def touches(pattern: str, prefix: str) -> bool:
    """Whether a policy's path pattern can match anything at or below `prefix` (ends in a slash)."""
    open_end = pattern.endswith("*")
    have = pattern.removesuffix("*").split("/")
    want = prefix.removesuffix("/").split("/")
    for i, segment in enumerate(want):
        if i >= len(have):
            return False
        last = i == len(have) - 1
        if last and open_end and segment.startswith(have[i]):
            return True
        if have[i] not in ("+", segment):
            return False
    return True


# handlers


def list_mounts(call: Call) -> Response:
    """Described in full for a caller with a token, in brief for anyone else."""
    caller = caller_of(call)
    data: dict[str, dict[str, Any]] = {"auth": {}, "secret": {}}
    for mount in visible_mounts(call, caller):
        described = _brief(mount) if caller is None else describe(mount)
        if mount.path.startswith(_AUTH):
            data["auth"][mount.path.removeprefix(_AUTH)] = described
        else:
            data["secret"][mount.path] = described
    return Response(data)


def read_mount(call: Call) -> Response:
    """The preflight of `kv`: which mount a path belongs to, and its KV version."""
    caller = caller_of(call)
    if caller is None:
        raise PermissionDenied
    path = call.params["path"].rstrip("/") + "/"
    mount = call.services.mounts.table(call.view).match(path)
    if mount is None or not may_see(caller, mount.path):
        shown = f' "{path}"' if len(path) <= _SHOWN_MAX else ""
        raise PermissionDenied(
            "preflight capability check returned 403, please ensure client's policies grant "
            f"access to path{shown}"
        )
    return Response({"path": mount.path.removeprefix(_AUTH), **describe(mount)})


def resultant_acl(call: Call) -> Response:
    """What the caller's policies amount to: exact paths, and those that end in `*`."""
    caller = call.caller
    assert caller is not None, "the route is not open"
    if caller.acl.is_root:
        return Response({"root": True})
    exact: dict[str, Any] = {}
    globs: dict[str, Any] = {}
    for pattern, capabilities in caller.acl.rules():
        if pattern.endswith("*"):
            globs[pattern[:-1]] = {"capabilities": capabilities}
        else:
            exact[pattern] = {"capabilities": capabilities}
    return Response({"exact_paths": exact, "glob_paths": globs, "root": False})


def list_namespaces(call: Call) -> Response:
    """There is the root namespace only, and it is not listed."""
    return Response({})


def _brief(mount: Mount) -> dict[str, Any]:
    return {"type": mount.type, "description": mount.description, "options": mount.options or {}}


ROUTES: Final = (
    Route(
        "internal/ui/mounts",
        reads(list_mounts, summary="Lists all enabled and visible auth and secrets mounts."),
        open=True,
        summary="Mounts that the caller may see.",
    ),
    Route(
        "internal/ui/mounts/{path*}",
        reads(read_mount, summary="Return information about the given mount."),
        fields=(Field("path", doc="A path in the mount."),),
        open=True,
        summary="The mount that serves a path.",
    ),
    Route(
        "internal/ui/resultant-acl",
        reads(resultant_acl, summary="What the caller's policies allow."),
        summary="The caller's policies, taken together.",
    ),
    Route(
        "internal/ui/namespaces",
        reads(list_namespaces, summary="Namespaces that the caller may see."),
        summary="Namespaces that the caller may see.",
    ),
)
