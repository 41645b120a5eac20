"""PostgreSQL 15 logical replication as a peer: the rate at which a subscriber catches up.

Two instances with the package's defaults (fsync on, and the apply worker's `synchronous_commit`
off, which is its default and an advantage; one setting is changed in its favour, see `_start`) in
directories of their own, on unix sockets only.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.replication import processor
from bench.replication.rows import Rate

BINARIES = Path("/usr/lib/postgresql/15/bin")
_USER = "postgres"  # the server refuses to run as root
_READY_SECONDS = 30.0
_VALUE = "substr(decode(repeat(md5(i::text), 20), 'hex'), 1, {bytes})"


def missing() -> str:
    """Why it cannot run here; empty when it can."""
    if not (BINARIES / "postgres").exists():
        return "apt-get install postgresql-15"
    return ""


@dataclass
class Instance:
    """A running server; `port` only names its socket."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    def sql(self, *commands: str) -> str:
        """Each command in a transaction of its own; what the last one answered.

        Raises RuntimeError with psql's words.
        """
        arguments = [str(BINARIES / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]
        arguments += ["-h", str(self.directory), "-p", str(self.port)]
        for command in commands:
            arguments += ["-c", command]
        done = subprocess.run(_as_user(arguments), capture_output=True, text=True, cwd="/")
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr}")
        return done.stdout.strip()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # "fast": does not wait for clients
        self.process.wait()


def _as_user(command: list[str]) -> list[str]:
    if os.getuid() != 0:
        return command
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", *command]


def _start(directory: Path, port: int) -> Instance:
    directory.mkdir()
    if os.getuid() == 0:
        shutil.chown(directory, _USER, _USER)
    data = directory / "data"
    made = [str(BINARIES / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8"]
    subprocess.run(_as_user(made), check=True, capture_output=True, cwd="/")
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(directory),
        "port": str(port),
        "wal_level": "logical",
        # By default the launcher waits up to 5 s before it starts an apply worker again, which
        # would be half of what is measured. It is the applying that is to be compared.
        "wal_retrieve_retry_interval": "50ms",
    }
    command = [str(BINARIES / "postgres"), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(_as_user(command), stdout=log, stderr=log, cwd="/")
    instance = Instance(directory, port, process)
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            instance.sql("SELECT 1")
            return instance
        except RuntimeError:
            if time.monotonic() > deadline or process.poll() is not None:
                text = (directory / "server.log").read_text()[-2000:]
                process.kill()
                raise RuntimeError(f"PostgreSQL did not come up:\n{text}") from None
            time.sleep(0.05)


@contextlib.contextmanager
def replicating(root: Path) -> Iterator["LogicalReplication"]:
    """A publisher and a subscriber whose subscription is made and disabled."""
    root.mkdir()
    root.chmod(0o755)
    with contextlib.ExitStack() as stack:
        publisher = _start(root / "publisher", 5501)
        stack.callback(publisher.stop)
        subscriber = _start(root / "subscriber", 5502)
        stack.callback(subscriber.stop)
        for instance in (publisher, subscriber):
            instance.sql("CREATE TABLE t (id bigserial PRIMARY KEY, v bytea)")
        publisher.sql("CREATE PUBLICATION p FOR TABLE t")
        subscriber.sql(
            "CREATE SUBSCRIPTION s CONNECTION "
            f"'host={publisher.directory} port={publisher.port} user={_USER} dbname=postgres' "
            "PUBLICATION p WITH (copy_data = false, enabled = false)"
        )
        yield LogicalReplication(publisher, subscriber)


@dataclass
class LogicalReplication:
    publisher: Instance
    subscriber: Instance

    def catch_up(self, commits: int, value_bytes: int) -> Rate:
        """Transactions of one row each that the subscriber takes in.

        They are written while the subscription is disabled; the time runs from the command that
        enables it until the last row is visible at the subscriber.
        """
        value = _VALUE.format(bytes=value_bytes)
        self.publisher.sql(
            "SET synchronous_commit = off",
            f"DO $$BEGIN FOR i IN 1..{commits} LOOP INSERT INTO t (v) VALUES ({value}); "
            "COMMIT; END LOOP; END$$",
            "CHECKPOINT",
        )
        last = int(self.publisher.sql("SELECT max(id) FROM t"))
        roots = (self.publisher.process.pid, self.subscriber.process.pid)
        used, began = processor.seconds(*roots), time.monotonic()
        self.subscriber.sql("ALTER SUBSCRIPTION s ENABLE")
        # one connection that polls: a psql for every look would cost more than the replication
        self.subscriber.sql(
            f"DO $$BEGIN WHILE coalesce((SELECT max(id) FROM t), 0) < {last} LOOP "
            "PERFORM pg_sleep(0.01); END LOOP; END$$"
        )
        took = time.monotonic() - began
        used = processor.seconds(*roots) - used
        self._check()
        self.subscriber.sql("ALTER SUBSCRIPTION s DISABLE")
        return Rate(commits / took, used / commits * 1e6)

    def _check(self) -> None:
        question = "SELECT count(*), sum(length(v)) FROM t"
        here, there = (i.sql(question) for i in (self.publisher, self.subscriber))
        if here != there:
            raise RuntimeError(f"the subscriber holds {there}, the publisher {here}")
