"""A store, a clock and the engines of this area, driven as the pipeline drives them.

The store, the token store and the handlers are the real ones. Policies stand in as a set of paths
for `sudo`: what they decide is tested elsewhere.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.engines.auth import token, userpass
from undercroft.engines.base import Call, Caller, Engine, Route
from undercroft.engines.system import locked_users, wrapping
from undercroft.errors import UndercroftError
from undercroft.node.state import NodeState
from undercroft.request.lifetimes import Limits
from undercroft.request.model import Auth, Operation, Request, Response
from undercroft.request.mounts import Mount, MountConfig
from undercroft.request.tokens import TokenEntry, TokenStore
from undercroft.request.wrapping import wrap
from undercroft.storage.store import Store
from undercroft.storage.view import Snapshot, Transaction

START_MS = 1_800_000_000_000
SYSTEM_ROUTES = (*wrapping.ROUTES, *locked_users.ROUTES)


class FakeAcl:
    """Allows everything that exists; `sudo` only on the paths given."""

    def __init__(self, policies: tuple[str, ...], sudo_paths: set[str]) -> None:
        self.is_root = "root" in policies
        self._policies, self._sudo_paths = policies, sudo_paths

    def sudo(self, path: str) -> bool:
        return path in self._sudo_paths and "sudo" in self._policies

    def allows(self, operation: Operation, path: str, *_: object) -> bool:
        return "default" in self._policies or "tk" in self._policies


class World:
    """One node's data. `now_ms` moves only when a test moves it."""

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self.path = path
        self.now_ms = START_MS
        self.address = "127.0.0.1"
        self.sudo_paths: set[str] = set()
        self.policies = {"default", "tk"}
        self.tokens = TokenStore(limits)
        self.mounts = {
            "auth/token/": Mount(b"t" * 16, "auth/token/", "token", "auth_token_1"),
            "auth/userpass/": Mount(b"u" * 16, "auth/userpass/", "userpass", "auth_userpass_1"),
            "sys/": Mount(bytes(16), "sys/", "system", "system_1"),
        }
        self.engines = {
            "token": token.ENGINE,
            "userpass": userpass.ENGINE,
            "system": Engine("system", SYSTEM_ROUTES),
        }
        self.open()
        self.root = self.change(lambda tx: self.tokens.bootstrap(tx, self.now_ms))

    def open(self) -> None:
        self.store = Store.open(self.path, writable=True, durable=False)
        self.store.set_keyring(Keyring((KeyTerm(1, bytes(32), 0),), bytes(32)))

    def restart(self) -> None:
        """A new process on the same files."""
        self.store.close()
        self.tokens = TokenStore(self.tokens.limits)
        self.open()

    def tune(self, path: str, **config: Any) -> None:
        mount = self.mounts[path]
        self.mounts[path] = msgspec.structs.replace(mount, config=MountConfig(**config))

    # the store

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Committed at the end, aborted by an exception."""
        batch = self.store.batch(lambda: self.now_ms)
        try:
            tx = batch.transaction()
            yield tx
            batch.accept(tx)
            batch.commit()
        except BaseException:
            batch.abort()
            raise

    def change(self, work: Callable[[Transaction], Any]) -> Any:
        with self.transaction() as tx:
            return work(tx)

    def see(self, work: Callable[[Snapshot], Any]) -> Any:
        with self.store.snapshot() as view:
            return work(view)

    def entry(self, token_id: str) -> TokenEntry | None:
        return self.see(lambda view: self.tokens.lookup(view, token_id, self.now_ms))

    def reap(self) -> None:
        """What the writer does when entries are due, to its end."""
        while due := self.store.due(self.now_ms, 256):
            self.change(lambda tx: self.tokens.reap(tx, due, self.now_ms))
        self.settle()

    def settle(self) -> None:
        while self.change(self.tokens.continue_work):
            pass

    def pass_time(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    # requests

    def ask(
        self,
        path: str,
        token_id: str = "",
        operation: Operation = Operation.UPDATE,
        wrap_ttl_seconds: int | None = None,
        wrap_format: str = "",
        **fields: Any,
    ) -> Response:
        """One request from token to answer; raises what the client would be told."""
        request = Request(
            "id",
            operation,
            path,
            token_id,
            body=msgspec.json.encode(fields),
            wrap_ttl_seconds=wrap_ttl_seconds,
            wrap_format=wrap_format,
            remote_address=self.address,
        )
        batch = self.store.batch(lambda: self.now_ms)
        try:
            tx = batch.transaction()
            response = self._serve(tx, request, fields)
            batch.accept(tx)
        except UndercroftError as error:
            if error.keep_writes:
                batch.accept(tx)
            raise
        finally:
            batch.commit()
        return response

    def _serve(self, tx: Transaction, request: Request, fields: dict[str, Any]) -> Response:
        mount, route, params = self._route(request.path)
        caller = None
        if not route.open:
            entry = self.tokens.authenticate(tx, request.token, self.address, self.now_ms)
            entry = self.tokens.use(tx, entry, self.now_ms)
            caller = Caller(entry, FakeAcl(entry.policies, self.sudo_paths))  # type: ignore[arg-type]
        known = {f.name for f in route.fields}
        sent = {k: v for k, v in fields.items() if k in known}
        call = Call(request, mount, tx, self.now_ms, self._services(), params, sent, caller=caller)
        handler = route.handlers[request.operation]
        if handler.prepare is not None:
            with self.store.snapshot() as view:
                prepared = handler.prepare(over(call, view))
            call.prepared = msgspec.msgpack.decode(msgspec.msgpack.encode(prepared))
        response = handler.apply(call) or Response(status=204)
        if response.auth is not None and not response.auth.issued:
            warnings = self.tokens.issue(
                tx,
                response.auth,
                mount,
                self.now_ms,
                path=request.path,
                remote_address=self.address,
            )
            response.warnings = [*(response.warnings or []), *warnings] or None
        if request.wrap_ttl_seconds and response.wrap_info is None:
            info = wrap(
                tx,
                response,
                tokens=self.tokens,
                ttl_seconds=request.wrap_ttl_seconds,
                creation_path=request.path,
                now_ms=self.now_ms,
                form=request.wrap_format,
                address="https://here:8200",
            )
            return Response(wrap_info=info)
        return response

    def call_of(
        self, view: Snapshot, path: str, params: dict[str, str], fields: dict[str, Any]
    ) -> Call:
        """A call for a handler that a test drives by hand."""
        request = Request("id", Operation.UPDATE, path, remote_address=self.address)
        mount, _, _ = self._route(path)
        return Call(request, mount, view, self.now_ms, self._services(), params, fields)

    def _route(self, path: str) -> tuple[Mount, Route, dict[str, str]]:
        mount = next(m for prefix, m in self.mounts.items() if path.startswith(prefix))
        for route in self.engines[mount.type].routes:
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.pattern)
            pattern = re.sub(r"\{(\w+)\*\}", r"(?P<\1>.+)", pattern)
            found = re.fullmatch(pattern, path[len(mount.path) :])
            if found:
                return mount, route, found.groupdict()
        raise LookupError(path)

    def _services(self) -> Any:
        return SimpleNamespace(
            tokens=self.tokens,
            state=NodeState(api_addr="https://here:8200"),
            engines=self.engines,
            mounts=SimpleNamespace(table=lambda view: SimpleNamespace(mounts=self.mounts)),
            policies=SimpleNamespace(
                exists=lambda view, name: name in self.policies,
                acl_for=lambda view, names: FakeAcl(names, self.sudo_paths),
            ),
        )

    # short forms

    def create(self, parent: str = "", at: str = "auth/token/create", **fields: Any) -> Auth:
        auth = self.ask(at, parent or self.root, **fields).auth
        assert auth is not None
        return auth

    def read(self, path: str, token_id: str = "") -> Any:
        return self.ask(path, token_id or self.root, Operation.READ).data


def over(call: Call, view: Snapshot) -> Call:
    """The same call over another view, as `prepare` gets it in a worker."""
    return replace(call, view=view)
