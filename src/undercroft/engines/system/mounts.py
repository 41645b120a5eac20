"""sys/mounts, sys/auth and sys/remount: what is mounted where, and its tuning.

The two families differ only in the prefix `auth/` of the paths and in which engines they take, so
one set of handlers serves both.
"""

import uuid
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct, structs

from undercroft import __version__
from undercroft.durations import parse_duration
from undercroft.engines.base import Call, Engine, Field, Kind, Route, deletes, reads, writes
from undercroft.errors import InvalidRequest, NotFound
from undercroft.replication import filters
from undercroft.replication.clashes import check_secondaries
from undercroft.request.model import Response
from undercroft.request.mounts import (
    Mount,
    MountConfig,
    check_new_path,
    check_removable,
    new_accessor,
    new_mount_id,
)
from undercroft.request.work import enqueue_purge
from undercroft.storage.keys import CUBBYHOLE, LOCAL, QUEUE, SYSTEM, TOKENS
from undercroft.storage.view import Space

_TTLS: Final = ("default_lease_ttl", "max_lease_ttl")
_LISTS: Final = (
    "audit_non_hmac_request_keys",
    "audit_non_hmac_response_keys",
    "passthrough_request_headers",
    "allowed_response_headers",
)
_TOKEN_TYPES: Final = ("default-service", "default-batch", "service", "batch")
_LOCKOUT_KEYS: Final = {
    "lockout_threshold": "user_lockout_threshold",
    "lockout_duration": "user_lockout_duration",
    "lockout_counter_reset": "user_lockout_counter_reset_duration",
    "lockout_disable": "user_lockout_disable",
}
_VISIBILITIES: Final = ("", "hidden", "unauth")
_MIGRATION: Final = "migration/"
_MIGRATION_KEPT_MS: Final = 24 * 3600 * 1000

_CONFIG_FIELDS: Final = (
    Field("default_lease_ttl", Kind.STRING, "Default lease duration of what is issued here."),
    Field("max_lease_ttl", Kind.STRING, "Longest lease duration of what is issued here."),
    Field("listing_visibility", Kind.STRING, "`unauth` shows the mount without a token."),
    Field("audit_non_hmac_request_keys", Kind.LIST, "Request keys audited in clear."),
    Field("audit_non_hmac_response_keys", Kind.LIST, "Response keys audited in clear."),
    Field("passthrough_request_headers", Kind.LIST, "Request headers handed to the engine."),
    Field("allowed_response_headers", Kind.LIST, "Response headers the engine may set."),
    Field("token_type", Kind.STRING, "Type of the tokens that an auth method issues."),
    Field("user_lockout_config", Kind.OBJECT, "User lockout of an auth method."),
    Field("description", Kind.STRING, "A text for people."),
    Field("options", Kind.STRINGS, "Options of the engine, such as the KV version."),
)
_NEW_FIELDS: Final = (
    Field("path", Kind.STRING, "Where to mount."),
    Field("type", Kind.STRING, "The engine, such as kv or userpass."),
    Field("description", Kind.STRING, "A text for people."),
    Field("config", Kind.OBJECT, "Tuning, as for the tune endpoint."),
    Field("options", Kind.STRINGS, "Options of the engine, such as the KV version."),
    Field("local", Kind.BOOL, "Keep this mount and its data out of replication."),
    Field("seal_wrap", Kind.BOOL, "Kept and shown; every value is encrypted the same way."),
    Field("external_entropy_access", Kind.BOOL, "Kept and shown; there is no other source."),
    Field("plugin_name", Kind.STRING, "Not supported: engines are built in."),
    Field("plugin_version", Kind.STRING, "Not supported: engines are built in."),
)


class Migration(Struct, frozen=True):
    """A remount that was done, kept for a day for those who ask."""

    source_mount: str
    target_mount: str
    status: str


class _Family:
    """`sys/mounts` or `sys/auth`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.noun = "auth engine" if prefix else "secret engine mount"

    def path(self, call: Call) -> str:
        return f"{self.prefix}{call.params['path'].strip('/')}/"

    def find(self, call: Call) -> Mount | None:
        return call.services.mounts.table(call.view).mounts.get(self.path(call))

    # handlers

    def list(self, call: Call) -> Response:
        table = call.services.mounts.table(call.view)
        data = {
            path.removeprefix(self.prefix): describe(mount)
            for path, mount in sorted(table.mounts.items())
            if mount.auth == bool(self.prefix)
        }
        return Response(data, repeat_data=True)

    def read(self, call: Call) -> Response:
        mount = self.find(call)
        if mount is None:
            raise InvalidRequest(f"No {self.noun} at {self.path(call)[len(self.prefix) :]}")
        return Response(describe(mount), repeat_data=True)

    def enable(self, call: Call) -> Response | None:
        kind, options = call.get("type", ""), call.get("options")
        if not kind:
            raise InvalidRequest("backend type must be specified as a string")
        if call.get("plugin_name") or call.get("plugin_version"):
            raise InvalidRequest("plugins are not supported: engines are built in, see `type`")
        if kind == "kv-v2":
            kind, options = "kv", {**(options or {}), "version": "2"}
        elif kind == "kv-v1":
            kind, options = "kv", {**(options or {}), "version": "1"}
        engine = call.services.engines.get(kind)
        if engine is None or engine.auth != bool(self.prefix) or kind in _BUILT_IN_ONCE:
            raise InvalidRequest("plugin not found in the catalog: the engine type is not known")
        path = self.path(call)
        check_new_path(call.services.mounts.table(call.view), path, auth=bool(self.prefix))
        mount = Mount(
            id=new_mount_id(),
            path=path,
            type=kind,
            accessor=new_accessor(f"auth_{kind}" if self.prefix else kind),
            description=call.get("description", ""),
            config=_new_config(call, bool(self.prefix)),
            options=options if options is not None else {},
            local=call.get("local", False),
            seal_wrap=call.get("seal_wrap", False),
            external_entropy_access=call.get("external_entropy_access", False),
        )
        if not mount.local:
            _check_secondaries(call, path)
        self._check(call, engine, mount, None)
        call.services.mounts.put(call.view, mount)
        return None

    def disable(self, call: Call) -> Response | None:
        mount = self.find(call)
        if mount is None:
            return None
        check_removable(mount)
        call.services.mounts.remove(call.view, mount)
        enqueue_purge(call.view, mount.id)
        if not mount.local:
            filters.forget_path(call.view, mount.path)
        if mount.auth:
            call.services.tokens.revoke_mount(call.view, mount.id)
        return None

    def read_tune(self, call: Call) -> Response:
        mount = self.find(call)
        if mount is None:
            path = self.path(call)[len(self.prefix) :]
            raise InvalidRequest(f'cannot fetch sysview for path "{path}"')
        return Response(_tuning(call, mount), repeat_data=True)

    def tune(self, call: Call) -> Response | None:
        mount = self.find(call)
        if mount is None:
            path = self.path(call)[len(self.prefix) :]
            raise InvalidRequest(f'tune of path "{path}" failed: no mount entry found')
        config = _changed_config(call, mount.config, call.fields)
        if mount.id == SYSTEM and any(name in call.fields for name in _TTLS):
            raise InvalidRequest("cannot tune the lease durations of sys/")
        options = call.get("options")
        if options is not None:
            options = {**(mount.options or {}), **options}
        tuned = structs.replace(
            mount,
            config=config,
            description=call.get("description", mount.description),
            options=mount.options if options is None else options,
        )
        self._check(call, call.services.engines[mount.type], tuned, mount)
        call.services.mounts.put(call.view, tuned)
        return None

    def _check(self, call: Call, engine: Engine, mount: Mount, before: Mount | None) -> None:
        settings = call.services.settings
        longest = mount.config.max_lease_ttl or settings.max_lease_ttl
        if mount.config.default_lease_ttl > longest:
            raise InvalidRequest("given default lease TTL greater than given max lease TTL")
        if engine.check is not None:
            engine.check(mount, before)


_BUILT_IN_ONCE: Final = ("system", "cubbyhole", "token")


def _check_secondaries(call: Call, path: str) -> None:
    """A call that a secondary has sent on carries no token."""
    check_secondaries(call.services.replication, path, names=bool(call.request.token))


def describe(mount: Mount) -> dict[str, Any]:
    """A mount as sys/mounts and sys/auth show it."""
    config = mount.config
    shown: dict[str, Any] = {
        "default_lease_ttl": config.default_lease_ttl,
        "force_no_cache": config.force_no_cache,
        "max_lease_ttl": config.max_lease_ttl,
    }
    if mount.auth:
        shown["token_type"] = config.token_type
    if config.listing_visibility:
        shown["listing_visibility"] = config.listing_visibility
    for name in _LISTS:
        if getattr(config, name):
            shown[name] = getattr(config, name)
    if config.user_lockout_config:
        shown["user_lockout_config"] = config.user_lockout_config
    described = {
        "accessor": mount.accessor,
        "config": shown,
        "description": mount.description,
        "external_entropy_access": mount.external_entropy_access,
        "local": mount.local,
        "options": mount.options,
        "plugin_version": "",
        "running_plugin_version": f"v{__version__}+builtin",
        "running_sha256": "",
        "seal_wrap": mount.seal_wrap,
        "type": mount.type,
        "uuid": mount.uuid,
    }
    if mount.type not in _BUILT_IN_ONCE:
        described["deprecation_status"] = "supported"
    return described


def _tuning(call: Call, mount: Mount) -> dict[str, Any]:
    settings, config = call.services.settings, mount.config
    data: dict[str, Any] = {
        "default_lease_ttl": config.default_lease_ttl or settings.default_lease_ttl,
        "description": mount.description,
        "force_no_cache": config.force_no_cache,
        "max_lease_ttl": config.max_lease_ttl or settings.max_lease_ttl,
    }
    if mount.auth:
        data["token_type"] = config.token_type
    if mount.options:
        data["options"] = mount.options
    if config.listing_visibility:
        data["listing_visibility"] = config.listing_visibility
    for name in _LISTS:
        if getattr(config, name):
            data[name] = getattr(config, name)
    if config.user_lockout_config:
        for name, shown in _LOCKOUT_KEYS.items():
            absent: object = False if name == "lockout_disable" else 0
            data[shown] = config.user_lockout_config.get(name, absent)
    return data


def _new_config(call: Call, auth: bool) -> MountConfig:
    sent = call.get("config", {})
    config = _changed_config(call, MountConfig(), sent)
    force = sent.get("force_no_cache", False)
    if not isinstance(force, bool):
        raise InvalidRequest("config.force_no_cache: not a boolean")
    return structs.replace(config, force_no_cache=force)


def _changed_config(call: Call, config: MountConfig, sent: dict[str, Any]) -> MountConfig:
    changes: dict[str, Any] = {}
    for name in _TTLS:
        if name in sent:
            value = sent[name]
            seconds = 0 if value in ("", "system", None) else parse_duration(value, name)
            if seconds < 0:
                raise InvalidRequest(f"{name}: a lease duration cannot be negative")
            changes[name] = seconds
    for name in _LISTS:
        if name in sent:
            changes[name] = _texts(sent[name], name)
    if "listing_visibility" in sent:
        if sent["listing_visibility"] not in _VISIBILITIES:
            raise InvalidRequest("invalid listing_visibility: use hidden or unauth")
        changes["listing_visibility"] = sent["listing_visibility"]
    if sent.get("token_type"):
        if sent["token_type"] not in _TOKEN_TYPES:
            raise InvalidRequest("invalid value for 'token_type'")
        changes["token_type"] = sent["token_type"]
    if "user_lockout_config" in sent:
        changes["user_lockout_config"] = _lockout(sent["user_lockout_config"])
    return structs.replace(config, **changes)


def _texts(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise InvalidRequest(f"{name}: not a list of texts")
    return value


def _lockout(sent: Any) -> dict[str, Any] | None:
    """As Vault names it: threshold, duration, counter reset and disable, each `lockout_…`."""
    if not isinstance(sent, dict):
        raise InvalidRequest("user_lockout_config: not an object")
    config: dict[str, Any] = {}
    readers: dict[str, Callable[[Any], Any]] = {
        "lockout_threshold": int,
        "lockout_duration": lambda v: parse_duration(v, "lockout_duration"),
        "lockout_counter_reset": lambda v: parse_duration(v, "lockout_counter_reset"),
        "lockout_disable": lambda v: v in (True, "true", "1", 1),
    }
    for name, value in sent.items():
        name = "lockout_counter_reset" if name == "lockout_counter_reset_duration" else name
        if name not in readers:
            raise InvalidRequest("user_lockout_config: unknown key", hint=f"known: {list(readers)}")
        try:
            config[name] = readers[name](value)
        except (TypeError, ValueError):
            raise InvalidRequest(f"user_lockout_config.{name}: not a valid value") from None
    return config or None


# remount


def _remount(call: Call) -> Response:
    """Moves a mount at once: the table changes in this transaction, data stays where it is."""
    source = f"{call.get('from', '').strip('/')}/"
    target = f"{call.get('to', '').strip('/')}/"
    if "/" in (source, target):
        raise InvalidRequest("both 'from' and 'to' path must be specified as a string")
    table = call.services.mounts.table(call.view)
    mount = table.mounts.get(source)
    if mount is not None and mount.id in (SYSTEM, CUBBYHOLE, TOKENS):
        raise InvalidRequest(f'cannot remount "{source}"')
    if mount is None:
        raise InvalidRequest(f'no matching mount at "{source}"')
    if mount.auth != target.startswith("auth/"):
        was, wanted = ("auth", "non-auth") if mount.auth else ("non-auth", "auth")
        raise InvalidRequest(f'cannot remount {was} mount to {wanted} mount "{target}"')
    check_new_path(table, target, auth=mount.auth)
    if not mount.local:
        _check_secondaries(call, target)
    call.services.mounts.put(call.view, structs.replace(mount, path=target))
    migration = str(uuid.uuid4())
    Space(call.view, LOCAL, QUEUE).write(
        _MIGRATION + migration,
        Migration(source, target, "success"),
        expires_ms=call.now_ms + _MIGRATION_KEPT_MS,
    )
    return Response({"migration_id": migration}, repeat_data=True).warn(
        "The mount has been moved; the status endpoint knows it under the returned migration_id"
    )


def _remount_status(call: Call) -> Response:
    migration = call.params["migration_id"]
    found = Space(call.view, LOCAL, QUEUE).read(_MIGRATION + migration, Migration)
    if found is None:
        raise NotFound
    info = structs.asdict(found)
    return Response({"migration_id": migration, "migration_info": info}, repeat_data=True)


def _routes(family: _Family, name: str) -> tuple[Route, ...]:
    at = f"{name}/{{path*}}"
    sudo = bool(family.prefix)
    return (
        Route(name, reads(family.list), summary=f"List what is mounted below {name}."),
        Route(
            f"{at}/tune",
            {**reads(family.read_tune), **writes(family.tune)},
            _CONFIG_FIELDS,
            sudo=sudo,
            summary="Read or change a mount's tuning.",
        ),
        Route(
            at,
            {**reads(family.read), **writes(family.enable), **deletes(family.disable)},
            _NEW_FIELDS,
            sudo=sudo,
            summary="Mount an engine, show it, or unmount it and delete its data.",
        ),
    )


ROUTES: Final = (
    *_routes(_Family(""), "mounts"),
    *_routes(_Family("auth/"), "auth"),
    Route(
        "remount",
        writes(_remount),
        (Field("from", doc="Mounted now at."), Field("to", doc="Mounted then at.")),
        sudo=True,
        summary="Move a mount to another path; its data and accessor stay.",
    ),
    Route(
        "remount/status/{migration_id}",
        reads(_remount_status),
        summary="What became of a remount.",
    ),
)
