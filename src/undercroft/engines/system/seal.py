"""sys/init, sys/unseal, sys/seal, rotation and root generation over HTTP.

All of these run in the writer, which holds the seal; only `seal-status` and the question whether
the server is initialised are answered where they arrive. The oldest endpoints have no envelope.
"""

from base64 import b64encode
from functools import lru_cache
from typing import Any, Final

import msgspec

from undercroft import __version__
from undercroft.barrier.root_generation import RootGeneration
from undercroft.barrier.seal import SealManager, parse_share
from undercroft.durations import rfc3339
from undercroft.engines.base import Call, Field, Handler, Kind, Route, reads, writes
from undercroft.errors import InvalidRequest, UnsupportedOperation
from undercroft.node.state import CLUSTER_KEY, Cluster, NodeState
from undercroft.request.model import NOTHING, Operation, RawBody, Response
from undercroft.storage.view import Transaction


def bare(body: dict[str, Any], status: int = 200) -> Response:
    """An answer without the envelope."""
    text = msgspec.json.encode(body) + b"\n"
    return Response(raw=RawBody(status, "application/json", text))


def _seal(call: Call) -> tuple[SealManager, Transaction]:
    assert call.services.seal is not None, "runs in the writer"
    assert isinstance(call.view, Transaction)
    return call.services.seal, call.view


# init


def _read_init(call: Call) -> Response:
    return bare({"initialized": call.services.state.initialized})


_NO_PGP: Final = ("pgp_keys", "root_token_pgp_key", "recovery_pgp_keys")


def _init(call: Call) -> Response:
    seal, tx = _seal(call)
    for name in _NO_PGP:
        if call.get(name):
            raise InvalidRequest(
                f"{name} is not supported", hint="shares and tokens are given out in clear, once"
            )
    if call.get("stored_shares"):
        raise InvalidRequest("stored_shares is not supported")
    made = seal.initialize(
        tx,
        shares=call.get("secret_shares", 0),
        threshold=call.get("secret_threshold", 0),
        recovery_shares=call.get("recovery_shares", 0),
        recovery_threshold=call.get("recovery_threshold", 0),
        now_ms=call.now_ms,
    )
    body: dict[str, Any] = {
        "keys": [share.hex() for share in made.shares],
        "keys_base64": [b64encode(share).decode() for share in made.shares],
        "root_token": made.root_token,
    }
    if made.recovery_shares:
        body["recovery_keys"] = [share.hex() for share in made.recovery_shares]
        body["recovery_keys_base64"] = [b64encode(s).decode() for s in made.recovery_shares]
    return bare(body)


# seal and unseal


def status_body(state: NodeState) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": state.seal_type,
        "initialized": state.initialized,
        "sealed": state.sealed,
        "t": state.threshold,
        "n": state.shares,
        "progress": state.unseal.progress,
        "nonce": state.unseal.nonce,
        "recovery_seal": state.recovery_seal,
        "version": __version__,
        "migration": state.migration,
        "storage_type": state.storage_type,
    }
    if not state.sealed:
        body |= {"cluster_name": state.cluster_name, "cluster_id": state.cluster_id}
    return body


def _status(call: Call) -> Response:
    return bare(status_body(call.services.state))


def _unseal(call: Call) -> Response:
    seal, tx = _seal(call)
    state = call.services.state
    if call.get("migrate"):
        raise InvalidRequest("seal migration is not supported")
    if call.get("reset"):
        seal.reset()
        tx.after_commit.append(seal.changed)
    elif not call.get("key"):
        raise InvalidRequest(
            "'key' must be specified in request body as JSON, or 'reset' set to true"
        )
    elif state.sealed and seal.unseal(tx, parse_share(call.get("key"))) is not None:
        cluster = tx.read(CLUSTER_KEY, Cluster)
        assert cluster is not None, "an initialised cluster has a name"
        state = msgspec.structs.replace(
            state, sealed=False, cluster_name=cluster.name, cluster_id=cluster.id
        )
    return bare(status_body(msgspec.structs.replace(state, unseal=seal.progress())))


def _seal_now(call: Call) -> Response:
    seal, tx = _seal(call)
    seal.seal(tx)
    return NOTHING


# rotation


def _key_status(call: Call) -> Response:
    seal, tx = _seal(call)
    term = seal.active_term()
    data = {
        "term": term.term,
        "install_time": rfc3339(term.installed_ms),
        "encryptions": seal.encryptions(tx),
    }
    return Response(data, repeat_data=True)


def _rotate(call: Call) -> Response:
    seal, tx = _seal(call)
    seal.rotate(tx, call.now_ms)
    return NOTHING


def _read_rotation(call: Call) -> Response:
    seal, tx = _seal(call)
    rotation = seal.rotation(tx)
    seconds = rotation.interval_seconds
    hours, rest = divmod(seconds, 3600)
    text = f"{hours}h{rest // 60}m{rest % 60}s"
    return Response(
        {
            "enabled": rotation.enabled,
            "interval": text if seconds else 0,
            "max_operations": rotation.max_operations,
        }
    )


def _write_rotation(call: Call) -> Response:
    seal, tx = _seal(call)
    names = {
        "enabled": "enabled",
        "max_operations": "max_operations",
        "interval": "interval_seconds",
    }
    seal.set_rotation(tx, {names[k]: v for k, v in call.fields.items() if k in names})
    return NOTHING


# root generation


@lru_cache(maxsize=4)
def _generation(seal: SealManager) -> RootGeneration:
    """The one attempt that may be going on; it lives as long as the seal that it belongs to."""
    return RootGeneration(seal)


def _allowed(call: Call) -> None:
    """SEAL-02: without a token only where the configuration says so."""
    if call.caller is None and (
        "generate-root" not in call.services.settings.enable_unauthenticated_access
    ):
        raise UnsupportedOperation("unsupported operation")


def _answer(call: Call, status: dict[str, Any]) -> Response:
    if call.caller is not None:
        return Response(status)
    old = {"nonce": "", "pgp_fingerprint": "", "encoded_token": "", "encoded_root_token": ""}
    status = old | status
    status["encoded_root_token"] = status["encoded_token"]
    return bare(status)


def _read_attempt(call: Call) -> Response:
    _allowed(call)
    seal, _ = _seal(call)
    return _answer(call, _generation(seal).status(call.services.state.threshold))


def _start_attempt(call: Call) -> Response:
    _allowed(call)
    seal, _ = _seal(call)
    if call.get("pgp_key"):
        raise InvalidRequest("pgp_key is not supported: the token is protected by a password")
    if call.get("otp"):
        raise InvalidRequest("otp is not taken: the server makes one")
    return _answer(call, _generation(seal).start(call.services.state.threshold))


def _cancel_attempt(call: Call) -> Response:
    _allowed(call)
    seal, _ = _seal(call)
    if call.caller is None and not call.get("nonce"):
        raise InvalidRequest("nonce is required to cancel an attempt without a token")
    _generation(seal).cancel(call.get("nonce", ""))
    return NOTHING


def _update_attempt(call: Call) -> Response:
    _allowed(call)
    seal, tx = _seal(call)
    if not call.get("key"):
        raise InvalidRequest("'key' must be specified in request body as JSON")
    status = _generation(seal).update(
        tx,
        parse_share(call.get("key")),
        call.get("nonce", ""),
        call.services.state.threshold,
        lambda: call.services.tokens.issue_root(tx, call.now_ms),
    )
    return _answer(call, status)


def _attempt_routes(prefix: str, *, is_open: bool) -> tuple[Route, ...]:
    read = Handler(_read_attempt, writes=True)
    cancel = Handler(_cancel_attempt, writes=True)
    return (
        Route(
            f"{prefix}/attempt",
            {Operation.READ: read, **writes(_start_attempt), Operation.DELETE: cancel},
            (
                Field("pgp_key", doc="Not supported."),
                Field("otp", doc="Not taken: the server makes one."),
                Field("nonce", doc="The attempt to cancel."),
            ),
            open=is_open,
            sudo=not is_open,
            summary="Start, show or cancel the generation of a root token.",
        ),
        Route(
            f"{prefix}/update",
            writes(_update_attempt),
            (Field("key", doc="One key share."), Field("nonce", doc="The attempt's nonce.")),
            open=is_open,
            sudo=not is_open,
            summary="Give one key share to the generation of a root token.",
        ),
    )


_INIT_FIELDS: Final = (
    Field("secret_shares", Kind.INT, "Number of key shares to make."),
    Field("secret_threshold", Kind.INT, "How many of them open the seal."),
    Field("recovery_shares", Kind.INT, "With an automatic seal: shares of the recovery key."),
    Field("recovery_threshold", Kind.INT, "How many of them prove a quorum."),
    Field("stored_shares", Kind.INT, "Not supported."),
    Field("pgp_keys", Kind.LIST, "Not supported."),
    Field("root_token_pgp_key", Kind.STRING, "Not supported."),
    Field("recovery_pgp_keys", Kind.LIST, "Not supported."),
)

ROUTES: Final = (
    Route(
        "init",
        {**reads(_read_init), **writes(_init)},
        _INIT_FIELDS,
        open=True,
        sealed=True,
        summary="Whether the server is initialised; make its keys.",
    ),
    Route(
        "seal-status",
        reads(_status),
        open=True,
        sealed=True,
        summary="Whether the server is sealed, and how far an unseal has come.",
    ),
    Route(
        "unseal",
        writes(_unseal),
        (
            Field("key", doc="One key share, hex or base64."),
            Field("reset", Kind.BOOL, "Forget the shares given so far."),
            Field("migrate", Kind.BOOL, "Not supported."),
        ),
        open=True,
        sealed=True,
        summary="Give one key share.",
    ),
    Route("seal", writes(_seal_now), sudo=True, summary="Drop every key from memory."),
    Route(
        "key-status",
        {Operation.READ: Handler(_key_status, writes=True)},
        summary="The active key term of the barrier.",
    ),
    Route("rotate", writes(_rotate), sudo=True, summary="Encrypt what follows with a new key."),
    Route(
        "rotate/keyring", writes(_rotate), sudo=True, summary="Encrypt what follows with a new key."
    ),
    Route(
        "rotate/config",
        {Operation.READ: Handler(_read_rotation, writes=True), **writes(_write_rotation)},
        (
            Field("enabled", Kind.BOOL, "Rotate automatically."),
            Field("max_operations", Kind.INT, "Encryptions after which to rotate."),
            Field("interval", Kind.DURATION, "Time after which to rotate, 0 for never."),
        ),
        summary="Automatic rotation of the barrier's key.",
    ),
    *_attempt_routes("generate-root-token", is_open=False),
    *_attempt_routes("generate-root", is_open=True),
)
