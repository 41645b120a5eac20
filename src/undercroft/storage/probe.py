"""Whether a store's entries can be walked over at all, found out by a process of its own.

LMDB ends the process that meets some kinds of damaged page (an assertion, a jump out of the map).
So who has reason to fear that has another process read first: without keys, which may die of it.
"""

import asyncio
import sys
from enum import Enum
from pathlib import Path

from undercroft.errors import UndercroftError
from undercroft.storage.keys import SHARED
from undercroft.storage.store import Store


class Readable(Enum):
    """How far the walk came: entries that are not shared come first, the log last."""

    NOTHING = ""
    OWN = "own"
    ALL = "all"


async def probe(store: Path) -> Readable:
    """Of the store in that directory, which others may be writing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        str(store),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    words = said.decode().split()
    return Readable(words[-1] if words else "")


def walk(directory: Path) -> None:
    """Print how far it comes. Raises UndercroftError, if LMDB lets it."""
    store, is_shared = Store.open(directory, writable=False), False
    with store.snapshot() as view:
        for stored, _ in view.entries_of(store.data):
            if not is_shared and stored >= SHARED:
                is_shared = True
                print(Readable.OWN.value, flush=True)
        for database in (store.wal, store.expiry, store.meta):
            for _ in view.entries_of(database):
                pass
    print(Readable.ALL.value)


if __name__ == "__main__":
    try:
        walk(Path(sys.argv[1]))
    except UndercroftError as error:
        sys.exit(error.message)
