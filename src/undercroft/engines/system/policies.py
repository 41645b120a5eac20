"""sys/policies/acl, its older form sys/policy, and sys/capabilities: policies over the API."""

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Final

from undercroft.durations import rfc3339
from undercroft.engines.base import (
    Apply,
    Call,
    Field,
    Handler,
    Kind,
    Route,
    deletes,
    lists,
    reads,
    writes,
)
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.acl import Acl
from undercroft.request.model import Operation, Response
from undercroft.request.policies import StoredPolicy

if TYPE_CHECKING:
    from undercroft.request.tokens import TokenEntry

_TEMPLATE_SWITCHES: Final = (
    "allow_slashes_in_identity_templates",
    "allow_wildcards_in_identity_templates",
)


def _described(policy: StoredPolicy, text_key: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": policy.name,
        text_key: policy.text,
        "version": policy.version,
        "cas_required": policy.cas_required,
        **dict.fromkeys(_TEMPLATE_SWITCHES, False),
    }
    if policy.modified_ms:
        data["modified"] = rfc3339(policy.modified_ms)
    return data


def _existing(call: Call) -> StoredPolicy | None:
    return call.services.policies.get(call.view, call.params["name"].lower())


def _read(call: Call) -> Response:
    policy = _existing(call)
    if policy is None:
        raise NotFound
    return Response(data=_described(policy, "policy"))


def _read_legacy(call: Call) -> Response:
    policy = _existing(call)
    if policy is None:
        raise NotFound
    return Response(data=_described(policy, "rules"), repeat_data=True)


def _list(call: Call) -> Response:
    return Response(data={"keys": call.services.policies.list(call.view)})


def _list_legacy(call: Call) -> Response:
    names = call.services.policies.list(call.view)
    return Response(data={"keys": names, "policies": names}, repeat_data=True)


def _write(call: Call) -> Response | None:
    _put(call, call.get("policy") or "")
    return None


def _write_legacy(call: Call) -> Response | None:
    """`rules` is what the oldest clients send."""
    text = call.get("policy") or ""
    _put(call, text or call.get("rules") or "")
    if text or not call.get("rules"):
        return None
    return Response(warnings=["'rules' is deprecated, please use 'policy' instead"])


def _patch(call: Call) -> Response:
    policy = _existing(call)
    if policy is None:
        raise InvalidRequest("policy not found")
    _put(call, call.get("policy", policy.text))
    return Response(status=200)


def _put(call: Call, text: str) -> None:
    if not text:
        raise InvalidRequest("'policy' parameter not supplied or empty")
    _refuse_unsupported(call)
    call.services.policies.put(
        call.view,
        call.params["name"],
        _plain_text(text),
        call.now_ms,
        cas=call.get("cas"),
        cas_required=call.get("cas_required"),
    )


def _refuse_unsupported(call: Call) -> None:
    """A policy that outlives its date, or renders wider than meant, is worse than an error."""
    for name in ("expiration", "ttl"):
        if name in call.fields:
            raise InvalidRequest(f"{name}: this server does not support policies that expire")
    for name in _TEMPLATE_SWITCHES:
        if call.get(name):
            raise InvalidRequest(f"{name}: this server does not support it")


def _plain_text(text: str) -> str:
    """Clients may send the text in base64, which is never a policy by itself."""
    try:
        return b64decode(text, validate=True).decode() if text else ""
    except (binascii.Error, ValueError):
        return text


def _delete(call: Call) -> None:
    call.services.policies.delete(call.view, call.params["name"])


def _paths(call: Call) -> list[str]:
    paths: list[str] = call.get("paths") or call.get("path") or []
    if not paths:
        raise InvalidRequest("paths must be supplied")
    if "" in paths:
        raise InvalidRequest("1 error occurred:\n\t* missing path\n\n")
    return paths


def _answer(paths: list[str], acl: Acl) -> Response:
    """By path; the only one's also as `capabilities`."""
    data = {path: acl.capabilities(path) for path in paths}
    if len(paths) == 1:
        data["capabilities"] = data[paths[0]]
    return Response(data=data, repeat_data=True)


def _acl_of(call: Call, entry: "TokenEntry") -> Acl:
    return call.services.policies.acl_for(call.view, tuple(entry.policies))


def _capabilities_self(call: Call) -> Response:
    assert call.caller is not None, "the route is not open"
    return _answer(_paths(call), call.caller.acl)


def _capabilities(call: Call) -> Response:
    paths, token = _paths(call), call.get("token")
    if not token:
        raise InvalidRequest("1 error occurred:\n\t* no token found\n\n")
    entry = call.services.tokens.lookup(call.view, token, call.now_ms)
    if entry is None:
        raise InvalidRequest("1 error occurred:\n\t* invalid token\n\n")
    return _answer(paths, _acl_of(call, entry))


def _capabilities_accessor(call: Call) -> Response:
    accessor = call.get("accessor")
    if not accessor:
        raise InvalidRequest("missing accessor")
    paths = _paths(call)
    entry = call.services.tokens.lookup_accessor(call.view, accessor, call.now_ms)
    if entry is None:
        raise InvalidRequest("1 error occurred:\n\t* invalid accessor\n\n")
    return _answer(paths, _acl_of(call, entry))


_NAME: Final = Field("name", doc="Name of the policy, in lower case.")
_POLICY: Final = Field("policy", doc="The rules, in HCL or JSON, plain or in base64.")
_MORE: Final = (
    Field("cas", Kind.INT, "Version that the policy must have; -1: it must not exist yet."),
    Field("cas_required", Kind.BOOL, "Whether later writes must send cas."),
    Field("expiration", doc="Not supported: an error."),
    Field("ttl", Kind.DURATION, "Not supported: an error."),
    *(Field(name, Kind.BOOL, "Not supported unless false.") for name in _TEMPLATE_SWITCHES),
)
_ASKED: Final = (
    Field("paths", Kind.LIST, "Paths to ask about."),
    Field("path", Kind.LIST, "The same, for a single path.", deprecated=True),
)


def _asks(apply: Apply) -> dict[Operation, Handler]:
    handler = Handler(apply)
    return {Operation.CREATE: handler, Operation.UPDATE: handler}


ROUTES: Final = (
    Route("policies/acl", lists(_list), summary="List policies."),
    Route(
        "policies/acl/{name}",
        {
            **reads(_read),
            **writes(_write),
            Operation.PATCH: Handler(_patch, writes=True),
            **deletes(_delete),
        },
        fields=(_NAME, _POLICY, *_MORE),
        lower=("name",),
        summary="Read, write or delete a policy.",
    ),
    Route(
        "policy",
        {**reads(_list_legacy), **lists(_list_legacy)},
        summary="List policies, in the older form.",
    ),
    Route(
        "policy/{name}",
        {**reads(_read_legacy), **writes(_write_legacy), **deletes(_delete)},
        fields=(
            _NAME,
            _POLICY,
            Field("rules", doc="Older name of policy.", deprecated=True),
            *_MORE,
        ),
        lower=("name",),
        summary="Read, write or delete a policy, in the older form.",
    ),
    Route(
        "capabilities",
        _asks(_capabilities),
        fields=(Field("token", doc="The token to ask about."), *_ASKED),
        summary="What a token may do on paths.",
    ),
    Route(
        "capabilities-self",
        _asks(_capabilities_self),
        fields=(Field("token", doc="Ignored: the caller's own counts.", deprecated=True), *_ASKED),
        summary="What the caller may do on paths.",
    ),
    Route(
        "capabilities-accessor",
        _asks(_capabilities_accessor),
        fields=(Field("accessor", doc="Accessor of the token to ask about."), *_ASKED),
        summary="What a token, named by its accessor, may do on paths.",
    ),
)
