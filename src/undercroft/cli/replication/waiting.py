"""Polling the open status until a change is done, and telling how far it is.

The server goes on whether anybody waits or not; what ends here is only the waiting.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from undercroft.cli.client import Client
from undercroft.cli.failure import RemoteError, safe
from undercroft.cli.replication import words
from undercroft.cli.replication.members import Estimate, members
from undercroft.cli.replication.requests import fetch_status

POLL_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 30.0  # how long a server may be silent while its role changes
_WATCH: Final = "`undercroft replication watch` shows how it goes on"


class Teller:
    """Progress on standard error: one line rewritten at a terminal, a line a change elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""

    def tell(self, text: str, *, kind: str) -> None:
        """`kind` is what counts as a change where lines cannot be rewritten."""
        text = safe(text).replace("\n", " ")
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]}\x1b[K", end="", file=sys.stderr, flush=True)
        elif kind != self._last:
            print(text, file=sys.stderr, flush=True)
        self._last = kind

    def done(self) -> None:
        if self._live and self._last:
            print(file=sys.stderr)
        self._last = ""


def until_streaming(client: Client) -> None:
    """Until this secondary follows the log; a first copy may take long, so there is no end to it.

    Raises RemoteError if the set-up is given up, or the server stays silent.
    """
    _until(client, _streams, None)


def until_primary(client: Client, deadline_seconds: float) -> None:
    """`deadline_seconds` is of the monotonic clock. Raises RemoteError."""
    _until(client, _leads, deadline_seconds)


def _streams(status: Mapping[str, Any]) -> bool:
    return (
        status.get("mode") == "secondary"
        and status.get("state") == "stream-wals"
        and status.get("connection_state") == "ready"
    )


def _leads(status: Mapping[str, Any]) -> bool:
    return status.get("mode") == "primary" and status.get("state") == "running"


def _until(
    client: Client, done: Callable[[Mapping[str, Any]], bool], deadline_seconds: float | None
) -> None:
    teller, estimate = Teller(), Estimate()
    answered = time.monotonic()
    seen_replicating = False
    try:
        while True:
            try:
                status = fetch_status(client)
            except RemoteError as error:
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise
                teller.tell(f"no status: {error.text}; asking again", kind="silent")
            else:
                answered = time.monotonic()
                teller.tell(_line(status, estimate), kind=_kind(status))
                if done(status):
                    return
                disabled = status.get("mode") == "disabled"
                if disabled and seen_replicating:
                    raise RemoteError("the change was given up: replication is disabled again")
                seen_replicating = seen_replicating or not disabled
            if deadline_seconds is not None and time.monotonic() > deadline_seconds:
                raise RemoteError("the change was asked for and is not complete", hint=_WATCH)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        teller.done()
        print(f"No longer waiting; the server goes on. {_WATCH}.", file=sys.stderr)
        raise
    finally:
        teller.done()


def _kind(status: Mapping[str, Any]) -> str:
    names = ("mode", "state", "connection_state", "state_reason")
    return " ".join(str(status.get(name)) for name in names)


def _line(status: Mapping[str, Any], estimate: Estimate) -> str:
    mode, state = str(status.get("mode")), str(status.get("state") or "")
    parts = [words.role(mode)]
    parts += [words.state(state)] if state else []
    reason = status.get("state_reason")
    parts += [str(reason)] if reason else []
    for member in members(status)[:1]:
        left = estimate.seconds_left(member.progress, time.monotonic())
        parts += [words.progress(member.progress, left)] if member.progress else []
    return "; ".join(parts)
