"""Whether this node can go on with a staged store: asked before the one in use is given up."""

from pathlib import Path

from undercroft.barrier.keyring import Keyring
from undercroft.barrier.seal import SealManager
from undercroft.errors import StorageFailed, Unavailable
from undercroft.node.state import CLUSTER_KEY, Cluster
from undercroft.storage.store import Store


def check_staged(staged: Path, seal: SealManager, keyring: Keyring | None) -> None:
    """The keys that the node holds open the staged store, and it says whose it is.

    Without this a switch would end sealed, or as a server that was never initialised. Raises
    Unavailable while the node is sealed, StorageFailed for a store that does not do.
    """
    if keyring is None:
        raise Unavailable("the node is sealed: it cannot switch to another store")
    store = Store.open(staged, writable=False)
    try:
        with store.snapshot() as view:
            opened = seal.recover(view, keyring)
        if opened is None:
            raise StorageFailed(f"the store in {staged} does not open with the keys of this node")
        store.set_keyring(opened)
        with store.snapshot() as view:
            if view.read(CLUSTER_KEY, Cluster) is None:
                raise StorageFailed(f"the store in {staged} does not name its cluster")
    finally:
        store.close()
