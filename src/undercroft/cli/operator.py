"""`undercroft operator`: initialise, unseal, seal, rotate."""

import argparse
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from undercroft.cli import jsontext
from undercroft.cli.client import client_from
from undercroft.cli.failure import OK, REMOTE, UsageError
from undercroft.cli.output import go_text, show_object, table
from undercroft.cli.prompt import argument_or_secret
from undercroft.cli.status import seal_rows

_SHARES_DEFAULT = 5
_THRESHOLD_DEFAULT = 3


def init(values: argparse.Namespace) -> int:
    client = client_from(values, with_token=False)
    if values.status:
        body = client.call("GET", "sys/init").body
        done = bool(body.get("initialized"))
        rows = [("Initialized", go_text(done))]
        show_object(body, rows, values.format)
        return OK if done else REMOTE
    asked = {
        name: number
        for name, text in {
            "secret_shares": values.key_shares,
            "secret_threshold": values.key_threshold,
            "recovery_shares": values.recovery_shares,
            "recovery_threshold": values.recovery_threshold,
        }.items()
        if (number := _number(name, text)) is not None
    }
    seal = client.call("GET", "sys/seal-status").body
    prefix = "recovery" if seal.get("recovery_seal") or seal.get("type") == "static" else "secret"
    asked.setdefault(f"{prefix}_shares", _SHARES_DEFAULT)
    asked.setdefault(f"{prefix}_threshold", min(_THRESHOLD_DEFAULT, asked[f"{prefix}_shares"]))
    body = client.call("PUT", "sys/init", asked).body
    if values.format == "json":
        print(jsontext.encode(_init_json(body, asked)))
    else:
        print(_init_text(body, asked))
    return OK


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{name.replace('_', ' ')} must be a number")
    return int(text)


def _init_json(body: Mapping[str, Any], asked: Mapping[str, int]) -> dict[str, Any]:
    """The form that `bao` and `vault` print, which scripts pick keys from."""
    return {
        "unseal_keys_b64": body.get("keys_base64") or [],
        "unseal_keys_hex": body.get("keys") or [],
        "unseal_shares": asked.get("secret_shares", 1),
        "unseal_threshold": asked.get("secret_threshold", 1),
        "recovery_keys_b64": body.get("recovery_keys_base64") or [],
        "recovery_keys_hex": body.get("recovery_keys") or [],
        "recovery_keys_shares": asked.get("recovery_shares", 0),
        "recovery_keys_threshold": asked.get("recovery_threshold", 0),
        "root_token": body.get("root_token"),
    }


def _init_text(body: Mapping[str, Any], asked: Mapping[str, int]) -> str:
    lines = []
    for title, name in (("Unseal", "keys_base64"), ("Recovery", "recovery_keys_base64")):
        keys = body.get(name) or []
        lines += [f"{title} Key {number}: {key}" for number, key in enumerate(keys, 1)]
    lines += ["", f"Initial Root Token: {body.get('root_token')}", ""]
    if body.get("keys_base64"):
        quorum, count = asked.get("secret_threshold", 1), asked.get("secret_shares", 1)
        lines += [
            f"The server is initialised. Any {quorum} of these {count} keys unseal it; with fewer",
            "nobody can ever read its data again. They are shown this once: give each to another",
            "person, and keep the root token as safe as them.",
        ]
    else:
        lines += [
            "The server is initialised and unseals itself. The recovery keys, of which",
            f"{asked.get('recovery_threshold', 0)} are a quorum, are shown this once.",
        ]
    return "\n".join(lines)


def unseal(values: argparse.Namespace) -> int:
    client = client_from(values, with_token=False)
    body = {"reset": True} if values.reset else {"key": argument_or_secret("Unseal key", values)}
    answer = client.call("PUT", "sys/unseal", body)
    return show_object(answer.body, seal_rows(answer.body), values.format)


def seal(values: argparse.Namespace) -> int:
    client_from(values).call("PUT", "sys/seal")
    print("Success! The server is sealed.")
    return OK


def rotate(values: argparse.Namespace) -> int:
    client_from(values).call("PUT", "sys/rotate")
    if values.format != "json":
        print("Success! A new key term encrypts from now on.\n")
    return key_status(values)


def key_status(values: argparse.Namespace) -> int:
    body = client_from(values).call("GET", "sys/key-status").body
    status = {name: body.get(name) for name in ("term", "install_time", "encryptions")}
    if values.format == "json":
        print(jsontext.encode(status))
        return OK
    rows = [
        ("Key Term", go_text(status["term"])),
        ("Install Time", _time(str(status["install_time"]))),
        ("Encryption Count", go_text(status["encryptions"])),
    ]
    print(table(rows, ()))
    return OK


def _time(text: str) -> str:
    """`23 Nov 26 00:47 UTC`, as Go's RFC 822."""
    try:
        return datetime.fromisoformat(text[:19]).strftime("%d %b %y %H:%M UTC")
    except ValueError:
        return text
