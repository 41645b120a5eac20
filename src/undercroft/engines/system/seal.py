"""sys/init, unseal, seal, seal-status, key-status and rotate, over HTTP.

What is decided is decided by `barrier/seal.py` in the writer; here are only Vault's paths and
shapes. Init, seal-status and unseal answer without the envelope.
"""

import base64
from typing import Any, Final

import msgspec

from undercroft import __version__
from undercroft.barrier.seal_store import OPERATIONS_MAX, RotationPolicy
from undercroft.barrier.shares import parse_share
from undercroft.durations import rfc3339
from undercroft.engines.base import Call, Field, Kind, Route, reads, writes
from undercroft.engines.system import root_generation
from undercroft.engines.system.seal_call import raw, refuse_pgp, seal_of, transaction_of
from undercroft.errors import InvalidRequest
from undercroft.node.state import NodeState
from undercroft.request.model import Response

OPERATIONS_MIN: Final = 1_000_000
INTERVAL_SECONDS_MIN: Final = 24 * 3600


# init


def read_init(call: Call) -> Response:
    return raw({"initialized": call.services.state.initialized})


def init(call: Call) -> Response:
    """Vault's API path /sys/init. Raises InvalidRequest."""
    refuse_pgp(call, "pgp_keys", "recovery_pgp_keys", "root_token_pgp_key")
    made = seal_of(call).initialize(
        transaction_of(call),
        shares=call.get("secret_shares", 0),
        threshold=call.get("secret_threshold", 0),
        recovery_shares=call.get("recovery_shares", 0),
        recovery_threshold=call.get("recovery_threshold", 0),
        now_ms=call.now_ms,
    )
    body = _shown("keys", made.shares)
    if made.recovery_shares:
        body |= _shown("recovery_keys", made.recovery_shares)
    return raw(body | {"root_token": made.root_token})


def _shown(name: str, shares: tuple[bytes, ...]) -> dict[str, Any]:
    """In both of Vault's forms."""
    return {
        name: [share.hex() for share in shares],
        f"{name}_base64": [base64.b64encode(share).decode() for share in shares],
    }


# seal-status, unseal, seal


def seal_status(call: Call) -> Response:
    return raw(_status(call, call.services.state))


def _status(call: Call, state: NodeState) -> dict[str, Any]:
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
    shown |= {
        "version": call.request.unless_redacted("version", __version__),
        "migration": state.migration,
    }
    if not state.sealed:
        name = call.request.unless_redacted("cluster_name", state.cluster_name)
        shown |= {"cluster_name": name, "cluster_id": state.cluster_id}
    shown["storage_type"] = state.storage_type
    return shown


def unseal(call: Call) -> Response:
    """Vault's API path /sys/unseal: answers the status as it is after the commit.

    With the last share that is a server with a name, which is known only once it has opened: the
    body is written by the last of the commit's effects.
    """
    seal, tx = seal_of(call), transaction_of(call)
    key_text, reset = call.get("key", ""), call.get("reset", False)
    if not key_text and not reset:
        raise InvalidRequest(
            "'key' must be specified in request body as JSON, or 'reset' set to true"
        )
    if call.get("migrate", False):
        raise InvalidRequest("can't perform a seal migration, no migration seal found")
    if reset:
        seal.reset()
    else:
        seal.unseal(tx, parse_share(key_text))
    services = call.services
    response = raw(_status(call, msgspec.structs.replace(services.state, **seal.status(tx))))

    def tell() -> None:
        response.raw = raw(_status(call, services.state)).raw

    if tx.after_commit:
        tx.after_commit.append(tell)
    return response


def seal(call: Call) -> Response | None:
    """Vault's API path /sys/seal; a sealed server is sealed already, whoever asks."""
    if call.caller is not None:
        seal_of(call).seal(transaction_of(call), call.now_ms)
    return None


# keys


def key_status(call: Call) -> Response:
    status = seal_of(call).renewal.key_status()
    data = {
        "term": status.term,
        "install_time": rfc3339(status.installed_ms),
        "encryptions": status.encryptions,
    }
    return Response(data, repeat_data=True)


def rotate(call: Call) -> None:
    seal_of(call).renewal.rotate(transaction_of(call), call.now_ms)


def read_rotation(call: Call) -> Response:
    policy = seal_of(call).renewal.policy(call.view)
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
    renewal = seal_of(call).renewal
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
    renewal.set_policy(transaction_of(call), RotationPolicy(enabled, operations, interval_seconds))


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
_ROTATION: Final = {
    **reads(read_rotation, summary="Returns when the keyring is rotated automatically."),
    **writes(write_rotation, summary="Sets when the keyring is rotated automatically."),
}
_ROTATE: Final = writes(rotate, summary="Adds a new encryption key to the keyring.")


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
    *root_generation.ROUTES,
)
