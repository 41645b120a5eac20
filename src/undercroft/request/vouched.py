"""A call that a secondary has admitted and sends on to its primary.

Tokens are local, so the primary cannot check the caller's: the secondary vouches for it. What it
may vouch for is bounded (THREATS R-16): the primary judges the policies itself, by its own text of
them, takes `root` only from a secondary that was activated with `forward_root`, and keeps every
caller within the ceiling that the secondary was given.
"""

from typing import Any, Final

import msgspec

from undercroft.engines.base import Call
from undercroft.errors import PermissionDenied
from undercroft.request.model import Request
from undercroft.request.token_entry import TokenEntry

_ROOT: Final = "root"
# Every cluster has its own of these, and an honest secondary never sends them on. A broken one must
# not widen by them what it may have (its filter, its ceiling), nor stop the primary.
_OWN_BUSINESS: Final = (
    "auth/token/",
    "sys/generate-root",
    "sys/init",
    "sys/locked-users",
    "sys/replication/",
    "sys/seal",
    "sys/unseal",
    "sys/wrapping/",
)
_YET_SHARED: Final = "auth/token/roles/"


class Vouched(msgspec.Struct, frozen=True):
    """Crosses the link between clusters; the request carries no token."""

    request: Request
    authenticated: bool = False  # False: the route is open to anyone
    policies: tuple[str, ...] = ()
    display_name: str = ""
    entity_id: str = ""
    prepared: Any = None  # what the handler's `prepare` returned

    def __repr__(self) -> str:
        return f"<Vouched {self.request!r}>"

    def token(self) -> TokenEntry:
        """The caller, as handlers look at it: no token of this cluster."""
        return TokenEntry(
            accessor="",
            policies=self.policies,
            path="",
            display_name=self.display_name,
            created_ms=0,
            expires_ms=0,
            ttl_seconds=0,
            entity_id=self.entity_id,
        )

    def bounded(self, *, forward_root: bool, ceiling: tuple[str, ...]) -> "Vouched":
        """As far as the secondary is believed. Raises PermissionDenied."""
        if _ROOT in self.policies and not forward_root:
            raise PermissionDenied(
                "the primary takes no root token's word from this secondary",
                hint="use a token with a policy, or write at the primary; a secondary-token made "
                "with forward_root=true allows it",
            )
        if not ceiling:
            return self
        within = tuple(name for name in self.policies if name in ceiling)
        return msgspec.structs.replace(self, policies=within)


def is_own_business(path: str) -> bool:
    """Whether a call there concerns one cluster alone: its role, seal, tokens."""
    return path.startswith(_OWN_BUSINESS) and not path.startswith(_YET_SHARED)


def vouch(call: Call, prepared: Any) -> Vouched:
    """What the primary is told of a call that was admitted here."""
    request = msgspec.structs.replace(call.request, token="")
    if call.caller is None:
        return Vouched(request, prepared=prepared)
    token = call.caller.token
    return Vouched(request, True, token.policies, token.display_name, token.entity_id, prepared)
