"""A login that goes wrong after it was granted leaves no token that nobody was shown."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.pipeline_world import Node
from undercroft.engines.base import Call, Engine, Route, writes
from undercroft.errors import Internal, InvalidRequest, UndercroftError
from undercroft.request.lifetimes import TTL_SECONDS_MAX
from undercroft.request.model import Auth, Operation, RawBody, Response
from undercroft.request.pipeline import Pipeline


def granted(call: Call) -> Response:
    return Response(auth=Auth(policies=["app"]))


def granted_then_failed(call: Call) -> Response:
    auth = Auth(policies=["app"])
    call.services.tokens.issue(call.view, auth, call.mount, call.now_ms, path=call.request.path)
    raise InvalidRequest("and yet it failed")


def granted_and_refused(call: Call) -> Response:
    return Response(auth=Auth(policies=["app"]), status=400)


def granted_outside_the_envelope(call: Call) -> Response:
    return Response(auth=Auth(policies=["app"]), raw=RawBody(200, "text/plain", b"welcome"))


def granted_too_much(call: Call) -> Response:
    return Response(auth=Auth(policies=["app", "root"]))


HANDLERS: dict[str, Callable[[Call], Response]] = {
    handler.__name__.replace("_", "-"): handler
    for handler in (
        granted,
        granted_then_failed,
        granted_and_refused,
        granted_outside_the_envelope,
        granted_too_much,
    )
}

METHOD = Engine(
    "faulty",
    tuple(
        Route(name, writes(handler), open=True, summary="A login.")
        for name, handler in HANDLERS.items()
    ),
    auth=True,
    description="An auth method that makes mistakes.",
)


@pytest.fixture(name="node")
def _node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    node.services.engines = {**node.services.engines, "faulty": METHOD}
    node.pipeline = Pipeline(node.services)
    node.ask("sys/auth/faulty", type="faulty")
    yield node
    node.store.close()


def tokens(node: Node) -> list[str]:
    with node.store.snapshot() as view:
        return node.services.tokens.accessors(view)


def test_a_login_that_is_whole_makes_a_token(node: Node) -> None:
    before = tokens(node)
    assert node.ask("auth/faulty/granted", token="").auth is not None
    assert len(tokens(node)) == len(before) + 1


@pytest.mark.parametrize("name", [name for name in HANDLERS if name != "granted"])
def test_threat_tok_09_a_login_that_is_granted_and_fails_leaves_no_token(
    node: Node, name: str
) -> None:
    before = tokens(node)
    with pytest.raises((InvalidRequest, Internal)):
        node.ask(f"auth/faulty/{name}", token="")
    assert tokens(node) == before


def test_threat_tok_09_a_login_that_cannot_be_wrapped_leaves_no_token(node: Node) -> None:
    before = tokens(node)
    request = node.request("auth/faulty/granted", Operation.UPDATE, token="")
    request.wrap_ttl_seconds = TTL_SECONDS_MAX + 1
    with pytest.raises(UndercroftError):
        node.execute(request)
    assert tokens(node) == before
