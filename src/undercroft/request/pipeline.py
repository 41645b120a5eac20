"""A request's way from token to answer; the same code in every process.

    admit    sealed? → route → token → create or update? → policies → use of the token
    run      handler → issue the token or wrap the answer that it asks for

Over a snapshot, whatever needs to write raises ReadOnly, and the process that holds the request
sends it one hop up, where both steps run again inside the writer's transaction: no decision is
older than the write (DESIGN section 3). Auditing is the caller's, around both steps.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec

from undercroft.engines.base import Apply, Call, Caller, Engine, Handler, Route, Services
from undercroft.engines.system.openapi import help_answer
from undercroft.engines.system.replication.routes import MISSPELT
from undercroft.errors import (
    Internal,
    InvalidRequest,
    NeedsPrimary,
    NotFound,
    PermissionDenied,
    ReadOnly,
    Sealed,
    Unavailable,
    UndercroftError,
    UnsupportedOperation,
    UnsupportedPath,
)
from undercroft.replication.role import BOOTSTRAPPING
from undercroft.request.acl import Acl
from undercroft.request.dispatch import Match, Routes, decode_body, lowered, parse_fields
from undercroft.request.model import Auth, Operation, Request, Response
from undercroft.request.mounts import Mount
from undercroft.request.tokens import TokenEntry
from undercroft.request.vouched import Vouched, is_own_business, vouch
from undercroft.request.wrapping import wrap
from undercroft.storage.keys import SYSTEM
from undercroft.storage.view import Snapshot, Transaction

# Convention 14: clients match the substring; the long form says that a policy is at fault.
_DENIED: Final = "1 error occurred:\n\t* permission denied\n\n"
_FOLDER: Final = "cannot write to a path ending in '/'"
_WRITES: Final = (Operation.CREATE, Operation.UPDATE)
# What a secondary answers before its first copy is complete.
_WHILE_COPYING: Final = tuple(
    f"sys/{name}"
    for name in (
        "replication/",
        "health",
        "leader",
        "ha-status",
        "seal",
        "unseal",
        "init",
        "metrics",
        "internal/",
    )
)
# Serves the few sys/ routes that answer before there is a mount table.
_SEALED_SYS: Final = Mount(SYSTEM, "sys/", "system", "system")


class Admitted(NamedTuple):
    """A request that may run."""

    call: Call
    route: Route
    handler: Handler
    warnings: list[str]


class Pipeline:
    """One per process. `engines` maps a mount to what serves it."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._routes: dict[int, Routes] = {}
        self._system = self._routes_of(services.engines["system"])

    # admit

    def admit(self, request: Request, view: Snapshot, now_ms: int, facts: "Facts") -> Admitted:
        """Raises PermissionDenied, Sealed, NotFound… ; ReadOnly when the token counts its uses.

        `facts` is filled on the way, so that a refusal is audited with what was known by then.
        """
        state = self.services.state
        if state.sealed:
            return self._admit_sealed(request, view, now_ms, facts)
        if state.performance_mode == BOOTSTRAPPING and not request.path.startswith(_WHILE_COPYING):
            raise self._copying()
        if request.path in MISSPELT and request.operation in _WRITES:
            # The writer admits it once more, under the path that it has now.
            request.misspelt, request.path = request.path, MISSPELT[request.path]
        mount = self.services.mounts.table(view).match(request.path)
        facts.mount = mount
        found, problem = self._find(mount, request)
        withheld = mount is not None and mount.id in state.withheld
        if found is not None and (found.route.open or _is_open_metrics(request)):
            if withheld:
                raise NotFound
            return self._admitted(request, view, now_ms, found, cast(Mount, mount), None)
        caller = self._authenticate(request, view, now_ms)
        facts.token = caller.token
        if found is None or mount is None:
            self._authorise_unknown(request, caller)
            if request.path.endswith("/") and request.operation in _WRITES:
                raise InvalidRequest(_FOLDER)
            raise problem or UnsupportedPath(f"no handler for route {_quoted(request.path)}")
        if request.path.endswith("/") and request.operation in _WRITES:
            raise InvalidRequest(_FOLDER)
        found = _lowered(request, mount, found)
        admitted = self._admitted(request, view, now_ms, found, mount, caller)
        if request.misspelt:
            admitted.warnings.append(
                f"/v1/{request.misspelt} is a misspelling of old documentation: "
                f"use /v1/{request.path}"
            )
        self._authorise(admitted, caller)
        if withheld:
            raise NotFound
        if caller.token.num_uses:
            used = self.services.tokens.use(view, caller.token, now_ms)
            admitted.call.caller = Caller(used, caller.acl)
        return admitted

    def _copying(self) -> Unavailable:
        status = self.services.replication
        done = 100 * status.sync_done // status.sync_total if status.sync_total else 0
        return Unavailable(
            f"this secondary's first copy is not complete ({min(done, 99)} %)",
            retry_after_seconds=5,
        )

    def _admit_sealed(
        self, request: Request, view: Snapshot, now_ms: int, facts: "Facts"
    ) -> Admitted:
        if not request.path.startswith("sys/"):
            raise Sealed
        facts.mount = _SEALED_SYS
        try:
            found = self._system.match(request.path[4:], request.operation)
        except (UnsupportedPath, UnsupportedOperation):
            raise Sealed from None
        if not found.route.sealed:
            raise Sealed
        return self._admitted(request, view, now_ms, found, _SEALED_SYS, None)

    def _find(
        self, mount: Mount | None, request: Request
    ) -> tuple[Match | None, UndercroftError | None]:
        """The route, or the error that a caller who may know it is told."""
        if mount is None:
            return None, None
        try:
            path = request.path[len(mount.path) :]
            return self._routes_of(self._engine(mount)).match(path, request.operation), None
        except (UnsupportedPath, UnsupportedOperation) as problem:
            return None, problem

    def _engine(self, mount: Mount) -> Engine:
        engine = self.services.engines[mount.type]
        return engine if engine.variant is None else engine.variant(mount)

    def _routes_of(self, engine: Engine) -> Routes:
        routes = self._routes.get(id(engine))
        if routes is None:
            routes = self._routes[id(engine)] = Routes(engine)
        return routes

    def _authenticate(self, request: Request, view: Snapshot, now_ms: int) -> Caller:
        """HTTP-05: no answer but this one tells an outsider anything about a path."""
        services = self.services
        if not request.token:
            raise PermissionDenied
        entry = services.tokens.authenticate(view, request.token, request.remote_address, now_ms)
        return Caller(entry, services.policies.acl_for(view, tuple(entry.policies)))

    def _admitted(
        self,
        request: Request,
        view: Snapshot,
        now_ms: int,
        found: Match,
        mount: Mount,
        caller: Caller | None,
    ) -> Admitted:
        route = found.route
        fields, warnings = parse_fields(
            found.fields, request, found.params, body=not route.raw_body
        )
        call = Call(
            request, mount, view, now_ms, self.services, found.params, fields, caller=caller
        )
        if request.operation in _WRITES:  # a forwarded request is judged anew in the writer
            absent = route.exists is not None and not route.exists(call)
            request.operation = Operation.CREATE if absent else Operation.UPDATE
        if request.operation is Operation.HELP:
            return Admitted(call, route, Handler(self._help(route, mount)), [])
        return Admitted(call, route, route.handlers[request.operation], warnings)

    def _help(self, route: Route, mount: Mount) -> Apply:
        """`?help=1`: what the path is for, from the same table that serves it."""
        engine = self._engine(mount)
        return lambda call: help_answer(engine, route, call.request.path[len(mount.path) :])

    def _authorise(self, admitted: Admitted, caller: Caller) -> None:
        request, acl = admitted.call.request, caller.acl
        if acl.is_root:
            return
        allowed = acl.allows(
            request.operation, request.path, lambda: _decoded(request), request.wrap_ttl_seconds
        )
        if not allowed or (admitted.route.sudo and not acl.sudo(request.path)):
            raise PermissionDenied(_DENIED)
        twin = admitted.route.twin
        if twin and acl.denies(admitted.call.mount.path + twin):
            raise PermissionDenied(_DENIED)

    def _authorise_unknown(self, request: Request, caller: Caller) -> None:
        """Only who may use a path learns that there is nothing."""
        acl: Acl = caller.acl
        if not acl.allows(request.operation, request.path, lambda: _decoded(request)):
            raise PermissionDenied(_DENIED)

    # run

    def run(self, admitted: Admitted) -> Response:
        """The handler's answer, made whole. Raises ReadOnly over a snapshot when it must write."""
        call, handler = admitted.call, admitted.handler
        if not call.view.writable and (handler.writes or call.request.wrap_ttl_seconds):
            raise ReadOnly
        return self.complete(admitted, self._apply(admitted))

    def _apply(self, admitted: Admitted) -> Response:
        """The handler's answer as it is."""
        call = admitted.call
        started = time.perf_counter()
        response = admitted.handler.apply(call)
        spent_ms = (time.perf_counter() - started) * 1000
        self.services.metrics.observe(
            "vault.route", spent_ms, call.request.operation, call.mount.type
        )
        if response is None:
            return Response(status=204)
        if admitted.warnings and response.status != 204:
            response.warnings = [*(response.warnings or []), *admitted.warnings]
        return response

    def complete(self, admitted: Admitted, response: Response) -> Response:
        """Issue the token, wrap the answer: matters of the cluster that the caller talks to.

        Raises Internal for a login's answer that would not show the token (TOK-09).
        """
        call = admitted.call
        if response.auth is not None and (response.raw is not None or response.status >= 400):
            raise Internal("a login was granted in an answer that shows no token")
        if response.auth is not None and not response.auth.issued:
            self._issue(call, response, response.auth)
        if call.request.wrap_ttl_seconds and _wrappable(response):
            return self._wrap(call, response)
        return response

    def _issue(self, call: Call, response: Response, auth: Auth) -> None:
        """The token of a login, in the login's own transaction."""
        warnings = self.services.tokens.issue(
            call.view,
            auth,
            call.mount,
            call.now_ms,
            path=call.request.path,
            remote_address=call.request.remote_address,
        )
        for text in warnings:
            response.warn(text)

    def _wrap(self, call: Call, response: Response) -> Response:
        """Put the answer aside and give out the token that fetches it, once."""
        request = call.request
        info = wrap(
            call.view,
            response,
            tokens=self.services.tokens,
            ttl_seconds=request.wrap_ttl_seconds or 0,
            creation_path=request.path,
            now_ms=call.now_ms,
            form=request.wrap_format,
            address=self.services.state.api_addr,
        )
        return Response(wrap_info=info)

    def execute(
        self, request: Request, tx: Transaction, now_ms: int, prepared: Any = None
    ) -> Response:
        """Both steps over a transaction, in the writer.

        When the handler fails, what it wrote is undone but the use of a counted token stands;
        an error with `keep_writes` keeps everything (a failed login is counted). Raises Elsewhere
        when the primary must run it; the transaction then holds what stands here.
        """
        admitted = self.admit(request, tx, now_ms, Facts())
        admitted.call.prepared = prepared
        with _undone(tx):
            try:
                return self.run(admitted)
            except NeedsPrimary:
                raise Elsewhere(admitted, vouch(admitted.call, prepared)) from None

    def execute_vouched(self, vouched: Vouched, tx: Transaction, now_ms: int) -> Response:
        """A call that a secondary sends on, over a transaction of the primary.

        The policies are judged by name, with this cluster's text of them. Nothing is issued and
        nothing wrapped: that is the secondary's.
        """
        request = vouched.request
        mount = self.services.mounts.table(tx).match(request.path)
        found, problem = self._find(mount, request)
        if found is None or mount is None:
            raise problem or UnsupportedPath
        if mount.local:  # this cluster's own, cubbyholes too: nobody else has a share in it
            raise PermissionDenied(_DENIED)
        if is_own_business(request.path):
            raise PermissionDenied(_DENIED)
        caller = None
        if vouched.authenticated:
            found = _lowered(request, mount, found)  # by the secondary too, if it is honest
            token = vouched.token()
            caller = Caller(token, self.services.policies.acl_for(tx, token.policies))
        elif not found.route.open:
            raise PermissionDenied
        admitted = self._admitted(request, tx, now_ms, found, mount, caller)
        if caller is not None:
            self._authorise(admitted, caller)
        admitted.call.prepared = vouched.prepared
        with _undone(tx):
            return self._apply(admitted)


def _lowered(request: Request, mount: Mount, found: Match) -> Match:
    """Names that a handler reads in lower case, policies judge in lower case (ACL-11)."""
    path, params = lowered(request.path[len(mount.path) :], found)
    if found.route.lower:
        request.path = mount.path + path
    return found._replace(params=params)


class Elsewhere(Exception):  # control flow, not a failure
    """The request goes on to the primary: `vouched`. Its answer is completed with `admitted`."""

    def __init__(self, admitted: Admitted, vouched: Vouched) -> None:
        super().__init__()
        self.admitted = admitted
        self.vouched = vouched


@contextlib.contextmanager
def _undone(tx: Transaction) -> Iterator[None]:
    """What was written since is undone when it fails, unless the error says that it stands."""
    mark = dict(tx.writes)
    try:
        yield
    except (UndercroftError, Elsewhere) as error:
        if not getattr(error, "keep_writes", False):
            tx.writes = mark
            tx.after_commit.clear()
        raise


class Facts:
    """What the audit says of a request that may have been refused half way."""

    __slots__ = ("mount", "token", "warning")

    def __init__(self) -> None:
        self.warning = ""  # to be added to the answer of a read
        self.mount: Mount | None = None
        self.token: TokenEntry | None = None


def _is_open_metrics(request: Request) -> bool:
    """The listener's `unauthenticated_metrics_access`."""
    return request.open_metrics and request.path == "sys/metrics"


def _wrappable(response: Response) -> bool:
    """Conv 17: no wrap of 404 and 204, nor of what is not the envelope."""
    return response.raw is None and response.wrap_info is None and response.status in (0, 200)


def _decoded(request: Request) -> Mapping[str, object]:
    """What parameter rules of policies look at: the body, or the query of a read."""
    if not request.body:
        return dict(request.query)
    decoded = {name: msgspec.json.decode(raw) for name, raw in decode_body(request.body).items()}
    return {**request.query, **decoded}


def _quoted(path: str) -> str:
    if len(path) > 256:
        raise InvalidRequest("the path is too long to be a route")
    return f'"{path}".'
