"""What is asked of a primary: to be one, to let secondaries in and shut them out, to step down."""

import argparse
from collections.abc import Sequence
from typing import Any

from undercroft.cli.client import Client, client_from
from undercroft.cli.failure import UsageError
from undercroft.cli.output import show_done, show_secret
from undercroft.cli.prompt import confirm
from undercroft.cli.replication.members import connected_ids
from undercroft.cli.replication.requests import PRIMARY, checked_id, envelope, fetch_status


def enable(values: argparse.Namespace) -> int:
    address = values.primary_cluster_addr
    body = {"primary_cluster_addr": address} if address else {}
    answer = client_from(values).call("POST", f"{PRIMARY}/enable", body)
    done = "This cluster is a primary."
    if address:
        done += f" Secondaries are given the address {address}."
    return show_done(answer.body, done, values.format)


def secondary_token(values: argparse.Namespace) -> int:
    body: dict[str, Any] = {"id": checked_id(values.arguments[0])}
    if values.ttl:
        body["ttl"] = values.ttl
    if values.public_key:
        body["secondary_public_key"] = values.public_key
    if not values.promotable:
        body["promotable"] = False
    if values.forward_root:
        body["forward_root"] = True
    if values.policy_ceiling:
        body["policy_ceiling"] = _names(values.policy_ceiling)
    answer = client_from(values).call("POST", f"{PRIMARY}/secondary-token", body)
    return show_secret(envelope(answer), values.format, values.field)


def _names(given: Sequence[str]) -> list[str]:
    """An empty ceiling would be none at all."""
    names = [name.strip() for part in given for name in part.split(",")]
    if not all(names):
        raise UsageError("-policy-ceiling: a name is empty")
    return names


def demote(values: argparse.Namespace) -> int:
    client = client_from(values)
    if not values.yes:
        confirm(_demotion(client), values)
    answer = client.call("POST", f"{PRIMARY}/demote", {})
    done = "This cluster is a secondary and follows nobody. Promote another one now."
    return show_done(answer.body, done, values.format)


def _demotion(client: Client) -> str:
    connected = connected_ids(fetch_status(client))
    return (
        f"{client.address} stops taking writes to shared data, and so does the whole set, until "
        "a secondary is promoted. Its secondaries are disconnected "
        f"({', '.join(connected) or 'none is connected'}). It keeps its data."
    )


def revoke(values: argparse.Namespace) -> int:
    secondary_id = checked_id(values.arguments[0])
    confirm(
        f"The secondary {secondary_id} is disconnected at once and cannot come back without a new "
        "token. It goes on serving what it has, but takes no writes to shared data. Its path "
        "filter is forgotten. If it was this secondary that fenced the primary, the fence is "
        "lifted and its promotion overruled.",
        values,
    )
    answer = client_from(values).call("POST", f"{PRIMARY}/revoke-secondary", {"id": secondary_id})
    return show_done(answer.body, f"The secondary {secondary_id} is shut out.", values.format)
