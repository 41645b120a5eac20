"""Catching up: how fast a secondary takes in what was written while it was away.

Beside it, in alternating rounds of the same run, PostgreSQL's logical replication (the same number
of one-row transactions of the same size) and `etcdctl make-mirror`.
"""

import contextlib
import statistics
from pathlib import Path
from time import monotonic

import uvloop

from bench.replication import etcd, postgres, processor
from bench.replication.clusters import VALUE_BYTES, Pair, StatusPoll, replicating, wait_for
from bench.replication.lag import CONNECTIONS, put
from bench.replication.paced import as_fast_as_possible, connect
from bench.replication.rows import Rate, Row, median_and_spread

_TIMES = {"postgres": 1.0, "etcd": 20.0}  # that ours is to be as fast, at least
_SECONDS_MAX = 600.0


def catch_up(root: Path, commits: int, etcd_keys: int, rounds: int, ours: bool) -> list[Row]:
    """`ours=False` measures the peers alone."""
    rates: dict[str, list[Rate]] = {"ours": [], "postgres": [], "etcd": []}
    paths: set[str] = set()
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        pg = mirror = pair = None
        if missing := postgres.missing():
            rows.append(Row("PostgreSQL", "not measured", remarks=missing))
        else:
            pg = stack.enter_context(postgres.replicating(root / "postgres"))
        if missing := etcd.missing():
            rows.append(Row("etcd", "not measured", remarks=missing))
        else:
            mirror = stack.enter_context(etcd.mirrored(root / "etcd"))
        if ours:
            pair = stack.enter_context(replicating(root / "ours"))
        for number in range(rounds):
            if pg is not None:
                rates["postgres"].append(pg.catch_up(commits, VALUE_BYTES))
            if pair is not None:
                rate, path = _ours(pair, commits, number)
                rates["ours"].append(rate)
                paths.add(path)
            if mirror is not None:
                rates["etcd"].append(mirror.catch_up(etcd_keys, VALUE_BYTES))
    return rows + _rows(rates, commits, etcd_keys, paths)


def _rows(rates: dict[str, list[Rate]], commits: int, keys: int, paths: set[str]) -> list[Row]:
    what = {
        "postgres": (
            "PostgreSQL 15 logical replication",
            f"{commits:,} transactions of one row of {VALUE_BYTES} bytes",
        ),
        "etcd": (
            "etcdctl make-mirror",
            f"{keys:,} keys: it copies one after the other, so the rate is that of more",
        ),
        "ours": (
            "ours",
            f"{commits:,} commits of one write; from unseal; by way of {', '.join(paths)}",
        ),
    }
    rows, medians = [], {}
    for name, (title, remarks) in what.items():
        if rates[name]:
            figure = median_and_spread([rate.per_second for rate in rates[name]], "/s")
            used = statistics.median(rate.processor_us for rate in rates[name])
            remarks += f"; {used:,.0f} µs of processor time each"
            rows.append(Row(f"catch-up, {title}", figure, remarks=remarks))
            medians[name] = statistics.median(rate.per_second for rate in rates[name])
    for peer, times in _TIMES.items():
        if peer in medians and "ours" in medians:
            ratio = medians["ours"] / medians[peer]
            title = f"catch-up, ours to {what[peer][0]}"
            rows.append(Row(title, f"{ratio:.2f} times", f"≥ {times:g} times", ratio >= times))
    return rows


def _ours(pair: Pair, commits: int, number: int) -> tuple[Rate, str]:
    """Commits, and the states it went through.

    The secondary is stopped with SIGTERM and started again up to its seal. The time runs from the
    request that unseals it, before which it cannot know anything, until it has applied the last.
    """
    pair.secondary.server.stop()
    before = pair.primary.status()["last_performance_wal"]
    uvloop.run(_write(pair, commits, number))
    last = pair.primary.status()["last_performance_wal"]
    server = pair.secondary.server
    server.start_sealed()
    poll = StatusPoll(pair.secondary)
    roots = (pair.primary.server.process.pid, server.process.pid)
    used, began = processor.seconds(*roots), monotonic()
    server.call("PUT", "sys/unseal", {"key": server.unseal_key.hex()})
    poll.until(lambda status: status.get("last_remote_wal", 0) >= last, _SECONDS_MAX)
    took = monotonic() - began
    used = processor.seconds(*roots) - used
    wait_for(pair.level, "equal roots")
    count = last - before
    return Rate(count / took, used / count * 1e6), "/".join(s for s in poll.states if s != "idle")


async def _write(pair: Pair, commits: int, number: int) -> None:
    server = pair.primary.server
    connections = [await connect(server.port) for _ in range(CONNECTIONS)]
    await as_fast_as_possible(
        connections, commits, lambda n: put(server.root_token, f"away/{number}/{n}")
    )
    for connection in connections:
        connection.close()
