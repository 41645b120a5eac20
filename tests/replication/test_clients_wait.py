"""How clients drive and await replication: Vault's helpers, scripts, the UI, hvac. Unmodified."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest

from tests.replication.clusters import AT, ok, settle, token_for
from tests.replication.pair import ALL, Pair, replicating_pair, status
from tests.support.undercroft import Client, Undercroft, disk_server, until


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Undercroft, Undercroft]]:
    """Two that do not replicate, and in which nothing was ever written."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with disk_server(tmp_path / "one") as one, disk_server(tmp_path / "other") as other:
        yield one, other


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair")) as made:
        settle(made.secondary, made.primary)
        yield made


def mode(client: Client) -> tuple[str, str]:
    """As health says, and as status says."""
    health = client.request("GET", "sys/health?perfstandbyok=true", token="")
    return health.body["replication_performance_mode"], status(client)["mode"]


def test_helpers_poll_until_health_and_status_agree(two: tuple[Undercroft, Undercroft]) -> None:
    """What the setup of Vault's own tests does, on a primary that nobody writes to."""
    primary, secondary = (server.client for server in two)
    assert mode(primary) == mode(secondary) == ("disabled", "disabled")
    ok(primary, "primary/enable")
    until(lambda: mode(primary) == ("primary", "primary"), two[0])
    ok(secondary, "secondary/enable", {"token": token_for(primary, "osaka")})
    until(lambda: mode(secondary) == ("secondary", "secondary"), two[1])

    leader = primary.request("GET", "sys/leader", token="").body["leader_cluster_address"]
    until(lambda: leader in status(secondary)["known_primary_cluster_addrs"])
    until(lambda: status(secondary)["state"] == "stream-wals")
    until(lambda: status(secondary)["last_remote_wal"] > 0)
    until(
        lambda: status(secondary)["last_remote_wal"] >= status(primary)["last_performance_wal"] > 0
    )
    until(lambda: status(secondary)["merkle_root"] == status(primary)["merkle_root"])
    until(lambda: status(secondary)["primaries"][0]["connection_status"] == "connected")
    until(lambda: status(primary)["secondaries"][0]["connection_status"] == "connected")


def test_modes_agree_through_every_move(two: tuple[Undercroft, Undercroft]) -> None:
    client = two[0].client
    for path, wanted in (
        ("primary/enable", "primary"),
        ("primary/demote", "secondary"),
        ("secondary/promote", "primary"),
        ("primary/disable", "disabled"),
    ):
        ok(client, path)
        until(lambda agreed=(wanted, wanted): mode(client) == agreed, two[0])


def test_a_second_enable_needs_an_address(primary: Client) -> None:
    assert primary.request("POST", f"{AT}/primary/enable", {}).status == 400
    ok(primary, "primary/enable", {"primary_cluster_addr": "https://10.0.0.7:8201"})


def test_promote_and_update_primary_answer_with_a_body(primary: Client) -> None:
    """Clients fail on an answer without one."""
    ok(primary, "primary/demote")
    for path in ("secondary/update-primary", "secondary/promote"):
        answer = primary.request("POST", f"{AT}/{path}", {})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.body["request_id"]
        assert answer.body["warnings"]


def test_a_promotion_that_is_repeated_is_no_second_one(primary: Client) -> None:
    """Scripts repeat it on 503; one that came too late is told that it is done."""
    ok(primary, "primary/demote")
    ok(primary, "secondary/promote")
    epoch = status(primary)["epoch"]
    again = primary.request("POST", f"{AT}/secondary/promote")
    assert again.status == 400
    assert "primary" in again.body["errors"][0]
    assert status(primary)["epoch"] == epoch


# the UI

CALLS = {
    f"{AT}/primary/enable": {"update"},
    f"{AT}/primary/demote": {"update"},
    f"{AT}/primary/disable": {"update"},
    f"{AT}/primary/revoke-secondary": {"update"},
    f"{AT}/primary/secondary-token": {"update", "sudo"},
    f"{AT}/primary/paths-filter/osaka": {"read", "update", "delete"},
    f"{AT}/secondary/enable": {"update"},
    f"{AT}/secondary/promote": {"update"},
    f"{AT}/secondary/disable": {"update"},
    f"{AT}/secondary/update-primary": {"update"},
    "sys/replication/recover": {"update"},
    "sys/replication/reindex": {"update", "sudo"},
}


def test_the_ui_asks_what_it_may_do(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        answer = client.request("POST", "sys/capabilities-self", {"paths": list(CALLS)})
        assert answer.status == 200
        for path, needed in CALLS.items():
            assert {"root"} == set(answer.body[path]) or needed <= set(answer.body[path]), path


def test_the_ui_puts_filters_and_links_to_the_others(pair: Pair) -> None:
    body = {"mode": "deny", "paths": ["kv1/"]}
    filters = f"{AT}/primary/paths-filter/osaka"
    assert pair.primary.request("PUT", filters, body).status == 204
    assert pair.primary.request("GET", filters).body["data"] == body
    assert pair.primary.request("DELETE", filters).status == 204
    for client, other, key in (
        (pair.primary, pair.secondary, "secondaries"),
        (pair.secondary, pair.primary, "primaries"),
    ):
        until(lambda at=client, name=key: status(at)[name][0]["api_address"])
        assert status(client)[key][0]["api_address"] == f"http://127.0.0.1:{other.port}"


# hvac


def hvac_of(client: Client) -> Any:
    return hvac.Client(url=f"http://127.0.0.1:{client.port}", token=client.token)


def test_hvac_sets_up_a_pair_by_its_plain_calls(two: tuple[Undercroft, Undercroft]) -> None:
    primary, secondary = (hvac_of(server.client) for server in two)
    primary.write("sys/policies/acl/all", policy=ALL)
    enabled = primary.write(f"{AT}/primary/enable")
    assert enabled["warnings"]
    made = primary.write(f"{AT}/primary/secondary-token", id="osaka", ttl="5m")
    secondary.write(f"{AT}/secondary/enable", token=made["wrap_info"]["token"])
    until(lambda: secondary.read(f"{AT}/status")["data"].get("state") == "stream-wals", two[1])
    assert primary.read(f"{AT}/status")["data"]["known_secondaries"] == ["osaka"]
    assert secondary.read("sys/replication/status")["data"]["performance"]["mode"] == "secondary"
    for client in (primary, secondary):
        assert client.sys.read_health_status().status_code == 200  # HEAD
        health = client.sys.read_health_status(method="GET")
        assert health["replication_performance_mode"] in ("primary", "secondary")
    primary.write(f"{AT}/primary/paths-filter/osaka", mode="deny", paths=["later/"])
    assert primary.read(f"{AT}/primary/paths-filter/osaka")["data"]["paths"] == ["later/"]
    primary.delete(f"{AT}/primary/paths-filter/osaka")
    assert primary.read(f"{AT}/primary/paths-filter/osaka") is None
    assert primary.write(f"{AT}/primary/revoke-secondary", id="osaka")["warnings"]
    with pytest.raises(hvac.exceptions.InvalidRequest, match="known ids: none"):
        primary.write(f"{AT}/primary/revoke-secondary", id="osaka")
