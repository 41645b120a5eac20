"""What a secondary hands on to its primary, seen from both audits."""

import json
from pathlib import Path

from tests.replication.pair import join, prepare
from tests.support.undercroft import disk_server


def _device(path: Path) -> str:
    return f'audit "file" "main" {{ options {{ file_path = "{path}" }} }}'


def _ids(log: Path, path: str) -> list[tuple[str, str]]:
    """Type and request id of every line about the path."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = [line for line in lines if line["request"]["path"] == path]
    return [(line["type"], line["request"]["id"]) for line in found]


def test_conv_39_a_forwarded_request_has_one_id_in_both_audits(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("primary", "secondary")]
    for home in homes:
        home.mkdir()
    logs = [home / "audit.log" for home in homes]
    with (
        disk_server(homes[0], _device(logs[0])) as primary,
        disk_server(homes[1], _device(logs[1])) as secondary,
    ):
        prepare(primary.client)
        enabled = primary.client.request("POST", "sys/replication/performance/primary/enable")
        assert enabled.status == 200
        join(primary.client, secondary, "osaka")
        wrote = secondary.client.request("POST", "secret/data/conv39", {"data": {"a": 1}})
        assert wrote.status == 200
        request_id = wrote.body["request_id"]
        assert _ids(logs[0], "secret/data/conv39") == [
            ("request", request_id),
            ("response", request_id),
        ]
        assert _ids(logs[1], "secret/data/conv39") == [
            ("request", request_id),
            ("response", request_id),
        ]
