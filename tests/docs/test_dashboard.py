"""The Grafana dashboard asks for metrics that there are."""

import json
import re
from pathlib import Path

from undercroft.observe.metrics import TABLE

DASHBOARD = Path(__file__).parents[2] / "contrib" / "grafana" / "replication.json"
FUNCTIONS = {"deriv", "increase"}


def test_every_panel_shows_metrics_of_this_server() -> None:
    known = {metric.prometheus_name for metric in TABLE}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 5
    for panel in panels:
        for target in panel["targets"]:
            names = set(re.findall(r"[a-z_]{4,}", target["expr"])) - FUNCTIONS
            assert names, target
            assert names <= known, target
