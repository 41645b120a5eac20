"""The status as a table that stays: at a terminal it is redrawn in place, elsewhere it is appended.

A server that does not answer for a while (a restart, a change of roles) is shown as such; only when
the first look fails does the command.
"""

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from undercroft.cli import jsontext
from undercroft.cli.client import Client, client_from
from undercroft.cli.failure import OK, RemoteError, UsageError, safe
from undercroft.cli.output import grid
from undercroft.cli.replication import words
from undercroft.cli.replication.members import Estimate, Member, Rates, members, rates
from undercroft.cli.replication.requests import fetch_status

_INTERVAL_SECONDS: Final = 1.0
_INTERVAL_SECONDS_MIN: Final = 0.1
_HEAD: Final = ("Member", "State", "Lag (records)", "Lag (ms)", "Records/s", "Throughput")


def watch(values: argparse.Namespace) -> int:
    """Until Ctrl-C, which is how it is meant to end: exit code 0."""
    interval = _interval(values.interval)
    client = client_from(values, with_token=False)
    screen = _Screen()
    view = View()
    with contextlib.suppress(KeyboardInterrupt):
        _show(client, screen, view, values.format, first=True)
        while True:
            time.sleep(interval)
            _show(client, screen, view, values.format)
    screen.end()
    return OK


def _show(
    client: Client, screen: "_Screen", view: "View", form: str | None, *, first: bool = False
) -> None:
    try:
        status = fetch_status(client)
    except RemoteError as error:
        if first or 400 <= error.status < 500:
            raise
        if form == "json":
            return
        screen.draw([f"no answer: {error.text}; asking again"])
        return
    if form == "json":
        print(jsontext.encode(status), flush=True)
    else:
        screen.draw(view.lines(status, time.monotonic(), datetime.now()))


class View:
    """The lines of one look, which remembers the look before for rates and estimates."""

    def __init__(self) -> None:
        self._before: dict[str, Member] = {}
        self._at_seconds = 0.0
        self._estimate = Estimate()

    def lines(self, status: Mapping[str, Any], at_seconds: float, now: datetime) -> list[str]:
        """`at_seconds` is of a clock that only goes forward."""
        found = members(status)
        since = at_seconds - self._at_seconds
        mode = str(status.get("mode") or "disabled")
        lines = [f"{now:%H:%M:%S}  {words.role(mode)}"]
        if status.get("state_reason"):
            lines.append(safe(str(status["state_reason"])))
        if found:
            rows = [_row(m, rates(self._before.get(m.id), m, since)) for m in found]
            lines += grid(_HEAD, rows).splitlines()
        for member in found[:1]:
            left = self._estimate.seconds_left(member.progress, at_seconds)
            if member.progress:
                lines.append(words.progress(member.progress, left))
        self._before = {member.id: member for member in found}
        self._at_seconds = at_seconds
        return lines


def _row(member: Member, speed: Rates) -> tuple[str, ...]:
    return (
        member.id,
        member.state,
        words.count(member.lag_records),
        words.count(member.lag_ms),
        words.rate(speed.records),
        words.byte_rate(speed.bytes),
    )


class _Screen:
    """Draws blocks of lines over each other at a terminal, else one after the other."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._height = 0

    def draw(self, lines: list[str]) -> None:
        if not self._live:
            print("\n".join(lines) + "\n", flush=True)
            return
        # a line that wraps, or a block taller than the screen, would not be where it is redrawn
        size = shutil.get_terminal_size()
        shown = [safe(line)[: size.columns - 1] for line in lines[: size.lines - 1]]
        up = f"\x1b[{self._height}F" if self._height else ""
        sys.stdout.write(up + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
        sys.stdout.flush()
        self._height = len(shown)

    def end(self) -> None:
        """Below the last block, without the ^C that the terminal has echoed."""
        if self._live:
            sys.stdout.write("\r\x1b[K")


def _interval(text: str | None) -> float:
    if text is None:
        return _INTERVAL_SECONDS
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        raise UsageError("-interval must be a number of seconds") from None
    if not _INTERVAL_SECONDS_MIN <= seconds <= 86400:
        raise UsageError(
            f"-interval must be {_INTERVAL_SECONDS_MIN} seconds at least, a day at most"
        )
    return seconds
