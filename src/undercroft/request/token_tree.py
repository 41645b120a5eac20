"""Revocation: a token, its cubbyhole and everything below it, in bounded steps.

Invariant CHAIN: a token is alive only while every ancestor is (`tokens.py` walks up at look-up).
So a revocation takes effect at once for a tree of any size: deleting the top entry is enough. What
follows is clearing away, bounded by a budget per transaction, since nothing may hold up the writer.
What is left over is a queue entry per token whose children still wait, written in the same
transaction, so a crash loses none of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import msgspec

from undercroft.request.token_entry import (
    CHILD_PREFIX,
    ID_PREFIX,
    MOUNT_JOB_PREFIX,
    QUEUE_PREFIX,
    TIDY_JOB,
    TokenEntry,
    child_key,
    cubbyhole_prefix,
    id_key,
    queue_key,
)
from undercroft.storage.keys import TOKENS
from undercroft.storage.view import Snapshot, Transaction

STEP_MAX: Final = 1000  # entries dealt with per transaction: about 10 ms of the writer
_ACCESSOR_BYTES: Final = 32
# A sweep reads all tokens, by the first byte of their accessors: those are hashes, so with a
# million tokens a step reads four thousand.
_SWEEP_STEPS: Final = 256


@dataclass
class _Plan:
    """What one step will do. Read first, written after: reading through a large overlay is slow."""

    budget: int
    deletes: list[bytes] = field(default_factory=list)
    queued: set[str] = field(default_factory=set)
    orphans: list[TokenEntry] = field(default_factory=list)


def revoke_tree(tx: Snapshot, accessors: Iterable[str], budget: int = STEP_MAX) -> None:
    """Revoke tokens and all that descends from them; the rest of a large tree goes to the queue.

    Idempotent: an accessor without an entry still has its remains cleared away.
    """
    plan = _Plan(budget)
    pending = list(accessors)
    for accessor in pending:
        _plan_leaving_parent(tx, plan, accessor)
    while pending:
        accessor = pending.pop()
        if plan.budget > 0:
            pending.extend(_plan_one(tx, plan, accessor))
        else:
            plan.deletes.append(id_key(accessor))
            plan.queued.add(accessor)
    _write(tx, plan)


def _plan_leaving_parent(tx: Snapshot, plan: _Plan, accessor: str) -> None:
    entry = tx.read(id_key(accessor), TokenEntry)
    if entry is not None and entry.parent:
        plan.deletes.append(child_key(entry.parent, accessor))


def _plan_one(tx: Snapshot, plan: _Plan, accessor: str) -> list[str]:
    """Plan one token's end; answers its children, whose index entries end with it."""
    plan.budget -= 1
    plan.deletes += [id_key(accessor), queue_key(accessor)]
    stowed = _some(tx, plan, cubbyhole_prefix(accessor))
    index = _some(tx, plan, child_key(accessor, ""))
    if plan.budget <= 0:  # there may be more of either
        plan.queued.add(accessor)
    plan.deletes += stowed + index
    return [key[-_ACCESSOR_BYTES:].decode() for key in index]


def _some(tx: Snapshot, plan: _Plan, prefix: bytes) -> list[bytes]:
    found = list(islice(tx.keys(prefix), max(plan.budget, 0)))
    plan.budget -= len(found)
    return found


def _write(tx: Snapshot, plan: _Plan) -> None:
    for orphan in plan.orphans:
        tx.put(id_key(orphan.accessor), msgspec.msgpack.encode(orphan), orphan.expires_ms)
    for key in plan.deletes:
        tx.delete(key)
    for accessor in plan.queued:
        tx.put(queue_key(accessor), b"")


def orphan_children(tx: Snapshot, entry: TokenEntry, budget: int = STEP_MAX) -> None:
    """Revoke one token and make its children orphans.

    With more children than the budget the entry stays as `leaving`: refused itself, but a living
    end of the chain for its children, until the queue has made them all orphans.
    """
    plan = _Plan(budget)
    index = _some(tx, plan, child_key(entry.accessor, ""))
    for key in index:
        child = tx.read(id_key(key[-_ACCESSOR_BYTES:].decode()), TokenEntry)
        if child is not None:
            plan.orphans.append(msgspec.structs.replace(child, parent=""))
    plan.deletes += index
    done = plan.budget > 0
    if done:
        plan.deletes += [id_key(entry.accessor), queue_key(entry.accessor)]
        plan.deletes += _some(tx, plan, cubbyhole_prefix(entry.accessor))
        done = plan.budget > 0
    if entry.parent and not entry.leaving:
        plan.deletes.append(child_key(entry.parent, entry.accessor))
    _write(tx, plan)
    if not done:
        # Without an expiry: reaping it would revoke the children that still wait.
        leaving = msgspec.structs.replace(entry, leaving=True, parent="", expires_ms=0)
        tx.put(id_key(entry.accessor), msgspec.msgpack.encode(leaving))
        tx.put(queue_key(entry.accessor), b"")


def revoke_mount(tx: Snapshot, mount_id: bytes) -> None:
    """Queue the end of every token that came by a mount."""
    tx.put(MOUNT_JOB_PREFIX + mount_id.hex().encode(), bytes(1))


def is_mount_leaving(view: Snapshot, mount_id: bytes) -> bool:
    """Whether the tokens of a mount are being revoked, a part at a time."""
    if not mount_id or mount_id == TOKENS:  # that one is never disabled
        return False
    return view.exists(MOUNT_JOB_PREFIX + mount_id.hex().encode())


def start_tidy(tx: Snapshot) -> None:
    """Queue a search for tokens without their parent and for index entries without their token.

    There are none while the invariants hold; a store that was restored or repaired may have some.
    """
    tx.put(TIDY_JOB, bytes(1))


def has_work(view: Snapshot) -> bool:
    return next(view.keys(QUEUE_PREFIX), None) is not None


def continue_work(tx: Transaction, budget: int = STEP_MAX) -> bool:
    """One step of what the queue holds; True while there may be more."""
    ends: list[str] = []
    for key in islice(tx.keys(QUEUE_PREFIX), budget):
        if key == TIDY_JOB or key.startswith(MOUNT_JOB_PREFIX):  # sort behind all accessors
            if not ends:
                _sweep(tx, key)
            break
        accessor = key[-_ACCESSOR_BYTES:].decode()
        entry = tx.read(id_key(accessor), TokenEntry)
        if entry is not None and entry.leaving:
            orphan_children(tx, entry, budget)
            return True
        ends.append(accessor)
    if ends:
        revoke_tree(tx, ends, budget)
    return has_work(tx)


def _sweep(tx: Transaction, job: bytes) -> None:
    """One part of all tokens: those whose accessor begins with the step's two digits."""
    step = int.from_bytes(tx.get(job) or b"", "big")
    digits = b"%02x" % step
    entries = [e for k in tx.keys(ID_PREFIX + digits) if (e := tx.read(k, TokenEntry)) is not None]
    if job == TIDY_JOB:
        strays = [k for k in tx.keys(CHILD_PREFIX + digits) if not _child_exists(tx, k)]
        ends = [e for e in entries if e.parent and not tx.exists(id_key(e.parent))]
        for key in strays:
            tx.delete(key)
    else:
        mount_id = bytes.fromhex(job[len(MOUNT_JOB_PREFIX) :].decode())
        ends = [e for e in entries if e.mount_id == mount_id]
    revoke_tree(tx, [e.accessor for e in ends])
    if step + 1 < _SWEEP_STEPS:
        tx.put(job, (step + 1).to_bytes(2, "big"))
    else:
        tx.delete(job)


def _child_exists(view: Snapshot, index_key: bytes) -> bool:
    return view.exists(id_key(index_key[-_ACCESSOR_BYTES:].decode()))
