"""Clusters of a replication set, as real server processes on disk with the cluster port's own TLS.

The API port speaks plain HTTP: clients' TLS costs the same with and without replication.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.scale import unsealed_store
from bench.servers import Server, running
from undercroft.request.mounts import MountTable
from undercroft.storage.view import Space

VALUE_BYTES = 300
_SET = "sys/replication/performance"
_ALL = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
_LOGIN = {"password": "bench"}
_FILL_BATCH = 2_000


def body(size: int = VALUE_BYTES) -> bytes:
    """A secret whose stored value has `size` bytes; no two are alike."""
    text = os.urandom(size // 2).hex()
    return b'{"a":"' + text[: size - len('{"a":""}')].encode() + b'"}'


@dataclass
class Cluster:
    """One member. `server.root_token` is a token that may do anything, in either role."""

    server: Server

    def status(self) -> dict[str, Any]:
        return dict(self.server.call("GET", f"{_SET}/status")["data"])

    def enable_primary(self) -> None:
        """With a user that can log in at every member; returns once it is primary."""
        call = self.server.call
        call("POST", "sys/auth/userpass", {"type": "userpass"})
        call("PUT", "sys/policies/acl/all", {"policy": _ALL})
        call("POST", "auth/userpass/users/bench", {**_LOGIN, "token_policies": "all"})
        call("POST", f"{_SET}/primary/enable", {})
        wait_for(lambda: self.status()["mode"] == "primary", "the primary")

    def activation_token(self, secondary_id: str) -> str:
        made = self.server.call("POST", f"{_SET}/primary/secondary-token", {"id": secondary_id})
        return str(made["wrap_info"]["token"])

    def enable_secondary(self, token: str) -> None:
        """Only asks for it: the copy is made in the background."""
        self.server.call("POST", f"{_SET}/secondary/enable", {"token": token})

    def log_in(self) -> None:
        made = self.server.call("POST", "auth/userpass/login/bench", _LOGIN, token="none")
        self.server.root_token = made["auth"]["client_token"]

    def detach(self) -> None:
        self.server.call("POST", f"{_SET}/secondary/update-primary", {"token": ""})

    def follow(self, token: str) -> None:
        self.server.call("POST", f"{_SET}/secondary/update-primary", {"token": token})

    def promote(self) -> None:
        """Until it is accepted: 503 means to ask again."""
        succeed(lambda: self.server.call("POST", f"{_SET}/secondary/promote", {}), "the promotion")

    def kill(self) -> None:
        """All processes at once, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()

    def fill(self, entries: int) -> None:
        """`entries` KV v1 keys `kv1/fill/N`, written into the store while the server is down."""
        server = self.server
        server.stop()
        store = unsealed_store(server, server.unseal_key)
        with store.snapshot() as view:
            mount = MountTable().table(view).mounts["kv1/"]
        for begin in range(0, entries, _FILL_BATCH):
            batch = store.batch()
            tx = batch.transaction()
            space = Space(tx, mount.keyspace, mount.id)
            for number in range(begin, min(begin + _FILL_BATCH, entries)):
                space.put(f"d/fill/{number}", body())
            batch.accept(tx)
            batch.commit()
        store.close()
        server.start_sealed()
        self.unseal()

    def unseal(self) -> None:
        self.server.call("PUT", "sys/unseal", {"key": self.server.unseal_key.hex()})
        succeed(lambda: self.server.call("GET", "sys/health"), "the unsealing")


@dataclass
class Pair:
    primary: Cluster
    secondary: Cluster

    def level(self) -> bool:
        """The secondary streams, and nothing is on its way. For a primary nobody writes to."""
        one, other = self.primary.status(), self.secondary.status()
        return bool(
            other.get("state") == "stream-wals"
            and other["last_remote_wal"] == one["last_performance_wal"]
            and other["merkle_root"] == one["merkle_root"]
            and other["merkle_root_wal"] == one["merkle_root_wal"] == other["last_remote_wal"]
        )

    def wire_bytes(self) -> int:
        """Of the session that stands, both ways, TLS included, as the kernel counts them."""
        port = self.secondary.status()["known_primary_cluster_addrs"][0].rpartition(":")[2]
        command = ["ss", "-tinH", "state", "established", f"( dport = :{port} )"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return sum(map(int, re.findall(r"bytes_(?:sent|received):(\d+)", text)))


@contextlib.contextmanager
def cluster(directory: Path, more: str = "") -> Iterator[Cluster]:
    """A server of its own that replicates nothing yet; `more` is added to its configuration."""
    with running("undercroft", directory, tls=False, audit=False, more=more) as server:
        yield Cluster(server)


@contextlib.contextmanager
def replicating(root: Path, more: str = "") -> Iterator[Pair]:
    """A primary and a secondary that follows it."""
    with cluster(root / "primary", more) as primary, cluster(root / "secondary", more) as secondary:
        primary.enable_primary()
        join(primary, secondary, "osaka")
        yield Pair(primary, secondary)


def join(primary: Cluster, secondary: Cluster, secondary_id: str) -> None:
    """Activate it, wait until it streams, and log in there."""
    secondary.enable_secondary(primary.activation_token(secondary_id))
    wait_for(lambda: secondary.status().get("state") == "stream-wals", "the first copy")
    succeed(secondary.log_in, "the login at the secondary")


def wait_for(
    condition: Callable[[], bool], what: str, seconds: float = 60.0, pause: float = 0.005
) -> None:
    """Poll; refusals count as "not yet". Raises RuntimeError with the last of them."""
    deadline = time.monotonic() + seconds
    last = ""
    while True:
        try:
            if condition():
                return
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            last = f": {error}"
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not reached in {seconds:.0f} s{last}")
        time.sleep(pause)


def succeed(action: Callable[[], object], what: str) -> None:
    """Again until it is not refused."""

    def done() -> bool:
        action()
        return True

    wait_for(done, what)


class StatusPoll:
    """The open status over one connection that stays: cheap enough to ask every 10 ms."""

    def __init__(self, cluster: Cluster) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", cluster.server.port, timeout=30)
        self.states: list[str] = []  # as they came, each once in a row

    def __call__(self) -> dict[str, Any]:
        self._connection.request("GET", f"/v1/{_SET}/status")
        answer = self._connection.getresponse()
        text = answer.read()
        data = dict(json.loads(text)["data"] or {}) if answer.status == 200 else {}
        state = data.get("state", "")
        if state and (not self.states or self.states[-1] != state):
            self.states.append(state)
        return data

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        """The first status for which it holds. Raises RuntimeError with the last one."""
        deadline = time.monotonic() + seconds
        found: dict[str, Any] = {}
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                found = self()
                if found and condition(found):
                    return found
            if time.monotonic() > deadline:
                raise RuntimeError(f"not reached in {seconds:.0f} s: {found}")
            time.sleep(0.01)
