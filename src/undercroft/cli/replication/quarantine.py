"""Writes that only a former primary had: listed, read, written again or dropped."""

import argparse
from collections.abc import Mapping
from typing import Any, Final

from undercroft.cli.client import client_from
from undercroft.cli.failure import OK, RemoteError
from undercroft.cli.output import go_text, grid, show_done, show_secret
from undercroft.cli.prompt import confirm
from undercroft.cli.replication.requests import QUARANTINE, checked_id

_HEAD: Final = ("ID", "Path", "Operation", "Written", "Differs")


def list_all(values: argparse.Namespace) -> int:
    """An empty quarantine is good news: exit code 0."""
    body = client_from(values).call("GET", QUARANTINE).body
    data = body.get("data") if isinstance(body, dict) else None
    if values.format == "json":
        return show_secret(body, values.format, None)
    keys = (data or {}).get("keys") or []
    info = (data or {}).get("key_info") or {}
    if not keys:
        print("Nothing is in quarantine.")
        return OK
    print(grid(_HEAD, (_row(str(key), info.get(key) or {}) for key in keys)))
    return OK


def _row(key: str, info: Mapping[str, Any]) -> tuple[str, ...]:
    path = f"{info.get('mount') or ''}{info.get('path') or ''}"
    names = ("operation", "written", "differs")
    return (key, path or "-", *(go_text(info[name]) if name in info else "-" for name in names))


def read(values: argparse.Namespace) -> int:
    entry = checked_id(values.arguments[0])
    answer = client_from(values).call("GET", f"{QUARANTINE}/{entry}", accept=(404,))
    if answer.status == 404:
        raise _missing(entry)
    return show_secret(answer.body, values.format, values.field)


def restore(values: argparse.Namespace) -> int:
    entry = checked_id(values.arguments[0])
    answer = client_from(values).call("POST", f"{QUARANTINE}/{entry}/restore", {}, accept=(404,))
    if answer.status == 404:
        raise _missing(entry)
    done = f"{entry} is written again, as a write of now, and out of quarantine."
    return show_done(answer.body, done, values.format)


def discard(values: argparse.Namespace) -> int:
    entry = checked_id(values.arguments[0])
    confirm(
        f"The write {entry} is dropped for good: nobody has it but this quarantine.\n"
        f"`undercroft replication quarantine read {entry}` shows it.",
        values,
    )
    answer = client_from(values).call("DELETE", f"{QUARANTINE}/{entry}", accept=(404,))
    if answer.status == 404:
        raise _missing(entry)
    return show_done(answer.body, f"{entry} is dropped.", values.format)


def _missing(entry: str) -> RemoteError:
    return RemoteError(
        f"there is no {entry} in quarantine",
        hint="`undercroft replication quarantine list` shows what there is",
        status=404,
    )
