"""The secondary's endpoints.

What needs the network happens in `prepare`, in a thread of the worker; the transaction that follows
checks the role again. So a token that is not good, or a primary out of reach, changes nothing.
"""

import time
from typing import Any, Final

import msgspec

from undercroft.engines.base import Call
from undercroft.engines.system.replication.primary import (
    cluster_address,
    host_and_port,
    transaction,
)
from undercroft.errors import InvalidRequest, Unavailable
from undercroft.replication import activation, membership, moves
from undercroft.replication.control import HAND_OVER, Question
from undercroft.replication.joining import Joined, first_that_answers, join
from undercroft.replication.primary_api import Trust
from undercroft.replication.role import (
    BOOTSTRAPPING,
    DISABLED,
    PRIMARY,
    SECONDARY,
    Role,
    Upstream,
    read_role,
)
from undercroft.replication.serving import host_port
from undercroft.request.model import Response

_COPYING: Final = (
    "This cluster is being set up as a replication secondary: its data is replaced by the "
    "primary's once a copy is complete. That may take long, and until then it answers nothing but "
    "its status."
)
_KEYS_STAY: Final = (
    "Tokens and leases of this cluster end with the switch. Its unseal (or recovery) key shares "
    "stay as they are: they are not replaced by the primary's."
)
_PROMOTED: Final = (
    "This cluster is being promoted to a replication primary. It will be unavailable for a brief "
    "period and will resume service shortly."
)
_CHANGED: Final = (
    "This cluster follows another primary now. Data that differs is worked out and fetched."
)
_DETACHED: Final = "This cluster follows no primary now, until update-primary is called again."
_LEFT: Final = "This cluster has left replication and keeps its copy of the data."
_CANCELLED: Final = "The set-up of the secondary was given up: this cluster is as it was before."
_HAND_OVER_SECONDS: Final = 10.0


def generate_public_key(call: Call) -> Response:
    tx = transaction(call)
    role = read_role(tx)
    if role.mode == PRIMARY:
        raise membership.wrong_role(role, SECONDARY)
    return Response({"secondary_public_key": activation.make_pending_key(tx)})


def _trust(call: Call) -> Trust:
    names = Trust.__struct_fields__
    return Trust(**{name: str(call.get(name) or "") for name in names})


def _join(call: Call) -> Joined:
    return join(
        call.view,
        str(call.get("token") or ""),
        str(call.get("primary_api_addr") or ""),
        _trust(call),
        own_id=call.services.state.cluster_id,
        own_addr=host_port(call.services.state.cluster_addr),
        now_ms=call.now_ms,
    )


def _upstream(joined: Joined) -> Upstream:
    grant = joined.grant
    return Upstream(grant.secondary_id, grant.credentials, grant.addresses, grant.api_addr)


def _prepared(call: Call) -> Joined:
    return msgspec.convert(call.prepared, Joined)


def prepare_enable(call: Call) -> Joined:
    role = read_role(call.view)
    if role.mode != DISABLED:
        raise membership.wrong_role(role, DISABLED)
    return _join(call)


def enable(call: Call) -> Response:
    tx, joined = transaction(call), _prepared(call)
    membership.begin_copy(tx, _upstream(joined), joined.grant.set_id, call.now_ms)
    if joined.sealed:
        activation.forget_pending_key(tx)
    return Response(status=200).warn(_COPYING).warn(_KEYS_STAY)


def disable(call: Call) -> Response:
    tx = transaction(call)
    if read_role(tx).mode == BOOTSTRAPPING:
        membership.cancel_copy(tx, call.now_ms)
        return Response(status=200).warn(_CANCELLED)
    membership.disable(tx, call.now_ms, SECONDARY)
    return Response(status=200).warn(_LEFT)


# promote


class Prepared(msgspec.Struct):
    """What the primary said to a promotion: `detached`, `ready`, `unreachable` or `refused`."""

    result: str
    seq: int = 0
    missing: int = 0
    reason: str = ""
    authority: bytes = b""  # of the primary that was asked
    asked_s: float = 0.0  # on the clock that all processes of a machine share


def prepare_promote(call: Call) -> Prepared:
    role = read_role(call.view)
    force = bool(call.get("force"))
    cluster_address(call)
    _check_promotable(role, force)
    if role.upstream is None:
        return Prepared("detached")
    status = call.services.replication
    ask = call.services.ask_replicator
    assert ask is not None, "a node has a replicator"
    reply = ask(Question(HAND_OVER, _HAND_OVER_SECONDS))
    if reply.result == "refused" and not force:
        raise Unavailable(
            f"the primary did not hand over: {reply.reason}; nothing has changed",
            hint="try again, or go ahead with force=true",
        )
    missing = max(0, status.primary_position.seq - status.position.seq)
    asked = role.upstream.credentials.authority
    return Prepared(reply.result, reply.seq, missing, reply.reason, asked, time.monotonic())


def _check_promotable(role: Role, force: bool) -> None:
    if role.mode != SECONDARY:
        raise membership.wrong_role(role, SECONDARY)
    moves.check_promotable(role, force=force)


def promote(call: Call) -> Response:
    tx, force = transaction(call), bool(call.get("force"))
    prepared = msgspec.convert(call.prepared, Prepared)
    role = read_role(tx)
    _check_promotable(role, force)
    asked = role.upstream.credentials.authority if role.upstream else b""
    if asked != prepared.authority:
        raise Unavailable("the primary was changed meanwhile; nothing else has changed")
    if prepared.result == "ready" and not force:
        if tx.shared.seq < prepared.seq:
            raise Unavailable("the primary's last records have not arrived; nothing has changed")
        if time.monotonic() - prepared.asked_s > _HAND_OVER_SECONDS:
            raise Unavailable("the primary's grant is too old by now; nothing has changed")
    state = call.services.state
    lineage = membership.promote(
        tx,
        primary_cluster_addr=cluster_address(call),
        api_addr=state.api_addr,
        cluster_addr=state.cluster_addr,
        announce=prepared.result != "detached",
        now_ms=call.now_ms,
    )
    response = Response(status=200).warn(_PROMOTED)
    if prepared.result in ("unreachable", "refused"):
        response.warn(
            f"The primary could not be stopped ({prepared.reason or 'not connected'}). Applied "
            f"here: {tx.shared.seq} records of its log; known to be missing: {prepared.missing}. "
            f"It is told that epoch {lineage.current.number} has begun once it can be reached."
        )
    return response


# update-primary


class Change(msgspec.Struct):
    """What update-primary is to do: one of the three."""

    joined: Joined | None = None
    address: str = ""
    detach: bool = False


def prepare_update(call: Call) -> Change:
    role = read_role(call.view)
    if role.mode != SECONDARY:
        raise membership.wrong_role(role, SECONDARY)
    token, addresses = str(call.get("token") or ""), list(call.get("update_primary_addrs") or ())
    if token and addresses:
        raise InvalidRequest("give either token or update_primary_addrs")
    if addresses:
        if role.upstream is None:
            raise InvalidRequest(
                "this secondary is detached and holds no credentials: a token is needed"
            )
        found = first_that_answers(
            [host_and_port(address, "update_primary_addrs") for address in addresses],
            role.upstream.credentials,
            role.set_id,
            call.services.state.cluster_id,
        )
        return Change(address=found)
    if not token:
        return Change(detach=True)
    joined = _join(call)
    if joined.grant.set_id != role.set_id:
        raise InvalidRequest(
            f"the token is of another replication set: cluster_id {joined.grant.set_id} instead of "
            f"{role.set_id}",
            hint="only secondary/disable and secondary/enable (which wipes) lead there",
        )
    return Change(joined)


def update_primary(call: Call) -> Response:
    tx = transaction(call)
    change: Any = msgspec.convert(call.prepared, Change)
    role = read_role(tx)
    if change.detach:
        membership.change_primary(tx, None, call.now_ms)
        return Response(status=200).warn(_DETACHED)
    if change.joined is not None:
        membership.change_primary(tx, _upstream(change.joined), call.now_ms)
        if change.joined.sealed:
            activation.forget_pending_key(tx)
    else:
        if role.upstream is None:
            raise InvalidRequest("this secondary is detached: a token is needed")
        moved = msgspec.structs.replace(role.upstream, addresses=(change.address,))
        membership.change_primary(tx, moved, call.now_ms)
    return Response(status=200).warn(_CHANGED)
