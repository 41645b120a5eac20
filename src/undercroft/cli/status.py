"""`undercroft status`: what anyone may know of a server, and exit code 2 while it is sealed."""

import argparse
from collections.abc import Mapping
from typing import Any

from undercroft.cli.client import client_from
from undercroft.cli.failure import LOCAL, OK, REMOTE, RemoteError
from undercroft.cli.output import go_text, show_object


def status(values: argparse.Namespace) -> int:
    try:
        answer = client_from(values, with_token=False).call("GET", "sys/seal-status")
    except RemoteError as error:
        error.code = LOCAL  # 2 is for sealed
        raise
    show_object(answer.body, seal_rows(answer.body), values.format)
    return REMOTE if answer.body.get("sealed") else OK


def seal_rows(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of a seal status, for `status` and `operator unseal`."""
    recovery = "Recovery " if body.get("recovery_seal") else ""
    rows = [("Seal Type", go_text(body.get("type")))]
    if recovery:
        rows.append(("Recovery Seal Type", "shamir"))
    rows += [
        ("Initialized", go_text(body.get("initialized"))),
        ("Sealed", go_text(body.get("sealed"))),
        (f"Total {recovery}Shares", go_text(body.get("n"))),
        ("Threshold", go_text(body.get("t"))),
    ]
    if body.get("sealed"):
        rows += [
            ("Unseal Progress", f"{go_text(body.get('progress'))}/{go_text(body.get('t'))}"),
            ("Unseal Nonce", body.get("nonce") or "n/a"),
        ]
    if body.get("migration"):
        rows.append(("Seal Migration in Progress", "true"))
    optional = {
        "Version": "version",
        "Build Date": "build_date",
        "Storage Type": "storage_type",
        "Cluster Name": "cluster_name",
        "Cluster ID": "cluster_id",
    }
    rows += [(title, go_text(body[name])) for title, name in optional.items() if body.get(name)]
    return [*rows, ("HA Enabled", go_text(body.get("ha_enabled", False)))]
