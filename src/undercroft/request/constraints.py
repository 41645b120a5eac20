"""What a rule demands beyond the path: parameters, wrapping, page size.

A denial is read broadly and a permission narrowly. Handlers accept `"1"` for a number and `"a,b"`
for a list, so a denied value is found in every form that a handler would read as that value, and in
every element of a list (threat ACL-10); an allowed value must be just that.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec

from undercroft.request.model import Operation

Parameters: TypeAlias = Callable[[], Mapping[str, object]]

# The operations whose parameters a policy constrains.
_CHECKED: Final = (Operation.CREATE, Operation.UPDATE, Operation.PATCH, Operation.READ)
_LISTS: Final = (Operation.LIST, Operation.SCAN)
_COUNT: Final = re.compile(r"\d{1,9}", re.ASCII)
_BOOLS: Final = {True: ("true", "t", "1"), False: ("false", "f", "0")}


class Constraints(msgspec.Struct, frozen=True):
    """Of one path, merged over the policies. None for `allowed` means any parameter."""

    allowed: dict[str, list[object]]
    denied: dict[str, list[object]]
    required: frozenset[str]
    min_wrap: int
    max_wrap: int
    page_max: int

    def admit(
        self, operation: Operation, parameters: Parameters | None, wrap_ttl: int | None
    ) -> bool:
        if not self._wrapping_fits(wrap_ttl):
            return False
        if operation in _LISTS:
            return not self.page_max or self._page_fits(parameters)
        if operation not in _CHECKED or not (self.allowed or self.denied or self.required):
            return True
        if parameters is None:  # nobody looked: what is not known to be fine is not
            return False
        sent = parameters()
        return self._required_are_in(sent) and self._all_fit(sent)

    def _wrapping_fits(self, wrap_ttl: int | None) -> bool:
        """A bound on the wrapping's TTL also asks for wrapping."""
        if not (self.min_wrap or self.max_wrap):
            return True
        if not wrap_ttl or wrap_ttl < self.min_wrap:
            return False
        return not self.max_wrap or wrap_ttl <= self.max_wrap

    def _page_fits(self, parameters: Parameters | None) -> bool:
        """No limit, 0 and negative ones mean "all" to a handler: more than the cap (ACL-08)."""
        limit = parameters().get("limit") if parameters is not None else None
        if isinstance(limit, str) and _COUNT.fullmatch(limit):
            limit = int(limit)
        if isinstance(limit, bool) or not isinstance(limit, int):
            return False
        return 1 <= limit <= self.page_max

    def _required_are_in(self, sent: Mapping[str, object]) -> bool:
        return all(name in sent for name in self.required)

    def _all_fit(self, sent: Mapping[str, object]) -> bool:
        if sent and "*" in self.denied:
            return False
        for name, value in sent.items():
            folded = name.lower()
            values = self.denied.get(folded)
            if values is not None and (not values or _is_denied(value, values)):
                return False
            if self.allowed:
                values = self.allowed.get(folded)
                if values is None and "*" not in self.allowed:
                    return False
                if values and not _is_allowed(value, values):
                    return False
        return True


def _leaves(value: object) -> Iterator[object]:
    """What a list holds, at any depth, or the value itself. No recursion: depth is the caller's."""
    waiting = [value]
    while waiting:
        element = waiting.pop()
        if isinstance(element, list):
            waiting.extend(element)
        else:
            yield element


def _is_denied(value: object, patterns: list[object]) -> bool:
    if any(_same(value, pattern) for pattern in patterns):
        return True
    return any(_reads_as(leaf, pattern) for leaf in _leaves(value) for pattern in patterns)


def _reads_as(value: object, pattern: object) -> bool:
    """Whether some handler could take the value for the denied one."""
    texts = _texts_of(value)
    if isinstance(pattern, bool):
        return any(text.lower() in _BOOLS[pattern] for text in texts)
    if isinstance(pattern, str):
        folded = pattern.casefold()  # names are lower-cased by their handlers
        return any(glob_matches(folded, text.casefold()) for text in texts)
    if isinstance(pattern, int | float):
        return any(_number_of(text) == pattern for text in texts)
    return _same(value, pattern)


def _texts_of(value: object) -> tuple[str, ...]:
    """Every text that a handler could make of a value; list fields split and trim."""
    match value:
        case bool():
            return _BOOLS[value]
        case int() | float():
            return (str(value),)
        case str():
            return (value, value.strip(), *_comma_parts(value))
    return ()


def _number_of(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_allowed(value: object, patterns: list[object]) -> bool:
    if isinstance(value, str):
        # A glob must not let a text pass that a handler splits: "dev-*" and "dev-1,admin".
        return value in patterns or all(
            any(_same(part, pattern) for pattern in patterns)
            for part in (value, *_comma_parts(value))
        )
    if any(_same(value, pattern) for pattern in patterns):
        return True
    if not isinstance(value, list) or not value:
        return False
    leaves = list(_leaves(value))
    return bool(leaves) and all(
        not isinstance(leaf, list) and _is_allowed(leaf, patterns) for leaf in leaves
    )


def _comma_parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if "," in text else []


def _same(value: object, pattern: object) -> bool:
    """Equal and of one type, numbers by value; a text may be matched by a glob."""
    if isinstance(value, str) and isinstance(pattern, str):
        return glob_matches(pattern, value)
    if isinstance(value, bool) or isinstance(pattern, bool):
        return value is pattern
    return value == pattern


def glob_matches(pattern: str, text: str) -> bool:
    """Only a star at the beginning or the end is one; the rest is literal."""
    starts, ends = pattern.startswith("*"), pattern.endswith("*")
    if pattern == "*":
        return True
    if starts and ends:
        return pattern[1:-1] in text
    if starts:
        return text.endswith(pattern[1:])
    return text.startswith(pattern[:-1]) if ends else text == pattern
