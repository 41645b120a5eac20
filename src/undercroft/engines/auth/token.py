"""auth/token: look tokens up, renew and revoke them, list accessors, tidy.

By the token (`lookup`), by the caller's own (`lookup-self`), by accessor (`lookup-accessor`): the
same answer, but that an accessor never gives away the id.
"""

from dataclasses import replace
from typing import Any, Final

from undercroft.durations import rfc3339
from undercroft.engines.auth import token_create, token_roles
from undercroft.engines.base import Call, Engine, Field, Handler, Kind, Route, lists, writes
from undercroft.errors import InvalidRequest, NotFound, PermissionDenied
from undercroft.request.lifetimes import Wish
from undercroft.request.model import Auth, Operation, Response
from undercroft.request.mounts import Mount
from undercroft.request.tokens import TokenEntry

# The long form that clients see for these (convention 14).
_ACCESSOR_ERROR: Final = "1 error occurred:\n\t* {} accessor\n\n"


def _own(call: Call) -> TokenEntry:
    assert call.caller is not None, "the route is not open"
    return call.caller.token


def _by_token(call: Call) -> TokenEntry | None:
    return call.services.tokens.lookup(call.view, call.get("token") or "", call.now_ms)


def _by_accessor(call: Call) -> TokenEntry | None:
    accessor = call.get("accessor") or ""
    if not accessor:
        raise InvalidRequest(_ACCESSOR_ERROR.format("missing"))
    return call.services.tokens.lookup_accessor(call.view, accessor, call.now_ms)


def _known_accessor(call: Call) -> TokenEntry:
    entry = _by_accessor(call)
    if entry is None:
        raise InvalidRequest(_ACCESSOR_ERROR.format("invalid"))
    return entry


def _token_field(call: Call) -> str:
    token: str = call.get("token") or ""
    if not token:
        raise InvalidRequest("missing token ID")
    return token


# lookup


def lookup_self(call: Call) -> Response:
    return Response(data=lookup_data(_own(call), call.request.token, call.now_ms))


def lookup(call: Call) -> Response:
    if not call.get("token"):
        return lookup_self(call)
    entry = _by_token(call)
    if entry is None:
        raise PermissionDenied("bad token")
    return Response(data=lookup_data(entry, call.get("token"), call.now_ms))


def lookup_accessor(call: Call) -> Response:
    return Response(data=lookup_data(_known_accessor(call), "", call.now_ms))


def lookup_data(entry: TokenEntry, token_id: str, now_ms: int) -> dict[str, Any]:
    """What every lookup answers."""
    data: dict[str, Any] = {
        "accessor": entry.accessor,
        "creation_time": entry.created_ms // 1000,
        "creation_ttl": entry.ttl_seconds,
        "display_name": entry.display_name,
        "entity_id": entry.entity_id,
        "expire_time": rfc3339(entry.expires_ms) if entry.expires_ms else None,
        "explicit_max_ttl": entry.explicit_max_ttl_seconds,
        "id": token_id,
        "issue_time": rfc3339(entry.created_ms),
        "meta": entry.meta,
        "num_uses": max(0, entry.num_uses),
        "orphan": entry.orphan,
        "path": entry.path,
        "policies": entry.policies,
        "renewable": entry.renewable,
        "ttl": max(0, (entry.expires_ms - now_ms) // 1000) if entry.expires_ms else 0,
        "type": entry.type,
    }
    if entry.bound_cidrs:
        data["bound_cidrs"] = entry.bound_cidrs
    if entry.last_renewal_ms:
        data["last_renewal"] = rfc3339(entry.last_renewal_ms)
        data["last_renewal_time"] = entry.last_renewal_ms // 1000
    if entry.period_seconds:
        data["period"] = entry.period_seconds
    if entry.role:
        data["role"] = entry.role
    return data


# renew


def renew_self(call: Call) -> Response:
    return _renew(call, _own(call), call.request.token)


def renew(call: Call) -> Response:
    token = _token_field(call)
    entry = _by_token(call)
    if entry is None:
        raise InvalidRequest("token not found")
    return _renew(call, entry, token)


def renew_accessor(call: Call) -> Response:
    return _renew(call, _known_accessor(call), "")


def _renew(call: Call, entry: TokenEntry, token_id: str) -> Response:
    increment: int = call.get("increment") or 0
    if increment < 0:
        raise InvalidRequest("increment must not be negative")
    tokens = call.services.tokens
    mount = _mount_of(call, entry)
    wish = None
    if entry.renewable:
        if mount is None:
            raise InvalidRequest("the auth method that issued the token is gone, not renewing")
        wish = _wish_of_method(call, mount, entry)
    limits = tokens.limits_of(mount or call.mount)
    renewed, life = tokens.renew(call.view, entry, increment, call.now_ms, limits, wish)
    auth = Auth(
        policies=list(renewed.policies),
        token_policies=list(renewed.policies),
        display_name=renewed.display_name,
        metadata=renewed.meta or {},
        num_uses=max(0, renewed.num_uses),
        renewable=renewed.renewable,
        orphan=renewed.orphan,
        entity_id=renewed.entity_id,
        client_token=token_id,
        accessor=renewed.accessor,
        lease_duration=life.ttl_seconds,
    )
    return Response(auth=auth, warnings=list(life.warnings) or None)


def _mount_of(call: Call, entry: TokenEntry) -> Mount | None:
    """The mount that the token came by, wherever it is mounted now; None: it is gone."""
    if entry.mount_id == call.mount.id:
        return call.mount
    table = call.services.mounts.table(call.view)
    return next((m for m in table.mounts.values() if m.id == entry.mount_id), None)


def _wish_of_method(call: Call, mount: Mount, entry: TokenEntry) -> Wish | None:
    """Ask the auth method whether it would still let this token in, and for how long."""
    engine = call.services.engines.get(mount.type)
    if engine is None or engine.renew is None:
        return None
    auth = engine.renew(replace(call, mount=mount, params={}, fields={}), entry)
    return Wish(
        auth.ttl_seconds,
        auth.period_seconds,
        auth.max_ttl_seconds,
        auth.explicit_max_ttl_seconds,
    )


def _still_granted(call: Call, entry: TokenEntry) -> Auth:
    """This engine's own `renew`: what a role says now holds."""
    auth = Auth(
        period_seconds=entry.period_seconds,
        explicit_max_ttl_seconds=entry.explicit_max_ttl_seconds,
    )
    if entry.role:
        role = token_roles.read_role(call, entry.role)
        if role is None:
            raise InvalidRequest("original token role could not be found, not renewing")
        auth.period_seconds = role.params.period or entry.period_seconds
        auth.explicit_max_ttl_seconds = role.params.explicit_max_ttl
    return auth


# revoke


def _revoke(call: Call, entry: TokenEntry | None) -> None:
    if entry is None:
        return
    if entry.type == "batch":
        raise InvalidRequest("batch tokens cannot be revoked")
    call.services.tokens.revoke(call.view, entry.accessor)


def revoke_self(call: Call) -> None:
    _revoke(call, _own(call))


def revoke(call: Call) -> None:
    _token_field(call)
    _revoke(call, _by_token(call))


def revoke_accessor(call: Call) -> Response | None:
    entry = _by_accessor(call)
    if entry is None:
        return Response(warnings=["No token found with this accessor"])
    _revoke(call, entry)
    return None


def revoke_orphan(call: Call) -> None:
    _token_field(call)
    caller = call.caller
    assert caller is not None, "the route is not open"
    if not caller.acl.is_root and not caller.acl.sudo(call.request.path):
        raise InvalidRequest("root or sudo privileges required to revoke and orphan")
    entry = _by_token(call)
    if entry is None:
        raise InvalidRequest("token to revoke not found")
    if entry.type == "batch":
        raise InvalidRequest("batch tokens cannot be revoked")
    call.services.tokens.revoke_orphan(call.view, entry)


# accessors, tidy


def list_accessors(call: Call) -> Response:
    accessors = call.services.tokens.accessors(call.view)
    if not accessors:
        raise NotFound
    return Response(data={"keys": accessors})


def tidy(call: Call) -> Response:
    call.services.tokens.tidy(call.view)
    text = "Tidy operation successfully started. Its findings are in the server's log."
    return Response(status=202, warnings=[text])


_TOKEN = Field("token", Kind.STRING, "The token.")
_ACCESSOR = Field("accessor", Kind.STRING, "The token's accessor.")
_INCREMENT = Field("increment", Kind.DURATION, "How long it should live from now.")


def _looks_up(apply: Any) -> dict[Operation, Handler]:
    handler = Handler(apply)
    operations = (Operation.READ, Operation.CREATE, Operation.UPDATE)
    return dict.fromkeys(operations, handler)


def _asks(apply: Any) -> dict[Operation, Handler]:
    """POST that only reads."""
    handler = Handler(apply)
    return {Operation.CREATE: handler, Operation.UPDATE: handler}


ENGINE: Final = Engine(
    "token",
    (
        *token_create.ROUTES,
        *token_roles.ROUTES,
        Route("lookup-self", _looks_up(lookup_self), summary="Look up the caller's token."),
        Route("lookup", _looks_up(lookup), fields=(_TOKEN,), summary="Look up a token."),
        Route(
            "lookup-accessor",
            _asks(lookup_accessor),
            fields=(_ACCESSOR,),
            summary="Look up a token by its accessor.",
        ),
        Route(
            "renew-self",
            writes(renew_self),
            fields=(_INCREMENT,),
            summary="Renew the caller's token.",
        ),
        Route("renew", writes(renew), fields=(_TOKEN, _INCREMENT), summary="Renew a token."),
        Route(
            "renew-accessor",
            writes(renew_accessor),
            fields=(_ACCESSOR, _INCREMENT),
            summary="Renew a token by its accessor.",
        ),
        Route("revoke-self", writes(revoke_self), summary="Revoke the caller's token."),
        Route("revoke", writes(revoke), fields=(_TOKEN,), summary="Revoke a token."),
        Route(
            "revoke-accessor",
            writes(revoke_accessor),
            fields=(_ACCESSOR,),
            summary="Revoke a token by its accessor.",
        ),
        Route(
            "revoke-orphan",
            writes(revoke_orphan),
            fields=(_TOKEN,),
            summary="Revoke a token; its children become orphans.",
        ),
        Route("accessors", lists(list_accessors), sudo=True, summary="List all accessors."),
        Route("tidy", writes(tidy), summary="Look for tokens that should not be there."),
    ),
    description="Tokens: create, look up, renew, revoke.",
    auth=True,
    renew=_still_granted,
)
