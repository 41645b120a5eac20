"""recover, reindex and merkle-check, sentence by sentence, where test_endpoints.py is silent."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.replication.clusters import allowed, settle, warnings, write
from tests.replication.pair import Pair, replicating_pair, status
from tests.support.undercroft import Client, until

AT = "sys/replication"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair")) as made:
        for number in range(20):
            write(made.primary, f"n{number}")
        settle(made.secondary, made.primary)
        yield made


def checked(client: Client) -> dict[str, Any]:
    answer = client.request("GET", f"{AT}/merkle-check")
    assert answer.status == 200
    return dict(answer.body["data"]["merkle_corruption_report"])


def test_repairs_need_their_capability_and_no_more(primary: Client) -> None:
    for method, path, capability in (
        ("GET", "merkle-check", "read"),
        ("POST", "merkle-check", "update"),
        ("PUT", "merkle-check", "update"),
        ("POST", "recover", "update"),
        ("PUT", "recover", "update"),
    ):
        for granted in ("read", "update", "delete"):
            rule = f'path "{AT}/{path}" {{ capabilities = ["{granted}"] }}'
            token = allowed(primary, "repair", rule)
            answer = primary.request(method, f"{AT}/{path}", token=token)
            assert answer.status == (200 if granted == capability else 403), (path, granted)


@pytest.mark.parametrize("path", ["recover", "reindex", "performance/reindex"])
def test_repairs_are_not_read(primary: Client, path: str) -> None:
    for method in ("GET", "DELETE", "LIST"):
        assert primary.request(method, f"{AT}/{path}").status == 405


@pytest.mark.parametrize("path", ["reindex", "performance/reindex"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_reindex_answers_with_warnings_and_leaves_everything_as_it_is(
    pair: Pair, path: str, method: str
) -> None:
    settle(pair.secondary, pair.primary)
    for client in (pair.primary, pair.secondary):
        before = status(client)
        answer = client.request(method, f"{AT}/{path}")
        assert answer.status == 200
        assert answer.body["data"] is None
        assert answer.body["warnings"]
        assert "no effect" not in warnings(answer)  # nothing was asked for
        until(lambda c=client: "reindex_in_progress" not in status(c))
        after = status(client)
        assert after["merkle_root"] == before["merkle_root"]
        assert int(after["last_reindex_epoch"]) >= max(1, int(before["last_reindex_epoch"]))
        assert not any(name.startswith("reindex_") for name in after)  # it is over
    write(pair.primary, "on")
    settle(pair.secondary, pair.primary)


def test_parameters_that_are_off_are_no_parameters(pair: Pair) -> None:
    body = {"diff": "false", "force": False, "skip_flush": "0"}
    until(lambda: "reindex_in_progress" not in status(pair.primary))
    answer = pair.primary.request("POST", f"{AT}/reindex", body)
    assert answer.status == 200
    assert "no effect" not in warnings(answer)


def test_merkle_check_shows_the_roots_that_status_shows(pair: Pair) -> None:
    settle(pair.secondary, pair.primary)
    roots = set()
    for client in (pair.primary, pair.secondary):
        shared = checked(client)["corrupted_tree_map"]["1"]
        root = base64.b64decode(shared["root_hash"], validate=True)
        assert root.hex() == status(client)["merkle_root"]
        roots.add(root)
    assert len(roots) == 1


def test_merkle_check_counts_what_it_has_read(pair: Pair) -> None:
    before = pair.primary.request("GET", f"{AT}/merkle-check").body["data"]["entries"]
    write(pair.primary, "one-more")
    after = pair.primary.request("GET", f"{AT}/merkle-check").body["data"]["entries"]
    assert after > before > 20


def test_recover_is_harmless_on_both_sides(pair: Pair) -> None:
    settle(pair.secondary, pair.primary)
    for client in (pair.primary, pair.secondary):
        before = status(client)
        answer = client.request("POST", f"{AT}/recover", {})
        assert answer.status == 200
        assert answer.body["warnings"]
        after = status(client)
        for name in ("mode", "state", "cluster_id", "epoch", "merkle_root"):
            assert after[name] == before[name], name
    write(pair.primary, "after-recover")
    settle(pair.secondary, pair.primary)


def test_repairs_of_a_cluster_that_replicates_with_nobody(disabled: Client) -> None:
    assert disabled.request("POST", f"{AT}/recover").status == 400
    assert disabled.request("POST", f"{AT}/reindex").status == 200
    assert checked(disabled)["corrupted_root"] is False
    assert status(disabled) == {"mode": "disabled"}
