"""Asking a person: secrets are not echoed, and scripts are never left waiting."""

import argparse
import getpass
import sys
import textwrap
from typing import Final

from undercroft.cli.failure import CommandError, UsageError, safe

_COLUMNS: Final = 90


def secret(title: str, values: argparse.Namespace, *, instead: str) -> str:
    """A secret typed at the terminal. Raises UsageError where nobody can type."""
    if values.non_interactive or not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask for the {title.lower()}", hint=instead)
    try:
        return getpass.getpass(f"{title} (will be hidden): ", stream=sys.stderr).strip()
    except EOFError:
        raise UsageError(f"no {title.lower()} was given", hint=instead) from None


def confirm(consequences: str, values: argparse.Namespace) -> None:
    """Say what will happen and go on only after `yes`; `-yes` asks nothing.

    Raises UsageError where nobody can answer, CommandError when the answer is another.
    """
    if values.yes:
        return
    told = "\n".join(textwrap.fill(line, _COLUMNS) for line in consequences.splitlines())
    if values.non_interactive or not sys.stdin.isatty():
        raise UsageError(
            "this needs a yes, and there is no terminal to ask for it; nothing was done",
            hint=f"{told}\n-yes goes on without asking",
        )
    print(safe(f"{told}\nType yes to go on: "), end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != "yes":
        raise CommandError("not confirmed; nothing was done")


def argument_or_secret(title: str, values: argparse.Namespace) -> str:
    """The one argument; `-` reads standard input; without, the person is asked."""
    if values.arguments and values.arguments[0] != "-":
        return str(values.arguments[0])
    if values.arguments:
        return sys.stdin.readline().strip()
    return secret(title, values, instead="give it as -, and on standard input")
