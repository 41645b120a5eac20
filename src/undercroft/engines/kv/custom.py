"""Custom metadata of a KV v2 secret: texts by name, within Vault's limits.

No error repeats a name or a value: both are the caller's.
"""

from typing import Final

import msgspec

from undercroft.engines.kv.jsontext import is_object, members
from undercroft.errors import InvalidRequest

KEYS_MAX: Final = 64
KEY_BYTES_MAX: Final = 128
VALUE_BYTES_MAX: Final = 512
_WRONG: Final = "custom_metadata validation failed: "


def written(sent: bytes) -> bytes:
    """What to store for a JSON value that was sent: an object of texts, or null for none."""
    return _stored({name: _text(bytes(raw)) for name, raw in _sent(sent).items()})


def patched(stored: bytes, sent: bytes) -> bytes:
    """The same for a merge patch: null removes a name, or as a whole all of them."""
    if sent == b"null":
        return sent
    texts: dict[str, str] = {}
    if is_object(stored):
        texts = msgspec.json.decode(stored, type=dict[str, str])
    for name, raw in _sent(sent).items():
        change = bytes(raw)
        if change == b"null":
            texts.pop(name, None)
        else:
            texts[name] = _text(change)
    return _stored(texts)


def _sent(sent: bytes) -> dict[str, msgspec.Raw]:
    if sent == b"null":
        return {}
    if not is_object(sent):
        raise InvalidRequest('error converting input for field "custom_metadata": not an object')
    return members(sent)


def _text(raw: bytes) -> str:
    """Numbers as they were written, booleans as 1 and 0, as Vault does."""
    if raw[:1] == b'"':
        text: str = msgspec.json.decode(raw)
        return text
    if raw[:1] in (b"{", b"["):
        raise InvalidRequest(_WRONG + "a value is not a text")
    return {b"null": "", b"true": "1", b"false": "0"}.get(raw, raw.decode())


def _stored(texts: dict[str, str]) -> bytes:
    problems = sorted(set(_problems(texts)))
    if problems:
        raise InvalidRequest(_WRONG + "; ".join(problems))
    return msgspec.json.encode(dict(sorted(texts.items()))) if texts else b"null"


def _problems(texts: dict[str, str]) -> list[str]:
    found = []
    if len(texts) > KEYS_MAX:
        found.append(f"payload must contain at most {KEYS_MAX} keys, provided {len(texts)}")
    for name, text in texts.items():
        if not 0 < len(name.encode()) <= KEY_BYTES_MAX:
            found.append(f"length of a key must be 0 < len(key) <= {KEY_BYTES_MAX}")
        if not 0 < len(text.encode()) <= VALUE_BYTES_MAX:
            found.append(f"length of a value must be 0 < len(value) <= {VALUE_BYTES_MAX}")
        if not name.isprintable():
            found.append("a key contains unprintable characters")
        if not text.isprintable():
            found.append("a value contains unprintable characters")
    return found
