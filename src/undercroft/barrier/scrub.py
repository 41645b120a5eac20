"""Overwriting what a dropped key leaves behind in this process's memory, at a seal."""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

_SCAN_BYTES: Final = 4 << 20


class _Span(ctypes.Structure):
    """The system's `struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def scrub(secrets: Sequence[bytes]) -> None:
    """Overwrite every copy of the secrets in this process's own memory; best effort.

    Dropping a key leaves copies behind: in freed memory, in the buffers of the sockets that it
    came by. The caller has dropped what still used them. All copies are found before the first is
    overwritten, since `secrets` itself is among them. The kernel does the reading and writing, so
    memory that another thread gives back meanwhile is an error code and no fault.
    """
    if not secrets:
        return
    libc = ctypes.CDLL(None)
    seen = bytearray(_SCAN_BYTES)
    buffer = (ctypes.c_char * _SCAN_BYTES).from_buffer(seen)
    own = range(ctypes.addressof(buffer), ctypes.addressof(buffer) + _SCAN_BYTES)
    step = _SCAN_BYTES - max(map(len, secrets)) + 1  # a copy may lie across two readings
    found: list[tuple[int, int]] = []
    for start, end in _private_memory():
        for at in range(start, end, step):
            count = _move(libc.process_vm_readv, own.start, at, min(_SCAN_BYTES, end - at))
            for secret in secrets:
                places = _offsets(seen, secret, count)
                found += [(at + o, len(secret)) for o in places if at + o not in own]
    ctypes.memset(buffer, 0, _SCAN_BYTES)
    for at, size in found:
        _move(libc.process_vm_writev, own.start, at, size)


def _private_memory() -> Iterator[tuple[int, int]]:
    """What this process alone can write: heap, stacks, anonymous maps; not the store's map."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split(maxsplit=2)[:2]
        if rights == "rw-p":
            start, end = (int(text, 16) for text in span.split("-"))
            yield start, end


def _move(call: Callable[..., int], local: int, other: int, size: int) -> int:
    """Bytes moved between two places of this process; -1 when the other is not there."""
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    here, there = _Span(local, size), _Span(other, size)
    return call(os.getpid(), ctypes.byref(here), one, ctypes.byref(there), one, none)


def _offsets(seen: bytearray, secret: bytes, count: int) -> Iterator[int]:
    at = seen.find(secret, 0, max(count, 0))
    while at >= 0:
        yield at
        at = seen.find(secret, at + len(secret), count)
