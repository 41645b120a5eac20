"""Keys of the static seal: given in the file, in another file, or in the environment."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from undercroft.config.kinds import BadValue

KEY_BYTES: Final = 32
_FILE_BYTES_MAX: Final = 4096


def read_key(value: object, environment: Mapping[str, str]) -> bytes:
    """The 32 bytes that a seal's key setting means. Raises BadValue, which never shows them."""
    if not isinstance(value, str):
        raise BadValue("must be a text: the key, env://NAME or file:///path")
    raw = _referenced(value, environment)
    if len(raw) == KEY_BYTES:
        return raw
    text = raw.strip()
    for decode in (bytes, binascii.unhexlify, _base64):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == KEY_BYTES:
            return key
    raise BadValue(f"must be {KEY_BYTES} bytes: as they are, in hexadecimal or in base64")


def _base64(text: bytes) -> bytes:
    return base64.b64decode(text, validate=True)


def _referenced(value: str, environment: Mapping[str, str]) -> bytes:
    if value.startswith("env://"):
        found = environment.get(value.removeprefix("env://"))
        if found is None:
            raise BadValue("names an environment variable that is not set")
        return found.encode()
    if value.startswith("file://"):
        try:
            with Path(value.removeprefix("file://")).open("rb") as file:
                return file.read(_FILE_BYTES_MAX)
        except OSError as error:
            raise BadValue(f"names a file that cannot be read: {error.strerror}") from None
    return value.encode()
