"""sys/internal/specs/openapi and `?help=1`: the API's description, from the tables that serve it.

Every mount that the caller may see contributes its engine's routes below its path, in OpenAPI 3.0.2
with Vault's extensions, which client generators know.
"""

import re
from typing import Any, Final
from urllib.parse import quote

import msgspec

from undercroft import __version__
from undercroft.engines.base import Call, Engine, Field, Handler, Kind, Route, reads
from undercroft.engines.system.internal import caller_of, visible_mounts
from undercroft.request.model import Operation, RawBody, Response
from undercroft.request.mounts import Mount

_PARAMETER: Final = re.compile(r"\{(\w+)\*?\}")
_NOT_A_WORD: Final = re.compile(r"[^A-Za-z0-9]+")
_ALWAYS_THERE: Final = ("system", "cubbyhole", "token")
_encode: Final = msgspec.json.Encoder().encode

_TYPES: Final[dict[Kind, dict[str, Any]]] = {
    Kind.STRING: {"type": "string"},
    Kind.INT: {"type": "integer"},
    Kind.BOOL: {"type": "boolean"},
    Kind.DURATION: {"type": "string", "format": "duration"},
    Kind.LIST: {"type": "array", "items": {"type": "string"}},
    Kind.INTS: {"type": "array", "items": {"type": "integer"}},
    Kind.STRINGS: {"type": "object", "additionalProperties": {"type": "string"}},
    Kind.OBJECT: {"type": "object"},
    Kind.RAW: {},
}
_VERBS: Final = {
    Operation.READ: "get",
    Operation.LIST: "get",
    Operation.SCAN: "get",
    Operation.CREATE: "post",
    Operation.UPDATE: "post",
    Operation.PATCH: "patch",
    Operation.DELETE: "delete",
}
_NAMES: Final = {"get": "read", "post": "write", "patch": "patch", "delete": "delete"}


def document(paths: dict[str, Any]) -> dict[str, Any]:
    return {
        "openapi": "3.0.2",
        "info": {
            "title": "Undercroft API",
            "description": "HTTP API of Undercroft. All routes are prefixed with `/v1/`.",
            "version": __version__,
            "license": {
                "name": "Apache License 2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "paths": paths,
        "components": {"schemas": {}},
    }


def paths_of(engine: Engine, mount_path: str, kind: str) -> dict[str, Any]:
    """The engine's routes below a mount's path (`""`, or ending in a slash)."""
    paths: dict[str, Any] = {}
    for route in engine.routes:
        path = "/" + quote(mount_path, safe="/") + _PARAMETER.sub(r"{\1}", route.pattern)
        item = _path_item(route, path, kind, _tag(engine))
        paths[path] = {**item, **paths.get(path, {})}
    return paths


def _tag(engine: Engine) -> str:
    if engine.type == "system":
        return "system"
    return "auth" if engine.auth else "secrets"


def _path_item(route: Route, path: str, kind: str, tag: str) -> dict[str, Any]:
    in_path = _PARAMETER.findall(route.pattern)
    item: dict[str, Any] = {"description": route.description or route.summary or route.pattern}
    if in_path:
        declared = {field.name: field for field in route.fields}
        item["parameters"] = [
            _parameter(declared.get(name) or Field(name), "path") for name in in_path
        ]
    if route.sudo:
        item["x-vault-sudo"] = True
    if route.open:
        item["x-vault-unauthenticated"] = True
    if route.exists is not None:
        item["x-vault-createSupported"] = True
    item["x-vault-displayAttrs"] = {"operationPrefix": kind}
    fields = [field for field in route.fields if field.name not in in_path]
    for operation, handler in route.handlers.items():
        verb = _VERBS.get(operation)
        if verb is not None and verb not in item:
            item[verb] = _operation(route, verb, path, tag, fields, handler)
    return item


def _operation(
    route: Route, verb: str, path: str, tag: str, fields: list[Field], handler: Handler
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _NAMES[verb] + _NOT_A_WORD.sub("-", path).rstrip("-"),
        "tags": [tag],
    }
    if handler.summary:
        described["summary"] = handler.summary
    if verb == "get":
        parameters = [_parameter(field, "query") for field in fields]
        parameters += _list_parameters(route)
        if parameters:
            described["parameters"] = parameters
    elif verb != "delete" and fields:
        described["requestBody"] = _body(verb, fields)
    described["responses"] = {"200": {"description": "OK"}}
    if verb != "get":
        described["responses"]["204"] = {"description": "empty body"}
    return described


def _list_parameters(route: Route) -> list[dict[str, Any]]:
    """LIST and SCAN as GET knows them; without a READ it is always one of them."""
    shown = []
    for operation in (Operation.LIST, Operation.SCAN):
        if operation in route.handlers:
            only = Operation.READ not in route.handlers and operation is Operation.LIST
            schema: dict[str, Any] = {"type": "string"}
            if only:
                schema["enum"] = ["true"]
            shown.append(
                {
                    "name": operation.value,
                    "in": "query",
                    "description": f"`true`: {operation.value} what is below the path.",
                    "required": only,
                    "schema": schema,
                }
            )
    return shown


def _parameter(field: Field, place: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": field.name, "in": place, "schema": _schema(field)}
    shown["schema"].pop("description", None)
    if field.doc:
        shown["description"] = field.doc
    if field.deprecated:
        shown["deprecated"] = True
    if place == "path":
        shown["required"] = True
    return shown


def _schema(field: Field) -> dict[str, Any]:
    schema = dict(_TYPES[field.kind])
    if field.doc:
        schema["description"] = field.doc
    if field.default is not None:
        schema["default"] = field.default
    if field.deprecated:
        schema["deprecated"] = True
    return schema


def _body(verb: str, fields: list[Field]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {field.name: _schema(field) for field in fields}}
    kind = "application/merge-patch+json" if verb == "patch" else "application/json"
    return {"required": True, "content": {kind: {"schema": schema}}}


def help_answer(engine: Engine, route: Route, path: str) -> Response:
    """`?help=1`: a text, and the route's part of the document. `path` is below the mount."""
    lines = [f"Request:        {path}", f"Matching Route: {route.pattern}", ""]
    lines.append(route.summary or engine.description)
    if route.fields:
        lines += ["", "## PARAMETERS"]
        for field in route.fields:
            lines += [
                "",
                f"    {field.name} ({field.kind.name.lower()})",
                "",
                f"        {field.doc}",
            ]
    if route.description:
        lines += ["", "## DESCRIPTION", "", route.description]
    alone = Engine(engine.type, (route,), engine.description, engine.auth)
    body = {
        "help": "\n".join(lines),
        "openapi": document(paths_of(alone, "", engine.type)),
        "see_also": None,
    }
    return Response(raw=RawBody(200, "application/json", _encode(body)))


def read_document(call: Call) -> Response:
    """Anyone may read it; beyond the server's own, only mounts that the caller may see are in."""
    table = call.services.mounts.table(call.view).mounts
    own = [mount for mount in table.values() if mount.type in _ALWAYS_THERE]
    seen = {mount.path: mount for mount in (*own, *visible_mounts(call, caller_of(call)))}
    paths: dict[str, Any] = {}
    for path in sorted(seen):
        engine = _engine(call, seen[path])
        if engine is not None:
            paths.update(paths_of(engine, path, seen[path].type))
    _make_unique(paths)
    return Response(raw=RawBody(200, "application/json", _encode(document(paths))))


def _make_unique(paths: dict[str, Any]) -> None:
    """Mounts at `a/b/` and `a-b/` make the same ids; generators need different ones."""
    seen: dict[str, int] = {}
    for item in paths.values():
        for verb in _NAMES:
            if verb in item:
                name = item[verb]["operationId"]
                seen[name] = seen.get(name, 0) + 1
                if seen[name] > 1:
                    item[verb]["operationId"] = f"{name}-{seen[name]}"


def _engine(call: Call, mount: Mount) -> Engine | None:
    engine = call.services.engines.get(mount.type)
    return engine if engine is None or engine.variant is None else engine.variant(mount)


ROUTES: Final = (
    Route(
        "internal/specs/openapi",
        reads(read_document, summary="Generate an OpenAPI 3 document of all mounted paths."),
        open=True,
        summary="Generate an OpenAPI 3 document of all mounted paths.",
    ),
)
