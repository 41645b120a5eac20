"""KV v1: a JSON object at a path, as it was sent, nothing else kept.

An entry `d/<path>` is the object's text. If the object has a `ttl` (or `lease`) that says for how
long a reader may keep it, its seconds stand before the text, so that reading looks into nothing.
"""

from struct import Struct
from typing import Final

import msgspec

from undercroft.durations import parse_duration
from undercroft.engines import listing
from undercroft.engines.base import Call, Engine, Handler, Route, deletes, lists, reads, writes
from undercroft.engines.kv.fields import writable_path
from undercroft.engines.kv.jsontext import is_object, members
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Operation, Response

_TTL: Final = Struct(">cq")  # b"\x01", which begins no JSON, and the seconds
_TTL_MARK: Final = b"\x01"


def exists(call: Call) -> bool:
    return call.store.exists("d/" + call.params["path"])


def read(call: Call) -> Response:
    stored = call.store.get("d/" + call.params["path"])
    if stored is None:
        raise NotFound
    if is_object(stored):
        return Response(msgspec.Raw(stored), lease_duration=_default_ttl(call))
    _, seconds = _TTL.unpack_from(stored)
    return Response(msgspec.Raw(stored[_TTL.size :]), lease_duration=seconds)


def write(call: Call) -> None:
    path = writable_path(call)
    body = object_body(call)
    seconds = _ttl_seconds(members(body))
    head = b"" if seconds is None else _TTL.pack(_TTL_MARK, seconds)
    call.store.put("d/" + path, head + body)


def delete(call: Call) -> None:
    call.store.delete("d/" + call.params["path"])


def list_keys(call: Call) -> Response:
    return Response({"keys": listing.list_names(call, call.store, "d/" + call.params["path"])})


def scan(call: Call) -> Response:
    return listing.scan_response(listing.scan_names(call, call.store, "d/" + call.params["path"]))


def nothing_here(call: Call) -> Response:
    raise NotFound


def refuse_root(call: Call) -> None:
    writable_path(call)  # an empty path never is


def object_body(call: Call) -> bytes:
    """The request's body. Raises InvalidRequest when it has no field at all."""
    body = call.request.body
    if not body or not members(body):
        raise InvalidRequest("missing data fields")
    return body


def _default_ttl(call: Call) -> int:
    return call.mount.config.default_lease_ttl or call.services.settings.default_lease_ttl


def _ttl_seconds(sent: dict[str, msgspec.Raw]) -> int | None:
    """What the writer says in `ttl` or else `lease`; None where that is no duration."""
    raw = sent.get("ttl", sent.get("lease"))
    if raw is None:
        return None
    value = msgspec.json.decode(raw)
    if isinstance(value, float):
        return None
    try:
        return parse_duration(value, "ttl")
    except InvalidRequest:
        return None


ENGINE: Final = Engine(
    type="kv",
    description="key/value secret storage",
    routes=(
        Route(
            "",
            {
                **reads(nothing_here),
                **writes(refuse_root),
                Operation.DELETE: Handler(lambda call: None),
            },
            raw_body=True,
            summary="The mount itself",
        ),
        Route(
            "{path*}",
            {
                **reads(read, summary="Read a secret."),
                **writes(write, summary="Write a secret."),
                **deletes(delete, summary="Delete a secret."),
                **lists(list_keys, summary="List names."),
                Operation.SCAN: Handler(scan, summary="List names at every depth."),
            },
            fields=listing.FIELDS,
            exists=exists,
            raw_body=True,
            summary="A secret",
        ),
    ),
)
