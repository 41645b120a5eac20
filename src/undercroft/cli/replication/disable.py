"""Leaving replication: what that means depends on what the cluster is now."""

import argparse
from collections.abc import Mapping
from typing import Any, Final

from undercroft.cli.client import client_from
from undercroft.cli.failure import RemoteError, UsageError
from undercroft.cli.output import show_done
from undercroft.cli.prompt import confirm
from undercroft.cli.replication.members import connected_ids
from undercroft.cli.replication.requests import PRIMARY, SECONDARY, fetch_status

_PATHS: Final = {"primary": PRIMARY, "secondary": SECONDARY, "bootstrapping": SECONDARY}
_DONE: Final = {
    "primary": "The replication set has ended; this cluster stands alone.",
    "secondary": "This cluster has left the set and stands alone, with its copy of the data.",
    "bootstrapping": "The set-up of the secondary is given up.",
}


def disable(values: argparse.Namespace) -> int:
    asked = values.arguments[0] if values.arguments else ""
    if asked not in ("", "primary", "secondary"):
        raise UsageError("disable takes primary or secondary, or goes by what the cluster is")
    client = client_from(values)
    status = fetch_status(client)
    mode = str(status.get("mode"))
    if mode not in _PATHS:
        raise RemoteError(f"there is nothing to disable: replication is {mode} on this cluster")
    role = "primary" if mode == "primary" else "secondary"
    if asked not in ("", role):
        raise RemoteError(f"this cluster is no {asked} but a {role}; nothing was done")
    confirm(_consequences(mode, status, client.address), values)
    answer = client.call("POST", f"{_PATHS[mode]}/disable", {})
    return show_done(answer.body, _DONE[mode], values.format)


def _consequences(mode: str, status: Mapping[str, Any], address: str) -> str:
    if mode == "bootstrapping":
        return f"The copy being made at {address} is given up; the cluster is as it was before."
    if mode == "secondary":
        return (
            f"{address} leaves the set and stands alone with the data it has. To come back it must "
            "be enabled again, which wipes it. The primary goes on listing it until it is revoked "
            "there."
        )
    connected = ", ".join(connected_ids(status)) or "none"
    known = ", ".join(str(known) for known in status.get("known_secondaries") or ()) or "none"
    return (
        f"The whole replication set of {address} ends. Every secondary is cut off and must be "
        f"wiped to follow a primary again (connected: {connected}; known: {known}). Path filters "
        "and issued tokens are deleted. This cluster keeps its data."
    )
