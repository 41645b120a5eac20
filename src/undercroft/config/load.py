"""Reads configuration files into `Settings`, merged as Vault merges them.

Of several files the later one's scalars and single stanzas count; listeners and audit devices add
up; of lease TTLs the largest counts. Command line beats environment beats files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from undercroft.config import compat, settings
from undercroft.config.check import complete
from undercroft.config.compat import Fate, Known
from undercroft.config.files import Block, ConfigError, Place, blocks, find_files, read_file
from undercroft.config.kinds import BadValue, Setting, convert
from undercroft.config.report import Report, printable
from undercroft.config.secrets import read_key
from undercroft.config.settings import (
    AuditDevice,
    Flags,
    Listener,
    ListenerTelemetry,
    Origin,
    Replication,
    Seal,
    Settings,
    Storage,
)
from undercroft.hcl import Body, Item

ENVIRONMENT: Final = {
    "API_ADDR": "api_addr",
    "CLUSTER_ADDR": "cluster_addr",
    "LOG_LEVEL": "log_level",
    "LOG_FORMAT": "log_format",
}  # each with BAO_ or VAULT_ in front
PREFIXES: Final = ("BAO_", "VAULT_")  # the first that is set counts


class Loaded(NamedTuple):
    """Settings, and warnings to log: `file:line: …`."""

    settings: Settings
    warnings: tuple[str, ...]


@dataclass
class Draft:
    """What the files have said so far."""

    report: Report
    environment: Mapping[str, str]
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place | str] = field(default_factory=dict)
    listeners: list[tuple[Listener, set[str], Place]] = field(default_factory=list)
    audit: list[tuple[AuditDevice, Place]] = field(default_factory=list)
    seals: list[tuple[Seal, Place]] = field(default_factory=list)


def load(
    paths: Sequence[str], *, environment: Mapping[str, str], flags: Flags | None = None
) -> Loaded:
    """Settings from files and directories. Raises ConfigError with every problem found."""
    flags = flags or Flags()
    if not paths:
        raise ConfigError("no configuration: give -config=FILE, or -dev to try things out")
    draft = Draft(Report(), environment)
    for file in find_files(tuple(paths)):
        for item in read_file(file).items:
            _read_item(draft, item, str(file))
    _environment(draft)
    _flags(draft, flags)
    draft.report.raise_problems()
    variables = [prefix + name for prefix in PREFIXES for name in ENVIRONMENT]
    kept = {name: environment[name] for name in variables if name in environment}
    origin = Origin(paths=tuple(paths), environment=kept, flags=flags)
    result = complete(draft, origin)
    draft.report.raise_problems()
    return Loaded(result, tuple(draft.report.warnings))


def load_again(old: Settings, environment: Mapping[str, str] | None = None) -> Loaded:
    """What the same files say now (SIGHUP); development settings never change."""
    if not old.origin.paths:
        return Loaded(old, ())
    import os

    merged = {**(os.environ if environment is None else environment), **old.origin.environment}
    return load(old.origin.paths, environment=merged, flags=old.origin.flags)


# Stanzas


def _read_item(draft: Draft, item: Item, file: str) -> None:
    name, place = item.keys[0], Place(file, item.line)
    if name in _STANZAS:
        labels, read = _STANZAS[name]
        try:
            for block in blocks(item, file, labels):
                read(draft, block)
        except ConfigError as error:
            draft.report.problems.append(error.message)
    else:
        scalars = settings.table(Settings)
        _setting(draft.report, scalars, compat.TOP, item, place, draft.values, "")
        draft.places[name] = place


def _setting(
    report: Report,
    rows: Mapping[str, tuple[Setting, object]],
    known: Mapping[str, Known],
    item: Item,
    place: Place,
    values: dict[str, Any],
    where: str,
) -> None:
    """One setting of a stanza into `values`; or a warning, or a problem."""
    name = item.keys[0]
    if name in known:
        _fate(report, known[name], item, place, where)
        return
    if name not in rows:
        report.unknown(place, name, where, [*rows, *known, *(_STANZAS if not where else ())])
        return
    setting = rows[name][0]
    try:
        value = convert(setting, item.value)
    except BadValue as error:
        report.problem(place, f"{name}{where} {error}")
        return
    if name in values and setting.merge == "largest":
        value = max(value, values[name])
    values[name] = value


def _fate(report: Report, known: Known, item: Item, place: Place, where: str) -> None:
    asks_nothing = item.value in (False, 0, "", "false", "0", None, [])
    if known.fate is Fate.SILENT or asks_nothing:
        return
    name = printable(item.keys[0])
    if known.fate is Fate.WARN:
        report.warn(place, f"{name}{where} has no effect: {known.why}")
    else:
        report.problem(place, f"{name}{where} is not supported: {known.why}")


def _values(
    draft: Draft,
    block: Block,
    rows: Mapping[str, tuple[Setting, object]],
    known: Mapping[str, Known],
    apart: Mapping[str, Callable[[Item, Place], None]] | None = None,
) -> dict[str, Any]:
    """A stanza's settings; `apart` are the names that need more than a conversion."""
    values: dict[str, Any] = {}
    for item in block.body.items:
        place = Place(block.place.file, item.line)
        if apart and item.keys[0] in apart:
            apart[item.keys[0]](item, place)
        else:
            _setting(draft.report, rows, known, item, place, values, f" in {block.name}")
    return values


def _label(draft: Draft, block: Block, supported: Sequence[str]) -> str | None:
    """The stanza's type, or None after reporting that it is not supported."""
    label = block.labels[0].lower() if block.labels else ""
    if label in supported:
        return label
    shown = f'"{printable(label)}"' if label else "without a type"
    names = ", ".join(f'"{name}"' for name in supported)
    draft.report.problem(block.place, f"{block.name} {shown} is not supported; supported: {names}")
    return None


_STAND_INS: Final = ("file", "raft")


def _storage(draft: Draft, block: Block) -> None:
    label = _label(draft, block, ("lmdb", "inmem", *_STAND_INS))
    if label is None:
        return
    if label in _STAND_INS:
        draft.report.warn(
            block.place,
            f'storage "{label}" is taken as "lmdb" at its path; data that another server '
            "left there is not read",
        )
        label = "lmdb"

    def address(item: Item, place: Place) -> None:
        named = Item((_ALIASES[item.keys[0]],), item.value, item.line)
        _read_item(draft, named, place.file)

    addresses = dict.fromkeys(_ALIASES, address)
    values = _values(draft, block, settings.table(Storage), compat.STORAGE, addresses)
    draft.values["storage"] = Storage(type=label, **values)
    draft.places["storage"] = block.place


# Old files give the addresses inside the storage stanza.
_ALIASES: Final = {
    "redirect_addr": "api_addr",
    "api_addr": "api_addr",
    "cluster_addr": "cluster_addr",
}


def _listener(draft: Draft, block: Block) -> None:
    if _label(draft, block, ("tcp",)) is None:
        return
    inner: dict[str, Any] = {}

    def telemetry(item: Item, place: Place) -> None:
        for nested in blocks(item, place.file, 0):
            values = _values(draft, nested, settings.table(ListenerTelemetry), {})
            inner["telemetry"] = ListenerTelemetry(**values)

    def generate_root(item: Item, place: Place) -> None:
        if item.value in (False, "false", 0, "0"):
            _read_item(
                draft,
                Item(("enable_unauthenticated_access",), ["generate-root"], place.line),
                place.file,
            )
            draft.report.warn(place, "the generate-root endpoints are open on every listener")

    apart = {
        "telemetry": telemetry,
        "disable_unauthed_generate_root_endpoints": generate_root,
    }
    values = _values(draft, block, settings.table(Listener), compat.LISTENER, apart)
    draft.listeners.append((Listener(**values, **inner), set(values), block.place))


def _seal(draft: Draft, block: Block) -> None:
    label = _label(draft, block, ("shamir", "static"))
    if label is None:
        return
    keys: dict[str, Any] = {}

    def key(item: Item, place: Place) -> None:
        try:
            keys[item.keys[0]] = read_key(item.value, draft.environment)
        except BadValue as error:
            draft.report.problem(place, f"{item.keys[0]} in seal {error}")

    values = _values(
        draft, block, settings.table(Seal), compat.SEAL, {"current_key": key, "previous_key": key}
    )
    draft.seals.append((Seal(type=label, **values, **keys), block.place))


def _audit(draft: Draft, block: Block) -> None:
    if _is_by_attributes(block):
        block = _labelled(block)
    if _label(draft, block, ("file",)) is None:
        return
    if len(block.labels) < 2 or not block.labels[1].strip("/"):
        draft.report.problem(block.place, 'audit needs a name: audit "file" "NAME" { … }')
        return
    options: dict[str, Any] = {}

    def nested(item: Item, place: Place) -> None:
        for inner in blocks(item, place.file, 0):
            for option in inner.body.items:
                at = Place(place.file, option.line)
                _setting(
                    draft.report,
                    _AUDIT_INNER,
                    compat.AUDIT,
                    option,
                    at,
                    options,
                    " in audit options",
                )

    values = _values(draft, block, _AUDIT_OUTER, {}, {"options": nested})
    path = block.labels[1].strip("/") + "/"
    shown = {name: _shown(name, value) for name, value in options.items()}
    device = AuditDevice(path=path, options=shown, **values, **options)
    draft.audit.append((device, block.place))


def _shown(name: str, value: object) -> str:
    """An option's value as text, the form in which the API has options."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:04o}" if name == "mode" else str(value)


def _is_by_attributes(block: Block) -> bool:
    return not block.labels and any(item.keys == ("type",) for item in block.body.items)


def _labelled(block: Block) -> Block:
    """`audit { type = "file" path = "main" … }`, the other form that OpenBao takes."""
    given = {item.keys[0]: str(item.value) for item in block.body.items if len(item.keys) == 1}
    rest = tuple(item for item in block.body.items if item.keys[0] not in ("type", "path"))
    labels = (given.get("type", ""), given.get("path", ""))
    return Block(block.name, labels, Body(rest), block.place)


def _telemetry(draft: Draft, block: Block) -> None:
    _values(draft, block, {}, compat.TELEMETRY)


_LATER: Final = ("allow_forwarding_via_header", "allow_forwarding_via_token")


def _replication(draft: Draft, block: Block) -> None:
    for item in block.body.items:
        if item.keys[0] in _LATER:
            place = Place(block.place.file, item.line)
            draft.report.warn(
                place,
                f"{item.keys[0]} has no effect: a cluster has one node, which is the active one, "
                "and a request is never forwarded to another cluster for it",
            )
    draft.values["replication"] = Replication(
        **_values(draft, block, settings.table(Replication), {})
    )


_AUDIT_ROWS: Final = settings.table(AuditDevice)
_AUDIT_INNER: Final = {name: _AUDIT_ROWS[name] for name in settings.AUDIT_OPTIONS}
_AUDIT_OUTER: Final = {n: row for n, row in _AUDIT_ROWS.items() if n not in _AUDIT_INNER}
_STANZAS: Final[Mapping[str, tuple[int, Callable[[Draft, Block], None]]]] = {
    "storage": (1, _storage),
    "backend": (1, _storage),
    "listener": (1, _listener),
    "seal": (1, _seal),
    "audit": (2, _audit),
    "telemetry": (0, _telemetry),
    "replication": (0, _replication),
}


# Environment and command line


def _environment(draft: Draft) -> None:
    for name, setting in ENVIRONMENT.items():
        for prefix in PREFIXES:
            value = draft.environment.get(prefix + name)
            if value:
                _override(draft, setting, value, prefix + name)
                break


def _flags(draft: Draft, flags: Flags) -> None:
    for name in flags.__struct_fields__:
        value = getattr(flags, name)
        if value:
            _override(draft, name, value, "-" + name.replace("_", "-"))


def _override(draft: Draft, name: str, value: str, source: str) -> None:
    try:
        draft.values[name] = convert(settings.table(Settings)[name][0], value)
        draft.places[name] = source
    except BadValue as error:
        draft.report.problem(source, str(error))
