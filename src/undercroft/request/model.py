"""The shapes that travel the request path: what was asked, by whom, and what is answered.

The edge turns HTTP into a `Request` and a `Response` into HTTP; nothing between knows about HTTP.
A `Request` also crosses the socket to the writer, so it holds only what MessagePack can carry.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from undercroft.storage.wal import Position


class Operation(StrEnum):
    """What a policy grants and a handler serves. POST and PUT become CREATE or UPDATE."""

    CREATE = "create"
    READ = "read"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    LIST = "list"
    SCAN = "scan"
    HELP = "help"


class Request(msgspec.Struct):
    """One request, as the edge understood it.

    `path` is canonical: below `/v1/`, decoded, no leading slash, no empty or dot segments. A LIST
    path always ends in one slash; other paths keep the slash they came with (it is an error there).
    `operation` is UPDATE for POST and PUT until the pipeline knows whether the object exists.
    `body` is the raw JSON object, `b""` when there was none; `query` are the URL's parameters,
    decoded, the first of each name, without those that the edge itself consumed (list, scan, help).
    """

    id: str
    operation: Operation
    path: str
    token: str = ""
    body: bytes = b""
    query: dict[str, str] = {}
    wrap_ttl_seconds: int | None = None  # None: no wrapping asked
    wrap_format: str = ""  # "" or "jwt"
    headers: dict[str, str] = {}  # lower-case names; never the token's headers
    remote_address: str = ""
    remote_port: int = 0
    misspelt: str = ""  # the path as it came, if that is one of the founding page's slips
    open_metrics: bool = False  # its listener serves sys/metrics without a token
    redacted: frozenset[str] = frozenset()  # what its listener keeps back (`Listener.redacted`)

    def unless_redacted(self, what: str, text: str) -> str:
        """The text, or none where the listener keeps back what it is."""
        return "" if what in self.redacted else text

    def __repr__(self) -> str:
        return f"<Request {self.id} {self.operation} {self.path}>"  # never token, body, query


class WrapInfo(msgspec.Struct):
    """Where a wrapped answer waits. `token` is a secret."""

    token: str
    accessor: str
    ttl: int
    creation_time: str
    creation_path: str
    wrapped_accessor: str | None = None  # None: not shown

    def __repr__(self) -> str:
        return f"<WrapInfo ttl={self.ttl} creation_path={self.creation_path!r}>"


class Auth(msgspec.Struct):
    """A login's or token creation's result; the pipeline issues the token that it describes.

    A handler fills what its method knows (policies, metadata, TTLs of its role); `request/tokens`
    clamps them by mount and system, issues the token and fills the rest. What has been issued
    already (`issued`: a token created, renewed or unwrapped by the handler) is left as it is.
    """

    policies: list[str] = []  # as asked by the method, before `default` is added
    display_name: str = ""
    metadata: dict[str, str] = {}
    ttl_seconds: int = 0  # 0: the mount's default
    max_ttl_seconds: int = 0  # 0: the mount's maximum
    explicit_max_ttl_seconds: int = 0
    period_seconds: int = 0
    num_uses: int = 0  # 0: without limit
    renewable: bool = True
    no_default_policy: bool = False
    bound_cidrs: list[str] = []
    strictly_bind_ip: bool = False
    token_type: str = "service"  # noqa: S105 - "service" or "batch"
    orphan: bool = True
    entity_id: str = ""
    alias_name: str = ""  # the canonical user, for lockout and (later) identity
    # filled at issue
    client_token: str = ""
    accessor: str = ""
    token_policies: list[str] = []
    identity_policies: list[str] = []
    lease_duration: int = 0

    @property
    def issued(self) -> bool:
        return bool(self.client_token or self.accessor)

    def __repr__(self) -> str:
        return f"<Auth {self.display_name!r} policies={self.policies!r}>"


class RawBody(msgspec.Struct):
    """An answer that is not the JSON envelope (health, metrics, seal-status, OpenAPI)."""

    status: int
    content_type: str
    body: bytes

    def __repr__(self) -> str:
        return f"<RawBody {self.status} {self.content_type} {len(self.body)} bytes>"


class Response(msgspec.Struct):
    """What a handler answers. `None` instead of a Response means 204.

    `data` is anything `msgspec.json.encode` takes, `msgspec.Raw` included (stored JSON goes out
    as it came in). `status` 0 means 200, or 204 if there is nothing at all to say. `repeat_data`:
    the keys of `data` also stand at the top level (convention 04).
    """

    data: Any = None
    warnings: list[str] | None = None
    auth: Auth | None = None
    wrap_info: WrapInfo | None = None
    raw: RawBody | None = None
    status: int = 0
    repeat_data: bool = False
    renewable: bool = False
    lease_id: str = ""
    lease_duration: int = 0
    headers: dict[str, str] = {}
    position: Position | None = None  # of the commit that made it, for X-Vault-Index

    def __repr__(self) -> str:
        return f"<Response status={self.status}>"

    def warn(self, text: str) -> "Response":
        self.warnings = [*(self.warnings or []), text]
        return self


NOTHING: Final = Response(status=204)
