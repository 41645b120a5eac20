"""sys/health, sys/leader, sys/ha-status, sys/version-history."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from tests.unit.node import NOW_MS, call_on, committed, open_store
from undercroft.engines.base import Call
from undercroft.engines.system.health import (
    ROUTES,
    ha_status,
    health,
    leader,
    remember_version,
    version_history,
)
from undercroft.node.state import NodeState
from undercroft.request.model import RawBody, Response
from undercroft.storage.wal import Position

ACTIVE = NodeState(initialized=True, sealed=False, cluster_name="c", cluster_id="id")


def raw(response: Response) -> RawBody:
    assert response.raw is not None
    return response.raw


class Log:
    """A view, as far as these paths look at it."""

    def __init__(self, shared: int, own: int) -> None:
        self._ends = Position(0, own, b""), Position(0, shared, b"")

    def positions(self) -> tuple[Position, Position]:
        return self._ends


def asked(
    state: NodeState, shared: int = 0, own: int = 0, query: dict[str, str] | None = None
) -> Call:
    return call_on(cast(Any, Log(shared, own)), state=state, query=query)


def code(state: NodeState, **query: str) -> int:
    return raw(health(asked(state, query=query))).status


def body(state: NodeState, shared: int = 0, own: int = 0) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(raw(health(asked(state, shared, own))).body)
    return decoded


def but(**changes: Any) -> NodeState:
    return msgspec.structs.replace(ACTIVE, **changes)


STATES = {
    "activecode": (200, ACTIVE),
    "uninitcode": (501, NodeState()),
    "sealedcode": (503, but(sealed=True)),
    "removedcode": (530, but(removed=True)),
    "drsecondarycode": (472, but(dr_mode="secondary", standby=True)),
    "performancestandbycode": (473, but(performance_standby=True)),
    "haunhealthycode": (474, but(standby=True, ha_healthy=False)),
    "standbycode": (429, but(standby=True)),
}


@pytest.mark.parametrize("parameter", STATES)
def test_each_state_has_its_code_and_its_parameter_and_no_other_parameter_changes_it(
    parameter: str,
) -> None:
    expected, state = STATES[parameter]
    assert code(state) == expected
    assert code(state, **{parameter: "299"}) == 299
    others = {other: "298" for other in STATES if other != parameter}
    assert code(state, **others) == expected


def test_the_first_condition_that_fits_decides() -> None:
    assert code(NodeState(sealed=True, removed=True)) == 501
    assert code(but(sealed=True, removed=True)) == 503
    assert code(but(removed=True, dr_mode="secondary")) == 530
    assert code(but(dr_mode="secondary", performance_standby=True)) == 472


def test_standbyok_and_perfstandbyok_answer_as_for_an_active_node() -> None:
    for value in ("", "true", "1"):
        assert code(but(standby=True), standbyok=value) == 200
    assert code(but(standby=True), standbyok="false") == 429
    assert code(but(performance_standby=True), perfstandbyok="") == 200
    assert code(but(standby=True), standbyok="", activecode="250") == 250


def test_a_broken_link_to_the_active_node_wins_over_standbyok() -> None:
    assert code(but(standby=True, ha_healthy=False), standbyok="true") == 474


def test_a_secondary_in_its_first_copy_is_not_ready_and_a_fenced_primary_serves_reads() -> None:
    assert code(but(performance_mode="bootstrapping")) == 503
    assert code(but(performance_mode="primary", fenced=True)) == 200
    assert body(but(performance_mode="primary", fenced=True))["fenced"] is True


@pytest.mark.parametrize("value", ["abc", "", "-1", "99", "199", "600", "1000", "2e2", "٢٠٠"])
def test_a_code_that_is_none_is_refused_without_repeating_it(value: str) -> None:
    answer = raw(health(asked(ACTIVE, query={"activecode": value})))
    assert (answer.status, answer.body) == (400, b'{"errors":[]}\n')
    assert code(NodeState(), sealedcode=value) == 400


def test_the_body_says_it_all() -> None:
    assert body(ACTIVE, shared=7, own=5) == {
        "initialized": True,
        "sealed": False,
        "standby": False,
        "performance_standby": False,
        "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled",
        "server_time_utc": NOW_MS // 1000,
        "version": body(ACTIVE)["version"],
        "enterprise": False,
        "echo_duration_ms": 0,
        "clock_skew_ms": 0,
        "replication_primary_canary_age_ms": 0,
        "cluster_name": "c",
        "cluster_id": "id",
        "last_wal": 7,
    }
    assert body(ACTIVE, shared=7, own=9)["last_wal"] == 9
    assert "last_wal" not in body(ACTIVE)
    assert "last_wal" not in body(but(standby=True), shared=7)
    assert body(but(standby=True))["ha_connection_healthy"] is True


def test_sealed_it_tells_neither_cluster_nor_modes() -> None:
    for state in (but(sealed=True, cluster_name=""), NodeState()):
        shown = body(state, shared=7)
        assert shown["standby"] is True
        assert shown["replication_performance_mode"] == shown["replication_dr_mode"] == "unknown"
        assert not {"cluster_name", "cluster_id", "last_wal"} & set(shown)


def test_health_needs_neither_token_nor_unsealing_and_leader_needs_unsealing() -> None:
    routes = {route.pattern: route for route in ROUTES}
    assert (routes["health"].open, routes["health"].sealed) == (True, True)
    assert (routes["leader"].open, routes["leader"].sealed) == (True, False)
    assert not routes["ha-status"].open


def test_leader_says_that_there_is_no_high_availability() -> None:
    shown = msgspec.json.decode(raw(leader(asked(ACTIVE, shared=3))).body)
    assert shown["ha_enabled"] is False
    assert shown["active_time"] == "0001-01-01T00:00:00Z"
    assert shown["last_wal"] == 3


def test_ha_status_names_this_node() -> None:
    response = ha_status(call_on(state=but(api_addr="https://a:8200")))
    assert response.repeat_data
    (node,) = response.data["nodes"]
    assert (node["api_address"], node["active_node"], node["last_echo"]) == (
        "https://a:8200",
        True,
        None,
    )


def test_version_history_remembers_when_a_version_first_ran(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for moment, version in ((1000, "0.1.0"), (5000, "0.10.0"), (9000, "0.1.0")):
        with committed(store) as tx:
            remember_version(tx, moment, version)
    with store.snapshot() as view:
        data = version_history(call_on(view)).data
    store.close()
    assert data["keys"] == ["0.1.0", "0.10.0"]
    assert data["key_info"]["0.10.0"] == {
        "previous_version": "0.1.0",
        "timestamp_installed": "1970-01-01T00:00:05Z",
    }
    assert data["key_info"]["0.1.0"]["previous_version"] is None
