"""sys/replication/status and sys/health of a pair: Vault's names and types, and how clients wait.

The types are those of Vault's Go client, which fails on others.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest

from tests.replication.clusters import ok, settle, token_for, write
from tests.replication.pair import Pair, replicating_pair, status
from tests.support.undercroft import Client, until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair")) as made:
        write(made.primary, "a")
        settle(made.secondary, made.primary)
        # A heartbeat has gone both ways.
        until(lambda: heard(status(made.primary)["secondaries"]), made.primary_server)
        until(lambda: heard(status(made.secondary)["primaries"]), made.secondary_server)
        yield made


def heard(peers: list[dict[str, Any]]) -> bool:
    return bool(peers) and all(
        peer["connection_status"] == "connected" and peer["last_heartbeat"] for peer in peers
    )


BOTH = {
    "mode": str,
    "state": str,
    "cluster_id": str,
    "primary_cluster_addr": str,
    "merkle_root": str,
    "corrupted_merkle_tree": bool,
    "last_corruption_check_epoch": str,
    "last_reindex_epoch": str,
    "ssct_generation_counter": int,
    # ours
    "epoch": int,
    "fenced": bool,
    "state_reason": str,
    "state_since": str,
    "quarantined_records": int,
}
OF_A_PRIMARY = {
    "known_secondaries": list,
    "secondaries": list,
    "last_wal": int,
    "last_performance_wal": int,
    "last_dr_wal": int,
}
OF_A_SECONDARY = {
    "last_remote_wal": int,
    "last_start": str,
    "known_primary_cluster_addrs": list,
    "primaries": list,
    "connection_state": str,
    "secondary_id": str,
    # ours
    "upstream_epoch": int,
    "lag_records": int,
    "lag_ms": int,
}
OF_A_PEER = {
    "api_address": str,
    "cluster_address": str,
    "connection_status": str,
    "last_heartbeat": str,
    "last_heartbeat_duration_ms": str,
    "clock_skew_ms": str,
    "replication_primary_canary_age_ms": str,
}
OF_A_SECONDARY_PEER = {
    "node_id": str,
    # ours
    "last_remote_wal": int,
    "state": str,
    "token_state": str,
}


def has(shown: dict[str, Any], types: Mapping[str, type]) -> None:
    found = {name: type(shown.get(name)) for name in types}
    assert found == types


def is_time(text: str) -> bool:
    """RFC 3339 with a zone."""
    return datetime.fromisoformat(text).tzinfo is not None


def test_a_primarys_fields_have_vaults_names_and_types(pair: Pair) -> None:
    shown = status(pair.primary)
    has(shown, BOTH | OF_A_PRIMARY)
    assert (shown["mode"], shown["state"]) == ("primary", "running")
    assert shown["known_secondaries"] == ["osaka"]
    assert not set(OF_A_SECONDARY) & set(shown)
    [peer] = shown["secondaries"]
    has(peer, OF_A_PEER | OF_A_SECONDARY_PEER)
    assert (peer["node_id"], peer["connection_status"]) == ("osaka", "connected")
    assert peer["token_state"] == "active"
    assert is_time(peer["last_heartbeat"])


def test_a_secondarys_fields_have_vaults_names_and_types(pair: Pair) -> None:
    shown = status(pair.secondary)
    has(shown, BOTH | OF_A_SECONDARY)
    assert (shown["mode"], shown["state"]) == ("secondary", "stream-wals")
    assert (shown["connection_state"], shown["secondary_id"]) == ("ready", "osaka")
    assert not set(OF_A_PRIMARY) & set(shown)
    [peer] = shown["primaries"]
    has(peer, OF_A_PEER)
    assert "node_id" not in peer
    assert is_time(peer["last_heartbeat"])
    assert is_time(shown["last_start"])
    assert is_time(shown["state_since"])
    assert shown["known_primary_cluster_addrs"] == [peer["cluster_address"]]
    assert shown["primary_cluster_addr"] == peer["cluster_address"]


def test_numbers_in_text_are_numbers(pair: Pair) -> None:
    number = re.compile(r"-?\d+")
    for client in (pair.primary, pair.secondary):
        shown = status(client)
        peers = shown.get("secondaries") or shown["primaries"]
        for fields in (shown, *peers):
            for name, value in fields.items():
                if name.endswith(("_check_epoch", "_reindex_epoch")):
                    assert number.fullmatch(value), name
                if name.endswith("_ms") and name != "lag_ms":
                    assert number.fullmatch(value), name


def test_a_pair_has_one_set_one_root_and_one_scale(pair: Pair) -> None:
    one, two = status(pair.primary), status(pair.secondary)
    assert uuid.UUID(one["cluster_id"])
    assert one["cluster_id"] == two["cluster_id"]
    assert re.fullmatch(r"[0-9a-f]{32,}", one["merkle_root"])
    assert one["merkle_root"] == two["merkle_root"]
    assert 0 < two["last_remote_wal"] == one["last_performance_wal"] <= one["last_wal"]
    assert one["epoch"] == two["epoch"]


def test_the_three_paths_tell_the_same_to_anyone(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        nested = client.request("GET", "sys/replication/status", token="")
        flat = client.request("GET", "sys/replication/performance/status", token="hvs.unknown")
        dr = client.request("GET", "sys/replication/dr/status", token="")
        assert nested.status == flat.status == dr.status == 200
        assert set(nested.body["data"]) == {"dr", "performance"}
        assert nested.body["data"]["dr"] == dr.body["data"] == {"mode": "disabled"}
        assert set(nested.body["data"]["performance"]) == set(flat.body["data"])
        assert "performance" not in nested.body  # nothing is repeated outside `data`
        assert "mode" not in flat.body


def test_threat_r_22_nothing_in_status_is_secret(pair: Pair) -> None:
    token = token_for(pair.primary, "perth")
    for client in (pair.primary, pair.secondary):
        text = str(client.request("GET", "sys/replication/status", token="").body)
        for secret in (client.token, token, "PRIVATE", "certificate", "ticket"):
            assert secret not in text
    ok(pair.primary, "primary/revoke-secondary", {"id": "perth"})


def test_ids_of_unused_tokens_are_known_and_are_no_secondaries(pair: Pair) -> None:
    token_for(pair.primary, "perth")
    shown = status(pair.primary)
    assert sorted(shown["known_secondaries"]) == ["osaka", "perth"]
    assert [peer["node_id"] for peer in shown["secondaries"]] == ["osaka"]
    ok(pair.primary, "primary/revoke-secondary", {"id": "perth"})
    assert status(pair.primary)["known_secondaries"] == ["osaka"]


def test_the_number_to_compare_moves_with_every_shared_write(pair: Pair) -> None:
    before = status(pair.primary)["last_performance_wal"]
    for number in range(3):
        write(pair.primary, f"n{number}")
    after = status(pair.primary)["last_performance_wal"]
    assert after >= before + 3
    until(lambda: status(pair.secondary)["last_remote_wal"] >= after, pair.secondary_server)


def test_a_quiet_pairs_roots_stay_as_they_are(pair: Pair) -> None:
    """Heartbeats and canaries stir nothing."""

    def beat() -> str:
        return str(status(pair.primary)["secondaries"][0]["last_heartbeat"])

    def another_heartbeat() -> None:
        before = beat()
        until(lambda: beat() > before)

    settle(pair.secondary, pair.primary)
    another_heartbeat()  # the roots shown are at most so old: now they are those of the last write
    root = status(pair.primary)["merkle_root"]
    another_heartbeat()
    assert status(pair.primary)["merkle_root"] == status(pair.secondary)["merkle_root"] == root


# health

HEALTH = {
    "initialized": bool,
    "sealed": bool,
    "standby": bool,
    "performance_standby": bool,
    "replication_performance_mode": str,
    "replication_dr_mode": str,
    "server_time_utc": int,
    "version": str,
    "enterprise": bool,
    "cluster_name": str,
    "cluster_id": str,
    "last_wal": int,
    "echo_duration_ms": int,
    "clock_skew_ms": int,
    "replication_primary_canary_age_ms": int,
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_both_sides_are_healthy(pair: Pair, method: str) -> None:
    for client, mode in ((pair.primary, "primary"), (pair.secondary, "secondary")):
        answer = client.request(method, "sys/health", token="")
        assert answer.status == 200
        assert client.request(method, "sys/health?activecode=299").status == 299
        if method == "GET":
            has(answer.body, HEALTH)
            assert answer.body["replication_performance_mode"] == mode
            assert answer.body["replication_dr_mode"] == "disabled"
            assert answer.body["enterprise"] is False


def test_the_id_in_health_is_the_clusters_own(pair: Pair) -> None:
    ids = {health(client)["cluster_id"] for client in (pair.primary, pair.secondary)}
    assert len(ids) == 2
    assert status(pair.primary)["cluster_id"] not in ids


def test_health_of_a_secondary_tells_how_old_its_news_are(pair: Pair) -> None:
    until(lambda: health(pair.secondary)["replication_primary_canary_age_ms"] > 0)
    assert health(pair.secondary)["replication_primary_canary_age_ms"] < 60_000
    assert health(pair.primary)["replication_primary_canary_age_ms"] == 0


def health(client: Client) -> dict[str, Any]:
    return dict(client.request("GET", "sys/health", token="").body)
