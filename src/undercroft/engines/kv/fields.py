"""Small readings of what a KV request sent, shared by the handlers."""

from typing import Final

from undercroft.engines.base import Call
from undercroft.errors import InvalidRequest
from undercroft.request.dispatch import decode_body
from undercroft.storage.keys import NAME_BYTES_MAX

_MAX_VERSIONS_MAX: Final = 2**32 - 1
# Leaves room for `v/` and a version, or for a token's accessor, whatever that version may be: a
# secret that could be written once but never again would be a trap.
PATH_BYTES_MAX: Final = NAME_BYTES_MAX - 64
_TRAILING_SLASH: Final = "cannot write to a path ending in '/'"


def writable_path(call: Call) -> str:
    """The path of something to write. Raises InvalidRequest when it ends in a slash."""
    path = call.params.get("path", "")
    if call.request.path.endswith("/"):
        raise InvalidRequest(_TRAILING_SLASH)
    if not path:
        raise InvalidRequest("missing path")
    if len(path.encode()) > PATH_BYTES_MAX:
        raise InvalidRequest(f"the path is longer than {PATH_BYTES_MAX} bytes")
    return path


def was_sent_null(call: Call, name: str) -> bool:
    """JSON null is not a field's value, but in a change of settings it says: the default again."""
    body = call.request.body
    if b"null" not in body:
        return False
    raw = decode_body(body).get(name)
    return raw is not None and bytes(raw) == b"null"


def max_versions_of(call: Call) -> int:
    count: int = call.get("max_versions", 0)
    if not 0 <= count <= _MAX_VERSIONS_MAX:
        raise InvalidRequest("max_versions: out of range")
    return count


def go_duration(seconds: int) -> str:
    """As Go prints it: `0s`, `1m40s`, `25h1m1s`."""
    if seconds < 0:
        return "-" + go_duration(-seconds)
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
