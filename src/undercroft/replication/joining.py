"""Joining a replication set, as far as the network goes: unwrap the token, try the cluster port.

Runs in a thread of a worker before anything is written, so whatever fails here has changed nothing.
Each failure says which step it was and what can be done.
"""

import socket
import ssl
import time
from typing import Any, Final

import msgspec

from undercroft.errors import InvalidRequest, Unavailable
from undercroft.replication import activation, authority
from undercroft.replication.activation import Grant
from undercroft.replication.primary_api import SECONDS, PrimaryApi, Trust, reason
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame, ProtocolError, Welcome
from undercroft.replication.role import Credentials
from undercroft.request.wrapping_jwt import is_signed_by
from undercroft.storage.view import Snapshot
from undercroft.storage.wal import START

_USED_UP: Final = "the token is used up by the attempt: revoke its id and make another"


class Joined(msgspec.Struct, frozen=True):
    """What `prepare` found, for the transaction that follows."""

    grant: Grant
    sealed: bool  # the token was sealed for our pending key, which is used up by it

    def __repr__(self) -> str:
        return f"<Joined {self.grant!r}>"


def join(
    view: Snapshot,
    token: str,
    api_addr: str,
    trust: Trust,
    *,
    own_id: str,
    own_addr: str,
    now_ms: int,
) -> Joined:
    """Use a token: its grant, once a session with the primary has stood. Raises InvalidRequest for
    a token that is not good, Unavailable for a primary that is out of reach.

    `own_addr`: host:port of this node's cluster port.
    """
    context = trust.context()
    if not token:
        raise InvalidRequest("missing token")
    sealed = activation.is_sealed(token)
    if sealed:
        grant = activation.open_sealed(view, token)
    else:
        grant = _unwrap(token, api_addr, context, now_ms)
    if grant.addresses == (own_addr,):
        raise _own()
    try:
        _check(grant.addresses, grant.credentials, grant.set_id, own_id)
    except Unavailable as error:
        if 0 < grant.expires_ms <= now_ms:
            raise activation.expired() from None
        if not sealed:
            error.hint = _USED_UP
        raise
    return Joined(grant, sealed)


def first_that_answers(
    addresses: list[str], credentials: Credentials, set_id: str, own_id: str
) -> str:
    """The first of some cluster addresses behind which the primary is. Raises Unavailable."""
    return _check(tuple(addresses), credentials, set_id, own_id)


def _check(addresses: tuple[str, ...], credentials: Credentials, set_id: str, own_id: str) -> str:
    failures = []
    for address in addresses:
        try:
            welcome = probe(address, credentials, set_id, own_id)
        except (OSError, ProtocolError) as error:
            failures.append(f"{address}: {reason(error)}")
            continue
        if welcome.cluster_id == own_id:
            raise _own()
        return address
    raise Unavailable("the primary's cluster port cannot be reached\n" + "\n".join(failures))


def _own() -> InvalidRequest:
    return InvalidRequest("the token is this cluster's own")


def _unwrap(token: str, api_addr: str, context: ssl.SSLContext, now_ms: int) -> Grant:
    claims = activation.parse_token(token)
    address = api_addr or claims.addr
    if not address:
        raise InvalidRequest(
            "the token does not say where the primary is", hint="give primary_api_addr"
        )
    api = PrimaryApi(address, context)
    status, body = api.ask("POST", "sys/wrapping/unwrap", token)
    if status != 200:
        if status == 400 and 0 < claims.exp <= now_ms // 1000:
            raise activation.expired()
        if status == 400 and not _is_signed(token, api):
            raise InvalidRequest(
                f"the token's signature is not of the primary at {address}: the token was altered, "
                "or is another primary's"
            )
        hint = ""
        if status == 400:
            hint = (
                "it may have been used before: if that was not you, it was intercepted; look at "
                "the primary's audit log and revoke the id"
            )
        raise InvalidRequest(
            f"error unwrapping secondary token at {address}: status {status}: {_errors(body)}",
            hint=hint,
        )
    try:
        data = msgspec.json.decode(body)["data"]
        grant = grant_of(data)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        raise InvalidRequest(
            "the token is a wrapping token, but of no activation of a secondary"
        ) from None
    if claims.ca and claims.ca != authority.fingerprint(grant.credentials.authority):
        raise InvalidRequest(
            "the primary's authority is not the one that the token names: it was tampered with"
        )
    return activation.check_grant(grant)


def _is_signed(token: str, api: PrimaryApi) -> bool:
    """Whether a token in JWT form is the primary's; a bare one, and doubt, count as yes."""
    if token.count(".") != 2:
        return True
    try:
        status, body = api.ask("GET", "sys/wrapping/pubkey")
        return status != 200 or is_signed_by(token, msgspec.json.decode(body)["data"])
    except (Unavailable, msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return True


def data_of(grant: Grant) -> dict[str, Any]:
    """A grant as the wrapped answer's `data`."""
    pem = ssl.DER_cert_to_PEM_cert
    return {
        "type": grant.type,
        "cluster_id": grant.set_id,
        "id": grant.secondary_id,
        "client_cert": pem(grant.credentials.certificate),
        "client_key": grant.credentials.key.hex(),
        "ca_cert": pem(grant.credentials.authority),
        "cluster_addrs": list(grant.addresses),
        "api_addr": grant.api_addr,
    }


def grant_of(data: Any) -> Grant:
    der = ssl.PEM_cert_to_DER_cert
    return Grant(
        data["type"],
        data["cluster_id"],
        data["id"],
        Credentials(
            der(data["client_cert"]), bytes.fromhex(data["client_key"]), der(data["ca_cert"])
        ),
        tuple(data["cluster_addrs"]),
        data["api_addr"],
    )


def _errors(body: bytes) -> str:
    try:
        return "; ".join(str(text) for text in msgspec.json.decode(body)["errors"])[:500]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return "an answer that is no error of a Vault"


# the cluster port


def probe(address: str, credentials: Credentials, set_id: str, own_id: str) -> Welcome:
    """The primary's Welcome. Raises OSError, ProtocolError, InvalidRequest for a refusal."""
    host, _, port = address.rpartition(":")
    context = authority.client_context(credentials)
    hello = frames.Hello(
        frames.VERSION_LOW,
        frames.VERSION_HIGH,
        frames.PROBE,
        "",
        own_id,
        None,
        START,
        0,
        partial=True,
    )
    deadline = time.monotonic() + SECONDS
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=authority.server_name(set_id)) as sock,
    ):
        if sock.selected_alpn_protocol() != frames.ALPN:
            raise ProtocolError("it is no cluster port")
        sock.sendall(frames.encode(hello))
        decoder = frames.Decoder()
        while time.monotonic() < deadline:
            data = sock.recv(1 << 16)
            if not data:
                raise ProtocolError("it hung up: the id may be revoked")
            for frame, _ in decoder.feed(data):
                return _welcome(frame)
    raise TimeoutError


def _welcome(frame: Frame) -> Welcome:
    if isinstance(frame, frames.Refuse):
        raise InvalidRequest(f"the primary refuses: {frame.text}")
    if not isinstance(frame, Welcome):
        raise ProtocolError("it does not greet")
    return frame
