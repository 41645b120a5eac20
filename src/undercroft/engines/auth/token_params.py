"""The token parameters that every auth method shares: `token_ttl`, `token_policies` and their kin.

One table of fields, one parser, one way to a login's `Auth`, so that no method can forget one of
them (LOG-11). Older names of four of them (`ttl`, `policies` …) are read for methods that had them.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from undercroft.engines.base import Call, Field, Kind
from undercroft.errors import InvalidRequest, PermissionDenied
from undercroft.request.bound_cidrs import check_cidrs, is_within
from undercroft.request.model import Auth
from undercroft.request.mounts import Mount
from undercroft.request.policy_names import check_policy_names


class TokenParams(msgspec.Struct, frozen=True):
    """What a user or role says about its tokens. Durations in seconds, 0: the mount's."""

    ttl: int = 0
    max_ttl: int = 0
    policies: tuple[str, ...] = ()
    bound_cidrs: tuple[str, ...] = ()
    explicit_max_ttl: int = 0
    no_default_policy: bool = False
    num_uses: int = 0
    period: int = 0
    type: str = "default"
    strictly_bind_ip: bool = False


FIELDS: Final = (
    Field("token_ttl", Kind.DURATION, "Initial time to live of tokens."),
    Field("token_max_ttl", Kind.DURATION, "Longest time to live, renewals included."),
    Field("token_policies", Kind.LIST, "Policies of tokens."),
    Field("token_bound_cidrs", Kind.LIST, "Networks that may log in and use the token."),
    Field("token_explicit_max_ttl", Kind.DURATION, "A maximum that periodic tokens keep, too."),
    Field("token_no_default_policy", Kind.BOOL, "Leave out the policy `default`."),
    Field("token_num_uses", Kind.INT, "How often a token may be used; 0: without limit."),
    Field("token_period", Kind.DURATION, "Renewals bring the time to live back to this."),
    Field("token_type", Kind.STRING, "`service`, `batch`, or `default`: the mount's."),
    Field("token_strictly_bind_ip", Kind.BOOL, "Bind a token to the address that logged in."),
)
LEGACY_FIELDS: Final = (
    Field("ttl", Kind.DURATION, "Use `token_ttl`.", deprecated=True),
    Field("max_ttl", Kind.DURATION, "Use `token_max_ttl`.", deprecated=True),
    Field("policies", Kind.LIST, "Use `token_policies`.", deprecated=True),
    Field("bound_cidrs", Kind.LIST, "Use `token_bound_cidrs`.", deprecated=True),
)
LEGACY_NAMES: Final = tuple(f.name for f in LEGACY_FIELDS)


def _duration(value: Any, name: str) -> int:
    if value < 0:
        raise InvalidRequest(
            f'error converting input for field "{name}": cannot provide a negative value'
        )
    return int(value)


def _policies(value: Any, name: str) -> tuple[str, ...]:
    return tuple(check_policy_names(value))


def _cidrs(value: Any, name: str) -> tuple[str, ...]:
    return tuple(check_cidrs(value, name))


def _uses(value: Any, name: str) -> int:
    if value < 0:
        raise InvalidRequest(f"'{name}' cannot be negative")
    return int(value)


def _type(value: Any, name: str) -> str:
    if value not in ("", "default", "service", "batch"):
        raise InvalidRequest(f"invalid '{name}' value")
    return value or "default"


def _as_is(value: Any, name: str) -> Any:
    return value


_PARSERS: Final = {
    "ttl": _duration,
    "max_ttl": _duration,
    "policies": _policies,
    "bound_cidrs": _cidrs,
    "explicit_max_ttl": _duration,
    "no_default_policy": _as_is,
    "num_uses": _uses,
    "period": _duration,
    "type": _type,
    "strictly_bind_ip": _as_is,
}


def parse_params(fields: Mapping[str, Any], old: TokenParams, legacy: bool = False) -> TokenParams:
    """`old` changed by what was sent. Raises InvalidRequest for values that cannot be together."""
    changes: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        sent = f"token_{name}"
        if legacy and sent not in fields and name in LEGACY_NAMES:
            sent = name
        if fields.get(sent) is not None:
            changes[name] = parse(fields[sent], sent)
    new = msgspec.structs.replace(old, **changes)
    _check_together(new)
    return new


def _check_together(params: TokenParams) -> None:
    if params.max_ttl and params.ttl > params.max_ttl:
        raise InvalidRequest("'token_ttl' cannot be greater than 'token_max_ttl'")
    if params.strictly_bind_ip and params.bound_cidrs:
        raise InvalidRequest(
            "'token_strictly_bind_ip' conflicts with 'token_bound_cidrs'; set only one"
        )
    if params.type == "batch":
        kind = "'token_type' cannot be 'batch' or 'default_batch' when set to generate"
        if params.period:
            raise InvalidRequest(f"{kind} periodic tokens")
        if params.num_uses:
            raise InvalidRequest(f"{kind} tokens with limited use count")


def legacy_in_use(
    fields: Mapping[str, Any], old: tuple[str, ...], names: tuple[str, ...] = LEGACY_NAMES
) -> tuple[str, ...]:
    """Which older names answers repeat: those last written by their older name."""
    return tuple(n for n in names if n in fields or (n in old and f"token_{n}" not in fields))


def params_data(params: TokenParams, legacy: tuple[str, ...] = ()) -> dict[str, Any]:
    """As a read of the user or role answers them."""
    data: dict[str, Any] = {f"token_{n}": v for n, v in msgspec.structs.asdict(params).items()}
    for name in legacy:
        if data[f"token_{name}"]:
            data[name] = data[f"token_{name}"]
    return data


def token_type_of(wanted: str, mount: Mount) -> str:
    """The mount's word is final, unless it is only a default."""
    rule = mount.config.token_type
    if rule in ("service", "batch"):
        return rule
    if wanted in ("service", "batch"):
        return wanted
    return "batch" if rule == "default-batch" else "service"


def check_login_from(params: TokenParams, call: Call) -> None:
    """Raises PermissionDenied for a login from outside the bound networks."""
    if not is_within(call.request.remote_address, params.bound_cidrs):
        raise PermissionDenied


def auth_of(params: TokenParams, mount: Mount) -> Auth:
    """A login's `Auth` with everything the parameters decide; names are the method's."""
    return Auth(
        policies=list(params.policies),
        ttl_seconds=params.ttl,
        max_ttl_seconds=params.max_ttl,
        explicit_max_ttl_seconds=params.explicit_max_ttl,
        period_seconds=params.period,
        num_uses=params.num_uses,
        no_default_policy=params.no_default_policy,
        bound_cidrs=list(params.bound_cidrs),
        strictly_bind_ip=params.strictly_bind_ip,
        token_type=token_type_of(params.type, mount),
    )
