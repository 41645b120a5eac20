"""What one status, or two in a row, say about every member. Knows no terminal, clock or server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SYNCING: Final = ("merkle-diff", "merkle-sync")


@dataclass(frozen=True)
class Progress:
    """Of a comparison: entries done, and how many there are as far as is known."""

    done: int
    total: int


@dataclass(frozen=True)
class Member:
    """One row. None is what the answering cluster does not know."""

    id: str
    state: str
    lag_records: int | None = None
    lag_ms: int | None = None
    position: int | None = None  # in the shared log
    records: int | None = None  # sent to it, or received by it, so far
    bytes: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Rates:
    """Per second, between two looks; None when it cannot be told."""

    records: float | None = None
    bytes: float | None = None


def number(value: Any) -> int | None:
    """Of a JSON number or of Vault's numbers in strings."""
    try:
        return None if value is None or isinstance(value, bool) else int(value)
    except ValueError:
        return None


def members(status: Mapping[str, Any]) -> list[Member]:
    """This cluster first, then those that it talks to; none where nothing is replicated."""
    mode = status.get("mode")
    if mode == "primary":
        return [_this_primary(status), *_secondaries(status)]
    if mode in ("secondary", "bootstrapping"):
        return [_this_secondary(status), *_primaries(status)]
    return []


def connected_ids(status: Mapping[str, Any]) -> list[str]:
    return [
        str(peer.get("node_id"))
        for peer in status.get("secondaries") or ()
        if peer.get("connection_status") == "connected"
    ]


def _this_primary(status: Mapping[str, Any]) -> Member:
    state = "fenced" if status.get("fenced") else str(status.get("state") or "unknown")
    return Member("(this primary)", state, position=number(status.get("last_performance_wal")))


def _secondaries(status: Mapping[str, Any]) -> list[Member]:
    last = number(status.get("last_performance_wal"))
    listed = [_secondary(peer, last) for peer in status.get("secondaries") or ()]
    seen = {member.id for member in listed}
    known = (str(known) for known in status.get("known_secondaries") or ())
    return listed + [Member(known_id, "never seen") for known_id in known if known_id not in seen]


def _secondary(peer: Mapping[str, Any], last: int | None) -> Member:
    connected = peer.get("connection_status") == "connected"
    position = number(peer.get("last_remote_wal"))
    lag = number(peer.get("lag_records"))
    if lag is None and position is not None and last is not None:
        lag = max(0, last - position)
    return Member(
        str(peer.get("node_id") or ""),
        str(peer.get("state") or "connected") if connected else "disconnected",
        lag,
        # the canary's age stands still with the connection
        number(peer.get("lag_ms", peer.get("replication_primary_canary_age_ms")))
        if connected
        else None,
        position,
        number(peer.get("records_sent")),
        number(peer.get("bytes_sent")),
    )


def _this_secondary(status: Mapping[str, Any]) -> Member:
    sync = status.get("merkle_sync_progress") or {}
    done, total = number(sync.get("sync_progress")), number(sync.get("sync_total_keys"))
    return Member(
        str(status.get("secondary_id") or "(this secondary)"),
        str(status.get("state") or "unknown"),
        number(status.get("lag_records")),
        number(status.get("lag_ms")),
        number(status.get("last_remote_wal")),
        number(status.get("records_received")),
        number(status.get("bytes_received")),
        None if done is None or total is None else Progress(done, total),
    )


def _primaries(status: Mapping[str, Any]) -> list[Member]:
    return [
        Member("(primary)", str(peer.get("connection_status") or "unknown"))
        for peer in status.get("primaries") or ()
    ]


def rates(before: Member | None, now: Member, seconds: float) -> Rates:
    """What went by between two looks at the same member. A counter that fell began anew."""
    if before is None or seconds <= 0:
        return Rates()
    records = _rate(before.records, now.records, seconds)
    # a comparison moves the position by more than it sends
    if now.records is None and now.state not in SYNCING and before.state not in SYNCING:
        records = _rate(before.position, now.position, seconds)
    return Rates(records, _rate(before.bytes, now.bytes, seconds))


def _rate(before: int | None, now: int | None, seconds: float) -> float | None:
    if before is None or now is None or now < before:
        return None
    return (now - before) / seconds


class Estimate:
    """How long a comparison still takes, from its pace since it was first seen."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None  # when, and how many were done
        self._last = 0

    def seconds_left(self, progress: Progress | None, at_seconds: float) -> float | None:
        """None while the pace is unknown. `at_seconds` is of a clock that only goes forward."""
        if progress is None:
            self._first = None
            return None
        if self._first is None or progress.done < self._last:
            self._first = (at_seconds, progress.done)
        self._last = progress.done
        began, done_then = self._first
        done = progress.done - done_then
        if done <= 0 or at_seconds <= began:
            return None
        return max(0, progress.total - progress.done) * (at_seconds - began) / done
