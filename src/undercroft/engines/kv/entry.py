"""What KV version 2 stores: one entry a key, and one for each version but the newest.

    k/<path>             `Key`: settings, facts of every version, and the newest payload
    v/<version>/<path>   the payload of an older version
    config               `Config` of the mount

A read of the newest version, which is nearly every read, costs one look-up; a write costs one put
for a new key, two when an older payload moves out of the way (decision 0006).
"""

from typing import Final

import msgspec

VERSIONS_KEPT: Final = 10  # when neither key nor mount says how many


class Version(msgspec.Struct, frozen=True, array_like=True):
    """Facts of one version; times in Unix milliseconds, 0 for never."""

    number: int
    created_ms: int
    deletion_ms: int = 0
    destroyed: bool = False

    def gone(self, now_ms: int) -> bool:
        """Whether its payload may not be read (any more)."""
        return self.destroyed or 0 < self.deletion_ms <= now_ms


class Key(msgspec.Struct, frozen=True, array_like=True):
    """Everything about a key. `payload` is the newest version's, raw JSON; empty when destroyed."""

    created_ms: int
    updated_ms: int
    current: int = 0  # 0: metadata only, no version yet
    versions: tuple[Version, ...] = ()  # ascending
    payload: bytes = b""
    max_versions: int = 0
    cas_required: bool = False
    metadata_cas_required: bool = False
    delete_after_seconds: int = 0
    custom_metadata: dict[str, str] | None = None
    metadata_version: int = 0

    def version(self, number: int) -> Version | None:
        """Facts of a version, 0 for the newest; None when it never was or is kept no longer."""
        wanted = number or self.current
        return next((v for v in self.versions if v.number == wanted), None)

    def __repr__(self) -> str:
        return f"<Key current={self.current}>"


class Config(msgspec.Struct, frozen=True):
    """Of the mount; each is overruled by the key's own."""

    max_versions: int = 0
    cas_required: bool = False
    metadata_cas_required: bool = False
    delete_after_seconds: int = 0
