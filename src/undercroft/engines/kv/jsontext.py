"""JSON text that is changed, or shown in part, while its numbers stay as they were written.

Whatever is deep or long costs time in proportion to its length alone: a patch runs in the writer,
where everybody waits. What is passed in has been accepted by the edge, so it is JSON, within the
edge's limits of depth and count.
"""

import json
from typing import Any, Final

import msgspec

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class Number(str):
    """A number's text."""

    __slots__ = ()


def is_object(text: bytes) -> bool:
    return text[:1] == b"{"


def members(text: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, undecoded; the last of equal names counts."""
    return _object(text)


def merged(target: bytes, patch: bytes) -> bytes:
    """JSON merge patch (RFC 7386): null removes, objects merge, all else replaces."""
    if not is_object(patch):
        return patch
    parts: list[bytes] = []
    _write(_merge(_parse(target), _parse(patch)), parts)
    return b"".join(parts)


def keys_only(text: bytes, depth: int) -> Any:
    """The names in an object down to `depth` levels (0: all), null wherever a value would be."""
    return {name: _shape(value, depth - 1) for name, value in _decode(text).items()}


def _shape(value: Any, depth: int) -> Any:
    if depth == 0 or not value or not isinstance(value, dict):
        return None
    return {name: _shape(inner, depth - 1) for name, inner in value.items()}


def _parse(text: bytes) -> Any:
    return json.loads(text, parse_int=Number, parse_float=Number)


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = target if isinstance(target, dict) else {}
    for name, change in patch.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), change)
    return result


def _write(value: Any, parts: list[bytes]) -> None:
    if isinstance(value, Number):
        parts.append(value.encode())
    elif isinstance(value, dict):
        mark = b"{"
        for name, inner in value.items():
            parts.append(mark + _encode(name) + b":")
            _write(inner, parts)
            mark = b","
        parts.append(b"}" if value else b"{}")
    elif isinstance(value, list):
        mark = b"["
        for inner in value:
            parts.append(mark)
            _write(inner, parts)
            mark = b","
        parts.append(b"]" if value else b"[]")
    else:
        parts.append(_encode(value))
