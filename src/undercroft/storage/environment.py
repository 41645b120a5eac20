"""The file below a store: making it, judging it before LMDB maps it, opening it, its errors.

LMDB trusts what it maps: a file that is shorter than its meta page says kills the process at the
first touch (SIGBUS), a wrong root page is followed wherever it points. So the meta pages and the
roots are read here first, with plain reads, and a file that contradicts itself is not mapped.
"""

import contextlib
import errno
import mmap
import os
import shutil
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

import lmdb

from undercroft.errors import Corrupt, StorageFailed, StorageFull, Unavailable

# Address space, not disk: LMDB's file grows as it is filled. Where so much cannot be mapped (a
# limit on the process) it begins smaller; either way it is doubled before it is full.
MAP_BYTES: Final = 1 << 38
MAP_BYTES_MIN: Final = 1 << 28

DATABASES: Final = (b"data", b"wal", b"meta", b"expiry", b"quarantine")
FORMAT_KEY: Final = b"format"
FORMAT: Final = b"2"
DATA_NAME: Final = "data.mdb"
FILES: Final = (DATA_NAME, "lock.mdb")

REPAIR: Final = "stop the server, run `undercroft operator check`, restore a backup if it says so"
FULL: Final = "no space is left for the store; nothing was applied, reads go on"
_FULL_HINT: Final = "free some space; no restart is needed"

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_PAGE: Final = Struct("=QHHHH")  # page number, pad, flags, lower, upper
_META: Final = Struct("=IIQQ")  # magic, version, address, map size; then two trees
_TREE: Final = Struct("=IHHQQQQQ")  # pad (page size), flags, depth, 3 page counts, entries, root
_TAIL: Final = Struct("=QQ")  # last page, transaction
_META_BYTES: Final = _PAGE.size + _META.size + 2 * _TREE.size + _TAIL.size
_BRANCH_FLAG: Final = 1
_LEAF_FLAG: Final = 2
_META_FLAG: Final = 8
_NO_PAGE: Final = (1 << 64) - 1


class _Tree(NamedTuple):
    page_bytes: int  # of the free list's tree; LMDB has it nowhere else
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class _Meta(NamedTuple):
    page_bytes: int
    trees: tuple[_Tree, _Tree]  # of the free list, and of the databases' names
    last_page: int
    transaction: int


def prepare(path: Path) -> None:
    """Before the writer opens a store: make it where there is none, judge it where there is one.

    Raises Corrupt, StorageFull, OSError, lmdb.Error.
    """
    data = path / DATA_NAME
    path.mkdir(mode=0o700, exist_ok=True)
    if not data.exists():
        _create(path)
    for name in FILES:  # also of a backup that was restored for all to read
        with contextlib.suppress(FileNotFoundError):
            (path / name).chmod(0o600)
    check_file(data)


def _create(path: Path) -> None:
    """Beside its place, then moved: a `data.mdb` that exists is whole, whenever we were killed."""
    staging = path / "new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    env = lmdb.open(str(staging), map_size=1 << 20, max_dbs=len(DATABASES), mode=0o600)
    try:
        with env.begin(write=True) as txn:
            handles = {name: env.open_db(name, txn=txn) for name in DATABASES}
            txn.put(FORMAT_KEY, FORMAT, db=handles[b"meta"])
    finally:
        env.close()
    (staging / DATA_NAME).rename(path / DATA_NAME)
    shutil.rmtree(staging)
    for directory in (path, path.parent):  # the names must outlive a power cut as the data does
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_file(data: Path) -> None:
    """Raises Corrupt for what is no LMDB file of this machine, cut short, or contradicts itself.

    Only while nobody writes: the meta pages are read one after the other.
    """
    with data.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = _read_meta(os.pread(file.fileno(), _META_BYTES, 0), 0)
        second = _read_meta(os.pread(file.fileno(), _META_BYTES, first.page_bytes), 1)
        older, newer = sorted((first, second), key=lambda meta: meta.transaction)
        # Commits take turns between the two pages, so these can only be neighbours.
        alternating = all(m.transaction & 1 == n for n, m in enumerate((first, second)))
        neighbours = alternating and newer.transaction == older.transaction + 1
        if not (neighbours or newer.transaction == 0):  # 0: nothing has been committed yet
            raise Corrupt("data.mdb has meta pages that contradict each other")
        if newer.last_page < older.last_page or first.page_bytes != second.page_bytes:
            raise Corrupt("data.mdb has meta pages that contradict each other")
        in_use = (newer.last_page + 1) * newer.page_bytes
        if size < in_use:
            raise Corrupt(f"data.mdb is cut short: {size} bytes, {in_use} are in use")
        for tree in newer.trees:
            _check_root(file.fileno(), tree, newer)


def _read_meta(raw: bytes, number: int) -> _Meta:
    if len(raw) < _META_BYTES:
        raise Corrupt("data.mdb is cut short: not even its first pages are whole")
    page_number, _, flags, _, _ = _PAGE.unpack_from(raw)
    magic, version, _, _ = _META.unpack_from(raw, _PAGE.size)
    at = _PAGE.size + _META.size
    free = _Tree(*_TREE.unpack_from(raw, at))
    main = _Tree(*_TREE.unpack_from(raw, at + _TREE.size))
    last_page, transaction = _TAIL.unpack_from(raw, at + 2 * _TREE.size)
    page_bytes = free.page_bytes
    if magic != _MAGIC or page_number != number or not flags & _META_FLAG:
        raise Corrupt(f"data.mdb is not an LMDB file, or its meta page {number} is damaged")
    if version != _VERSION:
        raise Corrupt("data.mdb was written by another version of LMDB")
    if page_bytes < 512 or page_bytes > 1 << 16 or page_bytes & (page_bytes - 1):
        raise Corrupt(f"data.mdb has a damaged meta page {number}")
    return _Meta(page_bytes, (free, main), last_page, transaction)


def _check_root(descriptor: int, tree: _Tree, meta: _Meta) -> None:
    if tree.root == _NO_PAGE:
        return
    raw = b""
    if 2 <= tree.root <= meta.last_page:
        raw = os.pread(descriptor, _PAGE.size, tree.root * meta.page_bytes)
    if len(raw) < _PAGE.size:
        raise Corrupt("data.mdb has a root page outside of the file")
    number, _, flags, lower, _ = _PAGE.unpack(raw)
    is_leaf, keys = tree.depth == 1, (lower - _PAGE.size) // 2
    if (
        number != tree.root
        or flags != (_LEAF_FLAG if is_leaf else _BRANCH_FLAG)
        or (is_leaf and keys != tree.entries)
    ):
        raise Corrupt("data.mdb has a damaged root page")


def open_environment(path: Path, *, writable: bool, durable: bool) -> lmdb.Environment:
    size = MAP_BYTES
    while size < 2 * (path / DATA_NAME).stat().st_size:
        size *= 2
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=size,
                max_dbs=len(DATABASES),
                max_readers=1024,
                readonly=not writable,
                create=False,
                sync=durable,
                metasync=durable,
                readahead=False,
                mode=0o600,
            )
        except lmdb.MemoryError:
            size //= 2
            if size < MAP_BYTES_MIN:
                raise


def check_open(env: lmdb.Environment, path: Path) -> None:
    """What can be judged of a store in use. Raises Corrupt for a foreign, newer or cut file."""
    in_use = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    size = (path / DATA_NAME).stat().st_size
    if size < in_use:
        raise Corrupt(f"data.mdb is cut short: {size} bytes, {in_use} are in use")
    try:
        meta = env.open_db(b"meta", create=False)
    except lmdb.NotFoundError:
        raise Corrupt("data.mdb is an LMDB file, but no store of this kind") from None
    with env.begin() as txn:
        if txn.get(FORMAT_KEY, None, meta) != FORMAT:
            raise Corrupt("its format is not known to this version")


def grow_map(env: lmdb.Environment, *, wanted: bool) -> None:
    """Double the map when it is seven eighths full, or `wanted`; no transaction of ours may write.

    py-lmdb invalidates the snapshots of this process that are open: they raise, and are retried.
    """
    info = env.info()
    used = (info["last_pgno"] + 1) * mmap.PAGESIZE
    if not wanted and used < info["map_size"] // 8 * 7:
        return
    if can_map(info["map_size"] * 2):
        env.set_mapsize(info["map_size"] * 2)


def follow_map(env: lmdb.Environment) -> bool:
    """Take the size to which the writer has grown the map. False: so much cannot be mapped."""
    if not can_map(env.info()["map_size"] * 2):
        return False
    env.set_mapsize(0)
    return True


def can_map(size: int) -> bool:
    """Whether that much can be mapped beside what is. LMDB gives up its map before it has the next,
    so asking it for too much would leave the process with none.
    """
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


# errors

_FULL_CODES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
    lmdb.InvalidError,
    lmdb.IncompatibleError,
    lmdb.BadTxnError,
    lmdb.CursorFullError,
)


def is_full(error: lmdb.Error | OSError) -> bool:
    """The map, the disk, the quota on it or the limit on the file: there may be room again."""
    if isinstance(error, OSError):
        return error.errno in _FULL_CODES
    return isinstance(error, lmdb.MapFullError | lmdb.DiskError) or error.code in _FULL_CODES


def was_cut_short(error: lmdb.Error | OSError, data: Path, wanted: int) -> bool:
    """Whether an EIO is a full disk: LMDB says so of every write of which only a part found room.

    Asked of the file itself, by reserving `wanted` bytes behind its end and giving them back. An
    fsync that really failed on a disk that is also full is taken for a full disk; that loses
    nothing, since no commit relies on pages that an earlier one failed to write.
    """
    if isinstance(error, OSError) or error.code != errno.EIO:
        return False
    with data.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), size, wanted)
        except OSError as refused:
            return refused.errno in _FULL_CODES
        finally:
            os.ftruncate(file.fileno(), size)
    return False


def storage_full() -> StorageFull:
    return StorageFull(FULL, hint=_FULL_HINT)


def cause_of(error: lmdb.Error | OSError) -> str:
    """Its kind, in words of the system or of LMDB: no path, no data."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if error.code > 0:
        return os.strerror(error.code)
    return error.reason if error.code else error.what


def read_failure(error: lmdb.Error) -> Corrupt | Unavailable:
    """What a failed read means: the file is damaged, or this view is gone and can be taken anew."""
    if isinstance(error, _DAMAGE) or error.code == errno.EIO:
        return Corrupt("the store is damaged", hint=REPAIR)
    return Unavailable("the store could not be read just now")


def open_failure(path: Path, error: lmdb.Error | OSError | Corrupt) -> StorageFailed | StorageFull:
    if isinstance(error, Corrupt):
        return StorageFailed(f"the store in {path}: {error.message}", hint=REPAIR)
    if is_full(error):
        return storage_full()
    damaged = isinstance(error, _DAMAGE)
    return StorageFailed(
        f"cannot open the store in {path}: {cause_of(error)}", hint=REPAIR if damaged else ""
    )
