"""A node switches to another store: in one step, unsealed, with every connection kept."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.support.undercroft import Undercroft, disk_server, restart, until
from undercroft.barrier import shamir
from undercroft.barrier.keyring import Keyring
from undercroft.barrier.seal_store import open_keyring, open_root_key, read_config
from undercroft.barrier.shares import parse_share
from undercroft.errors import StorageFailed
from undercroft.node.frames import Decoder, FromWriter, Hello, Switch, Switched, encode
from undercroft.storage.keys import LOCAL, SYSTEM, key
from undercroft.storage.location import discard_staging, location, stage
from undercroft.storage.store import Store
from undercroft.storage.verify import verify

WORKERS = 3
CONFIG = f"workers = {WORKERS}"
AUDITED = """
audit "file" "trail" {{
  options = {{ file_path = "{path}" }}
}}
"""


class Line:
    """One connection that is kept, and which worker is at its other end."""

    def __init__(self, server: Undercroft) -> None:
        self._http = http.client.HTTPConnection(server.client.host, server.client.port, timeout=30)
        self._http.connect()
        self._http.auto_open = 0  # a connection that was dropped is an error, not a new one
        self._token = server.client.token
        self.port = self._http.sock.getsockname()[1]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"X-Vault-Token": self._token}
        payload = None if body is None else json.dumps(body).encode()
        self._http.request(method, f"/v1/{path}", payload, headers)
        response = self._http.getresponse()
        raw = response.read()
        if response.status == 503 and path != "sys/health":
            assert response.getheader("Retry-After"), raw
        return response.status, json.loads(raw) if raw else None

    def value(self, name: str) -> Any:
        status, body = self.ask("GET", f"secret/data/{name}")
        return body["data"]["data"]["v"] if status == 200 else status

    def close(self) -> None:
        self._http.close()


@contextlib.contextmanager
def a_line_to_every_worker(server: Undercroft) -> Iterator[list[Line]]:
    """The kernel spreads connections as it likes: with so many, none of three goes without."""
    lines = [Line(server) for _ in range(8 * WORKERS)]
    try:
        yield lines
    finally:
        for line in lines:
            line.close()


def ask_writer(directory: Path, frame: Switch | Hello) -> Switched:
    """Say it on the writer's socket as another process of the node would."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(directory / "writer.sock"))
        sock.sendall(encode(frame))
        decoder = Decoder(FromWriter)
        while True:
            raw = sock.recv(1 << 16)
            assert raw, "the writer ended without an answer"
            for answer in decoder.feed(raw):
                if isinstance(answer, Switched):
                    return answer


def copy_to_staging(data: Path) -> Path:
    """A copy of the store in use, beside it, while the server runs on it."""
    staged = stage(data)
    with lmdb.open(str(location(data)), readonly=True, max_dbs=8) as env:
        env.copy(str(staged))
    return staged


def keyring_of(server: Undercroft, data: Path) -> Keyring:
    store = Store.open(location(data), writable=False)
    with contextlib.closing(store), store.snapshot() as view:
        config = read_config(view)
        assert config is not None
        root_key = open_root_key(view, config, shamir.combine([parse_share(server.keys[0])]))
        return open_keyring(view, root_key).keyring(root_key)


def generation_of(path: Path) -> int:
    store = Store.open(path, writable=False)
    with contextlib.closing(store), store.snapshot() as view:
        return view.generation


def raise_generation(server: Undercroft, data: Path, staged: Path) -> None:
    """Both stores have the same generation, though they hold different configurations."""
    keyring = keyring_of(server, data)
    wanted = generation_of(location(data))
    store = Store.open(staged, writable=True)
    with contextlib.closing(store):
        store.set_keyring(keyring)
        while True:
            with store.snapshot() as view:
                if view.generation == wanted:
                    return
                assert view.generation < wanted
            batch = store.batch()
            tx = batch.transaction()
            tx.put(key(LOCAL, SYSTEM, "setting"), b"")
            batch.accept(tx)
            batch.commit()


def mount_kv(server: Undercroft, path: str) -> None:
    kv = {"type": "kv", "options": {"version": "2"}}
    assert server.client.request("POST", f"sys/mounts/{path}", kv).status == 204


def put(server: Undercroft, name: str, value: str) -> None:
    body = {"data": {"v": value}}
    assert server.client.request("POST", f"secret/data/{name}", body).status == 200


def is_done(server: Undercroft, writer: int) -> bool:
    """There is another writer, and it is unsealed: it writes. Each worker hears from it in turn."""
    if server.children().get("writer", writer) == writer:
        return False
    return server.client.request("POST", "auth/token/create", {}).status == 200


def files_in(data: Path) -> set[str]:
    """What lies there, but for the sockets between the node's processes."""
    return {path.name for path in data.iterdir() if not path.is_socket()}


def mapped_but_removed(server: Undercroft) -> list[str]:
    """Stores that are deleted while a process still maps them: their space is not free.

    The kernel shows it to root alone: nobody else may look into the server's processes.
    """
    if os.geteuid() != 0:
        return []
    return [
        line
        for pid in server.children().values()
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if "data.mdb" in line and "(deleted)" in line
    ]


def test_every_worker_serves_the_new_store_on_the_connections_it_had(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with disk_server(tmp_path, CONFIG) as server:
        mount_kv(server, "secret")
        put(server, "a", "before")
        staged = copy_to_staging(data)
        put(server, "a", "after")
        mount_kv(server, "late")
        raise_generation(server, data, staged)
        writer = server.children()["writer"]
        workers = {n: pid for n, pid in server.children().items() if n.startswith("worker")}
        with a_line_to_every_worker(server) as lines:
            assert {line.value("a") for line in lines} == {"after"}
            assert lines[0].ask("GET", "late/config")[0] == 200

            assert ask_writer(data, Switch(str(staged))) == Switched("store-2")
            until(lambda: is_done(server, writer), server)
            until(lambda: {line.value("a") for line in lines} == {"before"}, server)

            for line in lines:
                assert line.ask("GET", "sys/health")[0] == 200
                assert line.value("a") == "before"
                assert line.ask("GET", "late/config")[0] == 404  # no such mount
                assert line.ask("POST", "secret/data/b", {"data": {"v": line.port}})[0] == 200
                assert {other.value("b") for other in lines} == {line.port}
        assert workers.items() <= server.children().items()  # the very same processes
        assert files_in(data) == {"lock", "store", "store-2"}
        until(lambda: not mapped_but_removed(server), server)
        log = server.log.read_text()
        assert "switching to the new store" in log
        assert "a process has ended by itself and is started again" in log
        assert server.stop() == 0
        assert list(verify(data)) == []

        restart(server, tmp_path)
        with contextlib.closing(Line(server)) as line:
            assert (line.value("a"), line.value("b")) == ("before", lines[-1].port)


class Load:
    """Reads, writes and health, on lines of their own, until stopped; what was answered."""

    def __init__(self, lines: list[Line]) -> None:
        self.seen: Counter[tuple[str, int]] = Counter()
        self.failed: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(line,)) for line in lines]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, line: Line) -> None:
        try:
            while not self._stop.is_set():
                self._count("health", line.ask("GET", "sys/health")[0])
                self._count("read", line.ask("GET", "secret/data/a")[0])
                body = {"data": {"v": "load"}}
                self._count("write", line.ask("POST", f"secret/data/{line.port}", body)[0])
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(error)

    def _count(self, kind: str, status: int) -> None:
        self.seen[kind, status] += 1


def writes_done(load: Load) -> int:
    return load.seen["write", 200]


def test_during_a_switch_reads_and_health_go_on_and_writes_are_done_or_told_to_come_again(
    tmp_path: Path,
) -> None:
    trail = tmp_path / "audit.log"
    data = tmp_path / "data"
    with disk_server(tmp_path, CONFIG + AUDITED.format(path=trail)) as server:
        mount_kv(server, "secret")
        put(server, "a", "1")
        with a_line_to_every_worker(server) as lines, Load(lines) as load:
            for number in (2, 3, 4):
                until(lambda: writes_done(load) > 20, server)
                staged = copy_to_staging(data)
                writer = server.children()["writer"]
                assert ask_writer(data, Switch(str(staged))) == Switched(f"store-{number}")
                until(lambda writer=writer: is_done(server, writer), server)
                load.seen["write", 200] = 0
            until(lambda: writes_done(load) > 20, server)
        assert load.failed == []
        statuses = {kind: set[int]() for kind in ("health", "read", "write")}
        for kind, status in load.seen:
            statuses[kind].add(status)
        assert statuses["health"] == {200}
        assert statuses["read"] == {200}
        assert statuses["write"] <= {200, 503}
        assert "outcome is unknown" not in trail.read_text()


def test_a_writer_killed_right_after_the_switch_is_replaced_on_the_new_store(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with disk_server(tmp_path, CONFIG) as server:
        mount_kv(server, "secret")
        put(server, "a", "before")
        staged = copy_to_staging(data)
        put(server, "a", "after")
        writer = server.children()["writer"]
        assert ask_writer(data, Switch(str(staged))) == Switched("store-2")
        with contextlib.suppress(ProcessLookupError):
            os.kill(writer, signal.SIGKILL)
        until(lambda: is_done(server, writer), server)
        again = server.children()["writer"]
        os.kill(again, signal.SIGKILL)
        until(lambda: is_done(server, again), server)
        with a_line_to_every_worker(server) as lines:
            until(lambda: {line.value("a") for line in lines} == {"before"}, server)
        assert files_in(data) == {"lock", "store", "store-2"}


def test_a_server_killed_right_after_the_switch_starts_on_the_new_store(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with disk_server(tmp_path) as server:
        mount_kv(server, "secret")
        put(server, "a", "before")
        staged = copy_to_staging(data)
        put(server, "a", "after")
        ask_writer(data, Switch(str(staged)))
        server.kill()
        restart(server, tmp_path)
        with contextlib.closing(Line(server)) as line:
            assert line.value("a") == "before"


@pytest.mark.parametrize(("step", "served"), [("renamed", "after"), ("pointed", "before")])
def test_a_writer_killed_within_the_switch_is_replaced_on_the_old_store_or_on_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, served: str
) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("UNDERCROFT_FAULT", f"{step}:kill")
    with disk_server(tmp_path, CONFIG) as server:
        mount_kv(server, "secret")
        put(server, "a", "before")
        staged = copy_to_staging(data)
        put(server, "a", "after")
        writer = server.children()["writer"]
        with a_line_to_every_worker(server) as lines:
            with pytest.raises((AssertionError, ConnectionError)):  # it never answers
                ask_writer(data, Switch(str(staged)))
            until(lambda: is_done(server, writer), server)
            until(lambda: {line.value("a") for line in lines} == {served}, server)
            assert lines[0].ask("POST", "secret/data/b", {"data": {"v": "1"}})[0] == 200
        assert not staged.exists()
        assert server.stop() == 0
    assert list(verify(data)) == []


def test_a_switch_that_could_not_be_synced_is_gone_through_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pointer names the new store already: whoever starts now would open that one."""
    data = tmp_path / "data"
    monkeypatch.setenv("UNDERCROFT_FAULT", "pointed:error")
    with disk_server(tmp_path) as server:
        mount_kv(server, "secret")
        put(server, "a", "before")
        staged = copy_to_staging(data)
        put(server, "a", "after")
        writer = server.children()["writer"]
        assert ask_writer(data, Switch(str(staged))) == Switched("store-2")
        until(lambda: is_done(server, writer), server)
        with contextlib.closing(Line(server)) as line:
            until(lambda: line.value("a") == "before", server)


def test_threat_r_21_a_store_that_this_node_could_not_open_is_refused_and_nothing_changes(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with disk_server(tmp_path) as server:
        mount_kv(server, "secret")
        put(server, "a", "1")
        writer = server.children()["writer"]

        staged = stage(data)  # empty: not even a store
        refused = ask_writer(data, Switch(str(staged))).error
        assert refused is not None
        assert refused.kind == StorageFailed.__name__

        Store.open(staged, writable=True).close()  # a store, but of nobody
        refused = ask_writer(data, Switch(str(staged))).error
        assert refused is not None
        assert "does not open with the keys of this node" in refused.message

        discard_staging(data)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        copy_to_staging(data).joinpath("data.mdb").rename(elsewhere / "data.mdb")
        refused = ask_writer(data, Switch(str(elsewhere))).error
        assert refused is not None
        assert "is not the staging directory" in refused.message

        assert server.children()["writer"] == writer
        put(server, "a", "2")
        assert location(data) == data


def test_a_sealed_node_switches_to_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with disk_server(tmp_path) as server:
        staged = copy_to_staging(data)
        assert server.client.request("PUT", "sys/seal").status == 204
        refused = ask_writer(data, Switch(str(staged))).error
        assert refused is not None
        assert "sealed" in refused.message
        assert location(data) == data
