"""Where a store lies: a directory of its own, locked by one server, or one in memory."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from undercroft.errors import InvalidRequest

LOCK_NAME: Final = "lock"
_ORPHANS_SECONDS: Final = 5.0
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a file system in memory, on every Linux
_PREFIX: Final = "undercroft-"


@contextlib.contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """Create the directory (0700) and hold its lock. Raises InvalidRequest when another does.

    The lock belongs to the open file, so it is held until the last process that inherited it ends.
    """
    try:
        _make_private(directory)
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequest(
            f"cannot use the data directory {directory}: {error.strerror}"
        ) from None
    try:
        _lock(descriptor, directory)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    """Raises InvalidRequest. The children of a server that was killed end a moment after it."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            if Path(f"/proc/{holder}").exists() or time.monotonic() > deadline:
                raise InvalidRequest(
                    f"the data directory {directory} is in use by the server with pid {holder}",
                    hint="stop it, or choose another path",
                ) from None
            time.sleep(0.02)


def _make_private(directory: Path) -> None:
    """Like `mkdir(parents=True)`, which would leave the parents to the umask (SEAL-05)."""
    if not directory.parent.exists():
        _make_private(directory.parent)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    if not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is not a directory")


@contextlib.contextmanager
def memory_directory() -> Iterator[Path]:
    """A directory in memory, gone afterwards; those of servers that were killed go now."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for stale in base.glob(f"{_PREFIX}*-*"):
        if _is_abandoned(stale):
            shutil.rmtree(stale, ignore_errors=True)
    owner_pid = os.getpid()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{owner_pid}-", dir=base))
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(descriptor)
        if os.getpid() == owner_pid:
            shutil.rmtree(directory, ignore_errors=True)


def _is_abandoned(directory: Path) -> bool:
    """Its process is gone, and so is every other with its lock: one of another container, whose
    processes cannot be seen from here, or one that has not taken the lock yet, is let be.
    """
    owner = directory.name.removeprefix(_PREFIX).partition("-")[0]
    if not owner.isdigit() or Path(f"/proc/{owner}").exists():
        return False
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
