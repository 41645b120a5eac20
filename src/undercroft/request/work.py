"""Work that a request starts and that outlives it: done by the writer in slices between requests.

A job is an entry in the queue space, written in the request's own transaction, so a crash cannot
lose it; each slice is a transaction of its own, and the job's entry goes with its last slice.
"""

from itertools import islice
from typing import TYPE_CHECKING, Final

from undercroft.storage.keys import LOCAL, QUEUE, SHARED, TOKENS
from undercroft.storage.view import Snapshot, Space, Transaction

if TYPE_CHECKING:
    from undercroft.engines.base import Services

SLICE: Final = 500  # entries touched per transaction: a few milliseconds

_PURGE: Final = "purge/"  # + mount id: delete every entry of an unmounted engine
_REVOKE: Final = "revoke-mount/"  # + auth mount path: revoke every token it issued

DESCENDANTS: Final = "revoke/"  # the token store's own: descendants of a revoked token


def enqueue_purge(view: Snapshot, mount_id: bytes) -> None:
    Space(view, LOCAL, QUEUE).put(_PURGE + mount_id.hex(), b"")


def enqueue_revocation(view: Snapshot, auth_path: str) -> None:
    """`auth_path` as in the mount table; the value is where the scan over all tokens stands."""
    Space(view, LOCAL, QUEUE).put(_REVOKE + auth_path, b"")


def has_work(view: Snapshot) -> bool:
    """Whether any job is waiting; cheap enough to be asked twice a second."""
    return any(
        next(view.keys(LOCAL + QUEUE + prefix.encode()), None) is not None
        for prefix in (_PURGE, _REVOKE, DESCENDANTS)
    )


def work(tx: Transaction, services: "Services", now_ms: int) -> bool:
    """One slice of one job. Answers whether there was anything to do."""
    queue = Space(tx, LOCAL, QUEUE)
    for name in queue.names(_REVOKE):
        _revoke_slice(tx, queue, name, services, now_ms)
        return True
    for name in queue.names(_PURGE):
        _purge_slice(tx, queue, name)
        return True
    return services.tokens.continue_work(tx, now_ms)


def _purge_slice(tx: Transaction, queue: Space, name: str) -> None:
    mount_id = bytes.fromhex(name.removeprefix(_PURGE))
    for keyspace in (SHARED, LOCAL):
        keys = list(islice(tx.keys(keyspace + mount_id), SLICE))
        for key in keys:
            tx.delete(key)
        if keys:
            return
    queue.delete(name)


def _revoke_slice(
    tx: Transaction, queue: Space, name: str, services: "Services", now_ms: int
) -> None:
    path = name.removeprefix(_REVOKE)
    after = (queue.get(name) or b"").decode()
    tokens = Space(tx, LOCAL, TOKENS)
    accessors = tokens.list("id/", after=after, limit=SLICE)
    for accessor in accessors:
        entry = services.tokens.lookup_accessor(tx, accessor, now_ms)
        if entry is not None and entry.path.startswith(path):
            services.tokens.revoke(tx, accessor, now_ms)
    if accessors:
        queue.put(name, accessors[-1].encode())
    else:
        queue.delete(name)
