"""The bounds of a listener: sizes, times, counts. A client that crosses one hurts itself only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

HEAD_BYTES_MAX: Final = 256 * 1024  # request line and headers: a 32 KiB name, percent-encoded, fits
HEADERS_MAX: Final = 256
BUFFERED_BYTES_MAX: Final = 256 * 1024 * 1024  # bodies of all connections of a process together
SMALL_BODY_BYTES: Final = 64 * 1024  # up to here a body is taken even when large ones fill that
GRACE_SECONDS: Final = 1.0  # to a large body, before it may have to give way to another
CONNECTIONS_MAX: Final = 16_384  # of a process
LINGER_SECONDS: Final = 2.0  # after a refusal: how long what the client still sends is discarded


@dataclass(frozen=True)
class Limits:
    """Of one listener, from its configuration; times in seconds, named as Vault's options."""

    request_bytes: int = 32 * 1024 * 1024
    request_seconds: float = 90.0
    read_header_seconds: float = 10.0
    read_seconds: float = 30.0
    write_seconds: float = 30.0
    idle_seconds: float = 300.0


class Usage:
    """What all connections of a process hold together. Bounded by the constants above.

    Where large bodies fill the memory, the one that has been arriving for longest gives way: so
    whoever sends slowly, or nothing any more, keeps nobody out.
    """

    __slots__ = ("_arriving", "buffered", "connections")

    def __init__(self) -> None:
        self.buffered = 0  # bytes of bodies, arriving or being answered
        self.connections = 0
        self._arriving: dict[Any, tuple[float, Callable[[], None]]] = {}  # large, oldest first

    def has_room(self, body: Any, now: float, give_way: Callable[[], None]) -> bool:
        """For a large body that has just grown, after others gave way. False: refuse this one.

        `body` is what identifies it, `give_way` refuses it later, should another need its room.
        """
        self._arriving.setdefault(body, (now, give_way))
        while self.buffered > BUFFERED_BYTES_MAX:
            oldest = next(iter(self._arriving))
            since, refuse = self._arriving[oldest]
            if oldest is body or now - since < GRACE_SECONDS:
                return False
            self.arrived(oldest)
            refuse()
        return True

    def arrived(self, body: Any) -> None:
        """It is whole, or it ends: nothing of it gives way any more."""
        self._arriving.pop(body, None)
