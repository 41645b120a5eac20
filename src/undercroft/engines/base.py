"""How an engine declares what it serves: routes, fields, handlers.

An engine is a table of routes and functions over a `Call`. The same table drives dispatch, field
validation, the unknown-parameter warning, `?help=1` and the OpenAPI document, so none of them can
disagree with what really runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

from undercroft.replication.status import ReplicationStatus
from undercroft.request.model import Auth, Operation, Request, Response
from undercroft.storage.view import Snapshot, Space

if TYPE_CHECKING:
    from undercroft.barrier.seal import SealManager
    from undercroft.config import Settings
    from undercroft.node.state import NodeState
    from undercroft.observe.metrics import Metrics
    from undercroft.replication.control import Question, Reply
    from undercroft.request.acl import Acl
    from undercroft.request.audit import Auditor
    from undercroft.request.mounts import Mount, MountTable
    from undercroft.request.policies import PolicyStore
    from undercroft.request.tokens import TokenEntry, TokenStore
    from undercroft.storage.store import Store


class Kind(Enum):
    """Type of a field: what JSON (or text, from form bodies and CLIs) is accepted as it."""

    STRING = auto()  # text; numbers and booleans become their text
    INT = auto()  # integer, or its text
    BOOL = auto()  # boolean, 0/1, or the text true/false/1/0/t/f
    DURATION = auto()  # integer seconds, or "90", "90s", "1h30m"; the value is int seconds
    LIST = auto()  # array of text, or text split at commas
    INTS = auto()  # array of integers, or text split at commas
    STRINGS = auto()  # object of text values
    OBJECT = auto()  # any object, decoded
    RAW = auto()  # any JSON, undecoded: msgspec.Raw


@dataclass(frozen=True)
class Field:
    """A parameter of a route, from the body, the query or the path."""

    name: str
    kind: Kind = Kind.STRING
    doc: str = ""
    default: Any = None
    deprecated: bool = False


@dataclass(frozen=True)
class Caller:
    """Who asks: a validated token and the rules that its policies give it."""

    token: "TokenEntry"
    acl: "Acl"


@dataclass
class Services:
    """What the node lends to system handlers; engines that need none of it never look.

    Filled by the process that runs the pipeline. `state` is replaced whole when the writer pushes
    a new one, so read it afresh in every call.
    """

    settings: "Settings"
    state: "NodeState"
    mounts: "MountTable"
    tokens: "TokenStore"
    policies: "PolicyStore"
    metrics: "Metrics"
    audit: "Auditor"
    seal: "SealManager | None" = None  # in the writer only
    replication: ReplicationStatus = field(default_factory=ReplicationStatus)
    # Asks the replicator of this node, from a `prepare` (`replication/control.py`).
    ask_replicator: "Callable[[Question], Reply] | None" = None
    has_cluster_port: bool = True
    store: "Store | None" = None  # of this process, for what reads all of it
    engines: Mapping[str, "Engine"] = field(default_factory=dict)


@dataclass
class Call:
    """One handler call: everything it may look at."""

    request: Request
    mount: "Mount"
    view: Snapshot  # a Transaction in the writer
    now_ms: int  # Unix milliseconds; the only clock a handler has
    services: Services
    params: dict[str, str] = field(default_factory=dict)  # from the pattern
    fields: dict[str, Any] = field(default_factory=dict)  # declared fields that were sent
    caller: Caller | None = None  # None on open routes
    prepared: Any = None  # what `prepare` returned

    @property
    def store(self) -> Space:
        """The mount's data: shared, or local for a mount with `local=true`."""
        return Space(self.view, self.mount.keyspace, self.mount.id)

    @property
    def local(self) -> Space:
        """Data of this mount that never leaves the cluster (but to its DR copies)."""
        return Space(self.view, b"l", self.mount.id)

    def get(self, name: str, default: Any = None) -> Any:
        """A field's value, or the default when it was not sent."""
        return self.fields.get(name, default)


class Apply(Protocol):
    def __call__(self, call: Call) -> Response | None: ...


@dataclass(frozen=True)
class Handler:
    """What serves one operation of a route.

    `apply` is synchronous and quick; with `writes` it runs in the writer at once, without, it runs
    where the request landed and moves up when it writes after all. `prepare` runs first, in a
    worker's thread over a read-only view, may be slow, and returns something MessagePack can carry;
    `apply` must check that what it relied on still holds (DESIGN idea 8).
    """

    apply: Apply
    writes: bool = False
    prepare: Callable[[Call], Any] | None = None
    summary: str = ""


@dataclass(frozen=True)
class Route:
    """A path pattern below the mount: literals, `{name}` for one segment, `{name*}` for the rest.

    `{name*}` matches one or more segments, or with a LIST also nothing at all. `exists` decides
    between CREATE and UPDATE; without it every write is an UPDATE. `lower` names parameters that
    are lower-cased before the policy check sees the path (convention 33). `open` needs no token.
    `sudo` needs the sudo capability as well; a policy's deny of
    `twin` denies this path too. `raw_body`: the body is the handler's business (`request.body`),
    no field is parsed and none is unknown.
    """

    pattern: str
    handlers: Mapping[Operation, Handler]
    fields: tuple[Field, ...] = ()
    exists: Callable[[Call], bool] | None = None
    lower: tuple[str, ...] = ()
    open: bool = False
    sealed: bool = False  # answers while sealed or uninitialised
    sudo: bool = False
    twin: str = ""  # the path below the mount whose denial counts here, too
    raw_body: bool = False
    summary: str = ""
    description: str = ""


@dataclass(frozen=True)
class Engine:
    """A type of mount: `kv`, `cubbyhole`, `userpass`, `token`, `system` …"""

    type: str
    routes: tuple[Route, ...]
    description: str = ""
    auth: bool = False  # mounted below auth/
    # Types with several route tables (KV by its version) choose one for a mount.
    variant: Callable[["Mount"], "Engine"] | None = None
    # Checks options and configuration of a new mount (None) or a tuned one (as it was before);
    # raises InvalidRequest.
    check: Callable[["Mount", "Mount | None"], None] | None = None
    # For entries that a failover set aside: what an entry's name means to people, and writing one
    # again as a new write (`restore` raises InvalidRequest for what it cannot).
    describe: Callable[["Mount", str], str] | None = None
    restore: Callable[[Space, str, bytes, int], None] | None = None
    # Auth engines: would the login that gave this token still be granted? Answers with the TTLs
    # as they are now; raises InvalidRequest to refuse the renewal. `call.mount` is the login's.
    renew: Callable[[Call, "TokenEntry"], Auth] | None = None


def writes(apply: Apply, **more: Any) -> dict[Operation, Handler]:
    """CREATE and UPDATE served by one function."""
    handler = Handler(apply, writes=True, **more)
    return {Operation.CREATE: handler, Operation.UPDATE: handler}


def reads(apply: Apply, **more: Any) -> dict[Operation, Handler]:
    return {Operation.READ: Handler(apply, **more)}


def lists(apply: Apply, **more: Any) -> dict[Operation, Handler]:
    return {Operation.LIST: Handler(apply, **more)}


def deletes(apply: Apply, **more: Any) -> dict[Operation, Handler]:
    return {Operation.DELETE: Handler(apply, writes=True, **more)}
