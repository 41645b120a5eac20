"""The OpenAPI document is made from the routes that serve."""

import re
from typing import Any

import msgspec

from tests.unit.node import SYS, Rules, call_on, mount
from undercroft.engines.base import Call, Engine, Field, Kind, Route, lists, reads, writes
from undercroft.engines.system import audit, health, internal, metrics, openapi, tools
from undercroft.engines.system.openapi import document, help_answer, paths_of, read_document
from undercroft.request.model import Response


def handler(call: Call) -> Response | None:
    return None


KV = Engine(
    "kv",
    (
        Route(
            "data/{path*}",
            {**reads(handler, summary="Read it."), **writes(handler), **lists(handler)},
            fields=(
                Field("path", doc="Where."),
                Field("version", Kind.INT, "Which.", 0),
                Field("old", Kind.BOOL, deprecated=True),
            ),
            exists=lambda call: False,
            summary="Secrets.",
            description="All about secrets.",
        ),
        Route("list/{path*}", lists(handler)),
    ),
)
SYSTEM = Engine(
    "system",
    (
        *audit.ROUTES,
        *health.ROUTES,
        *internal.ROUTES,
        *metrics.ROUTES,
        *openapi.ROUTES,
        *tools.ROUTES,
    ),
)
MOUNTS = (
    SYS,
    *(mount(path, "kv") for path in ("kv/", "odd{x}/", "a/b/", "a-b/")),
    mount("gone/", "no-such-engine"),
)
TOKENS = {"root": Rules({}, is_root=True)}


def served(token: str) -> dict[str, Any]:
    made = call_on(token=token, mounts=MOUNTS, tokens=TOKENS, engines={"kv": KV, "system": SYSTEM})
    response = read_document(made)
    assert response.raw is not None
    decoded: dict[str, Any] = msgspec.json.decode(response.raw.body)
    return decoded


def test_every_route_of_every_visible_mount_is_in_the_document() -> None:
    paths = served("root")["paths"]
    assert {"/kv/data/{path}", "/kv/list/{path}", "/odd%7Bx%7D/data/{path}"} <= set(paths)
    assert all("/sys/" + re.sub(r"\*", "", r.pattern) in paths for r in SYSTEM.routes)


def test_without_a_token_only_the_servers_own_mounts_are_in_it() -> None:
    paths = served("")["paths"]
    assert "/sys/health" in paths
    assert all(path.startswith("/sys/") for path in paths)


def test_operations_parameters_and_vaults_extensions() -> None:
    item = paths_of(KV, "kv/", "kv")["/kv/data/{path}"]
    assert set(item) >= {"get", "post", "x-vault-createSupported", "parameters"}
    assert item["parameters"] == [
        {
            "name": "path",
            "in": "path",
            "schema": {"type": "string"},
            "description": "Where.",
            "required": True,
        }
    ]
    assert item["get"]["summary"] == "Read it."
    assert [p["name"] for p in item["get"]["parameters"]] == ["version", "old", "list"]
    properties = item["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert properties == {
        "version": {"type": "integer", "description": "Which.", "default": 0},
        "old": {"type": "boolean", "deprecated": True},
    }
    system = paths_of(SYSTEM, "sys/", "system")
    assert system["/sys/audit"]["x-vault-sudo"] is True
    assert system["/sys/health"]["x-vault-unauthenticated"] is True


def test_a_path_that_can_only_be_listed_says_so() -> None:
    parameters = paths_of(KV, "kv/", "kv")["/kv/list/{path}"]["get"]["parameters"]
    assert parameters[-1]["required"] is True
    assert parameters[-1]["schema"] == {"type": "string", "enum": ["true"]}


def test_operation_ids_are_unique_and_path_parameters_declared() -> None:
    shown = served("root")
    assert shown["openapi"] == "3.0.2"
    seen: list[str] = []
    for path, item in shown["paths"].items():
        declared = {p["name"] for p in item.get("parameters", ()) if p["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path))
        seen += [item[verb]["operationId"] for verb in ("get", "post", "delete") if verb in item]
    assert len(seen) == len(set(seen))


def test_help_is_a_text_and_the_routes_part_of_the_document() -> None:
    response = help_answer(KV, KV.routes[0], "data/x")
    assert response.raw is not None
    shown = msgspec.json.decode(response.raw.body)
    assert shown["help"].startswith("Request:        data/x\nMatching Route: data/{path*}\n")
    assert "All about secrets." in shown["help"]
    assert list(shown["openapi"]["paths"]) == ["/data/{path}"]
    assert shown["see_also"] is None
    assert document({})["paths"] == {}
