"""Names below a path: one level (LIST) or all (SCAN)."""

from undercroft.engines.base import Call
from undercroft.errors import NotFound
from undercroft.request.model import Response
from undercroft.storage.view import Space


def list_names(space: Space, prefix: str, after: str = "", limit: int = 0) -> list[str]:
    """Sorted, folders with their slash. Raises NotFound when there is none."""
    names = space.list(prefix, after, limit)
    if not names:
        raise NotFound
    return names


def scan_names(space: Space, prefix: str) -> list[str]:
    """Every name below: a folder's own names before its folders', and those from the last one."""
    found: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        for name in space.list(prefix + folder):
            (folders if name.endswith("/") else found).append(folder + name)
    return found


def ignored_query(call: Call, response: Response) -> Response:
    """Conv 25 for routes that take their body whole, of which the pipeline checks no parameter."""
    names = " ".join(sorted(call.request.query))
    if names:
        response.warn(f"Endpoint ignored these unrecognized parameters: [{names}]")
    return response
