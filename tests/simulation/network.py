"""Connections as pairs of byte streams: delayed, cut in the middle of a frame, partitioned.

A connection keeps its bytes in order, as TCP does; between connections there is no order. A side
that gives up on a connection does not make what it sent before undone: that may still arrive, long
after the next connection stands.
"""

from random import Random
from typing import Protocol


class Session(Protocol):
    ended: str

    def receive(self, data: bytes) -> None: ...
    def tick(self) -> None: ...
    def work(self) -> bool: ...
    def take_output(self) -> bytes: ...


class Pipe:
    """One direction. `closing`: nothing will be added; the end is told once it is empty."""

    __slots__ = ("closing", "data", "receiver", "sender", "told")

    def __init__(self, sender: str, receiver: str) -> None:
        self.sender = sender
        self.receiver = receiver
        self.data = bytearray()
        self.closing = False
        self.told = False


class Connection:
    """From a secondary (`client`) to a primary (`server`), until both sides know its end."""

    def __init__(self, number: int, client: str, server: str, purpose: str) -> None:
        self.number = number
        self.client = client
        self.server = server
        self.purpose = purpose  # stream or claim
        self.accepted = False
        self.credentials: tuple[int, str, int] = (0, "", 0)  # authority, secondary id, ticket
        self.client_session: Session | None = None
        self.server_session: Session | None = None
        self.client_open = True
        self.server_open = True
        self.up = Pipe(client, server)
        self.down = Pipe(server, client)

    def __repr__(self) -> str:
        return f"#{self.number} {self.client}→{self.server}"


class Network:
    """Which ways are blocked, and the connections there are."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.blocked: set[tuple[str, str]] = set()
        self.connections: list[Connection] = []
        self._number = 0

    def reachable(self, one: str, other: str) -> bool:
        """A connection needs both directions."""
        return (one, other) not in self.blocked and (other, one) not in self.blocked

    def connect(self, client: str, server: str, purpose: str) -> Connection:
        self._number += 1
        connection = Connection(self._number, client, server, purpose)
        self.connections.append(connection)
        return connection

    def moving(self) -> list[tuple[Connection, Pipe]]:
        """Streams in which something can be delivered now."""
        blocked = self.blocked
        return [
            (connection, pipe)
            for connection in self.connections
            for pipe in (connection.up, connection.down)
            if (pipe.data or (pipe.closing and not pipe.told) or not connection.accepted)
            and (pipe.sender, pipe.receiver) not in blocked
            and (connection.accepted or pipe is connection.up)
        ]

    def close(self, connection: Connection, *, client: bool) -> None:
        """One side hangs up; what it sent is still on its way."""
        if client:
            connection.client_open = False
            connection.up.closing = True
        else:
            connection.server_open = False
            connection.down.closing = True

    def cut(self, connection: Connection) -> None:
        """The connection breaks: of what is on its way some still arrives, then the end."""
        for pipe in (connection.up, connection.down):
            if pipe.data:
                del pipe.data[self.rng.randrange(len(pipe.data) + 1) :]
            pipe.closing = True

    def forget(self) -> None:
        self.connections = [
            connection
            for connection in self.connections
            if connection.client_open
            or connection.server_open
            or not (connection.up.told and connection.down.told)
        ]
