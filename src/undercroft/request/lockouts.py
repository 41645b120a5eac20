"""Who failed to log in too often: counters by mount and canonical name, kept in the store.

They survive restarts and are the same in every process (LOG-02). Names nobody has are counted
alike: otherwise the answer after five tries would tell which names exist (LOG-01). Each entry
expires by itself, so made-up names cannot fill the store for longer than the lockout lasts.

    l | LOCKOUTS | <mount accessor>/<name>
"""

from typing import Any, Final

import msgspec

from undercroft.durations import parse_duration
from undercroft.errors import InvalidRequest
from undercroft.request.mounts import Mount
from undercroft.storage.keys import LOCAL, LOCKOUTS
from undercroft.storage.view import Snapshot, Space

_QUARTER_HOUR: Final = 900


class LockoutRule(msgspec.Struct, frozen=True):
    """Tuned per mount (`user_lockout_config`); the defaults are Vault's."""

    threshold: int = 5
    duration_seconds: int = _QUARTER_HOUR
    counter_reset_seconds: int = _QUARTER_HOUR
    disabled: bool = False

    @property
    def keep_seconds(self) -> int:
        return max(self.duration_seconds, self.counter_reset_seconds)


class Failures(msgspec.Struct, frozen=True):
    count: int
    last_ms: int


def rule_of(mount: Mount) -> LockoutRule:
    """What holds for a mount; zero and absent values mean the default."""
    config = mount.config.user_lockout_config or {}
    default = LockoutRule()
    try:
        threshold = int(config.get("lockout_threshold") or 0)
    except (TypeError, ValueError):
        raise InvalidRequest("lockout_threshold: not a number") from None
    return LockoutRule(
        threshold=threshold if threshold > 0 else default.threshold,
        duration_seconds=_seconds(config, "lockout_duration") or default.duration_seconds,
        counter_reset_seconds=_seconds(config, "lockout_counter_reset")
        or _seconds(config, "lockout_counter_reset_duration")
        or default.counter_reset_seconds,
        disabled=config.get("lockout_disable") in (True, "true", "1", 1),
    )


def _seconds(config: dict[str, Any], name: str) -> int:
    return max(0, parse_duration(config.get(name), name))


def _space(view: Snapshot) -> Space:
    return Space(view, LOCAL, LOCKOUTS)


def _name(accessor: str, user: str) -> str:
    return f"{accessor}/{user}"


def is_locked(view: Snapshot, mount: Mount, user: str, now_ms: int) -> bool:
    rule = rule_of(mount)
    if rule.disabled:
        return False
    failures = _space(view).read(_name(mount.accessor, user), Failures)
    return failures is not None and _locks(failures, rule, now_ms)


def _locks(failures: Failures, rule: LockoutRule, now_ms: int) -> bool:
    if failures.count < rule.threshold:
        return False
    return now_ms < failures.last_ms + rule.duration_seconds * 1000


def record_failure(tx: Snapshot, mount: Mount, user: str, now_ms: int) -> None:
    """Count one more; an old count, or one whose lock is over, begins anew."""
    rule = rule_of(mount)
    if rule.disabled:
        return
    space, name = _space(tx), _name(mount.accessor, user)
    old = space.read(name, Failures)
    fresh = (
        old is None
        or now_ms >= old.last_ms + rule.counter_reset_seconds * 1000
        or (old.count >= rule.threshold and not _locks(old, rule, now_ms))
    )
    count = 1 if fresh or old is None else old.count + 1
    space.write(name, Failures(count, now_ms), now_ms + rule.keep_seconds * 1000)


def forget_failures(tx: Snapshot, accessor: str, user: str) -> None:
    """After a login, or by `sys/locked-users`."""
    name = _name(accessor, user)
    if _space(tx).exists(name):
        _space(tx).delete(name)


def locked_users(view: Snapshot, mount: Mount, now_ms: int) -> list[str]:
    """Names of a mount that are locked now, sorted."""
    rule, space = rule_of(mount), _space(view)
    if rule.disabled:
        return []
    found: list[str] = []
    for name in space.names(f"{mount.accessor}/"):
        failures = space.read(name, Failures)
        if failures is not None and _locks(failures, rule, now_ms):
            found.append(name.removeprefix(f"{mount.accessor}/"))
    return found
