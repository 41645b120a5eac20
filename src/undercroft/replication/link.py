"""A session over a connection: bytes of TLS to the session and back, slices of work in between."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

_TICK_SECONDS = 0.1
_UNSENT_BYTES = 4 << 20  # from then on nothing more is worked on
_LINGER_SECONDS = 3.0  # for the last words to go; nobody may be there to take them
_STUCK_SECONDS = 10.0  # with as much unsent, and not a byte of it taken


class Session(Protocol):
    ended: str
    is_read: bool  # the other side takes what it is sent

    @property
    def is_full(self) -> bool:
        """Whether it had better not receive more now."""
        ...

    def receive(self, data: bytes) -> None: ...
    def tick(self) -> None: ...
    def work(self) -> bool: ...
    def take_output(self) -> bytes: ...
    def heard(self) -> None: ...


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
        self._linger: asyncio.TimerHandle | None = None
        self.session: Session | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.transport.set_write_buffer_limits(high=_UNSENT_BYTES)
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
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        self._on_end(self)

    def is_stuck(self, transport: asyncio.Transport) -> bool:
        """Whether waiting for the other side to read has no point any more."""
        return False

    def hang_up(self, transport: asyncio.Transport) -> None:
        """Once what was said has gone, or cannot go."""
        if not transport.is_closing():
            transport.close()
            self._linger = self._loop.call_later(_LINGER_SECONDS, transport.abort)

    def send(self, out: bytes) -> None:
        if self.transport is not None:
            self.transport.write(out)

    def flush(self) -> None:
        """Send what the session has to say; go on with its work; hang up when it is over."""
        session, transport = self.session, self.transport
        if session is None or transport is None:
            return
        out = session.take_output()
        if out:
            self.send(out)
        if session.ended:
            self.hang_up(transport)
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
            self.send(out)
        if session.ended:
            self.hang_up(transport)
        elif more and not self._working:
            self._working = True
            self._loop.call_soon(self._work)

    def _tick(self) -> None:
        if self.transport is None or self.session is None:
            return
        if self.is_stuck(self.transport):
            self.session.ended = "it does not read what it is sent"
            self.transport.abort()
            return
        self.session.tick()
        self.flush()
        self._timer = self._loop.call_later(_TICK_SECONDS, self._tick)

    def close(self) -> None:
        if self.transport is not None:
            self.hang_up(self.transport)


class ServingLink(SessionLink):
    """Of a session that others ask: who does not read the answers is not listened to meanwhile,
    and hung up on when it reads nothing at all (R-24).

    One side only does so, the other always reads: two that both wait would wait for each other.
    """

    _sent = 0  # bytes, ever
    _taken = 0  # of those, by the network
    _taken_at = 0.0
    _listens = True

    def send(self, out: bytes) -> None:
        self._sent += len(out)
        super().send(out)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._listen()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taken, self._taken_at = 0, self._loop.time()
        self._listen()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._listen()

    def flush(self) -> None:
        super().flush()
        self._listen()

    def _listen(self) -> None:
        session, transport = self.session, self.transport
        if session is None or transport is None:
            return
        session.is_read = self._writable
        listens = self._writable and not session.is_full
        if listens == self._listens or transport.is_closing():
            return
        self._listens = listens
        session.heard()  # what was its silence was ours
        if listens:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def hang_up(self, transport: asyncio.Transport) -> None:
        if self._writable:
            super().hang_up(transport)
        else:
            transport.abort()  # it would have to read

    def is_stuck(self, transport: asyncio.Transport) -> bool:
        if self.session is not None and not self._listens:
            self.session.heard()
        if self._writable:
            return False
        now, taken = self._loop.time(), self._sent - transport.get_write_buffer_size()
        if taken > self._taken:
            self._taken, self._taken_at = taken, now
        return now - self._taken_at > _STUCK_SECONDS
