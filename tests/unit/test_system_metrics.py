"""sys/metrics: Prometheus text or Vault's JSON."""

import msgspec
import pytest

from tests.unit.node import SYS, call_on, mount
from undercroft.engines.system.metrics import read
from undercroft.node.state import NodeState
from undercroft.observe.metrics import Metrics
from undercroft.request.model import RawBody

MOUNTS = (SYS, mount("kv/", "kv"), mount("auth/token/", "token"))


def answer(query: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> RawBody:
    metrics = Metrics()
    metrics.count("undercroft.commit.count", by=9)
    state = NodeState(initialized=True, sealed=False)
    call = call_on(query=query, headers=headers, metrics=metrics, mounts=MOUNTS, state=state)
    response = read(call)
    assert response.raw is not None
    return response.raw


def test_prometheus_on_demand_by_parameter_or_header() -> None:
    by_parameter = answer({"format": "prometheus"})
    by_header = answer(headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert by_parameter == by_header
    assert by_parameter.content_type == "text/plain; version=0.0.4; charset=utf-8"
    text = by_parameter.body.decode()
    assert "undercroft_commit_count 9\n" in text
    assert "vault_core_unsealed 1\n" in text
    assert "vault_core_unsealed 1\n" in text
    assert 'vault_core_mount_table_num_entries{type="logical",local="false"} 2\n' in text
    assert 'vault_core_mount_table_num_entries{type="auth",local="false"} 1\n' in text


def test_json_otherwise() -> None:
    shown = answer()
    assert (shown.status, shown.content_type) == (200, "application/json")
    decoded = msgspec.json.decode(shown.body)
    assert decoded["Counters"][0]["Name"] == "undercroft.commit.count"


@pytest.mark.parametrize("name", ["xml", "canary\n"])
def test_another_format_is_refused_without_repeating_it(name: str) -> None:
    shown = answer({"format": name})
    assert shown.status == 400
    assert name.encode() not in shown.body
