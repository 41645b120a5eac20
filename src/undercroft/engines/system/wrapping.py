"""sys/wrapping: wrap what is sent, look at a wrapping token, unwrap it once, wrap it anew.

The routes are open: a wrapping token is no caller that policies know. The handlers admit: a
wrapping token, or any good token that may use the path, which then names the wrapping token in the
body. A used, expired or made-up wrapping token is a bad request, not a denial: clients tell the
two apart.
"""

from typing import Final

import msgspec

from undercroft.durations import rfc3339
from undercroft.engines.base import Call, Caller, Field, Handler, Kind, Route, reads, writes
from undercroft.errors import InvalidRequest, PermissionDenied
from undercroft.request import wrapping, wrapping_jwt
from undercroft.request.model import Operation, Response
from undercroft.request.tokens import TokenEntry

_DENIED: Final = "1 error occurred:\n\t* permission denied\n\n"  # by policy (convention 14)


def wrap(call: Call) -> Response:
    """Answers what was sent; the pipeline wraps the answer, as the header asks."""
    if not call.request.wrap_ttl_seconds:
        raise InvalidRequest("endpoint requires response wrapping to be used")
    return Response(data=msgspec.Raw(call.request.body or b"{}"))


def lookup(call: Call) -> Response:
    """What anyone who holds the token may know: never the answer behind it (WRAP-02)."""
    entry = _named(call)
    if entry is None:
        raise InvalidRequest(wrapping.INVALID)
    return Response(
        data={
            "creation_path": entry.path,
            "creation_time": rfc3339(entry.created_ms),
            "creation_ttl": entry.ttl_seconds,
        }
    )


def unwrap(call: Call) -> Response:
    return wrapping.take(call.view, _admitted(call), call.services.tokens)


def rewrap(call: Call) -> Response:
    entry = _admitted(call)
    info = wrapping.rewrap(
        call.view,
        entry,
        tokens=call.services.tokens,
        ttl_seconds=call.request.wrap_ttl_seconds or 0,
        now_ms=call.now_ms,
        form=call.request.wrap_format,
        address=call.services.state.api_addr,
    )
    return Response(wrap_info=info)


def public_key(call: Call) -> Response:
    return Response(data=wrapping_jwt.public_key(call.view))


def _named(call: Call) -> TokenEntry | None:
    """The wrapping token that the body names, else the caller's own."""
    text = call.get("token") or call.request.token
    return wrapping.find(call.view, text, call.services.tokens, call.now_ms)


def _admitted(call: Call) -> TokenEntry:
    """The wrapping token, once it is clear that the caller may use it."""
    own = wrapping.find(call.view, call.request.token, call.services.tokens, call.now_ms)
    if own is None:
        _check_caller(call)
    entry = _named(call)
    if entry is None:
        raise InvalidRequest(wrapping.INVALID)
    return entry


def _check_caller(call: Call) -> None:
    """A caller that is no wrapping token is judged as on any other path."""
    services, request = call.services, call.request
    token = services.tokens.lookup(call.view, request.token, call.now_ms)
    if token is None:
        # Also what is left of a wrapping token after its use: only who names a good one is denied.
        raise PermissionDenied if _named(call) is not None else InvalidRequest(wrapping.INVALID)
    if not services.tokens.check_bound(token, request.remote_address):
        raise PermissionDenied
    caller = Caller(token, services.policies.acl_for(call.view, tuple(token.policies)))
    body = msgspec.json.decode(request.body) if request.body else {}
    if not caller.acl.is_root and not caller.acl.allows(
        request.operation, request.path, lambda: body, request.wrap_ttl_seconds
    ):
        raise PermissionDenied(_DENIED)
    if token.num_uses:
        services.tokens.use(call.view, token, call.now_ms)


_TOKEN: Final = Field("token", Kind.STRING, "The wrapping token; without it, the caller's own.")
_LOOKUP: Final = Handler(lookup)

ROUTES: Final = (
    Route("wrapping/wrap", writes(wrap), raw_body=True, summary="Wrap what is sent."),
    Route(
        "wrapping/lookup",
        dict.fromkeys((Operation.READ, Operation.CREATE, Operation.UPDATE), _LOOKUP),
        fields=(_TOKEN,),
        open=True,
        summary="When, where and for how long a token wraps.",
    ),
    Route(
        "wrapping/unwrap",
        writes(unwrap),
        fields=(_TOKEN,),
        open=True,
        summary="The wrapped answer, once.",
    ),
    Route(
        "wrapping/rewrap",
        writes(rewrap),
        fields=(_TOKEN,),
        open=True,
        summary="The same answer behind a new token.",
    ),
    Route(
        "wrapping/pubkey",
        reads(public_key),
        open=True,
        summary="The key that signs wrapping tokens in JWT form.",
    ),
)
