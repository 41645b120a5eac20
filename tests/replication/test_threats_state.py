"""What a secondary holds and serves: tokens, order, filters, files (R-18 to R-33, REP-01 to 06)."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from tests.replication.clusters import AT, allowed, errors, ok, read, settle, token_for, write
from tests.replication.pair import Pair, join, log_in, prepare, replicating_pair, status
from tests.replication.relay import relayed
from tests.support.undercroft import Client, Undercroft, disk_server, free_port, until
from undercroft import __version__
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.storage.environment import MAP_BYTES
from undercroft.storage.keys import SHARED
from undercroft.storage.location import location

CANARY = "a-canary-that-nobody-else-writes"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair")) as made:
        yield made


def deny(primary: Client, secondary_id: str, *paths: str) -> None:
    body = {"mode": "deny", "paths": list(paths)}
    made = primary.request("POST", f"{AT}/primary/paths-filter/{secondary_id}", body)
    assert made.status in (200, 204), made


def post(client: Client, path: str, body: object) -> None:
    made = client.request("POST", path, body)
    assert made.status in (200, 204), made


# tokens and order


def test_threat_r_18_a_token_is_known_where_it_was_made_and_nowhere_else(tmp_path: Path) -> None:
    """And a cluster's own are gone when it becomes a secondary, the root token with them."""
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    with (
        disk_server(tmp_path / "primary") as primary,
        disk_server(tmp_path / "secondary") as secondary,
    ):
        prepare(primary.client)
        ok(primary.client, "primary/enable")
        former = secondary.client.token
        join(primary.client, secondary, "osaka")
        answer = secondary.client.request("GET", "auth/token/lookup-self", token=former)
        assert answer.status == 403
        one, two = primary.client, secondary.client
        for here, there in ((one, two), (two, one)):
            assert here.request("GET", "auth/token/lookup-self").status == 200
            answer = there.request("GET", "auth/token/lookup-self", token=here.token)
            assert answer.status == 403


def test_threat_r_20_a_policy_counts_no_later_than_what_is_written_after_it(pair: Pair) -> None:
    rule = 'path "kv1/ordered" { capabilities = ["read"] }'
    token = allowed(pair.secondary, "narrowed", rule)
    for number in range(15):
        post(pair.primary, "sys/policies/acl/narrowed", {"policy": rule})
        post(pair.primary, "kv1/ordered", {"value": f"open {number}"})
        now = f"open {number}"
        until(lambda now=now: seen(pair.secondary, token) == now, pair.secondary_server)
        post(pair.primary, "sys/policies/acl/narrowed", {"policy": 'path "x" {}'})
        post(pair.primary, "kv1/ordered", {"value": "secret"})

        def ends() -> bool:
            found = seen(pair.secondary, token)
            assert found != "secret"
            return found == 403

        until(ends, pair.secondary_server)


def seen(client: Client, token: str) -> object:
    answer = client.request("GET", "kv1/ordered", token=token)
    return answer.body["data"]["value"] if answer.status == 200 else answer.status


# filters


def test_threat_rep_01_what_is_filtered_out_is_served_by_no_worker_any_more(
    tmp_path: Path,
) -> None:
    with replicating_pair(tmp_path, "workers = 3\n") as pair:
        post(pair.primary, "kv1/a", {"value": CANARY})
        settle(pair.secondary, pair.primary)
        for _ in range(20):  # each on a connection of its own: every worker has it at hand
            assert pair.secondary.request("GET", "kv1/a").status == 200
        deny(pair.primary, "osaka", "kv1/")
        until(lambda: pair.secondary.request("GET", "kv1/a").status == 404, pair.secondary_server)
        assert {pair.secondary.request("GET", "kv1/a").status for _ in range(60)} == {404}
        mounts = pair.primary.request("GET", "sys/mounts").body["data"]
        head = SHARED + bytes.fromhex(mounts["kv1/"]["uuid"].replace("-", ""))
        until(lambda: not holds(pair.secondary_server, head), pair.secondary_server)


def holds(server: Undercroft, head: bytes) -> bool:
    """Whether anything of a mount is in the store of a server."""
    path = str(location(server.log.parent / "data"))
    with (
        lmdb.open(path, max_dbs=8, map_size=MAP_BYTES, create=False, readonly=True) as store,
        store.begin(db=store.open_db(b"data", create=False)) as txn,
    ):
        cursor = txn.cursor()
        return bool(cursor.set_range(head) and cursor.key().startswith(head))


def test_threat_rep_03_what_is_filtered_out_never_is_on_the_wire(tmp_path: Path) -> None:
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    with (
        disk_server(tmp_path / "primary") as primary,
        disk_server(tmp_path / "secondary") as secondary,
        relayed(primary, secondary) as relay,
    ):
        deny(primary.client, "osaka", "kv1/")
        until(lambda: secondary.client.request("GET", "kv1/").status == 404)
        wire: list[bytes] = []

        def tap(frame: Frame) -> list[Frame]:
            wire.append(frames.encode(frame))
            return [frame]

        relay.tamper = tap
        for number in range(20):
            post(primary.client, f"kv1/{CANARY}/{number}", {"value": "x"})
            write(primary.client, f"seen/{number}")
        until(lambda: read(secondary.client, "seen/19") == 1, secondary)
        relay.drop()  # and again with a session from its beginning
        write(primary.client, "seen/20")
        until(lambda: read(secondary.client, "seen/20") == 1, secondary)
        carried = b"".join(wire)
        assert b"seen/7" in carried  # so a name that passes is found in what was carried
        assert CANARY.encode() not in carried


# files


def test_threat_rep_05_no_file_of_a_secondary_holds_a_value_in_the_clear(pair: Pair) -> None:
    write(pair.primary, "at-rest", CANARY)
    post(pair.primary, "kv1/at-rest", {"value": CANARY})
    settle(pair.secondary, pair.primary)
    assert read(pair.secondary, "at-rest") == CANARY
    files = [
        file
        for server in (pair.primary_server, pair.secondary_server)
        for file in (server.log.parent / "data").rglob("*")
        if file.is_file()
    ]
    assert len(files) > 3
    for file in files:
        assert CANARY.encode() not in file.read_bytes(), file


def test_threat_r_33_a_primary_sets_neither_files_nor_ports_nor_seal_of_a_secondary(
    tmp_path: Path,
) -> None:
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    own = tmp_path / "own.log"
    audit = f'audit "file" "own" {{\n  options {{ file_path = "{own}" }}\n}}\n'
    with (
        disk_server(tmp_path / "primary") as primary,
        disk_server(tmp_path / "secondary", audit) as secondary,
    ):
        prepare(primary.client)
        ok(primary.client, "primary/enable")
        before = seal_of(secondary)
        join(primary.client, secondary, "osaka")
        made = primary.client.request(
            "POST", "sys/audit/theirs", {"type": "file", "options": {"file_path": "/tmp/theirs"}}
        )
        assert made.status == 400
        assert "config-based" in errors(made)
        assert list(secondary.client.request("GET", "sys/audit").body["data"]) == ["own/"]
        size = own.stat().st_size
        secondary.client.request("GET", "kv1/any")
        until(lambda: own.stat().st_size > size)
        assert seal_of(secondary) == before
        secondary.client.request("PUT", "sys/seal")
        secondary.unseal()  # its own shares, still


def seal_of(server: Undercroft) -> dict[str, object]:
    shown = server.client.request("GET", "sys/seal-status").body
    return {name: shown[name] for name in ("type", "t", "n", "storage_type")}


# changing the primary


def test_threat_rep_06_a_switch_of_primaries_under_writes_loses_none(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        settle(pair.secondary, pair.primary)
        acknowledged: list[int] = []
        over = threading.Event()

        def keep_writing() -> None:
            number = 0
            while not over.is_set():
                number += 1
                with contextlib.suppress(OSError):
                    answer = pair.primary.request(
                        "POST", f"secret/data/w{number}", {"data": {"value": number}}
                    )
                    if answer.status == 200:
                        acknowledged.append(number)

        writer = threading.Thread(target=keep_writing)
        writer.start()
        until(lambda: len(acknowledged) > 50)
        ok(pair.secondary, "secondary/promote")
        until(lambda: status(pair.secondary)["mode"] == "primary", pair.secondary_server)
        over.set()
        writer.join()
        ok(pair.primary, "primary/demote")
        token = token_for(pair.secondary, "first")
        ok(pair.primary, "secondary/update-primary", {"token": token})
        log_in(pair.primary)
        settle(pair.primary, pair.secondary)
        assert pair.primary.request("GET", "sys/replication/quarantine").body["data"]["keys"] == []
        for number in acknowledged:
            assert read(pair.secondary, f"w{number}") == number
            assert read(pair.primary, f"w{number}") == number


# what anyone may see


def test_threat_r_22_a_listener_keeps_addresses_names_and_version_back_where_it_is_told_to(
    tmp_path: Path,
) -> None:
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    ports = {name: free_port() for name in ("primary", "secondary")}
    quiet = {
        name: f'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n  tls_disable = true\n'
        f'  cluster_address = "127.0.0.1:{free_port()}"\n'
        "  redact_addresses = true\n  redact_cluster_name = true\n  redact_version = true\n}\n"
        for name, port in ports.items()
    }
    with (
        disk_server(tmp_path / "primary", quiet["primary"]) as primary,
        disk_server(tmp_path / "secondary", quiet["secondary"]) as secondary,
    ):
        prepare(primary.client)
        ok(primary.client, "primary/enable")
        join(primary.client, secondary, "osaka")
        settle(secondary.client, primary.client)
        until(lambda: status(primary.client)["secondaries"])
        for server, name in ((primary, "primary"), (secondary, "secondary")):
            told = answers(server.client)
            shown = answers(Client("127.0.0.1", ports[name]))
            cluster = server.client.request("GET", "sys/health").body["cluster_name"]
            for word in ("127.0.0.1", cluster, __version__):
                assert word in told
                assert word not in shown
        ok(secondary.client, "secondary/update-primary")  # detached: there is a reason to be told
        until(lambda: status(secondary.client)["state_reason"], secondary)
        assert "redacted" in answers(Client("127.0.0.1", ports["secondary"]))


def answers(client: Client) -> str:
    """All that anyone may ask."""
    paths = ("sys/health", "sys/seal-status", "sys/leader", "sys/replication/status")
    return str([client.request("GET", path).body for path in paths])
