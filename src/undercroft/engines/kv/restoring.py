"""Entries of KV v2 that a failover set aside: what they are, and writing one again.

What was lost becomes a new version: nothing that was written since is touched.
"""

import msgspec

from undercroft.engines.kv.secret import Secret, add_version, load
from undercroft.engines.kv.settings import config_of
from undercroft.errors import InvalidRequest
from undercroft.request.mounts import Mount
from undercroft.storage.view import Space


def describe(mount: Mount, name: str) -> str:
    """The secret's path, and the version of a payload that has an entry of its own."""
    kind, _, rest = name.partition("/")
    if kind == "v":
        path, _, number = rest.rpartition("/")
        return f"{path} (version {number})"
    return rest or name


def restore(space: Space, name: str, value: bytes, now_ms: int) -> None:
    """Raises InvalidRequest when the entry holds no payload."""
    kind, _, rest = name.partition("/")
    if kind == "v":
        path, payload = rest.rpartition("/")[0], value
    elif kind == "m":
        path, found = rest, msgspec.msgpack.decode(value, type=Secret).payload
        if found is None:
            raise InvalidRequest(
                "this entry holds no payload: it lies in an entry of its own",
                hint="restore the entry that names the version",
            )
        payload = found
    else:
        raise InvalidRequest("configuration is not restored blindly: make the change again")
    add_version(space, path, load(space, path) or Secret(), payload, now_ms, config_of(space))
