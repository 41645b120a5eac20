"""Two servers, one request: the answers must be the same.

`Pair.same` sends a request to OpenBao and to Undercroft and compares status and body, field by
field, after the normalisations listed below. The list is short and reviewed: whatever is not in it
must be equal. What differs on purpose is said in the test, by `errors=False` or `ignore=`, with the
reason beside it.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from tests.support.oracle import Oracle
from tests.support.undercroft import Answer, Client

# Values that no two servers share: replaced by their type, so presence and type still count.
OWN_VALUES = frozenset(
    {
        "request_id",
        "accessor",
        "uuid",
        "id",
        "client_token",
        "token",
        "wrapped_accessor",
        "created_time",
        "creation_time",
        "updated_time",
        "deletion_time",
        "issue_time",
        "expire_time",
        "last_renewal",
        "last_renewal_time",
        "install_time",
        "running_plugin_version",
        "cluster_id",
        "cluster_name",
        "server_time_utc",
        "version",
        "build_date",
        "nonce",
        "otp",
        "migration_id",
        "mount_accessor",
    }
)
# Seconds that run: equal within a few.
CLOCKS = frozenset({"ttl", "lease_duration", "creation_ttl", "time"})
CLOCK_TOLERANCE_SECONDS = 3
# What OpenBao answers and this server does not have yet, with the reason.
ABSENT_HERE = {
    "identity/": "the identity engine is not built yet",
}


@dataclass
class Pair:
    """OpenBao and Undercroft side by side; `names` maps what each calls the same thing."""

    oracle: Oracle
    ours: Client
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)

    def both(
        self,
        method: str,
        path: str | tuple[str, str],
        body: Any = None,
        *,
        token: str = "root",
        headers: dict[str, str] | None = None,
    ) -> tuple[Answer, Answer]:
        """Send it to both; a tuple for what differs by server (theirs, ours)."""
        theirs_token, ours_token = self.tokens.get(token, (token, token))
        paths = path if isinstance(path, tuple) else (path, path)
        bodies = body if isinstance(body, tuple) else (body, body)
        sent = dict(headers or {})
        theirs = Client("127.0.0.1", self.oracle.port).request(
            method, paths[0], bodies[0], token=theirs_token, headers=sent
        )
        ours = self.ours.request(method, paths[1], bodies[1], token=ours_token, headers=sent)
        return theirs, ours

    def same(
        self,
        method: str,
        path: str | tuple[str, str],
        body: Any = None,
        *,
        token: str = "root",
        headers: dict[str, str] | None = None,
        errors: bool = True,
        ignore: frozenset[str] | set[str] = frozenset(),
        status: int | None = None,
    ) -> Answer:
        """Ours, after it proved equal to theirs. `status` also pins the fact itself."""
        theirs, ours = self.both(method, path, body, token=token, headers=headers)
        where = f"{method} {path}"
        assert ours.status == theirs.status, (where, theirs, ours)
        if status is not None:
            assert ours.status == status, (where, ours)
        if not errors and ours.status >= 400:
            assert isinstance(ours.body, dict), (where, ours)
            return ours
        left, right = normalized(theirs.body, ignore), normalized(ours.body, ignore)
        different = "\n".join(differences(left, right))
        assert not different, f"{where}\n{different}"
        return ours

    def remember(self, name: str, theirs: Answer, ours: Answer) -> None:
        """Name the tokens of two `auth` blocks, for `token=name`."""
        self.tokens[name] = (
            theirs.body["auth"]["client_token"],
            ours.body["auth"]["client_token"],
        )

    def login(self, name: str, method: str, path: str, body: Any, **more: Any) -> None:
        theirs, ours = self.both(method, path, body, **more)
        assert theirs.status == ours.status == 200, (theirs, ours)
        self.remember(name, theirs, ours)


def normalized(value: Any, ignore: frozenset[str] | set[str] = frozenset()) -> Any:
    if isinstance(value, dict):
        return {
            key: _own(part) if key in OWN_VALUES else normalized(part, ignore)
            for key, part in value.items()
            if key not in ignore and key not in ABSENT_HERE
        }
    if isinstance(value, list):
        return [normalized(part, ignore) for part in value]
    if isinstance(value, str):
        return re.sub(r"\b(OpenBao|Vault|openbao|vault|bao)\b", "the server", value)
    return value


def _own(value: Any) -> Any:
    """The type and whether it is empty: a deletion_time of "" is not one that is set."""
    if isinstance(value, dict | list):
        return normalized(value)
    return f"<{type(value).__name__}{'' if value else ' empty'}>"


def differences(left: Any, right: Any, at: str = "") -> list[str]:
    """Every place where OpenBao's (left) and ours (right) differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = []
        for key in sorted(left.keys() | right.keys()):
            here = f"{at}.{key}" if at else key
            if key not in right:
                found.append(f"{here}: only OpenBao has it: {left[key]!r}")
            elif key not in left:
                found.append(f"{here}: only Undercroft has it: {right[key]!r}")
            else:
                found += differences(left[key], right[key], here)
        return found
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            line
            for index, pair in enumerate(zip(left, right, strict=True))
            for line in differences(*pair, f"{at}[{index}]")
        ]
    if at.rsplit(".", 1)[-1] in CLOCKS and _close(left, right):
        return []
    return [] if left == right else [f"{at}: OpenBao {left!r}, Undercroft {right!r}"]


def _close(left: Any, right: Any) -> bool:
    return (
        isinstance(left, int)
        and isinstance(right, int)
        and abs(left - right) <= CLOCK_TOLERANCE_SECONDS
    )
