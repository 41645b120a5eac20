"""What is asked of a secondary: to become one, to take over, to follow another primary."""

import argparse
import time
from typing import Any, Final

from undercroft.cli.client import Answer, Client, client_from
from undercroft.cli.failure import OK, RemoteError, UsageError
from undercroft.cli.output import show_done, show_secret
from undercroft.cli.prompt import argument_or_secret, confirm
from undercroft.cli.replication import words
from undercroft.cli.replication.members import members
from undercroft.cli.replication.requests import (
    SECONDARY,
    certificates,
    envelope,
    fetch_status,
    private_key,
)
from undercroft.cli.replication.waiting import Teller, until_primary, until_streaming
from undercroft.durations import parse_seconds
from undercroft.errors import InvalidRequest

_TIMEOUT_SECONDS: Final = 60.0
_PAUSE_SECONDS_MIN: Final = 0.05  # a server that says "at once" is not to be flooded


def generate_public_key(values: argparse.Namespace) -> int:
    answer = client_from(values).call("POST", f"{SECONDARY}/generate-public-key", {})
    return show_secret(envelope(answer), values.format, values.field)


def enable(values: argparse.Namespace) -> int:
    client, trust = client_from(values), _trust(values)
    confirm(
        f"All data of {client.address} is wiped and replaced by a copy of the primary's: "
        "secrets, mounts, policies, users. Every token and lease of it ends, the one used now "
        "too. Until the copy is complete it answers nothing but its status. Its seal and its "
        "unseal (or recovery) keys stay as they are.",
        values,
    )
    token = argument_or_secret("Activation token", values)
    if not token:
        raise UsageError("the activation token is empty")
    answer = client.call("POST", f"{SECONDARY}/enable", {"token": token, **trust})
    show_done(answer.body, "This cluster is being set up as a secondary.", values.format)
    if _waits(values):
        until_streaming(client)
        if values.format != "json":
            print("Success! This cluster is a secondary and follows the log of its primary.")
    return OK


def promote(values: argparse.Namespace) -> int:
    client = client_from(values)
    deadline = time.monotonic() + _timeout(values)
    if not values.yes:
        confirm(_promotion(client, force=values.force), values)
        deadline = time.monotonic() + _timeout(values)  # thinking it over does not count
    body: dict[str, Any] = {"force": True} if values.force else {}
    if values.primary_cluster_addr:
        body["primary_cluster_addr"] = values.primary_cluster_addr
    answer = _promoted(client, body, deadline if _waits(values) else None)
    show_done(answer.body, "This cluster is being promoted.", values.format)
    if _waits(values):
        until_primary(client, deadline)
        if values.format != "json":
            print("Success! This cluster is the primary.")
    return OK


def _promoted(client: Client, body: dict[str, Any], deadline: float | None) -> Answer:
    """Asked again while the server says that nothing happened and when to come back."""
    teller = Teller()
    try:
        while True:
            try:
                return client.call("POST", f"{SECONDARY}/promote", body)
            except RemoteError as error:
                pause = error.retry_after_seconds
                if error.status != 503 or pause is None or deadline is None:
                    raise
                if time.monotonic() + pause > deadline:
                    error.hint += "\ntried until -timeout; -force goes ahead, and may lose data"
                    raise
                teller.tell(f"not yet: {error.text}; trying again", kind=error.text)
                time.sleep(max(pause, _PAUSE_SECONDS_MIN))
    finally:
        teller.done()


def _promotion(client: Client, *, force: bool) -> str:
    status = fetch_status(client)
    if not status.get("secondary_id"):
        told = (
            f"{client.address} becomes a primary of its own. It follows nobody now, so no other "
            "cluster is told or stopped: if one is still primary, there are two, and what one of "
            "them writes will be set aside later."
        )
    elif status.get("connection_state") == "ready":
        told = (
            f"{client.address} takes over: the present primary stops taking writes and is fenced, "
            "its last records arrive, and a new epoch begins here."
        )
    else:
        told = (
            f"{client.address} takes over although the present primary is out of reach. Writes "
            "that have not arrived here are missing from now on; they are set aside when the old "
            "primary comes back, which is then fenced."
        )
    for this in members(status)[:1]:
        told += f"\nIt is behind by: {words.lag(this.lag_records, this.lag_ms)}."
    if force:
        told += "\nWith -force it goes ahead even if data is known to be missing."
    return told


def update_primary(values: argparse.Namespace) -> int:
    addresses = [part.strip() for part in (values.addrs or "").split(",") if part.strip()]
    if addresses and values.arguments:
        raise UsageError("give either a token or -addrs")
    if not addresses and not values.arguments:
        raise UsageError(
            "what to follow is missing",
            hint='TOKEN: another primary\n-: the same, read from standard input\n"": no primary\n'
            "-addrs=…: the same primary at another address",
        )
    trust = _trust(values)
    if addresses:
        body: dict[str, Any] = {"update_primary_addrs": addresses}
        done = "This cluster follows its primary at another address."
    else:
        token = argument_or_secret("Activation token", values)
        if not token and values.arguments[0]:
            raise UsageError("the activation token is empty", hint='"" follows no primary')
        body = {"token": token, **trust}
        done = "This cluster follows another primary."
        if not token:
            done = "This cluster is detached: it follows no primary."
    answer = client_from(values).call("POST", f"{SECONDARY}/update-primary", body)
    return show_done(answer.body, done, values.format)


def _trust(values: argparse.Namespace) -> dict[str, str]:
    body = {"primary_api_addr": values.primary_api_addr} if values.primary_api_addr else {}
    if values.ca_file:
        body["ca_cert"] = certificates(values.ca_file, "-ca-file")
    if bool(values.primary_client_cert) != bool(values.primary_client_key):
        raise UsageError("-primary-client-cert and -primary-client-key go together")
    if values.primary_client_cert:
        chain = certificates(values.primary_client_cert, "-primary-client-cert")
        body["client_cert_pem"] = chain
        body["client_key_pem"] = private_key(values.primary_client_key, "-primary-client-key")
    return body


def _waits(values: argparse.Namespace) -> bool:
    return bool(values.wait and not values.no_wait)


def _timeout(values: argparse.Namespace) -> float:
    if values.timeout is None:
        return _TIMEOUT_SECONDS
    try:
        seconds = parse_seconds(values.timeout, "-timeout")
    except InvalidRequest as error:
        raise UsageError(str(error)) from None
    if seconds <= 0:
        raise UsageError("-timeout must be more than nothing")
    return seconds
