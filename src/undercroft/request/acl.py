"""What a token's policies decide together. Compiled once, asked on every request, never changed.

An exact rule beats any wildcard. Among wildcards, that one decides whose first `+` or `*` comes
later; then one without trailing `*`, with fewer `+`, longer, greater in order (convention 35). All
of this is known when compiling, so wildcards are kept in the order in which they win. Rules for one
pattern are merged; a deny among them is all that remains.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from undercroft.request.constraints import Constraints, Parameters
from undercroft.request.model import Operation
from undercroft.request.policy import DENY, Policy, Rule, Unrenderable, merge_values

ROOT: Final = "root"

_BITS: Final = {
    name: 1 << at
    for at, name in enumerate(
        ("create", "delete", "list", "patch", "read", "scan", "sudo", "update", DENY)
    )
}
_SUDO: Final = _BITS["sudo"]
_DENY: Final = _BITS[DENY]
# By operation; `help` is granted by no rule: it is for every caller.
_BIT_OF: Final = {operation: _BITS.get(operation.value, 0) for operation in Operation}


class Grant(msgspec.Struct, frozen=True):
    """What one pattern grants, over all policies."""

    bits: int
    constraints: Constraints | None


@dataclass(frozen=True)
class _Wildcard:
    """A pattern with `+` segments, and perhaps a trailing `*`."""

    rank: tuple[int, bool, int, int, str]
    matches: re.Pattern[str]
    head: str | None  # the first segment, if it is a literal
    grant: Grant


@dataclass
class _Merge:
    """Rules of one pattern, being merged."""

    capabilities: set[str] = field(default_factory=set)
    allowed: dict[str, list[object]] = field(default_factory=dict)
    denied: dict[str, list[object]] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    min_wrap: int = 0
    max_wrap: int = 0
    page_max: int = 0

    def add(self, rule: Rule) -> None:
        """Of two bounds the lesser holds, also of two lower ones, as elsewhere."""
        self.capabilities |= rule.capabilities
        for name, values in rule.allowed.items():
            merge_values(self.allowed, name, values)
        for name, values in rule.denied.items():
            merge_values(self.denied, name, values)
        self.required |= rule.required
        self.min_wrap = _lesser(self.min_wrap, rule.min_wrap)
        self.max_wrap = _lesser(self.max_wrap, rule.max_wrap)
        self.page_max = _lesser(self.page_max, rule.page_max)

    def grant(self) -> Grant:
        if DENY in self.capabilities:
            return Grant(_DENY, None)
        constraints = Constraints(
            self.allowed,
            self.denied,
            frozenset(self.required),
            self.min_wrap,
            self.max_wrap,
            self.page_max,
        )
        demands = any(msgspec.structs.astuple(constraints))
        bits = sum(_BITS[name] for name in self.capabilities)
        return Grant(bits, constraints if demands else None)


def _lesser(one: int, other: int) -> int:
    """The lesser bound; 0 is none."""
    return min(one, other) if one and other else one or other


class Acl:
    """Made by `Acl.compile`, `Acl.root` or `Acl.closed`."""

    __slots__ = (
        "_anywhere",
        "_by_head",
        "_exact",
        "_grants",
        "_lengths",
        "_prefixes",
        "closed",
        "is_root",
    )

    def __init__(self, *, is_root: bool = False, closed: bool = False) -> None:
        self.is_root = is_root
        self.closed = closed  # a rule that denies could not be applied: nothing is allowed
        self._grants: Mapping[str, Grant] = {}  # by pattern; below, sorted for the look-up
        self._exact: dict[str, Grant] = {}
        self._prefixes: dict[str, Grant] = {}
        self._lengths: tuple[int, ...] = ()  # of the prefixes, longest first
        self._by_head: dict[str, tuple[_Wildcard, ...]] = {}
        self._anywhere: tuple[_Wildcard, ...] = ()  # first segment `+`; also in every _by_head

    @classmethod
    def root(cls) -> "Acl":
        return cls(is_root=True)

    @classmethod
    def compile(
        cls, policies: Iterable[Policy], identity: Mapping[str, str] | None = None
    ) -> "Acl":
        """Merge policies. `identity`: values of template names, such as `identity.entity.id`.

        A templated rule without a value for this caller is about a path that does not exist for
        them, and is left out, unless it denies. A denial that cannot be placed, and any value that
        could make the rule wider, closes the whole ACL (threats ACL-03, ACL-12).
        """
        merges: dict[str, _Merge] = {}
        for policy in policies:
            for rule in policy.rules:
                try:
                    pattern = rule.render(identity)
                except Unrenderable as failure:
                    if failure.unsafe or rule.denies:
                        return cls(closed=True)
                    continue
                merges.setdefault(pattern, _Merge()).add(rule)
        acl = cls()
        acl._fill({pattern: merge.grant() for pattern, merge in merges.items()})
        return acl

    def _fill(self, grants: Mapping[str, Grant]) -> None:
        self._grants = grants
        wildcards: list[_Wildcard] = []
        for pattern, grant in grants.items():
            if pattern == "+" or pattern.startswith("+/") or "/+" in pattern:
                wildcards.append(_wildcard(pattern, grant))
            elif pattern.endswith("*"):
                self._prefixes[pattern[:-1]] = grant
            else:
                self._exact[pattern] = grant
        self._lengths = tuple(sorted({len(prefix) for prefix in self._prefixes}, reverse=True))
        wildcards.sort(key=lambda wildcard: wildcard.rank, reverse=True)
        heads = {wildcard.head for wildcard in wildcards if wildcard.head is not None}
        self._anywhere = tuple(w for w in wildcards if w.head is None)
        self._by_head = {
            head: tuple(w for w in wildcards if w.head is None or w.head == head) for head in heads
        }

    def allows(
        self,
        operation: Operation,
        path: str,
        parameters: Parameters | None = None,
        wrap_ttl: int | None = None,
    ) -> bool:
        """Whether the policies allow the operation on a canonical path.

        `parameters` gives what was sent, query and body in one, and is called only if a rule
        constrains it; `wrap_ttl` is the wrapping's TTL in seconds that was asked for.
        """
        if self.is_root:
            return True
        grant = self._exact.get(path) or self._find(path)
        if grant is None or not grant.bits & _BIT_OF[operation]:
            return operation is Operation.HELP and not self.closed
        constraints = grant.constraints
        return constraints is None or constraints.admit(operation, parameters, wrap_ttl)

    def sudo(self, path: str) -> bool:
        """Whether the path is granted with the sudo capability."""
        if self.is_root:
            return True
        grant = self._exact.get(path) or self._find(path)
        return grant is not None and bool(grant.bits & _SUDO)

    def denies(self, path: str) -> bool:
        """Whether a rule denies the path in so many words; no rule at all is not that."""
        grant = self._exact.get(path) or self._find(path)
        return grant is not None and bool(grant.bits & _DENY)

    def capabilities(self, path: str) -> list[str]:
        """What `sys/capabilities` answers: sorted names, `["root"]`, or `["deny"]` for nothing."""
        if self.is_root:
            return [ROOT]
        path = path.lstrip("/")
        grant = self._exact.get(path) or self._find(path)
        if grant is None or not grant.bits or grant.bits & _DENY:
            return [DENY]
        return sorted(name for name, bit in _BITS.items() if grant.bits & bit)

    def rules(self) -> Iterator[tuple[str, list[str]]]:
        """Every pattern with its capabilities, as sys/internal/ui/resultant-acl shows them."""
        for pattern, grant in self._grants.items():
            names = sorted(name for name, bit in _BITS.items() if grant.bits & bit)
            yield pattern, [DENY] if grant.bits & _DENY else names

    def _find(self, path: str) -> Grant | None:
        """The rule that decides about a path without an exact rule.

        A path that ends in a slash is a folder, named with or without it (convention 28). Rules
        that match it with the slash come first; one that matches it without still decides if it
        denies and is the narrower one, else a slash would get a LIST past it (threat ACL-01).
        """
        if not path.endswith("/"):
            return self._best(path)[1]
        bare = path[:-1]
        exact = self._exact.get(bare)
        if exact is not None:
            return exact
        rank, grant = self._best(path)
        bare_rank, bare_grant = self._best(bare)
        if bare_grant is not None and (
            grant is None or (bare_grant.bits == _DENY and bare_rank > rank)
        ):
            return bare_grant
        return grant

    def _best(self, path: str) -> "tuple[tuple[int, bool, int, int, str], Grant | None]":
        """The wildcard rule that wins, and its rank."""
        rank, grant = _NO_RANK, None
        prefixes = self._prefixes
        for length in self._lengths:
            prefix = path[:length]
            grant = prefixes.get(prefix)
            if grant is not None:
                rank = (len(prefix), False, 0, len(prefix), prefix)
                break
        if self._by_head or self._anywhere:
            wildcards = self._by_head.get(path.partition("/")[0], self._anywhere)
            for wildcard in wildcards:
                if wildcard.rank < rank:
                    break
                if wildcard.matches.fullmatch(path):
                    return wildcard.rank, wildcard.grant
        return rank, grant


_NO_RANK: Final = (-1, False, 0, 0, "")


def _wildcard(pattern: str, grant: Grant) -> _Wildcard:
    """Compile a pattern with `+` segments. Its rank: see the module's docstring."""
    open_end = pattern.endswith("*")
    text = pattern[:-1] if open_end else pattern
    segments = text.split("/")
    expression = "/".join("[^/]*" if s == "+" else re.escape(s) for s in segments)
    pluses = segments.count("+")
    rank = (pattern.index("+"), not open_end, -pluses, len(text), text)
    head = segments[0] if segments[0] != "+" else None
    return _Wildcard(rank, re.compile(expression + ("(?s:.*)" if open_end else "")), head, grant)
