"""What this cluster is in its replication set: one own entry per type, and the shapes around it.

Everything here is stored in the own keyspace, encrypted: it never travels and survives a copy of
another cluster's data.
"""

from typing import Final

import msgspec

from undercroft.replication.lineage import Lineage
from undercroft.storage.keys import OWN, SYSTEM, key
from undercroft.storage.view import Snapshot, Transaction

PERFORMANCE: Final = "performance"

DISABLED: Final = "disabled"
PRIMARY: Final = "primary"
SECONDARY: Final = "secondary"
BOOTSTRAPPING: Final = "bootstrapping"

ROLE_KEY: Final = key(OWN, SYSTEM, "replication/performance/role")


class Credentials(msgspec.Struct, frozen=True):
    """What lets a secondary into a session with its primary. All DER; the key is PKCS8.

    `authority` is the primary's CA certificate: the only one that its cluster port is believed by.
    """

    certificate: bytes
    key: bytes
    authority: bytes

    def __repr__(self) -> str:
        return "<Credentials>"


class Upstream(msgspec.Struct, frozen=True):
    """A secondary's way to its primary."""

    secondary_id: str  # under which the primary knows us
    credentials: Credentials
    addresses: tuple[str, ...]  # "host:port" of the cluster port, tried in this order
    api_addr: str = ""


class Fence(msgspec.Struct, frozen=True):
    """Why this primary takes no writes: an epoch of its set that somebody else opened."""

    lineage: Lineage
    claimant: str  # secondary id of the claimant
    api_addr: str
    cluster_addr: str
    since_ms: int


class Handover(msgspec.Struct, frozen=True):
    """This primary has stopped writing in favour of one secondary, which is to open an epoch."""

    secondary_id: str
    seq: int  # of the last record of the shared log
    since_ms: int


class Announcement(msgspec.Struct, frozen=True):
    """A primary that is to learn of a newer epoch: where it is, and what lets us in there."""

    addresses: tuple[str, ...]
    credentials: Credentials


class Role(msgspec.Struct, frozen=True):
    """Stored at ROLE_KEY; absent means disabled. `set_id` is kept by demotion."""

    mode: str = DISABLED  # disabled, primary, secondary, bootstrapping
    set_id: str = ""
    primary_cluster_addr: str = ""  # the override given at enable or promote
    upstream: Upstream | None = None  # None on a secondary: detached
    fence: Fence | None = None
    handover: Handover | None = None
    since_ms: int = 0
    claim: bytes = b""  # the signed claim of the newest epoch we know of, for others to see
    announcements: tuple[Announcement, ...] = ()
    # An operator chose this primary: newer epochs of ours are given up, and what they wrote is set
    # aside.
    submits: bool = False
    comparing: bool = False  # a comparison has changed data and its position is not reached yet
    withheld: tuple[bytes, ...] = ()  # ids of mounts whose data the primary keeps from us


class Checks(msgspec.Struct, frozen=True):
    """When the digests were checked last, with what result, when they were made anew, and how often
    and when last the store was replaced by a new copy.
    """

    checked_ms: int = 0
    corrupted: bool = False
    reindexed_ms: int = 0
    replaced_ms: int = 0
    replacements: int = 0


CHECKS_KEY: Final = key(OWN, SYSTEM, "replication/performance/checks")


def read_checks(view: Snapshot) -> Checks:
    return view.read(CHECKS_KEY, Checks) or Checks()


def write_checks(tx: Snapshot, checks: Checks) -> None:
    tx.put(CHECKS_KEY, msgspec.msgpack.encode(checks))


def read_role(view: Snapshot) -> Role:
    return view.read(ROLE_KEY, Role) or Role()


def write_role(tx: Transaction, role: Role) -> None:
    tx.put(ROLE_KEY, msgspec.msgpack.encode(role))
