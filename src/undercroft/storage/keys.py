"""Key names: which keyspace and mount an entry belongs to, and what LMDB is given as its key.

A key is `keyspace (1 byte) + mount id (16 bytes) + name (UTF-8)`. The keyspace decides where the
entry may travel (DESIGN section 4); the mount id comes next, so everything about a mount is one
prefix. Names may have 32 KiB while LMDB takes 511 bytes: see `stored_key`.
"""

from hashlib import blake2b
from uuid import UUID

SHARED = b"s"  # to performance and DR secondaries
LOCAL = b"l"  # to DR secondaries only
OWN = b"n"  # never leaves this cluster

MOUNT_ID_BYTES = 16
HEAD_BYTES = 1 + MOUNT_ID_BYTES

# Ids of what every cluster has. Anything written under SYSTEM is configuration that processes
# cache, so a commit that touches it bumps the generation (DESIGN idea 6): keep hot data out.
SYSTEM = bytes(16)
TOKENS = bytes(15) + b"\x01"
CUBBYHOLE = bytes(15) + b"\x02"
LOCKOUTS = bytes(15) + b"\x03"
QUEUE = bytes(15) + b"\x04"  # work that outlives a request: purges, cascades of revocations
AUDIT = bytes(15) + b"\x05"  # the salts of the audit devices
QUARANTINE = bytes(15) + b"\x06"  # writes that a failover set aside

_NAMED_BY_ACCESSORS = (TOKENS, CUBBYHOLE, QUEUE)

NAME_BYTES_MAX = 32 * 1024
_SHORT_MAX = 480
_LONG_PREFIX = 448
PLAIN_ORDER_BYTES = _LONG_PREFIX  # so far stored keys are in the order of full keys
LONG_KEY_BYTES = _SHORT_MAX + 1
SHORT_KEY_BYTES = _SHORT_MAX  # up to here a stored key is the full key


def key(keyspace: bytes, mount_id: bytes, name: str) -> bytes:
    """The full key of an entry. The caller has checked the name's length."""
    return keyspace + mount_id + name.encode()


def stored_key(full: bytes) -> bytes:
    """What LMDB is given: the key itself up to 480 bytes, else its first 448 bytes and a hash.

    The two kinds never collide: a long name's stored key has exactly 481 bytes. Its full name
    stands in the record (`record.py`), so listing stays exact; the shared first bytes keep it
    within its prefix's range.
    """
    if len(full) <= _SHORT_MAX:
        return full
    digest = blake2b(full, digest_size=LONG_KEY_BYTES - _LONG_PREFIX).digest()
    return full[:_LONG_PREFIX] + digest


def seek_key(prefix: bytes) -> bytes:
    """Where a scan for `prefix` starts: at or before every stored key whose full key has it."""
    return prefix[:_LONG_PREFIX]


def entry_name(full: bytes) -> str:
    """For logs and reports: printable whatever the name holds, never long, no whole accessor."""
    keyspace, mount, name = full[:1], full[1:HEAD_BYTES].ljust(16, b"\0"), full[HEAD_BYTES:]
    shown = 11 if mount in _NAMED_BY_ACCESSORS else 80
    text = ascii(name[:shown].decode(errors="replace")) + ("..." if len(name) > shown else "")
    return f"{text} of mount {UUID(bytes=mount)}, keyspace {keyspace.decode('latin-1')!a}"
