"""What one policy says: its text, HCL or JSON, as rules. What they decide is `acl.py`'s business.

Nothing in a policy is ignored: a key that this server cannot enforce is refused when the policy is
written, since a restriction that silently does nothing is worse than none. Two keys carry no rule
and are taken as remarks, as elsewhere: `name` at the top and `comment` in a path.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from undercroft.durations import parse_duration
from undercroft.errors import InvalidRequest
from undercroft.hcl import Body, HclError, Item, parse, plain

DENY: Final = "deny"
CAPABILITIES: Final = frozenset(
    ("create", "read", "update", "patch", "delete", "list", "scan", "sudo", DENY)
)
_SHORTHANDS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(),
    "deny": frozenset((DENY,)),
    "read": frozenset(("read", "list")),
    "write": frozenset(("create", "read", "update", "delete", "list")),
    "sudo": frozenset(("create", "read", "update", "delete", "list", "sudo")),
}
_UNSUPPORTED: Final = {
    "control_group": "control groups",
    "mfa_methods": "MFA in policies",
    "expiration": "expiration of single paths",
    "list_scan_response_keys_filter_path": "filtering of listed keys",
}
_KNOWN: Final = (
    "capabilities, policy, allowed_parameters, denied_parameters, required_parameters, "
    "min_wrapping_ttl, max_wrapping_ttl, pagination_limit, comment"
)

# What may stand in a template. A typo must not become a rule that never applies.
_TEMPLATE: Final = re.compile(
    r"identity\.(?:entity\.(?:id|name|metadata\.[^{}]+"
    r"|aliases\.[^.{}]+\.(?:id|name|metadata\.[^{}]+|custom_metadata\.[^{}]+))"
    r"|groups\.(?:ids|names)\.[^{}]+\.(?:id|name|metadata\.[^{}]+))"
)
# Of a rendered value, so that it can never be more than one path segment or a wildcard (ACL-03).
_SAFE_VALUE: Final = re.compile(r"[^/+*,\x00-\x1f\x7f]+")


class Unrenderable(Exception):
    """A template has no safe value for this caller. `unsafe`: it has one, but a dangerous one."""

    def __init__(self, *, unsafe: bool) -> None:
        super().__init__()
        self.unsafe = unsafe


class Rule(msgspec.Struct, frozen=True):
    """One `path` block.

    `parts` is the pattern: literals at even places, template names (`identity.entity.id`) at odd
    ones. Parameter names are lower-case; an empty list of values means any value. TTLs are seconds,
    0 is no bound.
    """

    parts: tuple[str, ...]
    capabilities: frozenset[str] = frozenset()
    allowed: dict[str, list[object]] = {}
    denied: dict[str, list[object]] = {}
    required: frozenset[str] = frozenset()
    min_wrap: int = 0
    max_wrap: int = 0
    page_max: int = 0

    @property
    def templated(self) -> bool:
        return len(self.parts) > 1

    @property
    def denies(self) -> bool:
        return DENY in self.capabilities

    def render(self, identity: Mapping[str, str] | None) -> str:
        """The pattern for a caller, given the values of template names. Raises Unrenderable."""
        if not self.templated:
            return self.parts[0]
        rendered = list(self.parts)
        for at in range(1, len(rendered), 2):
            value = (identity or {}).get(rendered[at])
            if not value:
                raise Unrenderable(unsafe=False)
            if not _SAFE_VALUE.fullmatch(value) or value in (".", ".."):
                raise Unrenderable(unsafe=True)
            rendered[at] = value
        return "".join(rendered)


class Policy(msgspec.Struct, frozen=True):
    """A named set of rules, in the order of the text."""

    name: str
    rules: tuple[Rule, ...]


def parse_policy(name: str, text: str) -> Policy:
    """Raises InvalidRequest with the line of what is wrong; the text itself is never quoted."""
    try:
        body = parse(text)
        rules = tuple(rule for item in body.items for rule in _top_level(item))
    except HclError as error:
        raise InvalidRequest(f"failed to parse policy: {error.message}", hint=error.hint) from None
    return Policy(name, rules)


def _wrong(item: Item, reason: str) -> HclError:
    return HclError(reason, item.line, 1)


def _top_level(item: Item) -> tuple[Rule, ...]:
    match item:
        case Item(("name",), str() | int() | float()):
            return ()
        case Item(("path",), Body(())):  # what `{"path": {}}` is
            return ()
        case Item(("path", pattern), Body() as body):
            return (_rule(item, pattern, body),)
        case Item(("path", *_), _):
            raise _wrong(item, 'a path is written: path "pattern" { … }')
    raise _wrong(item, "invalid key; a policy consists of path blocks")


def _rule(block: Item, pattern: str, body: Body) -> Rule:
    capabilities: set[str] = set()
    allowed: dict[str, list[object]] = {}
    denied: dict[str, list[object]] = {}
    required: set[str] = set()
    numbers = {"min_wrapping_ttl": 0, "max_wrapping_ttl": 0, "pagination_limit": 0}
    for item in body.items:
        key = item.keys[0]
        if len(item.keys) > 1:
            raise _wrong(item, "a key of a path takes no labels")
        match key:
            case "capabilities":
                capabilities |= _capabilities(item)
            case "policy":
                capabilities |= _shorthand(item)
            case "allowed_parameters":
                _add_parameters(allowed, item)
            case "denied_parameters":
                _add_parameters(denied, item)
            case "required_parameters":
                required |= {name.lower() for name in _texts(item)}
            case "min_wrapping_ttl" | "max_wrapping_ttl":
                numbers[key] = _duration(item)
            case "pagination_limit":
                numbers[key] = _count(item)
            case "comment":
                pass
            case _ if key in _UNSUPPORTED:
                raise _wrong(item, f"{key}: this server does not support {_UNSUPPORTED[key]}")
            case _:
                raise _wrong(item, f"invalid key in a path; supported are {_KNOWN}")
    if 0 < numbers["max_wrapping_ttl"] < numbers["min_wrapping_ttl"]:
        raise _wrong(block, "max_wrapping_ttl cannot be less than min_wrapping_ttl")
    return Rule(
        _parts(block, pattern),
        frozenset(capabilities),
        allowed,
        denied,
        frozenset(required),
        *numbers.values(),
    )


def _parts(block: Item, pattern: str) -> tuple[str, ...]:
    """The pattern, split at its templates. One leading slash is dropped."""
    if "+*" in pattern:
        raise _wrong(block, "invalid use of wildcards ('+*' is forbidden)")
    parts = re.split(r"\{\{(.*?)\}\}", pattern.removeprefix("/"))
    if any("{{" in part or "}}" in part for part in parts):
        raise _wrong(block, "unbalanced templating characters")
    for at in range(1, len(parts), 2):
        parts[at] = parts[at].strip()
        if not _TEMPLATE.fullmatch(parts[at]):
            raise _wrong(block, "unknown template; supported are identity.entity and .groups")
    return tuple(parts)


def _texts(item: Item) -> list[str]:
    if not isinstance(item.value, list) or not all(isinstance(v, str) for v in item.value):
        raise _wrong(item, f"{item.keys[0]}: expected a list of texts")
    return [value for value in item.value if isinstance(value, str)]


def _capabilities(item: Item) -> set[str]:
    given = set(_texts(item))
    if not given <= CAPABILITIES:
        raise _wrong(item, f"invalid capability; supported are {', '.join(sorted(CAPABILITIES))}")
    return given


def _shorthand(item: Item) -> frozenset[str]:
    value = item.value
    if not isinstance(value, str) or value not in _SHORTHANDS:
        raise _wrong(item, "invalid policy; supported are read, write, deny and sudo")
    return _SHORTHANDS[value]


def _add_parameters(into: dict[str, list[object]], item: Item) -> None:
    """Add `{ name = [values] }`; the same name twice means either's values."""
    if not isinstance(item.value, Body):
        raise _wrong(item, f"{item.keys[0]}: expected an object of lists")
    for parameter in item.value.items:
        if len(parameter.keys) > 1 or not isinstance(parameter.value, list):
            raise _wrong(parameter, f"{item.keys[0]}: each parameter needs a list of values")
        values = [plain(value) for value in parameter.value]
        if any(value is None for value in values):
            raise _wrong(parameter, f"{item.keys[0]}: null is not a value")
        merge_values(into, parameter.keys[0].lower(), values)


def merge_values(into: dict[str, list[object]], name: str, values: list[object]) -> None:
    """Let `name` have these values too; an empty list, any value, swallows the rest."""
    known = into.get(name)
    into[name] = [*known, *values] if known and values else ([] if known is not None else values)


def _duration(item: Item) -> int:
    value = item.value
    if isinstance(value, str):
        value = value.strip()
    try:
        seconds = parse_duration(value, item.keys[0])
    except InvalidRequest as error:
        raise _wrong(item, error.message) from None
    if seconds < 0:
        raise _wrong(item, f"{item.keys[0]}: must not be negative")
    return seconds


def _count(item: Item) -> int:
    value = item.value
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(item, f"{item.keys[0]}: expected a number that is not negative")
    return value
