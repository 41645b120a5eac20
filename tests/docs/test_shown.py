"""Every command that a page shows is run, and prints what is shown."""

import re
from pathlib import Path

import pytest

from tests.docs.shown import RUN_KINDS, Block, Command, blocks, commands
from tests.docs.terminal import ROOT, terminals
from undercroft.cli.arguments import find_command, parse
from undercroft.config import load
from undercroft.request.policy import parse_policy

PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _run(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.mark == "run"]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_of_commands_says_how_it_is_run_or_why_not(page: Path) -> None:
    for block in blocks(page):
        where = f"{_name(page)}:{block.line}"
        if block.shows_commands:
            assert block.mark in ("run", "shown"), f"{where} has no mark"
            assert block.language == "sh", f"{where} is not marked as sh"
        if block.mark == "run":
            assert block.value in RUN_KINDS, f"{where}: {block.value}"
            assert commands(block, where), f"{where} shows no command"


@pytest.mark.parametrize("page", [page for page in PAGES if _run(page)], ids=_name)
def test_every_shown_command_prints_what_is_shown(page: Path, tmp_path: Path) -> None:
    run = _run(page)
    with terminals(tmp_path, {block.value for block in run}) as by_kind:
        for block in blocks(page):
            if block.mark == "file":
                for terminal in by_kind.values():
                    terminal.put(block)
        for block in run:
            for command in commands(block, _name(page)):
                by_kind[block.value].run(command)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_in_a_sentence_is_one_that_exists(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for shown in re.findall(r"`undercroft ([a-z][^`]*)`", text):
        command, words = find_command(shown.replace("…", "x").split())
        assert command, shown
        if command.least <= len([word for word in words if not word.startswith("-")]):
            parse(command, words, environment={})  # raises at a flag that does not exist
    for target in re.findall(r"\bmake ([a-z]+)\b`", text) + re.findall(
        r"^make ([a-z]+)", page.read_text(), re.MULTILINE
    ):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target


def _hcl() -> list[tuple[str, str]]:
    return [
        (f"{_name(page)}:{block.line}", "\n".join(block.lines))
        for page in PAGES
        for block in blocks(page)
        if block.language == "hcl" and block.mark != "file"
    ]


@pytest.mark.parametrize(("where", "text"), _hcl(), ids=[where for where, _ in _hcl()])
def test_shown_configurations_and_policies_have_no_mistake(
    where: str, text: str, tmp_path: Path
) -> None:
    if text.startswith("path "):
        assert parse_policy("shown", text).rules
        return
    config = tmp_path / "undercroft.hcl"
    own = re.sub(r'"(file://)?(/[^"]+)"', rf'"\1{tmp_path}\2"', text)
    if "storage" not in text:
        own += f'\nstorage "lmdb" {{\n  path = "{tmp_path}"\n}}\n'
        own += 'listener "tcp" {\n  tls_disable = true\n}\n'
    config.write_text(own)
    for name in re.findall(r'(?:_file += "|file://)(.*?)"', own):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("00" * 32)
    loaded = load([str(config)], environment={"OLD_SEAL_KEY": "00" * 32})
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("lines", "output", "same"),
    [
        (("a b",), "a b\n", True),
        (("a b",), "a c\n", False),
        (("a b",), "a b\nmore\n", False),
        (("a b",), "", False),
        ((), "", True),
        ((), "a\n", False),
        (("a …",), "a b c\n", True),
        (("a …",), "a \n", False),
        (("a.c",), "abc\n", False),
        (("…", "b"), "a\na\nb\n", True),
        (("a", "..."), "a\n", True),
        (("a", "...", "c"), "a\nb\n", False),
        (("a",), "a   \n\n", True),
    ],
)
def test_output_is_compared_whole(lines: tuple[str, ...], output: str, same: bool) -> None:
    assert Command("x", lines, "page:1").matches(output) is same


def test_a_block_without_mark_is_noticed_and_one_is_read_whole(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```\n$ a\n```\n<!-- run: dev -->\n```sh\n$ a \\\n    b\nout\n\n$ c\n```\n"
        "```\nfigure\n```\n"
    )
    bare, marked, figure = blocks(page)
    assert bare.shows_commands
    assert bare.mark == ""
    assert not figure.shows_commands
    assert commands(marked, "page") == [
        Command("a \\\n    b", ("out", ""), "page:5"),
        Command("c", (), "page:5"),
    ]
