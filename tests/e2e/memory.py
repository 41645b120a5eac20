"""Looks for bytes in the memory of running processes, as only root can."""

from collections.abc import Iterable
from pathlib import Path


def holds(pid: int, wanted: bytes) -> bool:
    """Whether the bytes lie anywhere in memory that the process can write. Raises OSError."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        return any(wanted in part for part in _parts(pid, memory, len(wanted)))


def holders(pids: Iterable[int], wanted: bytes) -> list[int]:
    return [pid for pid in pids if holds(pid, wanted)]


def _parts(pid: int, memory: object, overlap: int) -> Iterable[bytes]:
    size = 16 << 20
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        name = line.split()[5] if len(line.split()) > 5 else ""
        if not rights.startswith("rw") or name.endswith(".mdb") or name.startswith("[v"):
            continue
        start, end = (int(text, 16) for text in span.split("-"))
        while start < end:
            memory.seek(start)  # type: ignore[attr-defined]
            yield memory.read(min(size, end - start))  # type: ignore[attr-defined]
            start += size - overlap if end - start > size else size
