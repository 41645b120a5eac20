"""Two clusters, a bad wire between them: slow, lossy, cut for a minute, cut one way, flapping.

`make test-network`, as root. How the tests reach the other end is not over that wire.
"""

import contextlib
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.replication.clusters import errors, follows, ok, read, token_for, write
from tests.replication.load import Load
from tests.replication.pair import log_in, prepare, status
from tests.support.link import FAR, HERE, NEAR, THERE, Wire, wire
from tests.support.undercroft import Client, Undercroft, free_port, initialize, start, until

pytestmark = pytest.mark.network

ROUND_TRIP_MS = 150
LOSS = 0.02  # each way
PAUSE = 0.005  # of a writer, in seconds: each request takes a port


@dataclass
class Clusters:
    """`far` is at the other end; both are served beside the wire, and replicate over it."""

    wire: Wire
    near_server: Undercroft
    far_server: Undercroft

    @property
    def near(self) -> Client:
        return self.near_server.client

    @property
    def far(self) -> Client:
        return self.far_server.client

    def spoil(self) -> None:
        self.wire.set(ROUND_TRIP_MS / 2, LOSS)

    def join(self) -> None:
        wrapped = token_for(self.near, "osaka")
        enabled = self.far.request(
            "POST",
            "sys/replication/performance/secondary/enable",
            {"token": wrapped, "primary_api_addr": f"http://{HERE}:{self.near.port}"},
        )
        assert enabled.status == 200, enabled

    def joined(self) -> None:
        self.join()
        until(lambda: status(self.far).get("state") == "stream-wals", self.far_server, 60)
        log_in(self.far)

    def settle(self, seconds: float = 60) -> None:
        until(lambda: follows(self.far, self.near), self.far_server, seconds)

    def noticed(self) -> bool:
        """Both know that the other is gone."""
        peers = status(self.near)["secondaries"]
        return (
            all(peer["connection_status"] != "connected" for peer in peers)
            and status(self.far)["connection_state"] != "ready"
        )


def lacks(client: Client, names: list[str]) -> set[str]:
    """Which of these secrets are not there; of some the values are looked at."""
    listed = client.request("LIST", "secret/metadata")
    there = set(listed.body["data"]["keys"]) if listed.status == 200 else set()
    for name in random.sample(sorted(there & set(names)), min(300, len(there & set(names)))):
        if read(client, name) != name:
            there.discard(name)
    return set(names) - there


@contextlib.contextmanager
def server_at(
    address: str, beside: str, directory: Path, inside: tuple[str, ...] = ()
) -> Iterator[Undercroft]:
    directory.mkdir()
    port, cluster_port = free_port(), free_port()
    config = directory / "undercroft.hcl"
    config.write_text(
        f"""
storage "lmdb" {{
  path = "{directory / "data"}"
}}
listener "tcp" {{
  address         = "0.0.0.0:{port}"
  cluster_address = "{address}:{cluster_port}"
  tls_disable     = true
}}
api_addr     = "http://{address}:{port}"
cluster_addr = "https://{address}:{cluster_port}"
"""
    )
    server = start([f"-config={config}"], directory, port, within=inside)
    server.client.host = beside
    try:
        initialize(server)
        yield server
    finally:
        server.kill()


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Clusters]:
    with (
        wire() as between,
        server_at(HERE, NEAR, tmp_path / "near") as near,
        server_at(THERE, FAR, tmp_path / "far", between.inside) as far,
    ):
        prepare(near.client)
        ok(near.client, "primary/enable")
        yield Clusters(between, near, far)


def test_the_wire_is_as_slow_and_as_broken_as_it_is_told_to_be(clusters: Clusters) -> None:
    """What the other tests stand on."""
    far = clusters.far_server.client

    def answers_within(seconds: float) -> bool:
        with (
            contextlib.suppress(TimeoutError),
            socket.create_connection((THERE, far.port), timeout=seconds),
        ):
            return True
        return False

    assert answers_within(0.2)
    clusters.wire.set(150)
    assert not answers_within(0.25)
    assert answers_within(2)
    clusters.wire.cut()
    assert not answers_within(2)
    clusters.wire.set()
    assert answers_within(0.2)


def test_everything_works_over_a_slow_and_lossy_wire(clusters: Clusters) -> None:
    near, far = clusters.near, clusters.far
    for number in range(200):
        write(near, f"before{number}", f"before{number}")
    clusters.spoil()
    clusters.joined()
    clusters.settle()
    log_in(near)
    with contextlib.ExitStack() as loads:
        here, there = Load(near, "here", PAUSE), Load(far, "there", PAUSE)
        loads.callback(here.stop)
        loads.callback(there.stop)
        for number in range(20):  # who writes reads its own write, though the way is long
            write(far, f"mine{number}", number)
            assert read(far, f"mine{number}") == number
        time.sleep(20)
    clusters.settle()
    assert here.refused == there.refused == []
    assert len(here.acknowledged) > 500
    assert len(there.acknowledged) > 50
    for name in ("before", "here", "there"):
        written = {
            "before": [f"before{n}" for n in range(200)],
            "here": here.acknowledged,
            "there": there.acknowledged,
        }[name]
        assert lacks(far, written) == lacks(near, written) == set()
    assert status(far)["divergences"] == 0


def test_a_minute_without_the_wire_under_load_loses_nothing(clusters: Clusters) -> None:
    near, far = clusters.near, clusters.far
    clusters.spoil()
    clusters.joined()
    log_in(near)
    here, there = Load(near, "here", PAUSE), Load(far, "there", PAUSE)
    try:
        until(lambda: len(here.acknowledged) > 100 and len(there.acknowledged) > 10)
        clusters.wire.cut()
        since = time.monotonic()
        until(clusters.noticed, seconds=30)
        assert clusters.near.request("GET", "sys/health").status == 200
        assert read(far, here.acknowledged[0]) == here.acknowledged[0]
        before = len(here.acknowledged)
        there.refused.clear()
        until(lambda: len(there.refused) > 3)
        assert all(text.startswith("503") and "primary" in text for text in there.refused)
        time.sleep(max(0, 60 - (time.monotonic() - since)))
        assert len(here.acknowledged) > before + 500
        assert read(far, here.acknowledged[0]) == here.acknowledged[0]
        clusters.spoil()
        until(lambda: status(far)["connection_state"] == "ready", clusters.far_server, 60)
        far_before = len(there.acknowledged)
        until(lambda: len(there.acknowledged) > far_before + 10, clusters.far_server, 60)
    finally:
        acknowledged = here.stop() + there.stop()
    clusters.settle(120)
    assert lacks(near, acknowledged) == lacks(far, acknowledged) == set()
    assert status(far)["divergences"] == 0
    assert status(near)["fenced"] is False


def test_a_first_copy_that_was_cut_goes_on_where_it_was(clusters: Clusters) -> None:
    near, far = clusters.near, clusters.far
    for number in range(200):
        write(near, f"n{number}", f"n{number}-" + "x" * 30_000)
    clusters.wire.set(30, 0.01)  # some 300 kB/s

    def copied() -> int:
        progress = status(far).get("merkle_sync_progress") or {"sync_progress": 0}
        return int(progress["sync_progress"])

    clusters.join()
    until(lambda: copied() > 80, clusters.far_server, 60)
    clusters.wire.cut()
    until(lambda: status(near)["secondaries"][0]["connection_status"] != "connected", None, 40)
    had = copied()
    clusters.wire.set()
    until(lambda: status(far).get("state") == "stream-wals", clusters.far_server, 60)
    log_in(far)
    clusters.settle()
    received = status(far)["bytes_received"]
    assert all(read(far, f"n{number}") for number in range(200))
    assert received < (200 - had / 2) * 30_000 * 1.2, (had, received)


@pytest.mark.parametrize("lost", [(1, 0), (0, 1)], ids=["nothing arrives", "nothing comes back"])
def test_a_wire_that_carries_one_way_only_is_as_good_as_none(
    clusters: Clusters, lost: tuple[int, int]
) -> None:
    near, far = clusters.near, clusters.far
    clusters.joined()
    log_in(near)
    load = Load(near, "here", PAUSE)
    try:
        clusters.wire.set(1, *lost)
        until(clusters.noticed, seconds=40)
        refused = errors(far.request("POST", "secret/data/far", {"data": {"value": 1}}))
        assert "the primary cannot be reached" in refused
        clusters.wire.set(1)
        until(lambda: status(far)["connection_state"] == "ready", clusters.far_server, 60)
    finally:
        load.stop()
    clusters.settle()
    assert lacks(far, load.acknowledged) == set()


def test_a_wire_that_comes_and_goes_is_used_while_it_is_there(clusters: Clusters) -> None:
    near, far = clusters.near, clusters.far
    clusters.joined()
    log_in(near)
    here, there = Load(near, "here", PAUSE), Load(far, "there", PAUSE)
    try:
        for _ in range(10):
            clusters.wire.cut()
            time.sleep(2)
            clusters.wire.set(10, LOSS)
            time.sleep(2)
    finally:
        acknowledged = here.stop() + there.stop()
    clusters.settle(60)
    assert len(there.acknowledged) > 10
    assert lacks(near, acknowledged) == lacks(far, acknowledged) == set()
    assert status(far)["divergences"] == 0


def test_who_is_promoted_behind_a_cut_wins_and_nothing_is_lost_in_silence(
    clusters: Clusters,
) -> None:
    """Every acknowledged write of the old primary is in the set, or in its quarantine."""
    near, far = clusters.near, clusters.far
    clusters.spoil()
    clusters.joined()
    log_in(near)
    here = Load(near, "here", PAUSE)
    try:
        until(lambda: len(here.acknowledged) > 200)
        clusters.wire.cut()
        until(clusters.noticed, seconds=30)
        promoted = ok(far, "secondary/promote")
        assert promoted["warnings"]
        there = Load(far, "there", PAUSE)
        try:
            until(lambda: len(there.acknowledged) > 200)
            clusters.spoil()
            until(lambda: status(near)["fenced"], clusters.near_server, 60)
        finally:
            there.stop()
    finally:
        here.stop()
    refused = errors(near.request("POST", "secret/data/late", {"data": {"value": 1}}))
    assert "fenced" in refused
    ok(near, "primary/demote")
    token = token_for(far, "tokyo")
    ok(near, "secondary/update-primary", {"token": token})
    until(lambda: follows(near, far), clusters.near_server, 60)
    log_in(near)
    missing = lacks(far, here.acknowledged)
    assert missing, "nothing was written behind the cut"
    listed = near.request("GET", "sys/replication/quarantine")
    aside = {entry["path"] for entry in listed.body["data"]["key_info"].values()}
    assert [name for name in missing if not any(path.endswith(name) for path in aside)] == []
    assert lacks(near, there.acknowledged) == lacks(far, there.acknowledged) == set()
    assert lacks(near, here.acknowledged) == missing
