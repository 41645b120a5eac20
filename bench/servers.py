"""Start the two servers that are compared, each on a directory of its own.

Both get durable storage (OpenBao: raft, its only durable one), one key share, KV v2 at `secret/`,
KV v1 at `kv1/` and a token bound to a policy; TLS and the file audit are on or off for both.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = """
path "secret/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "kv1/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "auth/token/create" { capabilities = ["update"] }
"""


@dataclass
class Server:
    """A running, unsealed server."""

    name: str
    port: int
    tls: bool
    process: subprocess.Popen[bytes]
    directory: Path
    token: str = ""  # of a user with POLICY
    root_token: str = ""
    unseal_key: bytes = b""

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        """One request; the decoded answer. Raises RuntimeError for a status of 400 or more."""
        connection: http.client.HTTPConnection
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
        payload = None if body is None else json.dumps(body)
        headers = {"X-Vault-Token": token or self.root_token}
        connection.request(method, f"/v1/{path}", payload, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {text[:200]!r}")
        return json.loads(text) if text else None

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def start_sealed(self) -> None:
        """Start again after `stop`, up to where it wants its key."""
        self.process = start(self.name, self.directory)
        _until(self, lambda: self.call("GET", "sys/seal-status"), pause=0.005)

    def restart_seconds(self) -> float:
        """Stop, start again, unseal; seconds from the start to the first healthy answer."""
        self.stop()
        began = time.monotonic()
        self.start_sealed()
        self.call("PUT", "sys/unseal", {"key": self.unseal_key.hex()})
        _until(self, lambda: self.call("GET", "sys/health"), pause=0.005)
        return time.monotonic() - began

    def pss_kib(self) -> int:
        """Memory of all its processes together, shared pages counted once."""
        total = 0
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total


def descendants(pid: int) -> list[int]:
    """The process and all below it that live; some may end while this looks."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            for child in children:
                found += descendants(int(child))
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _certificate(directory: Path) -> tuple[Path, Path]:
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key)]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def _config(
    name: str, directory: Path, port: int, cluster: int, tls: bool, audit: bool, more: str
) -> str:
    data = directory / "data"
    data.mkdir()
    if name == "openbao":
        storage = f'storage "raft" {{ path = "{data}" node_id = "bench" }}'
    else:
        storage = f'storage "lmdb" {{ path = "{data}" }}'
    if tls:
        cert, key = _certificate(directory)
        security = f'tls_cert_file = "{cert}" tls_key_file = "{key}"'
    else:
        security = "tls_disable = true"
    lines = [
        storage,
        f'listener "tcp" {{ address = "127.0.0.1:{port}" '
        f'cluster_address = "127.0.0.1:{cluster}" {security} }}',
        f'api_addr = "{"https" if tls else "http"}://127.0.0.1:{port}"',
        f'cluster_addr = "https://127.0.0.1:{cluster}"',
        'log_level = "error"',
    ]
    if audit:
        path = directory / "audit.log"
        lines.append(f'audit "file" "file" {{ options {{ file_path = "{path}" }} }}')
    text = "\n".join(lines).replace("{ ", "{\n").replace(" }", "\n}").replace('" ', '"\n')
    return f"{text}\n{more}\n"


def _binary(name: str) -> list[str]:
    if name == "openbao":
        beside = Path(sys.executable).parent / "bao"
        return [str(beside if beside.exists() else shutil.which("bao"))]
    return [sys.executable, "-m", "undercroft"]


@contextlib.contextmanager
def running(
    name: str, directory: Path, *, tls: bool, audit: bool, more: str = ""
) -> Iterator[Server]:
    """An initialised, unsealed server `openbao` or `undercroft` with the mounts above.

    `more` is HCL that is added to its configuration.
    """
    directory.mkdir(parents=True)
    port, cluster = free_port(), free_port()
    while cluster == port:
        cluster = free_port()
    config = directory / "config.hcl"
    config.write_text(_config(name, directory, port, cluster, tls, audit, more))
    server = Server(name, port, tls, start(name, directory), directory)
    try:
        _prepare(server)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def start(name: str, directory: Path) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "BAO_"))}
    with (directory / "server.log").open("ab") as log:
        return subprocess.Popen(
            [*_binary(name), "server", f"-config={directory / 'config.hcl'}"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _prepare(server: Server) -> None:
    _until(server, lambda: server.call("GET", "sys/seal-status"))
    made = server.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
    server.root_token = made["root_token"]
    server.unseal_key = bytes.fromhex(made["keys"][0])
    server.call("PUT", "sys/unseal", {"key": made["keys"][0]})
    _until(server, lambda: server.call("GET", "sys/health"))
    _until(
        server,
        lambda: server.call(
            "POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}}
        ),
    )
    server.call("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
    server.call("PUT", "sys/policies/acl/bench", {"policy": POLICY})
    made = server.call("POST", "auth/token/create", {"policies": ["bench"], "ttl": "24h"})
    server.token = made["auth"]["client_token"]
    _until(server, lambda: server.call("POST", "secret/data/bench", {"data": {"a": "x" * 64}}))
    server.call("POST", "kv1/bench", {"a": "x" * 64})


def _until(server: Server, attempt: Any, seconds: float = 20.0, pause: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            attempt()
            return
        except (OSError, RuntimeError, http.client.HTTPException):
            if time.monotonic() > deadline or server.process.poll() is not None:
                log = (server.directory / "server.log").read_text()[-2000:]
                raise RuntimeError(f"{server.name} did not come up:\n{log}") from None
            time.sleep(pause)
