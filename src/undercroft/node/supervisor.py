"""The supervisor: takes the data directory and the ports, starts the processes, keeps them alive.

It does no work of its own, so there is little that could end it; when it ends all the same, its
children end with it (PR_SET_PDEATHSIG). Everything that must outlive a child is made here and
inherited: the lock on the data directory, the listening sockets (no connection is lost while a
process is replaced) and the shared memory of the metrics.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from undercroft.barrier.process import die_with_parent, harden, set_name
from undercroft.config import Settings
from undercroft.observe import logs
from undercroft.observe.metrics import Metrics

log = logs.get_logger("supervisor")

DRAIN_SECONDS: Final = 10.0  # what a SIGTERM gives to requests in flight
_RESTART_FIRST_SECONDS: Final = 0.05
_RESTART_MAX_SECONDS: Final = 2.0
_STABLE_SECONDS: Final = 0.2  # a child that lived this long restarts without delay
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass
class Child:
    """One process of the node and what is needed to start it again."""

    name: str
    main: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    restart_at: float = 0.0
    delay: float = _RESTART_FIRST_SECONDS
    ended_by: int = 0  # the signal that the process before died of


class Supervisor:
    """Runs `children` until it is told to stop. Signals are taken synchronously, one at a time."""

    def __init__(
        self, children: list[Child], on_reload: Callable[[], None], metrics: Metrics | None
    ) -> None:
        self._children = children  # in the order of starting; stopped in reverse
        self._on_reload = on_reload
        self._metrics = metrics
        self._stopping = False

    def run(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        gc.collect()
        gc.freeze()  # what is loaded now stays shared with the children, page by page
        for child in self._children:
            self._start(child)
        while not self._stopping:
            self._restart_due()
            info = signal.sigtimedwait(_SIGNALS, self._pause_seconds())
            if info is None:
                continue
            if info.si_signo == signal.SIGCHLD:
                self._reap()
            elif info.si_signo == signal.SIGHUP:
                log.info("reloading certificates, log level and audit files")
                self._on_reload()
                self._signal_all(signal.SIGHUP)
            else:
                log.info("stopping", signal=signal.Signals(info.si_signo).name)
                self._stopping = True
        return self._stop()

    def _start(self, child: Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _child_main(child)
        child.pid, child.started, child.restart_at = pid, time.monotonic(), 0.0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children:
                if child.pid == pid:
                    self._ended(child, status)

    def _ended(self, child: Child, status: int) -> None:
        child.pid = 0
        if self._stopping:
            return
        now = time.monotonic()
        stable = now - child.started >= _STABLE_SECONDS
        child.delay = (
            _RESTART_FIRST_SECONDS if stable else min(child.delay * 2, _RESTART_MAX_SECONDS)
        )
        child.restart_at = now + child.delay
        code = os.waitstatus_to_exitcode(status)
        child.ended_by = max(0, -code)
        if code == 0:  # in good order: the writer has switched to another store
            child.restart_at = now if stable else child.restart_at
            log.info("a process has ended by itself and is started again", process=child.name)
            return
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.error("a process ended and is started again", process=child.name, reason=why)
        if self._metrics is not None:
            self._metrics.count("undercroft.process.restarts")

    def _restart_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.pid == 0 and child.restart_at <= now:
                self._start(child)

    def _pause_seconds(self) -> float:
        waits = [c.restart_at - time.monotonic() for c in self._children if c.pid == 0]
        return max(0.0, min(waits, default=3600.0))

    def _signal_all(self, number: int) -> None:
        for child in self._children:
            if child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    def _stop(self) -> int:
        """Workers first, so that what they have in flight still finds the writer."""
        for child in reversed(self._children):
            if child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM)
            self._await_end(child)
        log.info("stopped")
        return 0

    def _await_end(self, child: Child) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS + 2
        while child.pid:
            self._reap()
            if child.pid == 0:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                log.warn("a process did not stop in time and is killed", process=child.name)
                os.kill(child.pid, signal.SIGKILL)
                deadline = time.monotonic() + 5
            signal.sigtimedwait((signal.SIGCHLD,), max(0.0, min(left, 0.2)))


def _child_main(child: Child) -> NoReturn:
    """In the new process: never return into the supervisor's code."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        die_with_parent()
        harden()
        logs.set_process(child.name)
        set_name(f"uc:{child.name}")
        child.main()
        code = 0
    except BaseException as error:
        log.exception("a process failed", error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def listen(address: str, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address, one a worker; the kernel spreads connections.

    A plain bind comes first: with SO_REUSEPORT alone a second server would silently share the port.
    Raises OSError.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "0.0.0.0"  # noqa: S104 - what an address without host means
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
        probe.listen(1)  # bind alone does not clash with a listener that also reuses addresses
    sockets = []
    for _ in range(count):
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, int(port)))
        sock.listen(1024)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def listen_unix(directory: Path, name: str) -> tuple[socket.socket, str]:
    """The writer's socket in the data directory, and a path to it that is never too long.

    A Unix socket's path may have 108 bytes, a data directory's more: children reach it through
    their inherited descriptor of the directory.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)
    path = f"/proc/self/fd/{descriptor}/{name}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(mask)
    sock.listen(128)
    sock.setblocking(False)
    return sock, path


def worker_count(settings: Settings) -> int:
    """As configured; by default one up to two cores, then one a core less one for the writer."""
    if settings.workers is not None:
        return int(settings.workers)
    cores = len(os.sched_getaffinity(0))
    return max(1, cores - 1)
