"""The table of guards: what each protects from, its text in src/, and the tests that watch it.

A file tests/guards/*.toml holds the guards of one surface, each a `[[guard]]` with the keys of
`Guard`. `text` stands exactly once in the file it names, so a table that no longer fits the source
is an error and cannot rot.
"""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCE = ROOT / "src"


@dataclass(frozen=True)
class Guard:
    """One removal: `text` of `file` becomes `without`, and every one of `tests` must then fail."""

    threat: str
    promise: str
    file: str  # below src/undercroft
    text: str
    without: str
    tests: tuple[str, ...]  # pytest's node ids, below tests/, without parameters

    @property
    def name(self) -> str:
        return f"{self.threat} {self.file}: {self.promise}"


class Stale(Exception):
    """A removal that no longer fits the source: the table has to follow."""


def guards() -> list[Guard]:
    """Every guard of the table, by surface and in the order written there."""
    return [guard for file in sorted(HERE.glob("*.toml")) for guard in read(file)]


def read(file: Path) -> Iterator[Guard]:
    """The guards of one file; TypeError for a key that is missing or unknown."""
    for fields in tomllib.loads(file.read_text())["guard"]:
        yield Guard(**{**fields, "tests": tuple(fields["tests"])})


def removed(guard: Guard, source: Path = SOURCE) -> str:
    """The file's text with the guard taken out: still Python, or a test would fail for nothing.

    Raises Stale where the text is not there exactly once, or what is left does not compile.
    """
    file = source / "undercroft" / guard.file
    if not file.is_file():
        raise Stale(f"{guard.name}: there is no such file")
    text = file.read_text()
    if (times := text.count(guard.text)) != 1:
        raise Stale(f"{guard.name}: its text stands {times} times in the file, not once")
    left = text.replace(guard.text, guard.without)
    try:
        ast.parse(left)
    except SyntaxError as error:
        raise Stale(f"{guard.name}: without it line {error.lineno} is no Python") from error
    return left
