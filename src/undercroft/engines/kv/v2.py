"""KV version 2: every write makes a version; versions are deleted, undeleted, destroyed."""

from typing import Any, Final

import msgspec
from msgspec import structs

from undercroft.durations import rfc3339
from undercroft.engines import jsonobject, listing
from undercroft.engines.base import (
    Call,
    Engine,
    Field,
    Handler,
    Kind,
    Route,
    deletes,
    lists,
    reads,
    writes,
)
from undercroft.engines.kv.entry import VERSIONS_KEPT, Config, Key, Version
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Operation, Response

_CUSTOM_KEYS_MAX: Final = 64
_CUSTOM_KEY_CHARS_MAX: Final = 128
_CUSTOM_VALUE_CHARS_MAX: Final = 512
_decode_key: Final = msgspec.msgpack.Decoder(Key).decode

# storage


def _load(call: Call) -> Key | None:
    """The key's entry. Not by the cache of decoded entries: payloads do not stay in memory."""
    stored = call.store.get("k/" + call.params["path"])
    return None if stored is None else _decode_key(stored)


def _save(call: Call, key: Key) -> None:
    call.store.write("k/" + call.params["path"], key)


def _version_name(call: Call, number: int) -> str:
    return f"v/{number}/{call.params['path']}"


def _payload(call: Call, key: Key, version: Version) -> bytes:
    if version.number == key.current:
        return key.payload
    return call.store.get(_version_name(call, version.number)) or b"null"


def _config(call: Call) -> Config:
    return call.store.read("config", Config) or Config()


# data


def _version_json(key: Key, version: Version) -> bytes:
    """`metadata` of a version, written by hand: it is in every read."""
    return (
        b'{"created_time":"%b","custom_metadata":%b,"deletion_time":"%b","destroyed":%b,"version":%d}'
        % (
            rfc3339(version.created_ms).encode(),
            b"null" if not key.custom_metadata else msgspec.json.encode(key.custom_metadata),
            rfc3339(version.deletion_ms).encode() if version.deletion_ms else b"",
            b"true" if version.destroyed else b"false",
            version.number,
        )
    )


def read_data(call: Call) -> Response:
    key = _load(call)
    version = None if key is None else key.version(call.fields.get("version", 0))
    if key is None or version is None:
        raise NotFound
    if version.gone(call.now_ms):
        body = b'{"data":null,"metadata":%b}' % _version_json(key, version)
        return Response(msgspec.Raw(body), status=404)
    payload = _payload(call, key, version)
    return Response(
        msgspec.Raw(b'{"data":%b,"metadata":%b}' % (payload, _version_json(key, version)))
    )


def write_data(call: Call) -> Response:
    raw = call.fields.get("data")
    if raw is None and not _sent_null(call, "data"):
        raise InvalidRequest("no data provided")
    payload = b"null" if raw is None else bytes(raw)
    if payload[:1] != b"{" and payload != b"null":
        raise InvalidRequest('error converting input for field "data": expected an object')
    key = _load(call)
    _check_and_set(call, key, call.fields.get("options"))
    return _add_version(call, key, payload)


def _sent_null(call: Call, name: str) -> bool:
    """Whether the body has the member, as null: to KV that is a value, not an absence."""
    body = call.request.body
    return bool(body) and name in jsonobject.top_level(body)


def patch_data(call: Call) -> Response:
    raw = call.fields.get("data")
    if raw is None:
        raise InvalidRequest("no data provided")
    key = _load(call)
    version = None if key is None else key.version(0)
    if key is None or version is None:
        raise NotFound
    _check_and_set(call, key, call.fields.get("options"))
    if version.gone(call.now_ms):
        body = b'{"data":null,"metadata":%b}' % _version_json(key, version)
        return Response(msgspec.Raw(body), status=404)
    patch = jsonobject.decode(bytes(raw))
    if not isinstance(patch, dict):
        raise InvalidRequest('error converting input for field "data": expected an object')
    merged = jsonobject.merge(jsonobject.decode(key.payload), patch)
    return _add_version(call, key, jsonobject.encode(merged))


def _check_and_set(call: Call, key: Key | None, options: dict[str, Any] | None) -> None:
    current = 0 if key is None else key.current
    wanted = (options or {}).get("cas")
    if wanted is None:
        if (key is not None and key.cas_required) or _config(call).cas_required:
            raise InvalidRequest("check-and-set parameter required for this call")
        return
    try:
        number = int(wanted)
    except (TypeError, ValueError):
        raise InvalidRequest("error parsing check-and-set parameter") from None
    if number != current:
        raise InvalidRequest("check-and-set parameter did not match the current version")


def _add_version(call: Call, key: Key | None, payload: bytes) -> Response:
    config = _config(call)
    if key is None:
        key = Key(created_ms=call.now_ms, updated_ms=call.now_ms)
    newest = key.version(0)
    if newest is not None and not newest.destroyed:
        call.store.put(_version_name(call, newest.number), key.payload)
    version = Version(key.current + 1, call.now_ms, _deletion_ms(call, key, config))
    kept = key.max_versions or config.max_versions or VERSIONS_KEPT
    versions = (*key.versions, version)
    for old in versions[:-kept]:
        call.store.delete(_version_name(call, old.number))
    key = structs.replace(
        key,
        updated_ms=call.now_ms,
        current=version.number,
        versions=versions[-kept:],
        payload=payload,
    )
    _save(call, key)
    return Response(msgspec.Raw(_version_json(key, version)))


def _deletion_ms(call: Call, key: Key, config: Config) -> int:
    """When the version deletes itself: the shorter of the key's and the mount's time."""
    times = [s for s in (key.delete_after_seconds, config.delete_after_seconds) if s > 0]
    return call.now_ms + min(times) * 1000 if times else 0


def delete_newest(call: Call) -> Response | None:
    key = _load(call)
    if key is not None and key.current:
        _mark(call, key, [key.current], delete=True)
    return None


# single versions


def _numbers(call: Call, missing: str = "No version number provided") -> list[int]:
    numbers: list[int] = call.fields.get("versions") or []
    if not numbers:
        raise InvalidRequest(missing)
    return numbers


def _mark(call: Call, key: Key, numbers: list[int], *, delete: bool) -> None:
    """Delete or undelete versions; destroyed ones stay as they are."""

    def changed(version: Version) -> Version:
        if version.number not in numbers or version.destroyed:
            return version
        if delete:
            already = version.gone(call.now_ms)
            return version if already else structs.replace(version, deletion_ms=call.now_ms)
        return structs.replace(version, deletion_ms=0)

    versions = tuple(map(changed, key.versions))
    if versions != key.versions:
        _save(call, structs.replace(key, versions=versions))


def delete_versions(call: Call) -> Response | None:
    numbers, key = _numbers(call), _load(call)
    if key is not None:
        _mark(call, key, numbers, delete=True)
    return None


def undelete_versions(call: Call) -> Response | None:
    numbers, key = _numbers(call), _load(call)
    if key is not None:
        _mark(call, key, numbers, delete=False)
    return None


def destroy_versions(call: Call) -> Response | None:
    """The payloads go for good; the facts stay."""
    numbers, key = _numbers(call, "no version number provided"), _load(call)
    if key is None:
        return None
    for version in key.versions:
        if version.number in numbers:
            call.store.delete(_version_name(call, version.number))
    versions = tuple(
        structs.replace(v, destroyed=True) if v.number in numbers else v for v in key.versions
    )
    payload = b"" if key.current in numbers else key.payload
    _save(call, structs.replace(key, versions=versions, payload=payload))
    return None


# metadata


def _metadata(key: Key) -> dict[str, Any]:
    oldest = key.versions[0].number if key.versions else 0
    return {
        "cas_required": key.cas_required,
        "created_time": rfc3339(key.created_ms),
        "current_metadata_version": key.metadata_version,
        "current_version": key.current,
        "custom_metadata": key.custom_metadata or None,
        "delete_version_after": _duration_text(key.delete_after_seconds),
        "max_versions": key.max_versions,
        "metadata_cas_required": key.metadata_cas_required,
        "oldest_version": oldest if oldest > 1 else 0,
        "updated_time": rfc3339(key.updated_ms),
        "versions": {
            str(v.number): {
                "created_time": rfc3339(v.created_ms),
                "deletion_time": rfc3339(v.deletion_ms) if v.deletion_ms else "",
                "destroyed": v.destroyed,
            }
            for v in key.versions
        },
    }


def _duration_text(seconds: int) -> str:
    """As Go prints it: 0s, 90s is 1m30s, 3h0m0s."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{text}{left}s"


def read_metadata(call: Call) -> Response:
    key = _load(call)
    if key is None:
        raise NotFound
    return Response(_metadata(key))


_SETTINGS: Final = {
    "max_versions": "max_versions",
    "cas_required": "cas_required",
    "metadata_cas_required": "metadata_cas_required",
    "delete_version_after": "delete_after_seconds",
}


def _settings(call: Call) -> dict[str, Any]:
    """Settings that were sent, by the name of their attribute."""
    changes = {_SETTINGS[n]: v for n, v in call.fields.items() if n in _SETTINGS}
    for name in ("max_versions", "delete_after_seconds"):
        if changes.get(name, 0) < 0:
            raise InvalidRequest(f"{name}: cannot provide a negative value")
    return changes


def write_metadata(call: Call) -> Response | None:
    changes = _settings(call)
    custom = call.fields.get("custom_metadata")
    if custom is not None:
        changes["custom_metadata"] = _checked_custom(custom)
    return _change_metadata(call, _load(call), changes)


def _change_metadata(call: Call, key: Key | None, changes: dict[str, Any]) -> Response | None:
    if not changes:
        return None
    if key is None:
        key = Key(created_ms=call.now_ms, updated_ms=call.now_ms)
    _check_metadata_cas(call, key)
    key = structs.replace(
        key, updated_ms=call.now_ms, metadata_version=key.metadata_version + 1, **changes
    )
    _save(call, key)
    return None


def _check_metadata_cas(call: Call, key: Key) -> None:
    wanted = call.fields.get("metadata_cas")
    if wanted is None:
        if key.metadata_cas_required or _config(call).metadata_cas_required:
            if "metadata_cas_required" in call.fields and not key.metadata_cas_required:
                return
            raise InvalidRequest("metadata check-and-set parameter required for this call")
        return
    if wanted != key.metadata_version:
        raise InvalidRequest("metadata check-and-set parameter did not match the current version")


def patch_metadata(call: Call) -> Response | None:
    key = _load(call)
    if key is None:
        raise NotFound
    changes = _settings(call)
    patch = call.fields.get("custom_metadata")
    if patch is not None:
        merged = jsonobject.merge(key.custom_metadata or {}, patch)
        changes["custom_metadata"] = _checked_custom(merged)
    return _change_metadata(call, key, changes)


def _checked_custom(custom: dict[str, Any]) -> dict[str, str]:
    problem = ""
    if len(custom) > _CUSTOM_KEYS_MAX:
        problem = f"payload must contain at most {_CUSTOM_KEYS_MAX} keys"
    for name, value in custom.items():
        if not isinstance(value, str):
            problem = "values must be texts"
        elif not 0 < len(name) <= _CUSTOM_KEY_CHARS_MAX:
            problem = f"length of key must be 0 < len(key) <= {_CUSTOM_KEY_CHARS_MAX}"
        elif not 0 < len(value) <= _CUSTOM_VALUE_CHARS_MAX:
            problem = f"length of value must be 0 < len(value) <= {_CUSTOM_VALUE_CHARS_MAX}"
        elif not (name + value).isprintable():
            problem = "keys and values must be printable"
    if problem:
        raise InvalidRequest(
            f"1 error occurred:\n\t* custom_metadata validation failed: {problem}\n\n"
        )
    return custom


def delete_key(call: Call) -> Response | None:
    key = _load(call)
    if key is not None:
        for version in key.versions:
            call.store.delete(_version_name(call, version.number))
        call.store.delete("k/" + call.params["path"])
    return None


def list_keys(call: Call) -> Response:
    names = call.store.list("k/" + call.params["path"], *listing.page_of(call))
    return listing.keys_response(names)


def scan_keys(call: Call) -> Response:
    prefix = "k/" + call.params["path"]
    names = call.store.names(prefix)
    return listing.keys_response(listing.scan(names, prefix, *listing.page_of(call)))


def list_detailed(call: Call) -> Response:
    """Names with their metadata; folders have none."""
    prefix = "k/" + call.params["path"]
    names = call.store.list(prefix, *listing.page_of(call))
    if not names:
        raise NotFound
    info: dict[str, Any] = {}
    for name in names:
        stored = None if name.endswith("/") else call.store.get(prefix + name)
        if stored is not None:
            info[name] = _metadata(_decode_key(stored))
    return Response({"key_info": info, "keys": names})


# subkeys


def read_subkeys(call: Call) -> Response:
    """The names in a payload without its values."""
    key = _load(call)
    version = None if key is None else key.version(call.fields.get("version", 0))
    if key is None or version is None:
        raise NotFound
    shape, status = b"null", 404
    if not version.gone(call.now_ms):
        payload = jsonobject.decode(_payload(call, key, version))
        depth = call.fields.get("depth", 0)
        shape, status = jsonobject.encode(_hollow(payload, depth if depth > 0 else -1)), 0
    body = b'{"metadata":%b,"subkeys":%b}' % (_version_json(key, version), shape)
    return Response(msgspec.Raw(body), status=status)


def _hollow(value: Any, depth: int) -> Any:
    if not isinstance(value, dict) or not value or depth == 0:
        return None
    return {name: _hollow(member, depth - 1) for name, member in value.items()}


# the mount


def read_config(call: Call) -> Response:
    config = _config(call)
    return Response(
        {
            "cas_required": config.cas_required,
            "delete_version_after": _duration_text(config.delete_after_seconds),
            "max_versions": config.max_versions,
            "metadata_cas_required": config.metadata_cas_required,
        }
    )


def write_config(call: Call) -> Response | None:
    call.store.write("config", structs.replace(_config(call), **_settings(call)))
    return None


# what is not there


def _explain(verb: str) -> Handler:
    """Clients that take this mount for a version 1 are told (inventory section 4)."""

    def explain(call: Call) -> Response:
        return Response(status=404).warn(
            "Invalid path for a versioned K/V secrets engine. See the API docs for the "
            "appropriate API endpoints to use. If using the Vault CLI, use "
            f"'vault kv {verb}' for this operation."
        )

    return Handler(explain)


def _root(call: Call) -> Response:
    return Response(status=404).warn(
        "Non-listing operations on the root of a K/V v2 mount are not supported."
    )


def _exists(call: Call) -> bool:
    key = _load(call)
    return key is not None and key.current > 0


def _metadata_exists(call: Call) -> bool:
    return call.store.exists("k/" + call.params["path"])


_VERSION: Final = Field("version", Kind.INT, "The version; 0 for the newest.")
_VERSIONS: Final = (Field("versions", Kind.INTS, "The versions."),)
_KEY_SETTINGS: Final = (
    Field("max_versions", Kind.INT, "Versions to keep; 0 for the default."),
    Field("cas_required", Kind.BOOL, "Refuse writes without check-and-set."),
    Field("metadata_cas_required", Kind.BOOL, "The same for changes of metadata."),
    Field("delete_version_after", Kind.DURATION, "Time after which a version deletes itself."),
)
_METADATA: Final = (
    *_KEY_SETTINGS,
    Field("custom_metadata", Kind.OBJECT, "Texts by name, for people and tools."),
    Field("metadata_cas", Kind.INT, "Change only if the metadata has this version."),
    *listing.FIELDS,
)
_EXPLAINED: Final = {
    Operation.READ: _explain("get"),
    Operation.CREATE: _explain("put"),
    Operation.UPDATE: _explain("put"),
    Operation.DELETE: _explain("delete"),
    Operation.LIST: _explain("list"),
    Operation.PATCH: _explain("patch"),
}
_NO_ROOT: Final = {**reads(_root), **writes(_root), **deletes(_root)}

ENGINE: Final = Engine(
    type="kv",
    description="Secrets at paths, with versions.",
    routes=(
        Route(
            "data/{path*}",
            {
                **reads(read_data, summary="Read a version of the secret."),
                **writes(write_data, summary="Write a new version."),
                Operation.PATCH: Handler(
                    patch_data, writes=True, summary="Merge into the newest version, as a new one."
                ),
                **deletes(delete_newest, summary="Delete the newest version; it can come back."),
            },
            (
                Field("data", Kind.RAW, "The secret, an object."),
                Field("options", Kind.OBJECT, "`cas`: write only if the newest version is this."),
                _VERSION,
            ),
            exists=_exists,
            summary="The secret.",
        ),
        Route(
            "metadata/{path*}",
            {
                **reads(read_metadata, summary="Settings and versions of the key."),
                **writes(write_metadata, summary="Change the key's settings."),
                Operation.PATCH: Handler(
                    patch_metadata, writes=True, summary="Change some of the key's settings."
                ),
                **deletes(delete_key, summary="Delete the key, all versions for good."),
                **lists(list_keys, summary="List names below a path."),
                Operation.SCAN: Handler(scan_keys, summary="List names at any depth."),
            },
            _METADATA,
            exists=_metadata_exists,
            summary="The key and its versions.",
        ),
        Route(
            "detailed-metadata/{path*}",
            lists(list_detailed, summary="List names with their metadata."),
            listing.FIELDS,
            summary="Names with metadata.",
        ),
        Route(
            "subkeys/{path*}",
            reads(read_subkeys, summary="The names in the secret, without values."),
            (_VERSION, Field("depth", Kind.INT, "How deep to look; 0 for all.")),
            summary="The secret's structure.",
        ),
        Route("delete/{path*}", writes(delete_versions), _VERSIONS, summary="Delete versions."),
        Route(
            "undelete/{path*}", writes(undelete_versions), _VERSIONS, summary="Bring versions back."
        ),
        Route(
            "destroy/{path*}",
            writes(destroy_versions),
            _VERSIONS,
            summary="Destroy versions for good.",
        ),
        Route(
            "config",
            {**reads(read_config), **writes(write_config)},
            _KEY_SETTINGS,
            summary="What holds for keys that say nothing else.",
        ),
        Route("data", _NO_ROOT, raw_body=True),
        Route("metadata", _NO_ROOT, raw_body=True),
        Route("{path*}", _EXPLAINED, raw_body=True),
    ),
)
