"""A person at a terminal: the command in a process of its own, behind a pseudo-terminal."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS = 20.0
ROOT = Path(__file__).parents[3]


class Person:
    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.shown = ""

    def sees(self, text: str, times: int = 1) -> None:
        """Reads on until the text has been shown so often."""
        deadline = time.monotonic() + SECONDS
        while self.shown.count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not shown:\n{self.shown!r}"
            if not self._read() and self.process.poll() is not None:
                raise AssertionError(f"{text!r} was not shown:\n{self.shown!r}")

    def types(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def presses_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def ends(self) -> int:
        """The exit code; what was printed at last is in `shown`."""
        code = self.process.wait(SECONDS)
        while self._read():
            pass
        return code

    def _read(self) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], 0.05)
        if not ready:
            return False
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # the other side is closed
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@contextlib.contextmanager
def at_terminal(*words: str, address: str, home: Path) -> Iterator[Person]:
    master, slave = pty.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT / "src"),
        "VAULT_ADDR": address,
        "VAULT_TOKEN": "t",
        "TERM": "xterm",
        "COLUMNS": "120",
        "LINES": "40",
    }
    # the first terminal that the leader of a session opens becomes the one whose Ctrl-C it gets
    opening = 'exec <>"$0" >&0 2>&0; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", opening, os.ttyname(slave), sys.executable, "-m", "undercroft", *words],
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        yield Person(process, master)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
        os.close(slave)
        os.close(master)
