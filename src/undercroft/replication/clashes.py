"""A local mount of a secondary hides a shared one of its path: so the primary makes none there.

A secondary says with its heartbeats where it has local mounts, and no more than that. What a
secondary says that is not connected now is not known, and one of an older release says nothing:
there the local mount hides the shared one, and the secondary's status says so.
"""

from collections.abc import Iterable
from typing import Final

from undercroft.errors import InvalidRequest
from undercroft.replication.role import PRIMARY
from undercroft.replication.status import ReplicationStatus
from undercroft.request.mounts import Table
from undercroft.storage.keys import CUBBYHOLE

PATHS_MAX: Final = 256  # that a secondary may name
_PATH_MAX: Final = 512


def local_paths(table: Table) -> tuple[str, ...]:
    """What a secondary tells. Each cluster has its cubbyhole, and nothing can be mounted there."""
    local = (m.path for m in table.mounts.values() if m.local and m.id != CUBBYHOLE)
    return tuple(sorted(local)[:PATHS_MAX])


def believed(paths: Iterable[str]) -> tuple[str, ...]:
    """Of what a secondary says, what may be paths of mounts: it goes into messages."""
    return tuple(
        path
        for path in tuple(paths)[:PATHS_MAX]
        if 1 < len(path) <= _PATH_MAX and path.endswith("/") and path.isprintable()
    )


def check_secondaries(status: ReplicationStatus, path: str, *, names: bool) -> None:
    """Whether a shared mount may be made at `path`. Raises InvalidRequest, which names whose local
    mount is in the way unless it goes to another secondary (R-15).
    """
    if status.mode != PRIMARY:
        return
    for peer in status.peers:
        for taken in peer.local_mounts if peer.connected else ():
            if path.startswith(taken) or taken.startswith(path):
                whose = f"the connected secondary '{peer.id}' has a local mount at {taken}"
                there = "on that secondary"
                if not names:
                    whose = "another cluster of the set has a local mount in the way"
                    there = "there (the primary tells where, when it is asked itself)"
                raise InvalidRequest(
                    f"{whose}, which would hide the shared one",
                    hint=f"unmount it {there}, choose another path, or use local=true",
                )
