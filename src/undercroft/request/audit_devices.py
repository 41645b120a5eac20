"""Audit devices: what a configuration may declare, and the files that entries are appended to.

A device exists by configuration only, never by an API call, and its options pass one validator
whatever they are spelled like (AUD-09, AUD-10): a file that a server can be talked into writing
must not become a program, nor a way around another file's permissions.

Many processes append to one file: each entry is one write to a descriptor opened with O_APPEND, so
lines of two processes never mix.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from undercroft.errors import InvalidRequest

STDOUT: Final = "stdout"
STDERR: Final = "stderr"
DISCARD: Final = "discard"

_MODE_DEFAULT: Final = 0o600
_EXECUTABLE: Final = 0o111
_OPEN_FLAGS: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
)
_TRUE: Final = ("true", "t", "1")
_FALSE: Final = ("false", "f", "0")
_ALIASES: Final = {"path": "file_path"}
_OPTIONS: Final = (
    "file_path",
    "mode",
    "log_raw",
    "hmac_accessor",
    "prefix",
    "elide_list_responses",
    "format",
)


class Declared(Protocol):
    """What an `audit` stanza says, whoever parsed it. `path` is its name with a slash behind."""

    @property
    def type(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def local(self) -> bool: ...
    @property
    def options(self) -> dict[str, str]: ...


class AuditDevice(msgspec.Struct, frozen=True):
    """The plain form of `Declared`."""

    type: str
    path: str
    description: str = ""
    local: bool = False
    options: dict[str, str] = {}


class FileOptions(msgspec.Struct, frozen=True):
    """The options of a file device, checked."""

    file_path: str  # absolute, or one of `stdout`, `stderr`, `discard`
    mode: int = _MODE_DEFAULT  # 0: leave an existing file's mode alone
    log_raw: bool = False
    hmac_accessor: bool = True
    prefix: str = ""
    elide_list_responses: bool = False


def file_options(device: Declared, data_directory: Path | None = None) -> FileOptions:
    """The one place where a device is checked. Raises InvalidRequest, naming device and option."""
    where = f'audit device "{device.path}"'
    if device.type != "file":
        raise InvalidRequest(f"{where}: unsupported type; supported: file")
    given = _by_name(device.options, where)
    if not given.get("file_path"):
        raise InvalidRequest(f"{where}: file_path is required")
    if given.get("format", "json") != "json":
        raise InvalidRequest(f"{where}: unsupported format; supported: json")
    return FileOptions(
        file_path=_check_path(given["file_path"], data_directory, where),
        mode=_parse_mode(given.get("mode", ""), where),
        log_raw=_flag(given, "log_raw", False, where),
        hmac_accessor=_flag(given, "hmac_accessor", True, where),
        prefix=_check_prefix(given.get("prefix", ""), where),
        elide_list_responses=_flag(given, "elide_list_responses", False, where),
    )


def _by_name(options: Mapping[str, str], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for spelled, value in options.items():
        name = spelled.strip().lower().replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in _OPTIONS:
            raise InvalidRequest(f"{where}: unknown option; known: {', '.join(_OPTIONS)}")
        if name in found:
            raise InvalidRequest(f"{where}: {name} is given twice")
        found[name] = value
    return found


def _flag(given: Mapping[str, str], name: str, default: bool, where: str) -> bool:
    value = given.get(name, "").strip().lower()
    if not value:
        return default
    if value not in _TRUE + _FALSE:
        raise InvalidRequest(f"{where}: {name} must be true or false")
    return value in _TRUE


def _check_path(text: str, data_directory: Path | None, where: str) -> str:
    """Where it may lie. What is there by then is checked when it is opened (`_open`)."""
    if text.lower() in (STDOUT, STDERR, DISCARD):
        return text.lower()
    if any(ord(c) < 32 for c in text):
        raise InvalidRequest(f"{where}: file_path holds a control character")
    path = Path(os.path.abspath(text))
    if path.is_relative_to("/dev") or path.is_relative_to("/proc"):
        raise InvalidRequest(
            f"{where}: file_path must be a regular file; use {STDOUT} or {DISCARD} instead"
        )
    if data_directory is not None:
        real = Path(os.path.realpath(path.parent)) / path.name
        if real.is_relative_to(os.path.realpath(data_directory)):
            raise InvalidRequest(f"{where}: file_path must not lie in the data directory")
    return str(path)


def _parse_mode(text: str, where: str) -> int:
    if not text:
        return _MODE_DEFAULT
    digits = text.removeprefix("0o")
    if not digits.isascii() or not digits.isdigit() or set(digits) & set("89"):
        raise InvalidRequest(f"{where}: mode must be an octal number such as 0600")
    mode = int(digits, 8)
    if mode > 0o777 or mode & _EXECUTABLE:
        raise InvalidRequest(f"{where}: mode must be at most 0666, without execute bits")
    return mode


def _check_prefix(text: str, where: str) -> str:
    if not text.isprintable() or text.startswith("#!"):
        raise InvalidRequest(f"{where}: prefix must be printable and must not start a script")
    return text


class Sink:
    """Where a device's lines go. `write` raises OSError when the line is not all there."""

    def write(self, line: bytes) -> None:
        """The `discard` device keeps nothing."""

    def reopen(self) -> None:
        """After the file was moved away (SIGHUP)."""

    def close(self) -> None:
        """Nothing is written afterwards."""


class StreamSink(Sink):
    """Standard output or error; whoever reads it must keep up, or everything waits."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, line: bytes) -> None:
        _write_all(self._fd, line)


class FileSink(Sink):
    """A regular file. Raises InvalidRequest when there is something else at its path."""

    def __init__(self, options: FileOptions, where: str) -> None:
        self._options = options
        self._where = where
        self._fd = self._open()
        self._torn = False  # our last line may lack its end: the next one starts on a new line

    def _open(self) -> int:
        path = self._options.file_path
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            fd = os.open(path, _OPEN_FLAGS, self._options.mode or _MODE_DEFAULT)
        except OSError as error:
            raise InvalidRequest(
                f"{self._where}: cannot open the file: {error.strerror}",
                hint="It must be a regular file, no link, that the server's user may append to.",
            ) from error
        try:
            self._check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, fd: int) -> None:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidRequest(f"{self._where}: file_path is not a regular file")
        if found.st_mode & _EXECUTABLE:
            raise InvalidRequest(f"{self._where}: the file has execute bits: clear them first")
        mode = self._options.mode
        if mode and stat.S_IMODE(found.st_mode) != mode:
            try:
                os.fchmod(fd, mode)
            except OSError as error:
                raise InvalidRequest(
                    f"{self._where}: cannot set the file's mode: {error.strerror}"
                ) from error

    def write(self, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        self._torn = True
        _write_all(self._fd, line)
        self._torn = False

    def reopen(self) -> None:
        """Raises InvalidRequest, and goes on with the old file, when the new one cannot be had."""
        fd = self._open()
        os.close(self._fd)
        self._fd, self._torn = fd, False

    def close(self) -> None:
        os.close(self._fd)


def _write_all(fd: int, line: bytes) -> None:
    written = os.write(fd, line)
    while written < len(line):  # a full disk takes what fits; the next call says why
        written += os.write(fd, line[written:])


def open_sink(device: Declared, options: FileOptions) -> Sink:
    if options.file_path == DISCARD:
        return Sink()
    if options.file_path in (STDOUT, STDERR):
        return StreamSink(1 if options.file_path == STDOUT else 2)
    return FileSink(options, f'audit device "{device.path}"')
