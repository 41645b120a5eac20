"""sys/generate-root-token, and the old sys/generate-root that asks for no token.

The old form is off unless `enable_unauthenticated_access` in the configuration names it; then it
has a slot of its own, and what anybody does there is rationed (`barrier/root_generation.py`).
"""

from typing import Any, Final

from undercroft.barrier.root_generation import OTP_LENGTH, OpenSlot, Slot
from undercroft.barrier.seal import SealManager
from undercroft.engines.base import Call, Field, Handler, Route, deletes, reads, writes
from undercroft.engines.system.seal_call import raw, refuse_pgp, seal_of, transaction_of
from undercroft.errors import InvalidRequest, UnsupportedOperation
from undercroft.request.model import Operation, Response

GENERATE_ROOT: Final = "generate-root"  # of `enable_unauthenticated_access`


# root generation: with a token, in the envelope


def read_generation(call: Call) -> Response:
    manager = seal_of(call)
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
    manager = seal_of(call)
    required = _required(call, manager)
    otp = manager.root_generation.start(call.get("otp", ""), call.now_ms)
    return Response(_generation(manager.root_generation, required, otp))


def _required(call: Call, manager: SealManager) -> int:
    refuse_pgp(call, "pgp_key")
    required = manager.required_shares(call.view)
    if not required:
        raise InvalidRequest("the server was initialised without recovery keys")
    return required


def cancel_generation(call: Call) -> None:
    seal_of(call).root_generation.cancel(call.get("nonce", ""))


def update_generation(call: Call) -> Response:
    for name in ("nonce", "key"):
        if not call.get(name):
            raise InvalidRequest(f"{name} is required")
    return Response(_updated(call, seal_of(call).root_generation))


def _updated(call: Call, slot: Slot) -> dict[str, Any]:
    manager, tx = seal_of(call), transaction_of(call)
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
    return seal_of(call).open_root_generation


def read_open_generation(call: Call) -> Response:
    slot = _open_slot(call)
    return _open_status(_generation(slot, seal_of(call).required_shares(call.view)))


def _open_status(data: dict[str, Any], otp_length: int = OTP_LENGTH) -> Response:
    """The same facts in the old shape: nothing left out, no envelope."""
    encoded = data.get("encoded_token", "")
    return raw(
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
    required = _required(call, seal_of(call))
    slot.ration(call.now_ms)
    otp = slot.start(call.get("otp", ""), call.now_ms)
    return _open_status(_generation(slot, required, otp))


def cancel_open_generation(call: Call) -> None:
    slot = _open_slot(call)
    slot.ration(call.now_ms)
    slot.cancel(call.get("nonce", ""))


def update_open_generation(call: Call) -> Response:
    slot = _open_slot(call)
    if not call.get("key"):
        raise InvalidRequest("'key' must be specified in request body as JSON")
    return _open_status(_updated(call, slot), otp_length=0)


_START_FIELDS: Final = (
    Field("otp", doc="One-time password of 26 characters; made here when it is not given."),
    Field("pgp_key", doc="Not supported."),
    Field("nonce", doc="On DELETE: cancel only the attempt of this nonce."),
)
_UPDATE_FIELDS: Final = (
    Field("key", doc="One share of the unseal key, or of the recovery key."),
    Field("nonce", doc="Nonce of the attempt."),
)


def _ups(apply: Any, **more: Any) -> dict[Operation, Handler]:
    """Writes that look at the configuration first, where the request landed."""
    return {op: Handler(apply, **more) for op in (Operation.CREATE, Operation.UPDATE)}


ROUTES: Final = (
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
