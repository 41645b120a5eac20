"""LIST and SCAN over a space: the same shape and the same paging for every engine."""

from typing import Final

from undercroft.engines.base import Call, Field, Kind
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Response
from undercroft.storage.view import Space

FIELDS: Final = (
    Field("after", Kind.STRING, "List what sorts behind this name."),
    Field("limit", Kind.INT, "How many names at most; 0: all."),
)


def page_of(call: Call) -> tuple[str, int]:
    """`after` and `limit` of the request; 0 for no limit."""
    limit = call.get("limit", 0)
    if limit < -1:
        raise InvalidRequest("limit must not be negative")
    return call.get("after", ""), max(limit, 0)


def list_names(call: Call, space: Space, prefix: str) -> list[str]:
    """One level, folders with their slash. Raises NotFound when there is none (convention 08)."""
    names = space.list(prefix, *page_of(call))
    if not names:
        raise NotFound
    return names


def scan_names(call: Call, space: Space, prefix: str) -> list[str]:
    """Every leaf below a prefix at any depth, relative to it, sorted by bytes."""
    after, limit = page_of(call)
    start, size = after.encode(), len(prefix)
    found = sorted((name[size:] for name in space.names(prefix)), key=str.encode)
    if after:
        found = [name for name in found if name.encode() > start]
    return found[:limit] if limit else found


def scan_response(names: list[str]) -> Response:
    """A scan that finds nothing is no error, and has no `keys` then."""
    return Response({"keys": names} if names else {})
