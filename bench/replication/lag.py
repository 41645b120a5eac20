"""Lag: from the primary's acknowledgement until the secondary answers with what was written.

One process has both ends, so there is one clock. A reader takes the newest acknowledged key and
asks the secondary for it, again and again, until it is there; then the newest one of that moment.
The figure includes the answer that shows the key, so it cannot be less than the time of a read.
"""

import asyncio
import time
from pathlib import Path

import uvloop

from bench.replication.clusters import Cluster, Pair, body, replicating
from bench.replication.paced import Connection, Served, at_rate, connect, request
from bench.replication.rows import Row, percentile

CONNECTIONS = 64  # more than are ever busy, so that they do not limit the rate
_P50_MS, _P99_MS = 5.0, 25.0
_WARM_UP = 1000  # requests


def lag(root: Path, per_second: int, seconds: int) -> list[Row]:
    with replicating(root) as pair:
        lags, writes = uvloop.run(_measure(pair, per_second, per_second * seconds))
    middle, tail = percentile(lags, 0.5), percentile(lags, 0.99)
    remarks = (
        f"{len(lags):,} samples, greatest {max(lags):.1f} ms; {writes.per_second:,.0f} writes/s "
        f"served, p50 {percentile(writes.latencies, 0.5):.1f} ms, "
        f"p99 {percentile(writes.latencies, 0.99):.1f} ms"
    )
    name = f"lag at {per_second:,} writes/s"
    return [
        Row(f"{name}, p50", f"{middle:.1f} ms", f"≤ {_P50_MS:.0f} ms", middle <= _P50_MS, remarks),
        Row(f"{name}, p99", f"{tail:.1f} ms", f"≤ {_P99_MS:.0f} ms", tail <= _P99_MS),
    ]


async def _measure(pair: Pair, per_second: int, count: int) -> tuple[list[float], Served]:
    """Lags in ms, and the writes."""
    writers = [await connect(pair.primary.server.port) for _ in range(CONNECTIONS)]
    reader = await connect(pair.secondary.server.port)
    token = pair.primary.server.root_token
    await at_rate(writers, per_second, _WARM_UP, lambda n: put(token, f"warm/{n}"))
    newest: tuple[int, float] | None = None
    changed, over = asyncio.Event(), False

    def acknowledged(number: int) -> None:
        nonlocal newest
        newest = (number, time.monotonic())
        changed.set()

    async def read() -> list[float]:
        lags: list[float] = []
        while not over:
            changed.clear()
            await changed.wait()
            if newest is not None and not over:
                lags.append(await _until_readable(pair.secondary, reader, *newest))
        return lags

    reading = asyncio.ensure_future(read())
    writes = await at_rate(
        writers, per_second, count, lambda n: put(token, f"lag/{n}"), acknowledged
    )
    over = True
    changed.set()
    lags = await reading
    for connection in (*writers, reader):
        connection.close()
    return lags, writes


async def _until_readable(
    secondary: Cluster, reader: Connection, number: int, since: float
) -> float:
    asked = request("GET", f"kv1/lag/{number}", secondary.server.root_token)
    while await reader.send(asked) != 200:
        if time.monotonic() - since > 30:
            raise RuntimeError(f"write {number} did not arrive within 30 s")
    return (time.monotonic() - since) * 1000


def put(token: str, key: str) -> bytes:
    """A KV v1 write of a value of the usual size."""
    return request("POST", f"kv1/{key}", token, body())
