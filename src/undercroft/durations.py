"""Durations and times as Vault writes them.

Durations: integer seconds, `"90"`, or Go's form `"1h30m"` with units ns us µs ms s m h, and Vault's
d for days. Times: RFC 3339 in UTC, trailing zeros of the fraction dropped.
"""

import re
from datetime import UTC, datetime
from typing import Final

from undercroft.errors import InvalidRequest

_UNIT_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_SECONDS_MAX: Final = 2**63 // 10**9  # what Go's time.Duration holds


def parse_duration(value: object, name: str = "duration") -> int:
    """Seconds, rounded towards zero. Raises InvalidRequest naming the field, never its value."""
    return int(parse_seconds(value, name))


def parse_seconds(value: object, name: str = "duration") -> float:
    """Seconds with their fraction, as timeouts may have one. Raises as `parse_duration` does."""
    if value is None or value == "":
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidRequest(f"{name}: not a duration: use seconds, or a text such as 90s, 30m, 1h")
    seconds = float(value) if isinstance(value, int | float) else _parse_text(value.strip(), name)
    if not abs(seconds) <= _SECONDS_MAX:
        raise InvalidRequest(f"{name}: the duration is out of range")
    return seconds


def _parse_text(text: str, name: str) -> float:
    if _INTEGER.fullmatch(text):
        return float(text)
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    total, at = 0.0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            break
        total += float(part[1]) * _UNIT_SECONDS[part[2]]
        at = part.end()
    if not rest or at != len(rest):
        raise InvalidRequest(f"{name}: not a duration: use seconds, or a text such as 90s, 30m, 1h")
    return sign * total


def rfc3339(unix_ms: int) -> str:
    """`2016-09-28T14:41:00.56Z`; the zero of time for 0, as Go prints it."""
    if unix_ms == 0:
        return "0001-01-01T00:00:00Z"
    seconds, ms = divmod(unix_ms, 1000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms:03d}".rstrip("0").rstrip(".") + "Z" if ms else text + "Z"
