"""Cubbyhole: a private store of every token, gone with it.

An entry `<token accessor>/<path>` holds an object's text as KV v1 does. It lies in the local
keyspace, so it never leaves the cluster. Batch tokens have none: nothing tells when they are gone.
"""

from typing import Final

import msgspec

from undercroft.engines import listing
from undercroft.engines.base import Call, Engine, Handler, Route, deletes, lists, reads, writes
from undercroft.engines.kv.fields import writable_path
from undercroft.engines.kv.v1 import object_body
from undercroft.errors import InvalidRequest, NotFound, PermissionDenied
from undercroft.request.model import Operation, Response
from undercroft.storage.keys import CUBBYHOLE, LOCAL
from undercroft.storage.view import Snapshot, Space


def delete_all(view: Snapshot, accessor: str) -> None:
    """Empty a token's cubbyhole; for the revocation of the token, in its transaction."""
    space = Space(view, LOCAL, CUBBYHOLE)
    for name in list(space.names(accessor + "/")):
        space.delete(name)


def exists(call: Call) -> bool:
    caller = call.caller
    if caller is None or not caller.token.accessor:
        return False
    return call.local.exists(f"{caller.token.accessor}/{call.params['path']}")


def read(call: Call) -> Response:
    stored = call.local.get(_name(call))
    if stored is None:
        raise NotFound
    return Response(msgspec.Raw(stored))


def write(call: Call) -> None:
    name = _name(call)
    writable_path(call)
    call.local.put(name, object_body(call))


def delete(call: Call) -> None:
    call.local.delete(_name(call))


def list_keys(call: Call) -> Response:
    return Response({"keys": listing.list_names(call, call.local, _name(call))})


def no_path(call: Call) -> Response:
    _name(call)
    raise InvalidRequest("missing path")


def _name(call: Call) -> str:
    """Raises InvalidRequest for a token that has no cubbyhole."""
    if call.caller is None:
        raise PermissionDenied
    token = call.caller.token
    if token.type != "service" or not token.accessor:
        raise InvalidRequest("cubbyhole operations are only supported by 'service' type tokens")
    if token.is_wrapping:  # the wrapped answer lies there, for sys/wrapping/unwrap alone
        raise InvalidRequest("a wrapping token has no cubbyhole: use sys/wrapping/unwrap")
    return f"{token.accessor}/{call.params.get('path', '')}"


ENGINE: Final = Engine(
    type="cubbyhole",
    description="per-token private secret storage",
    routes=(
        Route(
            "",
            {**reads(no_path), **writes(no_path), Operation.DELETE: Handler(no_path)},
            raw_body=True,
            summary="The mount itself",
        ),
        Route(
            "{path*}",
            {
                **reads(read, summary="Read from the token's own store."),
                **writes(write, summary="Write to the token's own store."),
                **deletes(delete, summary="Delete from the token's own store."),
                **lists(list_keys, summary="List names in the token's own store."),
            },
            fields=listing.FIELDS,
            exists=exists,
            raw_body=True,
            summary="A token's own secret",
        ),
    ),
)
