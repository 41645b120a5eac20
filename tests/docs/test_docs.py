"""The pages agree with the code and with each other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.undercroft import dev_server
from undercroft.cli.commands import COMMANDS
from undercroft.config import load
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


def _shown(page: Path) -> list[tuple[str, list[str]]]:
    """Commands of the blocks marked `<!-- run: dev -->`, each with the lines shown below it."""
    blocks = re.findall(r"<!-- run: dev -->\n```sh\n(.*?)```", page.read_text(), re.DOTALL)
    commands: list[tuple[str, list[str]]] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        else:
            commands[-1][1].append(line)
    return commands


def test_every_command_of_the_quick_start_prints_what_is_shown(tmp_path: Path) -> None:
    commands = _shown(DOCS / "quick-start.md")
    assert commands
    with dev_server(tmp_path) as server:
        address = f"http://127.0.0.1:{server.client.port}"
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "BAO_ADDR": address,
            "VAULT_ADDR": address,  # hvac reads these two
            "BAO_TOKEN": "root",
            "VAULT_TOKEN": "root",
        }
        for command, lines in commands:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            if lines:
                assert done.stdout.splitlines() == lines, command


def test_the_configuration_of_the_quick_start_has_no_mistake(tmp_path: Path) -> None:
    shown = re.search(r"```hcl\n(.*?)```", (DOCS / "quick-start.md").read_text(), re.DOTALL)
    assert shown
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    config = tmp_path / "undercroft.hcl"
    config.write_text(re.sub(r'"((?:cert|key)\.pem|data)"', rf'"{tmp_path}/\1"', shown[1]))
    loaded = load([str(config)], environment={})
    assert loaded.warnings == ()
    assert loaded.settings.listeners[0].address
