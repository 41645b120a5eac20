"""Bad networks, wrong clocks and a full disk, for real: `make test-network`, as root.

Network namespaces with `tc netem`, `faketime`, HAProxy, a small tmpfs. Not part of `make test`.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.replication.pair import Pair, join, log_in, prepare, status
from tests.support.undercroft import (
    Client,
    Undercroft,
    disk_server,
    free_port,
    initialize,
    restart,
    until,
)

pytestmark = pytest.mark.network

NAMESPACE = "uc-secondary"
HERE, THERE = "10.77.0.1", "10.77.0.2"


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def namespace() -> Iterator[None]:
    """A second network, joined to this one by a wire that `netem` makes bad."""
    run("ip", "netns", "add", NAMESPACE)
    try:
        run("ip", "link", "add", "uc0", "type", "veth", "peer", "name", "uc1")
        run("ip", "link", "set", "uc1", "netns", NAMESPACE)
        run("ip", "addr", "add", f"{HERE}/24", "dev", "uc0")
        run("ip", "link", "set", "uc0", "up")
        inside = ("ip", "netns", "exec", NAMESPACE)
        run(*inside, "ip", "addr", "add", f"{THERE}/24", "dev", "uc1")
        run(*inside, "ip", "link", "set", "uc1", "up")
        run(*inside, "ip", "link", "set", "lo", "up")
        yield
    finally:
        subprocess.run(("ip", "link", "del", "uc0"), capture_output=True, check=False)
        run("ip", "netns", "del", NAMESPACE)


def reachable(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def netem(*how: str) -> None:
    run("tc", "qdisc", "replace", "dev", "uc0", "root", "netem", *how)


@contextlib.contextmanager
def server_at(host: str, directory: Path, *prefix: str) -> Iterator[Undercroft]:
    directory.mkdir()
    port = free_port()
    config = directory / "undercroft.hcl"
    config.write_text(
        f"""
storage "lmdb" {{
  path = "{directory / "data"}"
}}
listener "tcp" {{
  address         = "{host}:{port}"
  cluster_address = "{host}:{port + 1}"
  tls_disable     = true
}}
"""
    )
    log = directory / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "undercroft", "server", f"-config={config}"],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    server = Undercroft(process, Client(host, port), log)
    try:
        initialize(server)
        yield server
    finally:
        server.kill()
        subprocess.run(("pkill", "-9", "-f", str(config)), check=False)


@contextlib.contextmanager
def far_pair(directory: Path, *prefix: str, host: str = THERE) -> Iterator[Pair]:
    with (
        server_at(HERE if host == THERE else host, directory / "primary") as primary,
        server_at(host, directory / "secondary", *prefix) as secondary,
    ):
        prepare(primary.client)
        enabled = primary.client.request("POST", "sys/replication/performance/primary/enable")
        assert enabled.status == 200
        join(primary.client, secondary, "osaka")
        yield Pair(primary, secondary)


def write_many(client: Client, prefix: str, count: int) -> list[str]:
    names = [f"{prefix}{number}" for number in range(count)]
    for name in names:
        answer: Any = client.request("POST", f"secret/data/{name}", {"data": {"n": name}})
        assert answer.status == 200, answer
    return names


def all_there(pair: Pair, names: list[str]) -> bool:
    return all(pair.secondary.request("GET", f"secret/data/{n}").status == 200 for n in names)


def test_a_slow_and_lossy_wire_and_a_minute_without_one(tmp_path: Path) -> None:
    with namespace(), far_pair(tmp_path, "ip", "netns", "exec", NAMESPACE) as pair:
        netem("delay", "150ms", "loss", "2%")
        names = write_many(pair.primary, "far", 300)
        until(pair.caught_up, seconds=60)
        wrote = pair.secondary.request("POST", "secret/data/from-far", {"data": {"v": 1}})
        assert wrote.status == 200
        netem("loss", "100%")
        until(
            lambda: status(pair.primary)["secondaries"][0]["connection_status"] != "connected",
            seconds=40,
        )
        names += write_many(pair.primary, "cut", 300)
        subprocess.run(("sleep", "60"), check=True)
        netem("delay", "150ms", "loss", "2%")
        until(pair.caught_up, seconds=90)
        netem("delay", "1ms")
        assert all_there(pair, names)


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_that_is_an_hour_off_stops_nothing(tmp_path: Path, offset: str) -> None:
    with far_pair(tmp_path, "faketime", "-f", offset, host="127.0.0.1") as pair:
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


def test_a_secondary_that_was_away_for_many_writes_catches_up(tmp_path: Path) -> None:
    """From the log where it reaches back, by a comparison where it does not."""
    short = "replication {\n  logshipper_buffer_length = 2000\n}\n"
    (tmp_path / "p").mkdir()
    (tmp_path / "s").mkdir()
    with disk_server(tmp_path / "p", short) as p, disk_server(tmp_path / "s") as s:
        prepare(p.client)
        p.client.request("POST", "sys/replication/performance/primary/enable")
        join(p.client, s, "osaka")
        log_in(p.client)
        s.stop()
        write_many(p.client, "away", 20_000)
        restart(s, tmp_path / "s")
        until(Pair(p, s).caught_up, s, seconds=120)
