"""A real Undercroft server for tests: a process tree on a free port, ended for sure."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_SECONDS = 20.0


@dataclass
class Answer:
    """What a server answered; `body` is decoded when it is JSON."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Client:
    """Requests to one address, one connection each, over plain HTTP or TLS with a given CA."""

    host: str
    port: int
    token: str = ""
    ca_file: Path | None = None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """`path` is below /v1/. `body`: JSON value, or bytes as they are. `token=""` sends none."""
        sent = dict(headers or {})
        token = self.token if token is None else token
        if token:
            sent["X-Vault-Token"] = token
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection: http.client.HTTPConnection
        if self.ca_file is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        else:
            context = ssl.create_default_context(cafile=str(self.ca_file))
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=30, context=context
            )
        with contextlib.closing(connection):
            connection.request(method, f"/v1/{path}", payload, sent)
            response = connection.getresponse()
            text = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
        kind = names.get("content-type", "")
        decoded = json.loads(text) if text and "json" in kind else text.decode()
        return Answer(response.status, names, decoded if text else None)


@dataclass
class Undercroft:
    """A running server. `client` carries the root token once there is one."""

    process: subprocess.Popen[bytes]
    client: Client
    log: Path
    keys: list[str] = field(default_factory=list)

    def children(self) -> dict[str, int]:
        """Pids by process name, as the log and `ps` show them: writer, worker-0 …"""
        found: dict[str, int] = {}
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in map(int, tasks.split()):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            found[name.removeprefix("uc:")] = pid
        return found

    def kill(self) -> None:
        """kill -9 of every process of the server at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=30)

    def unseal(self) -> None:
        for key in self.keys:
            answer = self.client.request("PUT", "sys/unseal", {"key": key})
            assert answer.status == 200, answer
        until(lambda: self.client.request("GET", "sys/health").status == 200, self)


_given_ports: set[int] = set()


def free_port() -> int:
    """A port below those that the kernel gives out by itself, so that no client takes it first;
    never one twice, nor one of those that tests in a process beside this one are given.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.randrange(10_240 + mine, 32_000, workers)
        if port in _given_ports:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            _given_ports.add(port)
            return port


def until(
    condition: Any, server: "Undercroft | None" = None, seconds: float = READY_SECONDS
) -> None:
    """Poll until the condition holds; fails with the server's log when it never does."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        ended = server is not None and server.process.poll() is not None
        if ended or time.monotonic() > deadline:
            log = server.log.read_text()[-4000:] if server is not None else ""
            raise AssertionError(f"not reached in {seconds} s\n{log}")
        time.sleep(0.01)


def start(
    arguments: list[str], directory: Path, port: int, token: str = "", within: tuple[str, ...] = ()
) -> Undercroft:
    """Start `undercroft server …` without waiting for it; `within`: words before that command."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "BAO_"))}
    log = directory / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*within, sys.executable, "-m", "undercroft", "server", *arguments],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    return Undercroft(process, Client("127.0.0.1", port, token), log)


@contextlib.contextmanager
def dev_server(directory: Path, *more: str) -> Iterator[Undercroft]:
    """`server -dev` with the root token `root`."""
    port = free_port()
    arguments = ["-dev", "-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{port}", *more]
    server = start(arguments, directory, port, "root")
    try:
        until(lambda: server.client.request("GET", "sys/health").status == 200, server)
        yield server
    finally:
        server.kill()


def write_config(directory: Path, port: int, more: str = "") -> Path:
    """A configuration with durable storage in `directory`, without TLS."""
    data = directory / "data"
    data.mkdir(exist_ok=True)
    config = directory / "undercroft.hcl"
    config.write_text(
        f"""
storage "lmdb" {{
  path = "{data}"
}}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{free_port()}"
  tls_disable     = true
}}
{more}
"""
    )
    return config


@contextlib.contextmanager
def disk_server(
    directory: Path, more: str = "", *, shares: int = 1, within: tuple[str, ...] = ()
) -> Iterator[Undercroft]:
    """A server on disk, initialised and unsealed."""
    port = free_port()
    config = write_config(directory, port, more)
    server = start([f"-config={config}"], directory, port, within=within)
    try:
        initialize(server, shares)
        yield server
    finally:
        server.kill()


def initialize(server: Undercroft, shares: int = 1) -> None:
    client = server.client
    until(lambda: client.request("GET", "sys/seal-status").status == 200, server)
    made = client.request("PUT", "sys/init", {"secret_shares": shares, "secret_threshold": shares})
    assert made.status == 200, made
    client.token = made.body["root_token"]
    server.keys = made.body["keys_base64"]
    server.unseal()


def restart(server: Undercroft, directory: Path) -> None:
    """The same data, port and keys again, after `kill` or `stop`; unsealed."""
    config = directory / "undercroft.hcl"
    again = start([f"-config={config}"], directory, server.client.port)
    server.process = again.process
    until(lambda: server.client.request("GET", "sys/seal-status").status == 200, server)
    server.unseal()
