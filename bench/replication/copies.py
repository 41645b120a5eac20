"""The first copy of a filled cluster, and what a few differences in it cost to find and heal.

Meanwhile the primary is read at a steady rate: with as many readers as the processor can serve,
any work beside them would only show that the processor is shared.
"""

import re
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench.__main__ import UNITS
from bench.replication.clusters import Cluster, Pair, StatusPoll, cluster, succeed, wait_for
from bench.replication.lag import CONNECTIONS, put
from bench.replication.paced import as_fast_as_possible, connect
from bench.replication.rows import Row

DIFFERENCES = 1_000
_REWRITES = 20  # of every differing key, so that the log is trimmed behind where it stood
_ENTRIES_PER_SECOND = 50_000
_HEAL_SECONDS = 2.0
_HEAL_BYTES = 2_000_000
_READERS = 32
_READS_PER_SECOND = 1_000
_READ_SECONDS = 10
# A log much shorter than what is written meanwhile: then only a comparison of states can help.
_SHORT_LOG = """
replication {
  logshipper_buffer_length = 1000
}
"""
# Each connection pauses so long that all of them together come to the wanted rate.
_READ = """
request = function()
  return wrk.format("GET", "/v1/kv1/fill/" .. math.random(0, %d))
end
function delay() return math.random(0, %d) end
"""


class Copied(NamedTuple):
    """A first copy, and the p99 in ms of reads at the primary before it and during it."""

    seconds: float
    before: float
    during: float


def copies(root: Path, entries: int, rounds: int) -> list[Row]:
    copied: list[Copied] = []
    healed: list[Row] = []
    with cluster(root / "primary", _SHORT_LOG) as primary:
        primary.enable_primary()
        primary.fill(entries)
        for number in range(rounds):
            with cluster(root / f"secondary-{number}", _SHORT_LOG) as secondary:
                pair = Pair(primary, secondary)
                copied.append(_bootstrap(pair, entries, f"osaka-{number}"))
                if number == rounds - 1:
                    healed += [r for n in range(rounds) for r in _heal(pair, entries, f"heal-{n}")]
    return _copied_rows(copied, entries) + healed


def _bootstrap(pair: Pair, entries: int, secondary_id: str) -> Copied:
    before = _stop_after(_reads(pair.primary, entries), _READ_SECONDS)
    token = pair.primary.activation_token(secondary_id)
    poll = StatusPoll(pair.secondary)
    readers = _reads(pair.primary, entries)
    time.sleep(1)  # until all of them are connected; not measured
    began = time.monotonic()
    pair.secondary.enable_secondary(token)
    poll.until(lambda status: status.get("state") == "stream-wals", 600)
    took = time.monotonic() - began
    during = _stop_after(readers, 0)
    succeed(pair.secondary.log_in, "the login at the secondary")
    wait_for(pair.level, "equal roots")
    return Copied(took, before, during)


def _copied_rows(copied: list[Copied], entries: int) -> list[Row]:
    took = statistics.median(one.seconds for one in copied)
    ratios = [one.during / one.before for one in copied]
    ratio, rate = statistics.median(ratios), entries / took
    before = statistics.median(one.before for one in copied)
    during = statistics.median(one.during for one in copied)
    return [
        Row(
            f"first copy of {entries:,} entries of 300 bytes",
            f"{rate:,.0f} entries/s",
            f"≥ {_ENTRIES_PER_SECOND:,}",
            rate >= _ENTRIES_PER_SECOND,
            f"{took:.1f} s from secondary/enable to stream-wals; median of {len(copied)}",
        ),
        Row(
            "the primary's read p99 meanwhile",
            f"{ratio:.2f} times ({min(ratios):.2f} to {max(ratios):.2f})",
            "≤ 2 times",
            ratio <= 2,
            f"{before:.2f} ms before, {during:.2f} ms during, at {_READS_PER_SECOND:,} reads/s; "
            "medians",
        ),
    ]


def _reads(primary: Cluster, entries: int) -> "subprocess.Popen[str]":
    script = primary.server.directory / "reads.lua"
    script.write_text(_READ % (entries - 1, 2 * 1000 * _READERS // _READS_PER_SECOND))
    command = ["wrk", "-t1", f"-c{_READERS}", "-d600s", "--latency", "-s", str(script)]
    command += ["-H", f"X-Vault-Token: {primary.server.root_token}", primary.server.url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _stop_after(readers: "subprocess.Popen[str]", seconds: float) -> float:
    """End wrk, which then tells what it saw; the p99 in ms."""
    time.sleep(seconds)
    readers.send_signal(signal.SIGINT)
    text, _ = readers.communicate()
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if tail is None or "Non-2xx" in text:
        raise RuntimeError(f"wrk failed:\n{text}")
    return float(tail[1]) * UNITS[tail[2]]


def _heal(pair: Pair, entries: int, secondary_id: str) -> list[Row]:
    """Detach the secondary, change keys at the primary, attach it again."""
    primary, secondary = pair.primary, pair.secondary
    secondary.detach()
    wait_for(lambda: secondary.status().get("secondary_id") == "", "the detaching")
    uvloop.run(_change(pair, entries))
    last = primary.status()["last_performance_wal"]
    token = primary.activation_token(secondary_id)
    poll = StatusPoll(secondary)
    began = time.monotonic()
    secondary.follow(token)
    poll.until(
        lambda s: s.get("state") == "stream-wals" and s.get("last_remote_wal", 0) >= last, 120
    )
    took = time.monotonic() - began
    size = pair.wire_bytes()
    wait_for(pair.level, "equal roots")
    return [
        Row(
            f"{DIFFERENCES:,} differences among {entries:,} entries found and healed",
            f"{took:.2f} s",
            f"< {_HEAL_SECONDS:g} s",
            took < _HEAL_SECONDS,
            f"from update-primary to stream-wals, by way of {'/'.join(poll.states)}",
        ),
        Row(
            "bytes on the wire for it, both ways, with TLS",
            f"{size / 1e6:.2f} MB",
            f"< {_HEAL_BYTES / 1e6:g} MB",
            0 < size < _HEAL_BYTES,
        ),
    ]


async def _change(pair: Pair, entries: int) -> None:
    server = pair.primary.server
    connections = [await connect(server.port) for _ in range(CONNECTIONS)]
    apart = entries // DIFFERENCES
    await as_fast_as_possible(
        connections,
        DIFFERENCES * _REWRITES,
        lambda n: put(server.root_token, f"fill/{n % DIFFERENCES * apart}"),
    )
    for connection in connections:
        connection.close()
