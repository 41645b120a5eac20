"""sys/init, unseal, seal, seal-status, key-status, rotate and root generation, over HTTP.

What is decided is decided by `barrier/seal.py` in the writer; here are only Vault's paths and
shapes. Of these, init, seal-status, unseal and the old generate-root answer without the envelope.
"""

import base64
from typing import Any, Final

import msgspec

from undercroft import __version__
from undercroft.barrier.root_generation import OTP_LENGTH, OpenSlot, Slot
from undercroft.barrier.seal import SealManager
from undercroft.barrier.seal_store import OPERATIONS_MAX, RotationPolicy
from undercroft.durations import rfc3339
from undercroft.engines.base import Call, Field, Handler, Kind, Route, deletes, reads, writes
from undercroft.errors import InvalidRequest, ReadOnly, UnsupportedOperation
from undercroft.node.state import NodeState
from undercroft.request.model import Operation, RawBody, Response
from undercroft.storage.view import Transaction

_encode: Final = msgspec.json.Encoder().encode

OPERATIONS_MIN: Final = 1_000_000
INTERVAL_SECONDS_MIN: Final = 24 * 3600
# Of `enable_unauthenticated_access` in the configuration.
GENERATE_ROOT: Final = "generate-root"


def _seal(call: Call) -> SealManager:
    """The writer has it; elsewhere the request moves one hop up."""
    if call.services.seal is None:
        raise ReadOnly
    return call.services.seal


def _transaction(call: Call) -> Transaction:
    if not isinstance(call.view, Transaction):
        raise ReadOnly
    return call.view


def _raw(body: object) -> Response:
    return Response(raw=RawBody(200, "application/json", _encode(body) + b"\n"))


def _no_pgp(call: Call, *names: str) -> None:
    for name in names:
        if call.get(name):
            raise InvalidRequest(
                f"{name}: encryption to PGP keys is not supported",
                hint="take the keys over TLS, and encrypt them where you receive them",
            )


# init


def read_init(call: Call) -> Response:
    return _raw({"initialized": call.services.state.initialized})


def init(call: Call) -> Response:
    """Vault's API path /sys/init. Raises InvalidRequest."""
    _no_pgp(call, "pgp_keys", "recovery_pgp_keys", "root_token_pgp_key")
    made = _seal(call).initialize(
        _transaction(call),
        shares=call.get("secret_shares", 0),
        threshold=call.get("secret_threshold", 0),
        recovery_shares=call.get("recovery_shares", 0),
        recovery_threshold=call.get("recovery_threshold", 0),
        now_ms=call.now_ms,
    )
    body: dict[str, Any] = {"keys": made.shares, "keys_base64": _as_base64(made.shares)}
    if made.recovery_shares:
        body["recovery_keys"] = made.recovery_shares
        body["recovery_keys_base64"] = _as_base64(made.recovery_shares)
    body["root_token"] = made.root_token
    return _raw(body)


def _as_base64(shares: tuple[str, ...]) -> list[str]:
    return [base64.b64encode(bytes.fromhex(share)).decode() for share in shares]


# seal-status, unseal, seal


def seal_status(call: Call) -> Response:
    return _raw(_status(call.services.state))


def _status(state: NodeState) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": state.seal_type,
        "initialized": state.initialized,
        "sealed": state.sealed,
        "t": state.threshold,
        "n": state.shares,
        "progress": state.unseal.progress,
        "nonce": state.unseal.nonce,
        "recovery_seal": state.recovery_seal,
    }
    if state.recovery_seal:
        shown["recovery_seal_type"] = "shamir"
    shown |= {"version": __version__, "migration": state.migration}
    if not state.sealed:
        shown |= {"cluster_name": state.cluster_name, "cluster_id": state.cluster_id}
    shown["storage_type"] = state.storage_type
    return shown


def unseal(call: Call) -> Response:
    """Vault's API path /sys/unseal: answers the status as it is after the commit.

    With the last share that is a server with a name, which is known only once it has opened: the
    body is written by the last of the commit's effects.
    """
    seal, tx = _seal(call), _transaction(call)
    key_text, reset = call.get("key", ""), call.get("reset", False)
    if not key_text and not reset:
        raise InvalidRequest(
            "'key' must be specified in request body as JSON, or 'reset' set to true"
        )
    if call.get("migrate", False):
        raise InvalidRequest("can't perform a seal migration, no migration seal found")
    seal.unseal(tx, key_text=key_text, reset=reset)
    services = call.services
    response = _raw(_status(msgspec.structs.replace(services.state, **seal.status(tx))))

    def tell() -> None:
        response.raw = _raw(_status(services.state)).raw

    if tx.after_commit:
        tx.after_commit.append(tell)
    return response


def seal(call: Call) -> Response | None:
    """Vault's API path /sys/seal; a sealed server is sealed already, whoever asks."""
    if call.caller is not None:
        _seal(call).seal(_transaction(call))
    return None


# keys


def key_status(call: Call) -> Response:
    status = _seal(call).renewal.key_status()
    data = {
        "term": status.term,
        "install_time": rfc3339(status.installed_ms),
        "encryptions": status.encryptions,
    }
    return Response(data, repeat_data=True)


def rotate(call: Call) -> None:
    _seal(call).renewal.rotate(_transaction(call), call.now_ms)


def read_rotation(call: Call) -> Response:
    policy = _seal(call).renewal.policy(call.view)
    return Response(
        {
            "enabled": policy.enabled,
            "interval": _interval_text(policy.interval_seconds) if policy.interval_seconds else 0,
            "max_operations": policy.max_operations,
        }
    )


def _interval_text(seconds: int) -> str:
    """As Go prints a duration of an hour and more."""
    hours, rest = divmod(seconds, 3600)
    return f"{hours}h{rest // 60}m{rest % 60}s"


def write_rotation(call: Call) -> None:
    renewal = _seal(call).renewal
    policy = renewal.policy(call.view)
    operations = call.get("max_operations", policy.max_operations)
    interval_seconds = call.get("interval", policy.interval_seconds)
    if not OPERATIONS_MIN <= operations <= OPERATIONS_MAX:
        raise InvalidRequest(
            f"max_operations must be in the range [{OPERATIONS_MIN},{OPERATIONS_MAX}]"
        )
    if interval_seconds and interval_seconds < INTERVAL_SECONDS_MIN:
        raise InvalidRequest("interval must be greater or equal to 24h0m0s")
    enabled = call.get("enabled", policy.enabled)
    renewal.set_policy(_transaction(call), RotationPolicy(enabled, operations, interval_seconds))


# root generation: with a token, in the envelope


def read_generation(call: Call) -> Response:
    manager = _seal(call)
    return Response(_generation(manager.root_generation, manager.required_shares(call.view)))


def _generation(slot: Slot, required: int, otp: str = "") -> dict[str, Any]:
    """Vault leaves out what an attempt would have when there is none."""
    data: dict[str, Any] = {"complete": False, "otp": otp, "otp_length": OTP_LENGTH}
    attempt = slot.attempt
    progress = 0 if attempt is None else len(attempt.collected)
    data |= {"progress": progress, "required": required, "started": attempt is not None}
    if attempt is not None:
        data |= {"nonce": attempt.nonce, "pgp_fingerprint": ""}
    return data


def start_generation(call: Call) -> Response:
    manager = _seal(call)
    required = _required(call, manager)
    otp = manager.root_generation.start(call.get("otp", ""), call.now_ms)
    return Response(_generation(manager.root_generation, required, otp))


def _required(call: Call, manager: SealManager) -> int:
    _no_pgp(call, "pgp_key")
    required = manager.required_shares(call.view)
    if not required:
        raise InvalidRequest("the server was initialised without recovery keys")
    return required


def cancel_generation(call: Call) -> None:
    _seal(call).root_generation.cancel()


def update_generation(call: Call) -> Response:
    for name in ("nonce", "key"):
        if not call.get(name):
            raise InvalidRequest(f"{name} is required")
    return Response(_updated(call, _seal(call).root_generation))


def _updated(call: Call, slot: Slot) -> dict[str, Any]:
    manager, tx = _seal(call), _transaction(call)
    required = manager.required_shares(tx)
    nonce = call.get("nonce", "")
    progress, encoded = slot.update(
        nonce,
        call.get("key", ""),
        required,
        call.now_ms,
        authorise=lambda combined: manager.check_shares(tx, combined),
        issue=lambda: call.services.tokens.issue_root(tx, call.now_ms),
    )
    return {
        "nonce": nonce,
        "started": True,
        "progress": progress,
        "required": required,
        "complete": bool(encoded),
        "encoded_token": encoded,
        "pgp_fingerprint": "",
    }


# root generation: without a token, as in old Vaults; off unless the configuration opens it


def _open_slot(call: Call) -> OpenSlot:
    if GENERATE_ROOT not in call.services.settings.enable_unauthenticated_access:
        raise UnsupportedOperation
    return _seal(call).open_root_generation


def read_open_generation(call: Call) -> Response:
    slot = _open_slot(call)
    return _open_status(_generation(slot, _seal(call).required_shares(call.view)))


def _open_status(data: dict[str, Any], otp_length: int = OTP_LENGTH) -> Response:
    """The same facts in the old shape: nothing left out, no envelope."""
    encoded = data.get("encoded_token", "")
    return _raw(
        {
            "nonce": data.get("nonce", ""),
            "started": data["started"],
            "progress": data["progress"],
            "required": data["required"],
            "complete": data["complete"],
            "encoded_token": encoded,
            "encoded_root_token": encoded,
            "pgp_fingerprint": "",
            "otp": data.get("otp", ""),
            "otp_length": otp_length,
        }
    )


def start_open_generation(call: Call) -> Response:
    slot = _open_slot(call)
    required = _required(call, _seal(call))
    slot.ration(call.now_ms)
    otp = slot.start(call.get("otp", ""), call.now_ms)
    return _open_status(_generation(slot, required, otp))


def cancel_open_generation(call: Call) -> None:
    slot = _open_slot(call)
    slot.ration(call.now_ms)
    slot.cancel()


def update_open_generation(call: Call) -> Response:
    slot = _open_slot(call)
    if not call.get("key"):
        raise InvalidRequest("'key' must be specified in request body as JSON")
    return _open_status(_updated(call, slot), otp_length=0)


_COUNTS: Final = (
    Field("secret_shares", Kind.INT, "Shares to split the unseal key into, 1 to 255."),
    Field("secret_threshold", Kind.INT, "Shares that are needed to unseal."),
    Field("recovery_shares", Kind.INT, "Shares of the recovery key, with an automatic seal."),
    Field("recovery_threshold", Kind.INT, "Shares of the recovery key that are needed."),
)
_PGP: Final = (
    Field("pgp_keys", Kind.LIST, "Not supported."),
    Field("recovery_pgp_keys", Kind.LIST, "Not supported."),
    Field("root_token_pgp_key", doc="Not supported."),
)
_UNSEAL_FIELDS: Final = (
    Field("key", doc="One key share, in hexadecimal or base64."),
    Field("reset", Kind.BOOL, "Forget the shares given so far."),
    Field("migrate", Kind.BOOL, "Not supported: there is no seal migration."),
)
_ROTATION_FIELDS: Final = (
    Field("enabled", Kind.BOOL, "Make new terms automatically."),
    Field("max_operations", Kind.INT, "Encryptions under one term before the next is made."),
    Field("interval", Kind.DURATION, "Age of a term before the next is made; 0 for no limit."),
)
_START_FIELDS: Final = (
    Field("otp", doc="One-time password of 26 characters; made here when it is not given."),
    Field("pgp_key", doc="Not supported."),
)
_UPDATE_FIELDS: Final = (
    Field("key", doc="One share of the unseal key, or of the recovery key."),
    Field("nonce", doc="Nonce of the attempt."),
)

_ROTATION: Final = {
    **reads(read_rotation, summary="Returns when the keyring is rotated automatically."),
    **writes(write_rotation, summary="Sets when the keyring is rotated automatically."),
}
_ROTATE: Final = writes(rotate, summary="Adds a new encryption key to the keyring.")


def _ups(apply: Any, **more: Any) -> dict[Operation, Handler]:
    """Writes that look at the configuration first, where the request landed."""
    return {op: Handler(apply, **more) for op in (Operation.CREATE, Operation.UPDATE)}


ROUTES: Final = (
    Route(
        "init",
        {
            **reads(read_init, summary="Returns whether the server is initialised."),
            **writes(init, summary="Initialises the server."),
        },
        fields=(*_COUNTS, *_PGP),
        open=True,
        sealed=True,
        summary="Initialises the server: makes its keys and the first root token.",
    ),
    Route(
        "seal-status",
        reads(seal_status, summary="Returns the seal status."),
        open=True,
        sealed=True,
        summary="Whether the server is sealed, and how far unsealing has come.",
    ),
    Route(
        "unseal",
        writes(unseal, summary="Gives one key share."),
        fields=_UNSEAL_FIELDS,
        open=True,
        sealed=True,
        summary="Unseals the server with key shares, one a request.",
    ),
    Route(
        "seal",
        writes(seal, summary="Seals the server."),
        sealed=True,
        sudo=True,
        summary="Seals the server: when it answers, no process holds a key.",
    ),
    Route(
        "key-status",
        reads(key_status, summary="Returns the active encryption key's term and use."),
        summary="The active encryption key: term, installation time, encryptions.",
    ),
    Route("rotate", _ROTATE, sudo=True, summary="Rotates the keyring."),
    Route("rotate/keyring", _ROTATE, sudo=True, summary="Rotates the keyring."),
    Route("rotate/config", _ROTATION, _ROTATION_FIELDS, summary="Automatic rotation."),
    Route("rotate/keyring/config", _ROTATION, _ROTATION_FIELDS, summary="Automatic rotation."),
    Route(
        "generate-root-token/attempt",
        {
            **reads(read_generation, summary="Returns the progress of root generation."),
            **writes(start_generation, summary="Starts a root generation."),
            **deletes(cancel_generation, summary="Cancels the root generation."),
        },
        fields=_START_FIELDS,
        summary="Generation of a new root token from key shares.",
    ),
    Route(
        "generate-root-token/update",
        writes(update_generation, summary="Gives one key share for root generation."),
        fields=_UPDATE_FIELDS,
        summary="One key share for the generation of a root token.",
    ),
    Route(
        "generate-root/attempt",
        {
            **reads(read_open_generation, summary="Returns the progress of root generation."),
            **_ups(start_open_generation, summary="Starts a root generation."),
            Operation.DELETE: Handler(
                cancel_open_generation, summary="Cancels the root generation."
            ),
        },
        fields=_START_FIELDS,
        open=True,
        summary="Root generation without a token; off unless the configuration allows it.",
    ),
    Route(
        "generate-root/update",
        _ups(update_open_generation, summary="Gives one key share for root generation."),
        fields=_UPDATE_FIELDS,
        open=True,
        summary="Root generation without a token; off unless the configuration allows it.",
    ),
)
