"""Roles of auth/token: what tokens created through them may and must be."""

import re
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from undercroft.engines.auth.token_params import TokenParams, legacy_in_use, parse_params
from undercroft.engines.base import Call, Field, Kind, Route, deletes, lists, reads, writes
from undercroft.errors import InvalidRequest, NotFound, UnsupportedPath
from undercroft.request.model import Response
from undercroft.request.policy_names import check_policy_names

_NAME: Final = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
_SUFFIX: Final = re.compile(r"\w[\w.-]+\w", re.ASCII)
_TYPES: Final = ("service", "batch", "default-service", "default-batch")
_LEGACY: Final = ("bound_cidrs", "explicit_max_ttl", "period")


class Role(msgspec.Struct, frozen=True):
    """Stored below `role/`, shared with the other clusters."""

    name: str
    params: TokenParams = TokenParams()
    type: str = "default-service"
    allowed_policies: tuple[str, ...] = ()
    allowed_policies_glob: tuple[str, ...] = ()
    disallowed_policies: tuple[str, ...] = ()
    disallowed_policies_glob: tuple[str, ...] = ()
    allowed_entity_aliases: tuple[str, ...] | None = None
    orphan: bool = False
    renewable: bool = True
    path_suffix: str = ""
    legacy: tuple[str, ...] = ()

    @property
    def allows(self) -> bool:
        """Whether it names what is allowed, and so replaces the parent's policies as the bound."""
        return bool(self.allowed_policies or self.allowed_policies_glob)

    @property
    def disallows(self) -> bool:
        return bool(self.disallowed_policies or self.disallowed_policies_glob)

    def is_disallowed(self, policy: str) -> bool:
        return policy in self.disallowed_policies or matches(policy, self.disallowed_policies_glob)


def matches(policy: str, globs: tuple[str, ...]) -> bool:
    """Whether a name fits a pattern; only `*` is special."""
    return any(fnmatchcase(policy, g.replace("[", "[[]").replace("?", "[?]")) for g in globs)


def read_role(call: Call, name: str) -> Role | None:
    return call.store.read(f"role/{name}", Role)


def _name(call: Call) -> str:
    name = call.params["role_name"]
    if not _NAME.fullmatch(name):
        raise UnsupportedPath
    return name


def _exists(call: Call) -> bool:
    return call.store.exists(f"role/{_name(call)}")


def _list(call: Call) -> Response:
    names = call.store.list("role/")
    if not names:
        raise NotFound
    return Response(data={"keys": names})


def _read(call: Call) -> Response:
    role = read_role(call, _name(call))
    if role is None:
        raise NotFound
    return Response(data=_role_data(role))


def _role_data(role: Role) -> dict[str, Any]:
    params = role.params
    data: dict[str, Any] = {
        "allowed_entity_aliases": role.allowed_entity_aliases,
        "allowed_policies": role.allowed_policies,
        "allowed_policies_glob": role.allowed_policies_glob,
        "disallowed_policies": role.disallowed_policies,
        "disallowed_policies_glob": role.disallowed_policies_glob,
        "explicit_max_ttl": params.explicit_max_ttl if "explicit_max_ttl" in role.legacy else 0,
        "name": role.name,
        "orphan": role.orphan,
        "path_suffix": role.path_suffix,
        "period": params.period if "period" in role.legacy else 0,
        "renewable": role.renewable,
        "token_explicit_max_ttl": params.explicit_max_ttl,
        "token_no_default_policy": params.no_default_policy,
        "token_period": params.period,
        "token_type": role.type,
    }
    if params.bound_cidrs:
        data["token_bound_cidrs"] = params.bound_cidrs
        if "bound_cidrs" in role.legacy:
            data["bound_cidrs"] = params.bound_cidrs
    if params.num_uses:
        data["token_num_uses"] = params.num_uses
    return data


def _write(call: Call) -> Response | None:
    name = _name(call)
    old = read_role(call, name) or Role(name)
    response = Response()
    fields = dict(call.fields)
    for legacy in _LEGACY:
        if legacy in fields and f"token_{legacy}" in fields:
            del fields[legacy]
            response.warn(
                f"Both 'token_{legacy}' and deprecated '{legacy}' value supplied, "
                "ignoring the deprecated value"
            )
        elif legacy in fields:
            fields[f"token_{legacy}"] = fields[legacy]
    role = msgspec.structs.replace(
        old,
        params=parse_params({k: v for k, v in fields.items() if k != "token_type"}, old.params),
        legacy=legacy_in_use(fields, old.legacy, _LEGACY),
        **_own_fields(call),
    )
    _check(role)
    call.store.write(f"role/{name}", role)
    return response if response.warnings else None


def _own_fields(call: Call) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name in ("allowed_policies", "allowed_policies_glob"):
        if name in call.fields:
            changes[name] = tuple(check_policy_names(call.fields[name]))
    for name in ("disallowed_policies", "disallowed_policies_glob"):
        if name in call.fields:
            changes[name] = tuple(check_policy_names(call.fields[name], root=True))
    if "allowed_entity_aliases" in call.fields:
        aliases = {a.strip().lower() for a in call.fields["allowed_entity_aliases"]} - {""}
        changes["allowed_entity_aliases"] = tuple(sorted(aliases)) or None
    for name in ("orphan", "renewable", "path_suffix"):
        if name in call.fields:
            changes[name] = call.fields[name]
    if "token_type" in call.fields:
        changes["type"] = call.fields["token_type"] or "default-service"
    return changes


def _check(role: Role) -> None:
    if role.type not in _TYPES:
        raise InvalidRequest("invalid 'token_type' value")
    if role.path_suffix and not _SUFFIX.fullmatch(role.path_suffix):
        raise InvalidRequest(
            r"given role path suffix contains invalid characters; must match \w[\w-.]+\w"
        )
    if role.type != "batch":
        return
    kind = "'token_type' cannot be 'batch' when role is set to generate"
    for bad, what in (
        (not role.orphan, "non-orphan tokens"),
        (role.renewable, "renewable tokens"),
        (role.params.period, "periodic tokens"),
        (role.params.explicit_max_ttl, "tokens with an explicit max TTL"),
        (role.params.num_uses, "tokens with limited use count"),
    ):
        if bad:
            raise InvalidRequest(f"{kind} {what}")


def _delete(call: Call) -> None:
    call.store.delete(f"role/{_name(call)}")


_FIELDS: Final = (
    Field("allowed_policies", Kind.LIST, "Policies that may be asked for."),
    Field("allowed_policies_glob", Kind.LIST, "The same, with `*` for any text."),
    Field("disallowed_policies", Kind.LIST, "Policies that may not be asked for."),
    Field("disallowed_policies_glob", Kind.LIST, "The same, with `*` for any text."),
    Field("allowed_entity_aliases", Kind.LIST, "Aliases that may be named at creation."),
    Field("orphan", Kind.BOOL, "Tokens have no parent."),
    Field("renewable", Kind.BOOL, "Tokens may be renewed."),
    Field("path_suffix", Kind.STRING, "Ends the path that tokens carry."),
    Field("token_bound_cidrs", Kind.LIST, "Networks that may use the token."),
    Field("token_explicit_max_ttl", Kind.DURATION, "A maximum that no renewal passes."),
    Field("token_no_default_policy", Kind.BOOL, "Leave out the policy `default`."),
    Field("token_num_uses", Kind.INT, "How often a token may be used; 0: without limit."),
    Field("token_period", Kind.DURATION, "Renewals bring the time to live back to this."),
    Field("token_type", Kind.STRING, "`service`, `batch`, `default-service`, `default-batch`."),
    Field("bound_cidrs", Kind.LIST, "Use `token_bound_cidrs`.", deprecated=True),
    Field("explicit_max_ttl", Kind.DURATION, "Use `token_explicit_max_ttl`.", deprecated=True),
    Field("period", Kind.DURATION, "Use `token_period`.", deprecated=True),
)

ROUTES: Final = (
    Route("roles", lists(_list), summary="List token roles."),
    Route(
        "roles/{role_name}",
        {**reads(_read), **writes(_write), **deletes(_delete)},
        fields=_FIELDS,
        exists=_exists,
        summary="Read, write or delete a token role.",
    ),
)
