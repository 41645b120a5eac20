"""How a command fails: an error line, then hints, and an exit code that scripts can rely on."""

import sys
from typing import Final

OK: Final = 0
LOCAL: Final = 1  # the command line, a file, the terminal
REMOTE: Final = 2  # the server said no, or cannot be reached; for `status`: it is sealed
UNKNOWN_COMMAND: Final = 127


class CommandError(Exception):
    """Ends a command. The text holds no secret."""

    code = LOCAL

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint


class UsageError(CommandError):
    """The command line cannot be understood."""


class RemoteError(CommandError):
    """The server refused; `status` is the HTTP status, 0 if it was never reached.

    `retry_after_seconds` is the server's word that nothing happened and when to ask again.
    """

    code = REMOTE

    def __init__(
        self,
        text: str,
        *,
        hint: str = "",
        status: int = 0,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(text, hint=hint)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


def show(error: CommandError) -> int:
    """Print an error on standard error; answers the exit code."""
    lines = [f"Error: {error.text}", *(f"  {line}" for line in error.hint.splitlines())]
    print(safe("\n".join(lines)), file=sys.stderr)
    return error.code


def safe(text: str) -> str:
    """Without what would steer a terminal; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
