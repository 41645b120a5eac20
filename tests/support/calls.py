"""Engine calls without HTTP, tokens and policies: real routes and fields over a real store.

A call matches its route and parses its fields with the pipeline's own code, then runs in a
transaction that is committed if it succeeds. Handlers that do not declare writing run over a
snapshot, so one that writes after all fails here as it would be forwarded there.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.engines.base import Call, Caller, Engine
from undercroft.request.dispatch import Match, Routes, parse_fields
from undercroft.request.model import Operation, Request, Response
from undercroft.request.mounts import Mount
from undercroft.request.token_entry import TokenEntry
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot

START_MS = 1_790_000_000_123
DEFAULT_LEASE_SECONDS = 2_764_800
READ, WRITE, PATCH = Operation.READ, Operation.UPDATE, Operation.PATCH
DELETE, LIST, SCAN = Operation.DELETE, Operation.LIST, Operation.SCAN


class Calls:
    """One engine mounted over a store. `now_ms` moves only when a test moves it."""

    def __init__(
        self, directory: Path, engine: Engine, mount: Mount, *, durable: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.store = Store.open(directory, writable=True, durable=durable)
        self.store.set_keyring(Keyring((KeyTerm(1, bytes(32), 0),), bytes(32)))
        self.mount = mount
        self.now_ms = START_MS
        self.token: TokenEntry | None = None
        self.warnings: list[str] = []  # of the last call, as the pipeline would add them
        self._routes = Routes(engine)
        settings = SimpleNamespace(default_lease_ttl=DEFAULT_LEASE_SECONDS)
        self._services = cast(Any, SimpleNamespace(settings=settings))

    def close(self) -> None:
        self.store.close()

    def request(
        self,
        operation: Operation,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
    ) -> tuple[Match, Request]:
        """`body`: bytes as they are, or a JSON value. The path of a listing gets its slash."""
        if operation in (LIST, SCAN) and path and not path.endswith("/"):
            path += "/"
        raw = body if isinstance(body, bytes) else b""
        if body is not None and not isinstance(body, bytes):
            raw = msgspec.json.encode(body)
        texts = {name: str(value) for name, value in (query or {}).items()}
        request = Request("r", operation, self.mount.path + path, body=raw, query=texts)
        return self._routes.match(path, operation), request

    def call(self, match: Match, request: Request, view: Snapshot) -> Response | None:
        """One handler call over the given view."""
        fields, self.warnings = parse_fields(
            match.fields, request, match.params, body=not match.route.raw_body
        )
        caller = None if self.token is None else Caller(self.token, cast(Any, None))
        call = Call(
            request,
            self.mount,
            view,
            self.now_ms,
            self._services,
            match.params,
            fields,
            caller=caller,
        )
        if request.operation is WRITE and match.route.exists and not match.route.exists(call):
            request.operation = Operation.CREATE
        return match.route.handlers[request.operation].apply(call)

    def send(
        self,
        operation: Operation,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
    ) -> Response | None:
        """Raises what the handler raises; then nothing is written."""
        match, request = self.request(operation, path, body, query)
        if not match.route.handlers[operation].writes:
            with self.store.snapshot() as view:
                return self.call(match, request, view)
        batch = self.store.batch(lambda: self.now_ms)
        try:
            tx = batch.transaction()
            response = self.call(match, request, tx)
            batch.accept(tx)
            batch.commit()
        except BaseException:
            batch.abort()
            raise
        return response

    def names(self) -> list[str]:
        """Every entry of the mount, as the store has it."""
        head = self.mount.keyspace + self.mount.id
        with self.store.snapshot() as view:
            return [key[len(head) :].decode() for key in view.keys(head)]

    # shorthands

    def read(self, path: str, **query: Any) -> Any:
        return data_of(self.send(READ, path, None, query))

    def write(self, path: str, body: Any) -> Any:
        return data_of(self.send(WRITE, path, body))

    def patch(self, path: str, body: Any) -> Any:
        return data_of(self.send(PATCH, path, body))

    def delete(self, path: str) -> Any:
        return data_of(self.send(DELETE, path))

    def list(self, path: str, **query: Any) -> Any:
        return data_of(self.send(LIST, path, None, query))

    def scan(self, path: str, **query: Any) -> Any:
        return data_of(self.send(SCAN, path, None, query))


def text_of(response: Response | None) -> bytes:
    """`data` as it goes out."""
    return b"" if response is None else msgspec.json.encode(response.data)


def data_of(response: Response | None) -> Any:
    return None if response is None else msgspec.json.decode(text_of(response))
