"""`delete`, `undelete` and `destroy` of KV v2: what is done to versions that are named."""

from collections.abc import Callable
from typing import Final

from undercroft.engines.base import Call, Field, Kind, Route, writes
from undercroft.engines.kv.fields import writable_path
from undercroft.engines.kv.secret import Secret, deleted, destroyed, load, save, undeleted
from undercroft.engines.kv.settings import config_of
from undercroft.errors import InvalidRequest
from undercroft.storage.view import Space


def delete(call: Call) -> None:
    _each(call, lambda space, path, secret, number: deleted(secret, number, call.now_ms))


def undelete(call: Call) -> None:
    config = config_of(call.store)
    _each(call, lambda space, path, secret, number: undeleted(secret, number, call.now_ms, config))


def destroy(call: Call) -> None:
    _each(call, destroyed, missing="no version number provided")


def _each(
    call: Call,
    change: Callable[[Space, str, Secret, int], Secret],
    missing: str = "No version number provided",
) -> None:
    """A version or a secret that is not there is no error: it is gone already."""
    path, numbers = writable_path(call), call.get("versions")
    if not numbers:
        raise InvalidRequest(missing)
    space = call.store
    before = load(space, path)
    if before is None:
        return
    after = before
    for number in numbers:
        after = change(space, path, after, number)
    if after is not before:
        save(space, path, after)


_FIELDS: Final = (Field("versions", Kind.INTS, "The versions' numbers."),)

DELETE: Final = Route(
    "delete/{path*}",
    writes(delete, summary="Delete versions, so that they can be undeleted."),
    fields=_FIELDS,
    summary="Delete versions",
)
UNDELETE: Final = Route(
    "undelete/{path*}",
    writes(undelete, summary="Bring deleted versions back."),
    fields=_FIELDS,
    summary="Undelete versions",
)
DESTROY: Final = Route(
    "destroy/{path*}",
    writes(destroy, summary="Remove the data of versions for good."),
    fields=_FIELDS,
    summary="Destroy versions",
)
