"""The bounds of a listener: sizes, times, counts. A client that crosses one hurts itself only."""

from dataclasses import dataclass
from typing import Final

HEAD_BYTES_MAX: Final = 256 * 1024  # request line and headers: a 32 KiB name, percent-encoded, fits
HEADERS_MAX: Final = 256
BUFFERED_BYTES_MAX: Final = 256 * 1024 * 1024  # bodies of all connections of a process together
SMALL_BODY_BYTES: Final = 64 * 1024  # up to here a body is taken even when large ones fill that
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
    """What all connections of a process hold together. Bounded by the two constants above."""

    __slots__ = ("buffered", "connections")

    def __init__(self) -> None:
        self.buffered = 0
        self.connections = 0
