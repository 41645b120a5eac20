"""The one place where an error becomes a status and `{"errors": […]}`."""

from typing import Final

import msgspec

from undercroft import errors
from undercroft.http.message import HttpResponse

# The first that fits; families come after their special cases.
_STATUS: Final[tuple[tuple[type[errors.UndercroftError], int], ...]] = (
    (errors.InvalidRequest, 400),
    (errors.PermissionDenied, 403),
    (errors.NotFound, 404),
    (errors.UnsupportedOperation, 405),
    (errors.Behind, 412),
    (errors.TooLarge, 413),
    (errors.UnsupportedMediaType, 415),
    (errors.Sealed, 503),
    (errors.Unavailable, 503),
    (errors.StorageFull, 507),
)
_encode: Final = msgspec.json.Encoder().encode


def status_of(error: errors.UndercroftError) -> int:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def to_http(error: errors.UndercroftError) -> HttpResponse:
    """The hint follows the message; `errors` is empty when there is nothing to say (conv 02)."""
    text = f"{error.message}: {error.hint}" if error.hint else error.message
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, errors.Unavailable):
        headers = (("Retry-After", str(error.retry_after_seconds)),)
    elif isinstance(error, errors.Behind):
        headers = (("Retry-After", "1"),)
    return plain(status_of(error), text, headers)


def plain(status: int, text: str = "", headers: tuple[tuple[str, str], ...] = ()) -> HttpResponse:
    body = _encode({"errors": [text] if text else []}) + b"\n"
    return HttpResponse(status, body, headers=headers)
