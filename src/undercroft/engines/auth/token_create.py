"""auth/token/create, create-orphan, create/{role}: who may make which token.

Invariant CHILD-SUBSET (ACL-09): without root, sudo on the path or a role that names what it allows,
a child has no policy that its parent lacks, `default` included; and whatever the way, it may not
be used from where its parent may not (TOK-11).
"""

import re
from typing import Any, Final, NamedTuple

from undercroft.engines.auth.token_params import token_type_of
from undercroft.engines.auth.token_roles import Role, matches, read_role
from undercroft.engines.base import Call, Field, Kind, Route, writes
from undercroft.errors import InvalidRequest
from undercroft.request.bound_cidrs import narrow
from undercroft.request.model import Auth, Response
from undercroft.request.policy_names import check_policy_names
from undercroft.request.token_entry import WRAPPING_POLICY
from undercroft.request.tokens import TokenEntry

_NOT_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9-]")
_ID_CHARS_MAX: Final = 1024


class _Maker(NamedTuple):
    """Who creates, and by what right."""

    token: TokenEntry
    sudo: bool
    role: Role | None


def create(call: Call) -> Response:
    return _create(call, _maker(call, None), orphan=False)


def create_orphan(call: Call) -> Response:
    return _create(call, _maker(call, None), orphan=True)


def create_by_role(call: Call) -> Response:
    name = call.params["role_name"]
    role = read_role(call, name)
    if role is None:
        raise InvalidRequest("unknown role")
    return _create(call, _maker(call, role), orphan=role.orphan)


def _maker(call: Call, role: Role | None) -> _Maker:
    assert call.caller is not None, "the route is not open"
    token, acl = call.caller.token, call.caller.acl
    if token.type == "batch":
        raise InvalidRequest("batch tokens cannot create more tokens")
    if token.num_uses < 0:
        raise InvalidRequest("parent token lookup failed: no parent found")
    if token.num_uses:
        raise InvalidRequest("restricted use token cannot generate child tokens")
    return _Maker(token, acl.is_root or acl.sudo(call.request.path), role)


def _create(call: Call, maker: _Maker, *, orphan: bool) -> Response:
    response = Response()
    auth = Auth(
        display_name=_display_name(call.get("display_name") or ""),
        metadata=call.get("meta") or {},
        renewable=call.get("renewable", True) and (maker.role is None or maker.role.renewable),
        no_default_policy=True,  # `_policies` has seen to it
    )
    auth.token_type = _token_type(call, maker.role)
    _times(call, maker, auth, response)
    auth.num_uses = _num_uses(call, maker.role)
    token_id = _token_id(call, maker)
    orphan = _is_orphan(call, maker, orphan)
    _refuse_alias(call, maker.role)
    auth.policies = _policies(call, maker)
    role_cidrs = maker.role.params.bound_cidrs if maker.role else ()
    auth.bound_cidrs = narrow(maker.token.bound_cidrs, role_cidrs)
    warnings = call.services.tokens.issue(
        call.view,
        auth,
        call.mount,
        call.now_ms,
        path=_path(call, maker.role),
        parent=None if orphan else maker.token,
        role=maker.role.name if maker.role else "",
        token_id=token_id,
        maker=maker.token,
    )
    for warning in [*warnings, *_missing_policies(call, auth.policies)]:
        response.warn(warning)
    response.auth = auth
    return response


def _display_name(asked: str) -> str:
    name = f"token-{asked}" if asked else "token"
    return _NOT_IN_NAME.sub("-", name).rstrip("-")


def _path(call: Call, role: Role | None) -> str:
    path = call.request.path
    return f"{path}/{role.path_suffix}" if role and role.path_suffix else path


def _token_type(call: Call, role: Role | None) -> str:
    """The role's word is final unless only a default; then the request's, then the mount's."""
    asked = call.get("type") or ""
    if asked not in ("", "service", "batch"):
        raise InvalidRequest("invalid 'token_type' value")
    if role is None:
        return token_type_of(asked, call.mount)
    if role.type in ("service", "batch"):
        return role.type
    return asked or role.type.removeprefix("default-")


def _times(call: Call, maker: _Maker, auth: Auth, response: Response) -> None:
    """TTL, period and explicit maximum: the lesser of request and role."""
    role = maker.role.params if maker.role else None
    batch = auth.token_type == "batch"  # noqa: S105
    for name in ("period", "explicit_max_ttl"):
        if batch and call.get(name):
            raise InvalidRequest(f'batch tokens cannot have "{name}" set')
    auth.ttl_seconds = _positive(call, "ttl") or _positive(call, "lease")
    period = _positive(call, "period")
    if period and not maker.sudo:
        raise InvalidRequest("root or sudo privileges required to create periodic token")
    explicit = _positive(call, "explicit_max_ttl")
    if role is not None and not batch:
        explicit = _lesser("Explicit max TTL", explicit, role.explicit_max_ttl, response)
        period = _lesser("Period", period, role.period, response)
    auth.period_seconds, auth.explicit_max_ttl_seconds = period, explicit


def _positive(call: Call, name: str) -> int:
    seconds: int = call.get(name) or 0
    if seconds < 0:
        raise InvalidRequest(f"{name} must be positive")
    return seconds


def _lesser(name: str, asked: int, role: int, response: Response) -> int:
    if not asked or not role:
        return asked or role
    lesser = min(asked, role)
    response.warn(
        f"{name} specified both during creation call and in role; "
        f"using the lesser value of {lesser} seconds"
    )
    return lesser


def _num_uses(call: Call, role: Role | None) -> int:
    asked: int = call.get("num_uses") or 0
    if asked < 0:
        raise InvalidRequest("number of uses cannot be negative")
    limit = role.params.num_uses if role else 0
    return min(asked, limit) if asked and limit else asked or limit


def _token_id(call: Call, maker: _Maker) -> str:
    token_id: str = call.get("id") or ""
    if not token_id:
        return ""
    if not maker.sudo:
        raise InvalidRequest("root or sudo privileges required to specify token id")
    if token_id.startswith("s."):
        raise InvalidRequest("custom token ID cannot have the 's.' prefix")
    if "." in token_id:
        raise InvalidRequest("custom token ID cannot have a '.' in the value")
    if len(token_id) > _ID_CHARS_MAX or token_id != token_id.strip() or not token_id.isprintable():
        raise InvalidRequest("custom token ID is too long, or not fit for a header")
    return token_id


def _is_orphan(call: Call, maker: _Maker, orphan: bool) -> bool:
    """A role decides alone; `create-orphan` is a matter of policy, `no_parent` of sudo."""
    if maker.role is not None or orphan or not call.get("no_parent"):
        return orphan
    if not maker.sudo:
        raise InvalidRequest("root or sudo privileges required to create orphan token")
    return True


def _refuse_alias(call: Call, role: Role | None) -> None:
    alias = (call.get("entity_alias") or "").strip().lower()
    if not alias:
        return
    if role is None:
        raise InvalidRequest("'entity_alias' is only allowed in combination with token role")
    if not role.allowed_entity_aliases or not matches(alias, role.allowed_entity_aliases):
        raise InvalidRequest("invalid 'entity_alias' value")
    raise InvalidRequest("'entity_alias' is not supported: there is no identity store yet")


# policies


def _policies(call: Call, maker: _Maker) -> list[str]:
    """What the token will carry, complete. Raises InvalidRequest."""
    role = maker.role
    if role is not None and (role.allows or role.disallows):
        policies = _role_policies(call, maker, role)
    else:
        policies = _parent_policies(call, maker)
    if WRAPPING_POLICY in policies:
        raise InvalidRequest(f'cannot assign policy "{WRAPPING_POLICY}"')
    if "root" in policies:
        if not maker.token.is_root:
            raise InvalidRequest("root tokens may not be created without parent token being root")
        return ["root"]
    return policies


def _asked(call: Call) -> list[str]:
    return call.get("policies") or []


def _with_default(policies: list[str], add: bool) -> list[str]:
    """Canonical names; `default` is there exactly if it is to be added."""
    names = set(check_policy_names(policies, root=True))
    if "root" in names:
        return ["root"]
    return sorted(names | {"default"} if add else names - {"default"})


def _parent_policies(call: Call, maker: _Maker) -> list[str]:
    parent, asked = set(maker.token.policies), _asked(call)
    no_default = _no_default(call, maker.role)
    if not asked:
        return _with_default(list(parent), "default" in parent and not no_default)
    if maker.sudo:
        return _with_default(asked, not no_default)
    named = "default" in check_policy_names(asked, root=True)
    policies = _with_default(asked, not no_default and (named or "default" in parent))
    if not parent.issuperset(policies):
        raise InvalidRequest("child policies must be subset of parent")
    return policies


def _role_policies(call: Call, maker: _Maker, role: Role) -> list[str]:
    add = not _no_default(call, role) and "default" not in role.disallowed_policies
    asked = _asked(call)
    if not role.allows:
        policies = _with_default(asked or list(maker.token.policies), add)
    else:
        allowed = _with_default(list(role.allowed_policies), add)
        policies = sorted(set(check_policy_names(asked, root=True))) if asked else allowed
        policies = sorted({*policies, "default"}) if add and asked else policies
        for policy in policies:
            if policy not in allowed and not matches(policy, role.allowed_policies_glob):
                raise InvalidRequest(
                    "token policies must be subset of the role's allowed policies or glob policies"
                )
    for policy in policies:
        if role.is_disallowed(policy):
            raise InvalidRequest(f'token policy "{policy}" is disallowed by this role')
    return policies


def _no_default(call: Call, role: Role | None) -> bool:
    return bool(call.get("no_default_policy")) or (
        role is not None and role.params.no_default_policy
    )


def _missing_policies(call: Call, policies: list[str]) -> list[str]:
    known = call.services.policies
    return [
        f'Policy "{name}" does not exist'
        for name in policies
        if name not in ("root", "default") and not known.exists(call.view, name)
    ]


FIELDS: Final = (
    Field("policies", Kind.LIST, "Policies of the token; without any, those of the caller."),
    Field("ttl", Kind.DURATION, "Initial time to live."),
    Field("lease", Kind.DURATION, "Use `ttl`.", deprecated=True),
    Field("explicit_max_ttl", Kind.DURATION, "A maximum that no renewal passes."),
    Field("period", Kind.DURATION, "Renewals bring the time to live back to this (sudo)."),
    Field("num_uses", Kind.INT, "How often the token may be used; 0: without limit."),
    Field("renewable", Kind.BOOL, "Whether it may be renewed.", default=True),
    Field("no_parent", Kind.BOOL, "Make it an orphan (sudo)."),
    Field("no_default_policy", Kind.BOOL, "Leave out the policy `default`."),
    Field("display_name", Kind.STRING, "Part of the name that the audit log shows."),
    Field("meta", Kind.STRINGS, "Metadata, shown by lookups and in the audit log."),
    Field("type", Kind.STRING, "`service` or `batch`."),
    Field("id", Kind.STRING, "The token itself (sudo); without it a random one."),
    Field("entity_alias", Kind.STRING, "The entity that the token acts for."),
)


def _route(pattern: str, handler: Any, summary: str) -> Route:
    return Route(pattern, writes(handler), fields=FIELDS, summary=summary)


ROUTES: Final = (
    _route("create", create, "Create a token."),
    _route("create-orphan", create_orphan, "Create a token without a parent."),
    _route("create/{role_name}", create_by_role, "Create a token by a role."),
)
