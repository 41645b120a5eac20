"""The way of a request: who is admitted, where it is decided, and what an error leaves behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.pipeline_world import Node
from undercroft.engines.base import Call, Engine, Route, writes
from undercroft.errors import (
    InvalidRequest,
    PermissionDenied,
    ReadOnly,
    Refused,
    Sealed,
    UnsupportedOperation,
    UnsupportedPath,
)
from undercroft.node.state import NodeState
from undercroft.request.model import Operation, Response
from undercroft.request.mounts import Mount
from undercroft.request.pipeline import Facts, Pipeline

READ_AND_WRITE = 'path "secret/*" { capabilities = ["create", "read", "update", "list"] }'
NOTHING_AT_ALL = 'path "elsewhere" { capabilities = ["read"] }'


@pytest.fixture(name="node")
def _node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    node.ask("sys/mounts/secret", type="kv")
    node.policy("app", READ_AND_WRITE)
    yield node
    node.store.close()


# where it is decided


def test_a_read_is_answered_from_a_snapshot(node: Node) -> None:
    node.ask("secret/a", k="v")
    answer = node.look(node.request("secret/a", Operation.READ))
    assert answer.data is not None


@pytest.mark.parametrize(
    ("path", "operation", "fields"),
    [
        ("secret/a", Operation.UPDATE, {"k": "v"}),
        ("secret/a", Operation.DELETE, {}),
        ("auth/token/create", Operation.UPDATE, {"policies": ["app"]}),
        ("sys/mounts/more", Operation.UPDATE, {"type": "kv"}),
    ],
)
def test_what_writes_moves_up_to_the_writer(
    node: Node, path: str, operation: Operation, fields: dict[str, Any]
) -> None:
    before = node.store.position
    with pytest.raises(ReadOnly):
        node.look(node.request(path, operation, **fields))
    assert node.store.position == before
    node.execute(node.request(path, operation, **fields))


def test_a_wrapped_read_moves_up_since_its_answer_is_stored(node: Node) -> None:
    node.ask("secret/a", k="v")
    request = node.request("secret/a", Operation.READ)
    request.wrap_ttl_seconds = 60
    with pytest.raises(ReadOnly):
        node.look(request)
    info = node.execute(request).wrap_info
    assert info is not None
    assert info.ttl == 60


def test_a_read_with_a_counted_token_moves_up_since_its_use_is_stored(node: Node) -> None:
    node.ask("secret/a", k="v")
    token = node.token("app", num_uses=3).client_token
    with pytest.raises(ReadOnly):
        node.look(node.request("secret/a", Operation.READ, token))
    assert node.execute(node.request("secret/a", Operation.READ, token)).data is not None


def admitted_by_the_worker(node: Node, token: str) -> Any:
    """A write that a worker has admitted and is about to send to the writer."""
    request = node.request("secret/a", token=token, k="v")
    with node.store.snapshot() as view:
        node.pipeline.admit(request, view, node.now_ms, Facts())
        with pytest.raises(ReadOnly):
            node.pipeline.run(node.pipeline.admit(request, view, node.now_ms, Facts()))
    return request


def test_decide_where_you_write_a_policy_that_shrank_on_the_way_refuses(node: Node) -> None:
    request = admitted_by_the_worker(node, node.token("app").client_token)
    node.policy("app", NOTHING_AT_ALL)
    with pytest.raises(PermissionDenied):
        node.execute(request)
    assert not _exists(node)


def _exists(node: Node) -> bool:
    """Whether anything is stored below secret/."""
    with node.store.snapshot() as view:
        mount = node.services.mounts.table(view).mounts["secret/"]
        return any(True for _ in view.keys(mount.keyspace + mount.id))


def test_decide_where_you_write_a_deleted_policy_refuses(node: Node) -> None:
    request = admitted_by_the_worker(node, node.token("app").client_token)
    node.ask("sys/policies/acl/app", Operation.DELETE)
    with pytest.raises(PermissionDenied):
        node.execute(request)
    assert not _exists(node)


def test_decide_where_you_write_a_token_revoked_on_the_way_refuses(node: Node) -> None:
    token = node.token("app").client_token
    request = admitted_by_the_worker(node, token)
    node.execute(node.request("auth/token/revoke-self", token=token))
    with pytest.raises(PermissionDenied):
        node.execute(request)
    assert not _exists(node)


def test_decide_where_you_write_an_unmounted_engine_refuses(node: Node) -> None:
    request = admitted_by_the_worker(node, node.token("app").client_token)
    node.ask("sys/mounts/secret", Operation.DELETE)
    with pytest.raises(UnsupportedPath):
        node.execute(request)


def test_decide_where_you_write_create_or_update_is_judged_anew(node: Node) -> None:
    node.policy("maker", 'path "secret/*" { capabilities = ["create"] }')
    request = admitted_by_the_worker(node, node.token("maker").client_token)
    assert request.operation is Operation.CREATE
    node.ask("secret/a", k="made by somebody else")
    with pytest.raises(PermissionDenied):
        node.execute(request)


def test_decide_where_you_write_requests_of_one_batch_see_each_other(node: Node) -> None:
    """Two requests in one commit: the second is decided after what the first one did."""
    token = node.token("app").client_token
    batch = node.store.batch(lambda: node.now_ms)
    first = batch.transaction()
    delete = node.request("sys/policies/acl/app", Operation.DELETE)
    node.pipeline.execute(delete, first, node.now_ms)
    batch.accept(first)
    second = batch.transaction()
    with pytest.raises(PermissionDenied):
        node.pipeline.execute(node.request("secret/a", token=token, k="v"), second, node.now_ms)
    batch.commit()
    assert not _exists(node)


# counted tokens


def test_a_counted_token_ends_with_its_last_use(node: Node) -> None:
    node.ask("secret/a", k="v")
    token = node.token("app", num_uses=2).client_token
    for _ in range(2):
        node.execute(node.request("secret/a", Operation.READ, token))
    with pytest.raises(PermissionDenied):
        node.execute(node.request("secret/a", Operation.READ, token))


def test_the_use_of_a_counted_token_stands_when_the_handler_fails(node: Node) -> None:
    node.policy("mounter", 'path "sys/mounts/*" { capabilities = ["create", "update", "sudo"] }')
    token = node.token("mounter", num_uses=2).client_token
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            node.execute(node.request("sys/mounts/x", token=token, type="no-such-engine"))
    with pytest.raises(PermissionDenied):
        node.execute(node.request("sys/mounts/x", token=token, type="kv"))


def test_a_denied_request_is_no_use(node: Node) -> None:
    token = node.token("app", num_uses=2).client_token
    for _ in range(5):
        with pytest.raises(PermissionDenied):
            node.execute(node.request("sys/mounts/x", token=token, type="kv"))
    entry = node.entry(token)
    assert entry is not None
    assert entry.num_uses == 2


# what an error leaves behind


def failing_node(node: Node, error: Exception) -> Node:
    """The same node with an engine whose one handler writes, then raises."""

    def fail(call: Call) -> Response | None:
        call.store.put("written", b"before the error")
        raise error

    engine = Engine("failing", (Route("do", writes(fail)),))
    node.services.engines = {**node.services.engines, "failing": engine}
    node.pipeline = Pipeline(node.services)
    with node.transaction() as tx:
        node.services.mounts.put(tx, Mount(b"f" * 16, "failing/", "failing", "failing_1"))
    return node


def written(node: Node) -> bool:
    with node.store.snapshot() as view:
        return view.exists(b"s" + b"f" * 16 + b"written")


def test_an_error_undoes_what_its_handler_wrote(node: Node) -> None:
    with pytest.raises(InvalidRequest):
        failing_node(node, InvalidRequest("no")).execute(node.request("failing/do"))
    assert not written(node)


def test_an_error_that_keeps_its_writes_is_raised_and_they_stand(node: Node) -> None:
    with pytest.raises(Refused):
        failing_node(node, Refused("no")).execute(node.request("failing/do"))
    assert written(node)


def test_a_failed_login_is_counted(node: Node) -> None:
    node.ask("sys/auth/userpass", type="userpass")
    node.ask("auth/userpass/users/ada", password="right", token_policies=["app"])
    for _ in range(5):
        with pytest.raises(InvalidRequest):
            node.ask("auth/userpass/login/ada", token="", password="wrong")
    with pytest.raises((InvalidRequest, PermissionDenied)):  # locked out: even the right one
        node.ask("auth/userpass/login/ada", token="", password="right")


# what an outsider learns


def test_threat_http_05_an_outsider_is_told_the_same_of_every_path(node: Node) -> None:
    node.ask("secret/a", k="v")
    told = set()
    for path in (
        "secret/a",
        "secret/missing",
        "no/such/mount",
        "sys/mounts",
        "sys/no-such-route",
        "sys/policies/acl/app",
        "sys/policies/acl/none",
        "auth/token/lookup-self",
        "auth/no-such-method/login/x",
        "auth/token/no-such-route",
        "cubbyhole/x",
        "identity/entity",
    ):
        for operation in (Operation.READ, Operation.UPDATE, Operation.DELETE, Operation.LIST):
            for token in ("", "s.unknown", "b.unknown", "x"):
                with pytest.raises(PermissionDenied) as refused:
                    node.execute(node.request(path, operation, token))
                told.add((type(refused.value), refused.value.message, refused.value.hint))
    assert told == {(PermissionDenied, "permission denied", "")}


def test_threat_http_05_a_token_without_rights_learns_no_more(node: Node) -> None:
    weak = node.token("default").client_token
    told = set()
    for path in ("secret/a", "no/such/mount", "sys/no-such-route", "sys/mounts", "auth/x/y"):
        for operation in (Operation.READ, Operation.UPDATE, Operation.LIST):
            with pytest.raises(PermissionDenied) as refused:
                node.execute(node.request(path, operation, weak))
            told.add(refused.value.message)
    assert len(told) == 1


def test_who_may_use_a_path_learns_what_is_wrong_with_it(node: Node) -> None:
    for path, operation, error in (
        ("no/such/mount", Operation.READ, UnsupportedPath),
        ("sys/no-such-route", Operation.READ, UnsupportedPath),
        ("sys/seal-status", Operation.DELETE, UnsupportedOperation),
        ("secret/a/", Operation.UPDATE, InvalidRequest),
    ):
        with pytest.raises(error):
            node.execute(node.request(path, operation))


def test_a_sealed_node_refuses_before_it_looks_at_anything(node: Node) -> None:
    node.services.state = NodeState(initialized=True, sealed=True)
    for path in ("secret/a", "sys/mounts", "no/such/mount", "sys/no-such-route"):
        with pytest.raises(Sealed):
            node.look(node.request(path, Operation.READ))
    assert node.look(node.request("sys/seal-status", Operation.READ, "")).raw is not None


# names


def test_threat_acl_11_a_rule_holds_for_every_spelling_of_a_name(node: Node) -> None:
    node.ask("sys/auth/userpass", type="userpass")
    node.ask("auth/userpass/users/alice", password="pw")
    node.policy(
        "staff",
        'path "auth/userpass/users/*" { capabilities = ["create", "read", "update", "delete"] }\n'
        'path "auth/userpass/users/alice" { capabilities = ["deny"] }',
    )
    token = node.token("staff").client_token
    for name in ("alice", "ALICE", "Alice", "aLiCe"):
        for operation in (Operation.READ, Operation.UPDATE, Operation.DELETE):
            with pytest.raises(PermissionDenied):
                node.execute(node.request(f"auth/userpass/users/{name}", operation, token))
    assert node.read("auth/userpass/users/ALICE") == node.read("auth/userpass/users/alice")


def test_threat_acl_11_policy_names_are_one_whatever_their_case(node: Node) -> None:
    node.policy(
        "keeper",
        'path "sys/policies/acl/*" { capabilities = ["create", "read", "update", "delete"] }\n'
        'path "sys/policies/acl/app" { capabilities = ["deny"] }',
    )
    token = node.token("keeper").client_token
    for name in ("app", "APP", "aPp"):
        with pytest.raises(PermissionDenied):
            node.execute(node.request(f"sys/policies/acl/{name}", token=token, policy=""))


def test_threat_id_08_every_spelling_of_a_user_is_one_user(node: Node) -> None:
    node.ask("sys/auth/userpass", type="userpass")
    node.ask("auth/userpass/users/ada", password="pw", token_policies=["app"])
    seen = set()
    for name in ("ada", "ADA", "Ada"):
        auth = node.ask(f"auth/userpass/login/{name}", token="", password="pw").auth
        assert auth is not None
        entry = node.entry(auth.client_token)
        assert entry is not None
        seen.add((auth.alias_name, entry.display_name, tuple(entry.policies)))
    assert len(seen) == 1
    assert {name for name, *_ in seen} == {"ada"}
    for stranger in (" ada", "ada ", "ａｄａ", "ada\u200b"):
        with pytest.raises((InvalidRequest, UnsupportedPath)):
            node.ask(f"auth/userpass/login/{stranger}", token="", password="pw")
