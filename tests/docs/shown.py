"""The commands that the pages show: found, run in a shell, and compared with what is shown.

A block of commands stands behind a mark, an HTML comment on the line before it:

- `<!-- run: dev -->`: against a development server of the page, root token in the environment.
- `<!-- run: disk -->`: nothing runs yet. A shown `undercroft server` is started beside the shell.
- `<!-- run: server -->`: against a server on disk, initialised and unsealed, its data in `data`,
  with the audit device `main` in `audit.log` and KV at `secret/`.
- `<!-- run: primary -->`, `<!-- run: secondary -->`: two clusters with TLS, initialised, unsealed.
- `<!-- shown: REASON -->`: not run, and why.
- `<!-- file: NAME -->`: no commands but a file, which lies in the directory of the page's commands.

A line that begins with `$ ` is a command (`\\` at its end goes on with the next line), the lines
below it are everything that it prints. `…` stands for any text within a line; a line that is `…` or
`...` stands for any lines, also none. A command may fail only if a line shown begins with `Error`.
Commands of a page share their directory and, by kind of mark, what they export.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RUN_KINDS = frozenset({"dev", "disk", "server", "primary", "secondary"})
_COMMAND_WORDS = ("$ ", "undercroft ", "bao ", "vault ", "make ", "python ", "curl ")
_FENCE = re.compile(r"^```(\w*)$")
_MARK = re.compile(r"^<!-- (run|shown|file): (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is run, shown, file or nothing, `value` what follows the colon."""

    line: int  # of the fence
    language: str
    mark: str
    value: str
    lines: tuple[str, ...]

    @property
    def shows_commands(self) -> bool:
        """Whether it needs a mark: a shell's block, or one that looks like it."""
        if self.language == "text":  # a figure
            return False
        return self.language in ("sh", "console", "bash") or any(
            line.startswith(_COMMAND_WORDS) for line in self.lines
        )


@dataclass(frozen=True)
class Command:
    text: str
    lines: tuple[str, ...]  # shown below it
    at: str  # page:line of its block

    @property
    def may_fail(self) -> bool:
        return any(line.startswith("Error") for line in self.lines)

    def matches(self, output: str) -> bool:
        return re.fullmatch(_pattern(self.lines), _text(output.splitlines())) is not None


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        end = lines.index("```", number + 1)
        mark = _MARK.match(lines[number - 1]) if number else None
        name, value = (mark[1], mark[2]) if mark else ("", "")
        found.append(Block(number + 1, fence[1], name, value, tuple(lines[number + 1 : end])))
        number = end + 1
    return found


def commands(block: Block, page: str) -> list[Command]:
    """Raises ValueError if the block does not begin with a command."""
    at = f"{page}:{block.line}"
    found: list[tuple[str, list[str]]] = []
    goes_on = False
    for line in block.lines:
        if goes_on:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        elif line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
        else:
            raise ValueError(f"{at}: output without a command")
        goes_on = line.endswith("\\") and not found[-1][1]
    return [Command(text, tuple(shown), at) for text, shown in found]


def _text(lines: Iterable[str]) -> str:
    """Spaces and empty lines at the ends do not show on a page."""
    return "".join(f"{line.rstrip()}\n" for line in lines).rstrip("\n") + "\n"


def _pattern(lines: tuple[str, ...]) -> str:
    parts = []
    for line in _text(lines).splitlines():
        if line in ("…", "..."):
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".+".join(re.escape(part) for part in line.split("…")) + r"\n")
    return "".join(parts)
