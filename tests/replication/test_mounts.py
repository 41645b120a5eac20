"""Mounts on several clusters: local ones stay, shared ones arrive and go with their data."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.clusters import errors, triple
from tests.replication.pair import Pair, log_in, replicating_pair, replicator_of, status
from tests.support.undercroft import Client, until


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
    """Where the primary could not know of it."""
    before = len(status(pair.secondary)["shadowed_mounts"])
    with stopped(replicator_of(pair.secondary_server)):
        made = pair.secondary.request("POST", "sys/mounts/clash", {"type": "kv", "local": True})
        assert made.status == 204
        assert pair.secondary.request("POST", "clash/a", {"v": "local"}).status == 204
        assert pair.primary.request("POST", "sys/mounts/clash", {"type": "kv"}).status == 204
        assert pair.primary.request("POST", "clash/a", {"v": "shared"}).status == 204
    until(pair.caught_up)
    assert pair.secondary.request("GET", "clash/a").body["data"] == {"v": "local"}
    shown = status(pair.secondary)
    assert "clash/" in shown["shadowed_mounts"]
    assert "clash/" in shown["state_reason"]
    until(lambda: shadowed(pair.secondary) == before + 1)
    assert shadowed(pair.primary) == 0
    assert pair.secondary.request("DELETE", "sys/mounts/clash").status == 204
    until(lambda: pair.secondary.request("GET", "clash/a").body.get("data") == {"v": "shared"})
    until(lambda: shadowed(pair.secondary) == before)


@pytest.mark.parametrize("path", ["taken", "taken/below", "auth/taken"])
def test_no_shared_mount_is_made_where_a_connected_secondary_has_a_local_one(
    pair: Pair, path: str
) -> None:
    at, kind = ("sys/" if path.startswith("auth/") else "sys/mounts/"), "kv"
    above = path.removesuffix("/below")
    if path.startswith("auth/"):
        kind = "userpass"
    local = {"type": kind, "local": True}
    assert pair.secondary.request("POST", at + path, local).status == 204
    until(lambda: refused(pair.primary, at + above, kind))
    answer = pair.primary.request("POST", at + above, {"type": kind})
    for part in ("secondary 'osaka'", f"local mount at {path}/", "unmount it", "another path"):
        assert part in errors(answer)
    answer = pair.secondary.request("POST", at + above, {"type": kind})
    assert "already in use" in errors(answer)
    assert refused(pair.primary, f"{at}{path}/deeper", kind)
    assert not refused(pair.primary, f"{at}{path}-beside", kind)
    assert pair.primary.request("POST", at + path, local).status == 204  # seen by nobody else
    assert pair.primary.request("DELETE", at + path).status == 204
    assert pair.secondary.request("DELETE", at + path).status == 204
    until(lambda: not refused(pair.primary, at + above, kind))
    assert pair.primary.request("POST", at + above, {"type": kind}).status == 204
    assert pair.primary.request("DELETE", at + above).status == 204


def test_no_shared_mount_is_moved_there_either(pair: Pair) -> None:
    made = pair.secondary.request("POST", "sys/mounts/theirs", {"type": "kv", "local": True})
    assert made.status == 204
    until(lambda: refused(pair.primary, "sys/mounts/theirs", "kv"))
    answer = pair.primary.request("POST", "sys/remount", {"from": "kv1", "to": "theirs"})
    assert answer.status == 400
    assert "secondary 'osaka'" in errors(answer)
    assert pair.primary.request("POST", "kv1/still", {"v": 1}).status == 204


def test_a_secondary_that_is_gone_keeps_no_path_from_anybody(pair: Pair) -> None:
    made = pair.secondary.request("POST", "sys/mounts/away", {"type": "kv", "local": True})
    assert made.status == 204
    until(lambda: refused(pair.primary, "sys/mounts/away", "kv"))
    assert pair.secondary.request("PUT", "sys/seal").status == 204
    until(lambda: not refused(pair.primary, "sys/mounts/away", "kv"))
    assert pair.primary.request("POST", "sys/mounts/away", {"type": "kv"}).status == 204
    pair.secondary_server.unseal()
    until(pair.caught_up)
    assert "away/" in status(pair.secondary)["shadowed_mounts"]
    log_in(pair.secondary)


def test_threat_r_22_status_shows_nobody_where_others_have_local_mounts(pair: Pair) -> None:
    made = pair.secondary.request("POST", "sys/mounts/private", {"type": "kv", "local": True})
    assert made.status == 204
    until(lambda: refused(pair.primary, "sys/mounts/private", "kv"))
    for path in ("sys/replication/status", "sys/replication/performance/status"):
        assert "private" not in str(pair.primary.request("GET", path, token="").body)


def test_threat_r_15_another_secondary_is_not_told_whose_local_mount_is_in_the_way(
    tmp_path: Path,
) -> None:
    with triple(tmp_path) as (first, second, third):
        local = {"type": "kv", "local": True}
        assert second.client.request("POST", "sys/mounts/quiet", local).status == 204
        until(lambda: refused(first.client, "sys/mounts/quiet", "kv"))
        answer = third.client.request("POST", "sys/mounts/quiet/below", {"type": "kv"})
        assert answer.status == 400
        assert "another cluster of the set" in errors(answer)
        assert "osaka" not in errors(answer)
        assert "quiet/ " not in errors(answer)


def refused(client: Client, path: str, kind: str) -> bool:
    """Asks in a way that makes no mount in any case."""
    body = {"type": kind, "config": {"default_lease_ttl": "999999h"}}
    return "has a local mount" in errors(client.request("POST", path, body))


def shadowed(client: Client) -> float:
    text = client.request("GET", "sys/metrics?format=prometheus").body
    (found,) = re.findall(r"^undercroft_replication_shadowed_mounts (\S+)$", text, re.MULTILINE)
    return float(found)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """It stands still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


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
