"""Named steps of a commit or of a swap of stores at which tests make a process die or a call fail.

`UNDERCROFT_FAULT=step:action[:count]` in the environment, `action` being `kill` (kill -9 of this
process) or `error` (an OSError of EIO), at the count-th time that the step is reached. Without the
variable a step costs one comparison.
"""

import errno
import os
import signal
from typing import Final

STEPS: Final = (
    "data",
    "expiry",
    "log",
    "generation",
    "checkpoint",
    "trim",
    "commit",
    "committed",
)
SWAP_STEPS: Final = (
    "staged",
    "renamed",
    "placed",
    "pointer",
    "written",
    "pointed",
    "swapped",
)

_step, _action, _left = "", "", 0


def arm(text: str) -> None:
    """Set the fault, as in the environment variable; an empty text disarms."""
    global _step, _action, _left
    if not text:
        _step = ""
        return
    step, action, *count = text.split(":")
    if step not in STEPS + SWAP_STEPS or action not in ("kill", "error"):
        raise ValueError("a fault is step:action[:count]")
    _step, _action, _left = step, action, int(count[0]) if count else 1


def point(step: str) -> None:
    """The process is at this step now."""
    global _left
    if step != _step:
        return
    _left -= 1
    if _left == 0:
        if _action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, "injected")


arm(os.environ.get("UNDERCROFT_FAULT", ""))
