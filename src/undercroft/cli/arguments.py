"""Go's command lines with argparse: one dash or two, `-switch=false`, flags before or after.

Go's clients take `-config=x`, `--config x` and `-tls-skip-verify=true`; scripts written for them
must work here.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from undercroft.cli.commands import COMMANDS
from undercroft.cli.failure import UsageError
from undercroft.cli.flags import Command, Flag

_TRUE: Final = ("1", "t", "true")
_FALSE: Final = ("0", "f", "false", "")


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting with 2, which means a sealed server here."""

    def error(self, message: str) -> NoReturn:
        hint = f"undercroft {self.prog} -h shows what it takes"
        raise UsageError(_without_values(message), hint=hint)


def _without_values(message: str) -> str:
    """argparse repeats what was given, which may be a key at the wrong place: keep only names."""
    head, colon, rest = message.partition(":")
    if head == "unrecognized arguments":
        names = [word.partition("=")[0] for word in rest.split() if word.startswith("-")]
        return f"unknown flag {names[0]}" if names else "too many arguments"
    return (
        head + colon + rest.partition("'")[0].rstrip(" :") if colon else message.partition("'")[0]
    )


def find_command(arguments: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command that the first words name, and the rest of them."""
    words = list(arguments)
    for count in (3, 2, 1):
        name = " ".join(words[:count])
        for command in COMMANDS:
            if command.name == name:
                return command, words[count:]
    return None, words


def parse(
    command: Command, words: Sequence[str], environment: Mapping[str, str]
) -> argparse.Namespace:
    """The command's flags and arguments; flags not given come from the environment.

    Raises UsageError.
    """
    parser = build_parser(command)
    spelled, given_off = _switches(command, words)
    values = parser.parse_intermixed_args(spelled)
    for flag in command.flags:
        if getattr(values, flag.dest) in (None, False) and flag.name not in given_off:
            setattr(values, flag.dest, _from_environment(flag, environment))
        value = getattr(values, flag.dest)
        if flag.choices and value is not None and value not in flag.choices:
            raise UsageError(f"-{flag.name} must be one of {', '.join(flag.choices)}")
    count = len(values.arguments)
    if count < command.least:
        raise UsageError(
            f"not enough arguments (expected {command.least}, got {count})", hint=usage(command)
        )
    if command.most is not None and count > command.most:
        raise UsageError(
            f"too many arguments (expected {command.most}, got {count})", hint=usage(command)
        )
    return values


def build_parser(command: Command) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=command.name,
        usage=usage(command),
        description=command.summary + ".",
        epilog=f"Example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    for flag in command.flags:
        doc = flag.doc.replace("`", "").replace("%", "%%")
        if flag.variables:
            doc += f" [{', '.join(flag.variables)}]"
        names = [f"-{name}" for name in (flag.name, *flag.other)]
        if flag.is_switch:
            parser.add_argument(*names, dest=flag.dest, action="store_true", help=doc)
        elif flag.repeats:
            parser.add_argument(
                *names, dest=flag.dest, action="append", metavar=flag.value, help=doc
            )
        else:
            parser.add_argument(*names, dest=flag.dest, metavar=flag.value, help=doc)
    parser.add_argument("-h", "-help", action="help", help="Show this.")
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    return parser


def usage(command: Command) -> str:
    parts = ["undercroft", command.name, "[flags]" if command.flags else "", command.arguments]
    return " ".join(part for part in parts if part)


def _switches(command: Command, words: Sequence[str]) -> tuple[list[str], set[str]]:
    """`--flag` as `-flag`, `-switch=true` as `-switch`, `-switch=false` left out.

    Answers the words, and the names of the switches that were switched off.
    """
    names = {
        name: flag.name
        for flag in command.flags
        if flag.is_switch
        for name in (flag.name, *flag.other)
    }
    spelled: list[str] = []
    off: set[str] = set()
    for given in words:
        word = given[1:] if given.startswith("--") and len(given) > 2 else given
        name, equals, value = word.partition("=")
        bare = name.lstrip("-")
        if not (equals and name.startswith("-") and bare in names):
            spelled.append(word)
        elif value.lower() in _TRUE:
            spelled.append(name)
        elif value.lower() in _FALSE:
            off.add(names[bare])
        else:
            raise UsageError(f"{name} must be true or false")
    return spelled, off


def _from_environment(flag: Flag, environment: Mapping[str, str]) -> object:
    for variable in flag.variables:
        value = environment.get(variable)
        if value is None or value == "":
            continue
        if flag.is_switch:
            if value.lower() not in _TRUE + _FALSE:
                raise UsageError(f"{variable} must be true or false")
            return value.lower() in _TRUE
        return value
    return flag.starts_on if flag.is_switch else None
