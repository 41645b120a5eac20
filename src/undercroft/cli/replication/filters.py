"""Path filters: what a secondary may not have."""

import argparse
from typing import Any

from undercroft.cli import jsontext
from undercroft.cli.client import Client, client_from
from undercroft.cli.failure import OK, RemoteError, UsageError
from undercroft.cli.output import go_text, grid, show_done, show_secret
from undercroft.cli.prompt import confirm
from undercroft.cli.replication.requests import PRIMARY, checked_id, envelope, fetch_status


def list_all(values: argparse.Namespace) -> int:
    """Of every id that the primary knows. One made ahead of its token is not among them."""
    client = client_from(values)
    known = [str(known) for known in fetch_status(client).get("known_secondaries") or ()]
    found = {known_id: _filter(client, known_id) for known_id in known}
    if values.format == "json":
        print(
            jsontext.encode(
                {known: body["data"] if body else None for known, body in found.items()}
            )
        )
        return OK
    if not found:
        print("There are no secondaries.")
        return OK
    rows = []
    for known_id, body in found.items():
        data = body["data"] if body else {"mode": "everything", "paths": []}
        rows.append((known_id, go_text(data.get("mode")), " ".join(data.get("paths") or ())))
    print(grid(("Secondary", "Mode", "Paths"), rows))
    return OK


def read(values: argparse.Namespace) -> int:
    secondary_id = checked_id(values.arguments[0])
    body = _filter(client_from(values), secondary_id)
    if body is None:
        raise RemoteError(f"there is no filter for {secondary_id}: it has everything", status=404)
    return show_secret(body, values.format, values.field)


def _filter(client: Client, secondary_id: str) -> dict[str, Any] | None:
    answer = client.call("GET", _path(secondary_id), accept=(404,))
    if answer.status == 404:
        if answer.errors:
            raise RemoteError(f"the server answers 404: {'; '.join(answer.errors)}", status=404)
        return None
    body = envelope(answer)
    if not isinstance(body.get("data"), dict):
        raise RemoteError("the server's answer holds no filter")
    return body


def write(values: argparse.Namespace) -> int:
    secondary_id, *paths = values.arguments
    if not all(paths):
        raise UsageError("a path is empty")
    mode = values.mode or "allow"
    path = _path(checked_id(secondary_id))
    answer = client_from(values).call("POST", path, {"mode": mode, "paths": paths})
    what = "only these paths" if mode == "allow" else "everything but these paths"
    done = f"The secondary {secondary_id} gets {what}: {', '.join(paths)}"
    return show_done(answer.body, done, values.format)


def delete(values: argparse.Namespace) -> int:
    secondary_id, client = checked_id(values.arguments[0]), client_from(values)
    if not values.yes:
        confirm(_deletion(client, secondary_id), values)
    answer = client.call("DELETE", _path(secondary_id))
    return show_done(answer.body, f"The secondary {secondary_id} gets everything.", values.format)


def _deletion(client: Client, secondary_id: str) -> str:
    body = _filter(client, secondary_id)
    if body is None:
        return f"The secondary {secondary_id} has no filter: it gets everything already."
    paths, mode = ", ".join(map(str, body["data"].get("paths") or ())), body["data"].get("mode")
    now = f"nothing but {paths}" if mode == "allow" else f"everything but {paths}"
    return (
        f"The secondary {secondary_id} gets {now}. Without its filter all shared data goes there: "
        "what has been kept from it is copied at once, and may be read there. A filter made anew "
        "removes it there, but nobody forgets what was read."
    )


def _path(secondary_id: str) -> str:
    return f"{PRIMARY}/paths-filter/{checked_id(secondary_id)}"
