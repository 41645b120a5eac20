"""What handlers see of the store: a snapshot to read, a transaction to write, a space of a mount.

A `Snapshot` is one LMDB read transaction. A `Transaction` adds an overlay of what the request has
written: the overlay is the savepoint (dropping it undoes the request alone) and it is also the list
of operations of the request's log record. Both answer alike, so a handler never knows which it has:
writing through a snapshot raises ReadOnly, and the request moves up one hop (DESIGN idea 2).
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

import lmdb
import msgspec

from undercroft.barrier.keyring import Keyring
from undercroft.errors import Corrupt, InvalidRequest, ReadOnly, Sealed
from undercroft.observe.logs import Rarely, get_logger
from undercroft.storage.digest import bucket_of
from undercroft.storage.environment import read_failure
from undercroft.storage.keys import (
    LONG_KEY_BYTES,
    NAME_BYTES_MAX,
    PLAIN_ORDER_BYTES,
    SHARED,
    entry_name,
    seek_key,
    stored_key,
)
from undercroft.storage.log import load_extent
from undercroft.storage.record import clear_record, full_key_of, open_record, seal_record, tag_of
from undercroft.storage.wal import START, Position

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[bytes]"  # only type checkers know the parameter
Database: TypeAlias = "lmdb._Database"

_CACHE_BYTES_MAX: Final = 64 << 20  # as stored; decoded they are a few times that
_CACHE_ENTRY_BYTES_MAX: Final = 64 << 10
_CACHE_ENTRY_COST: Final = 512


log = get_logger("storage")
_may_report: Final = Rarely()


def _report(key: bytes, error: Corrupt) -> None:
    """Which entry it is, for the log; no client is told."""
    if _may_report(key):
        log.error("an entry cannot be read", entry=entry_name(key), reason=error.message)


class Decoded:
    """Decoded structs by key, each valid only for the very ciphertext it was decoded from.

    No invalidation: a lookup compares the record just read from the snapshot with the cached one,
    and every write has a fresh nonce, so a hit is always what the snapshot says. A store takes
    a new one at seal, so that a view which is still open cannot fill it with plain text.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[bytes, Any]] = {}
        self._bytes = 0

    def get(self, key: bytes, raw: bytes) -> Any:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] == raw else None

    def put(self, key: bytes, raw: bytes, value: Any) -> None:
        """The oldest go when it is full; what is large is not worth the room."""
        if len(raw) > _CACHE_ENTRY_BYTES_MAX:
            return
        entries = self._entries
        old = entries.pop(key, None)
        if old is not None:
            self._bytes -= len(old[0]) + _CACHE_ENTRY_COST
        self._bytes += len(raw) + _CACHE_ENTRY_COST
        entries[key] = (raw, value)
        while self._bytes > _CACHE_BYTES_MAX:
            oldest = entries.pop(next(iter(entries)))
            self._bytes -= len(oldest[0]) + _CACHE_ENTRY_COST


class Snapshot:
    """A consistent, read-only view of everything. Close it soon: it pins old pages."""

    writable = False

    def __init__(self, txn: Txn, meta: Database, keyring: Keyring | None, decoded: Decoded) -> None:
        self._txn = txn
        self._meta = meta
        self._keyring = keyring
        self._decoded = decoded

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self._txn.abort()

    @property
    def generation(self) -> int:
        """Rises with every commit that touches cached configuration (DESIGN idea 6)."""
        try:
            raw = self._txn.get(b"generation", None, self._meta)
        except lmdb.Error as error:
            raise read_failure(error) from None
        return int.from_bytes(raw, "big") if raw else 0

    def positions(self) -> tuple[Position, Position]:
        """Of the cluster's own log and of the shared log, as of this view."""
        extent = load_extent(self._txn, self._meta)
        return extent.last, extent.shared

    @property
    def keyring(self) -> Keyring | None:
        return self._keyring

    @property
    def txn(self) -> Txn:
        return self._txn

    # reading

    def raw(self, key: bytes) -> bytes | None:
        """The stored record, unopened. Raises Corrupt, Unavailable."""
        try:
            return self._txn.get(stored_key(key))
        except lmdb.Error as error:
            failure = read_failure(error)
            if isinstance(failure, Corrupt):
                _report(key, failure)
            raise failure from None

    def get(self, key: bytes) -> bytes | None:
        """The entry's value, or None. Raises Corrupt, Sealed."""
        raw = self.raw(key)
        return None if raw is None else self._open(key, raw)

    def _open(self, key: bytes, raw: bytes) -> bytes:
        try:
            return open_record(self._keyring, key, raw)
        except Corrupt as error:
            _report(key, error)
            raise

    def exists(self, key: bytes) -> bool:
        return self.raw(key) is not None

    def read(self, key: bytes, kind: type[T]) -> T | None:
        """The entry decoded from MessagePack, or None. Shared between callers: never change it."""
        raw = self.raw(key)
        if raw is None:
            return None
        value: T | None = self._decoded.get(key, raw)
        if value is None:
            value = msgspec.msgpack.decode(self._open(key, raw), type=kind)
            self._decoded.put(key, raw, value)
        return value

    # texts that leave the store sealed under its keyring (batch tokens)

    def seal_text(self, purpose: bytes, text: bytes) -> bytes:
        """Seal what no entry holds. `purpose` is authenticated: it opens for nothing else.

        It cannot be taken for a record either: a record's associated data begins with byte 1.
        """
        if self._keyring is None:
            raise Sealed
        return self._keyring.encrypt(purpose, text)

    def open_text(self, purpose: bytes, sealed: bytes) -> bytes:
        """What `seal_text` sealed, on any cluster with this keyring. Raises Corrupt, Sealed."""
        if self._keyring is None:
            raise Sealed
        return self._keyring.decrypt(purpose, sealed)

    def read_all(self, prefix: bytes, kind: type[T]) -> list[T]:
        """Every entry below a prefix, as `read` gives it: one walk instead of many look-ups."""
        found: list[T] = []
        for full, cursor in self._entries(prefix):
            raw = cursor.value()
            value: T | None = self._decoded.get(full, raw)
            if value is None:
                value = msgspec.msgpack.decode(self._open(full, raw), type=kind)
                self._decoded.put(full, raw, value)
            found.append(value)
        return found

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Every full key with that prefix; long names come in the order of their stored keys."""
        for full, _ in self._entries(prefix):
            yield full

    def _entries(self, prefix: bytes) -> Iterator[tuple[bytes, "lmdb.Cursor[bytes]"]]:
        """Full keys, and the cursor, which the caller may move on."""
        seek = seek_key(prefix)
        try:
            cursor = self._txn.cursor()
            found = cursor.set_range(seek)
            while found:
                stored = cursor.key()
                if not stored.startswith(seek):
                    return
                full = stored
                if len(stored) == LONG_KEY_BYTES:
                    full = full_key_of(stored, cursor.value())
                if full.startswith(prefix):
                    yield full, cursor
                found = cursor.next()
        except lmdb.Error as error:
            raise read_failure(error) from None

    def entries_of(self, database: Database) -> Iterator[tuple[bytes, bytes]]:
        """Everything in one of the store's databases, as stored."""
        try:
            yield from self._txn.cursor(database)
        except lmdb.Error as error:
            raise read_failure(error) from None

    def leaves(self, head: bytes, buckets: frozenset[int]) -> Iterator[tuple[bytes, bytes]]:
        """Full key and digest leaf of a mount's entries that are in the given buckets.

        The buckets are no order of the entries: this reads the whole mount once.
        """
        for full, cursor in self._entries(head):
            if bucket_of(full) in buckets:
                yield full, tag_of(cursor.value())

    def children(self, prefix: bytes, after: str = "", limit: int = 0) -> list[str]:
        """Names directly below a prefix, sorted by bytes; folders once, with a trailing slash.

        `after` is exclusive, `limit` 0 means all.
        """
        start = after.encode(errors="surrogatepass")
        return _page(self._children(prefix, start, limit), start, limit)

    def _children(self, prefix: bytes, after: bytes, limit: int) -> set[bytes]:
        """A superset of the page asked for.

        What lies before the first 448 bytes of `after` comes before it. And once enough names are
        found, none to come is smaller than the last, if that one fits in 448 bytes: only beyond
        those is the order of stored keys another than that of names.
        """
        size, names = len(prefix), set[bytes]()
        seek = seek_key(prefix)
        try:
            cursor = self._txn.cursor()
            found = cursor.set_range(seek_key(prefix + after))
            while found:
                stored = cursor.key()
                if not stored.startswith(seek):
                    break
                full = stored
                if len(stored) == LONG_KEY_BYTES:
                    full = full_key_of(stored, cursor.value())
                if not full.startswith(prefix):
                    found = cursor.next()
                    continue
                name = _first_segment(full, size)
                if name > after:
                    names.add(name)
                    if 0 < limit <= len(names) and size + len(name) <= PLAIN_ORDER_BYTES:
                        break
                skip = prefix + name[:-1] + b"0"  # "0" follows "/": the first key behind the folder
                if name.endswith(b"/") and skip == seek_key(skip):
                    found = cursor.set_range(skip)
                else:
                    found = cursor.next()
        except lmdb.Error as error:
            raise read_failure(error) from None
        return names

    # writing

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        raise ReadOnly

    def delete(self, key: bytes) -> None:
        raise ReadOnly

    def put_clear(self, key: bytes, value: bytes) -> None:
        raise ReadOnly


class Transaction(Snapshot):
    """One request's view of the writer's transaction; `writes` is its overlay (None: deleted)."""

    writable = True

    def __init__(
        self,
        txn: Txn,
        meta: Database,
        keyring: Keyring | None,
        decoded: Decoded,
        *,
        shared: Position = START,
        refuse_shared: Callable[[], Exception] | None = None,
    ) -> None:
        super().__init__(txn, meta, keyring, decoded)
        self.shared = shared  # position of the shared log that this request follows
        self.opens_epoch = 0  # the number of the epoch that this request's record opens
        self._refuse_shared = refuse_shared  # why shared entries may not be written here
        self.writes: dict[bytes, bytes | None] = {}
        self.expiries: dict[bytes, int] = {}  # of the records in `writes` that expire
        # What must happen in this process once, and only if, the commit stands (unseal, seal).
        self.after_commit: list[Callable[[], None]] = []

    def __exit__(self, *_: object) -> None:
        """The batch owns the LMDB transaction; leaving one request's view ends nothing."""

    def raw(self, key: bytes) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        return super().raw(key)

    def stored_raw(self, key: bytes) -> bytes | None:
        """What this request found: the record below its own writes."""
        return super().raw(key)

    def read_all(self, prefix: bytes, kind: type[T]) -> list[T]:
        if not any(key.startswith(prefix) for key in self.writes):
            return super().read_all(prefix, kind)
        read = (self.read(key, kind) for key in self.keys(prefix))
        return [value for value in read if value is not None]

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        written = {k: v for k, v in self.writes.items() if k.startswith(prefix)}
        if not written:
            yield from super().keys(prefix)
            return
        base = [k for k in super().keys(prefix) if k not in written]
        yield from sorted(base + [k for k, v in written.items() if v is not None])

    def _children(self, prefix: bytes, after: bytes, limit: int) -> set[bytes]:
        if not any(k.startswith(prefix) for k in self.writes):
            return super()._children(prefix, after, limit)
        return {_first_segment(k, len(prefix)) for k in self.keys(prefix)}

    def use_keyring(self, keyring: Keyring) -> None:
        """Write and read under a keyring that the commit itself brings about (init, rotate)."""
        self._keyring = keyring

    @property
    def shared_writable(self) -> bool:
        return self._refuse_shared is None

    def allow_shared(self) -> None:
        """From now on this request may write shared entries: it changes the cluster's role."""
        self._refuse_shared = None

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
        if self._refuse_shared is not None and key[:1] == SHARED:
            raise self._refuse_shared()
        self.writes[key] = seal_record(self._keyring, key, value, expires_ms)
        if expires_ms:
            self.expiries[key] = expires_ms
        else:
            self.expiries.pop(key, None)

    def put_clear(self, key: bytes, value: bytes) -> None:
        """Store an own entry that must be readable while sealed (`record.py`, CLEAR)."""
        self.writes[key] = clear_record(key, value)
        self.expiries.pop(key, None)

    def delete(self, key: bytes) -> None:
        if self._refuse_shared is not None and key[:1] == SHARED:
            raise self._refuse_shared()
        self.writes[key] = None
        self.expiries.pop(key, None)


class Space:
    """One mount's part of a view: names are text, everything else is out of reach."""

    __slots__ = ("prefix", "view")

    def __init__(self, view: Snapshot, keyspace: bytes, mount_id: bytes) -> None:
        self.view = view
        self.prefix = keyspace + mount_id

    def get(self, name: str) -> bytes | None:
        return self.view.get(self.prefix + _lenient(name))

    def read(self, name: str, kind: type[T]) -> T | None:
        return self.view.read(self.prefix + _lenient(name), kind)

    def exists(self, name: str) -> bool:
        return self.view.exists(self.prefix + _lenient(name))

    def put(self, name: str, value: bytes, expires_ms: int = 0) -> None:
        """Raises ReadOnly on a snapshot, InvalidRequest for a name over 32 KiB or no Unicode."""
        try:
            encoded = name.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("the path is not valid Unicode") from None
        if len(encoded) > NAME_BYTES_MAX:
            raise InvalidRequest(f"the path is longer than {NAME_BYTES_MAX} bytes")
        self.view.put(self.prefix + encoded, value, expires_ms)

    def write(self, name: str, value: msgspec.Struct, expires_ms: int = 0) -> None:
        """Store a struct as MessagePack; `read` gives it back."""
        self.put(name, msgspec.msgpack.encode(value), expires_ms)

    def delete(self, name: str) -> None:
        self.view.delete(self.prefix + _lenient(name))

    def list(self, prefix: str = "", after: str = "", limit: int = 0) -> list[str]:
        """Names directly below `prefix` (empty, or ending in `/`); folders end in `/`."""
        return self.view.children(self.prefix + _lenient(prefix), after, limit)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Every name below `prefix`, at any depth."""
        size = len(self.prefix)
        for full in self.view.keys(self.prefix + _lenient(prefix)):
            yield _text(full[size:])


def _first_segment(full: bytes, size: int) -> bytes:
    """The name below the prefix, up to and with its first slash."""
    slash = full.find(b"/", size)
    return full[size:] if slash < 0 else full[size : slash + 1]


def _page(names: set[bytes], after: bytes, limit: int) -> list[str]:
    ordered = sorted(names)
    if after:
        ordered = [n for n in ordered if n > after]
    if limit > 0:
        ordered = ordered[:limit]
    return [_text(n) for n in ordered]


def _lenient(name: str) -> bytes:
    """To look a name up that may be no Unicode: nothing is there, since `put` takes none such."""
    return name.encode(errors="surrogatepass")


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Corrupt("the name of a stored entry is damaged") from None
