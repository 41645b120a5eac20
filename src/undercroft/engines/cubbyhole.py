"""Cubbyhole: a place of its own for each token, gone with the token.

An entry's name is `<token accessor>/<path>`, below the fixed mount id, in the local keyspace: the
token store deletes the prefix when it revokes the token.
"""

from typing import Final

import msgspec

from undercroft.engines import listing
from undercroft.engines.base import Call, Engine, Handler, Route, deletes, lists, writes
from undercroft.engines.jsonobject import top_level
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Operation, Response


def _own(call: Call) -> str:
    """The prefix of the caller's names. Raises InvalidRequest for tokens that have no place."""
    assert call.caller is not None, "no cubbyhole route is open"
    if call.caller.token.type == "batch":
        raise InvalidRequest("cubbyhole operations are only supported by service tokens")
    return call.caller.token.accessor + "/"


def read(call: Call) -> Response:
    payload = call.store.get(_own(call) + call.params["path"])
    if payload is None:
        raise NotFound
    return Response(msgspec.Raw(payload))


def write(call: Call) -> Response | None:
    name = _own(call) + call.params["path"]
    body = call.request.body
    if not body or not top_level(body):
        raise InvalidRequest("missing data fields")
    call.store.put(name, body)
    return None


def delete(call: Call) -> Response | None:
    call.store.delete(_own(call) + call.params["path"])
    return None


def list_names(call: Call) -> Response:
    prefix = _own(call) + call.params["path"]
    return listing.keys_response(call.store.list(prefix, *listing.page_of(call)))


def scan(call: Call) -> Response:
    prefix = _own(call) + call.params["path"]
    names = call.store.names(prefix)
    return listing.keys_response(listing.scan(names, prefix, *listing.page_of(call)))


def exists(call: Call) -> bool:
    return call.store.exists(_own(call) + call.params["path"])


ENGINE: Final = Engine(
    type="cubbyhole",
    description="per-token private secret storage",
    routes=(
        Route(
            "{path*}",
            {
                Operation.READ: Handler(read, summary="Read an entry of this token's own."),
                **writes(write, summary="Write an entry."),
                **deletes(delete, summary="Delete an entry."),
                **lists(list_names, summary="List names below a path."),
                Operation.SCAN: Handler(scan, summary="List names at any depth."),
            },
            listing.FIELDS,
            exists=exists,
            raw_body=True,
            summary="A private entry.",
        ),
    ),
)
