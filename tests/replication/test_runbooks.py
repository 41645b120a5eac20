"""The runbooks of docs/replication-runbooks.md, as an operator runs them, on real clusters.

Each test's name is the runbook's heading. Planned failover and failback, re-parenting, a moved
address, a drill, an upgrade's restarts, leaving a set, and what to do in doubt.
"""

from pathlib import Path

from tests.replication.clusters import AT, ok, read, settle, token_for, triple, write
from tests.replication.pair import log_in, prepare, replicating_pair, status
from tests.support.undercroft import disk_server, free_port, restart, until


def test_bootstrap(tmp_path: Path) -> None:
    """With a filter made before, and a token sealed for the secondary's key."""
    for name in ("p", "s"):
        (tmp_path / name).mkdir()
    with disk_server(tmp_path / "p") as p, disk_server(tmp_path / "s") as s:
        primary, secondary = p.client, s.client
        prepare(primary)
        write(primary, "a", "shared")
        primary.request("POST", "kv1/hidden", {"value": "stays"})
        ok(primary, "primary/enable")
        key = ok(secondary, "secondary/generate-public-key")["data"]["secondary_public_key"]
        deny = {"mode": "deny", "paths": "kv1/"}
        assert primary.request("POST", f"{AT}/primary/paths-filter/osaka", deny).status == 204
        made = ok(primary, "primary/secondary-token", {"id": "osaka", "secondary_public_key": key})
        assert made["wrap_info"] is None
        ok(secondary, "secondary/enable", {"token": made["data"]["token"]})
        until(lambda: status(secondary).get("state") == "stream-wals", s)
        log_in(secondary)
        assert read(secondary, "a") == "shared"
        assert secondary.request("GET", "kv1/hidden").status == 404
        assert primary.request("DELETE", f"{AT}/primary/paths-filter/osaka").status == 204
        until(lambda: secondary.request("GET", "kv1/hidden").status == 200, s)
        settle(secondary, primary)


def test_planned_failover_and_failback(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        write(one, "before")
        log_in(one)
        last = ok(one, "primary/demote")["data"]["last_wal"]
        until(lambda: status(two)["last_remote_wal"] >= last)
        ok(two, "secondary/promote")
        write(two, "meanwhile")
        ok(one, "secondary/update-primary", {"token": token_for(two, "lisbon")})
        settle(one, two)
        assert read(one, "meanwhile") == 1
        last = ok(two, "primary/demote")["data"]["last_wal"]
        until(lambda: status(one)["last_remote_wal"] >= last)
        ok(one, "secondary/promote")
        ok(two, "secondary/update-primary", {"token": token_for(one, "osaka")})
        settle(two, one)
        write(one, "after")
        until(lambda: read(two, "after") == 1)
        assert status(one)["quarantined_records"] == status(two)["quarantined_records"] == 0


def test_switchover(tmp_path: Path) -> None:
    """Promote alone, with the primary connected: it stops, hands over, and is fenced."""
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        write(one, "before")
        promoted = ok(two, "secondary/promote")
        assert len(promoted["warnings"]) == 1
        assert read(two, "before") == 1
        until(lambda: status(one)["fenced"])
        assert one.request("POST", "secret/data/late", {"data": {}}).status == 503
        ok(one, "primary/demote")
        ok(one, "secondary/update-primary", {"token": token_for(two, "lisbon")})
        settle(one, two)
        assert status(one)["quarantined_records"] == 0


def test_re_parent_another_secondary(tmp_path: Path) -> None:
    with triple(tmp_path) as (first, second, third):
        one, two, three = first.client, second.client, third.client
        first.kill()
        ok(two, "secondary/promote")
        write(two, "new")
        received = status(three).get("bytes_received", 0)
        ok(three, "secondary/update-primary", {"token": token_for(two, "perth")})
        settle(three, two)
        assert read(three, "new") == 1
        assert status(three)["bytes_received"] - received < 1 << 20  # no wipe, no copy
        restart(first, tmp_path / "primary")
        until(lambda: status(one)["fenced"], first)


def test_an_old_primary_is_fenced_by_a_sibling_alone(tmp_path: Path) -> None:
    """The promoted cluster is down again when the old primary comes back."""
    with triple(tmp_path) as (first, second, third):
        one, two, three = first.client, second.client, third.client
        first.kill()
        ok(two, "secondary/promote")
        ok(three, "secondary/update-primary", {"token": token_for(two, "perth")})
        settle(three, two)
        second.kill()
        restart(first, tmp_path / "primary")
        until(lambda: status(one)["fenced"], first)


def test_revoke_and_re_admit(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        ok(one, "primary/revoke-secondary", {"id": "osaka"})
        until(lambda: status(two)["connection_state"] != "ready")
        assert read(two, "nothing") == 404  # it still answers reads
        until(lambda: two.request("POST", "secret/data/x", {"data": {}}).status == 503)
        write(one, "meanwhile")
        ok(two, "secondary/update-primary", {"token": token_for(one, "osaka")})
        settle(two, one)
        assert read(two, "meanwhile") == 1


def test_moved_address(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        known = status(two)["known_primary_cluster_addrs"]
        moved = f"https://127.0.0.1:{free_port()}"
        answer = ok(one, "primary/enable", {"primary_cluster_addr": moved})
        assert "address" in answer["warnings"][0]
        until(lambda: moved in status(two)["known_primary_cluster_addrs"])
        assert known[0] in status(two)["known_primary_cluster_addrs"]  # never shrinks to nothing
        refused = two.request(
            "POST", f"{AT}/secondary/update-primary", {"update_primary_addrs": moved}
        )
        assert refused.status == 503  # nobody is there
        ok(two, "secondary/update-primary", {"update_primary_addrs": [moved, *known]})
        settle(two, one)


def test_drill(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        ok(two, "secondary/update-primary", {"token": ""})
        until(lambda: status(two)["state"] == "idle")
        ok(two, "secondary/promote")
        write(two, "drilled")
        write(one, "production")
        assert not status(one)["fenced"]
        ok(two, "primary/demote")
        ok(one, "primary/revoke-secondary", {"id": "osaka"})
        ok(two, "secondary/update-primary", {"token": token_for(one, "osaka")})
        settle(two, one)
        assert not status(one)["fenced"]
        assert read(two, "production") == 1
        assert read(two, "drilled") == 404
        assert status(two)["quarantined_records"] > 0


def test_rolling_restarts(tmp_path: Path) -> None:
    """Either side away and back: it catches up from the log."""
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        pair.secondary_server.stop()
        for number in range(20):
            write(one, f"n{number}")
        restart(pair.secondary_server, tmp_path / "secondary")
        settle(two, one)
        pair.primary_server.stop()
        assert read(two, "n7") == 1
        restart(pair.primary_server, tmp_path / "primary")
        write(one, "again")
        settle(two, one)
        assert read(two, "again") == 1


def test_decommission(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        write(one, "kept")
        settle(two, one)
        ok(two, "secondary/disable")
        assert status(two) == {"mode": "disabled"}
        assert read(two, "kept") == 1
        write(two, "alone")
        assert status(one)["known_secondaries"] == ["osaka"]
        ok(one, "primary/revoke-secondary", {"id": "osaka"})
        assert status(one)["known_secondaries"] == []


def test_in_doubt(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        for client in (pair.primary, pair.secondary):
            checked = client.request("GET", "sys/replication/merkle-check")
            assert checked.status == 200, checked
            assert checked.body["data"]["merkle_corruption_report"]["corrupted_root"] is False
            assert client.request("POST", "sys/replication/recover").status == 200
        settle(pair.secondary, pair.primary)
