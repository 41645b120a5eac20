"""Mounts on several clusters: local ones stay, shared ones arrive and go with their data."""

from collections.abc import Iterator

import pytest

from tests.replication.pair import Pair, replicating_pair, status
from tests.support.undercroft import until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("mounts")) as made:
        yield made


def test_a_local_mount_of_the_secondary_stays_there(pair: Pair) -> None:
    made = pair.secondary.request("POST", "sys/mounts/mine", {"type": "kv", "local": True})
    assert made.status == 204
    assert pair.secondary.request("POST", "mine/a", {"v": "here"}).status == 204
    assert pair.secondary.request("GET", "mine/a").body["data"] == {"v": "here"}
    assert "mine/" not in pair.primary.request("GET", "sys/mounts").body["data"]


def test_a_mount_made_at_the_secondary_is_the_primarys(pair: Pair) -> None:
    assert pair.secondary.request("POST", "sys/mounts/both", {"type": "kv"}).status == 204
    assert "both/" in pair.primary.request("GET", "sys/mounts").body["data"]
    assert pair.primary.request("POST", "both/a", {"v": 1}).status == 204
    until(lambda: pair.secondary.request("GET", "both/a").status == 200)


def test_a_local_mount_hides_a_shared_one_of_its_path_and_status_says_so(pair: Pair) -> None:
    made = pair.secondary.request("POST", "sys/mounts/clash", {"type": "kv", "local": True})
    assert made.status == 204
    assert pair.secondary.request("POST", "clash/a", {"v": "local"}).status == 204
    assert pair.primary.request("POST", "sys/mounts/clash", {"type": "kv"}).status == 204
    assert pair.primary.request("POST", "clash/a", {"v": "shared"}).status == 204
    until(pair.caught_up)
    assert pair.secondary.request("GET", "clash/a").body["data"] == {"v": "local"}
    shown = status(pair.secondary)
    assert shown["shadowed_mounts"] == ["clash/"]
    assert "clash/" in shown["state_reason"]
    assert pair.secondary.request("DELETE", "sys/mounts/clash").status == 204
    until(lambda: pair.secondary.request("GET", "clash/a").body.get("data") == {"v": "shared"})


def test_unmounting_at_the_primary_takes_the_data_from_the_secondary(pair: Pair) -> None:
    assert pair.primary.request("POST", "sys/mounts/short", {"type": "kv"}).status == 204
    for number in range(700):
        pair.primary.request("POST", f"short/{number}", {"v": number})
    until(pair.caught_up)
    assert pair.primary.request("DELETE", "sys/mounts/short").status == 204
    until(lambda: pair.secondary.request("GET", "short/1").status == 404)
    until(pair.caught_up)


def test_a_rotated_key_serves_on_both_sides_at_once(pair: Pair) -> None:
    assert pair.secondary.request("POST", "sys/rotate").status in (200, 204)
    terms = [
        c.request("GET", "sys/key-status").body["data"]["term"]
        for c in (pair.primary, pair.secondary)
    ]
    assert terms == [2, 2]
    assert pair.primary.request("POST", "kv1/after", {"v": "rotated"}).status == 204
    until(lambda: pair.secondary.request("GET", "kv1/after").status == 200)


def test_reindexing_finds_nothing_to_do_on_either_side(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        answer = client.request("POST", "sys/replication/reindex", {"diff": True})
        assert answer.status == 200
        assert "diff has no effect" in answer.body["warnings"][0]
        until(lambda c=client: status(c)["last_reindex_epoch"] != "0")


def test_disabling_an_auth_method_ends_its_tokens_on_every_cluster(pair: Pair) -> None:
    primary, secondary = pair.primary, pair.secondary
    assert primary.request("POST", "sys/auth/brief", {"type": "userpass"}).status == 204
    user = {"password": "pw", "token_policies": "all"}
    assert primary.request("POST", "auth/brief/users/bob", user).status == 204
    until(pair.caught_up)
    login = secondary.request("POST", "auth/brief/login/bob", {"password": "pw"}, token="")
    token = login.body["auth"]["client_token"]
    assert secondary.request("GET", "auth/token/lookup-self", token=token).status == 200
    assert primary.request("DELETE", "sys/auth/brief").status == 204
    until(lambda: secondary.request("GET", "auth/token/lookup-self", token=token).status == 403)
