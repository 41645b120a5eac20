"""Where a store lies: a directory of its own, locked by one server, or one in memory."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from undercroft.errors import InvalidRequest

LOCK_NAME: Final = "lock"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a file system in memory, on every Linux
_PREFIX: Final = "undercroft-"


@contextlib.contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """Create the directory (0700) and hold its lock. Raises InvalidRequest when another does.

    The lock belongs to the open file, so it is held until the last process that inherited it ends.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidRequest(
            f"cannot use the data directory {directory}: {error.strerror}"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise InvalidRequest(
                f"the data directory {directory} is in use by the server with pid {holder}",
                hint="stop it, or choose another path",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def memory_directory() -> Iterator[Path]:
    """A directory in memory, gone afterwards; those of servers that were killed go now."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for stale in base.glob(f"{_PREFIX}*-*"):
        owner = stale.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(stale, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
    owner_pid = os.getpid()
    try:
        yield directory
    finally:
        if os.getpid() == owner_pid:
            shutil.rmtree(directory, ignore_errors=True)
