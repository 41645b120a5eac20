"""A real OpenBao for the commands to talk to, and both commands with a home of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from undercroft.cli.main import main

ROOT = "root-of-the-oracle"
READY_SECONDS = 20.0


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Oracle:
    address: str
    bao: str
    unseal_key: str

    def run(self, *words: str, token: str = ROOT, home: Path, stdin: str = "") -> Ran:
        """The `bao` command against this server."""
        environment = {
            "BAO_ADDR": self.address,
            "BAO_TOKEN": token,
            "HOME": str(home),
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            [self.bao, *words],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    home = tmp_path_factory.mktemp("oracle")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    bao = str(Path(sys.executable).parent / "bao")
    log = home / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                bao,
                "server",
                "-dev",
                f"-dev-root-token-id={ROOT}",
                f"-dev-listen-address=127.0.0.1:{port}",
            ],
            env={"HOME": str(home), "PATH": os.environ["PATH"]},
            stdout=output,
            stderr=output,
        )
    try:
        yield Oracle(f"http://127.0.0.1:{port}", bao, _unseal_key(server, log))
    finally:
        server.terminate()
        server.wait(20)


def _unseal_key(server: subprocess.Popen[bytes], log: Path) -> str:
    """Printed when the server is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("Unseal Key: "):
                return line.removeprefix("Unseal Key: ").strip()
        time.sleep(0.05)
    raise RuntimeError(f"the oracle did not start:\n{log.read_text()}")


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Our command, in this process, with no environment but a home."""
    for name in list(os.environ):
        if name.startswith(("VAULT_", "BAO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def _run(*words: str, **environment: str) -> Ran:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = main(list(words))
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return _run
