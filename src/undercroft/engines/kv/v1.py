"""KV version 1: one object a path, kept as it was written."""

from typing import Final

import msgspec

from undercroft.durations import parse_duration
from undercroft.engines import listing
from undercroft.engines.base import Call, Engine, Handler, Route, deletes, lists, writes
from undercroft.engines.jsonobject import top_level
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Operation, Response


def read(call: Call) -> Response:
    payload = call.store.get(call.params["path"])
    if payload is None:
        raise NotFound
    return Response(msgspec.Raw(payload), lease_duration=_lease_seconds(call, payload))


def _lease_seconds(call: Call, payload: bytes) -> int:
    """A `ttl` or `lease` member that reads as a duration; else the mount's or system's default."""
    default: int = call.mount.config.default_lease_ttl or call.services.settings.default_lease_ttl
    if b'"ttl"' not in payload and b'"lease"' not in payload:
        return default
    members = top_level(payload)
    raw = members.get("ttl", members.get("lease"))
    if raw is None or (b"." in bytes(raw) and bytes(raw)[:1] != b'"'):
        return default  # a number with a fraction is no duration
    try:
        return parse_duration(msgspec.json.decode(raw)) or default
    except InvalidRequest:
        return default


def write(call: Call) -> Response | None:
    body = call.request.body
    if not body or not top_level(body):
        raise InvalidRequest("missing data fields")
    call.store.put(call.params["path"], body)
    return None


def delete(call: Call) -> Response | None:
    call.store.delete(call.params["path"])
    return None


def list_names(call: Call) -> Response:
    return listing.keys_response(call.store.list(call.params["path"], *listing.page_of(call)))


def scan(call: Call) -> Response:
    prefix = call.params["path"]
    names = call.store.names(prefix)
    return listing.keys_response(listing.scan(names, prefix, *listing.page_of(call)))


def exists(call: Call) -> bool:
    return call.store.exists(call.params["path"])


ENGINE: Final = Engine(
    type="kv",
    description="Secrets at paths, without versions.",
    routes=(
        Route(
            "{path*}",
            {
                Operation.READ: Handler(read, summary="Read the secret."),
                **writes(write, summary="Write the secret; every member is kept."),
                **deletes(delete, summary="Delete the secret."),
                **lists(list_names, summary="List names below a path."),
                Operation.SCAN: Handler(scan, summary="List names at any depth."),
            },
            listing.FIELDS,
            exists=exists,
            raw_body=True,
            summary="A secret.",
        ),
    ),
)
