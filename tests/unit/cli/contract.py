"""A server that plays answers of the replication contract, in the order in which they are given."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATUS = "sys/replication/performance/status"
PRIMARY = "sys/replication/performance/primary"
SECONDARY = "sys/replication/performance/secondary"


@dataclass
class Reply:
    """`data` goes into the usual envelope; with neither data nor warnings a 204 has no body."""

    data: Any = None
    status: int = 200
    warnings: tuple[str, ...] = ()
    wrap_info: Any = None
    errors: tuple[str, ...] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        if self.status == 204:
            return b""
        if self.errors is not None:
            return json.dumps({"errors": self.errors}).encode()
        envelope = {
            "request_id": "00000000-0000-4000-8000-000000000000",
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "data": self.data,
            "wrap_info": self.wrap_info,
            "warnings": list(self.warnings) or None,
            "auth": None,
        }
        return json.dumps(envelope).encode()


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    body: Any
    token: str


@dataclass
class Contract:
    """`plays` by `METHOD path`: replies used up in turn, the last of them again and again."""

    address: str = ""
    plays: dict[str, list[Reply]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def play(self, call: str, *replies: Reply) -> None:
        self.plays[call] = list(replies)

    def status(self, *data: dict[str, Any]) -> None:
        self.play(f"GET {STATUS}", *map(Reply, data))

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        replies = self.plays.get(f"{seen.method} {seen.path}")
        if not replies:
            return Reply(status=404, errors=("unsupported path",))
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def changes(self) -> list[tuple[str, str, Any]]:
        """What was asked for, besides the status."""
        return [(s.method, s.path, s.body) for s in self.seen if not s.path.endswith("status")]


@contextmanager
def playing() -> Iterator[Contract]:
    contract = Contract()

    class Handler(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Callable[[], None]:
            """`do_GET` and its like."""
            if name.startswith("do_"):
                return self._reply
            raise AttributeError(name)

        def _reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = self.path.removeprefix("/v1/").partition("?")[0]
            token = self.headers.get("X-Vault-Token", "")
            reply = contract.answer(Seen(self.command, path, body, token))
            payload = reply.body()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        contract.address = f"http://127.0.0.1:{server.server_port}"
        yield contract
        server.shutdown()


def primary(**more: Any) -> dict[str, Any]:
    """A status as section 4 of the contract has it, of a primary with one secondary."""
    return {
        "mode": "primary",
        "state": "running",
        "cluster_id": "0b6c2b9e-6f0d-4d0f-9a39-6a2f3a3f7c11",
        "primary_cluster_addr": "",
        "merkle_root": "5f0c",
        "known_secondaries": ["osaka", "porto"],
        "secondaries": [
            {
                "node_id": "osaka",
                "api_address": "https://10.2.0.4:8200",
                "cluster_address": "https://10.2.0.4:8201",
                "connection_status": "connected",
                "last_heartbeat": "2031-04-02T09:15:07Z",
                "last_heartbeat_duration_ms": "41",
                "clock_skew_ms": "2",
                "replication_primary_canary_age_ms": "180",
                "last_remote_wal": 90405,
                "state": "stream-wals",
                "token_state": "active",
            }
        ],
        "last_wal": 90420,
        "last_performance_wal": 90417,
        "last_dr_wal": 0,
        "corrupted_merkle_tree": False,
        "last_corruption_check_epoch": "-62135596800",
        "last_reindex_epoch": "0",
        "ssct_generation_counter": 0,
        "epoch": 3,
        "fenced": False,
        "state_reason": "",
        "quarantined_records": 0,
        **more,
    }


def secondary(**more: Any) -> dict[str, Any]:
    return {
        "mode": "secondary",
        "state": "stream-wals",
        "connection_state": "ready",
        "cluster_id": "0b6c2b9e-6f0d-4d0f-9a39-6a2f3a3f7c11",
        "secondary_id": "osaka",
        "known_primary_cluster_addrs": ["https://10.1.0.4:8201"],
        "primary_cluster_addr": "https://uc.lisbon.example:8201",
        "last_remote_wal": 90405,
        "merkle_root": "5f0c",
        "last_reindex_epoch": "0",
        "corrupted_merkle_tree": False,
        "last_corruption_check_epoch": "-62135596800",
        "ssct_generation_counter": 0,
        "primaries": [
            {
                "api_address": "https://10.1.0.4:8200",
                "cluster_address": "https://10.1.0.4:8201",
                "connection_status": "connected",
                "last_heartbeat": "2031-04-02T09:15:07Z",
                "last_heartbeat_duration_ms": "41",
                "clock_skew_ms": "2",
                "replication_primary_canary_age_ms": "180",
            }
        ],
        "epoch": 3,
        "lag_records": 12,
        "lag_ms": 180,
        "state_reason": "",
        "quarantined_records": 0,
        **more,
    }


def detached(**more: Any) -> dict[str, Any]:
    lost = {"primaries": [], "known_primary_cluster_addrs": [], "secondary_id": ""}
    unknown = {"lag_records": None, "lag_ms": None}
    return secondary(state="idle", connection_state="idle", **lost, **unknown) | more


def syncing(done: int, total: int) -> dict[str, Any]:
    progress = {"sync_progress": done, "sync_total_keys": total}
    return secondary(
        mode="bootstrapping", state="merkle-sync", merkle_sync_progress=progress, lag_records=None
    )
