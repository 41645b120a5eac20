"""The replication stanza and replication's metrics, under the names that Vault has for them."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.clusters import ok, read, settle, write
from tests.replication.many import plant
from tests.replication.pair import Pair, replicating_pair, replicator_of, status
from tests.support.undercroft import Client, disk_server, free_port, restart, until

STANZA = """
replication {
  resolver_discover_servers     = false
  logshipper_buffer_length      = 16384
  logshipper_buffer_size        = "64mb"
  best_effort_wal_wait_duration = "3s"
  allow_forwarding_via_header   = true
  allow_forwarding_via_token    = "new_token"
}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair"), STANZA) as made:
        write(made.primary, "a")
        settle(made.secondary, made.primary)
        yield made


# the stanza


def test_the_whole_stanza_is_read_and_says_what_has_no_effect(pair: Pair) -> None:
    for server in (pair.primary_server, pair.secondary_server):
        said = server.log.read_text()
        for name in ("allow_forwarding_via_header", "allow_forwarding_via_token"):
            assert f"{name} has no effect" in said
        for name in ("logshipper_buffer_length", "best_effort_wal_wait_duration"):
            assert name not in said


def test_addresses_are_not_followed_where_that_is_switched_off(pair: Pair) -> None:
    known = status(pair.secondary)["known_primary_cluster_addrs"]
    moved = f"https://127.0.0.1:{free_port()}"
    ok(pair.primary, "primary/enable", {"primary_cluster_addr": moved})
    for _ in range(2):  # one heartbeat may have been under way
        beat = status(pair.secondary)["primaries"][0]["last_heartbeat"]
        until(lambda at=beat: status(pair.secondary)["primaries"][0]["last_heartbeat"] > at)
    assert status(pair.secondary)["known_primary_cluster_addrs"] == known


def test_a_restart_of_the_primary_does_not_empty_the_log(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        pair.secondary_server.stop()
        for number in range(20):
            write(pair.primary, f"n{number}")
        pair.primary_server.kill()
        restart(pair.primary_server, tmp_path / "primary")
        restart(pair.secondary_server, tmp_path / "secondary")
        settle(pair.secondary, pair.primary)
        assert read(pair.secondary, "n19") == 1
        after = status(pair.secondary)
        assert after["records_received"] >= 20  # from the log, not by a comparison
        assert after["divergences"] == 0


# metrics


def metrics(client: Client) -> dict[str, float]:
    """Those without labels, by Prometheus' names."""
    answer = client.request("GET", "sys/metrics?format=prometheus")
    assert answer.status == 200
    found = re.findall(r"^(\w+) ([-+.e0-9]+)$", answer.body, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_metrics_tell_the_role(pair: Pair, primary: Client) -> None:
    names = [f"vault_core_replication_performance_{role}" for role in ("primary", "secondary")]

    def roles(client: Client) -> list[float]:
        return [metrics(client)[name] for name in names]

    assert roles(pair.primary) == [1, 0]
    assert roles(pair.secondary) == [0, 1]
    until(lambda: roles(primary) == [1, 0])
    ok(primary, "primary/demote")
    until(lambda: roles(primary) == [0, 1])
    ok(primary, "secondary/disable")
    until(lambda: roles(primary) == [0, 0])


def test_metrics_and_status_tell_the_same_numbers(pair: Pair) -> None:
    settle(pair.secondary, pair.primary)
    last = status(pair.primary)["last_performance_wal"]

    def agree() -> bool:
        one, two = metrics(pair.primary), metrics(pair.secondary)
        return bool(
            one["vault_replication_wal_last_performance_wal"]
            == two["vault_replication_fsm_last_remote_wal"]
            == last
        )

    until(agree)
    assert metrics(pair.primary)["vault_replication_wal_last_wal"] >= last


def test_a_metric_without_a_counterpart_is_left_out(pair: Pair) -> None:
    for client in (pair.primary, pair.secondary):
        for name in metrics(client):
            assert "replication_dr" not in name
            for left_out in ("undo_logs", "reject_fraction", "last_dr_wal", "scanned_entries"):
                assert left_out not in name


def test_metrics_tell_how_much_of_the_log_is_kept_to_catch_up_by(pair: Pair) -> None:
    write(pair.primary, "b")
    until(lambda: metrics(pair.primary)["vault_logshipper_buffer_length"] > 10)
    found = metrics(pair.primary)
    assert found["vault_logshipper_buffer_max_length"] == 16384
    assert found["vault_logshipper_buffer_max_size"] == 64 << 20
    assert 0 < found["vault_logshipper_buffer_size"] < 1 << 20
    assert found["vault_wal_gc_total"] == found["undercroft_wal_records"]
    assert found["vault_wal_gc_deleted"] == 0  # so little is kept whole
    before = found["vault_wal_persistWALs_count"]
    write(pair.primary, "c")
    assert metrics(pair.primary)["vault_wal_persistWALs_count"] > before
    assert metrics(pair.primary)["vault_wal_loadWAL_count"] > 0


def test_metrics_count_whose_place_the_log_still_has(pair: Pair) -> None:
    def guards() -> tuple[float, float]:
        found = metrics(pair.primary)
        names = ("guard_found", "missing_guard")
        found_, missing = (found[f"vault_logshipper_streamWALs_{name}"] for name in names)
        return found_, missing

    before = guards()
    os.kill(replicator_of(pair.secondary_server), signal.SIGKILL)
    until(lambda: guards() == (before[0] + 1, before[1]), pair.secondary_server)
    settle(pair.secondary, pair.primary)


def test_metrics_time_what_goes_to_the_primary_and_what_is_compared(pair: Pair) -> None:
    write(pair.secondary, "forwarded")
    asked = "vault_replication_rpc_client_forward_count"
    served = "vault_replication_rpc_server_forwarding_request_count"
    until(lambda: metrics(pair.secondary)[asked] > 0)
    assert metrics(pair.primary)[served] > 0
    assert metrics(pair.primary)[asked] == metrics(pair.secondary)[served] == 0
    compared = "vault_replication_merkleSync_count"
    before = metrics(pair.secondary)[compared]
    assert pair.secondary.request("POST", "sys/replication/recover").status == 200
    until(lambda: metrics(pair.secondary)[compared] == before + 1, pair.secondary_server)
    assert metrics(pair.primary)[compared] == 0
    settle(pair.secondary, pair.primary)
    places = "vault_replication_merkle_commit_index"
    until(lambda: metrics(pair.primary)[places] == metrics(pair.secondary)[places] > 0)


def test_metrics_tell_what_a_checkpoint_of_the_digests_cost(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        client = server.client
        assert client.request("POST", "sys/mounts/many", {"type": "kv"}).status == 204
        assert metrics(client)["vault_merkle_saveCheckpoint_num_dirty"] == 0
        plant(server, tmp_path, "many/", 10_000)
        client.request("POST", "many/one-more", {"v": 1})
        found = metrics(client)
        assert found["vault_merkle_saveCheckpoint_count"] == 1
        assert found["vault_merkle_saveCheckpoint_num_dirty"] > 200


def test_metrics_have_the_same_names_with_dots_in_json(pair: Pair) -> None:
    answer = pair.primary.request("GET", "sys/metrics")
    names = {gauge["Name"] for gauge in answer.body["Gauges"]}
    assert {
        "vault.core.replication.performance.primary",
        "vault.core.replication.performance.secondary",
        "vault.replication.wal.last_wal",
        "vault.replication.wal.last_performance_wal",
        "vault.replication.fsm.last_remote_wal",
    } <= names
