"""The rules of role changes: what a move makes of a role, or why it is refused. Pure functions.

Server and simulator share them. A role decides alone who may write (`refusal`), so that nothing
has to be remembered across a restart. Refusals are errors with the reason as their message.

The two rules that keep a second primary away (ONE-WRITER):

- A primary that granted a handover writes again only when the secondary shows, on a session begun
  after the grant, that it has opened no epoch (`handover_is_void`). No timeout does that.
- A secondary opens the epoch of a handover only while the session in which it was granted is the
  newest that it has begun (`may_open`): once it has shown itself without an epoch, it opens none.
"""

import msgspec

from undercroft.errors import InvalidRequest, NeedsPrimary, Unavailable
from undercroft.replication.lineage import Lineage
from undercroft.replication.role import (
    BOOTSTRAPPING,
    PRIMARY,
    SECONDARY,
    Fence,
    Handover,
    Role,
    Upstream,
)
from undercroft.storage.wal import Position


def refusal(role: Role) -> Exception | None:
    """Why this cluster may not write shared entries itself; None: it may."""
    if role.mode in (SECONDARY, BOOTSTRAPPING):
        return NeedsPrimary()
    fence, handover = role.fence, role.handover
    if fence is not None:
        where = f" at {fence.api_addr}" if fence.api_addr else ""
        return Unavailable(
            f"this primary is fenced: epoch {fence.lineage.current.number} was opened by "
            f"'{fence.claimant}'{where}; nothing was applied, reads go on"
        )
    if handover is not None:
        return Unavailable(
            f"this primary is handing over to '{handover.secondary_id}'; nothing was applied"
        )
    return None


def _require(role: Role, mode: str) -> None:
    if role.mode != mode:
        raise InvalidRequest(f"this cluster's performance replication role is {role.mode}")


def demoted(role: Role, now_ms: int) -> Role:
    """A detached secondary that keeps its data and its set."""
    _require(role, PRIMARY)
    return Role(
        SECONDARY,
        set_id=role.set_id,
        since_ms=now_ms,
        announcements=role.announcements,
        claim=role.claim,
    )


def following(role: Role, upstream: Upstream | None, now_ms: int) -> Role:
    """Under another primary of the set, or (None) under nobody.

    What was withheld from us is lacking until a comparison has brought it (`SecondarySession`).
    """
    _require(role, SECONDARY)
    return msgspec.structs.replace(role, upstream=upstream, since_ms=now_ms)


# promotion


def check_promotable(role: Role, *, force: bool) -> None:
    """Whether this secondary may take over: it must not lack anything unless that is wanted.

    Asked before the primary is asked to stop, and again in the commit that opens the epoch: a
    filter may have come between. Raises InvalidRequest, or Unavailable for what passes by itself.
    """
    _require(role, SECONDARY)
    if role.withheld and not force:
        raise InvalidRequest(
            "this secondary has a path filter: it lacks data that the primary has",
            hint="promote another one, or go ahead with force=true",
        )
    if role.comparing and not force:
        raise Unavailable(
            "this secondary is still catching up: its last comparison with the primary has not "
            "finished",
            hint="try again, or go ahead with force=true (data may be missing)",
        )


def may_open(applied_seq: int, granted_seq: int, *, session_is_newest: bool) -> bool:
    """Whether a secondary to which the primary hands over opens the epoch now.

    `session_is_newest`: it has not begun another session since the one with the grant. It must not
    begin one between asking this and the commit that opens the epoch.
    """
    return session_is_newest and applied_seq >= granted_seq


def promoted(role: Role, primary_cluster_addr: str, now_ms: int) -> Role:
    """The role with which a promotion begins; claim and announcements are added by the caller."""
    _require(role, SECONDARY)
    return Role(
        PRIMARY,
        set_id=role.set_id,
        primary_cluster_addr=primary_cluster_addr,
        since_ms=now_ms,
        claim=role.claim,
        announcements=role.announcements,
    )


# handing over


def granted(
    role: Role, secondary_id: str, seq: int, *, promotable: bool, filtered: bool, now_ms: int
) -> Role:
    """The primary stops in favour of a secondary; `seq` is its last place of the shared log."""
    _require(role, PRIMARY)
    if role.fence is not None:
        raise InvalidRequest("this primary is fenced")
    if role.handover is not None and role.handover.secondary_id != secondary_id:
        raise InvalidRequest(f"this primary is handing over to '{role.handover.secondary_id}'")
    if not promotable:
        raise InvalidRequest(f"'{secondary_id}' may not be promoted: its token said so")
    if filtered:
        raise InvalidRequest(f"'{secondary_id}' has a path filter: it lacks data")
    return msgspec.structs.replace(role, handover=Handover(secondary_id, seq, now_ms))


def handover_is_void(
    role: Role, mine: Lineage, secondary_id: str, theirs: Lineage | None, *, begun_since: bool
) -> bool:
    """Whether the secondary has come back without the epoch that we stopped for.

    `theirs` is what its hello showed; `begun_since`: it has answered, in that session, something
    that we sent after the grant, and the session is not the one of the grant. A hello alone proves
    nothing: it may be an old one that arrives late.
    """
    handover = role.handover
    if handover is None or handover.secondary_id != secondary_id or not begun_since:
        return False
    return theirs is None or not theirs.beats(mine)


def withdrawn(role: Role) -> Role:
    """Go on writing."""
    return msgspec.structs.replace(role, handover=None)


# fencing


def fenced(
    role: Role,
    mine: Lineage,
    fence: Fence,
    *,
    known: bool,
    promotable: bool,
    filtered: bool,
) -> Role:
    """A primary after a claim whose signature was checked. Raises InvalidRequest for one that does
    not count: fencing must not be a switch in the hands of one region.
    """
    _require(role, PRIMARY)
    if not known:
        raise InvalidRequest(f"'{fence.claimant}' is revoked or was never activated")
    if not promotable:
        raise InvalidRequest(f"'{fence.claimant}' may not be promoted")
    if filtered:
        raise InvalidRequest(f"'{fence.claimant}' has a path filter: it lacks data")
    if not fence.lineage.beats(role.fence.lineage if role.fence is not None else mine):
        raise InvalidRequest("its epoch does not go on from ours, or is no newer")
    return msgspec.structs.replace(role, fence=fence, handover=None)


class Overruling(msgspec.Struct, frozen=True):
    """What revoking a secondary makes of its primary; `lineage`: of the epoch to be opened."""

    role: Role
    lineage: Lineage | None = None


def revoked(
    role: Role,
    mine: Lineage,
    secondary_id: str,
    after: Position,
    cluster_id: str,
    now_ms: int,
    epoch_id: bytes = b"",
) -> Overruling:
    """A secondary may not come back: a fence by it is lifted, with an epoch above its claim, and
    so is a handover to it.

    For a handover too an epoch is opened: the secondary may have opened one that we do not know.
    """
    _require(role, PRIMARY)
    fence, handover = role.fence, role.handover
    overrules = fence is not None and fence.claimant == secondary_id
    waits = handover is not None and handover.secondary_id == secondary_id
    if not overrules and not waits:
        return Overruling(role)
    opened = mine.opened(after, cluster_id, now_ms, epoch_id)
    theirs = fence.lineage.current.number if fence is not None else mine.current.number + 1
    number = max(opened.current.number, theirs + 1)
    current = msgspec.structs.replace(opened.current, number=number)
    lineage = Lineage(opened.set_id, (*opened.epochs[:-1], current))
    return Overruling(msgspec.structs.replace(role, fence=None, handover=None), lineage)
