"""`read`, `write`, `list` and `delete`: any path of the API."""

import argparse
from typing import Any

from undercroft.cli import jsontext
from undercroft.cli.client import Answer, client_from
from undercroft.cli.data import parse_data, parse_query
from undercroft.cli.failure import OK, REMOTE, RemoteError, UsageError
from undercroft.cli.output import column, show_secret


def read(values: argparse.Namespace) -> int:
    path, *words = values.arguments
    query = parse_query(words)
    answer = client_from(values).call("GET", _clean(path), query=query, accept=(404,))
    body = _found(answer)
    if body is None:
        raise RemoteError(f"there is nothing at {path}", status=404)
    return show_secret(body, values.format, values.field)


def write(values: argparse.Namespace) -> int:
    path, *words = values.arguments
    if not words and not values.force:
        raise UsageError("there is no data to write", hint="-force writes without")
    answer = client_from(values).call("PUT", _clean(path), parse_data(words) if words else None)
    return _show(answer, values, f"Success! Data written to: {path}")


def list_path(values: argparse.Namespace) -> int:
    (path,) = values.arguments
    answer = client_from(values).call(
        "GET", _clean(path) + "/", query={"list": "true"}, accept=(404,)
    )
    body = _found(answer) or {}
    keys = (body.get("data") or {}).get("keys") or []
    if values.format == "json":
        print(jsontext.encode(keys or {}))
        return OK if keys else REMOTE
    if not keys:
        raise RemoteError(f"there is nothing at {path}", status=404)
    print(column("Keys", [str(key) for key in keys]))
    return OK


def delete(values: argparse.Namespace) -> int:
    path, *words = values.arguments
    answer = client_from(values).call("DELETE", _clean(path), query=parse_query(words))
    return _show(answer, values, f"Success! Data deleted (if it existed) at: {path}")


def _clean(path: str) -> str:
    """Without slashes around it."""
    path = path.strip().strip("/")
    if not path:
        raise UsageError("the path is empty")
    return path


def _found(answer: Answer) -> dict[str, Any] | None:
    """The envelope; a 404 may have one too (convention 05), which tells more than the status."""
    body = answer.body
    if not isinstance(body, dict):
        return None
    if answer.status == 404 and not (body.get("data") or body.get("warnings")):
        if answer.errors:
            raise RemoteError(f"the server answers 404: {'; '.join(answer.errors)}", status=404)
        return None
    return body


def _show(answer: Answer, values: argparse.Namespace, done: str) -> int:
    if isinstance(answer.body, dict):
        return show_secret(answer.body, values.format, values.field)
    if values.field is not None:
        raise RemoteError("the answer is empty")
    if values.format != "json":
        print(done)
    return OK
