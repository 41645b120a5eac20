"""Metrics: counted in any process, summed by any other, and none that a client can make up."""

import math
import os
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.observe.metrics import (
    TABLE,
    Kind,
    Metrics,
    as_json,
    prometheus,
    table_markdown,
)

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def in_child(metrics: Metrics, row: int) -> int:
    pid = os.fork()
    if pid == 0:
        metrics.attach(row)
        metrics.count("undercroft.commit.count", by=2)
        metrics.set("undercroft.writer.queue", to=5)
        metrics.observe("undercroft.commit.batch", 3)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_what_children_count_is_summed_and_outlives_them() -> None:
    metrics = Metrics(processes=3)
    metrics.count("undercroft.commit.count")
    assert [in_child(metrics, row) for row in (1, 2, 1)] == [0, 0, 0]
    assert metrics.value("undercroft.commit.count") == 7
    assert metrics.value("undercroft.writer.queue") == 10
    assert metrics.sample("undercroft.commit.batch").count == 3


def test_a_child_that_starts_again_keeps_counters_and_begins_with_empty_gauges() -> None:
    metrics = Metrics(processes=2)
    in_child(metrics, 1)
    metrics.attach(1)
    assert metrics.value("undercroft.commit.count") == 2
    assert metrics.value("undercroft.writer.queue") == 0


def test_a_row_of_its_own_is_needed() -> None:
    with pytest.raises(IndexError):
        Metrics(processes=2).attach(2)


@given(st.lists(st.floats(0, 1000, allow_subnormal=False), min_size=1, max_size=30))
def test_a_summary_tells_count_sum_extremes_mean_and_deviation(values: list[float]) -> None:
    metrics = Metrics(processes=3)
    for i, value in enumerate(values):
        metrics.attach(i % 3)
        metrics.observe("vault.core.handle_request", value)
    sample = metrics.sample("vault.core.handle_request")
    assert sample.count == len(values)
    assert (sample.least, sample.greatest) == (min(values), max(values))
    assert math.isclose(sample.mean, statistics.fmean(values), abs_tol=1e-9)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    assert math.isclose(sample.deviation, spread, rel_tol=1e-3, abs_tol=1e-2)


@given(st.lists(st.floats(0, 600), max_size=30))
def test_a_histograms_buckets_count_what_is_at_most_their_bound(values: list[float]) -> None:
    metrics = Metrics()
    for value in values:
        metrics.observe("undercroft.commit.batch", value)
    bounds = next(m.bounds for m in TABLE if m.name == "undercroft.commit.batch")
    sample = metrics.sample("undercroft.commit.batch")
    assert sample.buckets == tuple(sum(v <= b for v in values) for b in bounds)


def test_a_labels_value_that_is_not_in_the_table_is_counted_as_other() -> None:
    metrics = Metrics()
    metrics.observe("vault.route", 1.0, "read", "canary-engine")
    assert metrics.sample("vault.route", "read", "other").count == 1
    assert "canary" not in prometheus(metrics, {})


def test_a_metric_that_is_not_in_the_table_is_a_bug() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.count("undercroft.nothing")
    with pytest.raises(KeyError):
        metrics.count("undercroft.http.requests", "canary")
    with pytest.raises(KeyError):
        metrics.observe("undercroft.nothing", 1.0)


SAMPLE = re.compile(r'([a-zA-Z_]+)(\{([a-z_]+="[A-Za-z0-9.+_-]*",?)+\})? (-?[0-9.e+-]+)')


def test_prometheus_text_is_well_formed_and_every_metric_is_in_it() -> None:
    metrics = Metrics()
    metrics.count("undercroft.http.requests", "2xx", by=3)
    metrics.observe("undercroft.commit.seconds", 0.002)
    metrics.observe("vault.route", 0.25, "read", "kv")
    text = prometheus(metrics, {("vault.core.unsealed",): 1.0})
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line
    for metric in TABLE:
        assert f"# TYPE {metric.prometheus_name} {metric.kind.value}\n" in text
    assert "vault_core_unsealed 1\n" in text
    assert 'undercroft_http_requests{code="2xx"} 3\n' in text
    assert 'undercroft_commit_seconds_bucket{le="0.001"} 0\n' in text
    assert 'undercroft_commit_seconds_bucket{le="0.0025"} 1\n' in text
    assert 'undercroft_commit_seconds_bucket{le="+Inf"} 1\n' in text
    assert "undercroft_commit_seconds_sum 0.002\n" in text
    assert 'vault_route_count{operation="read",engine="kv"} 1\n' in text
    assert 'operation="list"' not in text


def test_json_has_vaults_shape() -> None:
    metrics = Metrics()
    metrics.count("undercroft.commit.count", by=4)
    metrics.observe("vault.core.handle_request", 2.0)
    metrics.observe("vault.core.handle_request", 4.0)
    shown = as_json(metrics, {("vault.core.active",): 1.0}, 1_790_000_010_000, 1_790_000_000_000)
    assert list(shown) == ["Timestamp", "Gauges", "Points", "Counters", "Samples"]
    assert shown["Timestamp"] == "2026-09-21 14:13:30 +0000 UTC"
    assert {"Name": "vault.core.active", "Value": 1.0, "Labels": {}} in shown["Gauges"]
    (counter,) = shown["Counters"]
    assert (counter["Name"], counter["Count"]) == ("undercroft.commit.count", 4)
    (sample,) = shown["Samples"]
    assert sample == {
        "Name": "vault.core.handle_request",
        "Count": 2,
        "Rate": 0.6,
        "Sum": 6.0,
        "Min": 2.0,
        "Max": 4.0,
        "Mean": 3.0,
        "Stddev": pytest.approx(math.sqrt(2)),
        "Labels": {},
    }


def test_names_are_unique_and_of_the_two_families() -> None:
    names = [metric.name for metric in TABLE]
    assert len(set(names)) == len(names)
    assert all(name.startswith(("vault.", "undercroft.")) for name in names)
    assert all(metric.bounds == tuple(sorted(metric.bounds)) for metric in TABLE)
    assert all(bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM) for metric in TABLE)


def test_the_documentation_has_the_table() -> None:
    assert table_markdown() in DOCS.read_text()
