"""sys/replication/status, and the repairs.

Status is open to anyone, so nothing secret is in it, and cheap: it is what the replicator reported
last, with the positions of the request's own snapshot.
"""

import base64
import threading
import time
from typing import Any, Final

import msgspec

from undercroft.durations import rfc3339
from undercroft.engines.base import Call
from undercroft.engines.system.replication.primary import token_states
from undercroft.errors import InvalidRequest, Unavailable
from undercroft.replication import activation, quarantine
from undercroft.replication.control import RECHECK, REINDEX, Question
from undercroft.replication.role import (
    DISABLED,
    PRIMARY,
    Role,
    read_checks,
    read_role,
    write_checks,
)
from undercroft.replication.status import READY, PeerStatus, ReplicationStatus
from undercroft.request.model import Response
from undercroft.storage.verify import Report, examine

_NEVER_CHECKED: Final = "-62135596800"
_BREATH_SECONDS: Final = 0.001  # between two slices of a check
_checking: Final = threading.Lock()
_REINDEXING: Final = (
    "Reindexing runs in the background while reads and writes go on; status tells how far it is, "
    "and last_reindex_epoch when it is over. A restart of the server ends it: call it again then."
)


def both(call: Call) -> Response:
    return Response(
        {"dr": {"mode": DISABLED}, "performance": shown(call)}, status=200, repeat_data=False
    )


def performance(call: Call) -> Response:
    return Response(shown(call), status=200)


def disaster_recovery(call: Call) -> Response:
    return Response({"mode": DISABLED}, status=200)


def shown(call: Call) -> dict[str, Any]:
    """Vault's fields and ours, for the role as it is stored."""
    role = read_role(call.view)
    if role.mode == DISABLED:
        return {"mode": DISABLED}
    status = call.services.replication
    if status.mode != role.mode:  # of the role before: what it says of others counts no more
        status = ReplicationStatus(
            mode=role.mode, root=status.root, root_seq=status.root_seq, reindex=status.reindex
        )
    _, shared = call.view.positions()
    checks = read_checks(call.view)
    common: dict[str, Any] = {
        "mode": role.mode,
        "state": "running" if role.mode == PRIMARY else status.state,
        "cluster_id": role.set_id,
        "merkle_root": status.root.hex(),
        "merkle_root_wal": status.root_seq,
        "corrupted_merkle_tree": checks.corrupted or bool(status.damage),
        "last_corruption_check_epoch": str(checks.checked_ms // 1000)
        if checks.checked_ms
        else _NEVER_CHECKED,
        "last_reindex_epoch": str(checks.reindexed_ms // 1000),
        "ssct_generation_counter": 0,
        "epoch": shared.epoch,
        "fenced": role.fence is not None,
        "state_reason": status.damage or status.state_reason or _shadowing(call),
        "state_since": rfc3339(status.state_since_ms or role.since_ms),
        "quarantined_records": len(quarantine.names(call.view)),
    }
    if status.reindex is not None:
        common |= {
            "reindex_in_progress": True,
            "reindex_stage": status.reindex.stage,
            "reindex_building_progress": status.reindex.done,
            "reindex_building_total": status.reindex.total,
        }
    more = _primary if role.mode == PRIMARY else _secondary
    everything = {**common, **more(call, role, status)}
    return _redacted(everything) if "addresses" in call.request.redacted else everything


def _redacted(shown: dict[str, Any]) -> dict[str, Any]:
    """Without the addresses, for a listener that keeps them back."""
    for name in ("secondaries", "primaries"):
        for peer in shown.get(name, ()):
            peer["api_address"] = peer["cluster_address"] = ""
    if "known_primary_cluster_addrs" in shown:
        shown["known_primary_cluster_addrs"] = []
    shown["primary_cluster_addr"] = ""
    # Reasons name addresses, too: the log has them.
    shown["state_reason"] = "redacted" if shown["state_reason"] else ""
    return shown


def _shadowing(call: Call) -> str:
    shadowed = call.services.mounts.shadowed(call.view)
    if not shadowed:
        return ""
    return f"local mounts hide shared ones of the same path: {', '.join(shadowed)}"


def _primary(call: Call, role: Role, status: ReplicationStatus) -> dict[str, Any]:
    own, shared = call.view.positions()
    last = shared.seq
    states = token_states(call)
    return {
        "primary_cluster_addr": role.primary_cluster_addr,
        "known_secondaries": [secondary.id for secondary in activation.known(call.view)],
        "last_wal": max(own.seq, last),
        "last_performance_wal": last,
        "last_dr_wal": 0,
        "secondaries": [
            {
                "node_id": peer.id,
                **_peer(peer),
                "last_remote_wal": peer.position.seq,
                "state": peer.state,
                "token_state": states.get(peer.id, ""),
                "lag_records": max(0, last - peer.position.seq),
                "bytes_sent": peer.bytes,
                "records_sent": peer.records,
                "epoch": peer.position.epoch,
            }
            for peer in status.peers
        ],
    }


def _secondary(call: Call, role: Role, status: ReplicationStatus) -> dict[str, Any]:
    _, shared = call.view.positions()
    upstream, checks = role.upstream, read_checks(call.view)
    connected = status.connection_state == READY
    behind = max(0, status.primary_position.seq - shared.seq)
    fields: dict[str, Any] = {
        "primary_cluster_addr": f"https://{upstream.addresses[0]}"
        if upstream and upstream.addresses
        else "",
        "known_primary_cluster_addrs": [f"https://{a}" for a in upstream.addresses]
        if upstream
        else [],
        "secondary_id": upstream.secondary_id if upstream else "",
        "connection_state": status.connection_state if upstream else "idle",
        "last_remote_wal": shared.seq,
        "last_start": rfc3339(status.last_start_ms),
        "shadowed_mounts": call.services.mounts.shadowed(call.view),
        "primaries": [_peer(peer) for peer in status.peers] if upstream else [],
        "upstream_epoch": status.upstream_epoch,
        "lag_records": behind if connected else None,
        "lag_ms": status.lag_ms,
        "last_divergence": rfc3339(status.last_divergence_ms)
        if status.last_divergence_ms
        else None,
        "divergences": status.divergences,
        "store_replacements": checks.replacements,
        "last_store_replacement": rfc3339(checks.replaced_ms) if checks.replaced_ms else None,
        "bytes_received": status.bytes,
        "records_received": status.records,
    }
    if status.state.startswith("merkle"):
        fields["merkle_sync_progress"] = {
            "sync_progress": status.sync_done,
            "sync_total_keys": max(status.sync_total, status.sync_done),
        }
    return fields


def _peer(peer: PeerStatus) -> dict[str, Any]:
    return {
        "api_address": peer.api_addr,
        "cluster_address": peer.cluster_addr,
        "connection_status": "connected" if peer.connected else "disconnected",
        "last_heartbeat": rfc3339(peer.heartbeat_ms) if peer.heartbeat_ms else "",
        "last_heartbeat_duration_ms": str(peer.round_trip_ms),
        "clock_skew_ms": str(peer.clock_skew_ms),
        "replication_primary_canary_age_ms": str(peer.canary_age_ms),
    }


# repairs


def prepare_recover(call: Call) -> bool:
    if read_role(call.view).mode == DISABLED:
        raise InvalidRequest("replication is not enabled on this cluster")
    ask = call.services.ask_replicator
    assert ask is not None, "a node has a replicator"
    ask(Question(RECHECK))
    return True


def recover(call: Call) -> Response:
    return Response(status=200).warn(
        "The state of replication is checked again; status tells what comes of it."
    )


def merkle_check(call: Call) -> Response:
    """Reads and authenticates every entry; in a thread of the worker, over a snapshot."""
    corrupted = bool(call.prepared["merkle_corruption_report"]["corrupted_root"])
    before = read_checks(call.view)
    checks = msgspec.structs.replace(before, checked_ms=call.now_ms, corrupted=corrupted)
    write_checks(call.view, checks)
    return Response(call.prepared)


def prepare_reindex(call: Call) -> bool:
    ask = call.services.ask_replicator
    assert ask is not None, "a node has a replicator"
    reply = ask(Question(REINDEX))
    if reply.result == "refused":
        raise InvalidRequest(
            f"reindexing is under way already ({reply.reason})", hint="status tells when it is over"
        )
    if reply.result != "ready":
        raise Unavailable(f"nothing was begun: {reply.reason}")
    return True


def reindex(call: Call) -> Response:
    """It runs in the replicator (`replication/reindexing.py`); status shows how far it is."""
    response = Response(status=200)
    for name in ("diff", "force", "skip_flush"):
        if call.get(name):
            response.warn(f"{name} has no effect: every entry is compared, and nothing is flushed")
    return response.warn(_REINDEXING)


def prepare_merkle_check(call: Call) -> dict[str, Any]:
    """One at a time in a worker: others need its threads, too, and its memory."""
    store, report = call.services.store, Report()
    assert store is not None, "a node has a store"
    if not _checking.acquire(blocking=False):
        raise Unavailable("a check is under way already; nothing was begun")
    try:
        for _ in examine(store, report):
            time.sleep(_BREATH_SECONDS)  # the requests of this worker first
    finally:
        _checking.release()
    sound = not report.found
    root = base64.b64encode(call.services.replication.root).decode()
    tree = {
        "corrupted_subtree_root": not sound,
        "root_hash": root,
        "corrupted_index_tuples_map": None,
    }
    return {
        "merkle_corruption_report": {
            "corrupted_root": not sound,
            "corrupted_tree_map": {
                "1": {"tree_type": "replicated", **tree},
                "2": {"tree_type": "local", **tree, "root_hash": ""},
            },
        },
        "last_corruption_check_epoch": rfc3339(call.now_ms),
        "entries": report.entries,
        "problems": report.problems,
    }
