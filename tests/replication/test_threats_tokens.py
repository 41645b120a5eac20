"""Activation tokens in the wrong hands: stolen, used twice, used too late (R-01, R-02)."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.replication.clusters import AT, errors, ok, settle, token_for
from tests.replication.pair import prepare, replicating_pair, status
from tests.replication.peer import connected, unwrapped
from tests.support.undercroft import Answer, Client, Undercroft, disk_server, restart, until

UNWRAP = "sys/wrapping/unwrap"
MADE = f"{AT}/primary/secondary-token"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Undercroft]:
    """A primary that audits."""
    device = f'audit "file" "main" {{ options {{ file_path = "{tmp_path}/audit.log" }} }}'
    with disk_server(tmp_path, device) as started:
        prepare(started.client)
        ok(started.client, "primary/enable")
        yield started


def audit_of(server: Undercroft, path: str) -> list[dict[str, Any]]:
    lines = (server.log.parent / "audit.log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["request"]["path"] == path]


def used(client: Client, token: str) -> Answer:
    return client.request("POST", UNWRAP, token=token)


def test_threat_r_01_issue_use_and_failed_use_are_audited_and_show_no_secret(
    server: Undercroft,
) -> None:
    client = server.client
    token = token_for(client, "osaka")
    key = unwrapped(client, token).credentials.key.hex()
    assert used(client, token).status == 400
    made = audit_of(server, MADE)
    assert [line["type"] for line in made] == ["request", "response"]
    assert made[0]["request"]["data"]["id"].startswith("hmac-sha256:")
    lines = audit_of(server, UNWRAP)
    assert [line["type"] for line in lines] == ["request", "response"] * 2
    assert [bool(line.get("error")) for line in lines] == [False, False, False, True]
    raw = (server.log.parent / "audit.log").read_text()
    for secret in (token, token.split(".")[1], key):
        assert secret not in raw


def test_threat_r_01_a_token_is_over_after_its_ttl_and_so_is_what_it_would_have_brought(
    server: Undercroft,
) -> None:
    client = server.client
    body = {"id": "perth", "ttl": "2s"}
    grant = unwrapped(client, ok(client, "primary/secondary-token", body)["wrap_info"]["token"])
    token = ok(client, "primary/secondary-token", {**body, "id": "osaka"})["wrap_info"]["token"]
    asked = {"token": token}
    until(lambda: client.request("POST", "sys/wrapping/lookup", asked).status == 400)
    assert used(client, token).status == 400
    with connected(grant) as peer:  # unwrapped in time, but it has never connected
        assert peer.rest() == []
        assert peer.heard == b""


def test_threat_r_01_a_token_for_another_clusters_key_opens_nothing(
    server: Undercroft, tmp_path: Path
) -> None:
    """The thief has a cluster, and even a key of its own."""
    client = server.client
    for name in ("owner", "thief"):
        (tmp_path / name).mkdir()
    with disk_server(tmp_path / "owner") as owner, disk_server(tmp_path / "thief") as thief:
        keys = [
            ok(c.client, "secondary/generate-public-key")["data"]["secondary_public_key"]
            for c in (owner, thief)
        ]
        sealed = ok(
            client, "primary/secondary-token", {"id": "osaka", "secondary_public_key": keys[0]}
        )["data"]["token"]
        stolen = thief.client.request("POST", f"{AT}/secondary/enable", {"token": sealed})
        assert stolen.status == 400
        assert "private half is not held here" in errors(stolen)
        assert used(client, sealed).status == 400
        assert status(client)["secondaries"] == []
        assert status(thief.client) == {"mode": "disabled"}
        ok(owner.client, "secondary/enable", {"token": sealed})
        until(lambda: status(owner.client).get("state") == "stream-wals", owner)


def test_threat_r_02_a_token_that_was_used_is_refused_also_after_a_restart(
    server: Undercroft, tmp_path: Path
) -> None:
    client = server.client
    token = token_for(client, "osaka")
    unwrapped(client, token)
    assert used(client, token).status == 400
    server.kill()
    restart(server, tmp_path)
    assert used(client, token).status == 400
    (tmp_path / "second").mkdir()
    with disk_server(tmp_path / "second") as second:
        refused = second.client.request("POST", f"{AT}/secondary/enable", {"token": token})
        assert refused.status == 400
        assert "may have been used before" in errors(refused)
        assert status(second.client) == {"mode": "disabled"}


def test_threat_r_02_a_token_is_used_once_however_many_try_at_once(server: Undercroft) -> None:
    token = token_for(server.client, "osaka")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: used(server.client, token).status, range(16)))
    assert sorted(answers) == [200] + [400] * 15


def test_threat_r_02_a_token_does_not_outlive_a_promotion(tmp_path: Path) -> None:
    """Neither where it was made nor at the cluster that is the primary now."""
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        unused, spent = token_for(one, "perth"), token_for(one, "lima")
        unwrapped(one, spent)
        ok(two, "secondary/promote")
        until(lambda: status(one)["fenced"])
        for token in (unused, spent):
            assert used(two, token).status == 400
        assert used(one, spent).status == 400
        assert status(two)["known_secondaries"] == []


def test_threat_r_02_a_sealed_token_is_good_for_one_use(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        ok(one, "primary/revoke-secondary", {"id": "osaka"})
        key = ok(two, "secondary/generate-public-key")["data"]["secondary_public_key"]
        body = {"id": "osaka", "secondary_public_key": key}
        token = ok(one, "primary/secondary-token", body)["data"]["token"]
        ok(two, "secondary/update-primary", {"token": token})
        settle(two, one)
        again = two.request("POST", f"{AT}/secondary/update-primary", {"token": token})
        assert again.status == 400
        assert "private half is not held here" in errors(again)
