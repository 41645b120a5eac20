"""JSON changed without being read: numbers and texts stay byte for byte as they were written.

Objects are taken apart one level at a time into raw values and put together again; a value that is
not looked into is copied as text. What has been parsed elsewhere is trusted to be JSON.
"""

from typing import Any, Final

import msgspec

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


def is_object(text: bytes) -> bool:
    return text[:1] == b"{"


def members(text: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object; the last of equal names counts."""
    return _object(text)


def merged(target: bytes, patch: bytes) -> bytes:
    """JSON merge patch (RFC 7386): null removes, objects merge, all else replaces."""
    if not is_object(patch):
        return patch
    result: dict[str, msgspec.Raw] = members(target) if is_object(target) else {}
    for name, raw in members(patch).items():
        change = bytes(raw)
        if change == b"null":
            result.pop(name, None)
        else:
            result[name] = msgspec.Raw(merged(bytes(result.get(name, b"null")), change))
    return _encode(result)


def keys_only(text: bytes, depth: int) -> dict[str, Any] | None:
    """The names in an object down to `depth` levels (0: all), null wherever a value would be."""
    found = members(text)
    if depth == 1:
        return dict.fromkeys(found)
    return {
        name: (keys_only(inner, depth - 1) or None) if is_object(inner := bytes(raw)) else None
        for name, raw in found.items()
    }
