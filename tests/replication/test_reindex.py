"""reindex on a store that it takes a while for: in the background, and never in the way."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.replication.clusters import errors, ok, read, settle, warnings, write
from tests.replication.many import plant
from tests.replication.pair import replicating_pair, replicator_of, status
from tests.support.undercroft import Answer, Client, Undercroft, disk_server, restart, until
from undercroft.storage.environment import MAP_BYTES
from undercroft.storage.location import location

AT = "sys/replication"
COUNT = 50_000
NAMES = {
    "reindex_in_progress",
    "reindex_stage",
    "reindex_building_progress",
    "reindex_building_total",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def many(directory: Path) -> Iterator[Undercroft]:
    """A primary of many entries, whose status therefore shows everything."""
    with disk_server(directory) as server:
        client = server.client
        for path, body in (
            ("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}),
            ("sys/mounts/many", {"type": "kv"}),
        ):
            assert client.request("POST", path, body).status == 204
        ok(client, "primary/enable")
        plant(server, directory, "many/", COUNT)
        yield server


@pytest.fixture
def server(many: Undercroft) -> Undercroft:
    """None runs, whatever the test before has left."""
    until(lambda: not running(many.client), many)
    return many


def begin(client: Client, **body: Any) -> Answer:
    return client.request("POST", f"{AT}/reindex", body)


def running(client: Client) -> bool:
    return bool(status(client).get("reindex_in_progress"))


def reindexed(server: Undercroft) -> None:
    """From begin to end."""
    assert begin(server.client).status == 200
    until(lambda: not running(server.client), server, 60)


def root_of(client: Client) -> str:
    """Of all that has been written: status tells of it a moment later."""
    until(lambda: status(client)["merkle_root_wal"] == status(client)["last_performance_wal"])
    return str(status(client)["merkle_root"])


def report(client: Client) -> dict[str, Any]:
    return dict(client.request("GET", f"{AT}/merkle-check").body["data"])


def metrics(client: Client) -> dict[str, float]:
    text = client.request("GET", "sys/metrics?format=prometheus").body
    found = re.findall(r"^vault_core_replication_((?:reindex|build)_\w+) (\S+)$", text, re.M)
    return {name: float(value) for name, value in found}


def tampered(directory: Path, database: bytes, change: Callable[[lmdb.Transaction], None]) -> None:
    """Another process of the machine writes into the file, past the server."""
    with (
        lmdb.open(
            str(location(directory / "data")), max_dbs=8, map_size=MAP_BYTES, create=False
        ) as environment,
        environment.begin(write=True, db=environment.open_db(database, create=False)) as txn,
    ):
        change(txn)


def test_it_is_answered_at_once_and_status_shows_how_far_it_is(server: Undercroft) -> None:
    client = server.client
    seen: list[dict[str, Any]] = []
    assert not NAMES & status(client).keys()
    root = root_of(client)
    answer = begin(client)
    assert (answer.status, answer.body["data"]) == (200, None)
    assert "in the background" in warnings(answer)
    until(lambda: running(client), server)
    while (shown := status(client)).keys() >= NAMES:
        seen.append(shown)
    assert not NAMES & shown.keys()
    assert int(shown["last_reindex_epoch"]) > time.time() - 60
    assert {s["reindex_stage"] for s in seen} <= {"scanning", "building", "commit"}
    building = [s for s in seen if s["reindex_stage"] == "building"]
    progress = [s["reindex_building_progress"] for s in building]
    assert progress == sorted(progress)
    assert 0 < progress[0] < progress[-1]
    assert all(s["reindex_building_total"] >= COUNT for s in building)
    assert shown["merkle_root"] == root


def test_metrics_show_it_and_nothing_once_it_is_over(server: Undercroft) -> None:
    assert begin(server.client).status == 200
    until(lambda: metrics(server.client)["reindex_stage"] == 2, server)
    assert metrics(server.client)["build_total"] >= COUNT
    until(lambda: not running(server.client), server)
    until(lambda: not any(metrics(server.client).values()), server)


def test_one_that_runs_already_is_not_begun_again(server: Undercroft) -> None:
    assert begin(server.client).status == 200
    for path in (f"{AT}/reindex", f"{AT}/performance/reindex"):
        answer = server.client.request("POST", path)
        assert answer.status == 400
        assert re.search(r"under way already \((scanning|building), \d+ of \d+", errors(answer))
    until(lambda: not running(server.client), server)
    reindexed(server)


def test_reads_and_writes_go_on_meanwhile(server: Undercroft) -> None:
    client = server.client
    waits: list[float] = []
    assert begin(client).status == 200
    number = 0
    while running(client) or not number:
        number += 1
        began = time.monotonic()
        write(client, "meanwhile", number)
        assert read(client, "meanwhile") == number
        assert client.request("GET", "many/n77").body["data"] == {"v": 77}
        waits.append(time.monotonic() - began)
    assert number > 10
    assert max(waits) < sum(waits) / 3  # nobody has waited until it was over
    assert report(client)["problems"] == []


def test_a_check_of_it_all_holds_up_nobody(server: Undercroft) -> None:
    """It answers with its report, so it takes its time; whoever else asks is answered meanwhile."""
    client = server.client
    waits: list[float] = []
    with ThreadPoolExecutor(1) as other:
        checking = other.submit(report, client)
        while not checking.done() or not waits:
            began = time.monotonic()
            write(client, "during-a-check", len(waits))
            assert read(client, "during-a-check") == len(waits)
            assert client.request("GET", "many/n77").status == 200
            waits.append(time.monotonic() - began)
        found = checking.result()
    assert found["problems"] == []
    assert found["entries"] >= COUNT
    assert len(waits) > 10
    assert max(waits) < sum(waits) / 3  # nobody has waited until it was over


def test_checks_do_not_take_the_threads_that_others_need(server: Undercroft) -> None:
    """Each worker has four: a check takes one of them at most."""
    client = server.client
    with ThreadPoolExecutor(16) as others:
        answers = others.map(lambda _: client.request("GET", f"{AT}/merkle-check"), range(16))
        statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    assert report(client)["problems"] == []


def test_digests_that_are_not_what_the_entries_say_are_set_right(
    server: Undercroft, directory: Path
) -> None:
    client = server.client
    sound = root_of(client)
    taken: dict[bytes, bytes] = {}

    def take(txn: lmdb.Transaction) -> None:
        for key, raw in txn.cursor():
            if bytes(key[17:]).startswith(b"d/n123"):
                taken[bytes(key)] = bytes(raw)
        for key in taken:
            txn.delete(key)

    tampered(directory, b"data", take)
    assert report(client)["problems"] == ["the digest tree does not match the entries"]
    assert status(client)["corrupted_merkle_tree"] is True
    reindexed(server)
    assert report(client)["problems"] == []
    assert status(client)["corrupted_merkle_tree"] is False
    until(lambda: status(client)["merkle_root"] != sound)

    def give_back(txn: lmdb.Transaction) -> None:
        for key, raw in taken.items():
            txn.put(key, raw)

    tampered(directory, b"data", give_back)
    reindexed(server)
    assert report(client)["problems"] == []
    until(lambda: status(client)["merkle_root"] == sound)
    assert client.request("GET", "many/n1234").body["data"] == {"v": 1234}


def test_what_no_secondary_has_is_looked_at_as_well(server: Undercroft, directory: Path) -> None:
    client, alien = server.client, b"l" + bytes(15) + b"\x02" + b"alien"  # in a cubbyhole

    def add(txn: lmdb.Transaction) -> None:
        txn.put(alien, b"\x01\x00" + bytes(range(40)))

    def drop(txn: lmdb.Transaction) -> None:
        txn.delete(alien)

    off = "the digest tree does not match the entries"
    tampered(directory, b"data", add)
    assert off in report(client)["problems"]
    reindexed(server)
    assert status(client)["corrupted_merkle_tree"] is True  # for that entry does not open
    assert off not in report(client)["problems"]
    tampered(directory, b"data", drop)
    assert report(client)["problems"] == [off]
    reindexed(server)
    assert status(client)["corrupted_merkle_tree"] is False
    assert report(client)["problems"] == []


def test_what_is_stored_of_the_digests_is_stored_anew_when_it_is_damaged(
    server: Undercroft, directory: Path
) -> None:
    def damage(txn: lmdb.Transaction) -> None:
        everything = [(bytes(key), bytes(raw)) for key, raw in txn.cursor()]
        nodes = [(key, raw) for key, raw in everything if key.startswith(b"digest/")]
        assert nodes
        for key, raw in nodes[::3]:
            txn.put(key, raw[:-1] + bytes((raw[-1] ^ 1,)))

    root = root_of(server.client)
    tampered(directory, b"meta", damage)
    assert "is damaged" in report(server.client)["problems"][0]
    reindexed(server)
    assert report(server.client)["problems"] == []
    assert status(server.client)["merkle_root"] == root


def test_killed_in_the_middle_it_is_forgotten_and_nothing_else_is(
    server: Undercroft, directory: Path
) -> None:
    client = server.client
    before = status(client)
    assert begin(client).status == 200
    until(lambda: running(client), server)
    os.kill(replicator_of(server), signal.SIGKILL)
    until(lambda: not running(client) and status(client)["state"] == "running", server)
    assert status(client)["last_reindex_epoch"] == before["last_reindex_epoch"]
    write(client, "after-the-replicator")

    assert begin(client).status == 200
    until(lambda: running(client), server)
    write(client, "last-words")
    server.kill()
    restart(server, directory)
    until(lambda: "last_reindex_epoch" in status(client), server)
    assert not running(client)
    assert status(client)["last_reindex_epoch"] == before["last_reindex_epoch"]
    assert read(client, "last-words") == 1
    assert report(client)["problems"] == []
    reindexed(server)
    done = status(client)["last_reindex_epoch"]
    server.kill()
    restart(server, directory)
    assert status(client)["last_reindex_epoch"] == done


def test_a_sealed_node_does_not_go_on_with_it(server: Undercroft) -> None:
    client = server.client
    assert begin(client).status == 200
    until(lambda: running(client), server)
    assert client.request("PUT", "sys/seal").status == 204
    assert begin(client).status == 503
    server.unseal()
    until(lambda: not running(client), server)
    assert report(client)["problems"] == []


def test_a_secondary_that_reindexes_goes_on_streaming(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        settle(pair.secondary, pair.primary)
        for number in range(20):
            assert begin(pair.secondary).status in (200, 400)
            write(pair.primary, f"n{number}")
            until(lambda n=number: read(pair.secondary, f"n{n}") == 1, pair.secondary_server)
        until(lambda: not running(pair.secondary), pair.secondary_server)
        settle(pair.secondary, pair.primary)
        shown = status(pair.secondary)
        assert (shown["divergences"], shown["corrupted_merkle_tree"]) == (0, False)
        assert int(shown["last_reindex_epoch"]) > 0


def test_a_secondary_whose_disk_lost_entries_heals_beside_a_reindex(tmp_path: Path) -> None:
    """Both look for what the digests are off by: it is set right once."""

    def lose(txn: lmdb.Transaction) -> None:
        kept = [bytes(k) for k, _ in txn.cursor() if k[:1] == b"s" and bytes(k[17:19]) == b"d/"]
        for key in kept[::2]:
            txn.delete(key)

    with replicating_pair(tmp_path) as pair:
        for number in range(40):
            assert pair.primary.request("POST", f"kv1/n{number}", {"v": number}).status == 204
        settle(pair.secondary, pair.primary)
        for _ in range(3):
            before = status(pair.secondary)["divergences"]
            tampered(tmp_path / "secondary", b"data", lose)
            assert pair.secondary.request("POST", f"{AT}/recover").status == 200  # scrub now
            while status(pair.secondary)["divergences"] == before:
                assert begin(pair.secondary).status in (200, 400)
            until(lambda: not running(pair.secondary), pair.secondary_server)
            settle(pair.secondary, pair.primary)
            for number in range(40):
                assert pair.secondary.request("GET", f"kv1/n{number}").body["data"] == {"v": number}
            assert report(pair.secondary)["problems"] == []


def test_digests_are_set_right_while_others_write(server: Undercroft, directory: Path) -> None:
    client = server.client

    def add(txn: lmdb.Transaction) -> None:
        found = [(bytes(k), bytes(v)) for k, v in txn.cursor() if bytes(k[17:]).startswith(b"d/n7")]
        for key, raw in found:
            txn.put(key + b"-alien", raw)

    def drop(txn: lmdb.Transaction) -> None:
        for key in [bytes(k) for k, _ in txn.cursor() if bytes(k).endswith(b"-alien")]:
            txn.delete(key)

    for change in (add, drop):
        tampered(directory, b"data", change)
        assert begin(client).status == 200
        number = 0
        while running(client) or not number:
            number += 1
            assert client.request("POST", f"many/n{number}", {"v": number}).status == 204
            assert client.request("DELETE", f"many/n{number + 700}").status == 204
            assert client.request("POST", f"many/n{number + 700}", {"v": 0}).status == 204
        assert number > 10
        off = "the digest tree does not match the entries"
        assert off not in report(client)["problems"]
    assert report(client)["problems"] == []
