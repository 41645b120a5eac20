"""Numbers of the whole node in one piece of shared memory: every process adds, any one sums.

The memory is made before the fork. Each process writes its own row, so nothing is ever locked, and
a child that is started again goes on in its predecessor's row, so nothing counted is lost. Which
metrics there are, and every value that a label may take, is fixed in `TABLE`: nothing that a client
chooses (a path, a name, a token) can become a metric (docs/metrics.md has the table).
"""

import math
import mmap
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import product
from typing import Any, Final

OTHER: Final = "other"  # what an unforeseen value of a label is counted as

Key = tuple[str, ...]  # a metric's name and the values of its labels


class Kind(Enum):
    COUNTER = "counter"  # only rises
    GAUGE = "gauge"  # goes up and down; a child starts with 0
    SUMMARY = "summary"  # how many, their sum, least and greatest
    HISTOGRAM = "histogram"  # the same, and how many up to each bound


@dataclass(frozen=True)
class Metric:
    """One row of `TABLE`. Vault's own times are in milliseconds, ours say their unit."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        return self.name.replace(".", "_")


_OPERATIONS: Final = ("create", "read", "update", "patch", "delete", "list", "scan", "help")
_ENGINES: Final = ("kv", "cubbyhole", "system", "token", "userpass", OTHER)
_CODES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)
_BATCHES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

TABLE: Final = (
    Metric("vault.core.unsealed", Kind.GAUGE, "1 while unsealed, else 0"),
    Metric("vault.core.active", Kind.GAUGE, "1 while this node takes writes, else 0"),
    Metric("vault.core.in_flight_requests", Kind.GAUGE, "Requests being served"),
    Metric("vault.core.handle_request", Kind.SUMMARY, "Milliseconds to serve a request"),
    Metric(
        "vault.core.mount_table.num_entries",
        Kind.GAUGE,
        "Mounts, by kind and locality",
        (("type", ("auth", "logical")), ("local", ("true", "false"))),
    ),
    Metric(
        "vault.route",
        Kind.SUMMARY,
        "Milliseconds in an engine's handler",
        (("operation", _OPERATIONS), ("engine", _ENGINES)),
    ),
    Metric("vault.audit.log_request_failure", Kind.COUNTER, "Requests no device could record"),
    Metric("vault.audit.log_response_failure", Kind.COUNTER, "Answers no device could record"),
    Metric("undercroft.audit.device_failures", Kind.COUNTER, "Failures of single audit devices"),
    Metric(
        "undercroft.http.requests",
        Kind.COUNTER,
        "Answers, by class of status code",
        (("code", _CODES),),
    ),
    Metric("undercroft.http.rejected", Kind.COUNTER, "Requests refused because a queue was full"),
    Metric("undercroft.writer.requests", Kind.COUNTER, "Requests that the writer ran"),
    Metric("undercroft.writer.queue", Kind.GAUGE, "Requests waiting for the writer"),
    Metric("undercroft.commit.count", Kind.COUNTER, "Commits"),
    Metric("undercroft.commit.batch", Kind.HISTOGRAM, "Requests in a commit", bounds=_BATCHES),
    Metric("undercroft.commit.seconds", Kind.HISTOGRAM, "Seconds of a commit", bounds=_SECONDS),
    Metric("undercroft.wal.last_seq", Kind.GAUGE, "Sequence number of the last log record"),
    Metric("undercroft.wal.records", Kind.GAUGE, "Records that the log holds"),
    Metric("undercroft.wal.bytes", Kind.GAUGE, "Bytes of the log"),
    Metric("undercroft.storage.bytes", Kind.GAUGE, "Bytes of the store that are in use"),
    Metric("undercroft.expire.reaped", Kind.COUNTER, "Tokens, leases and entries that expired"),
    Metric(
        "vault.core.replication.performance.primary", Kind.GAUGE, "1 on a primary of a set, else 0"
    ),
    Metric("vault.core.replication.performance.secondary", Kind.GAUGE, "1 on a secondary, else 0"),
    Metric(
        "vault.core.replication.reindex_stage",
        Kind.GAUGE,
        "0 none, 1 scanning, 2 building, 4 commit; 3, the replay of a log, there is none",
    ),
    Metric("vault.core.replication.build_progress", Kind.GAUGE, "Entries a reindex has looked at"),
    Metric("vault.core.replication.build_total", Kind.GAUGE, "Entries it has to look at"),
    Metric("vault.replication.wal.last_wal", Kind.GAUGE, "Last log record, of any kind"),
    Metric("vault.replication.wal.last_performance_wal", Kind.GAUGE, "Place of the shared log"),
    Metric(
        "vault.replication.fsm.last_remote_wal",
        Kind.GAUGE,
        "Place of the shared log that a secondary has applied",
    ),
    Metric(
        "vault.replication.merkle.commit_index",
        Kind.GAUGE,
        "Place of the shared log of the digests",
    ),
    Metric(
        "vault.replication.merkleSync",
        Kind.SUMMARY,
        "Milliseconds of a comparison of states: to find what differs, and to fetch it",
    ),
    Metric(
        "vault.replication.rpc.server.forwarding_request",
        Kind.SUMMARY,
        "Milliseconds of a secondary's request at the primary",
    ),
    Metric(
        "vault.replication.rpc.client.forward",
        Kind.SUMMARY,
        "Milliseconds from a request to the primary to its answer",
    ),
    Metric("vault.wal.persistWALs", Kind.SUMMARY, "Milliseconds to make a commit durable"),
    Metric("vault.wal.loadWAL", Kind.SUMMARY, "Milliseconds to read a piece of the log"),
    Metric("vault.wal.flushReady.queue_len", Kind.GAUGE, "Requests waiting for the writer"),
    Metric("vault.wal.gc.total", Kind.GAUGE, "Records that the log holds"),
    Metric("vault.wal.gc.deleted", Kind.COUNTER, "Records that the log has dropped"),
    Metric("vault.merkle.saveCheckpoint", Kind.SUMMARY, "Milliseconds to store changed digests"),
    Metric(
        "vault.merkle.saveCheckpoint.num_dirty",
        Kind.GAUGE,
        "Nodes of the digest tree that the last such commit stored",
    ),
    Metric("vault.logshipper.buffer.length", Kind.GAUGE, "Records to catch up by, on disk"),
    Metric("vault.logshipper.buffer.max_length", Kind.GAUGE, "How many are kept"),
    Metric("vault.logshipper.buffer.size", Kind.GAUGE, "Bytes of them"),
    Metric("vault.logshipper.buffer.max_size", Kind.GAUGE, "How many bytes are kept"),
    Metric(
        "vault.logshipper.streamWALs.guard_found",
        Kind.COUNTER,
        "Secondaries that connected and whose place the log had",
    ),
    Metric(
        "vault.logshipper.streamWALs.missing_guard",
        Kind.COUNTER,
        "Those whose place it had not: states are compared",
    ),
    Metric("undercroft.replication.epoch", Kind.GAUGE, "Epoch that is written or followed"),
    Metric("undercroft.replication.fenced", Kind.GAUGE, "1 when a newer epoch was met, else 0"),
    Metric("undercroft.replication.connected", Kind.GAUGE, "1 while a secondary streams, else 0"),
    Metric("undercroft.replication.lag_records", Kind.GAUGE, "Records a secondary is behind"),
    Metric("undercroft.replication.lag_ms", Kind.GAUGE, "The same in milliseconds"),
    Metric("undercroft.replication.secondaries", Kind.GAUGE, "Secondaries connected to a primary"),
    Metric(
        "undercroft.replication.secondary_lag_records",
        Kind.GAUGE,
        "Records that the slowest connected secondary is behind",
    ),
    Metric(
        "undercroft.replication.divergences", Kind.GAUGE, "States that differed and were healed"
    ),
    Metric(
        "undercroft.replication.store_damaged",
        Kind.GAUGE,
        "1 while the store of a secondary has lost pages, else 0",
    ),
    Metric(
        "undercroft.replication.store_replacements",
        Kind.GAUGE,
        "How often such a store was replaced by a new copy",
    ),
    Metric(
        "undercroft.replication.shadowed_mounts",
        Kind.GAUGE,
        "Shared mounts that a local one of the same path hides",
    ),
    Metric("undercroft.replication.bytes_sent", Kind.GAUGE, "To the connected secondaries"),
    Metric("undercroft.replication.bytes_received", Kind.GAUGE, "From the primary, this session"),
    Metric("undercroft.process.restarts", Kind.COUNTER, "Child processes started again"),
)

# A summary's doubles: count, sum, sum of squares, least, greatest; a histogram's bounds follow.
_SUMMARY_SLOTS: Final = 5


def _slots_of(metric: Metric) -> int:
    if metric.kind is Kind.SUMMARY:
        return _SUMMARY_SLOTS
    if metric.kind is Kind.HISTOGRAM:
        return _SUMMARY_SLOTS + len(metric.bounds) + 1
    return 1


@dataclass(frozen=True)
class Sample:
    """A summary or histogram over all processes. `buckets` count up to each bound, cumulated."""

    count: float
    total: float
    squares: float
    least: float
    greatest: float
    buckets: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        if self.count < 2:
            return 0.0
        spread = (self.count * self.squares - self.total**2) / (self.count * (self.count - 1))
        return math.sqrt(max(0.0, spread))


class Metrics:
    """Made once, before the fork; then each process calls `attach` with a row of its own."""

    def __init__(self, processes: int = 1) -> None:
        self._slots: dict[Key, int] = {}
        self._bounds: dict[str, tuple[float, ...]] = {}
        self._gauges: list[int] = []
        width = 0
        for metric in TABLE:
            self._bounds[metric.name] = metric.bounds
            for values in product(*(values for _, values in metric.labels)):
                self._slots[metric.name, *values] = width
                if metric.kind is Kind.GAUGE:
                    self._gauges.append(width)
                width += _slots_of(metric)
        self._memory = mmap.mmap(-1, processes * width * 8)  # anonymous, shared with children
        cells = memoryview(self._memory).cast("d")
        self._rows = [cells[i * width : (i + 1) * width] for i in range(processes)]
        self._row = self._rows[0]

    def attach(self, row: int) -> None:
        """Write to this row from now on. What an earlier process counted in it stays."""
        self._row = self._rows[row]
        for slot in self._gauges:
            self._row[slot] = 0.0

    # writing; `key` is the name, or the name and the values of its labels

    def count(self, *key: str, by: float = 1.0) -> None:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._other(key)
        self._row[slot] += by

    def set(self, *key: str, to: float) -> None:
        self._row[self._slots[key]] = to

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add a measurement to a summary or histogram."""
        slot = self._slots.get((name, *labels))
        if slot is None:
            slot = self._other((name, *labels))
        row = self._row
        if not row[slot] or value < row[slot + 3]:
            row[slot + 3] = value
        if value > row[slot + 4]:
            row[slot + 4] = value
        row[slot] += 1.0
        row[slot + 1] += value
        row[slot + 2] += value * value
        bounds = self._bounds[name]
        if bounds:
            row[slot + _SUMMARY_SLOTS + bisect_left(bounds, value)] += 1.0

    def _other(self, key: Key) -> int:
        """A label's value that the table does not know; a name it does not know is our bug."""
        known = self._slots.get((*key[:-1], OTHER))
        if known is None:
            raise KeyError(f"no such metric: {key[0]}")
        return known

    # reading, over all processes

    def value(self, *key: str) -> float:
        slot = self._slots[key]
        return sum(row[slot] for row in self._rows)

    def sample(self, name: str, *labels: str) -> Sample:
        slot = self._slots[name, *labels]
        used = [row for row in self._rows if row[slot]]
        buckets, running = [], 0.0
        for i in range(len(self._bounds[name])):
            running += sum(row[slot + _SUMMARY_SLOTS + i] for row in used)
            buckets.append(running)
        return Sample(
            count=sum(row[slot] for row in used),
            total=sum(row[slot + 1] for row in used),
            squares=sum(row[slot + 2] for row in used),
            least=min((row[slot + 3] for row in used), default=0.0),
            greatest=max((row[slot + 4] for row in used), default=0.0),
            buckets=tuple(buckets),
        )


def _series(metric: Metric) -> Iterator[tuple[Key, dict[str, str]]]:
    names = [name for name, _ in metric.labels]
    for values in product(*(values for _, values in metric.labels)):
        yield (metric.name, *values), dict(zip(names, values, strict=True))


def prometheus(metrics: Metrics, known: Mapping[Key, float]) -> str:
    """The text format 0.0.4. `known` are gauges that are read off when asked for."""
    lines: list[str] = []
    for metric in TABLE:
        lines.append(f"# HELP {metric.prometheus_name} {metric.help}")
        lines.append(f"# TYPE {metric.prometheus_name} {metric.kind.value}")
        for key, labels in _series(metric):
            lines += _prometheus_series(metrics, metric, key, labels, known)
    return "\n".join(lines) + "\n"


def _prometheus_series(
    metrics: Metrics, metric: Metric, key: Key, labels: dict[str, str], known: Mapping[Key, float]
) -> list[str]:
    name = metric.prometheus_name
    if metric.kind in (Kind.COUNTER, Kind.GAUGE):
        value = known[key] if key in known else metrics.value(*key)
        return [f"{name}{_braces(labels)} {_number(value)}"]
    sample = metrics.sample(*key)
    if not sample.count and labels:
        return []  # most pairs of operation and engine never occur
    lines = [
        f"{name}_bucket{_braces({**labels, 'le': _number(bound)})} {_number(upto)}"
        for bound, upto in zip(metric.bounds, sample.buckets, strict=True)
    ]
    if metric.bounds:
        lines.append(f"{name}_bucket{_braces({**labels, 'le': '+Inf'})} {_number(sample.count)}")
    lines.append(f"{name}_sum{_braces(labels)} {_number(sample.total)}")
    lines.append(f"{name}_count{_braces(labels)} {_number(sample.count)}")
    return lines


def _braces(labels: Mapping[str, str]) -> str:
    """Every value stands in `TABLE`, so none needs escaping."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def as_json(
    metrics: Metrics, known: Mapping[Key, float], now_ms: int, started_ms: int
) -> dict[str, Any]:
    """Vault's JSON. Its samples are of ten seconds; ours of the time since the node started."""
    seconds = max(1.0, (now_ms - started_ms) / 1000)
    shown: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in Kind}
    for metric in TABLE:
        for key, labels in _series(metric):
            if metric.kind is Kind.GAUGE:
                value = known[key] if key in known else metrics.value(*key)
                shown[Kind.GAUGE].append({"Name": metric.name, "Value": value, "Labels": labels})
                continue
            if metric.kind is Kind.COUNTER:
                total = metrics.value(*key)
                sample = Sample(total, total, total, 1.0, 1.0)
            else:
                sample = metrics.sample(*key)
            if sample.count:
                described = _described(metric.name, labels, sample, seconds)
                kind = Kind.COUNTER if metric.kind is Kind.COUNTER else Kind.SUMMARY
                shown[kind].append(described)
    moment = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    return {
        "Timestamp": moment,
        "Gauges": shown[Kind.GAUGE],
        "Points": [],
        "Counters": shown[Kind.COUNTER],
        "Samples": shown[Kind.SUMMARY],
    }


def _described(name: str, labels: dict[str, str], sample: Sample, seconds: float) -> dict[str, Any]:
    return {
        "Name": name,
        "Count": int(sample.count),
        "Rate": sample.total / seconds,
        "Sum": sample.total,
        "Min": sample.least,
        "Max": sample.greatest,
        "Mean": sample.mean,
        "Stddev": sample.deviation,
        "Labels": labels,
    }


def table_markdown() -> str:
    """The table of docs/metrics.md."""
    lines = ["| metric | kind | labels | what |", "|---|---|---|---|"]
    for metric in TABLE:
        labels = "; ".join(f"{name}: {', '.join(values)}" for name, values in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {labels or '–'} | {metric.help} |")
    return "\n".join(lines) + "\n"
