"""Secrets that stay text: what a client wrote as JSON comes back as it was written.

A payload is validated when it arrives and then kept as it is, so numbers never pass through a
machine's floating point (convention 24). Where a payload must be looked into (merge patches,
subkeys, a `ttl` field), it is decoded with its numbers still as text.
"""

import json
from typing import Any, Final

import msgspec

from undercroft.errors import InvalidRequest

_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Number(str):
    """A JSON number, as it was written."""

    __slots__ = ()


def decode(text: bytes) -> Any:
    """Any JSON value; numbers as `Number`."""
    return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=_refuse)


def encode(value: Any) -> bytes:
    """The inverse of `decode`, compact."""
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def top_level(text: bytes) -> dict[str, msgspec.Raw]:
    """The members of an object, undecoded; the last of a repeated name."""
    return _decode_raw(text)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def _refuse(name: str) -> Any:
    raise InvalidRequest("NaN and Infinity are not JSON")


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, Number):
        parts.append(value)
    elif isinstance(value, dict):
        parts.append("{")
        for at, (name, member) in enumerate(value.items()):
            parts.append(("," if at else "") + json.dumps(name, ensure_ascii=False) + ":")
            _write(member, parts)
        parts.append("}")
    elif isinstance(value, list):
        parts.append("[")
        for at, member in enumerate(value):
            if at:
                parts.append(",")
            _write(member, parts)
        parts.append("]")
    else:
        parts.append(json.dumps(value, ensure_ascii=False))
