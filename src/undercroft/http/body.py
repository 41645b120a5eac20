"""What a request's body may be, checked before anything else is spent on it.

A body is one JSON object, or nothing (empty or `null`), or a form. Limits hold before the token is
even looked at (HTTP-02): a small text must not become a large tree. The common body is judged by
counting bytes; only one that could be over a limit is looked at more closely. No error repeats what
was sent (AUD-07).
"""

import re
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from undercroft.errors import InvalidRequest

# Vault 1.20 bounds depth, entries of an object, elements of an array and length of a text. Here one
# bound on all values together says the same about memory, and the body limit bounds texts.
DEPTH_MAX: Final = 300
VALUES_MAX: Final = 100_000
KEYS_MAX: Final = 20_000
NUMBER_CHARS_MAX: Final = 1_000

_FORM: Final = b"application/x-www-form-urlencoded"
_MISLEADING: Final = re.compile(rb"%(?![0-9a-fA-F]{2})|;")
_MALFORMED: Final = "failed to parse JSON input: the body must be one JSON object"
# Each pattern reads every byte once whatever the body is: no backtracking, and a number is looked
# at from its beginning only.
_STRING: Final = re.compile(rb'"[^"]*+"?')
_LONG_NUMBER: Final = re.compile(rb"(?<![0-9.eE+-])[0-9.eE+-]{%d}" % (NUMBER_CHARS_MAX + 1))
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_decode: Final = msgspec.json.Decoder().decode


def checked_body(body: bytes, content_type: bytes) -> bytes:
    """The JSON object as it was sent, or `b""` for none. Raises InvalidRequest.

    `content_type` comes without parameters and in lower case.
    """
    if not body:
        return body
    body = body.strip(b" \t\r\n")
    if content_type == _FORM and body[:1] not in (b"{", b"["):
        return _form(body)  # curl calls everything a form: what looks like JSON is JSON
    if not body or body == b"null":
        return b""
    if body[0] != 0x7B:  # {
        raise InvalidRequest(_MALFORMED)
    if body.count(b"{") + body.count(b"[") > DEPTH_MAX or body.count(b",") > KEYS_MAX:
        _check_shape(_without_texts(body))
    if _LONG_NUMBER.search(body) and _LONG_NUMBER.search(_without_texts(body)):
        raise InvalidRequest(f"a number has over {NUMBER_CHARS_MAX} characters")
    try:
        _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        raise InvalidRequest(_MALFORMED) from None
    return body


def _without_texts(body: bytes) -> bytes:
    """The body with its texts emptied. Escapes go first, so that every quote left is a text's."""
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 2 * (VALUES_MAX + KEYS_MAX):
        raise InvalidRequest(f"the body has over {VALUES_MAX} values")
    return _STRING.sub(b'""', body)


def _check_shape(bare: bytes) -> None:
    """Exact limits, on the body with its texts emptied."""
    if bare.count(b",") + bare.count(b"{") + bare.count(b"[") > VALUES_MAX:
        raise InvalidRequest(f"the body has over {VALUES_MAX} values")
    if bare.count(b":") > KEYS_MAX:
        raise InvalidRequest(f"the body has over {KEYS_MAX} keys")
    depth = 0
    for found in _BRACKET.finditer(bare):
        depth += 1 if found[0] in b"[{" else -1
        if depth < 0:
            raise InvalidRequest(_MALFORMED)
        if depth > DEPTH_MAX:
            raise InvalidRequest(f"the body is nested over {DEPTH_MAX} levels deep")


def _form(body: bytes) -> bytes:
    """Conv 23: form fields as an object of texts; those of a repeated field are joined by commas,
    which is how lists are written as text (conv 27)."""
    if _MISLEADING.search(body):
        raise InvalidRequest("failed to parse form input")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=KEYS_MAX, errors="strict"
        )
    except ValueError:
        raise InvalidRequest("failed to parse form input") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    joined = {name: ",".join(values) for name, values in fields.items()}
    return msgspec.json.encode(joined) if joined else b""
