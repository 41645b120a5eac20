"""Path filters: which mounts' data a secondary may not have.

An own entry of the primary per secondary id. Mount entries and policies travel all the same, data
does not: what is withheld is decided by the mount's id, which is part of every key.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from undercroft.errors import InvalidRequest
from undercroft.request.mounts import Mount
from undercroft.storage.keys import HEAD_BYTES, OWN, SHARED, SYSTEM
from undercroft.storage.view import Snapshot, Space

ALLOW: Final = "allow"
DENY: Final = "deny"
_PREFIX: Final = "replication/performance/filters/"
_NEVER: Final = ("sys/", "identity/", "cubbyhole/", "auth/token/")
_BUILT_IN: Final = bytes(15)  # ids of what every cluster has begin so
_MODES: Final = {"": ALLOW, "allow": ALLOW, "deny": DENY, "whitelist": ALLOW, "blacklist": DENY}


class PathFilter(msgspec.Struct, frozen=True):
    """`allow`: only these go; `deny`: all but these."""

    mode: str
    paths: tuple[str, ...]

    def withholds(self, path: str) -> bool:
        listed = any(path.startswith(prefix) for prefix in self.paths)
        return listed if self.mode == DENY else not listed


def make_filter(mode: str, paths: Iterable[str]) -> PathFilter:
    """Raises InvalidRequest for a mode that is none, an allow list without paths, paths that name
    no mount, and paths that always go.
    """
    if mode not in _MODES:
        raise InvalidRequest("mode must be allow or deny")
    cleaned = tuple(dict.fromkeys(_clean(path) for path in paths if path.strip()))
    # With deny and no paths everything goes, as the caller says.
    if "/" in cleaned or (not cleaned and _MODES[mode] == ALLOW):
        raise InvalidRequest("paths must name at least one mount")
    for path in cleaned:
        if path.startswith(_NEVER):
            raise InvalidRequest(f"{path} cannot be filtered")
    return PathFilter(_MODES[mode], cleaned)


def _clean(path: str) -> str:
    return path.strip().strip("/") + "/"


def read_filter(view: Snapshot, secondary_id: str) -> PathFilter | None:
    return Space(view, OWN, SYSTEM).read(_PREFIX + secondary_id, PathFilter)


def write_filter(tx: Snapshot, secondary_id: str, made: PathFilter) -> None:
    Space(tx, OWN, SYSTEM).write(_PREFIX + secondary_id, made)


def delete_filter(tx: Snapshot, secondary_id: str) -> None:
    space = Space(tx, OWN, SYSTEM)
    if space.exists(_PREFIX + secondary_id):
        space.delete(_PREFIX + secondary_id)


def forget_all(tx: Snapshot) -> None:
    space = Space(tx, OWN, SYSTEM)
    for name in list(space.names(_PREFIX)):
        space.delete(name)


def forget_path(tx: Snapshot, path: str) -> None:
    """A mount is gone: what is mounted there next is another. Takes the path out of all filters."""
    space = Space(tx, OWN, SYSTEM)
    for name in list(space.names(_PREFIX)):
        found = space.read(name, PathFilter)
        if found is not None and path in found.paths:
            # An allow list that is empty lets nothing through, which is what is meant.
            left = tuple(p for p in found.paths if p != path)
            space.write(name, PathFilter(found.mode, left))


class Selection:
    """What may go to one secondary, given its filter and the mounts there are."""

    def __init__(self, found: PathFilter, mounts: Iterable[Mount]) -> None:
        shared = [m for m in mounts if not m.local and m.id[:15] != _BUILT_IN]
        self.withheld = tuple(sorted(m.id for m in shared if found.withholds(m.path)))
        self.allowed = frozenset(m.id for m in shared if not found.withholds(m.path))

    def passes(self, head: bytes) -> bool:
        """Whether what lies under this head may go. A mount that nobody knows may not."""
        if head[:1] != SHARED or len(head) != HEAD_BYTES:
            return False
        mount_id = head[1:]
        return mount_id[:15] == _BUILT_IN or mount_id in self.allowed
