"""From a `Response` to the bytes of Vault's envelope (API inventory, conventions 01 to 05)."""

from typing import Any, Final

import msgspec

from undercroft.http.message import HttpResponse
from undercroft.request.model import Auth, Response, WrapInfo

_encode: Final = msgspec.json.Encoder().encode
_NULL: Final = b"null"


def encode(request_id: str, response: Response) -> HttpResponse:
    """The answer to a request. A Response with nothing in it is a 204."""
    raw = response.raw
    headers = tuple(response.headers.items()) if response.headers else ()
    if raw is not None:
        return HttpResponse(raw.status, raw.body, raw.content_type, headers)
    if response.status == 204 or _is_empty(response):
        return HttpResponse(204, headers=headers)
    return HttpResponse(response.status or 200, envelope(request_id, response), headers=headers)


def envelope(request_id: str, response: Response) -> bytes:
    """The JSON object, all keys always present, with a line feed behind it as Go writes it."""
    data = _NULL if response.data is None else _encode(response.data)
    wrap_info, auth, warnings = response.wrap_info, response.auth, response.warnings
    if wrap_info is not None:
        request_id = ""  # conv 18: a wrapped answer says nothing of the request behind it
    return (
        b'{%b"request_id":"%b","lease_id":%b,"renewable":%b,"lease_duration":%d,"data":%b,"wrap_info":%b,"warnings":%b,"auth":%b}\n'
        % (
            _repeated(data) if response.repeat_data else b"",
            request_id.encode(),
            _encode(response.lease_id) if response.lease_id else b'""',
            b"true" if response.renewable else b"false",
            response.lease_duration,
            data,
            _NULL if wrap_info is None else _encode(_wrap_block(wrap_info)),
            _encode(warnings) if warnings else _NULL,
            _NULL if auth is None else _encode(auth_block(auth)),
        )
    )


def _is_empty(response: Response) -> bool:
    return (
        response.status == 0
        and response.data is None
        and response.auth is None
        and response.wrap_info is None
        and not response.warnings
    )


def _repeated(data: bytes) -> bytes:
    """Conv 04: the keys of `data` also stand at the top level, before the envelope's own."""
    inner = data[1:-1] if data[:1] == b"{" else b""
    return inner + b"," if inner else b""


def auth_block(auth: Auth) -> dict[str, Any]:
    block: dict[str, Any] = {
        "client_token": auth.client_token,
        "accessor": auth.accessor,
        "policies": auth.policies,
        "token_policies": auth.token_policies,
    }
    if auth.identity_policies:
        block["identity_policies"] = auth.identity_policies
    return block | {
        "metadata": auth.metadata or None,
        "lease_duration": auth.lease_duration,
        "renewable": auth.renewable,
        "entity_id": auth.entity_id,
        "token_type": auth.token_type,
        "orphan": auth.orphan,
        "mfa_requirement": None,
        "num_uses": auth.num_uses,
    }


def _wrap_block(info: WrapInfo) -> dict[str, Any]:
    block: dict[str, Any] = {
        "token": info.token,
        "accessor": info.accessor,
        "ttl": info.ttl,
        "creation_time": info.creation_time,
        "creation_path": info.creation_path,
    }
    if info.wrapped_accessor is not None:
        block["wrapped_accessor"] = info.wrapped_accessor
    return block
