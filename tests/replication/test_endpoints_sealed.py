"""Replication's endpoints of a sealed cluster."""

from pathlib import Path

from tests.replication.clusters import AT, errors, ok
from tests.replication.pair import status
from tests.support.undercroft import disk_server


def test_a_sealed_cluster_answers_health_and_nothing_of_replication(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        client = server.client
        ok(client, "primary/enable")
        before = status(client)
        assert client.request("POST", "sys/seal").status == 204
        for method, path in (
            ("GET", "sys/replication/status"),
            ("GET", "sys/replication/dr/status"),
            ("GET", f"{AT}/status"),
            ("POST", f"{AT}/primary/demote"),
            ("GET", f"{AT}/primary/secondary-token?id=osaka"),
            ("GET", "sys/replication/quarantine"),
        ):
            answer = client.request(method, path)
            assert answer.status == 503, path
            assert "Vault is sealed" in errors(answer)
        health = client.request("GET", "sys/health", token="")
        assert health.status == 503
        assert health.body["replication_performance_mode"] == "unknown"
        assert health.body["replication_dr_mode"] == "unknown"
        server.unseal()
        after = status(client)
        assert (after["mode"], after["cluster_id"]) == ("primary", before["cluster_id"])
