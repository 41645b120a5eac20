"""sys/metrics: the numbers of the whole node, for Prometheus or as Vault's JSON."""

from typing import Final

import msgspec

from undercroft.engines.base import Call, Field, Route, reads
from undercroft.observe.metrics import Key, as_json, prometheus
from undercroft.request.model import RawBody, Response

_PROMETHEUS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_encode: Final = msgspec.json.Encoder().encode


def read(call: Call) -> Response:
    metrics, known, state = call.services.metrics, _known(call), call.services.state
    form = call.request.query.get("format", "")
    if not form and call.request.headers.get("accept", "").startswith("application/openmetrics"):
        form = "prometheus"
    if form == "prometheus":
        body = prometheus(metrics, known).encode()
        return Response(raw=RawBody(200, _PROMETHEUS_TYPE, body))
    if form:
        error = b"metric response format unknown; supported: prometheus, or none for JSON"
        return Response(raw=RawBody(400, "text/plain; charset=utf-8", error))
    shown = as_json(metrics, known, call.now_ms, state.started_ms)
    return Response(raw=RawBody(200, "application/json", _encode(shown)))


def _known(call: Call) -> dict[Key, float]:
    """Gauges that nobody keeps, because they can be read off."""
    state = call.services.state
    known: dict[Key, float] = {
        ("vault.core.unsealed",): float(not state.sealed),
        ("vault.core.active",): float(not (state.sealed or state.standby)),
    }
    name = "vault.core.mount_table.num_entries"
    for kind in ("auth", "logical"):
        for local in ("true", "false"):
            known[name, kind, local] = 0.0
    for mount in call.services.mounts.table(call.view).mounts.values():
        kind = "auth" if mount.path.startswith("auth/") else "logical"
        known[name, kind, "true" if mount.local else "false"] += 1
    return known


ROUTES: Final = (
    Route(
        "metrics",
        reads(read, summary="Export the metrics of all processes of the node."),
        fields=(Field("format", doc="`prometheus` for its text format; JSON without."),),
        raw_body=True,
        summary="Export the metrics.",
    ),
)
