"""sys/replication/quarantine: writes that only a former primary had, listed, never merged.

Needs sudo, and is audited like everything: what is in there are secrets.
"""

from typing import Any

import msgspec

from undercroft.durations import rfc3339
from undercroft.engines.base import Call
from undercroft.errors import Corrupt, InvalidRequest, NotFound
from undercroft.replication import quarantine
from undercroft.replication.quarantine import Quarantined
from undercroft.request.model import Response
from undercroft.storage.keys import HEAD_BYTES, SHARED, SYSTEM
from undercroft.storage.record import open_record
from undercroft.storage.view import Transaction


def _found(call: Call) -> Quarantined:
    found = quarantine.find(call.view, call.params["id"])
    if found is None:
        raise NotFound
    return found


def _described(call: Call, entry: Quarantined) -> dict[str, Any]:
    """Where and when, and how both versions look from outside."""
    mount_id = entry.key[1:HEAD_BYTES]
    mounts = call.services.mounts.table(call.view).mounts.values()
    mount = next((m for m in mounts if m.id == mount_id), None)
    current = call.view.raw(entry.key)
    return {
        "mount": mount.path if mount else "",
        "path": entry.key[HEAD_BYTES:].decode(errors="replace"),
        "operation": "put" if entry.record is not None else "delete",
        "epoch": entry.epoch,
        "wal": entry.seq,
        "written": rfc3339(entry.written_ms),
        "quarantined": rfc3339(entry.set_aside_ms),
        "size": len(entry.record or b""),
        "current_exists": current is not None,
        "current_size": len(current or b""),
        "differs": current != entry.record,
    }


def list_all(call: Call) -> Response:
    names = quarantine.names(call.view)
    info: dict[str, Any] = {}
    for name in names:
        entry = quarantine.find(call.view, name)
        if entry is not None:
            info[name] = _described(call, entry)
    return Response({"keys": names, "key_info": info})


def read(call: Call) -> Response:
    """The value too, decrypted: as the engine stored it."""
    entry = _found(call)
    described = _described(call, entry)
    if entry.record is None:
        return Response({**described, "value": None})
    try:
        value = open_record(call.view.keyring, entry.key, entry.record)
    except Corrupt:
        raise InvalidRequest("it was sealed under a key that this cluster does not have") from None
    return Response({**described, "value": _readable(value)})


def _readable(value: bytes) -> Any:
    """JSON as it is, an engine's own struct decoded, else text or hex."""
    try:
        return msgspec.json.decode(value)
    except msgspec.MsgspecError:
        pass
    try:
        return _plain(msgspec.msgpack.decode(value))
    except (msgspec.MsgspecError, ValueError):
        return value.hex()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return value.decode(errors="replace")
    if isinstance(value, dict):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def restore(call: Call) -> Response:
    """Write it again, as a write of now. On a secondary the primary does not have it: 400."""
    tx, entry = call.view, _found(call)
    assert isinstance(tx, Transaction), "declared as writing"
    if entry.key[:1] != SHARED or entry.key[1:HEAD_BYTES] == SYSTEM:
        raise InvalidRequest("configuration is not restored blindly: make the change again")
    if not tx.shared_writable:
        raise InvalidRequest(
            "a secondary cannot restore: read the entry and write it again",
            hint="the write goes to the primary like any other",
        )
    if entry.record is None:
        tx.delete(entry.key)
    else:
        tx.put(entry.key, open_record(tx.keyring, entry.key, entry.record))
    quarantine.discard(tx, call.params["id"])
    return Response(status=204)


def discard(call: Call) -> None:
    _found(call)
    quarantine.discard(call.view, call.params["id"])
