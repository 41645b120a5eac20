"""sys/health, sys/leader, sys/ha-status, sys/version-history: how this node is, from its state.

Health answers while sealed and uninitialised, to anyone, and quickly: load balancers ask it every
second. Its status code is what most of them look at; the first row of `_status` that fits wins.
"""

import socket
from typing import Any, Final

import msgspec

from undercroft import __version__
from undercroft.durations import rfc3339
from undercroft.engines.base import Call, Field, Route, lists, reads
from undercroft.errors import InvalidRequest
from undercroft.node.state import NodeState
from undercroft.replication.role import DISABLED, SECONDARY
from undercroft.request.model import RawBody, Response
from undercroft.storage.keys import OWN, SYSTEM
from undercroft.storage.view import Snapshot, Space

_JSON: Final = "application/json"
VERSIONS: Final = "versions/"
_TRUE: Final = ("", "1", "t", "T", "true", "TRUE", "True")
_FALSE: Final = ("0", "f", "F", "false", "FALSE", "False")

_encode: Final = msgspec.json.Encoder().encode

# Which parameter gives another code for which state, and the state's own code.
_CODES: Final = {
    "activecode": 200,
    "standbycode": 429,
    "drsecondarycode": 472,
    "performancestandbycode": 473,
    "haunhealthycode": 474,
    "uninitcode": 501,
    "sealedcode": 503,
    "removedcode": 530,
}


def health(call: Call) -> Response:
    """Vault's API path /sys/health; HEAD asks for the code alone, and the edge drops the body."""
    state = call.services.state
    try:
        status = _status(state, call.request.query)
    except InvalidRequest:
        return Response(raw=RawBody(400, _JSON, b'{"errors":[]}\n'))
    return Response(raw=RawBody(status, _JSON, _encode(_health(call)) + b"\n"))


def _status(state: NodeState, query: dict[str, str]) -> int:
    """Raises InvalidRequest for a code or flag that is none."""
    codes = {name: _code(query[name]) if name in query else code for name, code in _CODES.items()}
    standby_ok, performance_ok = _asked(query, "standbyok"), "perfstandbyok" in query
    if not state.initialized:
        return codes["uninitcode"]
    if state.sealed:
        return codes["sealedcode"]
    if state.removed:
        return codes["removedcode"]
    if state.dr_mode == "secondary":
        return codes["drsecondarycode"]
    if state.performance_standby and not performance_ok:
        return codes["performancestandbycode"]
    if (state.standby or state.performance_standby) and not state.ha_healthy:
        return codes["haunhealthycode"]
    if state.standby and not standby_ok:
        return codes["standbycode"]
    if state.performance_mode == "bootstrapping":  # its first copy is not whole yet
        return codes["sealedcode"]
    return codes["activecode"]


def _code(text: str) -> int:
    """Codes below 200 would not be an answer, and there are none above 599."""
    if not text.isascii() or not text.isdigit() or not 200 <= int(text) <= 599:
        raise InvalidRequest("not a status code")
    return int(text)


def _asked(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "0")
    if value not in _TRUE + _FALSE:
        raise InvalidRequest(f"{name} must be true or false")
    return value in _TRUE


def _last_wal(call: Call) -> int:
    """Of any kind, as replication's status has it."""
    return max(position.seq for position in call.view.positions())


def _canary_age_ms(call: Call) -> int:
    """How old the primary's news are on a secondary; 0 elsewhere."""
    status = call.services.replication
    peers = status.peers if status.mode == call.services.state.performance_mode == SECONDARY else ()
    return max((peer.canary_age_ms for peer in peers), default=0)


def _health(call: Call) -> dict[str, Any]:
    state = call.services.state
    sealed = state.sealed or not state.initialized
    shown: dict[str, Any] = {
        "initialized": state.initialized,
        "sealed": sealed,
        "standby": sealed or state.standby,
        "performance_standby": state.performance_standby,
        "replication_performance_mode": "unknown" if sealed else state.performance_mode,
        "replication_dr_mode": "unknown" if sealed else state.dr_mode,
        "server_time_utc": call.now_ms // 1000,
        "version": call.request.unless_redacted("version", __version__),
        "enterprise": False,
        "echo_duration_ms": 0,
        "clock_skew_ms": 0,
        "replication_primary_canary_age_ms": 0 if sealed else _canary_age_ms(call),
    }
    if not sealed:
        shown["cluster_name"] = call.request.unless_redacted("cluster_name", state.cluster_name)
        shown["cluster_id"] = state.cluster_id
        if not state.standby and (last_wal := _last_wal(call)):
            shown["last_wal"] = last_wal
        if state.standby or state.performance_standby:
            shown["ha_connection_healthy"] = state.ha_healthy
        if state.fenced:
            shown["fenced"] = True
    if state.removed:
        shown["removed_from_cluster"] = True
    return shown


def leader(call: Call) -> Response:
    """Without high availability there is no leader, as in Vault.

    The addresses are there all the same while the cluster replicates: whoever waits for a secondary
    looks for the primary's among those that the secondary knows.
    """
    state = call.services.state
    replicates = not state.sealed and state.performance_mode != DISABLED
    address = call.request.unless_redacted
    shown: dict[str, Any] = {
        "ha_enabled": False,
        "is_self": False,
        "active_time": rfc3339(0),
        "leader_address": address("addresses", state.api_addr) if replicates else "",
        "leader_cluster_address": address("addresses", state.cluster_addr) if replicates else "",
        "performance_standby": state.performance_standby,
        "performance_standby_last_remote_wal": 0,
    }
    if last_wal := _last_wal(call):
        shown["last_wal"] = last_wal
    return Response(raw=RawBody(200, _JSON, _encode(shown) + b"\n"))


def ha_status(call: Call) -> Response:
    state = call.services.state
    node = {
        "hostname": socket.gethostname(),
        "api_address": state.api_addr,
        "cluster_address": state.cluster_addr,
        "active_node": not state.standby,
        "last_echo": None,
        "version": __version__,
        "upgrade_version": __version__,
        "redundancy_zone": "",
        "echo_duration_ms": 0,
        "clock_skew_ms": 0,
        "replication_primary_canary_age_ms": 0,
    }
    return Response({"nodes": [node]}, repeat_data=True)


class InstalledVersion(msgspec.Struct, frozen=True):
    """When a version first ran here, and which one it followed."""

    installed_ms: int
    previous: str = ""


def remember_version(tx: Snapshot, now_ms: int, version: str = __version__) -> None:
    """Called by the writer when the node is unsealed."""
    versions = Space(tx, OWN, SYSTEM)
    if versions.exists(VERSIONS + version):
        return
    versions.write(VERSIONS + version, InstalledVersion(now_ms, _last_version(versions)))


def _last_version(versions: Space) -> str:
    known = _known_versions(versions)
    return max(known, key=lambda name: known[name].installed_ms, default="")


def _known_versions(versions: Space) -> dict[str, InstalledVersion]:
    found = {name: versions.read(VERSIONS + name, InstalledVersion) for name in _names(versions)}
    return {name: entry for name, entry in found.items() if entry is not None}


def _names(versions: Space) -> list[str]:
    return versions.list(VERSIONS)


def version_history(call: Call) -> Response:
    known = _known_versions(Space(call.view, OWN, SYSTEM))
    keys = sorted(known, key=lambda name: known[name].installed_ms)
    info = {
        name: {
            "previous_version": known[name].previous or None,
            "timestamp_installed": rfc3339(known[name].installed_ms),
        }
        for name in keys
    }
    return Response({"keys": keys, "key_info": info})


_HEALTH_FIELDS: Final = (
    Field("standbyok", doc="Answer for a standby as for an active node."),
    Field("perfstandbyok", doc="Answer for a performance standby as for an active node."),
    *(Field(name, doc=f"Status code instead of {code}.") for name, code in _CODES.items()),
)

ROUTES: Final = (
    Route(
        "health",
        reads(health, summary="Returns the health status of the server."),
        fields=_HEALTH_FIELDS,
        open=True,
        sealed=True,
        raw_body=True,
        summary="Checks the health status of the server.",
        description="The status code tells the node's state; parameters replace single codes.",
    ),
    Route(
        "leader",
        reads(leader, summary="Returns the high availability status and current leader."),
        open=True,
        summary="Who leads this cluster of nodes.",
    ),
    Route(
        "ha-status",
        reads(ha_status, summary="Returns the nodes of this cluster."),
        summary="The nodes of a high availability cluster.",
    ),
    Route(
        "version-history",
        lists(version_history, summary="Returns which versions have run here, and since when."),
        summary="Versions that this cluster has run.",
    ),
)
