"""An API worker: answers every request that does not write, and sends the others to the writer.

It opens the store read-only and keeps the keyring that the writer lends it. Each request is served
over a snapshot of its own, synchronously; only what must be written (or prepared slowly) waits.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast
from weakref import WeakSet

import msgspec

from undercroft.barrier.keyring import Keyring, UnknownTerm
from undercroft.barrier.scrub import scrub
from undercroft.engines.base import Services
from undercroft.errors import Behind, Internal, ReadOnly, Unavailable, UndercroftError
from undercroft.http.encode import encode as encode_response
from undercroft.http.failure import to_http as failure_to_http
from undercroft.http.message import HttpRequest, HttpResponse
from undercroft.http.vault import Redirect, request_ids, to_request
from undercroft.node.frames import (
    Answer,
    Decoder,
    Dropped,
    Execute,
    FromWriter,
    Hello,
    Leaving,
    Report,
    State,
    encode,
    error_of,
)
from undercroft.observe.logs import get_logger
from undercroft.observe.metrics import Metrics
from undercroft.request import index
from undercroft.request.model import Request, Response
from undercroft.request.pipeline import Admitted, Facts, Pipeline
from undercroft.storage.store import Store

log = get_logger("worker")

IN_FLIGHT_MAX: Final = 4096  # requests of one worker at the writer: past it, 503
_PREPARE_THREADS: Final = 4
_INDEX: Final = index.HEADER.lower()
# What tells how far this node is cannot wait until it is further.
_AS_IT_IS: Final = frozenset(
    f"sys/{name}"
    for name in (
        "health",
        "leader",
        "seal-status",
        "replication/status",
        "replication/performance/status",
        "replication/dr/status",
    )
)
_POLL_SECONDS: Final = 0.005
_LOST_INDEX: Final = (
    "the index asked for is of writes that a failover set aside; this is the state without them"
)
_CODES: Final = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")
_encode_prepared: Final = msgspec.msgpack.Encoder().encode


class WriterLink(asyncio.Protocol):
    """The worker's connection to the writer: kept up for ever, reconnecting at once."""

    def __init__(
        self,
        path: str,
        on_state: Callable[[State], None],
        on_report: Callable[[Report], None],
        offer: Callable[[], bytes],
        metrics: Metrics,
    ) -> None:
        self._path = path
        self._metrics = metrics
        self._on_state = on_state
        self._on_report = on_report
        self._offer = offer
        self._decoder = Decoder(FromWriter)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._next_id = 0
        self._transport: asyncio.Transport | None = None
        self._closing = False

    async def connect(self) -> None:
        """Returns once connected; the writer may just be starting."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            try:
                await loop.create_unix_connection(lambda: self, self._path)
                return
            except OSError:
                await asyncio.sleep(0.02)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._decoder = Decoder(FromWriter)
        self.tell(Hello(os.getpid(), self._offer()))

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if isinstance(frame, Answer):
                future = self._waiting.pop(frame.id, None)
                self._metrics.set("vault.core.in_flight_requests", to=len(self._waiting))
                if future is not None and not future.done():
                    future.set_result(frame)
            elif isinstance(frame, Report):
                self._on_report(frame)
            elif isinstance(frame, State):
                self._on_state(frame)
            elif isinstance(frame, Leaving):
                self._take_leave()

    def _take_leave(self) -> None:
        """The writer ends by itself: from now on 503; what it was sent it answers before."""
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        """What was sent may or may not have been committed: say so, never pretend."""
        self._transport = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(
                    Internal("the writer stopped before it answered: the outcome is unknown")
                )
        if not self._closing:
            log.warn("lost the writer", requests_in_flight=len(waiting))
            self._reconnecting = asyncio.ensure_future(self.connect())

    def tell(self, frame: Hello | Dropped) -> None:
        if self._transport is not None:
            self._transport.write(encode(frame))

    def execute(self, request: Request, prepared: bytes = b"\xc0") -> "asyncio.Future[Answer]":
        """Raises Unavailable when the writer is not there or has too much to do."""
        if self._transport is None:
            self._metrics.count("undercroft.http.rejected")
            raise Unavailable("the writer is starting; nothing was applied")
        if len(self._waiting) >= IN_FLIGHT_MAX:
            self._metrics.count("undercroft.http.rejected")
            raise Unavailable("too many writes are waiting; nothing was applied")
        self._metrics.set("vault.core.in_flight_requests", to=len(self._waiting) + 1)
        self._next_id += 1
        future = asyncio.get_running_loop().create_future()
        self._waiting[self._next_id] = future
        self._transport.write(encode(Execute(self._next_id, request, prepared)))
        return future

    def close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()


class Worker:
    """`serve` is the App of the HTTP edge."""

    def __init__(
        self,
        store: Store,
        services: Services,
        socket_path: str,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        *,
        store_name: str,
        open_store: Callable[[str], Store],
    ) -> None:
        """`open_store` opens a store of the node by its name (`location.name_of`)."""
        self.store = store
        self._store_name = store_name
        self._open_store = open_store
        self._left: WeakSet[Store] = WeakSet()  # stores left behind that a thread still reads
        self._left_secrets: list[bytes] = []  # of all of them: a seal must overwrite these too
        self.services = services
        services.store = store
        self.pipeline = Pipeline(services)
        self.link = WriterLink(
            socket_path, self._on_state, self._on_report, self._keyring_to_offer, services.metrics
        )
        self._clock_ms = clock_ms
        self._new_id = request_ids()
        self._threads = ThreadPoolExecutor(_PREPARE_THREADS, "prepare")
        self._ready = asyncio.Event()

    async def connect(self) -> None:
        """Returns once the writer has told the node's state: before, nothing can be answered."""
        await self.link.connect()
        await self._ready.wait()

    # state

    def _on_state(self, frame: State) -> None:
        self.services.state = frame.state
        has_switched = frame.store != self._store_name
        if has_switched:
            self._switch_store(frame.store)
        if frame.keyring:
            self.store.set_keyring(Keyring.deserialize(frame.keyring))
            self.services.audit.activate()
            if has_switched and self.services.audit.active:
                with self.store.snapshot() as view:  # requests that are under way are audited too
                    self.services.audit.refresh(view)
        else:
            secrets = self._drop_keyrings()
            self.services.audit.forget()
            self.services.mounts.forget()
            self.services.policies.forget()
            scrub(secrets)
            self.link.tell(Dropped(frame.serial))
        self._ready.set()

    def _on_report(self, frame: Report) -> None:
        self.services.replication = frame.status

    def _drop_keyrings(self) -> list[bytes]:
        """Of the store in use and of those left behind; answers their keys, to be overwritten."""
        secrets, self._left_secrets = self._left_secrets, []
        if self.store.keyring is not None:
            secrets = list({*secrets, *self.store.keyring.secrets()})
        for store in (self.store, *self._left):
            store.set_keyring(None)
        return secrets

    def _switch_store(self, name: str) -> None:
        """Read another store from the next request on.

        The old one is not closed here: a view of it may still be open in a thread. It ends with the
        last of them, and nothing else refers to it.
        """
        try:
            store = self._open_store(name)
        except UndercroftError as error:
            # What the old one holds is no longer true. The next process finds its store by itself.
            log.error("cannot open the new store", error=error.message, hint=error.hint)
            os._exit(1)
        self._left.add(self.store)
        if self.store.keyring is not None:
            self._left_secrets = list({*self._left_secrets, *self.store.keyring.secrets()})
        self.store, self._store_name = store, name
        self.services.store = store
        # Generations of two stores have nothing to do with each other.
        self.services.audit.forget()
        self.services.mounts.forget()
        self.services.policies.forget()
        log.info("reading another store", store=name)

    def _keyring_to_offer(self) -> bytes:
        keyring = self.store.keyring
        return b"" if keyring is None else keyring.serialize()

    # requests

    def serve(self, http: HttpRequest) -> "HttpResponse | asyncio.Future[HttpResponse]":
        """Answer at once when nothing must be written, else a future. Never raises."""
        started = time.perf_counter()
        answer = self._answer(http)
        if isinstance(answer, HttpResponse):
            self._measure(started, answer)
        else:
            answer.add_done_callback(lambda done: self._measure(started, done.result()))
        return answer

    def _measure(self, started: float, answer: HttpResponse) -> None:
        metrics = self.services.metrics
        metrics.observe("vault.core.handle_request", (time.perf_counter() - started) * 1000)
        metrics.count("undercroft.http.requests", _CODES[answer.status // 100])

    def _answer(self, http: HttpRequest) -> "HttpResponse | asyncio.Future[HttpResponse]":
        try:
            request = to_request(http, self._new_id())
        except Redirect as redirect:
            return redirect.response
        except UndercroftError as error:
            return failure_to_http(error)
        waits = _INDEX in request.headers and request.path not in _AS_IT_IS
        if waits and not self.services.state.sealed:
            return self._later(self._when_caught_up(request))
        return self._answer_request(request)

    async def _when_caught_up(self, request: Request) -> HttpResponse:
        """Answer from no state older than the client has seen (X-Vault-Index)."""
        wait_seconds = self.services.settings.replication.best_effort_wal_wait_duration
        deadline = time.monotonic() + wait_seconds
        cluster_id = self.services.state.cluster_id
        warning = ""
        try:
            while True:
                with self.store.snapshot() as view:
                    asked = index.decode(view, request.headers[_INDEX], cluster_id)
                    verdicts = [index.judge(view, one, cluster_id) for one in asked]
                if any(verdict.lost for verdict in verdicts):
                    warning = _LOST_INDEX
                if not any(verdict.behind for verdict in verdicts):
                    break
                if time.monotonic() > deadline:
                    raise Behind("the required state has not arrived here yet; try again")
                await asyncio.sleep(_POLL_SECONDS)
        except UndercroftError as error:
            return self._refuse(request, Facts(), self._clock_ms(), error)
        answer = self._answer_request(request, warning)
        return answer if isinstance(answer, HttpResponse) else await answer

    def _answer_request(
        self, request: Request, warning: str = ""
    ) -> "HttpResponse | asyncio.Future[HttpResponse]":
        facts = Facts()
        facts.warning = warning
        now_ms = self._clock_ms()
        try:
            return self._serve(request, facts, now_ms)
        except (ReadOnly, UnknownTerm):  # a term that the writer has, and is about to tell us
            return self._later(self._forward(request, facts, now_ms, b"\xc0"))
        except UndercroftError as error:
            return self._refuse(request, facts, now_ms, error)
        except Exception as error:
            log.exception("a request failed", error, request_id=request.id)
            return self._refuse(request, facts, now_ms, Internal("internal error"))

    def _serve(
        self, request: Request, facts: Facts, now_ms: int
    ) -> "HttpResponse | asyncio.Future[HttpResponse]":
        auditor = self.services.audit
        with self.store.snapshot() as view:
            if auditor.active:
                auditor.refresh(view)
            admitted = self.pipeline.admit(request, view, now_ms, facts)
            handler = admitted.handler
            if handler.prepare is not None:
                return self._later(self._prepare(admitted, facts, now_ms, self.store))
            response = self.pipeline.run(admitted)
        if facts.warning:
            response = msgspec.structs.replace(response).warn(facts.warning)
        if auditor.active:
            auditor.exchange(request, facts.mount, facts.token, response, now_ms)
        return encode_response(request.id, response)

    def _refuse(
        self, request: Request, facts: Facts, now_ms: int, error: UndercroftError
    ) -> HttpResponse:
        try:
            if self.services.audit.active:
                self.services.audit.exchange(
                    request, facts.mount, facts.token, None, now_ms, error=error.message
                )
        except UndercroftError as failed:
            return failure_to_http(failed)
        return failure_to_http(error)

    def _later(self, work: Coroutine[Any, Any, HttpResponse]) -> "asyncio.Future[HttpResponse]":
        return asyncio.ensure_future(work)

    async def _prepare(
        self, admitted: Admitted, facts: Facts, now_ms: int, store: Store
    ) -> HttpResponse:
        """Slow work in a thread over a view of its own, then the writer (DESIGN idea 8)."""
        call = admitted.call
        prepare = admitted.handler.prepare
        assert prepare is not None

        def in_thread() -> bytes:
            with store.snapshot() as view:
                call.view = view
                return _encode_prepared(prepare(call))

        loop = asyncio.get_running_loop()
        try:
            prepared = await loop.run_in_executor(self._threads, in_thread)
        except UndercroftError as error:
            return self._refuse(call.request, facts, now_ms, error)
        except Exception as error:
            log.exception("a request failed", error, request_id=call.request.id)
            return self._refuse(call.request, facts, now_ms, Internal("internal error"))
        return await self._forward(call.request, facts, now_ms, prepared)

    async def _forward(
        self, request: Request, facts: Facts, now_ms: int, prepared: bytes
    ) -> HttpResponse:
        """Audit, have it written, audit the answer. Nothing unaudited takes effect (AUD-11)."""
        auditor = self.services.audit
        try:
            if auditor.active:
                auditor.request(request, facts.mount, facts.token, now_ms)
            answer = await self.link.execute(request, prepared)
            response, error = _unpack(answer)
        except UndercroftError as problem:
            response, error = None, problem
        try:
            if auditor.active:
                auditor.response(
                    request,
                    facts.mount,
                    facts.token,
                    response,
                    now_ms,
                    error="" if error is None else error.message,
                )
        except UndercroftError as failed:
            return failure_to_http(failed)
        if error is not None:
            return failure_to_http(error)
        assert response is not None
        return encode_response(request.id, response)

    def close(self) -> None:
        self.link.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _unpack(answer: Answer) -> tuple[Response | None, UndercroftError | None]:
    if answer.error is not None:
        return None, error_of(answer.error)
    response = answer.response
    assert response is not None
    if answer.data:
        response.data = msgspec.Raw(answer.data)
    return response, None
