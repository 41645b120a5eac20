"""Each numbered convention of the HTTP surface has a test, or a reason why it has none."""

import re

from tests.docs.terminal import ROOT

NUMBERS = {f"{number:02}" for number in range(1, 41)}


def _tested() -> set[str]:
    """The numbers in the names of tests; `test_conv_06_and_07_…` has two."""
    names = [
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def test_conv_((?:\d\d_)(?:and_\d\d_)*)", file.read_text(), re.M)
    ]
    return {number for name in names for number in re.findall(r"\d\d", name)}


def _without_subject() -> dict[str, str]:
    """Number and reason, from the page's list."""
    text = (ROOT / "docs" / "compatibility.md").read_text()
    section = text.partition("\n## Conventions\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \| [^|]+ \| ([^|]+) \|$", section, re.MULTILINE)
    return {number: why for numbers, why in rows for number in numbers.split(", ")}


def test_every_convention_has_a_test_or_a_reason_in_the_documentation() -> None:
    assert _tested() | _without_subject().keys() == NUMBERS


def test_a_part_that_is_left_out_has_its_reason() -> None:
    left_out = _without_subject()
    assert left_out
    assert left_out.keys() <= NUMBERS
    assert all(len(reason) > 10 for reason in left_out.values())
