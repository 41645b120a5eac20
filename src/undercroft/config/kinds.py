"""What a setting may be: its kinds, and how a value of a configuration file becomes one.

A conversion raises BadValue with a text that says what is accepted. It never quotes what stands in
the file: a key or a password may have been put at the wrong place.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from undercroft.durations import parse_duration, parse_seconds
from undercroft.errors import InvalidRequest


class BadValue(Exception):
    """The value is not of the setting's kind; the text says what is."""


class Kind(Enum):
    """The value is the kind's name in the documentation."""

    TEXT = "text"
    BOOL = "boolean"
    NUMBER = "number"
    DURATION = "duration"  # int, whole seconds
    SECONDS = "duration, fractions too"  # float, seconds
    SIZE = "size"  # int, bytes
    LIST = "list of texts"
    CHOICE = "one of"
    CHOICES = "list of"
    ADDRESS = "host:port"
    URL = "URL"
    NETWORKS = "list of addresses or CIDRs"
    MODE = "file mode"


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings: what the file may say and what it does."""

    doc: str
    kind: Kind = Kind.TEXT
    choices: Mapping[str, str] | None = None  # what may be written -> what it means
    least: int = 0  # of a number, a size, a duration
    most: int = 2**53
    port: int = 8200  # of an address without one
    default_text: str = ""  # for the documentation, where the default depends on something
    reload: bool = False  # read again at SIGHUP
    # How several files are brought together, as Vault does it.
    merge: Literal["last", "largest", "any"] = "last"


def convert(setting: Setting, value: object) -> Any:
    """The value as the setting's kind. Raises BadValue."""
    return _CONVERSIONS[setting.kind](setting, value)


def _text(_: Setting, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BadValue("must be a text")


def _bool(_: Setting, value: object) -> bool:
    known = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
    found = known.get(str(value).lower()) if isinstance(value, bool | int | str) else None
    if found is None:
        raise BadValue("must be true or false")
    return found


def _number(setting: Setting, value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValue("must be a whole number")
    return int(_bounded(setting, value))


def _bounded(setting: Setting, number: Any) -> Any:
    if not setting.least <= number <= setting.most:
        bounds = (
            f"at least {setting.least}"
            if setting.most == 2**53
            else f"from {setting.least} to {setting.most}"
        )
        raise BadValue(f"must be {bounds}")
    return number


_DURATION_TEXT: Final = "must be a duration: seconds, or a text such as 90s, 30m, 1h"


def _duration(setting: Setting, value: object) -> int:
    try:
        return int(_bounded(setting, parse_duration(value)))
    except InvalidRequest:
        raise BadValue(_DURATION_TEXT) from None


def _seconds(setting: Setting, value: object) -> float:
    try:
        return float(_bounded(setting, parse_seconds(value)))
    except InvalidRequest:
        raise BadValue(_DURATION_TEXT) from None


_SIZE: Final = re.compile(r"(\d{1,15})\s*(k|m|g|t)?(i?)b?", re.ASCII | re.IGNORECASE)


def _size(setting: Setting, value: object) -> int:
    """Bytes. `kb` and `KiB` are both 1,024 bytes: memory and files are counted so."""
    match = _SIZE.fullmatch(str(value).strip()) if isinstance(value, int | str) else None
    if match is None or isinstance(value, bool):
        raise BadValue("must be a size: bytes, or a text such as 512KiB, 32MiB, 1GiB")
    unit = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[(match[2] or "").lower()]
    return int(_bounded(setting, int(match[1]) * unit))


def _list(_: Setting, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value.strip() else []
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise BadValue("must be a list of texts, or one text with commas")
    return tuple(value)


def _choice(setting: Setting, value: object) -> str:
    assert setting.choices is not None, "a choice without choices"
    found = setting.choices.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise BadValue(f"is not supported; supported: {_names(setting.choices)}")
    return found


def _choices(setting: Setting, value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_choice(setting, part) for part in _list(setting, value)))


def _names(choices: Mapping[str, str]) -> str:
    return ", ".join(dict.fromkeys(choices.values()))


_TEMPLATE_TEXT: Final = "must be written out: go-sockaddr templates ({{ … }}) are not supported"
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*))(?::(\d{1,5}))?", re.ASCII)


def _address(setting: Setting, value: object) -> str:
    text = _text(setting, value).strip()
    if "{{" in text:
        raise BadValue(_TEMPLATE_TEXT)
    match = _ADDRESS.fullmatch(text)
    port = int(match[3] or setting.port) if match else 65536
    if match is None or port > 65535 or not text:
        raise BadValue(
            f"must be an address such as 127.0.0.1:{setting.port} or [::]:{setting.port}"
        )
    host = f"[{match[1]}]" if match[1] else match[2] or "[::]"
    return f"{host}:{port}"


def _url(setting: Setting, value: object) -> str:
    text = _text(setting, value).strip()
    if "{{" in text:
        raise BadValue(_TEMPLATE_TEXT)
    if text and not re.fullmatch(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?", text):
        raise BadValue("must be a URL such as https://vault.example.com:8200, without credentials")
    return text.rstrip("/")


def _networks(setting: Setting, value: object) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(part)) for part in _list(setting, value))
    except ValueError:
        raise BadValue("must be a list of addresses or CIDRs such as 10.0.0.0/8") from None


def _mode(_: Setting, value: object) -> int:
    """Octal text. Execute bits are refused: an audit file that runs is an attack (AUD-09)."""
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"0?[0-7]{3}|0000", text, re.ASCII):
        raise BadValue('must be a file mode in octal, such as "0600"')
    mode = int(text, 8)
    if mode & 0o111:
        raise BadValue("must not make the file executable")
    return mode


_CONVERSIONS: Final[Mapping[Kind, Callable[[Setting, object], Any]]] = {
    Kind.TEXT: _text,
    Kind.BOOL: _bool,
    Kind.NUMBER: _number,
    Kind.DURATION: _duration,
    Kind.SECONDS: _seconds,
    Kind.SIZE: _size,
    Kind.LIST: _list,
    Kind.CHOICE: _choice,
    Kind.CHOICES: _choices,
    Kind.ADDRESS: _address,
    Kind.URL: _url,
    Kind.NETWORKS: _networks,
    Kind.MODE: _mode,
}
