"""Which audit devices a configuration may declare, and how their files are opened and written."""

import os
import resource
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.errors import InvalidRequest
from undercroft.request.audit_devices import AuditDevice, FileOptions, file_options, open_sink


def device(**options: str) -> AuditDevice:
    return AuditDevice("file", "main/", options=options)


def opened(path: Path, **options: str) -> None:
    declared = device(file_path=str(path), **options)
    open_sink(declared, file_options(declared)).close()


def test_options_are_read_and_have_vaults_defaults(tmp_path: Path) -> None:
    path = str(tmp_path / "a.log")
    assert file_options(device(file_path=path)) == FileOptions(path, 0o600)
    given_all = file_options(
        device(
            file_path=path,
            mode="0640",
            log_raw="true",
            hmac_accessor="false",
            prefix="@cee: ",
            elide_list_responses="1",
            format="json",
        )
    )
    assert given_all == FileOptions(path, 0o640, True, False, "@cee: ", True)


@pytest.mark.parametrize("name", ["file_path", "path", "FILE_PATH", "File-Path", " path "])
def test_threat_aud_10_every_spelling_of_an_option_meets_the_same_guard(
    tmp_path: Path, name: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(InvalidRequest, match="data directory"):
        file_options(device(**{name: str(data / "audit.log")}), data)
    with pytest.raises(InvalidRequest, match="regular file"):
        file_options(device(**{name: "/dev/sda"}), data)


@pytest.mark.parametrize(
    "mode", ["0700", "777", "0611", "0o755", "1666", "rw", "0888", "-600", "٦٠٠"]
)
@pytest.mark.parametrize("name", ["mode", "MODE", "Mode"])
def test_threat_aud_09_execute_bits_and_other_modes_are_refused(name: str, mode: str) -> None:
    with pytest.raises(InvalidRequest, match="mode must be"):
        file_options(device(file_path="/tmp/a", **{name: mode}))


def test_an_option_given_twice_under_two_names_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="given twice"):
        file_options(device(file_path="/tmp/a", path="/tmp/b"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "required"),
        ({"file_path": ""}, "required"),
        ({"file_path": "/tmp/a\nb"}, "control"),
        ({"file_path": "/tmp/a", "format": "jsonx"}, "unsupported format"),
        ({"file_path": "/tmp/a", "canary": "1"}, "unknown option"),
        ({"file_path": "/tmp/a", "log_raw": "canary"}, "true or false"),
        ({"file_path": "/tmp/a", "prefix": "#!/bin/sh "}, "prefix"),
        ({"file_path": "/tmp/a", "prefix": "a\nb"}, "prefix"),
    ],
)
def test_threat_aud_09_bad_options_are_refused_without_repeating_them(
    options: dict[str, str], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem) as raised:
        file_options(device(**options))
    assert "canary" not in raised.value.message


def test_another_type_than_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="supported: file"):
        file_options(AuditDevice("socket", "main/", options={"address": "x"}))


def test_threat_aud_09_the_data_directory_is_out_of_bounds_by_any_way(tmp_path: Path) -> None:
    data, link = tmp_path / "data", tmp_path / "link"
    data.mkdir()
    link.symlink_to(data)
    ways = (data / "a", link / "a", tmp_path / "x" / ".." / "data" / "a", data / "sub" / "a")
    for way in ways:
        with pytest.raises(InvalidRequest, match="data directory"):
            file_options(device(file_path=str(way)), data)
    assert file_options(device(file_path=str(tmp_path / "data2")), data).file_path


def test_a_new_file_has_the_declared_mode_and_its_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.log"
    opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    opened(path, mode="0640")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    opened(path, mode="0000")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_threat_aud_09_only_a_regular_file_without_execute_bits_is_written(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch(mode=0o600)
    (tmp_path / "symlink").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    for name in ("symlink", "dangling", "directory", "fifo", "script"):
        with pytest.raises(InvalidRequest):
            opened(tmp_path / name)
    assert not (tmp_path / "absent").exists()
    assert script.read_text() == "#!/bin/sh\n"


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="cannot open the file"):
        opened(tmp_path / "file" / "below")


def test_after_a_disk_was_full_lines_begin_on_a_line_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    declared = device(file_path=str(path))
    sink = open_sink(declared, file_options(declared))
    sink.write(b"1" * 99 + b"\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            sink.write(b"2" * 99 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sink.write(b"3" * 99 + b"\n")
    sink.write(b"4" * 99 + b"\n")
    lines = path.read_bytes().splitlines()
    assert lines == [b"1" * 99, b"2" * 50, b"3" * 99, b"4" * 99]


def test_reopen_goes_on_in_a_new_file_and_keeps_the_old_one_when_there_is_none_to_have(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.log"
    declared = device(file_path=str(path))
    sink = open_sink(declared, file_options(declared))
    sink.write(b"one\n")
    path.rename(tmp_path / "a.log.1")
    sink.write(b"two\n")
    sink.reopen()
    sink.write(b"three\n")
    assert (tmp_path / "a.log.1").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"
    path.rename(tmp_path / "a.log.2")
    path.mkdir()
    with pytest.raises(InvalidRequest):
        sink.reopen()
    sink.write(b"four\n")
    assert (tmp_path / "a.log.2").read_bytes() == b"three\nfour\n"


def test_discard_takes_everything_and_keeps_nothing(tmp_path: Path) -> None:
    declared = device(file_path="discard")
    sink = open_sink(declared, file_options(declared, tmp_path))
    sink.write(b"line\n")
    sink.reopen()
    sink.close()


def test_stdout_gets_the_lines(capfd: pytest.CaptureFixture[str]) -> None:
    declared = device(file_path="STDOUT")
    open_sink(declared, file_options(declared)).write(b"a line\n")
    assert capfd.readouterr().out == "a line\n"


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_options_are_taken_or_refused_but_never_crash(name: str, value: str) -> None:
    with suppress(InvalidRequest):
        file_options(device(**{"file_path": "/tmp/a", name: value}))
