"""`undercroft replication` against two real clusters, from set-up to the end of the set."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.replication.pair import log_in, prepare
from tests.support.undercroft import Undercroft, disk_server, until

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 60


@dataclass
class Shell:
    """The command with one cluster's address and token."""

    server: Undercroft

    def fails(self, *words: str, stdin: str = "") -> str:
        done = self._run(words, stdin)
        assert done.returncode in (1, 2), done
        return done.stderr

    def does(self, *words: str, stdin: str = "") -> str:
        done = self._run(words, stdin)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.does("status", "-format=json"))["performance"])

    def environment(self) -> dict[str, str]:
        client = self.server.client
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": "/nonexistent",
            "VAULT_ADDR": f"http://{client.host}:{client.port}",
            "VAULT_TOKEN": client.token,
        }

    def _run(self, words: tuple[str, ...], stdin: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "undercroft", "replication", *words],
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[tuple[Shell, Shell]]:
    """Two that do not replicate yet; the first has kv1/."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with disk_server(tmp_path / "first") as one, disk_server(tmp_path / "second") as other:
        prepare(one.client)
        yield Shell(one), Shell(other)


def joined(first: Shell, second: Shell) -> None:
    token = first.does("secondary-token", "-field=wrapping_token", "-ttl=5m", "osaka")
    second.does("enable-secondary", "-yes", "-", stdin=token)
    log_in(second.server.client)


def test_when_enable_secondary_returns_the_secondary_streams(
    clusters: tuple[Shell, Shell],
) -> None:
    first, second = clusters
    assert first.does("enable-primary") == "Success! This cluster is a primary.\n"
    told = second.fails("enable-secondary", "TOKEN")
    assert "there is no terminal to ask for it; nothing was done" in told
    assert second.status() == {"mode": "disabled"}
    joined(first, second)
    status = second.status()
    assert (status["mode"], status["state"]) == ("secondary", "stream-wals")
    until(lambda: "osaka        follows the log as it is written" in first.does("status"))
    assert "Connection                 connected" in second.does("status").splitlines()


def test_a_token_may_be_sealed_for_a_key_of_the_secondary(clusters: tuple[Shell, Shell]) -> None:
    first, second = clusters
    first.does("enable-primary")
    key = second.does("generate-public-key", "-field=secondary_public_key")
    token = first.does("secondary-token", "-field=token", f"-public-key={key}", "osaka")
    second.does("enable-secondary", "-yes", "-", stdin=token)
    assert second.status()["secondary_id"] == "osaka"


def test_what_a_secondary_may_is_said_with_its_token(clusters: tuple[Shell, Shell]) -> None:
    first, second = clusters
    first.does("enable-primary")
    may = ("-promotable=false", "-policy-ceiling=some,default")
    token = first.does("secondary-token", "-field=wrapping_token", *may, "osaka")
    second.does("enable-secondary", "-yes", "-", stdin=token)
    log_in(second.server.client)  # with the policy `all`, which is above the ceiling
    refused = second.server.client.request("POST", "kv1/above", {"v": 1})
    assert refused.status == 403
    assert "promot" in second.fails("promote", "-yes", "-timeout=1s")
    assert first.status()["mode"] == "primary"
    assert first.server.client.request("POST", "kv1/on", {"v": 1}).status == 204


def test_a_filtered_secondary_is_listed_and_may_not_take_over(
    clusters: tuple[Shell, Shell],
) -> None:
    first, second = clusters
    first.does("enable-primary")
    first.does("filter", "write", "-mode=deny", "osaka", "kv1/")
    joined(first, second)
    assert first.does("filter", "list").splitlines()[-1] == "osaka        deny    kv1/"
    assert json.loads(first.does("filter", "read", "-field=paths", "-format=json", "osaka")) == [
        "kv1/"
    ]
    assert "this secondary has a path filter" in second.fails("promote", "-yes")
    told = first.fails("filter", "delete", "osaka")
    assert "everything but kv1/" in told
    assert "nothing was done" in told
    assert "kv1/" in first.does("filter", "list")
    first.does("filter", "delete", "-yes", "osaka")
    assert "it has everything" in first.fails("filter", "read", "osaka")


def test_a_drills_write_is_set_aside_and_restored_after_a_switchover(
    clusters: tuple[Shell, Shell],
) -> None:
    first, second = clusters
    first.does("enable-primary")
    joined(first, second)
    assert second.does("quarantine", "list") == "Nothing is in quarantine.\n"

    # the drill
    second.does("update-primary", "")
    assert "secondary, detached: it follows no primary" in second.does("status")
    assert "This cluster is the primary." in second.does("promote", "-yes")
    written = second.server.client.request("POST", "kv1/drill", {"done": "yes"})
    assert written.status == 204
    second.does("demote", "-yes")

    # back to where it came from
    first.does("revoke", "-yes", "osaka")
    token = first.does("secondary-token", "-field=wrapping_token", "osaka")
    second.does("update-primary", "-", stdin=token)
    until(lambda: second.status()["state"] == "stream-wals", second.server)
    listed = json.loads(second.does("quarantine", "list", "-format=json"))["data"]["key_info"]
    (drill,) = (entry for entry, info in listed.items() if info["mount"] == "kv1/")
    (lineage,) = (entry for entry, info in listed.items() if info["mount"] == "sys/")
    assert "map[done:yes]" in second.does("quarantine", "read", drill)
    assert "a secondary cannot restore" in second.fails("quarantine", "restore", drill)
    second.does("quarantine", "discard", "-yes", lineage)

    # the switchover
    second.does("promote", "-yes")
    until(lambda: "primary, fenced" in first.does("status"), first.server)
    second.does("quarantine", "restore", drill)
    assert second.does("quarantine", "list") == "Nothing is in quarantine.\n"
    first.does("demote", "-yes")
    token = second.does("secondary-token", "-field=wrapping_token", "lisbon")
    first.does("update-primary", "-", stdin=token)
    until(lambda: first.status()["state"] == "stream-wals", first.server)
    assert first.server.client.request("GET", "kv1/drill").body["data"] == {"done": "yes"}


def test_disable_ends_the_set_on_either_side(clusters: tuple[Shell, Shell]) -> None:
    first, second = clusters
    first.does("enable-primary")
    joined(first, second)
    assert "this cluster is no primary" in second.fails("disable", "-yes", "primary")
    second.does("disable", "-yes")
    first.does("disable", "-yes", "primary")
    assert first.status() == second.status() == {"mode": "disabled"}


def test_a_watch_of_real_clusters_shows_what_goes_by(clusters: tuple[Shell, Shell]) -> None:
    first, second = clusters
    first.does("enable-primary")
    joined(first, second)
    process = subprocess.Popen(
        [sys.executable, "-m", "undercroft", "replication", "watch", "-interval=0.2"],
        env=second.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pace = "-"
    for count, line in enumerate(process.stdout):
        name, *cells = line.split() or [""]
        pace = cells[3] if name == "osaka" else "-"
        if pace not in ("-", "0.0"):
            break
        assert count < 500, "no look shows a pace"
        first.server.client.request("POST", "kv1/w", {"n": count})
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=COMMAND_SECONDS)
    assert process.returncode == 0
    assert float(pace) > 0
