"""A secondary's store that cannot be mended is replaced: copied anew from the primary, beside it.

A damaged entry is had from the primary by itself (`scrub.py`), but where a page of the tree is gone
nothing can be put in its place. The old store serves reads meanwhile; what only this cluster has is
taken over from it at the end (`copying.finish_replacement`), so that must be readable.
"""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final, Protocol

import msgspec

from undercroft.errors import UndercroftError
from undercroft.observe.logs import get_logger
from undercroft.replication.lineage import LINEAGE_KEY, Lineage
from undercroft.replication.role import SECONDARY, Role, Upstream
from undercroft.storage.probe import Readable, probe
from undercroft.storage.store import Store
from undercroft.storage.wal import Position

log = get_logger("replication")

BEING_COPIED: Final = "it is being copied anew from the primary; look at the disk"
_ANEW: Final = (
    "check the disk, then have this cluster copied anew: secondary/disable, and secondary/enable "
    "with a new activation token"
)
_RETRY_SECONDS: Final = 3600.0  # after one that came to nothing
_JUDGE_SECONDS: Final = 60.0  # between two judgements, and what is logged of them


class Replacement(msgspec.Struct, frozen=True):
    """One that is under way: whose data the store has, and the history that this is of."""

    upstream: Upstream
    lineage: Lineage

    def objection(self, theirs: Lineage, position: Position, at: Position) -> str:
        """Why a copy of a primary at `position` would lose what has been replicated here up to
        `at`; empty: it would not. A copy has no history that the primary could judge by.
        """
        branch = theirs.branch(position.seq, self.lineage, at.seq)
        if branch is None or at.seq > branch.seq:
            return "the primary lacks what this secondary has"
        if theirs.rank == self.lineage.rank and not theirs.may_have(at.seq, self.lineage):
            return "the primary was restored from an older copy"
        return ""


def same_primary(one: Upstream, other: Upstream | None) -> bool:
    """Whether both lead to the same primary, under the same id: addresses and certificates may
    have changed.
    """
    return other is not None and (one.secondary_id, one.credentials.authority) == (
        other.secondary_id,
        other.credentials.authority,
    )


class Node(Protocol):
    """What this needs of the process."""

    store: Store

    @property
    def role(self) -> Role: ...
    def refresh_soon(self) -> None:
        """Have sessions follow the role, and what is decided here."""
        ...

    def report_soon(self) -> None: ...


class Replacing:
    """What is known of damage to the store, and what is done about it."""

    def __init__(self, node: Node) -> None:
        self.current: Replacement | None = None
        self.damage = ""  # for status, with what is done or to be done
        self._node = node
        self._after = 0.0  # before, none is begun
        self._judge_after = 0.0
        self._judging: asyncio.Task[None] | None = None

    def found(self, damage: str) -> None:
        """The store is damaged in a way that no entry of the primary's mends."""
        now = time.monotonic()
        if self.current is None and self._judging is None and now >= self._judge_after:
            self._judge_after = now + _JUDGE_SECONDS
            self._judging = asyncio.ensure_future(self._judge(damage))

    async def _judge(self, damage: str) -> None:
        try:
            self.current = await self._possible()
            hint = BEING_COPIED if self.current else _ANEW
            log.error("the store is damaged", error=damage, hint=hint)
            self.damage = f"{damage}: {hint}"
        finally:
            self._judging = None
        self._node.refresh_soon()
        self._node.report_soon()

    async def _possible(self) -> Replacement | None:
        role, store = self._node.role, self._node.store
        if role.mode != SECONDARY or role.upstream is None or time.monotonic() < self._after:
            return None
        if await probe(Path(store.env.path())) is Readable.NOTHING:
            return None  # what only we have there is nobody to have from
        lineage = None
        with contextlib.suppress(UndercroftError), store.snapshot() as view:
            lineage = view.read(LINEAGE_KEY, Lineage)
        return None if lineage is None else Replacement(role.upstream, lineage)

    def sound(self) -> None:
        """A look through the whole store has found none."""
        if self.damage and self.current is None:
            self.damage = ""
            self._node.report_soon()

    def given_up(self, reason: str) -> None:
        """The one under way came to nothing. Damage that is still there is found again."""
        log.error("the store was not replaced by a new copy", reason=reason)
        self.damage = f"the store is damaged, and a new copy failed ({reason}): {_ANEW}"
        self._after = time.monotonic() + _RETRY_SECONDS
        self.forget()

    def forget(self) -> None:
        """None is wanted any more."""
        if self.current is not None:
            self.current = None
            self._node.refresh_soon()

    def begin_anew(self) -> None:
        """The one under way was interrupted."""
        self.allow()
        self.forget()

    def allow(self) -> None:
        """An operator says that something has changed."""
        self._after = self._judge_after = 0.0

    def stop(self) -> None:
        """The node is sealed."""
        self.current, self.damage = None, ""
        if self._judging is not None:
            self._judging.cancel()
            self._judging = None
