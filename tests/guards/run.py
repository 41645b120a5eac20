"""One removal: copy the source, take the guard out, run its tests, read what became of each."""

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.guards.table import ROOT, SOURCE, Guard, Stale, removed

Outcome = Literal["caught", "survived", "stale", "error"]
TIMEOUT_SECONDS = 180


@dataclass(frozen=True)
class Verdict:
    """What became of a removal; only `caught` is good, and `detail` says what is wrong."""

    guard: Guard
    outcome: Outcome
    detail: str = ""


def failing(guards: list[Guard]) -> list[str]:
    """Of all tests of these guards, those that do not pass while every guard is in its place."""
    tests = sorted({test for guard in guards for test in guard.tests})
    with tempfile.TemporaryDirectory(prefix="guard-") as name:
        directory = Path(name)
        report = directory / "report.xml"
        output = _pytest(tests, SOURCE, directory, report, timeout_seconds=len(tests) * 10 + 60)
        if not report.exists():
            return [output[-2000:]]
        results = _results(report)
    return [test for test in tests if results.get(test) != {"passed"}]


def judge(guard: Guard) -> Verdict:
    """Run the guard's tests without the guard.

    `caught`: each fails. `survived`: one passes. `stale`: the text is not in the source. `error`:
    the tests broke or hung instead of failing, which says nothing about the guard.
    """
    with tempfile.TemporaryDirectory(prefix="guard-") as name:
        directory = Path(name)
        source = directory / "src"
        shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            left = removed(guard)
        except Stale as stale:
            return Verdict(guard, "stale", str(stale))
        (source / "undercroft" / guard.file).write_text(left)
        return _verdict(guard, directory)


def _verdict(guard: Guard, directory: Path) -> Verdict:
    report = directory / "report.xml"
    try:
        output = _pytest(guard.tests, directory / "src", directory, report, TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return Verdict(guard, "error", f"no end within {TIMEOUT_SECONDS} s")
    if not report.exists():
        return Verdict(guard, "error", output[-2000:])
    results = _results(report)
    for test in guard.tests:
        seen = results.get(test, set())
        if "failed" not in seen:
            if seen == {"passed"}:
                return Verdict(guard, "survived", f"{test} passes")
            return Verdict(guard, "error", f"{test}: {seen or 'not run'}\n{output[-2000:]}")
    return Verdict(guard, "caught")


def _pytest(
    tests: Iterable[str], source: Path, directory: Path, report: Path, timeout_seconds: float
) -> str:
    """Run tests against a source, with nothing left behind in the repository."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(source),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(directory / "hypothesis"),
    }
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
    places = [f"--basetemp={directory / 'tmp'}", f"--junitxml={report}"]
    files = [f"tests/{test}" for test in tests]
    command = [sys.executable, "-m", "pytest", *options, *places, *files]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    return done.stdout + done.stderr


def _results(report: Path) -> dict[str, set[str]]:
    """What became of each test, over all its parameters: passed, failed, error, skipped."""
    results: dict[str, set[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname", "").removeprefix("tests.").replace(".", "/")
        test = f"{module}.py::{case.get('name', '').partition('[')[0]}"
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        kind = {"failure": "failed"}.get(min(kinds, default=""), min(kinds, default="passed"))
        results.setdefault(test, set()).add(kind)
    return results
