"""`undercroft operator check`: verifies the data of a stopped server.

The work is `undercroft.storage.verify`'s; this prints what it finds, and answers 0 for sound data
and 1 for anything else.
"""

import argparse
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from undercroft.cli import jsontext
from undercroft.cli.failure import LOCAL, OK, CommandError, safe
from undercroft.errors import UndercroftError


def check(values: argparse.Namespace) -> int:
    directory = Path(values.arguments[0])
    if not directory.is_dir():
        raise CommandError(f"{directory}: no such directory")
    # Its own name for the function keeps the storage engine out of every other command.
    verify: Callable[[Path], Iterable[str]] = import_module("undercroft.storage.verify").verify
    try:
        problems = [safe(problem) for problem in verify(directory)]
    except UndercroftError as error:
        raise CommandError(error.message, hint=error.hint) from None
    if values.format == "json":
        print(jsontext.encode({"sound": not problems, "problems": problems}))
    else:
        print("\n".join(problems) or f"Success! {directory} is sound.")
    return LOCAL if problems else OK
