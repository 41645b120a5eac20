"""What every process of a node asks of the kernel, so that keys in its memory stay there.

Python cannot wipe the memory of an immutable value. What it can do is keep that memory from being
written to disk by a crash, and from being read by another process of the same user.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Final

# <linux/prctl.h>
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15


def harden() -> None:
    """No core dumps, no ptrace, no /proc/<pid>/mem for other processes. Raises OSError.

    Systems other than Linux have no prctl: there, core dumps alone are turned off.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Also covers core patterns that pipe to a collector, which RLIMIT_CORE does not stop.
        _prctl(_PR_SET_DUMPABLE, 0)


def set_name(name: str) -> None:
    """What ps and top show: 15 bytes of it. /proc/self is no way: it is root's after `harden`."""
    if sys.platform == "linux":
        text = ctypes.create_string_buffer(name.encode())
        _prctl(_PR_SET_NAME, ctypes.addressof(text))


def die_with_parent(parent: int | None = None) -> None:
    """End with SIGKILL when the parent ends, however it ends. Called first thing in a child.

    Not SIGTERM: a child that drains for a while would still hold the store while the next server
    starts. A commit is whole or not there, so nothing is lost. `parent` is the id of the process
    that forked us, if the caller kept it; when it is gone already, we end at once.
    """
    parent = os.getppid() if parent is None else parent
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if libc.prctl(ctypes.c_int(option), *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"prctl({option})")
