"""The table of guards fits the source and the tests, so that `make guards` means something."""

import re
from pathlib import Path

import pytest

from tests.guards.page import page
from tests.guards.table import ROOT, Guard, guards, removed

TABLE = guards()
TESTS = ROOT / "tests"


@pytest.mark.parametrize("guard", TABLE, ids=lambda guard: guard.name)
def test_a_removal_takes_out_what_stands_once_in_the_source(guard: Guard) -> None:
    assert removed(guard) != (ROOT / "src/undercroft" / guard.file).read_text()


@pytest.mark.parametrize("guard", TABLE, ids=lambda guard: guard.name)
def test_a_removal_names_tests_that_exist(guard: Guard) -> None:
    assert guard.tests
    for test in guard.tests:
        file, _, name = test.partition("::")
        assert name in names_in(TESTS / file)


def test_every_test_of_a_threat_has_a_removal() -> None:
    named = {
        f"{file.relative_to(TESTS)}::{name}"
        for file in TESTS.rglob("test_*.py")
        for name in names_in(file)
        if name.startswith("test_threat_")
    }
    assert named - {test for guard in TABLE for test in guard.tests} == set()


def test_the_page_is_made_of_the_table() -> None:
    assert (ROOT / "docs/guards.md").read_text() == page(TABLE)


def names_in(file: Path) -> list[str]:
    return re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
