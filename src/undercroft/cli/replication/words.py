"""States, lags and progress as people read them."""

from typing import Final

from undercroft.cli.jsontext import Number
from undercroft.cli.output import duration
from undercroft.cli.replication.members import Progress

UNKNOWN: Final = "-"
_BAR_CELLS: Final = 24
_STATES: Final = {
    "running": "running",
    "stream-wals": "follows the log as it is written",
    "merkle-diff": "is being compared with the primary",
    "merkle-sync": "fetches what differs from the primary",
    "idle": "stands still",
}
_MODES: Final = {
    "primary": "primary",
    "secondary": "secondary",
    "bootstrapping": "becoming a secondary: the first copy is being made",
    "disabled": "none: replication is disabled",
    "unsupported": "none: not supported here",
    "unknown": "unknown: the server is sealed",
}
_CONNECTIONS: Final = {
    "ready": "connected",
    "connecting": "connecting",
    "idle": "none",
    "transient_failure": "broken; it is tried again",
    "shutdown": "shut down",
}


def state(name: str) -> str:
    return _STATES.get(name, name)


def role(mode: str) -> str:
    return _MODES.get(mode, mode)


def connection(name: str) -> str:
    return _CONNECTIONS.get(name, name)


def count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def lag(records: int | None, milliseconds: int | None) -> str:
    """`12 records, 180 ms`."""
    parts = [f"{records:,} record{'' if records == 1 else 's'}"] if records is not None else []
    parts += [f"{milliseconds:,} ms"] if milliseconds is not None else []
    return ", ".join(parts) or "unknown"


def rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def byte_rate(value: float | None) -> str:
    """`1.5 MB/s`, decimal."""
    if value is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B/s" if unit == "B" else f"{value:.1f} {unit}/s"
        value /= 1000
    return f"{value:.1f} GB/s"


def progress(of: Progress, seconds_left: float | None = None) -> str:
    """`[######------------------]  25 %  50 of 200 entries, about 12s left`."""
    if of.total <= 0:
        return "counting entries"
    share = min(1.0, of.done / of.total)
    filled = int(share * _BAR_CELLS)
    bar = "#" * filled + "-" * (_BAR_CELLS - filled)
    text = f"[{bar}] {int(share * 100):3d} %  {of.done:,} of {of.total:,} entries"
    if seconds_left is None:
        return text
    return f"{text}, about {duration(Number(str(round(seconds_left))))} left"
