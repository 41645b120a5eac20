"""The status in plain words: role, connection, lag, and every secondary in a row."""

import argparse
from collections.abc import Mapping
from typing import Any

from undercroft.cli import jsontext
from undercroft.cli.client import client_from
from undercroft.cli.failure import OK, RemoteError
from undercroft.cli.output import go_text, grid, table
from undercroft.cli.replication import words
from undercroft.cli.replication.members import Member, members, number
from undercroft.cli.replication.requests import STATUS_OF_BOTH

_TITLES = (("Performance replication", "performance"), ("Disaster-recovery replication", "dr"))


def status(values: argparse.Namespace) -> int:
    """Both types. Needs no token, and sends none."""
    body = client_from(values, with_token=False).call("GET", STATUS_OF_BOTH).body
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        raise RemoteError("the server's answer holds no replication status")
    if values.format == "json":
        print(jsontext.encode(data))
        return OK
    print("\n\n".join(_shown(title, data.get(name) or {}) for title, name in _TITLES))
    return OK


def _shown(title: str, of: Mapping[str, Any]) -> str:
    text = table([(title, ""), *status_rows(of)], ())
    secondaries = members(of)[1:] if of.get("mode") == "primary" else []
    if secondaries:
        text += "\n\n" + grid(
            ("Secondary", "State", "Lag", "Position"), map(_secondary_row, secondaries)
        )
    return text


def _secondary_row(member: Member) -> tuple[str, ...]:
    lag = words.lag(member.lag_records, member.lag_ms)
    return (member.id, words.state(member.state), lag, words.count(member.position))


def status_rows(of: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of one type; only what there is."""
    mode = str(of.get("mode") or "disabled")
    rows = [("Role", _role(mode, of))]
    if mode not in ("primary", "secondary", "bootstrapping"):
        return rows
    rows.append(("Replication Set", str(of.get("cluster_id") or words.UNKNOWN)))
    rows += [("Epoch", go_text(of["epoch"]))] if "epoch" in of else []
    rows.append(("State", words.state(str(of.get("state") or "unknown"))))
    rows += [("Reason", str(of["state_reason"]))] if of.get("state_reason") else []
    rows += [("Since", str(of["state_since"]))] if of.get("state_since") else []
    rows += _of_primary(of) if mode == "primary" else _of_secondary(of)
    quarantined = number(of.get("quarantined_records"))
    if quarantined is not None:
        rows.append(("Quarantined", _quarantined(quarantined)))
    if of.get("corrupted_merkle_tree"):
        rows.append(("Digest Tree", "found inconsistent by the last check"))
    return rows


def _role(mode: str, of: Mapping[str, Any]) -> str:
    if mode == "primary" and of.get("fenced"):
        return "primary, fenced: a newer epoch began elsewhere, so it takes no writes"
    if mode == "secondary" and not of.get("secondary_id"):
        return "secondary, detached: it follows no primary"
    return words.role(mode)


def _of_primary(of: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("Position", words.count(number(of.get("last_performance_wal"))))]
    address = of.get("primary_cluster_addr")
    return rows + ([("Advertised Address", str(address))] if address else [])


def _of_secondary(of: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("Secondary ID", str(of["secondary_id"]))] if of.get("secondary_id") else []
    rows.append(("Connection", words.connection(str(of.get("connection_state") or "unknown"))))
    addresses = [str(peer.get("api_address") or "") for peer in of.get("primaries") or ()]
    known = [address for address in addresses if address] or of.get("known_primary_cluster_addrs")
    rows += [("Primary", ", ".join(map(str, known)))] if known else []
    rows.append(("Position", words.count(number(of.get("last_remote_wal")))))
    (this, *_) = members(of)
    rows.append(("Lag", words.lag(this.lag_records, this.lag_ms)))
    return rows + ([("Progress", words.progress(this.progress))] if this.progress else [])


def _quarantined(count: int) -> str:
    if count == 0:
        return "nothing"
    return f"{words.lag(count, None)}: see `undercroft replication quarantine list`"
