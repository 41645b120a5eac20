"""One primary that feeds many secondaries: what they cost its writers."""

import statistics
from pathlib import Path

import uvloop

from bench.replication import light, processor
from bench.replication.clusters import Cluster, cluster, wait_for
from bench.replication.lag import CONNECTIONS, put
from bench.replication.paced import Served, at_rate, connect
from bench.replication.rows import Row, percentile

_TIMES = 2.0
_WARM_UP = 1000  # requests


def fan_out(root: Path, secondaries: int, per_second: int, seconds: int, rounds: int) -> list[Row]:
    """Alternating rounds: nobody follows, all follow."""
    alone: list[Served] = []
    fed: list[Served] = []
    used: list[float] = []  # µs of the primary's processor time, for each write
    count = per_second * seconds
    with cluster(root / "primary") as primary:
        primary.enable_primary()
        grants = light.activated(primary, secondaries)
        uvloop.run(_writes(primary, per_second, _WARM_UP))
        for _ in range(rounds):
            pid = primary.server.process.pid
            before = processor.seconds(pid)
            alone.append(uvloop.run(_writes(primary, per_second, count)))
            between = processor.seconds(pid)
            with light.following(grants):
                fed.append(uvloop.run(_writes(primary, per_second, count)))
                wait_for(lambda: _all_level(primary, secondaries), "all secondaries' last record")
                after = processor.seconds(pid)
            used.append((after - 2 * between + before) / count * 1e6)
    cost = Row(
        f"processor time at the primary to feed {secondaries} secondaries",
        f"{statistics.median(used):,.0f} µs a write",
    )
    return [_row(share, alone, fed, secondaries, per_second) for share in (0.5, 0.99)] + [cost]


def _row(share: float, alone: list[Served], fed: list[Served], count: int, per_second: int) -> Row:
    without, with_them = (
        statistics.median(percentile(served.latencies, share) for served in some)
        for some in (alone, fed)
    )
    rate = statistics.median(served.per_second for served in fed)
    return Row(
        f"write p{share * 100:.0f} at {per_second:,} writes/s, {count} secondaries fed",
        f"{with_them / without:.2f} times",
        f"≤ {_TIMES:g} times",
        with_them <= _TIMES * without,
        f"{without:.1f} ms alone, {with_them:.1f} ms with them; medians of {len(fed)} "
        f"rounds; {rate:,.0f} writes/s served",
    )


async def _writes(primary: Cluster, per_second: int, count: int) -> Served:
    server = primary.server
    connections = [await connect(server.port) for _ in range(CONNECTIONS)]
    served = await at_rate(
        connections, per_second, count, lambda n: put(server.root_token, f"fed/{n}")
    )
    for connection in connections:
        connection.close()
    return served


def _all_level(primary: Cluster, count: int) -> bool:
    """By the primary's own account."""
    status = primary.status()
    last = status["last_performance_wal"]
    level = [s for s in status["secondaries"] if s["last_remote_wal"] == last]
    return len(level) == count
