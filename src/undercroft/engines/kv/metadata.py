"""`metadata` and `detailed-metadata` of KV v2: settings of a secret, its versions, its names."""

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from undercroft.durations import rfc3339
from undercroft.engines import listing
from undercroft.engines.base import Call, Field, Handler, Kind, Route, deletes, lists, reads, writes
from undercroft.engines.kv import custom
from undercroft.engines.kv.data import exists
from undercroft.engines.kv.fields import (
    go_duration,
    max_versions_of,
    was_sent_null,
    writable_path,
)
from undercroft.engines.kv.secret import Secret, load, metadata_name, remove, save, time_text
from undercroft.engines.kv.settings import Config, config_of
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Operation, Response

_SETTINGS: Final = ("max_versions", "cas_required", "metadata_cas_required")
_MANDATED: Final = (
    '"{}" set to false, but is mandated by backend config. This value will be ignored.'
)


def read(call: Call) -> Response:
    secret = load(call.store, call.params["path"])
    if secret is None:
        raise NotFound
    return Response(_described(secret))


def write(call: Call) -> Response | None:
    """What was sent replaces what was there; the rest stays. Creates the secret if need be."""
    path = writable_path(call)
    return _change(call, path, load(call.store, path), patch=False)


def patch(call: Call) -> Response | None:
    """As `write`, but custom metadata is merged, and the secret must be there."""
    path = writable_path(call)
    secret = load(call.store, path)
    if secret is None:
        raise NotFound
    return _change(call, path, secret, patch=True)


def delete(call: Call) -> None:
    """The secret with all its versions, for good."""
    path = call.params["path"]
    secret = load(call.store, path)
    if secret is not None:
        remove(call.store, path, secret)


def list_keys(call: Call) -> Response:
    return Response({"keys": listing.list_names(call, call.store, _prefix(call))})


def list_detailed(call: Call) -> Response:
    return _detailed(call, listing.list_names(call, call.store, _prefix(call)))


def scan(call: Call) -> Response:
    return listing.scan_response(listing.scan_names(call, call.store, _prefix(call)))


def scan_detailed(call: Call) -> Response:
    keys = listing.scan_names(call, call.store, _prefix(call))
    return _detailed(call, keys) if keys else listing.scan_response(keys)


def _prefix(call: Call) -> str:
    return metadata_name(call.params["path"])


def _detailed(call: Call, keys: list[str]) -> Response:
    folder, info = call.params["path"], {}
    for key in keys:
        secret = None if key.endswith("/") else load(call.store, folder + key)
        info[key] = {} if secret is None else _described(secret)
    return Response({"key_info": info, "keys": keys})


def _change(call: Call, path: str, secret: Secret | None, *, patch: bool) -> Response | None:
    changes = _changes(call, secret, patch)
    if not changes:
        return None
    config, now = config_of(call.store), rfc3339(call.now_ms).encode()
    _check_and_set(call, secret, config)
    secret = secret or Secret(created=now)
    counted = secret.metadata_version + 1
    save(call.store, path, replace(secret, updated=now, metadata_version=counted, **changes))
    return _mandated(call, config)


def _changes(call: Call, secret: Secret | None, patch: bool) -> dict[str, Any]:
    """The fields to change. JSON null sets a setting back, except `delete_version_after`."""
    fields, changes = call.fields, dict[str, Any]()
    for name in _SETTINGS:
        if name in fields or was_sent_null(call, name):
            changes[name] = fields.get(name, False)
    if "max_versions" in changes:
        changes["max_versions"] = max_versions_of(call)
    if "delete_version_after" in fields:
        changes["delete_after_seconds"] = fields["delete_version_after"]
        if changes["delete_after_seconds"] < 0:
            raise InvalidRequest("delete_version_after: cannot be negative")
    if "custom_metadata" in fields:
        sent = bytes(fields["custom_metadata"])
        before = b"null" if secret is None else secret.custom_metadata
        value = custom.patched(before, sent) if patch else custom.written(sent)
        changes["custom_metadata"] = value
    return changes


def _check_and_set(call: Call, secret: Secret | None, config: Config) -> None:
    """Raises InvalidRequest unless the metadata that the caller knows is the newest."""
    if "metadata_cas" in call.fields or was_sent_null(call, "metadata_cas"):
        expected = call.get("metadata_cas", 0)
        if secret is None and expected != 0:
            raise InvalidRequest("metadata_cas must be 0 when creating new metadata")
        if secret is not None and expected != secret.metadata_version:
            raise InvalidRequest(
                "metadata check-and-set parameter does not match the current version"
            )
    elif config.metadata_cas_required or (secret is not None and secret.metadata_cas_required):
        raise InvalidRequest("metadata check-and-set parameter required for this call")


def _mandated(call: Call, config: Config) -> Response | None:
    """Says when a setting that was switched off stays on by the mount's settings."""
    response = Response(status=200)
    for name in ("cas_required", "metadata_cas_required"):
        if getattr(config, name) and call.get(name) is False:
            response.warn(_MANDATED.format(name))
    return response if response.warnings else None


def _described(secret: Secret) -> dict[str, Any]:
    return {
        "cas_required": secret.cas_required,
        "created_time": secret.created.decode(),
        "current_metadata_version": secret.metadata_version,
        "current_version": secret.version,
        "custom_metadata": msgspec.Raw(secret.custom_metadata),
        "delete_version_after": go_duration(secret.delete_after_seconds),
        "max_versions": secret.max_versions,
        "metadata_cas_required": secret.metadata_cas_required,
        "oldest_version": secret.oldest,
        "updated_time": secret.updated.decode(),
        "versions": {
            str(number): {
                "created_time": version.created.decode(),
                "deletion_time": time_text(version.deletion_ms).decode(),
                "destroyed": version.destroyed,
            }
            for number, version in enumerate(secret.versions, secret.first)
        },
    }


METADATA: Final = Route(
    "metadata/{path*}",
    {
        **reads(read, summary="Read what is known of a secret and its versions."),
        **writes(write, summary="Change settings of a secret."),
        Operation.PATCH: Handler(patch, writes=True, summary="Change settings of a secret."),
        **deletes(delete, summary="Delete a secret with all its versions for good."),
        **lists(list_keys, summary="List names."),
        Operation.SCAN: Handler(scan, summary="List names at every depth."),
    },
    fields=(
        Field("max_versions", Kind.INT, "Versions to keep; 0: as the mount says."),
        Field("cas_required", Kind.BOOL, "Whether every write must say which version it follows."),
        Field("delete_version_after", Kind.DURATION, "How long a version lives; 0: for ever."),
        Field("custom_metadata", Kind.RAW, "An object of texts that describe the secret."),
        Field(
            "metadata_cas_required",
            Kind.BOOL,
            "Whether every write of metadata must say which one it follows.",
        ),
        Field("metadata_cas", Kind.INT, "The metadata version that must be current; 0: none yet."),
        *listing.FIELDS,
    ),
    exists=exists,
    summary="Settings and versions of a secret",
)

DETAILED: Final = Route(
    "detailed-metadata/{path*}",
    {
        **lists(list_detailed, summary="List names with what is known of each."),
        Operation.SCAN: Handler(scan_detailed, summary="The same at every depth."),
    },
    fields=listing.FIELDS,
    summary="Names with their metadata",
)
