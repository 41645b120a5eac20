"""Work that a request starts and that outlives it: done by the writer in slices between requests.

A job is an entry in the queue space, written in the request's own transaction, so a crash cannot
lose it; each slice is a transaction of its own, and the job's entry goes with its last slice. The
token store has jobs of its own (`TokenStore.continue_work`).
"""

from itertools import islice
from typing import TYPE_CHECKING, Final

from undercroft.storage.keys import LOCAL, QUEUE, SHARED
from undercroft.storage.view import Snapshot, Space, Transaction

if TYPE_CHECKING:
    from undercroft.engines.base import Services

SLICE: Final = 500  # entries deleted per transaction: a few milliseconds

_PURGE: Final = "purge/"  # + mount id: delete every entry of an unmounted engine


def enqueue_purge(view: Snapshot, mount_id: bytes) -> None:
    Space(view, LOCAL, QUEUE).put(_PURGE + mount_id.hex(), b"")


def has_work(view: Snapshot, services: "Services") -> bool:
    """Whether any job is waiting; cheap enough to be asked twice a second."""
    purges = view.keys(LOCAL + QUEUE + _PURGE.encode())
    return next(purges, None) is not None or services.tokens.has_work(view)


def work(tx: Transaction, services: "Services") -> bool:
    """One slice of one job. Answers whether there may be more."""
    queue = Space(tx, LOCAL, QUEUE)
    for name in queue.names(_PURGE):
        if _purge_slice(tx, queue, name):
            return True
    return services.tokens.continue_work(tx)


def _purge_slice(tx: Transaction, queue: Space, name: str) -> bool:
    """Answers whether anything was done.

    On a secondary the shared data is the primary's to delete. The job waits for that, so that it
    is still there to be finished should this cluster be promoted meanwhile.
    """
    mount_id = bytes.fromhex(name.removeprefix(_PURGE))
    for keyspace in (LOCAL, SHARED):
        keys = list(islice(tx.keys(keyspace + mount_id), SLICE))
        if keys and keyspace == SHARED and not tx.shared_writable:
            return False
        for key in keys:
            tx.delete(key)
        if keys:
            return True
    queue.delete(name)
    return True
