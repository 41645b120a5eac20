"""The `undercroft` command: finds the subcommand, parses its flags, runs it, shows its failure."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from undercroft.cli.arguments import find_command, parse
from undercroft.cli.commands import COMMANDS
from undercroft.cli.failure import LOCAL, OK, UNKNOWN_COMMAND, CommandError, show


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; answers its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-v"], ["-version"], ["--version"]):
        words = ["version"]
    command, rest = find_command(words)
    if command is None:
        return _overview(words)
    try:
        values = parse(command, rest, os.environ)
        module, _, function = command.run.partition(":")
        run = getattr(import_module(f"undercroft.cli.{module}"), function)
        code: int = run(values) if command.flags else run()
        sys.stdout.flush()
        return code
    except CommandError as error:
        return show(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `undercroft list … | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return LOCAL
    except SystemExit as end:  # argparse, after showing help
        return end.code if isinstance(end.code, int) else LOCAL


def _overview(words: Sequence[str]) -> int:
    """All commands, or those below the words given; exit code 0 only when asked for."""
    asked = bool(words) and words[-1] in ("-h", "-help", "--help")
    prefix = words[0] + " " if words and not words[0].startswith("-") else ""
    listed = [c for c in COMMANDS if c.name.startswith(prefix)] or list(COMMANDS)
    width = max(len(command.name) for command in listed)
    lines = ["Usage: undercroft COMMAND [flags] [arguments]", ""]
    lines += [f"  {command.name:<{width}}   {command.summary}" for command in listed]
    lines += ["", "undercroft COMMAND -h tells more about one."]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return OK if asked else UNKNOWN_COMMAND
