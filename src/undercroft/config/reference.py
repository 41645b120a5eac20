"""The tables of docs/configuration.md, made from the table of settings.

`python -m undercroft.config.reference docs/configuration.md` writes them between their marks; a
test checks that they are as new as the code.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from undercroft.config import compat, settings
from undercroft.config.compat import Fate, Known
from undercroft.config.kinds import Kind, Setting
from undercroft.config.settings import table

_MARKS: Final = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Mark -> Markdown."""
    audit = table(settings.AuditDevice)
    inner = {name: audit[name] for name in settings.AUDIT_OPTIONS}
    outer = {name: row for name, row in audit.items() if name not in inner}
    return {
        "top": _settings(table(settings.Settings)),
        "storage": _settings(table(settings.Storage)),
        "listener": _settings(table(settings.Listener)),
        "listener-telemetry": _settings(table(settings.ListenerTelemetry)),
        "seal": _settings(table(settings.Seal)),
        "audit": _settings(outer),
        "audit-options": _settings(inner),
        "replication": _settings(table(settings.Replication)),
        "compat-top": _known(compat.TOP),
        "compat-storage": _known(compat.STORAGE),
        "compat-listener": _known(compat.LISTENER),
        "compat-telemetry": _known(compat.TELEMETRY),
        "compat-audit": _known(compat.AUDIT),
        "compat-seal": _known(compat.SEAL),
    }


def fill(document: str) -> str:
    """The document with every marked table written anew."""
    made = tables()
    return _MARKS.sub(lambda m: f"{m[1]}{made[m[2]]}\n{m[3]}", document)


def _settings(rows: Mapping[str, tuple[Setting, object]]) -> str:
    lines = ["| setting | value | default | |", "|---|---|---|---|"]
    for name, (setting, default) in rows.items():
        doc = setting.doc + (" Read again at SIGHUP." if setting.reload else "")
        lines.append(f"| `{name}` | {_kind(setting)} | {_default(setting, default)} | {doc} |")
    return "\n".join(lines)


def _kind(setting: Setting) -> str:
    if setting.kind in (Kind.CHOICE, Kind.CHOICES):
        return "text" if setting.kind is Kind.CHOICE else "list of texts"
    return str(setting.kind.value)


def _default(setting: Setting, default: object) -> str:
    if setting.default_text:
        return setting.default_text
    if setting.kind is Kind.MODE:
        return f'`"{default:04o}"`'
    if setting.kind is Kind.SIZE and isinstance(default, int):
        return f"`{_size(default)}`"
    if setting.kind in (Kind.DURATION, Kind.SECONDS) and isinstance(default, int | float):
        return f"`{_duration(default)}`" if default else "`0`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if isinstance(default, int | str) and default != "" else ""


def _size(number: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number % (1 << power) == 0:
            return f"{number >> power}{unit}"
    return str(number)


def _duration(seconds: float) -> str:
    if seconds % 3600 == 0:
        return f"{int(seconds) // 3600}h"
    return f"{int(seconds) // 60}m" if seconds % 60 == 0 else f"{seconds:g}s"


def _known(known: Mapping[str, Known]) -> str:
    said = {Fate.SILENT: "nothing", Fate.WARN: "a warning", Fate.REFUSE: "an error"}
    lines = ["| setting | gives | why |", "|---|---|---|"]
    by_meaning: dict[tuple[Fate, str], list[str]] = {}
    for name, what in known.items():
        by_meaning.setdefault((what.fate, what.why), []).append(f"`{name}`")
    lines += [f"| {', '.join(n)} | {said[f]} | {why} |" for (f, why), n in by_meaning.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(fill(path.read_text()))
