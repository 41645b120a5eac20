"""What the handlers about the seal have in common."""

from typing import Final

import msgspec

from undercroft.barrier.seal import SealManager
from undercroft.engines.base import Call
from undercroft.errors import InvalidRequest, ReadOnly
from undercroft.request.model import RawBody, Response
from undercroft.storage.view import Transaction

_encode: Final = msgspec.json.Encoder().encode


def seal_of(call: Call) -> SealManager:
    """The writer has it; elsewhere the request moves one hop up."""
    if call.services.seal is None:
        raise ReadOnly
    return call.services.seal


def transaction_of(call: Call) -> Transaction:
    if not isinstance(call.view, Transaction):
        raise ReadOnly
    return call.view


def raw(body: object) -> Response:
    return Response(raw=RawBody(200, "application/json", _encode(body) + b"\n"))


def refuse_pgp(call: Call, *names: str) -> None:
    for name in names:
        if call.get(name):
            raise InvalidRequest(
                f"{name}: encryption to PGP keys is not supported",
                hint="take the keys over TLS, and encrypt them where you receive them",
            )
