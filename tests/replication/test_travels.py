"""What travels to a secondary and what stays, sentence by sentence."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.replication.clusters import errors, settle, write
from tests.replication.pair import ALL, Pair, log_in, replicating_pair, status
from tests.support.undercroft import Client, until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("travels")) as made:
        yield made


def both_ways(pair: Pair) -> tuple[tuple[Client, Client], ...]:
    return (pair.primary, pair.secondary), (pair.secondary, pair.primary)


def post(client: Client, path: str, body: Any = None) -> Any:
    answer = client.request("POST", path, body or {})
    assert answer.status in (200, 204), (path, answer)
    return answer.body


def data(client: Client, path: str) -> Any:
    answer = client.request("GET", path)
    return answer.body["data"] if answer.status == 200 else answer.status


# shared


@pytest.mark.parametrize(
    ("path", "body", "seen"),
    [
        ("sys/policies/acl/some", {"policy": ALL}, "sys/policies/acl/some"),
        ("sys/mounts/more", {"type": "kv"}, "sys/mounts/more"),
        ("sys/auth/more", {"type": "userpass"}, "sys/auth/more"),
        ("auth/userpass/users/eve", {"password": "pw"}, "auth/userpass/users/eve"),
        ("auth/token/roles/some", {"orphan": True}, "auth/token/roles/some"),
        ("secret/config", {"max_versions": 7}, "secret/config"),
        ("secret/metadata/some", {"custom_metadata": {"a": "b"}}, "secret/metadata/some"),
        ("sys/mounts/kv1/tune", {"description": "tuned"}, "sys/mounts/kv1"),
        ("sys/auth/userpass/tune", {"default_lease_ttl": "1h"}, "sys/auth/userpass/tune"),
        ("kv1/some", {"a": 1}, "kv1/some"),
    ],
)
def test_what_is_shared_may_be_written_on_either_and_is_on_both(
    pair: Pair, path: str, body: dict[str, Any], seen: str
) -> None:
    for here in (pair.secondary, pair.primary):
        answer = here.request("POST", path, body)
        assert answer.status in (200, 204) or "already in use" in errors(answer), answer
        settle(pair.secondary, pair.primary)
        assert data(pair.secondary, seen) == data(pair.primary, seen)
        assert isinstance(data(pair.primary, seen), dict)


def test_what_is_deleted_on_either_is_gone_on_both(pair: Pair) -> None:
    for here, _ in both_ways(pair):
        write(pair.primary, "gone")
        post(pair.primary, "kv1/gone", {"a": 1})
        post(pair.primary, "sys/policies/acl/gone", {"policy": ALL})
        settle(pair.secondary, pair.primary)
        paths = ("secret/metadata/gone", "kv1/gone", "sys/policies/acl/gone")
        for path in paths:
            assert here.request("DELETE", path).status == 204
        settle(pair.secondary, pair.primary)
        for client in (pair.primary, pair.secondary):
            assert [data(client, path) for path in paths] == [404] * 3


# local


def test_a_token_counts_where_it_was_made(pair: Pair) -> None:
    for here, there in both_ways(pair):
        auth = post(here, "auth/token/create", {"policies": ["all"]})["auth"]
        token, accessor = auth["client_token"], {"accessor": auth["accessor"]}
        assert here.request("GET", "auth/token/lookup-self", token=token).status == 200
        assert there.request("GET", "auth/token/lookup-self", token=token).status == 403
        assert there.request("GET", "secret/data/a", token=token).status == 403
        assert there.request("POST", "auth/token/lookup", {"token": token}).status in (403, 404)
        assert here.request("POST", "auth/token/lookup-accessor", accessor).status == 200
        assert there.request("POST", "auth/token/lookup-accessor", accessor).status == 400
        listed = there.request("LIST", "auth/token/accessors").body["data"]["keys"]
        assert auth["accessor"] not in listed


def test_a_cubbyhole_and_a_wrapped_answer_stay_where_they_were_made(pair: Pair) -> None:
    for here, there in both_ways(pair):
        name = f"cubbyhole/{here.port}"
        post(here, name, {"a": 1})
        assert data(here, name) == {"a": 1}
        assert data(there, name) == 404
        wrapped = here.request(
            "POST", "sys/wrapping/wrap", {"a": 1}, headers={"X-Vault-Wrap-TTL": "60"}
        ).body["wrap_info"]
        token = {"token": wrapped["token"]}
        for path in ("sys/wrapping/lookup", "sys/wrapping/unwrap"):
            assert there.request("POST", path, token).status in (400, 403), path
        assert post(here, "sys/wrapping/unwrap", token)["data"] == {"a": 1}


def test_revoking_here_ends_nothing_there(pair: Pair) -> None:
    log_in(pair.primary)  # both as ann
    made = {}
    for here, _ in both_ways(pair):
        body = {"password": "pw"}
        login = here.request("POST", "auth/userpass/login/ann", body, token="")
        made[here.port] = login.body["auth"]["client_token"]
    post(pair.primary, "auth/token/revoke", {"token": made[pair.primary.port]})
    settle(pair.secondary, pair.primary)
    token = made[pair.secondary.port]
    assert pair.secondary.request("GET", "auth/token/lookup-self", token=token).status == 200


def test_an_orphan_batch_token_holds_on_every_cluster(pair: Pair) -> None:
    body = {"type": "batch", "no_parent": True, "policies": ["all"], "ttl": "1h"}
    for here, there in both_ways(pair):
        write(pair.primary, "batch")
        settle(pair.secondary, pair.primary)
        answer = here.request("POST", "auth/token/create-orphan", body)
        assert answer.status == 200, answer
        token = answer.body["auth"]["client_token"]
        for client in (here, there):
            found = client.request("GET", "secret/data/batch", token=token)
            assert found.status == 200, (client.port == here.port, found)


def test_a_local_mount_of_the_primary_is_not_sent(pair: Pair) -> None:
    post(pair.primary, "sys/mounts/mine", {"type": "kv", "local": True})
    post(pair.primary, "mine/a", {"a": 1})
    settle(pair.secondary, pair.primary)
    assert "mine/" not in data(pair.secondary, "sys/mounts")
    assert data(pair.secondary, "mine/a") in (400, 403, 404)
    assert data(pair.primary, "mine/a") == {"a": 1}


def test_a_local_auth_method_lets_in_where_it_is(pair: Pair) -> None:
    for number, (here, there) in enumerate(both_ways(pair)):
        name = f"own{number}"
        post(here, f"sys/auth/{name}", {"type": "userpass", "local": True})
        post(here, f"auth/{name}/users/bob", {"password": "pw", "token_policies": "all"})
        settle(pair.secondary, pair.primary)
        assert f"{name}/" not in data(there, "sys/auth")
        body = {"password": "pw"}
        login = here.request("POST", f"auth/{name}/login/bob", body, token="")
        assert login.status == 200
        token = login.body["auth"]["client_token"]
        wrote = here.request("POST", "secret/data/by-bob", {"data": {}}, token=token)
        assert wrote.status == 200, wrote  # shared writes too
        assert there.request("POST", f"auth/{name}/login/bob", body, token="").status != 200


def test_local_is_false_unless_given_shown_and_for_ever(pair: Pair) -> None:
    for kind in ("sys/mounts", "sys/auth"):
        engine = "kv" if kind == "sys/mounts" else "userpass"
        for name, given in (("plain", None), ("near", "true")):
            body = {"type": engine} | ({"local": given} if given else {})
            post(pair.secondary, f"{kind}/{name}", body)
            until(lambda at=f"{kind}/{name}": data(pair.secondary, at) not in (400, 404))
            assert data(pair.secondary, kind)[f"{name}/"]["local"] is bool(given)
            pair.secondary.request("POST", f"{kind}/{name}/tune", {"local": not given})
            assert data(pair.secondary, kind)[f"{name}/"]["local"] is bool(given)
            assert (f"{name}/" in data(pair.primary, kind)) is not bool(given)


# own


def test_seal_and_name_are_each_clusters_own(pair: Pair) -> None:
    one, two = (
        client.request("GET", "sys/seal-status", token="").body
        for client in (pair.primary, pair.secondary)
    )
    assert one["cluster_name"] != two["cluster_name"]
    assert one["cluster_id"] != two["cluster_id"]
    assert status(pair.primary)["cluster_id"] == status(pair.secondary)["cluster_id"]


def test_a_lockout_concerns_one_cluster(pair: Pair) -> None:
    post(pair.primary, "auth/userpass/users/tim", {"password": "pw"})
    settle(pair.secondary, pair.primary)
    path = "auth/userpass/login/tim"
    for _ in range(6):
        pair.secondary.request("POST", path, {"password": "x"}, token="")
    assert pair.secondary.request("POST", path, {"password": "pw"}, token="").status == 403
    assert pair.primary.request("POST", path, {"password": "pw"}, token="").status == 200
