"""The stored policies: writing them, and the rules that a token's names add up to.

They live in the shared keyspace under SYSTEM, so every commit that touches one raises the
generation, and what was compiled under an older one is not used again (DESIGN idea 6).
"""

import unicodedata
from collections.abc import Mapping
from typing import Final

import msgspec

from undercroft.errors import InvalidRequest
from undercroft.request.acl import ROOT, Acl
from undercroft.request.default_policies import DEFAULT, RESPONSE_WRAPPING, TEXTS
from undercroft.request.policy import Policy, parse_policy
from undercroft.request.policy_names import check_policy_names
from undercroft.storage.keys import SHARED, SYSTEM
from undercroft.storage.view import Snapshot, Space

__all__ = ["PolicyStore", "StoredPolicy", "check_policy_names"]

NAME_BYTES_MAX: Final = 512
TEXT_BYTES_MAX: Final = 256 * 1024  # parsed in the writer: at worst a quarter of a second
_PREFIX: Final = "policies/acl/"
_ACLS_MAX: Final = 4096  # sets of policy names; a set is some kilobytes
_PARSED_MAX: Final = 1024
_FIXED: Final = (ROOT, RESPONSE_WRAPPING)


class StoredPolicy(msgspec.Struct, frozen=True):
    """A policy as written. `version` counts the writes, for check-and-set."""

    name: str
    text: str
    modified_ms: int = 0
    version: int = 0
    cas_required: bool = False

    def __repr__(self) -> str:
        return f"<StoredPolicy {self.name!r} version={self.version}>"


_ROOT_POLICY: Final = StoredPolicy(ROOT, "")


class PolicyStore:
    """One per process. Keeps nothing but caches: the truth is in the view that is passed."""

    def __init__(self) -> None:
        # Tuples, never joined texts: no name can pretend to be another set of names (ACL-13).
        self._by_generation: dict[tuple[int, tuple[str, ...]], Acl] = {}
        self._by_records: dict[tuple[str, ...], tuple[list[bytes | None], Acl]] = {}
        self._parsed: dict[tuple[str, str], Policy] = {}

    def forget(self) -> None:
        """Drop everything cached: the node seals."""
        self._by_generation.clear()
        self._by_records.clear()
        self._parsed.clear()

    def bootstrap(self, tx: Snapshot, now_ms: int) -> None:
        """Write the policies that every cluster starts with."""
        for name, text in TEXTS.items():
            _space(tx).write(_PREFIX + name, StoredPolicy(name, text, now_ms, version=1))

    # one policy

    def get(self, view: Snapshot, name: str) -> StoredPolicy | None:
        if name == ROOT:
            return _ROOT_POLICY
        return _space(view).read(_PREFIX + name, StoredPolicy)

    def exists(self, view: Snapshot, name: str) -> bool:
        return self.get(view, name) is not None

    def list(self, view: Snapshot) -> list[str]:
        """Names, sorted. `root` is one although nothing is stored; the internal one is not."""
        names = set(_space(view).list(_PREFIX)) - {RESPONSE_WRAPPING}
        return sorted(names | {ROOT}, key=str.encode)

    def put(
        self,
        view: Snapshot,
        name: str,
        text: str,
        now_ms: int,
        cas: int | None = None,
        cas_required: bool | None = None,
    ) -> None:
        """Create or replace a policy.

        `cas` is the version it must have, -1 for none yet; `cas_required=None` keeps what is set.
        Raises InvalidRequest for a text, name or version that does not hold, ReadOnly on a
        snapshot.
        """
        name = name.lower()
        if name in _FIXED:
            raise InvalidRequest(f'cannot update "{name}" policy')
        _check_new_name(name)
        old = self.get(view, name) or StoredPolicy(name, "")
        required = old.cas_required if cas_required is None else cas_required
        _check_version(old, cas, required)
        if len(text.encode(errors="replace")) > TEXT_BYTES_MAX:
            raise InvalidRequest(f"the policy is longer than {TEXT_BYTES_MAX} bytes")
        parse_policy(name, text)
        new = StoredPolicy(name, text, now_ms, old.version + 1, required)
        _space(view).write(_PREFIX + name, new)

    def delete(self, view: Snapshot, name: str) -> None:
        """Raises InvalidRequest for a built-in policy; one that is not there is no error."""
        name = name.lower()
        if name == DEFAULT:
            raise InvalidRequest("cannot delete default policy")
        if name in _FIXED:
            raise InvalidRequest(f'cannot delete "{name}" policy')
        _space(view).delete(_PREFIX + name)

    # what they add up to

    def acl_for(
        self,
        view: Snapshot,
        names: tuple[str, ...],
        identity: Mapping[str, str] | None = None,
    ) -> Acl:
        """The rules of a token with these policies. A policy that is not there grants nothing.

        With `identity` (the values of template names) the result is the caller's own and is not
        kept, so callers cannot fill the memory (threat ACL-06).
        """
        if ROOT in names:
            return Acl.root()
        if identity is not None:
            return self._compile(view, names, identity)
        if view.writable:
            return self._of_transaction(view, names)
        key = (view.generation, names)
        acl = self._by_generation.get(key)
        if acl is None:
            acl = self._compile(view, names)
            if len(self._by_generation) >= _ACLS_MAX:
                self._by_generation.clear()
            self._by_generation[key] = acl
        return acl

    def _of_transaction(self, view: Snapshot, names: tuple[str, ...]) -> Acl:
        """In the writer policies change before the generation does, and may be rolled back.

        So here a compiled ACL holds only for the very records that it was made of.
        """
        space = _space(view)
        records = [view.raw(space.prefix + (_PREFIX + name).encode()) for name in names]
        known = self._by_records.get(names)
        if known is not None and known[0] == records:
            return known[1]
        acl = self._compile(view, names)
        if len(self._by_records) >= _ACLS_MAX:
            self._by_records.clear()
        self._by_records[names] = (records, acl)
        return acl

    def _compile(
        self, view: Snapshot, names: tuple[str, ...], identity: Mapping[str, str] | None = None
    ) -> Acl:
        policies = []
        for name in names:
            stored = self.get(view, name)
            if stored is not None:
                try:
                    policies.append(self._parse(stored))
                except InvalidRequest:
                    # Written by a version that knows more, perhaps a denial: nothing is allowed.
                    return Acl(closed=True)
        return Acl.compile(policies, identity)

    def _parse(self, stored: StoredPolicy) -> Policy:
        key = (stored.name, stored.text)
        policy = self._parsed.get(key)
        if policy is None:
            policy = parse_policy(*key)
            if len(self._parsed) >= _PARSED_MAX:
                self._parsed.clear()
            self._parsed[key] = policy
        return policy


def _space(view: Snapshot) -> Space:
    return Space(view, SHARED, SYSTEM)


def _check_version(old: StoredPolicy, cas: int | None, required: bool) -> None:
    if cas is None:
        if required:
            raise InvalidRequest("check-and-set parameter required for this call")
    elif cas == -1:
        if old.version:
            raise InvalidRequest("check-and-set parameter set to -1 on existing entry")
    elif cas != old.version:
        raise InvalidRequest(
            f"check-and-set parameter did not match the current version {old.version}"
        )


def _check_new_name(name: str) -> None:
    """Names must be what they look like: they are attached by text, and listed beside others."""
    if not name or len(name.encode(errors="replace")) > NAME_BYTES_MAX:
        raise InvalidRequest(f"a policy's name has 1 to {NAME_BYTES_MAX} bytes")
    if "/" in name or name in (".", "..") or name != name.strip():
        raise InvalidRequest("a policy's name has no slashes, no spaces around it, and is no dots")
    if any(unicodedata.category(character)[0] in "CZ" for character in name if character != " "):
        raise InvalidRequest("a policy's name has no control or invisible characters")
    check_policy_names((name,))
    if unicodedata.normalize("NFKC", name) != name:
        raise InvalidRequest("a policy's name must be in Unicode's composed, compatible form")
