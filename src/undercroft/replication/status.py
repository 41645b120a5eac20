"""How replication is going, as the replicator tells the other processes of its node.

The status endpoints (`engines/system/replication`) turn it into Vault's fields.
"""

from typing import Final

import msgspec

from undercroft.storage.wal import START, Position

# Vault's words (gRPC's) for a secondary's connection
READY: Final = "ready"
CONNECTING: Final = "connecting"
TRANSIENT_FAILURE: Final = "transient_failure"
IDLE: Final = "idle"
SHUTDOWN: Final = "shutdown"

# Stages of a reindex, in Vault's words; there is no log to be replayed.
SCANNING: Final = "scanning"
BUILDING: Final = "building"
COMMITTING: Final = "commit"
REINDEX_STAGES: Final = ("", SCANNING, BUILDING, "wal-replay", COMMITTING)  # as the metric counts


class Reindex(msgspec.Struct, frozen=True, array_like=True):
    """One that is under way, in entries."""

    stage: str
    done: int = 0
    total: int = 0


class PeerStatus(msgspec.Struct, frozen=True, array_like=True):
    """The other side of a session that stands or stood."""

    id: str  # a secondary's id; empty for a primary
    api_addr: str = ""
    cluster_addr: str = ""
    connected: bool = False
    heartbeat_ms: int = 0  # our wall clock; 0: never
    round_trip_ms: int = 0
    clock_skew_ms: int = 0
    canary_age_ms: int = 0
    position: Position = START  # what it has applied
    state: str = ""
    bytes: int = 0
    records: int = 0
    local_mounts: tuple[str, ...] = ()  # of a secondary; status does not show them


class ReplicationStatus(msgspec.Struct, frozen=True, array_like=True):
    """Of one type. Nothing secret is in here: the status endpoint is open to anyone."""

    mode: str = "disabled"
    state: str = IDLE
    state_reason: str = ""
    state_since_ms: int = 0
    connection_state: str = IDLE
    position: Position = START  # of the shared log here
    root: bytes = b""  # the digest root at `root_seq`
    last_start_ms: int = 0
    peers: tuple[PeerStatus, ...] = ()  # secondaries of a primary, or the primary
    known_addresses: tuple[str, ...] = ()
    primary_position: Position = START  # as far as a secondary has heard
    lag_ms: int | None = None
    sync_done: int = 0  # entries, during a comparison
    sync_total: int = 0
    divergences: int = 0
    last_divergence_ms: int = 0
    upstream_epoch: int = 0
    bytes: int = 0  # received
    records: int = 0
    root_seq: int = 0  # in a bulk of records the digests follow later
    damage: str = ""  # of the store, with what to do about it
    reindex: Reindex | None = None
