"""A first copy takes no more than half of a core that others want.

It is nobody's request: where somebody waits for a processor meanwhile, such as the workers of a
primary on the same machine, it rests after each piece of work as long as that took. Where nobody
waits, or the kernel does not tell (no /proc/pressure), it runs at full speed.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PRESSURE: Final = Path("/proc/pressure/cpu")
_WAITED_SHARE: Final = 0.02  # of the time of a piece: less is chance


def waited_us() -> int:
    """For how long, since the machine started, some process has waited for a processor."""
    try:
        return int(_PRESSURE.read_text().split("\n", 1)[0].rpartition("=")[2])
    except (OSError, ValueError):
        return 0


@contextmanager
def half_of_the_time() -> Iterator[None]:
    """The work within; then the rest."""
    waited, began = waited_us(), time.perf_counter()
    yield
    took = time.perf_counter() - began
    if (waited_us() - waited) / 1e6 > took * _WAITED_SHARE:
        time.sleep(took)
