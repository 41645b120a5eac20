"""The operational log: what a line looks like, and what can never be in one."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.errors import InvalidRequest
from undercroft.observe import logs

CANARY = "s.CANARYcanaryCANARYcanary"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "server.log"
    before = list(logging.getLogger().handlers), logging.getLogger().level
    logs.configure("trace", "standard", str(path))
    yield path
    for handler in set(logging.getLogger().handlers) - set(before[0]):
        logging.getLogger().removeHandler(handler)
        handler.close()
    logging.getLogger().setLevel(before[1])


def standard(message: str, **fields: object) -> str:
    return logs.render_standard(1704164645.678, logging.INFO, "core", message, fields)


def test_a_standard_line_reads_like_vaults() -> None:
    assert standard("message", key="value", key2="two words", n=3, ok=True) == (
        '2024-01-02T03:04:05.678Z [INFO]  core: message: key=value key2="two words" n=3 ok=true'
    )
    assert standard("no fields") == "2024-01-02T03:04:05.678Z [INFO]  core: no fields"


@pytest.mark.parametrize("name", logs.LEVELS)
def test_levels_are_aligned(name: str) -> None:
    line = logs.render_standard(0, logs.LEVELS[name], "core", "x", {})
    assert line == f"1970-01-01T00:00:00.000Z {f'[{name.upper()}]':<8}core: x"


def test_a_json_line_has_the_names_that_log_shippers_expect() -> None:
    line = logs.render_json(1704164645.678, logging.WARNING, "core", "m", {"n": 1, "s": 'a"b'})
    assert json.loads(line) == {
        "@level": "warn",
        "@message": "m",
        "@module": "core",
        "@timestamp": "2024-01-02T03:04:05.678Z",
        "n": 1,
        "s": 'a"b',
    }


@given(st.text(), st.text())
def test_threat_aud_11_no_value_can_forge_a_line(message: str, value: str) -> None:
    for line in (
        standard(message, key=value),
        logs.render_json(0, logging.INFO, "core", message, {"key": value}),
    ):
        assert len(line.splitlines()) == 1
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)


@given(st.lists(st.text(min_size=0, max_size=9000), min_size=1, max_size=4))
def test_a_json_line_is_whole_and_short_whatever_its_fields_hold(values: list[str]) -> None:
    fields = {f"f{i}": value for i, value in enumerate(values)}
    line = logs.render_json(0, logging.INFO, "core", "m", fields)
    assert json.loads(line).keys() >= fields.keys()
    assert len(line) < logs.LINE_BYTES_MAX


def test_what_is_neither_text_nor_number_shows_its_type_alone() -> None:
    assert standard("m", key=[CANARY], other=CANARY.encode(), none=None) == (
        '2024-01-02T03:04:05.678Z [INFO]  core: m: key="<list>" other="<bytes>" none="<NoneType>"'
    )


def test_threat_aud_08_a_foreign_exception_shows_type_and_place_not_its_text(file: Path) -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        logs.get_logger("core").exception("it broke", error)
    line = file.read_text()
    assert "[ERROR] core: it broke: error=ValueError at=" in line
    assert "test_logs:" in line
    assert CANARY not in line


def test_an_exception_of_ours_shows_its_text(file: Path) -> None:
    logs.get_logger("core").exception("refused", InvalidRequest("the field x is missing"))
    assert 'error=InvalidRequest reason="the field x is missing"' in file.read_text()


def test_threat_aud_07_other_libraries_messages_lose_their_arguments(file: Path) -> None:
    logging.getLogger("asyncio").error(
        "Exception in callback f(%r)\nhandle: <H %s>", CANARY, CANARY
    )
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("asyncio").exception(f"Task exception: token={CANARY}")
    text = file.read_text()
    assert "[ERROR] asyncio: Exception in callback f" in text
    assert "error=ValueError" in text
    assert CANARY not in text


def test_below_the_level_nothing_is_written_and_the_level_changes_at_once(file: Path) -> None:
    log = logs.get_logger("core")
    logs.set_level("warn")
    log.info("quiet")
    logs.set_level("trace")
    log.trace("loud")
    assert "quiet" not in file.read_text()
    assert "[TRACE] core: loud" in file.read_text()


def test_reopen_follows_a_rotated_file(file: Path) -> None:
    log = logs.get_logger("core")
    log.info("first")
    os.rename(file, f"{file}.1")
    log.info("still to the old one")
    logs.reopen()
    log.info("second")
    assert "still to the old one" in Path(f"{file}.1").read_text()
    assert file.read_text().endswith("core: second\n")


def test_threat_seal_05_the_file_is_for_its_owner_alone(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        logs.configure("info", "standard", str(tmp_path / "link"))


@pytest.mark.parametrize("bad", [{"level": "loud"}, {"style": "xml"}])
def test_unknown_level_and_format_are_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="json"):
        logs.configure(**bad)


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    script = (
        "import sys; from undercroft.observe import logs;"
        "logs.configure('info', 'json', sys.argv[1]); logs.set_process(sys.argv[2]);"
        "log = logs.get_logger('core');"
        "[log.info('m', text='x' * 5000, n=n) for n in range(200)]"
    )
    path = tmp_path / "log"
    children = [
        subprocess.Popen([sys.executable, "-c", script, path, f"p{i}"], stderr=subprocess.DEVNULL)
        for i in range(3)
    ]
    assert [child.wait() for child in children] == [0, 0, 0]
    seen = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(line["@module"], line["n"]) for line in seen} == {
        (f"p{i}.core", n) for i in range(3) for n in range(200)
    }
