"""Which store of a data directory is the one in use, and how another takes its place.

A store lies in the data directory itself, until the first swap, or in a subdirectory `store-N` that
the file `store` names. Another is built in `staging/` and swapped in whole: wherever a swap is
interrupted, the pointer names the old store or the new one, and the one it names is whole and
synced. Nothing here knows what a store holds.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Final

from undercroft.errors import Corrupt, StorageFailed, StorageFull
from undercroft.storage import environment, faults

POINTER_NAME: Final = "store"
STAGING_NAME: Final = "staging"
_POINTER_NEW_NAME: Final = "store.new"  # only while a pointer is written
_STORE_NAME: Final = re.compile(r"store-([1-9][0-9]{0,8})")
_POINTER_BYTES_MAX: Final = 32
_HINT: Final = "restore the data directory from a backup, or the pointer by hand: docs/storage.md"


def location(directory: Path) -> Path:
    """Where the store in use lies. A data directory without any store: there, where it is made.

    Raises StorageFailed when that cannot be told, or when no store is where it should be: a new one
    must never take the place of one that was lost.
    """
    name = _pointed(directory)
    if name:
        if not (directory / name / environment.DATA_NAME).is_file():
            raise StorageFailed(f"there is no store in {directory / name}", hint=_HINT)
    elif _numbered(directory) and not (directory / environment.DATA_NAME).is_file():
        raise StorageFailed(f"the file {POINTER_NAME} is missing in {directory}", hint=_HINT)
    return directory / name


def name_of(directory: Path, store: Path) -> str:
    """How the processes of a node call a store to each other: empty for the directory itself."""
    return "" if store == directory else store.name


def _pointed(directory: Path) -> str:
    """What the pointer names; empty without one. Raises StorageFailed."""
    pointer = directory / POINTER_NAME
    try:
        with pointer.open("rb") as file:
            raw = file.read(_POINTER_BYTES_MAX)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StorageFailed(
            f"cannot read {pointer}: {environment.cause_of(error)}", hint=_HINT
        ) from None
    line = raw.decode("ascii", "replace")
    name = line.removesuffix("\n")
    if name == line or _STORE_NAME.fullmatch(name) is None:  # cut short, or not written by us
        raise StorageFailed(f"the file {pointer} does not name a store", hint=_HINT)
    return name


def _numbered(directory: Path) -> dict[int, Path]:
    """Every `store-N` there is."""
    found: dict[int, Path] = {}
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            match = _STORE_NAME.fullmatch(path.name)
            if match is not None:
                found[int(match[1])] = path
    return found


# the next store


def stage(directory: Path) -> Path:
    """The directory in which another store is built: as it was left, or new and empty."""
    staging = directory / STAGING_NAME
    staging.mkdir(mode=0o700, exist_ok=True)
    staging.chmod(0o700)
    return staging


def discard_staging(directory: Path) -> None:
    """Give up what was built; nobody may have it open for writing."""
    shutil.rmtree(directory / STAGING_NAME, ignore_errors=True)


def require_staging(directory: Path, staged: Path) -> None:
    """Raises StorageFailed: a store may be anywhere, but only one beside ours can be moved."""
    if staged.absolute() != (directory / STAGING_NAME).absolute():
        raise StorageFailed(f"{staged} is not the staging directory of {directory}")


def swap(directory: Path, staged: Path) -> Path:
    """Make the staged store the one in use; answers where it lies now. The old one stays.

    Nobody may have it open. The caller has synced what it wrote there, so that the sync here is
    short. Raises StorageFailed or StorageFull; then the old store is still in use, and staging as
    it was, unless `location` says otherwise: the very last sync alone can fail behind the switch.
    """
    require_staging(directory, staged)
    current = _pointed(directory)
    try:
        environment.check_file(staged / environment.DATA_NAME)
        _sync(staged / environment.DATA_NAME)
        _sync(staged)
        faults.point("staged")
    except (OSError, Corrupt) as error:
        raise _failure(staged, error) from None
    taken = [1, *_numbered(directory)]  # 1: the one that lies in the directory itself
    store = directory / f"store-{max(taken) + 1}"
    try:
        staged.rename(store)
        faults.point("renamed")  # a crash here leaves a store that nothing names: `clean` takes it
        _sync(directory)  # before the pointer names it
        faults.point("placed")
        _write_pointer(directory, store.name)
    except OSError as error:
        if _pointed(directory) == current:
            with contextlib.suppress(OSError):
                store.rename(staged)
        raise _failure(directory, error) from None
    return store


def _write_pointer(directory: Path, name: str) -> None:
    fresh = directory / _POINTER_NEW_NAME
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(f"{name}\n".encode())
        faults.point("pointer")
        file.flush()
        os.fsync(descriptor)
    faults.point("written")
    fresh.rename(directory / POINTER_NAME)  # here, in one step
    faults.point("pointed")
    _sync(directory)
    faults.point("swapped")


def clean(directory: Path) -> None:
    """Remove every store but the one in use; never staging. For the writer, at its start.

    Raises StorageFailed like `location`, and when the pointer cannot be synced: then the old store
    is what a power cut would bring back, so it stays.
    """
    used = location(directory)
    old = [store for store in _numbered(directory).values() if store != used]
    try:
        _sync(directory)
        (directory / _POINTER_NEW_NAME).unlink(missing_ok=True)
        if used != directory:
            for name in environment.FILES:
                (directory / name).unlink(missing_ok=True)
        for store in old:
            shutil.rmtree(store)
    except OSError as error:
        raise _failure(directory, error) from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(path: Path, error: OSError | Corrupt) -> StorageFailed | StorageFull:
    if isinstance(error, Corrupt):
        return StorageFailed(f"the store in {path}: {error.message}")
    if environment.is_full(error):
        return environment.storage_full()
    return StorageFailed(f"cannot switch stores in {path}: {environment.cause_of(error)}")
