"""One cluster of the demo: a process tree on disk with TLS, and ways to talk to it."""

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from undercroft.cli.certificates import Certificates

_READY_SECONDS: Final = 20.0


class DemoFailed(Exception):
    """A step did not come out as it should; the text says which."""


class Cluster:
    """`name` is for people. Unseals itself with a static key, so that it can be killed and come
    back without anyone at the keyboard.
    """

    def __init__(self, name: str, directory: Path, certificates: Certificates) -> None:
        self.name = name
        self.directory = directory
        self.ca = certificates.ca
        self.port, cluster_port = _free_ports(2)
        self.root_token = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._context = ssl.create_default_context(cafile=str(self.ca))
        directory.mkdir()
        self._config = directory / "undercroft.hcl"
        self._config.write_text(
            f"""
cluster_name = "{name}"
storage "lmdb" {{
  path = "{directory / "data"}"
}}
listener "tcp" {{
  address         = "127.0.0.1:{self.port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file   = "{certificates.certificate}"
  tls_key_file    = "{certificates.key}"
}}
seal "static" {{
  current_key_id = "demo"
  current_key    = "{os.urandom(32).hex()}"
}}
"""
        )

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    # life

    def start(self) -> float:
        """Until it answers; the seconds that took."""
        started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "undercroft", "server", f"-config={self._config}"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until(lambda: self.call("GET", "sys/health")[0] in (200, 501, 503), "answer")
        return time.monotonic() - started

    def initialize(self) -> None:
        self.root_token = self.expect(200, "PUT", "sys/init", {})["root_token"]
        self.until(lambda: self.call("GET", "sys/health")[0] == 200, "be unsealed")

    def kill(self) -> None:
        """kill -9, all processes at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def replicator(self) -> int:
        """The process that talks to other clusters."""
        assert self._process is not None
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().strip() != "uc:replicator":
                    continue
                if os.getpgid(int(entry.name)) == self._process.pid:
                    return int(entry.name)
        raise DemoFailed(f"{self.name} has no replicator")

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    # talking to it

    def call(
        self, method: str, path: str, body: Any = None, token: str | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self._context, timeout=20
        )
        with contextlib.closing(connection):
            token = self.root_token if token is None else token
            headers = {"X-Vault-Token": token} if token else {}
            payload = None if body is None else json.dumps(body)
            connection.request(method, f"/v1/{path}", payload, headers)
            response = connection.getresponse()
            text = response.read()
        return response.status, json.loads(text) if text else None

    def expect(
        self, status: int, method: str, path: str, body: Any = None, token: str | None = None
    ) -> Any:
        got, answer = self.call(method, path, body, token)
        if got != status:
            raise DemoFailed(f"{self.name}: {method} {path}: {got} instead of {status}: {answer}")
        return answer

    def client(self, token: str) -> Any:
        """An unmodified hvac client."""
        try:
            import hvac
        except ImportError:
            raise DemoFailed("the demo needs hvac: pip install 'undercroft[demo]'") from None
        return hvac.Client(url=self.address, token=token, verify=str(self.ca))

    def replication(self) -> dict[str, Any]:
        status = self.expect(200, "GET", "sys/replication/performance/status", token="")
        return dict(status["data"])

    def until(self, condition: Any, what: str, seconds: float = _READY_SECONDS) -> float:
        """Poll until it holds; the seconds that took."""
        started = time.monotonic()
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, DemoFailed):
                if condition():
                    return time.monotonic() - started
            if time.monotonic() - started > seconds:
                log = self.log.read_text()[-2000:]
                raise DemoFailed(f"{self.name} did not {what} within {seconds:.0f} s:\n{log}")
            time.sleep(0.01)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
