"""Wrong clocks, a full disk, a balancer, a long absence: `make test-network`, as root.

With `faketime`, a small tmpfs, HAProxy. Not part of `make test`.
"""

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import uvloop
from bench.replication.paced import as_fast_as_possible, connect, request

from tests.replication.clusters import ok
from tests.replication.pair import Pair, join, log_in, prepare, replicating_pair, status
from tests.support.undercroft import (
    Client,
    disk_server,
    free_port,
    restart,
    until,
)

pytestmark = pytest.mark.network


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def reachable(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def write_many(client: Client, prefix: str, count: int) -> list[str]:
    names = [f"{prefix}{number}" for number in range(count)]
    for name in names:
        answer: Any = client.request("POST", f"secret/data/{name}", {"data": {"n": name}})
        assert answer.status == 200, answer
    return names


def all_there(pair: Pair, names: list[str]) -> bool:
    return all(pair.secondary.request("GET", f"secret/data/{n}").status == 200 for n in names)


async def write_at_once(client: Client, count: int) -> None:
    """On many connections. Raises for any that is not acknowledged."""
    connections = [await connect(client.port) for _ in range(64)]

    def write(number: int) -> bytes:
        body = json.dumps({"n": number}).encode()
        return request("POST", f"kv1/away/{number}", client.token, body)

    await as_fast_as_possible(connections, count, write)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_that_is_an_hour_off_stops_nothing(tmp_path: Path, offset: str) -> None:
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    with (
        disk_server(tmp_path / "primary") as primary,
        disk_server(tmp_path / "secondary", within=("faketime", "-f", offset)) as secondary,
    ):
        prepare(primary.client)
        ok(primary.client, "primary/enable")
        join(primary.client, secondary, "osaka")
        pair = Pair(primary, secondary)
        names = write_many(pair.primary, "skew", 50)
        until(pair.caught_up)
        assert all_there(pair, names)
        until(lambda: status(pair.secondary)["primaries"][0]["last_heartbeat"] != "")
        skew_ms = int(status(pair.secondary)["primaries"][0]["clock_skew_ms"])
        assert 3_500_000 < abs(skew_ms) < 3_700_000
        promoted = pair.secondary.request("POST", "sys/replication/performance/secondary/promote")
        assert promoted.status == 200
        until(lambda: status(pair.primary)["fenced"])


def test_a_secondary_whose_disk_is_full_goes_on_once_there_is_room(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small))
    try:
        (tmp_path / "p").mkdir()
        (small / "s").mkdir()
        with disk_server(tmp_path / "p") as p, disk_server(small / "s") as s:
            prepare(p.client)
            p.client.request("POST", "sys/replication/performance/primary/enable")
            join(p.client, s, "osaka")
            filler = small / "filler"
            room = os.statvfs(small)
            filler.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - (2 << 20))))
            for number in range(60):
                body = {"data": {"v": "x" * 100_000}}
                assert p.client.request("POST", f"secret/data/n{number}", body).status == 200
            pair = Pair(p, s)
            assert not pair.caught_up()
            assert s.client.request("GET", "sys/health").status == 200
            filler.unlink()
            until(pair.caught_up, s, seconds=60)
    finally:
        subprocess.run(("umount", "-l", str(small)), check=False)


def test_replication_through_haproxy(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "s").mkdir()
    with disk_server(tmp_path / "p") as p, disk_server(tmp_path / "s") as s:
        prepare(p.client)
        p.client.request("POST", "sys/replication/performance/primary/enable")
        cluster = p.client.request("GET", "sys/ha-status").body["data"]["nodes"][0][
            "cluster_address"
        ]
        port = free_port()
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            f"""
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen cluster
  bind 127.0.0.1:{port}
  server primary {cluster.removeprefix("https://")}
"""
        )
        balanced = f"https://127.0.0.1:{port}"
        with subprocess.Popen(("haproxy", "-f", str(config), "-db")) as balancer:
            try:
                until(lambda: reachable(port))
                moved = p.client.request(
                    "POST",
                    "sys/replication/performance/primary/enable",
                    {"primary_cluster_addr": balanced},
                )
                assert moved.status == 200
                join(p.client, s, "osaka")
                assert status(s.client)["primary_cluster_addr"] == balanced
                write_many(p.client, "balanced", 20)
                until(Pair(p, s).caught_up)
            finally:
                balancer.kill()
        until(lambda: status(s.client)["connection_state"] != "ready", seconds=20)


@pytest.mark.parametrize("kept", [1_000_000, 2000], ids=["in the log", "beyond the log"])
def test_a_secondary_that_was_away_for_200_000_writes_catches_up(tmp_path: Path, kept: int) -> None:
    """From the log where it reaches back, by a comparison where it does not."""
    more = f"replication {{\n  logshipper_buffer_length = {kept}\n}}\n"
    with replicating_pair(tmp_path, more) as pair:
        pair.secondary_server.stop()
        uvloop.run(write_at_once(pair.primary, 200_000))
        restart(pair.secondary_server, tmp_path / "secondary")
        states = set()

        def caught_up() -> bool:
            states.add(status(pair.secondary)["state"])
            return pair.caught_up()

        until(caught_up, pair.secondary_server, seconds=120)
        log_in(pair.secondary)
        listed = pair.secondary.request("LIST", "kv1/away").body["data"]["keys"]
        assert len(listed) == 200_000
        for number in range(0, 200_000, 101):
            answer = pair.secondary.request("GET", f"kv1/away/{number}")
            assert answer.body["data"] == {"n": number}
        assert ("merkle-diff" in states) is (kept == 2000)
