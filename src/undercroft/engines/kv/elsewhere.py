"""Paths of a KV v2 mount that no API has: what to tell those who forgot `data/` or `metadata/`."""

from typing import Final

from undercroft.engines.base import Call, Handler, Route
from undercroft.engines.kv.fields import writable_path
from undercroft.errors import NotFound, UnsupportedOperation
from undercroft.request.model import Operation, Response

# As clients know it: they show warnings of a 404, and people search for these words.
_INVALID: Final = (
    "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API "
    "endpoints to use. If using the OpenBao CLI, use 'bao kv {}' for this operation."
)
_ROOT: Final = "Non-listing operations on the root of a K/V v2 mount are not supported."
_COMMANDS: Final = {
    Operation.CREATE: "put",
    Operation.READ: "get",
    Operation.UPDATE: "put",
    Operation.PATCH: "patch",
    Operation.DELETE: "delete",
    Operation.LIST: "list",
    Operation.SCAN: "scan",
}
_ROOTS: Final = ("data", "metadata", "delete", "undelete", "destroy")
_PREFIXES: Final = (*_ROOTS, "subkeys", "detailed-metadata")
_LISTINGS: Final = (Operation.LIST, Operation.SCAN)
_WRITES: Final = (Operation.CREATE, Operation.UPDATE, Operation.PATCH)


def answer(call: Call) -> Response | None:
    """404 with a warning; 405 where only the verb is wrong."""
    operation, path = call.request.operation, call.params.get("path", "")
    if operation in _WRITES and path:
        writable_path(call)
    if operation not in _LISTINGS and path in _ROOTS:
        return _not_found(_ROOT)
    prefix, slash, rest = path.partition("/")
    if path == "config" or (slash and prefix in _PREFIXES):
        if rest or operation in _LISTINGS or path == "config":
            raise UnsupportedOperation
        if operation is Operation.DELETE:
            return None  # conv 37: what is not there is deleted
        raise NotFound
    return _not_found(_INVALID.format(_COMMANDS[operation]))


def _not_found(warning: str) -> Response:
    return Response(status=404, warnings=[warning])


_HANDLERS: Final = {operation: Handler(answer) for operation in _COMMANDS}

ROUTES: Final = (
    Route("", _HANDLERS, raw_body=True, summary="The mount itself"),
    Route("{path*}", _HANDLERS, raw_body=True, summary="Paths that no API has"),
)
