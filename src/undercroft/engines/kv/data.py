"""`data` and `subkeys` of KV v2: versions are written, read, patched and deleted."""

from typing import Any, Final

import msgspec

from undercroft.engines.base import Call, Field, Handler, Kind, Route, deletes, reads, writes
from undercroft.engines.kv.fields import writable_path
from undercroft.engines.kv.jsontext import is_object, keys_only, merged
from undercroft.engines.kv.secret import (
    NULL,
    Secret,
    Version,
    add_version,
    deleted,
    load,
    metadata_name,
    payload_of,
    save,
    version_json,
)
from undercroft.engines.kv.settings import Config, config_of
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.dispatch import convert
from undercroft.request.model import Operation, Response

_CAS: Final = Field("cas", Kind.INT)
_NO_SECRET: Final = Secret()


def exists(call: Call) -> bool:
    """Conv 34: a secret with metadata is there, even if all its versions are deleted."""
    return call.store.exists(metadata_name(call.params["path"]))


def read(call: Call) -> Response:
    """The hot path of the product: every line is measured (bench/kv.py)."""
    path = call.params["path"]
    space = call.store
    secret = load(space, path)
    if secret is None:
        raise NotFound
    number = call.fields.get("version", 0)
    if number <= 0:
        number = secret.version
    version = secret.find(number)
    if version is None:
        raise NotFound
    shown = version_json(secret, number, version)
    if not version.is_live(call.now_ms):
        return Response(msgspec.Raw(b'{"data":null,"metadata":%b}' % shown), status=404)
    payload = payload_of(space, path, secret, number)
    return Response(msgspec.Raw(b'{"data":%b,"metadata":%b}' % (payload, shown)))


def write(call: Call) -> Response:
    path, payload = writable_path(call), _sent_data(call)
    space = call.store
    secret, config = load(space, path) or _NO_SECRET, config_of(space)
    _check_and_set(call, secret, config)
    secret = add_version(space, path, secret, payload, call.now_ms, config)
    return _written(secret)


def patch(call: Call) -> Response:
    """A new version: the newest one with a merge patch applied."""
    path, change = writable_path(call), _sent_data(call)
    space = call.store
    secret, config = load(space, path), config_of(space)
    newest = None if secret is None else secret.find(secret.version)
    if secret is None or newest is None:
        raise NotFound
    _check_and_set(call, secret, config)
    if not newest.is_live(call.now_ms):
        return Response(msgspec.Raw(version_json(secret, secret.version, newest)), status=404)
    payload = merged(payload_of(space, path, secret, secret.version), change)
    return _written(add_version(space, path, secret, payload, call.now_ms, config))


def delete(call: Call) -> None:
    """The newest version, so that it can be undeleted."""
    path = call.params["path"]
    secret = load(call.store, path)
    if secret is not None:
        after = deleted(secret, secret.version, call.now_ms)
        if after is not secret:
            save(call.store, path, after)


def subkeys(call: Call) -> Response:
    """The shape of a version: its keys without their values."""
    path = call.params["path"]
    secret = load(call.store, path)
    number = call.get("version", 0)
    if secret is not None and number <= 0:
        number = secret.version
    version = None if secret is None else secret.find(number)
    if secret is None or version is None:
        raise NotFound
    shown: dict[str, Any] = {"metadata": _raw_version(secret, number, version), "subkeys": None}
    if not version.is_live(call.now_ms):
        return Response(shown, status=404)
    payload = payload_of(call.store, path, secret, number)
    depth: int = call.get("depth", 0)
    if is_object(payload):
        shown["subkeys"] = keys_only(payload, 1 if depth < 0 else depth)
    return Response(shown)


def _raw_version(secret: Secret, number: int, version: Version) -> msgspec.Raw:
    return msgspec.Raw(version_json(secret, number, version))


def _written(secret: Secret) -> Response:
    return Response(_raw_version(secret, secret.version, secret.versions[-1]))


def _sent_data(call: Call) -> bytes:
    raw = call.fields.get("data")
    if raw is None:
        raise InvalidRequest("no data provided")
    payload = bytes(raw)
    if not is_object(payload) and payload != NULL:
        raise InvalidRequest('error converting input for field "data": expected an object')
    return payload


def _check_and_set(call: Call, secret: Secret, config: Config) -> None:
    """Raises InvalidRequest unless the version that the caller knows is the newest one."""
    options = call.fields.get("options")
    if options is None or "cas" not in options:
        if config.cas_required or secret.cas_required:
            raise InvalidRequest("check-and-set parameter required for this call")
        return
    try:
        expected = 0 if options["cas"] is None else convert(_CAS, options["cas"])
    except InvalidRequest:
        raise InvalidRequest("error parsing check-and-set parameter") from None
    if expected != secret.version:
        raise InvalidRequest("check-and-set parameter did not match the current version")


_VERSION: Final = Field("version", Kind.INT, "Which version; 0: the newest.")

DATA: Final = Route(
    "data/{path*}",
    {
        **reads(read, summary="Read a version of a secret."),
        **writes(write, summary="Write a new version of a secret."),
        Operation.PATCH: Handler(
            patch, writes=True, summary="Write a new version: the newest one, changed."
        ),
        **deletes(delete, summary="Delete the newest version, so that it can be undeleted."),
    },
    fields=(
        Field("data", Kind.RAW, "The secret: a JSON object, or null."),
        Field("options", Kind.OBJECT, "`cas`: the version that must be the newest; 0: none yet."),
        _VERSION,
    ),
    exists=exists,
    summary="Versions of a secret",
)

SUBKEYS: Final = Route(
    "subkeys/{path*}",
    reads(subkeys, summary="Read the keys of a secret without their values."),
    fields=(_VERSION, Field("depth", Kind.INT, "How many levels to show; 0: all.")),
    summary="Shape of a secret",
)
