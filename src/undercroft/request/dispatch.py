"""From a path below a mount to the route that serves it, and from a body to its fields.

Routes are matched by their first literal segment, the most specific first: literals before `{name}`
before `{name*}`. Fields are read by their declared `Kind`; what a body holds beyond them is not an
error but a warning (convention 25). No error text repeats a value that was sent.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from undercroft.durations import parse_duration
from undercroft.engines.base import Engine, Field, Kind, Route
from undercroft.errors import InvalidRequest, UnsupportedOperation, UnsupportedPath
from undercroft.request.model import Operation, Request

_BODY: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PARAMETER: Final = re.compile(r"\{(\w+)(\*?)\}")
_LISTINGS: Final = (Operation.LIST, Operation.SCAN)


class Match(NamedTuple):
    """A route, what its pattern captured, and its declared fields by name."""

    route: Route
    params: dict[str, str]
    fields: Mapping[str, Field]


class _Pattern:
    """One compiled route pattern. `prefix` is set for the common shape `literal/{rest*}`."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.fields = {f.name: f for f in route.fields}
        names = _PARAMETER.findall(route.pattern)
        self.rest = next((name for name, star in names if star), "")
        parts = _PARAMETER.split(route.pattern)  # literal, name, star, literal, name, star, literal
        self.prefix = parts[0] if len(names) == 1 and self.rest and parts[-1] == "" else None
        text = re.escape(parts[0])
        for name, star, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            text += f"(?P<{name}>.+)" if star else f"(?P<{name}>[^/]+)"
            text += re.escape(literal)
        self.regex = re.compile(text, re.DOTALL)
        self.order = (bool(self.rest), len(names), -len(route.pattern))

    def match(self, path: str, listing: bool) -> dict[str, str] | None:
        """`{rest*}` of a LIST keeps its trailing slash (or is empty): it is the prefix to list."""
        if self.prefix is not None:
            if not path.startswith(self.prefix):
                return None
            rest = path[len(self.prefix) :]
            return {self.rest: rest} if rest or listing else None
        if listing:
            path = path.removesuffix("/")
        found = self.regex.fullmatch(path)
        return None if found is None else found.groupdict()


class Routes:
    """The compiled table of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        patterns = sorted((_Pattern(r) for r in engine.routes), key=lambda p: p.order)
        self._patterns = patterns
        self._generic = tuple(p for p in patterns if p.route.pattern.startswith("{"))
        self._by_head: dict[str, tuple[_Pattern, ...]] = {}
        for head in {p.route.pattern.partition("/")[0] for p in patterns}:
            if not head.startswith("{"):
                own = [p for p in patterns if p.route.pattern.partition("/")[0] == head]
                self._by_head[head] = (*own, *self._generic)

    def match(self, path: str, operation: Operation) -> Match:
        """Raises UnsupportedPath, or UnsupportedOperation when only the verb has no handler."""
        listing = operation in _LISTINGS
        known = False
        head = path.partition("/")[0]
        for pattern in self._by_head.get(head, self._generic):
            params = pattern.match(path, listing)
            if params is None:
                continue
            known = True
            if operation in pattern.route.handlers or operation is Operation.HELP:
                return Match(pattern.route, params, pattern.fields)
        if known:
            raise UnsupportedOperation
        raise UnsupportedPath


def lowered(path: str, match: Match) -> tuple[str, dict[str, str]]:
    """The path and parameters with the route's `lower` names in lower case (convention 33)."""
    params = dict(match.params)
    for name in match.route.lower:
        params[name] = params[name].lower()
    if params == match.params:
        return path, params
    return _PARAMETER.sub(lambda found: params[found[1]], match.route.pattern), params


def parse_fields(
    declared: Mapping[str, Field],
    request: Request,
    params: Mapping[str, str],
    *,
    body: bool = True,
) -> tuple[dict[str, Any], list[str]]:
    """Declared fields that were sent, and warnings about the rest.

    A path parameter wins over a body field of its name, a body field over a query parameter.
    `body=False` leaves the body to the handler.
    Raises InvalidRequest for a value of the wrong kind.
    """
    fields: dict[str, Any] = {}
    unknown: list[str] = []
    replaced: list[str] = []
    for name, text in request.query.items():
        field = declared.get(name)
        if field is not None:
            fields[name] = convert(field, text)
    if body and request.body:
        for name, raw in decode_body(request.body).items():
            field = declared.get(name)
            if name in params:
                replaced.append(name)
            elif field is None:
                unknown.append(name)
            else:
                value = _decode(field, raw)
                if value is not None:
                    fields[name] = value
    for name, text in params.items():
        field = declared.get(name)
        fields[name] = text if field is None else convert(field, text)
    return fields, _warnings(unknown, replaced)


def decode_body(body: bytes) -> dict[str, msgspec.Raw]:
    """The body's top level; the edge has checked that it is one JSON object."""
    try:
        return _BODY.decode(body)
    except msgspec.DecodeError:
        raise InvalidRequest("failed to parse JSON input") from None


def _warnings(unknown: Iterable[str], replaced: Iterable[str]) -> list[str]:
    warnings = []
    if unknown:
        names = " ".join(sorted(unknown))
        warnings.append(f"Endpoint ignored these unrecognized parameters: [{names}]")
    if replaced:
        names = " ".join(sorted(replaced))
        warnings.append(
            "Endpoint replaced the value of these parameters with the values captured from the "
            f"endpoint's path: [{names}]"
        )
    return warnings


def _decode(field: Field, raw: msgspec.Raw) -> Any:
    """A field of the body; JSON null counts as not sent."""
    if field.kind is Kind.RAW:
        return raw
    value = msgspec.json.decode(raw)
    return None if value is None else convert(field, value)


def convert(field: Field, value: Any) -> Any:
    """A decoded JSON value, or a text from query, path or form, as the field's kind."""
    try:
        return _CONVERTERS[field.kind](value, field.name)
    except (TypeError, ValueError, msgspec.MsgspecError):
        raise _wrong(field.name, field.kind.name.lower()) from None
    except InvalidRequest as error:
        raise InvalidRequest(f"Field validation failed: {error.message}") from None


def _wrong(name: str, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f'Field validation failed: error converting input for field "{name}": expected {expected}'
    )


def _string(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return str(value)
    raise TypeError


def _int(value: Any, name: str) -> int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError
        return int(value)
    if isinstance(value, str):
        return int(value.strip(), 10) if value.strip() else 0
    if isinstance(value, int):
        return value
    raise TypeError


_BOOLS: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False", ""), False),
}


def _bool(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value != 0
    if isinstance(value, str) and value in _BOOLS:
        return _BOOLS[value]
    raise TypeError


def _list(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [_string(part, name).strip() for part in value]
    return [_string(value, name)]


def _ints(value: Any, name: str) -> list[int]:
    if isinstance(value, str):
        return [int(part, 10) for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [_int(part, name) for part in value]
    return [_int(value, name)]


def _strings(value: Any, name: str) -> dict[str, str]:
    if isinstance(value, str):  # JSON text, or k=v pairs
        if value.lstrip().startswith("{"):
            value = msgspec.json.decode(value)
        else:
            value = dict(part.split("=", 1) for part in value.split(",") if part)
    if isinstance(value, list):  # ["k=v"]
        value = dict(_string(part, name).split("=", 1) for part in value)
    if not isinstance(value, dict):
        raise TypeError
    return {key: _string(part, name) for key, part in value.items()}


def _object(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, str):
        value = msgspec.json.decode(value)
    if not isinstance(value, dict):
        raise TypeError
    return value


def _raw(value: Any, name: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


_CONVERTERS: Final = {
    Kind.STRING: _string,
    Kind.INT: _int,
    Kind.BOOL: _bool,
    Kind.DURATION: parse_duration,
    Kind.LIST: _list,
    Kind.INTS: _ints,
    Kind.STRINGS: _strings,
    Kind.OBJECT: _object,
    Kind.RAW: _raw,
}
