"""The primary's endpoints."""

import re
from typing import Any, Final

from undercroft.engines.base import Call
from undercroft.errors import InvalidRequest
from undercroft.replication import activation, authority, membership
from undercroft.replication.activation import Grant
from undercroft.replication.joining import data_of
from undercroft.replication.role import PERFORMANCE, PRIMARY, Credentials, read_role
from undercroft.replication.serving import host_port
from undercroft.request.model import Response
from undercroft.request.wrapping import wrap
from undercroft.storage.view import Transaction

_SCHEME: Final = "https://"
_FORM: Final = "{} must have the form https://host:port"
_ADDRESS: Final = re.compile(
    r"(?:https://)?(\w[\w.-]*|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]):(\d{1,5})/?", re.ASCII
)
BECOMES_PRIMARY: Final = (
    "This cluster is being enabled as a primary for replication. It will be unavailable for a "
    "brief period and will resume service shortly."
)
_ADDRESS_CHANGED: Final = (
    "Only the advertised cluster address has changed; secondaries learn it with the next heartbeat."
)
_DEMOTED: Final = (
    "This cluster is being demoted to a replication secondary. It will be unavailable for a brief "
    "period and will resume service shortly. It follows no primary until update-primary is called."
)
_DISABLED: Final = (
    "Replication is being disabled on this cluster. It will be unavailable for a brief period and "
    "will resume service shortly."
)


def transaction(call: Call) -> Transaction:
    """Handlers that change the role run in the writer."""
    assert isinstance(call.view, Transaction), "declared as writing"
    return call.view


def cluster_address(call: Call) -> str:
    """`https://host:port` or nothing. Raises InvalidRequest."""
    text = str(call.get("primary_cluster_addr") or "")
    if not text:
        return ""
    if not text.startswith(_SCHEME):
        raise InvalidRequest(_FORM.format("primary_cluster_addr"))
    return _SCHEME + host_and_port(text, "primary_cluster_addr")


def host_and_port(address: str, name: str) -> str:
    """Of `https://host:port` or `host:port`, nothing else about it. Raises InvalidRequest."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise InvalidRequest(_FORM.format(name))
    return found[1] + ":" + found[2]


def enable(call: Call) -> Response:
    tx = transaction(call)
    address = cluster_address(call)
    if not call.services.has_cluster_port:
        raise InvalidRequest(
            "the cluster port of this node could not be opened when it was started",
            hint="set cluster_address of a listener to a free port and restart",
        )
    was_primary = read_role(tx).mode == PRIMARY
    membership.enable_primary(tx, address, call.now_ms)
    return Response(status=200).warn(_ADDRESS_CHANGED if was_primary else BECOMES_PRIMARY)


def demote(call: Call) -> Response:
    """Answers the last place of the shared log: what a successor must have."""
    tx = transaction(call)
    last_wal = membership.demote(tx, call.now_ms)
    _end_unused_tokens(call, tx)
    return Response({"last_wal": last_wal}).warn(_DEMOTED)


def _end_unused_tokens(call: Call, tx: Transaction) -> None:
    """What they wrap lets nobody in any more: the authority is gone, or will be at promotion."""
    for secondary in activation.known(tx):
        if secondary.wrapping_accessor:
            call.services.tokens.revoke(tx, secondary.wrapping_accessor)


def disable(call: Call) -> Response:
    tx = transaction(call)
    known = [secondary.id for secondary in activation.known(tx)]
    _end_unused_tokens(call, tx)
    connected = [peer.id for peer in call.services.replication.peers if peer.connected]
    membership.disable(tx, call.now_ms, PRIMARY)
    response = Response(status=200).warn(_DISABLED)
    if known:
        listed = ", ".join(connected) or "none"
        response.warn(
            "Every former secondary needs a new activation, which wipes it, to follow a primary "
            f"again. Connected now: {listed}. Known: {', '.join(known)}."
        )
    return response


def secondary_token(call: Call) -> Response:
    """An activation token, wrapped, or sealed for the secondary's public key."""
    tx, now_ms = transaction(call), call.now_ms
    role = membership.writing_primary(tx)
    ttl = call.get("ttl")
    ttl_seconds = activation.TTL_SECONDS if ttl is None else int(ttl)
    made = activation.register(
        tx,
        str(call.get("id") or ""),
        ttl_seconds=ttl_seconds,
        now_ms=now_ms,
        promotable=bool(call.get("promotable", True)),
        forward_root=bool(call.get("forward_root", False)),
        ceiling=tuple(call.get("policy_ceiling") or ()),
    )
    own = authority.read_authority(tx)
    assert own is not None, "a primary has an authority"
    key, public = authority.new_key()
    named = authority.Named(made.id, made.ticket)
    state = call.services.state
    address = host_port(role.primary_cluster_addr or state.cluster_addr)
    grant = Grant(
        PERFORMANCE,
        role.set_id,
        made.id,
        Credentials(authority.issue_client(own, named, public, now_ms), key, own.certificate),
        (address,) if address else (),
        state.api_addr,
        made.expires_ms,
    )
    call.request.wrap_ttl_seconds = None  # the token's own TTL rules, whatever the header says
    public_key = str(call.get("secondary_public_key") or "")
    if public_key:
        return Response({"token": activation.seal_for(public_key, grant)})
    info = wrap(
        tx,
        Response(data=data_of(grant)),
        tokens=call.services.tokens,
        ttl_seconds=ttl_seconds,
        creation_path=call.request.path,
        now_ms=now_ms,
        form="jwt",
        address=state.api_addr,
        claims={"ca": authority.fingerprint(own.certificate), "rtype": PERFORMANCE},
    )
    activation.write(tx, activation.with_wrapping(made, info.accessor))
    info.wrapped_accessor = ""  # shown, as on the founding page, although nothing is wrapped in it
    return Response(wrap_info=info)


def revoke_secondary(call: Call) -> Response:
    """At once, for good; a fence by this secondary, or a handover to it, is lifted."""
    tx = transaction(call)
    secondary_id = str(call.get("id") or "")
    if not secondary_id:
        raise InvalidRequest("missing id")
    revoked = membership.revoke(tx, secondary_id, call.now_ms)
    if revoked.wrapping_accessor:
        call.services.tokens.revoke(tx, revoked.wrapping_accessor)
    return Response(status=200).warn(
        f"The secondary '{secondary_id}' is disconnected and cannot connect again without a new "
        "activation token."
    )


def known_ids(call: Call) -> list[str]:
    return [secondary.id for secondary in activation.known(call.view)]


def token_states(call: Call) -> dict[str, Any]:
    return {s.id: s.state_at(call.now_ms) for s in activation.known(call.view)}
