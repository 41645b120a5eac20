"""Where the endpoints are, and what is checked before anything is sent to them."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Final

from undercroft.cli.client import Client
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
_PEM_BYTES_MAX: Final = 1 << 20


def checked_id(text: str) -> str:
    """An id that is one part of a path, so it cannot lead to another one. Raises UsageError."""
    if not _ID.fullmatch(text):
        raise UsageError(
            "an id is letters, digits, _, - and ., 128 at most, a letter or digit at both ends"
        )
    return text


def certificates(path: str) -> str:
    """The certificates of a PEM file. What else it holds, such as a key, stays here.

    Raises UsageError.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_PEM_BYTES_MAX).decode("ascii", "replace")
    except OSError as error:
        raise UsageError(f"-ca-file cannot be read: {error.strerror}") from None
    found = _CERTIFICATE.findall(text)
    if not found:
        raise UsageError("-ca-file holds no certificate in PEM")
    return "\n".join(found) + "\n"


def fetch_status(client: Client) -> dict[str, Any]:
    """Of performance replication. It is open to anyone, so no token is sent, also because a
    change of roles may end it. Raises RemoteError."""
    body = dataclasses.replace(client, token="").call("GET", STATUS).body
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        raise RemoteError("the server's answer holds no replication status")
    return data
