"""sys/audit, sys/audit-hash, sys/config/auditing: what audit devices there are and what they show.

Devices come from the configuration alone. An API that makes files of its caller's choice is code
execution in waiting (threat AUD-09), so enabling and disabling are refused as OpenBao refuses them.
"""

from typing import Any, Final

from msgspec import structs

from undercroft.engines.base import Call, Field, Handler, Kind, Route, deletes, reads, writes
from undercroft.errors import InvalidRequest
from undercroft.request.audit import HEADERS_ENTRY, AuditedHeaders
from undercroft.request.model import Operation, Response
from undercroft.storage.keys import SHARED, SYSTEM
from undercroft.storage.view import Space

_HEADERS_MAX: Final = 256


def list_devices(call: Call) -> Response:
    data = {
        device.path: {
            "path": device.path,
            "type": device.type,
            "description": device.description,
            "local": device.local,
            "options": device.options,
        }
        for device in call.services.audit.devices
    }
    return Response(data, repeat_data=True)


def enable(call: Call) -> Response | None:
    raise InvalidRequest(
        "cannot enable audit device via API; use declarative, config-based audit device "
        "management instead"
    )


def disable(call: Call) -> Response | None:
    if any(device.path == _device_path(call) for device in call.services.audit.devices):
        raise InvalidRequest("cannot disable configuration-managed audit device")
    return None


def _device_path(call: Call) -> str:
    return call.params["path"].strip("/") + "/"


def hash_input(call: Call) -> Response:
    """What a value looks like in a device's entries, to search them for it."""
    text = call.get("input", "")
    if not text:
        raise InvalidRequest('the "input" parameter is empty')
    hashed = call.services.audit.hash(_device_path(call), text)
    if hashed is None:
        raise InvalidRequest("unknown audit backend")
    return Response({"hash": hashed}, repeat_data=True)


# request headers


def _read(call: Call) -> AuditedHeaders:
    stored = Space(call.view, SHARED, SYSTEM).read(HEADERS_ENTRY, AuditedHeaders)
    return stored if stored is not None else AuditedHeaders()


def _shown(hashed: bool) -> dict[str, Any]:
    return {"hmac": hashed}


def list_headers(call: Call) -> Response:
    headers = {name: _shown(hashed) for name, hashed in sorted(_read(call).headers.items())}
    return Response({"headers": headers}, repeat_data=True)


def read_header(call: Call) -> Response:
    name, headers = call.params["header"], _read(call).headers
    if name not in headers:
        raise InvalidRequest("Could not find header in config")
    return Response({name: _shown(headers[name])}, repeat_data=True)


def write_header(call: Call) -> Response | None:
    stored = _read(call)
    headers = {**stored.headers, call.params["header"]: call.get("hmac", False)}
    if len(headers) > _HEADERS_MAX:
        raise InvalidRequest(f"at most {_HEADERS_MAX} headers can be audited")
    _store(call, structs.replace(stored, headers=headers))
    return None


def delete_header(call: Call) -> Response | None:
    stored, name = _read(call), call.params["header"]
    if name in stored.headers:
        headers = {other: hashed for other, hashed in stored.headers.items() if other != name}
        _store(call, structs.replace(stored, headers=headers))
    return None


def _store(call: Call, headers: AuditedHeaders) -> None:
    Space(call.view, SHARED, SYSTEM).write(HEADERS_ENTRY, headers)


_PATH: Final = Field("path", doc="Name of the audit device.")

ROUTES: Final = (
    Route(
        "audit",
        reads(list_devices, summary="List the enabled audit devices."),
        sudo=True,
        summary="List the audit devices.",
    ),
    Route(
        "audit/{path*}",
        {
            **writes(enable, summary="Refused: audit devices are declared in the configuration."),
            **deletes(disable, summary="Refused for a device that the configuration declares."),
        },
        fields=(
            _PATH,
            Field("type", doc="Type of the device."),
            Field("description", doc="A text for people."),
            Field("options", Kind.STRINGS, "Options of the device."),
            Field("local", Kind.BOOL, "Kept out of replication, as every device is."),
        ),
        sudo=True,
        summary="Enable or disable audit devices.",
    ),
    Route(
        "audit-hash/{path*}",
        {Operation.UPDATE: Handler(hash_input, summary="Hash a value as an audit device does.")},
        fields=(_PATH, Field("input", doc="The value to hash.")),
        summary="The hash of a value in an audit device's entries.",
    ),
    Route(
        "config/auditing/request-headers",
        reads(list_headers, summary="List the request headers that are audited."),
        sudo=True,
        summary="Request headers that are audited.",
    ),
    Route(
        "config/auditing/request-headers/{header}",
        {
            **reads(read_header, summary="Whether a request header is hashed."),
            **writes(write_header, summary="Audit a request header."),
            **deletes(delete_header, summary="Audit a request header no longer."),
        },
        fields=(
            Field("header", doc="Name of the header."),
            Field("hmac", Kind.BOOL, "Hash its value.", False),
        ),
        lower=("header",),
        sudo=True,
        summary="One request header that is audited.",
    ),
)
