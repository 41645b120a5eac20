"""How long a token lives: one calculation for issue and renewal, in milliseconds.

Invariant TTL-FINITE: what comes out always ends, later than now and no later than every maximum
given (TOK-01, TOK-10). A mount's own TTLs stand in for the system's, as in Vault: an operator may
give one mount more than the rest.
"""

from typing import Final, NamedTuple

from undercroft.errors import InvalidRequest

DAY_SECONDS: Final = 86_400
DEFAULT_TTL_SECONDS: Final = 32 * DAY_SECONDS  # 768 h
# Go's durations end at 292 years; clients compute with them.
TTL_SECONDS_MAX: Final = 100 * 365 * DAY_SECONDS


class Limits(NamedTuple):
    """Default and maximum that hold where a token is issued, in seconds, both positive."""

    default_seconds: int = DEFAULT_TTL_SECONDS
    max_seconds: int = DEFAULT_TTL_SECONDS

    def within_mount(self, default_seconds: int, max_seconds: int) -> "Limits":
        """The same, where a mount has its own (0: it has none)."""
        longest = min(max_seconds or self.max_seconds, TTL_SECONDS_MAX)
        return Limits(min(default_seconds or self.default_seconds, longest), longest)


class Wish(NamedTuple):
    """What request, role and method ask for, in seconds; 0: nothing."""

    ttl: int = 0
    period: int = 0
    role_max: int = 0
    explicit_max: int = 0


class Lifetime(NamedTuple):
    expires_ms: int
    ttl_seconds: int  # what the client is told; at least 1
    warnings: tuple[str, ...]


def lifetime(now_ms: int, start_ms: int, limits: Limits, wish: Wish) -> Lifetime:
    """When a token that began at `start_ms` ends, issued or renewed now.

    A periodic token is renewed without end but for its explicit maximum; any other ends with the
    least of the maxima after its start. Raises InvalidRequest when that is past.
    """
    longest = _least(limits.max_seconds, wish.role_max, wish.explicit_max)
    name, ttl = ("period", wish.period) if wish.period > 0 else ("TTL", wish.ttl)
    ttl = ttl if ttl > 0 else limits.default_seconds
    expires_ms = now_ms + min(ttl, longest) * 1000
    if wish.period <= 0:
        expires_ms = min(expires_ms, start_ms + longest * 1000)
    elif wish.explicit_max > 0:
        expires_ms = min(expires_ms, start_ms + wish.explicit_max * 1000)
    if expires_ms <= now_ms:
        raise InvalidRequest("past the max TTL, cannot renew")
    warnings = (_capped(name, ttl, longest),) if expires_ms < now_ms + ttl * 1000 else ()
    return Lifetime(expires_ms, max(1, (expires_ms - now_ms) // 1000), warnings)


def _least(*seconds: int) -> int:
    return min(s for s in seconds if s > 0)


def _capped(name: str, ttl: int, longest: int) -> str:
    return (
        f'{name} of "{short_duration(ttl)}" exceeded the effective max_ttl of '
        f'"{short_duration(longest)}"; {name} value is capped accordingly'
    )


def short_duration(seconds: int) -> str:
    """As Go prints it, without trailing zero parts: `768h`, `1h30m`, `5m1s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    text = (f"{hours}h" if hours else "") + (
        f"{minutes}m" if minutes or (hours and seconds) else ""
    )
    return text + (f"{seconds}s" if seconds or not text else "")
