"""`etcdctl make-mirror` as a peer: the rate at which a second etcd gets what the first one holds.

It copies one key after the other, each put acknowledged (and on disk) before the next. So fewer
keys than elsewhere are enough to know the rate.
"""

import base64
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.replication import processor
from bench.replication.rows import Rate
from bench.servers import free_port

_READY_SECONDS = 30.0
_OPERATIONS = 100  # in a transaction of the fill: etcd allows 128
_PREFIX = "fill/"
_AFTER = "fill0"  # the end of that range


def missing() -> str:
    """Why it cannot run here; empty when it can."""
    if shutil.which("etcd") is None or shutil.which("etcdctl") is None:
        return "apt-get install etcd-server etcd-client"
    return ""


@dataclass
class Etcd:
    """One member of its own, reached through its JSON gateway."""

    port: int
    process: subprocess.Popen[bytes]

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", f"/v3/{path}", json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"etcd: {path}: {answer.status} {text[:200]!r}")
        return dict(json.loads(text))

    def count(self) -> int:
        """Of the filled keys."""
        body = {"key": _encoded(_PREFIX), "range_end": _encoded(_AFTER), "count_only": True}
        return int(self.call("kv/range", body).get("count", 0))

    def fill(self, keys: int, value_bytes: int) -> None:
        for start in range(0, keys, _OPERATIONS):
            puts = [
                {
                    "requestPut": {
                        "key": _encoded(f"{_PREFIX}{number:08}"),
                        "value": base64.b64encode(os.urandom(value_bytes)).decode(),
                    }
                }
                for number in range(start, min(start + _OPERATIONS, keys))
            ]
            self.call("kv/txn", {"success": puts})

    def clear(self) -> None:
        self.call("kv/deleterange", {"key": _encoded(_PREFIX), "range_end": _encoded(_AFTER)})

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _start(directory: Path, name: str) -> Etcd:
    port, peer = free_port(), free_port()
    client_url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    command = ["etcd", "--name", name, "--data-dir", str(directory / name), "--logger", "zap"]
    command += ["--listen-client-urls", client_url, "--advertise-client-urls", client_url]
    command += ["--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url]
    command += ["--initial-cluster", f"{name}={peer_url}", "--log-level", "error"]
    with (directory / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    etcd = Etcd(port, process)
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            etcd.count()
            return etcd
        except (OSError, RuntimeError, http.client.HTTPException):
            if time.monotonic() > deadline or process.poll() is not None:
                etcd.stop()
                text = (directory / f"{name}.log").read_text()[-2000:]
                raise RuntimeError(f"etcd did not come up:\n{text}") from None
            time.sleep(0.05)


@contextlib.contextmanager
def mirrored(root: Path) -> Iterator["Mirror"]:
    """Two etcds; nothing mirrors yet."""
    root.mkdir()
    with contextlib.ExitStack() as stack:
        source = _start(root, "source")
        stack.callback(source.stop)
        target = _start(root, "target")
        stack.callback(target.stop)
        yield Mirror(source, target)


@dataclass
class Mirror:
    source: Etcd
    target: Etcd

    def catch_up(self, keys: int, value_bytes: int) -> Rate:
        """Keys, from the start of `make-mirror` until the target holds them all."""
        self.target.clear()
        self.source.clear()
        self.source.fill(keys, value_bytes)
        command = ["etcdctl", f"--endpoints=127.0.0.1:{self.source.port}", "make-mirror"]
        command += [
            "--prefix",
            _PREFIX,
            "--dest-insecure-transport",
            f"127.0.0.1:{self.target.port}",
        ]
        servers = (self.source.process.pid, self.target.process.pid)
        used, began = processor.seconds(*servers), time.monotonic()
        with subprocess.Popen(
            command,
            env={**os.environ, "ETCDCTL_API": "3"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as mirror:
            try:
                while self.target.count() < keys:
                    if mirror.poll() is not None:
                        raise RuntimeError(f"etcdctl make-mirror ended with {mirror.returncode}")
                    time.sleep(0.02)
                took = time.monotonic() - began
                used = processor.seconds(*servers, mirror.pid) - used
                return Rate(keys / took, used / keys * 1e6)
            finally:
                mirror.kill()
