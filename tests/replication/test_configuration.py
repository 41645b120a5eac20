"""The replication stanza and replication's metrics, under the names that Vault has for them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.clusters import ok, read, settle, write
from tests.replication.pair import Pair, replicating_pair, status
from tests.support.undercroft import Client, free_port, restart, until

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
            assert "reindex" not in name


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
