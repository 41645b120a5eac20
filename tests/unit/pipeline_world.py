"""The real pipeline over a store in a directory, as a worker and a writer run it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tests.unit.node import NOW_MS, committed, open_store
from undercroft.barrier.seal import SealManager
from undercroft.config.settings import Seal, Settings, Storage
from undercroft.engines import registry
from undercroft.engines.base import Services
from undercroft.errors import ReadOnly
from undercroft.node.state import NodeState
from undercroft.observe.metrics import Metrics
from undercroft.request.audit import Auditor
from undercroft.request.lifetimes import Limits
from undercroft.request.model import Auth, Operation, Request, Response
from undercroft.request.mounts import MountTable
from undercroft.request.pipeline import Facts, Pipeline
from undercroft.request.policies import PolicyStore
from undercroft.request.tokens import TokenEntry, TokenStore
from undercroft.request.work import work


class Node:
    """One process with everything in it. `ask` is the writer's way, `look` the worker's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ms = NOW_MS
        self.open()
        with self.transaction() as tx:
            self.services.mounts.bootstrap(tx)
            self.services.policies.bootstrap(tx, self.now_ms)
            self.root = self.services.tokens.bootstrap(tx, self.now_ms)

    def open(self) -> None:
        self.store = open_store(self.directory)
        self.services = services()
        self.pipeline = Pipeline(self.services)

    def restart(self) -> None:
        """A new process on the same files."""
        self.store.close()
        self.open()

    def transaction(self) -> Any:
        return committed(self.store)

    # requests

    def request(
        self,
        path: str,
        operation: Operation = Operation.UPDATE,
        token: str | None = None,
        **fields: Any,
    ) -> Request:
        body = msgspec.json.encode(fields) if fields else b""
        return Request(
            "id",
            operation,
            path,
            self.root if token is None else token,
            body=body,
            remote_address="127.0.0.1",
        )

    def look(self, request: Request) -> Response:
        """Over a snapshot, as a worker does. Raises ReadOnly when it must be written."""
        with self.store.snapshot() as view:
            return self.pipeline.run(self.pipeline.admit(request, view, self.now_ms, Facts()))

    def execute(self, request: Request, prepared: Any = None) -> Response:
        """In a transaction, as the writer does: an error commits what the pipeline kept."""
        batch = self.store.batch(lambda: self.now_ms)
        tx = batch.transaction()
        try:
            return self.pipeline.execute(request, tx, self.now_ms, prepared)
        finally:
            batch.accept(tx)
            batch.commit()

    def ask(
        self,
        path: str,
        operation: Operation = Operation.UPDATE,
        token: str | None = None,
        **fields: Any,
    ) -> Response:
        """A whole request: prepared in a worker if it has to be, executed in the writer."""
        request = self.request(path, operation, token, **fields)
        prepared = None
        with self.store.snapshot() as view, suppress(ReadOnly):  # then the writer admits it
            admitted = self.pipeline.admit(request, view, self.now_ms, Facts())
            if admitted.handler.prepare is not None:
                prepared = admitted.handler.prepare(admitted.call)
        return self.execute(self.request(path, operation, token, **fields), prepared)

    # short forms

    def read(self, path: str, token: str | None = None) -> Any:
        return self.ask(path, Operation.READ, token).data

    def token(self, *policies: str, **fields: Any) -> Auth:
        auth = self.ask("auth/token/create", policies=list(policies), **fields).auth
        assert auth is not None
        return auth

    def policy(self, name: str, text: str) -> None:
        self.ask(f"sys/policies/acl/{name}", policy=text)

    def entry(self, token: str) -> TokenEntry | None:
        with self.store.snapshot() as view:
            return self.services.tokens.lookup(view, token, self.now_ms)

    def slice(self) -> bool:
        """One slice of queued work."""
        with self.transaction() as tx:
            return work(tx, self.services)

    def settle(self) -> None:
        while self.slice():
            pass


def seal_manager() -> SealManager:
    """One that nobody talks to, for a writer that needs one."""
    return SealManager(
        Seal(),
        on_keyring=lambda _: None,
        on_sealed=lambda: None,
        on_progress=lambda: None,
        bootstrap=lambda *_: "",
    )


def services() -> Services:
    return Services(
        settings=Settings(storage=Storage(type="inmem"), listeners=()),
        state=NodeState(initialized=True, sealed=False),
        mounts=MountTable(),
        tokens=TokenStore(Limits()),
        policies=PolicyStore(),
        metrics=Metrics(),
        audit=Auditor(),
        engines=registry.ENGINES,
    )
