"""From the call that promotes a secondary to the first write that it accepts."""

import statistics
import time
from pathlib import Path

from bench.replication.clusters import Pair, replicating, succeed, wait_for
from bench.replication.rows import Row

_SECONDS = 2.0
_WRITES = 200  # before it


def promotion(root: Path, rounds: int) -> list[Row]:
    return [
        _row("switchover, primary connected", [_one(root / f"a{n}", False) for n in range(rounds)]),
        _row("primary dead (kill -9)", [_one(root / f"b{n}", True) for n in range(rounds)]),
    ]


def _row(name: str, seconds: list[float]) -> Row:
    middle = statistics.median(seconds)
    return Row(
        f"promote to first accepted write, {name}",
        f"{middle * 1000:,.0f} ms",
        f"< {_SECONDS:g} s",
        middle < _SECONDS,
        f"of {len(seconds)}; slowest {max(seconds) * 1000:,.0f} ms",
    )


def _one(root: Path, dead: bool) -> float:
    root.mkdir(parents=True)
    with replicating(root) as pair:
        for number in range(_WRITES):
            pair.primary.server.call("POST", f"kv1/before/{number}", {"a": "b"})
        wait_for(pair.level, "equal roots")
        if dead:
            pair.primary.kill()
        return _promote(pair)


def _promote(pair: Pair) -> float:
    began = time.monotonic()
    pair.secondary.promote()
    call = pair.secondary.server.call
    succeed(lambda: call("POST", "kv1/after", {"a": "b"}), "the first write")
    return time.monotonic() - began
