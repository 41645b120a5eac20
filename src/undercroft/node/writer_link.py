"""The replicator's connection to the writer: changes and calls out, answers and news in."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol, cast

from undercroft.errors import Internal, Unavailable
from undercroft.node.frames import (
    Answer,
    AskPrimary,
    Commit,
    Committed,
    Decoder,
    Done,
    Dropped,
    FromWorker,
    FromWriter,
    Hello,
    Leaving,
    Pause,
    Paused,
    Report,
    RunVouched,
    State,
    Switch,
    Switched,
    encode,
    failure_of,
)
from undercroft.observe.logs import get_logger
from undercroft.replication.changes import Change
from undercroft.request.vouched import Vouched
from undercroft.storage.wal import START

log = get_logger("replicator")

WRITER_GONE: Final = "the writer stopped"


class Listener(Protocol):
    """Who is told what the writer says of its own accord."""

    def on_state(self, frame: State) -> None: ...
    def on_committed(self) -> None: ...
    def on_ask_primary(self, frame: AskPrimary) -> None: ...
    def on_writer_lost(self) -> None: ...


class ChangeLink(asyncio.Protocol):
    """Kept up for ever. What was under way when the writer went away is answered as failed."""

    def __init__(self, path: str, listener: Listener, offer: Callable[[], bytes]) -> None:
        self._path = path
        self._listener = listener
        self._offer = offer
        self._decoder = Decoder(FromWriter)
        self._transport: asyncio.Transport | None = None
        self._closing = False
        self._next_id = 0
        self._changes: dict[int, Callable[[Done], None]] = {}
        self._calls: dict[int, Callable[[Answer], None]] = {}
        self._quiet: asyncio.Future[None] | None = None  # somebody waits for `settled`
        self._moving: asyncio.Future[str] | None = None  # or for an answer to Pause or Switch

    async def connect(self) -> None:
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
        self.tell(Hello(os.getpid(), self._offer(), replicator=True))

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if isinstance(frame, Done):
                self._changes.pop(frame.id)(frame)
                if not self._changes:
                    self._settle()
            elif isinstance(frame, Answer):
                self._calls.pop(frame.id)(frame)
            elif isinstance(frame, Committed):
                self._listener.on_committed()
            elif isinstance(frame, State):
                self._listener.on_state(frame)
            elif isinstance(frame, AskPrimary):
                self._listener.on_ask_primary(frame)
            elif isinstance(frame, Leaving):
                self._take_leave()
            elif isinstance(frame, Switched):
                self._moved("" if frame.error is None else frame.error.message)
            elif isinstance(frame, Paused):
                self._moved("")
            else:
                assert isinstance(frame, Report), "the writer sends nothing else"

    def _take_leave(self) -> None:
        """The writer ends by itself; what it was sent it answers before."""
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        """First of all the way back; then whoever waits is told, whatever becomes of that."""
        self._transport = None
        if not self._closing:
            log.warn("lost the writer")
            self._reconnecting = asyncio.ensure_future(self.connect())
        changes, self._changes = self._changes, {}
        calls, self._calls = self._calls, {}
        failure = failure_of(Internal("the writer stopped: the outcome is unknown"))
        waiting: list[Callable[[], None]] = [
            *(partial(done, Done(n, START, failure=WRITER_GONE)) for n, done in changes.items()),
            *(partial(done, Answer(n, error=failure)) for n, done in calls.items()),
        ]
        for tell in [self._listener.on_writer_lost, *waiting]:
            try:
                tell()
            except Exception as failed:
                log.exception("nobody could be told that the writer is gone", failed)
        self._settle()
        self._moved(WRITER_GONE)

    def tell(self, frame: FromWorker) -> None:
        if self._transport is not None:
            self._transport.write(encode(frame))

    def commit(self, change: Change, done: Callable[[Done], None], session: int = 0) -> None:
        """Have a change committed; in the order in which they are given."""
        self._next_id += 1
        if self._transport is None:
            done(Done(self._next_id, START, failure="the writer is starting"))
            return
        self._changes[self._next_id] = done
        self._transport.write(encode(Commit(self._next_id, change, session)))

    async def settled(self) -> None:
        """Until no change is under way."""
        while self._changes:
            self._quiet = self._quiet or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._quiet)

    def _settle(self) -> None:
        quiet, self._quiet = self._quiet, None
        if quiet is not None and not quiet.done():
            quiet.set_result(None)

    def run(self, vouched: Vouched, answered: Callable[[Answer], None]) -> None:
        """Have a secondary's call run."""
        self._next_id += 1
        if self._transport is None:
            failure = failure_of(Unavailable("the writer is starting; nothing was applied"))
            answered(Answer(self._next_id, error=failure))
            return
        self._calls[self._next_id] = answered
        self._transport.write(encode(RunVouched(self._next_id, vouched)))

    async def pause(self) -> str:
        """Have nothing committed until `switch` or `resume`, or this process ends. Answers why that
        could not be had; empty: it stands.
        """
        return await self._move(Pause())

    def resume(self) -> None:
        self.tell(Pause(on=False))

    async def switch(self, staged: Path) -> str:
        """Have the node go over to a store that is complete and closed; that ends a pause. Answers
        why nothing has changed; empty: it has. WRITER_GONE: either may be.
        """
        return await self._move(Switch(str(staged)))

    async def _move(self, frame: Pause | Switch) -> str:
        if self._transport is None:
            return WRITER_GONE
        self._moving = asyncio.get_running_loop().create_future()
        self.tell(frame)
        return await self._moving

    def _moved(self, failure: str) -> None:
        moving, self._moving = self._moving, None
        if moving is not None and not moving.done():
            moving.set_result(failure)

    def dropped(self, serial: int) -> None:
        self.tell(Dropped(serial))

    def close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()
