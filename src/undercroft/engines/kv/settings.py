"""`config` of a KV v2 mount: what holds for every secret that says nothing else itself."""

from typing import Any, Final

import msgspec

from undercroft.engines.base import Call, Field, Kind, Route, reads, writes
from undercroft.engines.kv.fields import go_duration, max_versions_of, was_sent_null
from undercroft.request.model import Response
from undercroft.storage.view import Space

NAME: Final = "config"


class Config(msgspec.Struct, frozen=True, array_like=True):
    """Stored as an array: new fields go to the end, with a default."""

    max_versions: int = 0  # 0: ten
    cas_required: bool = False
    delete_after_seconds: int = 0  # 0: not set; -1: no secret's versions are deleted by time
    metadata_cas_required: bool = False


_DEFAULT: Final = Config()


def config_of(space: Space) -> Config:
    return space.read(NAME, Config) or _DEFAULT


def read(call: Call) -> Response:
    config = config_of(call.store)
    return Response(
        {
            "cas_required": config.cas_required,
            "delete_version_after": go_duration(config.delete_after_seconds),
            "max_versions": config.max_versions,
            "metadata_cas_required": config.metadata_cas_required,
        }
    )


def write(call: Call) -> None:
    """Only what was sent changes; JSON null sets back to the default."""
    space = call.store
    changes: dict[str, Any] = {}
    for name in ("cas_required", "metadata_cas_required"):
        if name in call.fields or was_sent_null(call, name):
            changes[name] = call.get(name, False)
    if "max_versions" in call.fields or was_sent_null(call, "max_versions"):
        changes["max_versions"] = max_versions_of(call)
    if "delete_version_after" in call.fields:
        changes["delete_after_seconds"] = max(-1, call.fields["delete_version_after"])
    if changes:
        space.write(NAME, msgspec.structs.replace(config_of(space), **changes))


ROUTE: Final = Route(
    "config",
    {
        **reads(read, summary="Read the settings of this mount."),
        **writes(write, summary="Change settings of this mount."),
    },
    fields=(
        Field("max_versions", Kind.INT, "Versions to keep of each secret; 0: ten."),
        Field("cas_required", Kind.BOOL, "Whether every write must say which version it follows."),
        Field(
            "delete_version_after",
            Kind.DURATION,
            "How long a version lives; 0: for ever; negative: no secret may say otherwise.",
        ),
        Field(
            "metadata_cas_required",
            Kind.BOOL,
            "Whether every write of metadata must say which one it follows.",
        ),
    ),
    summary="Settings of this mount",
)
