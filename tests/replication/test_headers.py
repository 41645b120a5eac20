"""Headers of consistency, sentence by sentence, where test_consistency.py is silent."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.replication.clusters import errors, ok, read, settle, warnings, write
from tests.replication.pair import Pair, replicating_pair, status
from tests.support.undercroft import Answer, Client, disk_server, until

WAIT_SECONDS = 0.3
BRIEF = f'replication {{\n  best_effort_wal_wait_duration = "{int(WAIT_SECONDS * 1000)}ms"\n}}\n'


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("headers"), BRIEF) as made:
        write(made.primary, "a")
        settle(made.secondary, made.primary)
        yield made


def index_of(client: Client, name: str = "a", value: Any = 1) -> str:
    """Of a write there."""
    answer = client.request("POST", f"secret/data/{name}", {"data": {"value": value}})
    assert answer.status == 200, answer
    return answer.headers["x-vault-index"]


def get(client: Client, *headers: tuple[str, str], path: str = "secret/data/a") -> Answer:
    """With headers that may come more than once."""
    connection = http.client.HTTPConnection(client.host, client.port, timeout=30)
    try:
        connection.putrequest("GET", f"/v1/{path}")
        for name, value in (("X-Vault-Token", client.token), *headers):
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, json.loads(response.read() or b"null"))
    finally:
        connection.close()


def asking(client: Client, *indexes: str) -> Answer:
    return get(client, *(("X-Vault-Index", index) for index in indexes))


# X-Vault-Index in replies


def test_what_writes_answers_with_an_index(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        for method, path, body in (
            ("POST", "secret/data/b", {"data": {}}),
            ("DELETE", "secret/data/b", None),
            ("POST", "cubbyhole/b", {"v": 1}),  # of this cluster alone
            ("POST", "auth/token/create", {}),
            ("POST", "auth/userpass/login/ann", {"password": "pw"}),
        ):
            answer = client.request(method, path, body)
            assert answer.status in (200, 204), answer
            assert answer.headers.get("x-vault-index"), path


def test_what_is_refused_answers_without_one(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        for path, token in (("secret/data/b", "hvs.unknown"), ("sys/mounts/x", None)):
            answer = client.request("POST", path, {}, token=token)
            assert answer.status in (400, 403)
            assert "x-vault-index" not in answer.headers


def test_an_index_shows_nothing_of_what_was_written(pair: Pair) -> None:
    index = index_of(pair.primary, "name-of-a-secret", "value-of-a-secret")
    assert index.isascii()
    assert "secret" not in index
    assert len(index) < 512


# X-Vault-Index in requests


def test_it_may_be_given_more_than_once_and_every_one_counts(pair: Pair) -> None:
    one, two = pair.primary, pair.secondary
    indexes = [index_of(one, name) for name in ("c", "d")] + [index_of(two, "e")]
    for client in (one, two):
        assert asking(client, *indexes).status == 200
        assert asking(client, ", ".join(indexes)).status == 200
        assert asking(client, indexes[0], "nonsense").status == 400
        assert asking(client, "nonsense", indexes[0]).status == 400
    with pair.secondary_cut_off():
        late = index_of(one, "f")
        for sent in ((indexes[0], late), (late, indexes[0])):
            assert asking(two, *sent).status == 412
        assert asking(two, *indexes).status == 200
    until(lambda: asking(two, late).status == 200, pair.secondary_server)


def test_an_empty_one_asks_for_nothing(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        assert asking(client, "").status == 200


def test_the_local_part_counts_where_it_was_made(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        for number in range(20):
            wrote = client.request("POST", "cubbyhole/mine", {"v": number})
            index = ("X-Vault-Index", wrote.headers["x-vault-index"])
            found = get(client, index, path="cubbyhole/mine")
            assert found.body["data"] == {"v": number}


def test_an_index_of_another_set_asks_for_nothing(pair: Pair, tmp_path: Path) -> None:
    with disk_server(tmp_path) as other:
        client = other.client
        client.request("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        for number in range(200):  # far beyond where the pair is
            index = index_of(client, value=number)
        assert asking(pair.primary, index).status == 200
        assert asking(pair.secondary, index).status == 200
        assert asking(client, index_of(pair.primary)).status == 200


def test_behind_it_waits_as_long_as_configured_and_says_when_to_try_again(pair: Pair) -> None:
    with pair.secondary_cut_off():
        index = index_of(pair.primary)
        began = time.monotonic()
        answer = asking(pair.secondary, index)
        took = time.monotonic() - began
        assert (answer.status, answer.headers.get("retry-after")) == (412, "1")
        assert errors(answer)
        assert WAIT_SECONDS <= took < 2  # which is the default
    until(lambda: asking(pair.secondary, index).status == 200, pair.secondary_server)


def test_what_tells_how_far_a_node_is_does_not_wait_to_be_further(pair: Pair) -> None:
    """Clients send their index with every request: also with those by which they wait."""
    paths = ("sys/health", "sys/leader", "sys/seal-status", "sys/replication/status")
    with pair.secondary_cut_off():
        late = index_of(pair.primary)
        for path in (*paths, "sys/replication/performance/status"):
            assert get(pair.secondary, ("X-Vault-Index", late), path=path).status == 200, path
            assert get(pair.secondary, ("X-Vault-Index", "nonsense"), path=path).status == 200
    settle(pair.secondary, pair.primary)


# the other headers


def test_inconsistent_is_taken_and_one_node_has_nowhere_else_to_ask(pair: Pair) -> None:
    forward = ("X-Vault-Inconsistent", "forward-active-node")
    for client in (pair.primary, pair.secondary):
        assert get(client, forward).status == 200
        assert get(client, forward, ("X-Vault-Index", index_of(pair.primary))).status == 200
    with pair.secondary_cut_off():
        late = ("X-Vault-Index", index_of(pair.primary))
        assert get(pair.secondary, late, forward).status == 412
    settle(pair.secondary, pair.primary)


@pytest.mark.parametrize(
    "header", [{"X-Vault-Forward": "active-node"}, {"X-Vault-No-Request-Forwarding": "true"}]
)
def test_what_is_for_standbys_changes_nothing_on_an_active_node(
    pair: Pair, header: dict[str, str]
) -> None:
    """Nor does it lead to another cluster, or keep a shared write from the primary."""
    for client in (pair.primary, pair.secondary):
        assert client.request("GET", "secret/data/a", headers=header).status == 200
        assert client.request("POST", "cubbyhole/a", {"v": 1}, headers=header).status == 204
        wrote = client.request("POST", "secret/data/h", {"data": {}}, headers=header)
        assert wrote.status == 200
    with pair.secondary_cut_off():
        assert pair.secondary.request("GET", "secret/data/a", headers=header).status == 200
    settle(pair.secondary, pair.primary)


@pytest.mark.parametrize("name", ["X-Vault-Forward", "X-Vault-Inconsistent"])
def test_a_value_that_asks_for_what_is_not_known_is_refused(pair: Pair, name: str) -> None:
    """And nothing is done: whoever asks for a certain node must not be served as if he had not."""
    for client in (pair.primary, pair.secondary):
        for method, path in (("GET", "secret/data/a"), ("POST", "cubbyhole/refused")):
            answer = client.request(method, path, {"v": 1}, headers={name: "standby-node"})
            assert answer.status == 400
            assert f'unknown value for "{name}" header' in errors(answer)
            assert "active-node" in errors(answer)
        assert client.request("GET", "cubbyhole/refused").status == 404


def test_to_fail_rather_than_be_inconsistent_is_what_happens_anyway(pair: Pair) -> None:
    fail = ("X-Vault-Inconsistent", "fail")
    assert get(pair.secondary, fail).status == 200
    with pair.secondary_cut_off():
        late = ("X-Vault-Index", index_of(pair.primary))
        assert get(pair.secondary, late, fail).status == 412
    settle(pair.secondary, pair.primary)


# without the primary


def test_without_its_primary_a_secondary_still_logs_in(pair: Pair) -> None:
    with pair.secondary_cut_off():
        login = pair.secondary.request(
            "POST", "auth/userpass/login/ann", {"password": "pw"}, token=""
        )
        assert login.status == 200, login
        token = login.body["auth"]["client_token"]
        assert pair.secondary.request("GET", "secret/data/a", token=token).status == 200
        renewed = pair.secondary.request("POST", "auth/token/renew-self", {}, token=token)
        assert renewed.status == 200
        wrong = pair.secondary.request("POST", "auth/userpass/login/ann", {"password": "x"})
        assert wrong.status == 400
    settle(pair.secondary, pair.primary)


# through a failover


def test_an_index_holds_through_a_switchover(tmp_path: Path) -> None:
    with replicating_pair(tmp_path, BRIEF) as pair:
        before = index_of(pair.primary)
        ok(pair.secondary, "secondary/promote")
        after = index_of(pair.secondary, value=2)
        for index in (before, after):
            answer = asking(pair.secondary, index)
            assert answer.status == 200
            assert answer.body["warnings"] is None
        until(lambda: status(pair.primary)["fenced"], pair.primary_server)
        assert asking(pair.primary, before).status == 200
        assert asking(pair.primary, after).status == 412  # it never will be there


def test_an_index_of_writes_that_a_failover_lost_is_served_with_a_warning(tmp_path: Path) -> None:
    with replicating_pair(tmp_path, BRIEF) as pair:
        one, two = pair.primary, pair.secondary
        kept = index_of(one)
        settle(two, one)
        ok(two, "secondary/update-primary", {"token": ""})
        lost = index_of(one, value="lost")
        assert asking(two, lost).status == 412  # it may come yet
        ok(two, "secondary/promote")
        write(two, "other")
        answer = asking(two, lost)
        assert answer.status == 200
        assert "set aside" in warnings(answer)
        assert answer.body["data"]["data"] == {"value": 1}
        answer = asking(two, kept)
        assert (answer.status, answer.body["warnings"]) == (200, None)


# what was written at the primary for a client of a secondary


def test_a_write_that_arrives_late_stands_and_the_answer_says_so(tmp_path: Path) -> None:
    """With no time to wait: the answer comes before the record has been applied."""
    hasty = 'replication {\n  best_effort_wal_wait_duration = "0s"\n}\n'
    with replicating_pair(tmp_path, hasty) as pair:
        for number in range(20):
            body = {"data": {"value": number}}
            answer = pair.secondary.request("POST", "secret/data/late", body)
            assert answer.status == 200
            if answer.body["warnings"]:
                break
        assert "has not arrived here yet" in warnings(answer)
        assert answer.headers["x-vault-index"]
        assert read(pair.primary, "late") == number
        until(lambda: read(pair.secondary, "late") == number, pair.secondary_server)
