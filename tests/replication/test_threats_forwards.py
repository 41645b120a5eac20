"""What a secondary may have done at its primary, whatever it vouches for (R-16)."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.replication.clusters import AT, ok
from tests.replication.pair import prepare, status
from tests.replication.peer import Peer, call, connected, granted
from tests.support.undercroft import Client, Undercroft, disk_server
from undercroft.node.frames import Answer
from undercroft.replication.activation import Grant
from undercroft.request.model import Operation

CREATE, READ, UPDATE, LIST = Operation.CREATE, Operation.READ, Operation.UPDATE, Operation.LIST
PERFORMANCE = f"{AT}/primary"
NARROW = """
path "kv1/*" { capabilities = ["create", "read", "update"] }
path "auth/userpass/users/*" { capabilities = ["create", "read", "update"] }
path "auth/userpass/users/ann" { capabilities = ["deny"] }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    """A primary with a policy of everything, `all`, and one of kv1/, `narrow`."""
    home = tmp_path_factory.mktemp("primary")
    device = f'audit "file" "main" {{ options {{ file_path = "{home}/audit.log" }} }}'
    with disk_server(home, device) as started:
        client = started.client
        prepare(client)
        for path, body in (
            ("sys/policies/acl/narrow", {"policy": NARROW}),
            ("sys/mounts/mine", {"type": "kv", "local": True}),
            ("mine/kept", {"value": "x"}),
            ("kv1/there", {"value": "x"}),
        ):
            assert client.request("POST", path, body).status in (200, 204), path
        ok(client, "primary/enable")
        yield started


def refused(answer: Answer) -> bool:
    """With 403, and nothing told."""
    assert answer.error is not None, answer.response
    assert answer.response is None
    assert answer.data == b""
    return answer.error.kind == "PermissionDenied"


def audited(server: Undercroft, path: str) -> list[dict[str, Any]]:
    """The lines about a path."""
    lines = (server.log.parent / "audit.log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["request"]["path"] == path]


def written(primary: Client, path: str) -> bool:
    return primary.request("GET", path).status == 200


@pytest.fixture(scope="module")
def bound(server: Undercroft) -> Grant:
    """Of a secondary with a filter and without a ceiling; `bystander` is another."""
    deny = {"mode": "deny", "paths": "mine/"}
    server.client.request("POST", f"{PERFORMANCE}/paths-filter/bound", deny)
    granted(server.client, "bystander")
    return granted(server.client, "bound")


@pytest.fixture
def peer(server: Undercroft, request: pytest.FixtureRequest) -> Iterator[Peer]:
    """One that streams; `narrow` alone is within its ceiling."""
    secondary_id = f"peer{abs(hash(request.node.name))}"
    with connected(granted(server.client, secondary_id, policy_ceiling="narrow")) as made:
        made.greet()
        yield made


def test_what_is_within_the_ceiling_is_done(server: Undercroft, peer: Peer) -> None:
    answer = peer.forward(1, call(UPDATE, "kv1/made", {"value": 1}, "narrow", "all"))
    assert answer.error is None
    assert written(server.client, "kv1/made")


@pytest.mark.parametrize(
    "policies",
    [("root",), ("all",), ("all", "default"), ("ROOT",), (" root",), ("narrow ", "all"), ("none",)],
    ids=str,
)
def test_threat_r_16_what_is_beyond_the_ceiling_is_refused(
    server: Undercroft, peer: Peer, policies: tuple[str, ...]
) -> None:
    for number, (operation, path) in enumerate(
        [(UPDATE, "kv1/forged"), (UPDATE, "sys/policies/acl/forged"), (READ, "kv1/there")], 1
    ):
        body = {"value": 1, "policy": 'path "*" { capabilities = ["sudo"] }'}
        assert refused(peer.forward(number, call(operation, path, body, *policies)))
    assert not written(server.client, "kv1/forged")
    assert not written(server.client, "sys/policies/acl/forged")


@pytest.mark.parametrize(
    ("path", "policy", "error"),
    [
        ("kv1/allowed", "narrow", ""),
        ("kv1/beyond", "all", "permission denied"),
        ("kv1/as-root", "root", "no root token's word"),
    ],
)
def test_threat_r_16_what_is_refused_is_audited_at_the_primary_like_what_is_done(
    server: Undercroft, peer: Peer, path: str, policy: str, error: str
) -> None:
    forged = call(UPDATE, path, {"value": 1}, policy)
    peer.forward(1, forged)
    asked, answered = audited(server, path)
    assert (asked["type"], answered["type"]) == ("request", "response")
    for line in (asked, answered):
        assert line["request"]["id"] == forged.request.id
        assert line["request"]["remote_address"] == forged.request.remote_address
        assert line["auth"]["policies"] == [policy]
    assert error in answered.get("error", "")
    assert bool(error) is bool(answered.get("error"))


@pytest.mark.parametrize("policies", [("root",), ("root", "all"), ("all", "root")], ids=str)
def test_threat_r_16_root_is_refused_where_the_activation_does_not_allow_it(
    server: Undercroft, policies: tuple[str, ...]
) -> None:
    for forward_root in (False, True):
        name = f"root-{forward_root}-{'-'.join(policies)}"
        with connected(granted(server.client, name, forward_root=forward_root)) as free:
            free.greet()
            answer = free.forward(1, call(UPDATE, f"kv1/{name}", {"value": 1}, *policies))
            assert (answer.error is None) is forward_root
            assert written(server.client, f"kv1/{name}") is forward_root


def test_threat_r_16_a_caller_that_nobody_vouches_for_does_what_anyone_may(peer: Peer) -> None:
    for number, path in enumerate(["kv1/there", "sys/policies/acl/all", "sys/mounts/x"], 1):
        assert refused(peer.forward(number, call(READ, path)))


@pytest.mark.parametrize("name", ["ann", "ANN", "aNn"])
def test_threat_r_16_a_name_in_other_letters_is_judged_as_the_handler_reads_it(
    server: Undercroft, peer: Peer, name: str
) -> None:
    """A deny of its policies on one user holds however the secondary spells that user."""
    path = f"auth/userpass/users/{name}"
    assert refused(peer.forward(1, call(UPDATE, path, {"password": "forged"}, "narrow")))
    login = server.client.request("POST", "auth/userpass/login/ann", {"password": "pw"}, token="")
    assert login.status == 200


@pytest.mark.parametrize(
    ("operation", "path", "body"),
    [
        (Operation.DELETE, f"{PERFORMANCE}/paths-filter/bound", None),
        (UPDATE, f"{PERFORMANCE}/mount-filter/bound", {"mode": "deny", "paths": "kv1/"}),
        (UPDATE, f"{PERFORMANCE}/secondary-token", {"id": "second", "forward_root": True}),
        (READ, "sys/replication/primary/secondary-token", {"id": "second"}),
        (UPDATE, f"{PERFORMANCE}/revoke-secondary", {"id": "bystander"}),
        (UPDATE, f"{PERFORMANCE}/demote", None),
        (UPDATE, "sys/replication/primary/disable", None),
        (READ, "sys/replication/quarantine", None),
        (UPDATE, "sys/seal", None),
        (UPDATE, "sys/unseal", {"reset": True}),
        (UPDATE, "sys/init", {}),
        (UPDATE, "sys/generate-root/attempt", {}),
        (UPDATE, "sys/generate-root-token/attempt", {}),
        (LIST, "auth/token/accessors/", None),
        (UPDATE, "auth/token/create", {"policies": ["all"]}),
        (UPDATE, "auth/token/revoke-orphan", {"token": "s.x"}),
        (UPDATE, "sys/wrapping/unwrap", {"token": "s.x"}),
        (UPDATE, "sys/locked-users/a/unlock/ann", None),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_threat_r_16_what_is_the_primarys_own_business_is_not_done_for_a_secondary(
    server: Undercroft, bound: Grant, operation: Operation, path: str, body: Any
) -> None:
    """A secondary that could widen its own rights would need no ceiling to be broken."""
    client = server.client
    before = client.request("GET", f"{PERFORMANCE}/paths-filter/bound").body["data"]
    with connected(bound) as peer:
        peer.greet()
        assert refused(peer.forward(1, call(operation, path, body, "all")))
    assert client.request("GET", f"{PERFORMANCE}/paths-filter/bound").body["data"] == before
    assert status(client)["mode"] == "primary"
    known = status(client)["known_secondaries"]
    assert "bystander" in known
    assert "second" not in known


@pytest.mark.parametrize(
    "path", ["auth/token/roles/made", "sys/policies/acl/made", "sys/auth/made"]
)
def test_configuration_that_is_shared_is_changed_for_a_secondary(
    server: Undercroft, bound: Grant, path: str
) -> None:
    body = {"type": "userpass", "policy": 'path "x" { capabilities = ["read"] }'}
    with connected(bound) as peer:
        peer.greet()
        assert peer.forward(1, call(UPDATE, path, body, "all")).error is None
    assert written(server.client, path)


@pytest.mark.parametrize("path", ["mine/kept", "cubbyhole/x"])
def test_threat_r_15_what_is_local_to_the_primary_is_out_of_a_secondarys_reach(
    server: Undercroft, path: str
) -> None:
    with connected(granted(server.client, f"near-{path[:4]}")) as free:
        free.greet()
        calls = [(READ, path), (UPDATE, path), (LIST, path.partition("/")[0] + "/")]
        for number, (operation, where) in enumerate(calls, 1):
            assert refused(free.forward(number, call(operation, where, {"v": 1}, "all")))
    assert server.client.request("GET", "mine/kept").body["data"] == {"value": "x"}


def test_threat_r_14_what_a_filter_withholds_is_not_had_by_a_forward_either(
    server: Undercroft,
) -> None:
    deny = {"mode": "deny", "paths": "kv1/"}
    made = server.client.request("POST", f"{AT}/primary/paths-filter/blind", deny)
    assert made.status == 204
    with connected(granted(server.client, "blind")) as blind:
        blind.greet()
        calls = [(READ, "kv1/there"), (READ, "kv1/not"), (LIST, "kv1/"), (UPDATE, "kv1/new")]
        answers = [
            blind.forward(number, call(operation, path, {"v": 1}, "all"))
            for number, (operation, path) in enumerate(calls, 1)
        ]
        assert [refused(answer) for answer in answers] == [True] * 4
        assert len({msgspec.msgpack.encode(answer.error) for answer in answers}) == 1
    assert not written(server.client, "kv1/new")


def test_a_call_that_does_not_parse_ends_the_session(peer: Peer) -> None:
    bad = msgspec.structs.replace(call(READ, "kv1/there"), policies=7)
    with pytest.raises(EOFError):
        peer.forward(1, bad)
