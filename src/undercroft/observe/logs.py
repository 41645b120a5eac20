"""The operational log: one line an event, safe to read, to grep and to parse.

`2024-01-02T03:04:05.678Z [INFO]  core: message: key=value key2="two words"`, or one JSON object a
line. Kept here, so that no caller can get it wrong (threats AUD-07, AUD-08, AUD-11):

- A field is text, a number or a boolean. Anything else shows as its type's name, never its `repr`.
- An exception shows its type and the places it passed, not its text, unless it is one of ours,
  whose texts hold no secret by contract (`errors.py`). Other libraries' messages lose their
  arguments for the same reason.
- Line breaks and control characters are escaped, so a value cannot forge a line.
- A line has at most 4,096 bytes and is one `write`: lines of several processes never mix.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias

from undercroft.errors import UndercroftError

if TYPE_CHECKING:
    from undercroft.config import Settings

Field: TypeAlias = str | int | float | bool

LEVELS: Final = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("standard", "json")

LINE_BYTES_MAX: Final = 4096  # PIPE_BUF: what Linux writes to a pipe in one piece
_FIELDS_BYTES_MAX: Final = 3_400  # leaves room for time, level, name and the fields' names
_MESSAGE_CHARS_MAX: Final = 400
_FRAMES_MAX: Final = 12
_RARELY_SECONDS: Final = 60
_SUBJECTS_MAX: Final = 100
_TREE: Final = "undercroft"
_NAMES: Final = {number: name for name, number in LEVELS.items()}

# C0, DEL, C1, the line separators of Unicode, and what reorders text on a terminal.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_BARE: Final = re.compile(r"[\w.:/@+,%\[\]()*-]+")
_FOREIGN_END: Final = re.compile(r"[(<{\[=:'\"%\n]")


class Log:
    """What a module logs through: `log.info("listener started", address="127.0.0.1:8200")`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def trace(self, message: str, **fields: Field) -> None:
        self._emit(5, message, fields)

    def debug(self, message: str, **fields: Field) -> None:
        self._emit(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Field) -> None:
        self._emit(logging.INFO, message, fields)

    def warn(self, message: str, **fields: Field) -> None:
        self._emit(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Field) -> None:
        self._emit(logging.ERROR, message, fields)

    def exception(self, message: str, error: BaseException, **fields: Field) -> None:
        """An unexpected exception, at level error, with its type and where it came from."""
        self._emit(logging.ERROR, message, {**fields, **describe(error)})

    def _emit(self, level: int, message: str, fields: Mapping[str, Field]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, message, extra={"fields": fields})


class Rarely:
    """Whether it is time for a line about a subject: the first time, then once a minute.

    For what goes on until somebody sees to it, or happens as often as a client likes.
    """

    def __init__(self) -> None:
        self._when: dict[object, float] = {}

    def __call__(self, subject: object) -> bool:
        now = time.monotonic()
        if now - self._when.get(subject, -math.inf) < _RARELY_SECONDS:
            return False
        if len(self._when) >= _SUBJECTS_MAX:
            self._when = {s: at for s, at in self._when.items() if now - at < _RARELY_SECONDS}
            if len(self._when) >= _SUBJECTS_MAX:
                return False
        self._when[subject] = now
        return True


def get_logger(name: str) -> Log:
    """The log of a part of the server: `core`, `storage.writer`, `http` …"""
    return Log(logging.getLogger(f"{_TREE}.{name}"))


def configure(level: str = "info", style: str = "standard", file: str = "") -> None:
    """Log to standard error, and to `file` (0600) as well. Children inherit it when forked.

    `style` is one of FORMATS. Raises OSError if the file cannot be opened, ValueError for an
    unknown level or style.
    """
    if level not in LEVELS or style not in FORMATS:
        raise ValueError(f"log level: {', '.join(LEVELS)}; log format: {', '.join(FORMATS)}")
    handler = _Handler(RENDERERS[style], file)
    root = logging.getLogger()
    for old in _handlers():
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # other libraries: their problems only
    set_level(level)


def set_process(name: str) -> None:
    """Name this process (`writer`, `worker-1`); `core: …` becomes `writer.core: …`."""
    for handler in _handlers():
        handler.process = name


def set_level(level: str) -> None:
    """Change the level of this process."""
    logging.getLogger(_TREE).setLevel(LEVELS[level])


def reopen() -> None:
    """Open the log file anew, after something moved the old one away."""
    for handler in _handlers():
        handler.reopen()


def reload(settings: "Settings") -> None:
    """SIGHUP: the log file anew, and the level that the configuration says now.

    A configuration that cannot be read any more is logged, and the level stays.
    """
    from undercroft.config import load_again  # here, as `config` is not needed to log

    log = get_logger("core")
    try:
        reopen()
        set_level(load_again(settings).settings.log_level)
    except (UndercroftError, OSError) as error:
        log.exception("the configuration was not reloaded", error)


def _handlers() -> "list[_Handler]":
    return [h for h in logging.getLogger().handlers if isinstance(h, _Handler)]


def describe(error: BaseException) -> dict[str, Field]:
    """What may be told about an exception: type and places; the text only of our own."""
    fields: dict[str, Field] = {"error": type(error).__name__}
    if isinstance(error, UndercroftError):
        fields["reason"] = error.message
    elif isinstance(error, OSError) and error.errno:
        fields["reason"] = os.strerror(error.errno)
    if error.__traceback__ is not None:
        fields["at"] = " < ".join(_places(error.__traceback__))
    return fields


def _places(traceback: TracebackType) -> list[str]:
    """`module:line` of the innermost frames, innermost first; no source text, no values."""
    places = []
    at: TracebackType | None = traceback
    while at is not None:
        places.append(f"{at.tb_frame.f_globals.get('__name__', '?')}:{at.tb_lineno}")
        at = at.tb_next
    return places[: -_FRAMES_MAX - 1 : -1]


# Rendering


def render_standard(
    created: float, level: int, name: str, message: str, fields: Mapping[str, object]
) -> str:
    head = f"{_timestamp(created)} {f'[{_level_name(level).upper()}]':<8}{name}: "
    text = head + _escape(message[:_MESSAGE_CHARS_MAX])
    rendered = " ".join(f"{key}={value}" for key, value in _clipped(fields, _standard_value))
    return f"{text}: {rendered}" if rendered else text


def render_json(
    created: float, level: int, name: str, message: str, fields: Mapping[str, object]
) -> str:
    head = {
        "@level": _level_name(level),
        "@message": message[:_MESSAGE_CHARS_MAX],
        "@module": name,
        "@timestamp": _timestamp(created),
    }
    parts = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in head.items()]
    parts += [f"{json.dumps(key)}:{value}" for key, value in _clipped(fields, _json_value)]
    return "{" + ",".join(parts) + "}"


Renderer: TypeAlias = Callable[[float, int, str, str, Mapping[str, object]], str]
RENDERERS: Final[Mapping[str, Renderer]] = {"standard": render_standard, "json": render_json}


def _timestamp(created: float) -> str:
    ms = int(created * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


def _level_name(level: int) -> str:
    return _NAMES.get(level, "error" if level > logging.ERROR else "info")


def _clipped(
    fields: Mapping[str, object], render: Callable[[object], str]
) -> Iterable[tuple[str, str]]:
    """Fields rendered within the line's budget; a text that does not fit is cut and ends in `…`."""
    left = _FIELDS_BYTES_MAX
    for key, value in fields.items():
        if not isinstance(value, str | int | float | bool):
            value = f"<{type(value).__name__}>"
        text = render(value)
        while len(text.encode(errors="replace")) > left and len(str(value)) > 2:
            value = str(value)[: len(str(value)) // 2] + "…"
            text = render(value)
        left -= len(text.encode(errors="replace"))
        yield key, text


def _standard_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if _BARE.fullmatch(text):
        return text.encode("ascii", "backslashreplace").decode()
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escape(quoted)}"'


def _json_value(value: object) -> str:
    finite = not isinstance(value, float) or math.isfinite(value)
    return json.dumps(value if finite else str(value))


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: _code(match[0]), text)


def _code(character: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    code = ord(character)
    return short or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


# Writing


class _Handler(logging.Handler):
    """Renders records and writes each with one call, to standard error and the log file."""

    def __init__(self, render: Renderer, file: str) -> None:
        super().__init__()
        self.process = ""
        self._render = render
        self._file = file
        self._fd = _open(file) if file else -1

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {}
        own = getattr(record, "fields", None)
        if own is not None:
            name, message = record.name.removeprefix(_TREE + "."), record.msg
            fields.update(own)
        else:
            name, message = record.name, _FOREIGN_END.split(str(record.msg), maxsplit=1)[0].strip()
            if record.exc_info and record.exc_info[1] is not None:
                fields.update(describe(record.exc_info[1]))
        if self.process and self.process != name:
            name = f"{self.process}.{name}"
        line = self._render(record.created, record.levelno, name, message, fields)
        data = line.encode("utf-8", "backslashreplace")[: LINE_BYTES_MAX - 1] + b"\n"
        for fd in (2, self._fd):
            if fd >= 0:
                _write(fd, data)

    def reopen(self) -> None:
        if self._file:
            fd = _open(self._file)  # if this fails, go on with the old one
            old, self._fd = self._fd, fd
            os.close(old)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def _write(fd: int, data: bytes) -> None:
    """All of it; a log that cannot be written (full disk, closed pipe) stops nobody's request."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return
