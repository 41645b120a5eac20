"""LIST and SCAN over a space: the same shape and the same paging for every engine."""

from collections.abc import Iterator
from typing import Final

from undercroft.engines.base import Call, Field, Kind
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Response

FIELDS: Final = (
    Field("after", Kind.STRING, "List what sorts behind this name."),
    Field("limit", Kind.INT, "How many names at most."),
)


def page_of(call: Call) -> tuple[str, int]:
    """`after` and `limit` of the request; 0 for no limit."""
    limit = call.get("limit", 0)
    if limit < -1:
        raise InvalidRequest("limit must not be negative")
    return call.get("after", ""), max(limit, 0)


def keys_response(names: list[str]) -> Response:
    """`data.keys`; an empty list is a 404 (convention 08)."""
    if not names:
        raise NotFound
    return Response({"keys": names})


def scan(names: Iterator[str], prefix: str, after: str, limit: int) -> list[str]:
    """Every leaf below a prefix at any depth, relative to it, sorted."""
    found = sorted((n[len(prefix) :] for n in names), key=str.encode)
    if after:
        found = [name for name in found if name.encode() > after.encode()]
    return found[:limit] if limit else found
