"""What must hold between settings; fills in what follows from others."""

import os
from typing import TYPE_CHECKING, Any

import msgspec

from undercroft.config.files import Place
from undercroft.config.report import Report
from undercroft.config.settings import (
    LEASE_TTL_SECONDS,
    REQUEST_SECONDS,
    AuditDevice,
    Listener,
    Origin,
    Seal,
    Settings,
)

if TYPE_CHECKING:
    from undercroft.config.load import Draft

_WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound to


def complete(draft: "Draft", origin: Origin) -> Settings:
    """The settings. Raises ConfigError for all that is missing or in contradiction."""
    report, values = draft.report, draft.values
    _lease_ttls(report, values, draft.places)
    _storage(report, draft)
    default_seconds = values.get("default_max_request_duration", REQUEST_SECONDS) or REQUEST_SECONDS
    listeners = tuple(
        _listener(report, listener, given, place, default_seconds)
        for listener, given, place in draft.listeners
    )
    if not listeners:
        report.problem("configuration", 'no listener: add listener "tcp" { address = … }')
    _ports(report, listeners, [place for _, _, place in draft.listeners])
    seal = _seal(report, draft.seals)
    audit = _audit(report, draft.audit)
    report.raise_problems()
    values = {**values, "listeners": listeners, "seal": seal, "audit": audit, "origin": origin}
    values["default_max_request_duration"] = default_seconds
    return Settings(**_with_addresses(report, values, listeners[0]))


def _storage(report: Report, draft: "Draft") -> None:
    storage, place = draft.values.get("storage"), draft.places.get("storage", "")
    if storage is None:
        report.problem("configuration", 'no storage: add storage "lmdb" { path = … }')
    elif storage.type == "lmdb" and not storage.path:
        report.problem(place, "storage needs a path")
    elif storage.type == "inmem":
        report.warn(place, 'storage "inmem" forgets everything when the server stops')


def _lease_ttls(report: Report, values: dict[str, Any], places: dict[str, Place | str]) -> None:
    """Neither longer than the other; one alone limits the default of the other."""
    for name in ("default_lease_ttl", "max_lease_ttl"):
        if values.get(name) == 0:
            del values[name]  # Vault: 0 is the default
    ttl, longest = values.get("default_lease_ttl"), values.get("max_lease_ttl")
    if ttl is None and longest is not None:
        values["default_lease_ttl"] = min(longest, LEASE_TTL_SECONDS)
    elif ttl is not None and ttl > (LEASE_TTL_SECONDS if longest is None else longest):
        report.problem(
            places.get("default_lease_ttl", "configuration"),
            "default_lease_ttl is longer than max_lease_ttl",
        )


# Listeners


def _listener(
    report: Report, listener: Listener, given: set[str], place: Place, default_seconds: float
) -> Listener:
    if not listener.tls_disable:
        _tls(report, listener, place)
    changes: dict[str, Any] = {}
    if "max_request_duration" not in given or not listener.max_request_duration:
        changes["max_request_duration"] = default_seconds
    if not listener.cluster_address:
        host, port = split_address(listener.address)
        if port == 65535:
            report.problem(place, "cluster_address must be given when address has the last port")
        changes["cluster_address"] = f"{host}:{port + 1 if port else 0}"
    return msgspec.structs.replace(listener, **changes)


def _tls(report: Report, listener: Listener, place: Place) -> None:
    names = ("tls_cert_file", "tls_key_file")
    missing = [name for name in names if not getattr(listener, name)]
    if missing:
        report.problem(
            place,
            f"listener needs {' and '.join(missing)} to serve TLS; "
            "tls_disable = true serves plain HTTP",
        )
    if listener.tls_min_version > listener.tls_max_version:
        report.problem(place, "tls_min_version is newer than tls_max_version")
    if listener.tls_require_and_verify_client_cert and not listener.tls_client_ca_file:
        report.problem(place, "tls_require_and_verify_client_cert needs tls_client_ca_file")
    if listener.tls_require_and_verify_client_cert and listener.tls_disable_client_certs:
        report.problem(
            place, "tls_require_and_verify_client_cert contradicts tls_disable_client_certs"
        )
    for name in (*names, "tls_client_ca_file"):
        path = getattr(listener, name)
        if path and not os.access(path, os.R_OK):
            report.problem(place, f"{name} names a file that cannot be read")


def split_address(address: str) -> tuple[str, int]:
    """Host (IPv6 in its brackets) and port of a converted address."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def _ports(report: Report, listeners: tuple[Listener, ...], places: list[Place]) -> None:
    """No two addresses of ours may want the same port of the same host."""
    taken: list[tuple[str, int, str]] = []
    cluster: set[str] = set()
    for listener, place in zip(listeners, places, strict=True):
        wanted = [("address", listener.address)]
        if listener.cluster_address not in cluster:  # listeners may share one
            wanted.append(("cluster_address", listener.cluster_address))
            cluster.add(listener.cluster_address)
        for name, address in wanted:
            host, port = split_address(address)
            for other_host, other_port, other in taken:
                if port and port == other_port and _overlap(host, other_host):
                    report.problem(place, f"{name} wants port {port}, which {other} has")
            taken.append((host, port, f"{name} at {place}"))


def _overlap(one: str, other: str) -> bool:
    return one == other or one in _WILDCARDS or other in _WILDCARDS


def _with_addresses(report: Report, values: dict[str, Any], first: Listener) -> dict[str, Any]:
    """`api_addr` and `cluster_addr` from the first listener, where clients could use it."""
    host, port = split_address(first.address)
    cluster_host, cluster_port = split_address(first.cluster_address)
    scheme = "http" if first.tls_disable else "https"
    guesses = {
        "api_addr": (host, port, scheme),
        "cluster_addr": (cluster_host, cluster_port, "https"),
    }
    for name, (where, number, with_scheme) in guesses.items():
        if values.get(name):
            continue
        if where in _WILDCARDS or not number:
            report.warn(
                "configuration",
                f"no {name}: other clusters and redirects need it, as the listener is a wildcard",
            )
            values[name] = ""
        else:
            values[name] = f"{with_scheme}://{where}:{number}"
    return values


# Seal and audit


def _seal(report: Report, seals: list[tuple[Seal, Place]]) -> Seal:
    if not seals:
        return Seal()
    seal, place = seals[-1]
    if len(seals) > 1:
        report.problem(place, "there may be one seal stanza")
    if seal.type == "shamir":
        return seal
    if not (seal.current_key and seal.current_key_id):
        report.problem(place, 'seal "static" needs current_key and current_key_id')
    if bool(seal.previous_key) != bool(seal.previous_key_id):
        report.problem(place, "previous_key and previous_key_id go together")
    if seal.previous_key_id and seal.previous_key_id == seal.current_key_id:
        report.problem(place, "previous_key_id must differ from current_key_id")
    return seal


def _audit(report: Report, devices: list[tuple[AuditDevice, Place]]) -> tuple[AuditDevice, ...]:
    paths: dict[str, Place] = {}
    for device, place in devices:
        if not device.file_path:
            report.problem(place, "audit needs file_path in its options")
        if device.path in paths:
            report.problem(place, f"audit has the name of the one at {paths[device.path]}")
        paths[device.path] = place
    return tuple(device for device, _ in devices)
