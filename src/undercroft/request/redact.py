"""What an audit entry may show of a value: the shape, never the text.

Texts and bytes become `hmac-sha256:` and a keyed hash, so an operator who knows a value can look
for it (`sys/audit-hash`) and nobody else learns it. Numbers, booleans, null, object keys and
RFC 3339 times stay, as Vault keeps them. A type that nobody thought of is hashed (AUD-05).

Everything is built anew: what one device shows is never the object that another one hides (AUD-03).
"""

import re
from base64 import b64encode
from collections.abc import Collection
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec

SALT_BYTES: Final = 32
_BLOCK_BYTES: Final = 64  # of SHA-256
_PREFIX: Final = "hmac-sha256:"
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII
)
_AS_THEY_ARE: Final = frozenset((type(None), bool, int, float))
_TOO_DEEP: Final = b"nested too deeply"

_decode: Final = msgspec.json.Decoder().decode


class Showing(Protocol):
    """How a device shows texts and bytes."""

    def text(self, value: str) -> str: ...

    def data(self, value: bytes) -> str: ...


class Hashed:
    """HMAC-SHA256 under a device's salt."""

    def __init__(self, salt: bytes) -> None:
        # RFC 2104, the two key blocks hashed once: a third of the time of the `hmac` module.
        block = salt.ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(bytes(b ^ 0x36 for b in block))
        self._outer = sha256(bytes(b ^ 0x5C for b in block))

    def __repr__(self) -> str:
        return "<Hashed>"

    def text(self, value: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(value.encode("utf-8", "surrogatepass"))
        outer.update(inner.digest())
        return _PREFIX + outer.hexdigest()

    def data(self, value: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(value)
        outer.update(inner.digest())
        return _PREFIX + outer.hexdigest()


class Clear:
    """For a device with `log_raw`."""

    def text(self, value: str) -> str:
        return value

    def data(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return b64encode(value).decode()


def redact(value: Any, showing: Showing, clear: Collection[str] = ()) -> Any:
    """A copy of `value` in JSON's own types. Texts directly below a key of `clear` are shown."""
    try:
        return _walk(value, showing, clear, False)
    except RecursionError:
        return showing.data(_TOO_DEEP)


def _walk(value: Any, showing: Showing, clear: Collection[str], shown: bool) -> Any:
    kind = type(value)
    if kind is str:
        if shown or (len(value) > 19 and value[10] == "T" and _is_time(value)):
            return value
        return showing.text(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is dict:
        return {
            k if type(k) is str else _name(k, showing): _walk(v, showing, clear, k in clear)
            for k, v in value.items()
        }
    if kind is list or kind is tuple:
        return [_walk(v, showing, clear, shown) for v in value]
    if kind is bytes:
        return showing.data(value)
    return _walk_other(value, showing, clear, shown)


def _walk_other(value: Any, showing: Showing, clear: Collection[str], shown: bool) -> Any:
    """Raw JSON, structs and whatever else an answer's data may be."""
    if isinstance(value, msgspec.Raw):
        raw = bytes(value)
        try:
            return _walk(_decode(raw), showing, clear, shown)
        except msgspec.MsgspecError:
            return showing.data(raw)
    if isinstance(value, bytearray | memoryview):
        return showing.data(bytes(value))
    try:
        plain = msgspec.to_builtins(value)
    except (TypeError, ValueError):
        return showing.text(repr(value))
    if type(plain) is type(value):
        return showing.text(repr(value))
    return _walk(plain, showing, clear, shown)


def _name(key: Any, showing: Showing) -> str:
    """Names are shown, but only of the kinds that JSON makes of text."""
    if isinstance(key, str):
        return str(key)
    return str(key) if type(key) in _AS_THEY_ARE else showing.text(repr(key))


def _is_time(value: str) -> bool:
    if _TIME.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def redact_json(raw: bytes, showing: Showing, clear: Collection[str] = ()) -> Any:
    """The same of JSON text; what does not parse is hashed whole (AUD-07)."""
    try:
        decoded = _decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return showing.data(raw)
    return redact(decoded, showing, clear)
