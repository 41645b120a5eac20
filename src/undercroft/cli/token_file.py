"""Where the token of `login` waits for the next command: `~/.vault-token`, as for other clients."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from undercroft.cli.failure import UsageError

_VARIABLES: Final = ("BAO_TOKEN", "VAULT_TOKEN")
_BYTES_MAX: Final = 64 << 10


def current_token() -> str:
    """The token of the environment, else of the file, else none. Raises UsageError."""
    for variable in _VARIABLES:
        if os.environ.get(variable):
            return checked(os.environ[variable], variable)
    try:
        with _path().open("rb") as file:
            text = file.read(_BYTES_MAX).decode("ascii", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"{_path()}: cannot be read: {error.strerror}") from None
    return checked(text, str(_path()))


def from_environment() -> str:
    """The variable that beats the file, if there is one."""
    return next((name for name in _VARIABLES if os.environ.get(name)), "")


def checked(token: str, source: str) -> str:
    """The token, if a header can carry it. Raises UsageError, which does not show it."""
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{source} holds characters that no token has")
    return token


def store(token: str) -> None:
    """Replace the file in one step; only its owner can read it. Raises UsageError."""
    path = _path()
    temporary = path.with_name(f".vault-token.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        fd = os.open(temporary, flags, 0o600)
        try:
            os.write(fd, token.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UsageError(f"{path}: the token cannot be kept: {error.strerror}") from None


def _path() -> Path:
    return Path(os.environ.get("HOME") or Path.home()) / ".vault-token"
