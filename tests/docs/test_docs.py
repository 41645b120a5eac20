"""The pages agree with the code and with each other."""

import re
from pathlib import Path

import pytest

from undercroft.cli.commands import COMMANDS
from undercroft.engines.reference import fill, tables

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((*ROOT.glob("*.md"), *DOCS.rglob("*.md")))


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_leads_to_a_file_and_heading(page: Path) -> None:
    for target, _, heading in re.findall(
        r"\]\((?!\w+:)([^)#\s]*)(#([^)\s]+))?\)", page.read_text()
    ):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{target}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_page_is_left_half_merged(page: Path) -> None:
    assert re.findall(r"^(?:<{7}|>{7}) .*$", page.read_text(), re.MULTILINE) == []


@pytest.mark.parametrize("index", [DOCS / "README.md", DOCS / "decisions" / "README.md"], ids=_name)
def test_every_page_below_an_index_is_in_it(index: Path) -> None:
    linked = {
        (index.parent / t).resolve() for t in re.findall(r"\]\(([^)#\s]+)\)", index.read_text())
    }
    pages = index.parent.rglob("*.md")
    own = [
        p for p in pages if p != index and (index.parent != DOCS or p.parent.name != "decisions")
    ]
    assert own
    assert [_name(page) for page in own if page not in linked] == []


def test_the_tables_of_routes_are_the_codes() -> None:
    """After a change: python -m undercroft.engines.reference docs/compatibility.md"""
    text = (DOCS / "compatibility.md").read_text()
    assert set(re.findall(r"<!-- routes:([\w-]+) -->", text)) == set(tables())
    assert text == fill(text)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_has_a_section(name: str) -> None:
    titles = re.findall(r"^## (.+)$", (DOCS / "cli.md").read_text(), re.MULTILINE)
    assert name in [command for title in titles for command in title.split(", ")]
