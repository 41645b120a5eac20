"""One secret of KV v2: its versions, its settings, and the entries that hold them.

    m/<path>             Secret: what is known of every version, and the newest payload if short
    v/<path>/<version>   a payload: every older one, and the newest if it is long
    config               Config: what holds for the whole mount (`settings.py`)

Reading the newest version of a short secret is one entry. A long payload is written once and never
again, whatever happens to its metadata (docs/decisions/0006-kv-layout.md has the measurements).
Payloads are JSON text exactly as it came; nothing here looks into them.
"""

from typing import Final

import msgspec
from msgspec.structs import replace

from undercroft.durations import rfc3339
from undercroft.engines.kv.settings import Config
from undercroft.errors import Corrupt
from undercroft.storage.view import Space

# A newest payload up to this size lies beside the metadata. Metadata changes rewrite it, and the
# next version moves it to an entry of its own, so it must be cheap to write twice.
INLINE_BYTES_MAX: Final = 1024
VERSIONS_KEPT: Final = 10  # when neither the secret nor the mount says how many
NULL: Final = b"null"


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is known of one version. `created` is only ever shown, so it is kept as text."""

    created: bytes  # RFC 3339
    deletion_ms: int = 0  # deleted from this moment on, which may lie ahead; 0: never
    destroyed: bool = False  # the payload is gone for good

    def is_live(self, now_ms: int) -> bool:
        return not self.destroyed and (self.deletion_ms == 0 or now_ms < self.deletion_ms)


class Secret(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Stored as an array: new fields go to the end, with a default.

    `versions` are consecutive and end with the newest; none before the first write of data.
    """

    version: int = 0  # the newest one's number; 0: only metadata so far
    payload: bytes | None = None  # the newest one's, when it is short and not destroyed
    versions: tuple[Version, ...] = ()
    custom_metadata: bytes = NULL  # JSON, an object of texts
    oldest: int = 0  # 0 until the number of versions first reached its limit, as Vault counts
    created: bytes = b""  # RFC 3339, of the secret
    updated: bytes = b""
    max_versions: int = 0  # 0: as the mount says
    cas_required: bool = False
    delete_after_seconds: int = 0
    metadata_version: int = 0  # counts the writes of metadata
    metadata_cas_required: bool = False

    def __repr__(self) -> str:
        return f"<Secret version={self.version}>"

    @property
    def first(self) -> int:
        """Number of the first version in `versions`."""
        return self.version - len(self.versions) + 1

    def find(self, number: int) -> Version | None:
        at = number - self.first
        return self.versions[at] if 0 <= at < len(self.versions) else None

    def with_version(self, number: int, version: Version) -> "Secret":
        """`number` must be one that `find` knows."""
        at = number - self.first
        return replace(self, versions=(*self.versions[:at], version, *self.versions[at + 1 :]))


_decode: Final = msgspec.msgpack.Decoder(Secret).decode


def metadata_name(path: str) -> str:
    return "m/" + path


def _payload_name(path: str, number: int) -> str:
    return f"v/{path}/{number}"


def load(space: Space, path: str) -> Secret | None:
    """Not through the cache of decoded entries: it would keep payloads in memory, to save 1 µs."""
    raw = space.get("m/" + path)
    return None if raw is None else _decode(raw)


def save(space: Space, path: str, secret: Secret) -> None:
    space.write(metadata_name(path), secret)


def payload_of(space: Space, path: str, secret: Secret, number: int) -> bytes:
    """The JSON of a version that is not destroyed."""
    if number == secret.version and secret.payload is not None:
        return secret.payload
    payload = space.get(_payload_name(path, number))
    if payload is None:
        raise Corrupt("a version's payload is missing")
    return payload


def add_version(
    space: Space, path: str, secret: Secret, payload: bytes, now_ms: int, config: Config
) -> Secret:
    """Write a new version, and drop those that are one too many in the same transaction."""
    number, now = secret.version + 1, rfc3339(now_ms).encode()
    kept = max(secret.max_versions, config.max_versions) or VERSIONS_KEPT
    versions = (*secret.versions, Version(now, deletion_ms(secret, config, now_ms)))[-kept:]
    oldest = number - kept + 1 if number - secret.oldest >= kept else secret.oldest
    for gone in range(secret.first, number - len(versions) + 1):
        space.delete(_payload_name(path, gone))
    if secret.payload is not None and len(versions) > 1:
        space.put(_payload_name(path, secret.version), secret.payload)
    short = len(payload) <= INLINE_BYTES_MAX
    if not short:
        space.put(_payload_name(path, number), payload)
    secret = replace(
        secret,
        version=number,
        payload=payload if short else None,
        versions=versions,
        oldest=oldest,
        created=secret.created or now,
        updated=now,
    )
    save(space, path, secret)
    return secret


def deletion_ms(secret: Secret, config: Config, now_ms: int) -> int:
    """When a version of now is to be deleted: the shorter of what secret and mount say; 0: never.

    A mount whose `delete_version_after` is negative forbids it altogether.
    """
    own, general = secret.delete_after_seconds, config.delete_after_seconds
    if general < 0 or not (own or general):
        return 0
    return now_ms + 1000 * (min(own, general) if own and general else own or general)


def deleted(secret: Secret, number: int, now_ms: int) -> Secret:
    """The version can be undeleted. What is deleted, destroyed or unknown stays as it is."""
    version = secret.find(number)
    if version is None or not version.is_live(now_ms):
        return secret
    return secret.with_version(number, replace(version, deletion_ms=now_ms))


def undeleted(secret: Secret, number: int, now_ms: int, config: Config) -> Secret:
    """The version lives as long as one written now; what was destroyed stays so."""
    version = secret.find(number)
    if version is None or version.destroyed:
        return secret
    until = deletion_ms(secret, config, now_ms)
    return secret.with_version(number, replace(version, deletion_ms=until))


def destroyed(space: Space, path: str, secret: Secret, number: int) -> Secret:
    """The version's payload is deleted from the store; its metadata stays."""
    version = secret.find(number)
    if version is None or version.destroyed:
        return secret
    space.delete(_payload_name(path, number))
    secret = secret.with_version(number, replace(version, destroyed=True))
    return replace(secret, payload=None) if number == secret.version else secret


def remove(space: Space, path: str, secret: Secret) -> None:
    """The secret with all its versions, for good."""
    for number in range(secret.first, secret.version + 1):
        space.delete(_payload_name(path, number))
    space.delete(metadata_name(path))


def time_text(unix_ms: int) -> bytes:
    """A moment as JSON text without its quotes; empty for none."""
    return rfc3339(unix_ms).encode() if unix_ms else b""


def version_json(secret: Secret, number: int, version: Version) -> bytes:
    """A version's metadata as `data` and `subkeys` answer it. By hand: this is the hot path."""
    return (
        b'{"created_time":"%b","custom_metadata":%b,"deletion_time":"%b",'
        b'"destroyed":%b,"version":%d}'
    ) % (
        version.created,
        secret.custom_metadata,
        time_text(version.deletion_ms) if version.deletion_ms else b"",
        b"true" if version.destroyed else b"false",
        number,
    )
