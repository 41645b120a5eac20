"""How long to wait before the next session, and what an operator is told meanwhile.

A link that broke is tried again at once. A session that failed by what was said in it (a record
that cannot be applied) fails again if nothing has changed: so each such failure at the same place
of the log doubles the wait, until there is headway.
"""

from typing import Final

RETRY_FIRST_SECONDS: Final = 0.1
UNREACHABLE_MAX_SECONDS: Final = 3.0
FAILING_MAX_SECONDS: Final = 30.0
_TOLD_AT: Final = 3  # failures in a row: before, it may be one that passes by itself

HINT: Final = (
    "it is tried again, and at once by `recover`. Look at the disk and the log of both clusters, "
    "and whether this one is of an older release than the primary; if nothing helps, have it "
    "copied anew: secondary/disable, and secondary/enable with a new activation token"
)


class Headway:
    """Of one secondary, over its sessions. `seq` is always how far it has applied the log."""

    def __init__(self) -> None:
        self.failures = 0  # in a row, at the same place
        self._at = -1
        self._unreachable = RETRY_FIRST_SECONDS

    def reset(self) -> None:
        """An operator says that something has changed."""
        self.failures, self._unreachable = 0, RETRY_FIRST_SECONDS

    def reached(self, seq: int) -> bool:
        """The log was applied so far. Answers whether that ends a row of failures."""
        return self.failures > 0 and seq > self._at

    def failed(self, seq: int) -> None:
        """A session ended by what was said in it."""
        self.failures = self.failures + 1 if seq == self._at else 1
        self._at = seq

    @property
    def is_to_be_told(self) -> bool:
        """Once in a row."""
        return self.failures == _TOLD_AT

    @property
    def stands_still(self) -> bool:
        return self.failures >= _TOLD_AT

    def pause_seconds(self, *, connected: bool) -> float:
        """Until the next session, after one that stood or none that could be had."""
        if not connected:
            self._unreachable = min(self._unreachable * 2, UNREACHABLE_MAX_SECONDS)
            return self._unreachable
        self._unreachable = RETRY_FIRST_SECONDS
        doubled: float = RETRY_FIRST_SECONDS * 2 ** min(self.failures, 20)
        return min(doubled, FAILING_MAX_SECONDS) if self.failures else RETRY_FIRST_SECONDS
