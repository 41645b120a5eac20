"""Results as people and scripts read them: a table, JSON, or one field.

The table is the one of the `bao` and `vault` commands, since scripts cut it up: columns four
spaces apart, values in Go's notation (`map[a:1]`, `[a b]`, `<nil>`), durations as `1h30m`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from undercroft.cli import jsontext
from undercroft.cli.failure import OK, CommandError, safe
from undercroft.cli.jsontext import Number

_ENVELOPE: Final = ("request_id", "lease_id", "lease_duration", "renewable", "data", "warnings")
_TTL_NAMES: Final = ("period", "ttl", "duration", "lease_max", "ttl_max")
_TTL_ENDS: Final = ("_period", "_ttl", "_duration")


def table(rows: Iterable[tuple[str, str]], head: tuple[str, ...] = ("Key", "Value")) -> str:
    """Two columns below a head; with an empty head just the columns."""
    given = list(rows)
    lines = [head, tuple("-" * len(name) for name in head), *given] if head else given
    width = max((len(line[0]) for line in lines), default=0) + 4
    return "\n".join(safe(f"{line[0]:<{width}}{line[1]}".rstrip()) for line in lines)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Any number of columns below a head."""
    lines = [
        tuple(safe(text).replace("\n", " ") for text in line)
        for line in (head, ["-" * len(name) for name in head], *rows)
    ]
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    return "\n".join(
        "    ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def column(head: str, values: Sequence[str]) -> str:
    return "\n".join(safe(line) for line in (head, "-" * len(head), *values))


def go_text(value: Any) -> str:
    """A value as Go prints it with %v; an empty text stays empty."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{go_text(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_text(element) for element in value) + "]"
    return str(value)


def cell(name: str, value: Any) -> str:
    """A field's value in a table: durations readable, nothing where there is nothing."""
    if isinstance(value, Number) and _is_duration(name):
        return duration(value)
    return "n/a" if value == "" else go_text(value)


def _is_duration(name: str) -> bool:
    return name in _TTL_NAMES or name.endswith(_TTL_ENDS)


def duration(seconds: Number) -> str:
    """`90` as `1m30s`; what is no whole number stays as it is."""
    try:
        left = int(seconds)
    except ValueError:
        return str(seconds)
    if left <= 0:
        return f"{left}s"
    parts = [(left // 3600, "h"), (left // 60 % 60, "m"), (left % 60, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count)


def secret_rows(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of an answer's envelope: lease, auth, wrapping and data."""
    rows: list[tuple[str, str]] = []
    lease = body.get("lease_duration") or Number("0")
    if body.get("lease_id"):
        rows += [
            ("lease_id", body["lease_id"]),
            ("lease_duration", duration(lease)),
            ("lease_renewable", go_text(body.get("renewable"))),
        ]
    elif lease != "0":
        rows.append(("refresh_interval", duration(lease)))
    if body.get("auth"):
        rows += auth_rows(body["auth"])
    if body.get("wrap_info"):
        rows += _wrap_rows(body["wrap_info"])
    data = body.get("data") or {}
    return rows + [(name, cell(name, data[name])) for name in sorted(data)]


def auth_rows(auth: Mapping[str, Any]) -> list[tuple[str, str]]:
    lease = auth.get("lease_duration") or Number("0")
    rows = [
        ("token", auth.get("client_token") or ""),
        ("token_accessor", auth.get("accessor") or ""),
        ("token_duration", "∞" if lease == "0" else duration(lease)),
        ("token_renewable", go_text(auth.get("renewable"))),
    ]
    for name in ("token_policies", "identity_policies", "policies"):
        quoted = " ".join(f'"{policy}"' for policy in auth.get(name) or ())
        rows.append((name, f"[{quoted}]"))
    metadata = auth.get("metadata") or {}
    return rows + [(f"token_meta_{name}", go_text(metadata[name])) for name in sorted(metadata)]


def _wrap_rows(wrap: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("wrapping_token:", wrap.get("token") or ""),
        ("wrapping_accessor:", wrap.get("accessor") or ""),
        ("wrapping_token_ttl:", duration(wrap.get("ttl") or Number("0"))),
        ("wrapping_token_creation_time:", wrap.get("creation_time") or ""),
        ("wrapping_token_creation_path:", wrap.get("creation_path") or ""),
    ]
    if wrap.get("wrapped_accessor"):
        rows.append(("wrapped_accessor:", wrap["wrapped_accessor"]))
    return rows


def show_secret(body: Mapping[str, Any], form: str | None, field: str | None) -> int:
    """Print an answer as asked; its warnings go to standard error."""
    if field is not None:
        return show_field(body, field, form)
    if form == "json":
        whole = {name: body.get(name) for name in _ENVELOPE}
        whole |= {name: body[name] for name in ("auth", "wrap_info") if body.get(name)}
        print(jsontext.encode(whole))
        return OK
    for warning in body.get("warnings") or ():
        print(safe(f"Warning: {warning}"), file=sys.stderr)
    print(table(secret_rows(body)))
    return OK


def show_done(body: Any, done: str, form: str | None) -> int:
    """What a change came to: its warnings on standard error, a sentence, the answer's data.

    `body` is None where the server answers with nothing.
    """
    envelope = body if isinstance(body, dict) else {}
    if form == "json":
        print(jsontext.encode({name: envelope.get(name) for name in _ENVELOPE}))
        return OK
    for warning in envelope.get("warnings") or ():
        print(safe(f"Warning: {warning}"), file=sys.stderr)
    print(safe(f"Success! {done}"))
    if envelope.get("data"):
        print("\n" + table(secret_rows(envelope), ()))
    return OK


def show_field(body: Mapping[str, Any], field: str, form: str | None) -> int:
    """One field's value, as it is: for pipes."""
    found = _field(body, field)
    if found is None:
        raise CommandError(f"there is no field {field} in the answer")
    (value,) = found
    sys.stdout.write(jsontext.encode(value) if form == "json" else go_text(value))
    if sys.stdout.isatty():
        sys.stdout.write("\n")
    return OK


_AUTH_FIELDS: Final = {
    "token": "client_token",
    "token_accessor": "accessor",
    "token_duration": "lease_duration",
    "token_renewable": "renewable",
    "token_policies": "token_policies",
    "identity_policies": "identity_policies",
    "policies": "policies",
}
_WRAP_FIELDS: Final = {
    "wrapping_token": "token",
    "wrapping_accessor": "accessor",
    "wrapping_token_ttl": "ttl",
    "wrapping_token_creation_time": "creation_time",
    "wrapping_token_creation_path": "creation_path",
    "wrapped_accessor": "wrapped_accessor",
}
_LEASE_FIELDS: Final = {
    "lease_id": "lease_id",
    "lease_duration": "lease_duration",
    "refresh_interval": "lease_duration",
    "renewable": "renewable",
    "request_id": "request_id",
}


def _field(body: Mapping[str, Any], field: str) -> tuple[Any] | None:
    """Where the answer has the field: wrapping, login, data, or else the lease."""
    if body.get("wrap_info"):
        parts = [(body["wrap_info"], _WRAP_FIELDS)]
    elif body.get("auth"):
        parts = [(body["auth"], _AUTH_FIELDS)]
    else:
        data = body.get("data") or {}
        parts = [(data, {name: name for name in data}), (body, _LEASE_FIELDS)]
    for part, names in parts:
        if field in names and names[field] in part:
            return (part[names[field]],)
    return None


def show_object(body: Mapping[str, Any], rows: list[tuple[str, str]], form: str | None) -> int:
    """An answer without envelope (status, init): JSON as it came, or rows made for it."""
    print(jsontext.encode(dict(body)) if form == "json" else table(rows))
    return OK
