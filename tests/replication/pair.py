"""Two real clusters that replicate, for the tests of this folder."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.undercroft import Client, Undercroft, disk_server, until

STATUS = "sys/replication/performance/status"
ALL = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "patch", "sudo"] }'


def status(client: Client) -> dict[str, Any]:
    return dict(client.request("GET", STATUS).body["data"])


def child_of(server: Undercroft, name: str) -> int:
    """A process of the node, by its name in the process table."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text().strip() == name:
                parent = re.search(r"^PPid:\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)
                if parent and int(parent[1]) == server.process.pid:
                    return int(entry.name)
    raise AssertionError(f"no {name}")


def replicator_of(server: Undercroft) -> int:
    """The process that talks to other clusters."""
    return child_of(server, "uc:replicator")


@dataclass
class Pair:
    """`secondary` is logged in through the replicated userpass."""

    primary_server: Undercroft
    secondary_server: Undercroft

    @property
    def primary(self) -> Client:
        return self.primary_server.client

    @property
    def secondary(self) -> Client:
        return self.secondary_server.client

    def caught_up(self) -> bool:
        one, other = status(self.primary), status(self.secondary)
        return bool(
            other["state"] == "stream-wals"
            and other["last_remote_wal"] == one["last_performance_wal"]
            and other["merkle_root"] == one["merkle_root"]
            and other["merkle_root_wal"] == one["merkle_root_wal"] == other["last_remote_wal"]
        )

    @contextlib.contextmanager
    def secondary_cut_off(self) -> Iterator[None]:
        """Its replicator stands still and hears nothing; the rest of the node works."""
        pid = replicator_of(self.primary_server)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def prepare(primary: Client) -> None:
    """What the tests write to, and who may."""
    for path, body in (
        ("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}),
        ("sys/mounts/kv1", {"type": "kv"}),
        ("sys/auth/userpass", {"type": "userpass"}),
        ("sys/policies/acl/all", {"policy": ALL}),
        ("auth/userpass/users/ann", {"password": "pw", "token_policies": "all"}),
    ):
        assert primary.request("POST", path, body).status in (200, 204), path


def log_in(client: Client) -> None:
    answer = client.request("POST", "auth/userpass/login/ann", {"password": "pw"}, token="")
    assert answer.status == 200, answer
    client.token = answer.body["auth"]["client_token"]


def join(primary: Client, secondary_server: Undercroft, secondary_id: str, **more: Any) -> None:
    """Activate and wait until it streams; then log in there."""
    secondary = secondary_server.client
    made = primary.request(
        "POST", "sys/replication/performance/primary/secondary-token", {"id": secondary_id, **more}
    )
    assert made.status == 200, made
    enabled = secondary.request(
        "POST",
        "sys/replication/performance/secondary/enable",
        {"token": made.body["wrap_info"]["token"]},
    )
    assert enabled.status == 200, enabled
    until(lambda: status(secondary).get("state") == "stream-wals", secondary_server)
    log_in(secondary)


@contextlib.contextmanager
def replicating_pair(directory: Path, more: str = "") -> Iterator[Pair]:
    for name in ("primary", "secondary"):
        (directory / name).mkdir()
    with (
        disk_server(directory / "primary", more) as primary,
        disk_server(directory / "secondary", more) as secondary,
    ):
        prepare(primary.client)
        enabled = primary.client.request("POST", "sys/replication/performance/primary/enable")
        assert enabled.status == 200, enabled
        join(primary.client, secondary, "osaka")
        yield Pair(primary, secondary)
