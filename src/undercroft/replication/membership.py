"""The moves between roles, each over a transaction: what it needs, what it writes.

    disabled ──enable──▶ primary ──demote──▶ secondary (detached)
        ▲                   │  ▲                  │
        └──────disable──────┘  └─────promote──────┘      enable of a secondary: activation first

A move either writes everything it takes or raises and writes nothing. What a node may write follows
from the stored role alone (`refusal`), so there is nothing to forget after a restart.
"""

import uuid
from collections.abc import Callable

import msgspec

from undercroft.errors import InvalidRequest
from undercroft.node.state import CLUSTER_KEY, Cluster
from undercroft.replication import activation, authority, claims, filters, moves
from undercroft.replication.lineage import LINEAGE_KEY, Lineage, founded
from undercroft.replication.role import (
    BOOTSTRAPPING,
    DISABLED,
    PRIMARY,
    SECONDARY,
    Announcement,
    Fence,
    Role,
    Upstream,
    read_role,
    write_role,
)
from undercroft.storage.view import Snapshot, Transaction


def refusal(role: Role) -> Callable[[], Exception] | None:
    """Why this cluster may not write shared entries itself; None: it may."""
    if moves.refusal(role) is None:
        return None

    def why() -> Exception:
        refused = moves.refusal(role)
        assert refused is not None, "a role does not change"
        return refused

    return why


def lineage_of(view: Snapshot) -> Lineage | None:
    return view.read(LINEAGE_KEY, Lineage)


def cluster_of(view: Snapshot) -> Cluster:
    cluster = view.read(CLUSTER_KEY, Cluster)
    assert cluster is not None, "an initialised cluster has a name"
    return cluster


def wrong_role(role: Role, wanted: str) -> InvalidRequest:
    """Names the present role, and what would be right."""
    now = "detached secondary" if role.mode == SECONDARY and not role.upstream else role.mode
    hints = {
        (DISABLED, PRIMARY): "enable replication first: primary/enable",
        (DISABLED, SECONDARY): "enable replication first: secondary/enable with a token",
        (SECONDARY, PRIMARY): "promote this secondary first: secondary/promote",
        (BOOTSTRAPPING, PRIMARY): "its first copy is not complete",
        (PRIMARY, SECONDARY): "demote this primary first: primary/demote",
        (PRIMARY, DISABLED): "demote it and use secondary/update-primary, or disable it first",
        (SECONDARY, DISABLED): "use secondary/update-primary, or secondary/disable first",
    }
    hint = hints.get((role.mode, wanted), "")
    return InvalidRequest(f"this cluster's performance replication role is {now}", hint=hint)


def _require(role: Role, *modes: str) -> None:
    if role.mode not in modes:
        raise wrong_role(role, modes[0])


def writing_primary(view: Snapshot) -> Role:
    """The role of a primary that neither is fenced nor hands over. Raises what it is instead."""
    role = read_role(view)
    _require(role, PRIMARY)
    refused = refusal(role)
    if refused is not None:
        raise refused()
    return role


def _write_lineage(tx: Transaction, lineage: Lineage) -> None:
    """The record of this transaction opens the lineage's newest epoch."""
    tx.opens_epoch = lineage.current.number
    tx.put(LINEAGE_KEY, msgspec.msgpack.encode(lineage))


def mark_start(tx: Transaction) -> None:
    """The first request that a primary runs since its start tells so (R-10)."""
    lineage = lineage_of(tx)
    if lineage is not None and not tx.opens_epoch:
        tx.put(LINEAGE_KEY, msgspec.msgpack.encode(lineage.started(tx.shared.seq)))


def enable_primary(tx: Transaction, primary_cluster_addr: str, now_ms: int) -> None:
    """A new set, founded here; on a primary, only its advertised address changes."""
    role = read_role(tx)
    if role.mode == PRIMARY:
        if not primary_cluster_addr:
            raise InvalidRequest(
                "this cluster is a primary already",
                hint="give primary_cluster_addr to change the address it advertises",
            )
        changed = msgspec.structs.replace(role, primary_cluster_addr=primary_cluster_addr)
        write_role(tx, changed)
        return
    if role.mode != DISABLED:
        raise InvalidRequest(
            "this cluster is a secondary: it must be promoted, not enabled",
            hint="use secondary/promote, or secondary/disable first",
        )
    set_id = str(uuid.uuid4())
    _write_lineage(tx, founded(tx.shared, set_id, cluster_of(tx).id, now_ms))
    authority.write_authority(tx, authority.make_authority(set_id, now_ms))
    write_role(
        tx,
        Role(PRIMARY, set_id=set_id, primary_cluster_addr=primary_cluster_addr, since_ms=now_ms),
    )


def demote(tx: Transaction, now_ms: int) -> int:
    """A detached secondary that keeps data and set. Answers the last place of the shared log."""
    role = read_role(tx)
    _require(role, PRIMARY)
    write_role(tx, moves.demoted(role, now_ms))
    return tx.shared.seq


def disable(tx: Transaction, now_ms: int, *modes: str) -> None:
    """Stand alone with the data as it is; the set is over for this cluster."""
    role = read_role(tx)
    _require(role, *modes)
    activation.forget_all(tx)
    filters.forget_all(tx)
    authority.forget(tx)
    write_role(tx, Role(since_ms=now_ms))
    tx.allow_shared()
    tx.delete(LINEAGE_KEY)


def begin_copy(tx: Transaction, upstream: Upstream, set_id: str, now_ms: int) -> None:
    """Become a secondary, once the copy is complete; until then nothing of ours is touched."""
    role = read_role(tx)
    _require(role, DISABLED)
    write_role(tx, Role(BOOTSTRAPPING, set_id=set_id, upstream=upstream, since_ms=now_ms))


def cancel_copy(tx: Transaction, now_ms: int) -> None:
    _require(read_role(tx), BOOTSTRAPPING)
    write_role(tx, Role(since_ms=now_ms))


def promote(
    tx: Transaction,
    *,
    primary_cluster_addr: str,
    api_addr: str,
    cluster_addr: str,
    announce: bool,
    now_ms: int,
) -> Lineage:
    """Open the next epoch here. `announce`: the old primary is to be fenced by it."""
    role = read_role(tx)
    _require(role, SECONDARY)
    before = lineage_of(tx)
    if before is None:
        raise InvalidRequest("this cluster has no replication history to go on with")
    lineage = before.opened(tx.shared, cluster_of(tx).id, now_ms)
    own = authority.make_authority(role.set_id, now_ms)
    tx.allow_shared()
    _write_lineage(tx, lineage)
    authority.write_authority(tx, own)
    activation.forget_all(tx)  # those of an earlier time as primary: their authority is gone
    claim, announcements = role.claim, role.announcements
    upstream = role.upstream
    if announce and upstream is not None:
        made = claims.Claim(
            set_id=role.set_id,
            lineage=lineage,
            secondary_id=upstream.secondary_id,
            api_addr=api_addr,
            cluster_addr=primary_cluster_addr or cluster_addr,
            authority=own.certificate,
            opened_ms=now_ms,
        )
        theirs = claims.decode(role.claim) if role.claim else None
        claim = msgspec.msgpack.encode(claims.sign(made, upstream.credentials, theirs))
        announcements += (Announcement(upstream.addresses, upstream.credentials),)
    made_role = moves.promoted(role, primary_cluster_addr, now_ms)
    write_role(tx, msgspec.structs.replace(made_role, claim=claim, announcements=announcements))
    return lineage


def change_primary(tx: Transaction, upstream: Upstream | None, now_ms: int) -> None:
    """Follow another primary of the same set, or (None) nobody; no data is touched.

    What was withheld from us is lacking until a comparison has brought it (`SecondarySession`).
    """
    role = read_role(tx)
    _require(role, SECONDARY)
    announcements, before = role.announcements, role.upstream
    if before and upstream and before.credentials.authority != upstream.credentials.authority:
        # Should it come back as a primary, it hears from us that its epoch is over.
        announcements += (Announcement(before.addresses, before.credentials),)
    changed = msgspec.structs.replace(
        role,
        upstream=upstream,
        since_ms=now_ms,
        announcements=announcements,
        submits=upstream is not None,
    )
    write_role(tx, changed)


def fence_by(tx: Transaction, signed: bytes, now_ms: int) -> None:
    """A claim of a newer epoch. Raises ClaimRefused; a claim known already changes nothing."""
    role = read_role(tx)
    lineage = lineage_of(tx)
    own = authority.read_authority(tx)
    if role.mode != PRIMARY or lineage is None or own is None:
        return
    parsed = claims.decode(signed)
    if role.fence is not None and role.claim == signed:
        return
    secondary_id = claims.secondary_of(parsed, own.certificate)
    claim = claims.verify(
        parsed,
        own.certificate,
        role.fence.lineage if role.fence else lineage,
        activation.find(tx, secondary_id),
        filtered=filters.read_filter(tx, secondary_id) is not None,
        now_ms=now_ms,
    )
    fence = Fence(claim.lineage, secondary_id, claim.api_addr, claim.cluster_addr, now_ms)
    write_role(tx, msgspec.structs.replace(role, fence=fence, handover=None, claim=signed))


def grant_handover(tx: Transaction, secondary_id: str, now_ms: int) -> int:
    """Stop writing in favour of a secondary. Answers the last place of the shared log."""
    role = read_role(tx)
    if role.mode == SECONDARY and role.upstream is None:
        return tx.shared.seq  # demoted, it writes no more: its last records are still given out
    secondary = activation.find(tx, secondary_id)
    granted = moves.granted(
        role,
        secondary_id,
        tx.shared.seq,
        promotable=secondary is not None and secondary.promotable,
        filtered=filters.read_filter(tx, secondary_id) is not None,
        now_ms=now_ms,
    )
    write_role(tx, granted)
    return tx.shared.seq


def withdraw_handover(tx: Transaction, secondary_id: str) -> None:
    """That secondary has opened no epoch, and is back: go on writing."""
    role = read_role(tx)
    if role.handover is not None and role.handover.secondary_id == secondary_id:
        write_role(tx, moves.withdrawn(role))


def revoke(tx: Transaction, secondary_id: str, now_ms: int) -> activation.Secondary:
    """A secondary may not come back. A fence by it, or a handover to it, is overruled by that."""
    role = read_role(tx)
    _require(role, PRIMARY)
    revoked = activation.revoke(tx, secondary_id)
    filters.delete_filter(tx, secondary_id)
    before = lineage_of(tx)
    assert before is not None, "a primary has a lineage"
    overruled = moves.revoked(role, before, secondary_id, tx.shared, cluster_of(tx).id, now_ms)
    if overruled.lineage is not None:  # a still higher epoch: the claim counts for nobody
        tx.allow_shared()
        _write_lineage(tx, overruled.lineage)
    if overruled.role != role:
        write_role(tx, overruled.role)
    return revoked
