"""`undercroft demo`: one server on disk, shown at its main job, with a line for every step.

Everything runs for real: a process tree with TLS on a free port, requests over HTTPS, kill -9 in
the middle of writes. It needs nothing but this package and leaves nothing behind.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from undercroft.cli.certificates import Certificates, make_certificates

_READY_SECONDS: Final = 20.0
_POLICY: Final = """
path "secret/data/app/*" { capabilities = ["create", "read", "update"] }
"""
_WRITES_BEFORE_KILL: Final = 200


class _Client:
    def __init__(self, port: int, ca: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(ca))

    def call(self, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
        connection = http.client.HTTPSConnection(
            "localhost", self._port, context=self._context, timeout=10
        )
        with contextlib.closing(connection):
            headers = {"X-Vault-Token": token} if token else {}
            payload = None if body is None else json.dumps(body)
            connection.request(method, f"/v1/{path}", payload, headers)
            response = connection.getresponse()
            text = response.read()
        return response.status, json.loads(text) if text else None


class _Demo:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._certificates = make_certificates(directory)
        self._port = _free_port()
        self._client = _Client(self._port, self._certificates.ca)
        self._step = 0
        _write_config(directory, self._port, self._certificates)

    def run(self) -> int:
        say("Undercroft: one server, on disk, with TLS.\n")
        with self._server() as server:
            keys, root = self._initialize()
            self._unseal(keys)
            user = self._make_user(root)
            self._use(user)
            acknowledged = self._write_until_killed(user, server)
        with self._server():
            self._unseal(keys)
            self._verify(user, acknowledged)
        say("\nEvery acknowledged write survived kill -9. The demo's data has been removed.")
        return 0

    def step(self, text: str, result: str) -> None:
        self._step += 1
        say(f"{self._step:2}. {text:<62} {result}")

    @contextlib.contextmanager
    def _server(self) -> Iterator[subprocess.Popen[bytes]]:
        started = time.monotonic()
        log = (self._directory / "server.log").open("ab")
        command = [sys.executable, "-m", "undercroft", "server"]
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, f"-config={self._directory / 'undercroft.hcl'}"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            self._until_answering()
            took = (time.monotonic() - started) * 1000
            self.step("start the server", f"answers after {took:.0f} ms")
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.close()

    def _until_answering(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._client.call("GET", "sys/seal-status")
                return
            if time.monotonic() > deadline:
                log = (self._directory / "server.log").read_text()[-2000:]
                raise RuntimeError(f"the server did not start:\n{log}")
            time.sleep(0.01)

    def _expect(self, answer: tuple[int, Any], status: int) -> Any:
        if answer[0] != status:
            raise RuntimeError(f"expected status {status}, got {answer[0]}")
        return answer[1]

    def _initialize(self) -> tuple[list[str], str]:
        shape = {"secret_shares": 5, "secret_threshold": 3}
        made = self._expect(self._client.call("PUT", "sys/init", shape), 200)
        self.step("initialise: 5 key shares, any 3 open the seal", "sealed, root token issued")
        return made["keys_base64"], made["root_token"]

    def _unseal(self, keys: list[str]) -> None:
        for key in keys[:3]:
            status = self._expect(self._client.call("PUT", "sys/unseal", {"key": key}), 200)
        if status["sealed"]:
            raise RuntimeError("three of five shares did not open the seal")
        self.step("unseal with three shares", f"cluster {status['cluster_name']}")

    def _make_user(self, root: str) -> str:
        kv = {"type": "kv", "options": {"version": "2"}}
        self._expect(self._client.call("POST", "sys/mounts/secret", kv, root), 204)
        self._expect(
            self._client.call("PUT", "sys/policies/acl/app", {"policy": _POLICY}, root), 204
        )
        self._expect(
            self._client.call("POST", "sys/auth/userpass", {"type": "userpass"}, root), 204
        )
        password = os.urandom(12).hex()
        user = {"password": password, "token_policies": "app"}
        self._expect(self._client.call("POST", "auth/userpass/users/ada", user, root), 204)
        self.step("mount KV v2, write a policy, create the user ada", "done with the root token")
        login = {"password": password}
        made = self._expect(self._client.call("POST", "auth/userpass/login/ada", login), 200)
        auth = made["auth"]
        self.step("log in as ada", f"policies {', '.join(auth['policies'])}")
        token: str = auth["client_token"]
        return token

    def _use(self, user: str) -> None:
        secret = {"data": {"password": "correct horse"}}
        self._expect(self._client.call("POST", "secret/data/app/db", secret, user), 200)
        found = self._expect(self._client.call("GET", "secret/data/app/db", token=user), 200)
        version = found["data"]["metadata"]["version"]
        self.step("ada writes and reads secret/app/db", f"version {version}, as written")
        self._expect(self._client.call("GET", "secret/data/other", token=user), 403)
        self.step("ada reads outside her policy", "403 permission denied")

    def _write_until_killed(self, user: str, server: subprocess.Popen[bytes]) -> int:
        """Answers how many writes were acknowledged when the processes died."""
        acknowledged = 0
        enough = threading.Event()

        def kill() -> None:
            enough.wait()
            os.killpg(server.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                body = {"data": {"number": acknowledged + 1}}
                path = f"secret/data/app/n{acknowledged + 1}"
                if self._client.call("POST", path, body, user)[0] != 200:
                    break
                acknowledged += 1
                if acknowledged == _WRITES_BEFORE_KILL:
                    enough.set()
        killer.join()
        self.step("kill -9 of every process while ada writes", f"{acknowledged} acknowledged")
        return acknowledged

    def _verify(self, user: str, acknowledged: int) -> None:
        for number in range(1, acknowledged + 1):
            path = f"secret/data/app/n{number}"
            found = self._expect(self._client.call("GET", path, token=user), 200)
            if found["data"]["data"] != {"number": number}:
                raise RuntimeError(f"write {number} came back changed")
        self.step("read every acknowledged write, with the old token", f"all {acknowledged} there")


def say(text: str) -> None:
    print(text, flush=True)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _write_config(directory: Path, port: int, certificates: Certificates) -> None:
    cluster_port = port
    while cluster_port == port:
        cluster_port = _free_port()
    (directory / "undercroft.hcl").write_text(
        f"""
storage "lmdb" {{
  path = "{directory / "data"}"
}}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file   = "{certificates.certificate}"
  tls_key_file    = "{certificates.key}"
}}
"""
    )


def demo() -> int:
    with tempfile.TemporaryDirectory(prefix="undercroft-demo-") as directory:
        return _Demo(Path(directory)).run()
