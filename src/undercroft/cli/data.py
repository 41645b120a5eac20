"""What `write` and `login` send: NAME=VALUE, NAME=@FILE, NAME=-, @FILE, and - for JSON."""

import sys
from pathlib import Path
from typing import Any

from undercroft.cli import jsontext
from undercroft.cli.failure import UsageError


def parse_data(words: list[str]) -> dict[str, Any]:
    """The body that the arguments describe; a repeated name becomes a list. Raises UsageError."""
    data: dict[str, Any] = {}
    for word in words:
        if word == "-":
            data |= _json(sys.stdin.read(), "standard input")
        elif word.startswith("@"):
            data |= _json(_read(word[1:]), word[1:])
        else:
            name, value = _pair(word)
            if name in data:
                before = data[name]
                value = [*(before if isinstance(before, list) else [before]), value]
            data[name] = value
    return data


def parse_query(words: list[str]) -> dict[str, str]:
    """NAME=VALUE for the URL of a read or delete."""
    return {name: str(value) for name, value in map(_pair, words)}


def _pair(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise UsageError("data must be given as NAME=VALUE")  # not repeated: it may be a secret
    if value.startswith("\\@"):
        return name, value[1:]
    if value.startswith("@"):
        return name, _read(value[1:])
    return name, sys.stdin.read() if value == "-" else value


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"{path}: cannot be read: not UTF-8 text", hint="encode it, with base64 for example"
        ) from None


def _json(text: str, source: str) -> dict[str, Any]:
    try:
        value = jsontext.decode(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{source}: must be a JSON object")
    return value
