"""What every process of a node knows about the node: pushed by the writer, replaced whole."""

from typing import Final

import msgspec

from undercroft.storage.keys import OWN, SYSTEM, key

CLUSTER_KEY: Final = key(OWN, SYSTEM, "cluster")


class Cluster(msgspec.Struct, frozen=True):
    """The cluster's own identity, stored at CLUSTER_KEY: never replicated, kept for good."""

    id: str
    name: str


class UnsealProgress(msgspec.Struct, frozen=True):
    """How far an unseal with key shares has come; `nonce` names the attempt."""

    progress: int = 0
    nonce: str = ""


class NodeState(msgspec.Struct, frozen=True):
    """Facts for health, seal-status and leader. No secret is in here."""

    initialized: bool = False
    sealed: bool = True
    seal_type: str = "shamir"
    shares: int = 0
    threshold: int = 0
    unseal: UnsealProgress = UnsealProgress()
    migration: bool = False
    recovery_seal: bool = False
    storage_type: str = "lmdb"
    cluster_name: str = ""  # empty while sealed
    cluster_id: str = ""
    api_addr: str = ""
    cluster_addr: str = ""
    active_since_ms: int = 0
    started_ms: int = 0
    standby: bool = False
    performance_standby: bool = False
    removed: bool = False  # from its HA cluster
    ha_healthy: bool = True  # the link to the active node, on a standby
    performance_mode: str = "disabled"  # or primary, secondary, bootstrapping
    dr_mode: str = "disabled"
    withheld: tuple[bytes, ...] = ()  # mounts whose data the primary keeps from this secondary
    fenced: bool = False  # a primary that met a higher epoch: reads go on
