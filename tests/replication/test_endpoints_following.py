"""What secondary/enable, update-primary and promote do once they are accepted."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_seal import generate_root, is_root
from tests.replication.clusters import (
    AT,
    claims_of,
    errors,
    ok,
    read,
    settle,
    token_for,
    warnings,
    write,
)
from tests.replication.pair import (
    ALL,
    Pair,
    join,
    prepare,
    replicating_pair,
    replicator_of,
    status,
)
from tests.support.undercroft import Undercroft, disk_server, free_port, start, until


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with replicating_pair(tmp_path) as made:
        yield made


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Undercroft, Undercroft]]:
    """A primary, and one that has not joined it yet."""
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    with disk_server(tmp_path / "primary") as one, disk_server(tmp_path / "secondary") as other:
        prepare(one.client)
        ok(one.client, "primary/enable")
        yield one, other


@contextlib.contextmanager
def frozen(server: Undercroft) -> Iterator[None]:
    """It hears of no other cluster; the rest of the node works."""
    pid = replicator_of(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# enable


def test_until_the_copy_is_complete_it_tells_its_state_and_can_be_undone(
    two: tuple[Undercroft, Undercroft],
) -> None:
    primary, server = two
    client = server.client
    assert client.request("POST", "sys/mounts/kept", {"type": "kv"}).status == 204
    assert client.request("POST", "kept/a", {"v": 1}).status == 204
    token = token_for(primary.client, "osaka")
    with frozen(server):
        answer = client.request("POST", f"{AT}/secondary/enable", {"token": token})
        assert answer.status == 200
        assert "may take long" in warnings(answer)
        assert "shares stay as they are" in warnings(answer)
        for path in ("kept/a", "sys/mounts", "auth/token/lookup-self"):
            refused = client.request("GET", path)
            assert (refused.status, refused.headers.get("retry-after")) == (503, "5"), path
            assert "%" in errors(refused)
        assert client.request("POST", "kept/a", {"v": 2}).status == 503
        assert status(client)["mode"] == "bootstrapping"
        health = client.request("GET", "sys/health", token="")
        assert health.status == 503
        assert health.body["replication_performance_mode"] == "bootstrapping"
        assert client.request("GET", "sys/leader", token="").status == 200
        primary.kill()
    undone = client.request("POST", f"{AT}/secondary/disable")
    assert undone.status == 200
    assert "as it was before" in warnings(undone)
    assert status(client) == {"mode": "disabled"}
    assert client.request("GET", "kept/a").body["data"] == {"v": 1}
    assert client.request("POST", "kept/a", {"v": 2}).status == 204


def test_a_primary_that_dies_in_the_middle_leaves_the_old_cluster_usable(
    two: tuple[Undercroft, Undercroft],
) -> None:
    """Also after a crash of the secondary itself."""
    primary, server = two
    client = server.client
    assert client.request("POST", "cubbyhole/a", {"v": 1}).status == 204
    token = token_for(primary.client, "osaka")
    with frozen(server):
        ok(client, "secondary/enable", {"token": token})
        primary.kill()
        server.kill()
    config = server.log.parent / "undercroft.hcl"
    server.process = start([f"-config={config}"], server.log.parent, client.port).process
    until(lambda: client.request("GET", "sys/seal-status").status == 200, server)
    assert client.request("PUT", "sys/unseal", {"key": server.keys[0]}).status == 200
    until(lambda: status(client)["mode"] == "bootstrapping", server)
    ok(client, "secondary/disable")
    assert client.request("GET", "cubbyhole/a").body["data"] == {"v": 1}


def test_what_was_the_clusters_own_is_gone_once_the_copy_is_complete(
    two: tuple[Undercroft, Undercroft],
) -> None:
    primary, server = two
    client = server.client
    for path, kind in (("sys/mounts/here", "kv"), ("sys/auth/here", "userpass")):
        assert client.request("POST", path, {"type": kind, "local": True}).status == 204
    assert client.request("POST", "auth/here/users/bob", {"password": "pw"}).status == 204
    assert client.request("POST", "here/a", {"v": 1}).status == 204
    assert client.request("POST", "sys/policies/acl/mine", {"policy": ALL}).status == 204
    former = client.token
    join(primary.client, server, "osaka")  # and logs in through the replicated auth method
    assert client.request("GET", "auth/token/lookup-self", token=former).status == 403
    assert client.request("GET", "cubbyhole/a").status == 404
    assert "here/" not in client.request("GET", "sys/mounts").body["data"]
    assert "here/" not in client.request("GET", "sys/auth").body["data"]
    assert client.request("GET", "sys/policies/acl/mine").status == 404
    login = client.request("POST", "auth/here/login/bob", {"password": "pw"}, token="")
    assert login.status != 200


def test_the_key_shares_of_a_secondary_stay_its_own(two: tuple[Undercroft, Undercroft]) -> None:
    primary, server = two
    client = server.client
    join(primary.client, server, "osaka")
    made = generate_root(server, "sys/generate-root-token", client.token)
    assert is_root(client, made)
    assert client.request("PUT", "sys/seal").status == 204
    theirs = client.request("PUT", "sys/unseal", {"key": primary.keys[0]})
    assert theirs.status == 400 or theirs.body["sealed"]
    server.unseal()
    settle(client, primary.client)


def test_a_bare_wrapping_token_will_do_with_the_primarys_address(
    two: tuple[Undercroft, Undercroft],
) -> None:
    """As Vault 0.7 gave them."""
    primary, server = two
    token = claims_of(token_for(primary.client, "osaka"))["jti"]
    address = f"http://127.0.0.1:{primary.client.port}"
    ok(server.client, "secondary/enable", {"token": token, "primary_api_addr": address})
    until(lambda: status(server.client).get("state") == "stream-wals", server)


def test_an_address_given_wins_over_the_one_in_the_token(
    two: tuple[Undercroft, Undercroft],
) -> None:
    primary, server = two
    token = token_for(primary.client, "osaka")
    nowhere = f"http://127.0.0.1:{free_port()}"
    body = {"token": token, "primary_api_addr": nowhere}
    assert server.client.request("POST", f"{AT}/secondary/enable", body).status == 503
    body["primary_api_addr"] = f"http://localhost:{primary.client.port}/"
    ok(server.client, "secondary/enable", body)
    until(lambda: status(server.client).get("state") == "stream-wals", server)


# update-primary


def test_an_address_list_is_tried_in_its_order_and_changes_nothing_else(pair: Pair) -> None:
    one, two = pair.primary, pair.secondary
    before = status(two)
    good = before["known_primary_cluster_addrs"][0]
    dead = [f"https://127.0.0.1:{free_port()}" for _ in range(2)]
    answer = two.request(
        "POST", f"{AT}/secondary/update-primary", {"update_primary_addrs": ",".join(dead)}
    )
    assert answer.status == 503
    assert [line.split(": ")[0] for line in errors(answer).splitlines()[1:]] == [
        address.removeprefix("https://") for address in dead
    ]
    assert status(two)["known_primary_cluster_addrs"] == [good]
    addresses = [dead[0], good, dead[1]]
    ok(two, "secondary/update-primary", {"update_primary_addrs": addresses})
    settle(two, one)
    after = status(two)
    assert after["primary_cluster_addr"] == good
    for name in ("cluster_id", "secondary_id", "epoch", "mode"):
        assert after[name] == before[name]


def test_an_address_of_another_form_is_refused_by_its_name(pair: Pair) -> None:
    before = status(pair.secondary)["known_primary_cluster_addrs"]
    for address in ("nonsense", "https://host", "http://host:8201", "host:x", "host:70000", ""):
        body = {"update_primary_addrs": [address, before[0]]}
        answer = pair.secondary.request("POST", f"{AT}/secondary/update-primary", body)
        assert answer.status == 400, answer
        assert "update_primary_addrs" in errors(answer)
        assert status(pair.secondary)["known_primary_cluster_addrs"] == before


def test_without_token_and_addresses_it_forgets_its_primary(pair: Pair) -> None:
    two = pair.secondary
    before = status(two)
    answer = two.request("POST", f"{AT}/secondary/update-primary", {"token": ""})
    assert (answer.status, len(answer.body["warnings"])) == (200, 1)
    until(lambda: status(two)["state"] == "idle", pair.secondary_server)
    after = status(two)
    assert after["mode"] == "secondary"
    assert after["secondary_id"] == after["primary_cluster_addr"] == ""
    assert after["primaries"] == after["known_primary_cluster_addrs"] == []
    assert after["connection_state"] == "idle"
    assert after["cluster_id"] == before["cluster_id"]
    assert after["lag_records"] is None


def test_a_key_may_be_made_for_update_primary_and_serves_once(pair: Pair) -> None:
    one, two = pair.primary, pair.secondary
    key = ok(two, "secondary/generate-public-key")["data"]["secondary_public_key"]
    tokens = [
        ok(one, "primary/secondary-token", {"id": name, "secondary_public_key": key})["data"]
        for name in ("perth", "hobart")
    ]
    ok(two, "secondary/update-primary", tokens[0])
    settle(two, one)
    assert status(two)["secondary_id"] == "perth"
    again = two.request("POST", f"{AT}/secondary/update-primary", tokens[1])
    assert again.status == 400
    assert "generate a public key and a token again" in errors(again)
    assert status(two)["secondary_id"] == "perth"


def test_local_data_stays_through_update_primary(pair: Pair) -> None:
    """Vault lost local data under shared mounts by it; here its own mounts and tokens stay."""
    one, two = pair.primary, pair.secondary
    assert two.request("POST", "sys/mounts/here", {"type": "kv", "local": True}).status == 204
    assert two.request("POST", "here/a", {"v": 1}).status == 204
    assert two.request("POST", "cubbyhole/a", {"v": 1}).status == 204
    ok(two, "secondary/update-primary", {"token": token_for(one, "perth")})
    settle(two, one)
    for path in ("here/a", "cubbyhole/a"):
        assert two.request("GET", path).body["data"] == {"v": 1}
    assert "here/" not in one.request("GET", "sys/mounts").body["data"]


# promote


def test_without_its_primary_a_secondary_is_promoted_at_once_and_says_what_may_be_missing(
    pair: Pair,
) -> None:
    write(pair.primary, "before")
    settle(pair.secondary, pair.primary)
    pair.primary_server.kill()
    answer = pair.secondary.request("POST", f"{AT}/secondary/promote")
    assert (answer.status, answer.body["data"]) == (200, None)
    assert "known to be missing: 0" in warnings(answer)
    assert status(pair.secondary)["mode"] == "primary"
    write(pair.secondary, "after")
    assert read(pair.secondary, "before") == 1


def test_who_was_not_let_take_over_needs_force_and_fences_nobody(
    two: tuple[Undercroft, Undercroft],
) -> None:
    primary, server = two
    join(primary.client, server, "osaka", promotable=False)
    answer = server.client.request("POST", f"{AT}/secondary/promote")
    assert answer.status == 503, answer
    assert "nothing has changed" in errors(answer)
    assert "force" in errors(answer)
    assert status(server.client)["mode"] == "secondary"
    forced = server.client.request("POST", f"{AT}/secondary/promote", {"force": True})
    assert forced.status == 200
    assert status(server.client)["mode"] == "primary"
    write(primary.client, "still")
    assert not status(primary.client)["fenced"]


def test_a_primary_that_does_not_stop_in_time_is_left_alone_unless_forced(pair: Pair) -> None:
    one, two = pair.primary, pair.secondary
    with frozen(pair.primary_server):
        answer = two.request("POST", f"{AT}/secondary/promote")
        assert answer.status == 503, answer
        assert "nothing has changed" in errors(answer)
        assert "force" in errors(answer)
        assert status(two)["mode"] == "secondary"
        forced = two.request("POST", f"{AT}/secondary/promote", {"force": True})
        assert forced.status == 200
        assert status(two)["mode"] == "primary"
    until(lambda: status(one)["fenced"], pair.primary_server)
