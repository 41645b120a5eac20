"""What handlers see of the store: a snapshot to read, a transaction to write, a space of a mount.

A `Snapshot` is one LMDB read transaction. A `Transaction` adds an overlay of what the request has
written: the overlay is the savepoint (dropping it undoes the request alone) and it is also the list
of operations of the request's log record. Both answer alike, so a handler never knows which it has:
writing through a snapshot raises ReadOnly, and the request moves up one hop (DESIGN idea 2).
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast

import lmdb
import msgspec

from undercroft.barrier.keyring import Keyring
from undercroft.errors import InvalidRequest, ReadOnly, Sealed
from undercroft.storage.keys import LONG_KEY_BYTES, NAME_BYTES_MAX, seek_key, stored_key
from undercroft.storage.record import clear_record, full_key_of, open_record, seal_record

T = TypeVar("T")

_CACHE_ENTRIES_MAX: Final = 32_768


class Decoded:
    """Decoded structs by stored key, each valid only for the very ciphertext it was decoded from.

    No invalidation: a lookup compares the record just read from the snapshot with the cached one,
    and every write has a fresh nonce, so a hit is always what the snapshot says. Cleared at seal.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[bytes, Any]] = {}

    def get(self, stored: bytes, raw: bytes) -> Any:
        entry = self._entries.get(stored)
        return entry[1] if entry is not None and entry[0] == raw else None

    def put(self, stored: bytes, raw: bytes, value: Any) -> None:
        if len(self._entries) >= _CACHE_ENTRIES_MAX:
            self._entries.clear()
        self._entries[stored] = (raw, value)

    def clear(self) -> None:
        self._entries.clear()


class Snapshot:
    """A consistent, read-only view of everything. Close it soon: it pins old pages."""

    writable = False

    def __init__(
        self, txn: lmdb.Transaction, meta: Any, keyring: Keyring | None, decoded: Decoded
    ) -> None:
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
        raw = self._txn.get(b"generation", None, self._meta)
        return int.from_bytes(raw, "big") if raw else 0

    # reading

    def raw(self, key: bytes) -> bytes | None:
        """The stored record, unopened."""
        return cast("bytes | None", self._txn.get(stored_key(key)))

    def get(self, key: bytes) -> bytes | None:
        """The entry's value, or None. Raises Corrupt, Sealed."""
        raw = self.raw(key)
        return None if raw is None else open_record(self._keyring, key, raw)

    def exists(self, key: bytes) -> bool:
        return self.raw(key) is not None

    def read(self, key: bytes, kind: type[T]) -> T | None:
        """The entry decoded from MessagePack, or None. Shared between callers: never change it."""
        raw = self.raw(key)
        if raw is None:
            return None
        value: T | None = self._decoded.get(key, raw)
        if value is None:
            value = msgspec.msgpack.decode(open_record(self._keyring, key, raw), type=kind)
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
        cursor = self._txn.cursor()
        if not cursor.set_range(seek_key(prefix)):
            return found
        for key, record in cursor.iternext(keys=True, values=True):
            stored, raw = cast(bytes, key), cast(bytes, record)
            if not stored.startswith(seek_key(prefix)):
                break
            full = full_key_of(stored, raw)
            if not full.startswith(prefix):
                continue
            value: T | None = self._decoded.get(full, raw)
            if value is None:
                opened = open_record(self._keyring, full, raw)
                value = msgspec.msgpack.decode(opened, type=kind)
                self._decoded.put(full, raw, value)
            found.append(value)
        return found

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Every full key with that prefix; long names come in the order of their stored keys."""
        cursor = self._txn.cursor()
        seek = seek_key(prefix)
        found = cursor.set_range(seek)
        while found:
            stored = cast(bytes, cursor.key())
            if not stored.startswith(seek):
                return
            full = stored
            if len(stored) == LONG_KEY_BYTES:
                full = full_key_of(stored, cast(bytes, cursor.value()))
            if full.startswith(prefix):
                yield full
            found = cursor.next()

    def children(self, prefix: bytes, after: str = "", limit: int = 0) -> list[str]:
        """Names directly below a prefix, sorted by bytes; folders once, with a trailing slash.

        `after` is exclusive, `limit` 0 means all.
        """
        return _page(self._children(prefix), after, limit)

    def _children(self, prefix: bytes) -> set[bytes]:
        cursor = self._txn.cursor()
        seek, size, names = seek_key(prefix), len(prefix), set[bytes]()
        found = cursor.set_range(seek)
        while found:
            stored = cast(bytes, cursor.key())
            if not stored.startswith(seek):
                break
            full = stored
            if len(stored) == LONG_KEY_BYTES:
                full = full_key_of(stored, cast(bytes, cursor.value()))
            if not full.startswith(prefix):
                found = cursor.next()
                continue
            name = _first_segment(full, size)
            names.add(name)
            skip = prefix + name[:-1] + b"0"  # "0" follows "/": the first key behind the folder
            if name.endswith(b"/") and skip == seek_key(skip):
                found = cursor.set_range(skip)
            else:
                found = cursor.next()
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
        self, txn: lmdb.Transaction, meta: Any, keyring: Keyring | None, decoded: Decoded
    ) -> None:
        super().__init__(txn, meta, keyring, decoded)
        self.writes: dict[bytes, bytes | None] = {}
        self.expiries: dict[bytes, int] = {}  # of the records in `writes` that expire
        # What must happen in this process once, and only if, the commit stands (unseal, seal).
        self.after_commit: list[Callable[[], None]] = []

    def __exit__(self, *_: object) -> None:
        """The batch owns the LMDB transaction; leaving one request's view ends nothing."""

    def raw(self, key: bytes) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        return cast("bytes | None", self._txn.get(stored_key(key)))

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

    def _children(self, prefix: bytes) -> set[bytes]:
        if not any(k.startswith(prefix) for k in self.writes):
            return super()._children(prefix)
        return {_first_segment(k, len(prefix)) for k in self.keys(prefix)}

    def use_keyring(self, keyring: Keyring) -> None:
        """Write and read under a keyring that the commit itself brings about (init, rotate)."""
        self._keyring = keyring

    def put(self, key: bytes, value: bytes, expires_ms: int = 0) -> None:
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
        self.writes[key] = None
        self.expiries.pop(key, None)


class Space:
    """One mount's part of a view: names are text, everything else is out of reach."""

    __slots__ = ("prefix", "view")

    def __init__(self, view: Snapshot, keyspace: bytes, mount_id: bytes) -> None:
        self.view = view
        self.prefix = keyspace + mount_id

    def get(self, name: str) -> bytes | None:
        return self.view.get(self.prefix + name.encode())

    def read(self, name: str, kind: type[T]) -> T | None:
        return self.view.read(self.prefix + name.encode(), kind)

    def exists(self, name: str) -> bool:
        return self.view.exists(self.prefix + name.encode())

    def put(self, name: str, value: bytes, expires_ms: int = 0) -> None:
        """Raises ReadOnly on a snapshot, InvalidRequest for a name over 32 KiB."""
        encoded = name.encode()
        if len(encoded) > NAME_BYTES_MAX:
            raise InvalidRequest(f"the path is longer than {NAME_BYTES_MAX} bytes")
        self.view.put(self.prefix + encoded, value, expires_ms)

    def write(self, name: str, value: msgspec.Struct, expires_ms: int = 0) -> None:
        """Store a struct as MessagePack; `read` gives it back."""
        self.put(name, msgspec.msgpack.encode(value), expires_ms)

    def delete(self, name: str) -> None:
        self.view.delete(self.prefix + name.encode())

    def list(self, prefix: str = "", after: str = "", limit: int = 0) -> list[str]:
        """Names directly below `prefix` (empty, or ending in `/`); folders end in `/`."""
        return self.view.children(self.prefix + prefix.encode(), after, limit)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Every name below `prefix`, at any depth."""
        size = len(self.prefix)
        for full in self.view.keys(self.prefix + prefix.encode()):
            yield full[size:].decode()


def _first_segment(full: bytes, size: int) -> bytes:
    """The name below the prefix, up to and with its first slash."""
    slash = full.find(b"/", size)
    return full[size:] if slash < 0 else full[size : slash + 1]


def _page(names: set[bytes], after: str, limit: int) -> list[str]:
    ordered = sorted(names)
    if after:
        start = after.encode()
        ordered = [n for n in ordered if n > start]
    if limit > 0:
        ordered = ordered[:limit]
    return [n.decode() for n in ordered]
