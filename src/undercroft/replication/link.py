"""A session over a connection: bytes of TLS to the session and back, slices of work in between."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

_TICK_SECONDS = 0.1


class Session(Protocol):
    ended: str

    def receive(self, data: bytes) -> None: ...
    def tick(self) -> None: ...
    def work(self) -> bool: ...
    def take_output(self) -> bytes: ...


class SessionLink(asyncio.Protocol):
    """`make` is called once TLS stands and answers the session, or None to hang up."""

    def __init__(
        self,
        make: Callable[["SessionLink"], Session | None],
        on_end: Callable[["SessionLink"], None],
    ) -> None:
        self._make = make
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._writable = True
        self._working = False
        self._timer: asyncio.TimerHandle | None = None
        self.session: Session | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.transport.set_write_buffer_limits(high=4 << 20)
        self.session = self._make(self)
        if self.session is None:
            self.transport.abort()
            return
        self._tick()

    def data_received(self, data: bytes) -> None:
        if self.session is not None:
            self.session.receive(data)
            self.flush()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._on_end(self)

    def flush(self) -> None:
        """Send what the session has to say; go on with its work; hang up when it is over."""
        session, transport = self.session, self.transport
        if session is None or transport is None:
            return
        out = session.take_output()
        if out:
            transport.write(out)
        if session.ended:
            transport.close()
        elif self._writable and not self._working:
            self._working = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._working = False
        session, transport = self.session, self.transport
        if session is None or transport is None or not self._writable:
            return
        more = session.work()
        out = session.take_output()
        if out:
            transport.write(out)
        if session.ended:
            transport.close()
        elif more and not self._working:
            self._working = True
            self._loop.call_soon(self._work)

    def _tick(self) -> None:
        if self.transport is None or self.session is None:
            return
        self.session.tick()
        self.flush()
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
