"""How one entry lies in the `data` database.

    byte 0     format, 1
    byte 1     flags: EXPIRES 1, LONG 2, CLEAR 4
    [8]        EXPIRES: Unix milliseconds, big endian
    [2 + n]    LONG: the full key, after its length
    rest       sealed value (`barrier/keyring.py`), or with CLEAR the value and its CRC-32

Everything before the sealed value is authenticated with it: head and full key are the AEAD's
associated data. CLEAR is for the few `n/` entries that must be read while sealed (seal
configuration, wrapped keyring), never for anything else.
"""

from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple
from zlib import crc32

from undercroft.barrier.keyring import NONCE_BYTES, TAG_BYTES, TERM_BYTES, Keyring
from undercroft.errors import Corrupt, Sealed
from undercroft.storage.keys import LONG_KEY_BYTES, OWN, stored_key

EXPIRES: Final = 1
LONG: Final = 2
CLEAR: Final = 4

_PLAIN_HEAD: Final = b"\x01\x00"
_SEALED_BYTES_MIN: Final = TERM_BYTES + NONCE_BYTES + TAG_BYTES
_U64: Final = Struct(">Q")
_U16: Final = Struct(">H")
_U32: Final = Struct(">I")


class Head(NamedTuple):
    """A record's head, parsed: `size` bytes of it, then the value."""

    flags: int
    expires_ms: int
    full_key: bytes
    size: int


def _head_bytes(full_key: bytes, expires_ms: int, clear: bool) -> bytes:
    long = stored_key(full_key) is not full_key
    if not (long or expires_ms or clear):
        return _PLAIN_HEAD
    flags = (EXPIRES if expires_ms else 0) | (LONG if long else 0) | (CLEAR if clear else 0)
    head = bytes((1, flags))
    if expires_ms:
        head += _U64.pack(expires_ms)
    if long:
        head += _U16.pack(len(full_key)) + full_key
    return head


def parse_head(stored: bytes, raw: bytes) -> Head:
    """The head of a record found under the stored key. Raises Corrupt for an unknown format."""
    if raw[:2] == _PLAIN_HEAD and len(stored) != LONG_KEY_BYTES:
        return Head(0, 0, stored, 2)
    long = len(stored) == LONG_KEY_BYTES
    if len(raw) < 2 or raw[0] != 1 or raw[1] > 7 or bool(raw[1] & LONG) != long:
        raise Corrupt("a stored entry has an unknown format")
    flags, at, expires_ms, full = raw[1], 2, 0, stored
    try:
        if flags & EXPIRES:
            (expires_ms,) = _U64.unpack_from(raw, at)
            at += 8
        if flags & LONG:
            (size,) = _U16.unpack_from(raw, at)
            full = raw[at + 2 : at + 2 + size]
            at += 2 + size
            if len(full) != size or stored_key(full) != stored:
                raise Corrupt("a stored entry's name does not match its place")
    except StructError:
        raise Corrupt("a stored entry is cut short") from None
    return Head(flags, expires_ms, full, at)


def full_key_of(stored: bytes, raw: bytes) -> bytes:
    """The full key of a record; only long names cost a look into the record."""
    return stored if len(stored) != LONG_KEY_BYTES else parse_head(stored, raw).full_key


def seal_record(
    keyring: Keyring | None, full_key: bytes, value: bytes, expires_ms: int = 0
) -> bytes:
    """A record ready to be stored. Raises Sealed without a keyring."""
    if keyring is None:
        raise Sealed
    head = _head_bytes(full_key, expires_ms, clear=False)
    return head + keyring.encrypt(head + full_key, value)


def clear_record(full_key: bytes, value: bytes) -> bytes:
    """An unencrypted record, for entries of the node's own that are needed while sealed."""
    assert full_key[:1] == OWN, "only the own keyspace may hold clear records"
    head = _head_bytes(full_key, 0, clear=True)
    return head + value + _U32.pack(crc32(head + full_key + value))


def sealed_expiry(full_key: bytes, raw: bytes) -> int:
    """When a record that another cluster sealed expires, in Unix milliseconds; 0: never.

    Raises Corrupt for one that could not be opened under that key, as far as can be told without
    the keyring.
    """
    head = parse_head(stored_key(full_key), raw)
    if head.full_key != full_key or head.flags & CLEAR or len(raw) < head.size + _SEALED_BYTES_MIN:
        raise Corrupt("a replicated entry is no sealed record of its key")
    return head.expires_ms


def is_plain(raw: bytes) -> bool:
    """Whether a record has no head to parse: sealed, short name, never expires."""
    return raw[:2] == _PLAIN_HEAD and len(raw) >= 2 + _SEALED_BYTES_MIN


def open_record(keyring: Keyring | None, full_key: bytes, raw: bytes) -> bytes:
    """The value of a record. Raises Corrupt, or Sealed without a keyring."""
    if raw[:2] == _PLAIN_HEAD:  # nearly every record: no parsing
        if keyring is None:
            raise Sealed
        return keyring.decrypt(_PLAIN_HEAD + full_key, raw[2:])
    head = parse_head(stored_key(full_key), raw)
    if head.full_key != full_key:
        raise Corrupt("a stored entry's name does not match its place")
    aad = raw[: head.size] + full_key
    if head.flags & CLEAR:
        value, check = raw[head.size : -4], raw[-4:]
        if full_key[:1] != OWN or check != _U32.pack(crc32(aad + value)):
            raise Corrupt("a stored entry does not match its checksum")
        return value
    if keyring is None:
        raise Sealed
    return keyring.decrypt(aad, raw[head.size :])


def tag_of(raw: bytes) -> bytes:
    """The AEAD tag of a sealed record: its leaf in the digest tree."""
    return raw[-TAG_BYTES:]
