"""Where the endpoints are, and what is checked before anything is sent to them."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Final

from undercroft.cli.client import Answer, Client
from undercroft.cli.failure import RemoteError, UsageError

PRIMARY: Final = "sys/replication/performance/primary"
SECONDARY: Final = "sys/replication/performance/secondary"
QUARANTINE: Final = "sys/replication/quarantine"
STATUS: Final = "sys/replication/performance/status"
STATUS_OF_BOTH: Final = "sys/replication/status"
_ID: Final = re.compile(r"\w(?:[\w.-]{0,126}\w)?", re.ASCII)
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\s[^-]*-----END CERTIFICATE-----", re.ASCII
)
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN (?:RSA |EC )?PRIVATE KEY-----\s[^-:]*-----END (?:RSA |EC )?PRIVATE KEY-----",
    re.ASCII,
)
_PEM_BYTES_MAX: Final = 1 << 20


def checked_id(text: str) -> str:
    """An id that is one part of a path, so it cannot lead to another one. Raises UsageError."""
    if not _ID.fullmatch(text):
        raise UsageError(
            "an id is letters, digits, _, - and ., 128 at most, a letter or digit at both ends"
        )
    return text


def certificates(path: str, flag: str) -> str:
    """The certificates of a PEM file, or of all in a directory. What else they hold, such as a key,
    stays here.

    Raises UsageError.
    """
    at = Path(path)
    files = sorted(file for file in at.iterdir() if file.is_file()) if at.is_dir() else [at]
    found = [one for file in files for one in _CERTIFICATE.findall(_text(file, flag))]
    if not found:
        raise UsageError(f"{flag} holds no certificate in PEM")
    return "\n".join(found) + "\n"


def private_key(path: str, flag: str) -> str:
    """The one private key of a PEM file. Raises UsageError."""
    found = _PRIVATE_KEY.findall(_text(Path(path), flag))
    if len(found) != 1:
        raise UsageError(f"{flag} must hold one private key in PEM, which is not encrypted")
    return str(found[0]) + "\n"


def _text(file: Path, flag: str) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_PEM_BYTES_MAX).decode("ascii", "replace")
    except OSError as error:
        raise UsageError(f"{flag} cannot be read: {error.strerror}") from None


def envelope(answer: Answer) -> dict[str, Any]:
    """The answer's body where there must be one. Raises RemoteError."""
    if not isinstance(answer.body, dict):
        raise RemoteError("the server's answer is empty, or no JSON object")
    return answer.body


def fetch_status(client: Client) -> dict[str, Any]:
    """Of performance replication. It is open to anyone, so no token is sent, also because a
    change of roles may end it. Raises RemoteError."""
    data = envelope(dataclasses.replace(client, token="").call("GET", STATUS)).get("data")
    if not isinstance(data, dict):
        raise RemoteError("the server's answer holds no replication status")
    return data
