"""A store in a directory and calls on it, for tests of handlers: the real things, without HTTP."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.engines.base import Call, Caller, Engine
from undercroft.node.state import NodeState
from undercroft.observe.metrics import Metrics
from undercroft.replication.status import ReplicationStatus
from undercroft.request.audit import Auditor
from undercroft.request.model import Operation, Request
from undercroft.request.mounts import Mount, MountConfig
from undercroft.storage.keys import SYSTEM
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot, Transaction

NOW_MS = 1_790_000_000_123
SYS = Mount(SYSTEM, "sys/", "system", "system_1")


def keyring() -> Keyring:
    return Keyring((KeyTerm(1, bytes(32), 0),), bytes(32))


def open_store(directory: Path) -> Store:
    directory.mkdir(parents=True, exist_ok=True)
    store = Store.open(directory, writable=True, durable=False)
    store.set_keyring(keyring())
    return store


@contextmanager
def committed(store: Store) -> Iterator[Transaction]:
    """A transaction that is committed at the end of the block."""
    batch = store.batch()
    try:
        tx = batch.transaction()
        yield tx
        batch.accept(tx)
        batch.commit()
    except BaseException:
        batch.abort()
        raise


class Rules:
    """An ACL of patterns, as far as visibility needs it."""

    def __init__(self, rules: Mapping[str, list[str]], *, is_root: bool = False) -> None:
        self.is_root = is_root
        self._rules = dict(rules)

    def rules(self) -> Iterable[tuple[str, list[str]]]:
        return self._rules.items()


class Table:
    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.mounts = {mount.path: mount for mount in mounts}

    def match(self, path: str) -> Mount | None:
        return next((m for p, m in self.mounts.items() if path.startswith(p)), None)


class Tokens:
    """Knows the token ids that a test gives rules to."""

    def __init__(self, known: Mapping[str, Rules]) -> None:
        self.known = dict(known)

    def lookup(self, view: object, token: str, now_ms: int) -> Any:
        if token not in self.known:
            return None
        return SimpleNamespace(policies=(token,), bound_cidrs=())

    def acl_for(self, view: object, policies: tuple[str, ...]) -> Rules:
        return self.known[policies[0]]


def mount(path: str, kind: str, **config: Any) -> Mount:
    return Mount(
        path.encode().ljust(16, b"\0")[:16], path, kind, kind, config=MountConfig(**config)
    )


def call_on(
    view: Snapshot | None = None,
    *,
    path: str = "sys/x",
    operation: Operation = Operation.READ,
    token: str = "",
    params: dict[str, str] | None = None,
    fields: dict[str, Any] | None = None,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    state: NodeState | None = None,
    mounts: Iterable[Mount] = (SYS,),
    tokens: Mapping[str, Rules] | None = None,
    engines: Mapping[str, Engine] | None = None,
    audit: Auditor | None = None,
    metrics: Metrics | None = None,
) -> Call:
    """A call as the pipeline would make it. With `token`, the caller has that token's rules."""
    table, known = Table(mounts), Tokens(tokens or {})
    services: Any = SimpleNamespace(
        state=state or NodeState(initialized=True, sealed=False),
        mounts=SimpleNamespace(table=lambda _: table),
        tokens=known,
        policies=known,
        engines=engines or {},
        audit=audit or Auditor(),
        metrics=metrics or Metrics(),
        replication=ReplicationStatus(),
    )
    request = Request("r-1", operation, path, token=token, query=query or {}, headers=headers or {})
    rules: Any = known.known.get(token)
    caller = Caller(known.lookup(view, token, NOW_MS), rules) if rules is not None else None
    return Call(
        request,
        SYS,
        view,  # type: ignore[arg-type]
        NOW_MS,
        services,
        params or {},
        {**(fields or {}), **(params or {})},
        caller,
    )
