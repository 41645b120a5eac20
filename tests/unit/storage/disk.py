"""A disk that forgets: what a process did to a file, seen by strace, and what a power cut leaves.

A write is safe when a sync of its file has returned, or it went through a descriptor that syncs
each write. Until then the power may go with any of its sectors on the disk and any not, in
whatever order they were written. A sector is whole, old or new.
"""

import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SECTOR_BYTES = 512
_CALLS = "openat,pwrite64,pwritev,writev,write,lseek,fdatasync,fsync,msync,ftruncate,rename,close"
_LINE = re.compile(r"\d+ +(\w+)\((.*)\) += (\d+)(?:<(.*)>)?$")
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@cache
def can_trace() -> bool:
    """Whether there is an strace here that is allowed to."""
    strace = shutil.which("strace")
    if strace is None:
        return False
    return subprocess.run([strace, "-qq", "true"], capture_output=True).returncode == 0


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes
    safe: bool  # on the disk when the call returns


@dataclass(frozen=True)
class Sync:
    """Of the file."""


@dataclass(frozen=True)
class Renamed:
    """The file has its name."""


@dataclass(frozen=True)
class NamesSynced:
    """The directory of the file is on the disk."""


@dataclass(frozen=True)
class Said:
    """A line on standard output."""

    text: str


Event = Write | Sync | Renamed | NamesSynced | Said


def trace(command: Sequence[str], env: dict[str, str], file: Path, log: Path) -> list[Event]:
    """Run the command; what it did that concerns `file`, which it makes under another name."""
    what = ("-f", "-y", "-qq", "-xx", "-s", str(1 << 20), "-e", f"trace={_CALLS}", "-o", str(log))
    subprocess.run(
        ["strace", *what, *command],
        env=env,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return list(_Reader(file).events(log.read_text().splitlines()))


class _Reader:
    def __init__(self, file: Path) -> None:
        self._name, self._directory = file.name, str(file.parent)
        self._safe: set[str] = set()  # descriptors that sync each write
        self._at: dict[str, int] = {}  # where a descriptor writes next

    def events(self, lines: list[str]) -> list[Event]:
        found = [_LINE.match(line) for line in lines]
        return [event for m in found if m for event in self._events(*m.groups())]

    def _events(self, call: str, arguments: str, result: str, opened: str | None) -> list[Event]:
        """Of a call that succeeded."""
        if call == "openat":
            self._at[result] = 0
            (self._safe.add if "O_DSYNC" in arguments else self._safe.discard)(result)
            return []
        if call == "rename":
            target = _text(_TEXT.findall(arguments)[1])
            return [Renamed()] if target == f"{self._directory}/{self._name}" else []
        named = _DESCRIPTOR.match(arguments)
        if named is None:
            return []
        number, path = named[1], _text(named[2])
        rest = arguments[named.end() :]
        if call == "write" and number == "1":
            return [Said(line) for line in _text(_TEXT.findall(rest)[0]).split()]
        if call == "fsync" and path == self._directory:
            return [NamesSynced()]
        if Path(path).name != self._name:
            return []
        assert call not in ("ftruncate", "msync", "pwritev", "write"), f"{call} is not modelled"
        if call in ("fsync", "fdatasync"):
            return [Sync()]
        if call == "lseek":
            self._at[number] = int(result)
        if call not in ("pwrite64", "writev"):
            return []
        data = b"".join(bytes.fromhex(part.replace("\\x", "")) for part in _TEXT.findall(rest))
        assert len(data) == int(result), "a write was cut short, in the trace or by the kernel"
        at = int(rest.rpartition(",")[2]) if call == "pwrite64" else self._at[number]
        if call == "writev":
            self._at[number] = at + len(data)
        return [Write(at, data, number in self._safe)]


def _text(hexadecimal: str) -> str:
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), hexadecimal)


class Disk:
    """What is on the disk for sure, and what may be."""

    def __init__(self) -> None:
        self.safe = bytearray()
        self.unsafe: list[Write] = []
        self.is_named = False  # for sure
        self._is_renamed = False
        self.said: list[str] = []

    def take(self, event: Event) -> None:
        match event:
            case Write(safe=True):
                _put(self.safe, event.offset, event.data)
            case Write():
                self.unsafe.append(event)
            case Sync():
                for write in self.unsafe:
                    _put(self.safe, write.offset, write.data)
                self.unsafe.clear()
            case Renamed():
                self._is_renamed = True
            case NamesSynced():
                self.is_named = self._is_renamed
            case Said():
                self.said.append(event.text)

    def after_a_cut(self, chance: random.Random, share: float) -> bytes:
        """The file, with about that share of what was not safe."""
        image = bytearray(self.safe)
        for write in self.unsafe:
            for at in range(0, len(write.data), SECTOR_BYTES):
                if chance.random() < share:
                    _put(image, write.offset + at, write.data[at : at + SECTOR_BYTES])
        return bytes(image)


def _put(image: bytearray, offset: int, data: bytes) -> None:
    image.extend(bytes(max(0, offset + len(data) - len(image))))
    image[offset : offset + len(data)] = data
