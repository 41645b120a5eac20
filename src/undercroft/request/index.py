"""X-Vault-Index: a position that a client saw, and may ask not to read behind.

The header names a place in the shared log, which means the same on every member of a replication
set, and one in the log of the cluster that answered. It is signed with a key that the set shares,
so nobody makes a server wait for a place that never was (R-19).
"""

import base64
import binascii
import hmac
import os
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from undercroft.barrier.constant import same
from undercroft.errors import InvalidRequest
from undercroft.replication.lineage import LINEAGE_KEY, Lineage
from undercroft.storage.keys import SHARED, SYSTEM, key
from undercroft.storage.view import Snapshot, Transaction
from undercroft.storage.wal import Position

HEADER: Final = "X-Vault-Index"
_KEY: Final = key(SHARED, SYSTEM, "index-key")
_KEY_BYTES: Final = 32
_MAC_BYTES: Final = 16
_CHARS_MAX: Final = 512
_INDEXES_MAX: Final = 8


class Index(msgspec.Struct, frozen=True, array_like=True):
    """`epoch`, `seq`: of the shared log; `local_seq`: of the log of cluster `cluster_id`."""

    set_id: str  # of the replication set; without one, the cluster's id
    epoch: int
    seq: int
    cluster_id: str
    local_seq: int


class Verdict(NamedTuple):
    """`behind`: the state is older; `lost`: the index is of writes that a failover set aside."""

    behind: bool
    lost: bool


def make_key(tx: Transaction) -> None:
    """For a new cluster."""
    tx.put(_KEY, os.urandom(_KEY_BYTES))


def encode(view: Snapshot, cluster_id: str, shared: Position, local_seq: int) -> str:
    """The header's value; empty where no key was ever made."""
    secret = view.get(_KEY)
    if secret is None:
        return ""
    set_id = _set_id(view, cluster_id)
    body = msgspec.msgpack.encode(Index(set_id, shared.epoch, shared.seq, cluster_id, local_seq))
    return base64.b64encode(body + _mac(secret, body)).decode()


def decode(view: Snapshot, header: str, cluster_id: str) -> list[Index]:
    """The indexes of a request's header. Raises InvalidRequest for what was not made here."""
    texts = [text.strip() for text in header.split(",") if text.strip()]
    if len(texts) > _INDEXES_MAX:
        raise InvalidRequest(f"more than {_INDEXES_MAX} values of {HEADER}")
    return [_one(view, text, cluster_id) for text in texts]


def _one(view: Snapshot, text: str, cluster_id: str) -> Index:
    try:
        if len(text) > _CHARS_MAX:
            raise ValueError
        raw = base64.b64decode(text, validate=True)
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        found = msgspec.msgpack.decode(body, type=Index)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidRequest(f"{HEADER} cannot be read") from None
    secret = view.get(_KEY)
    if found.set_id == _set_id(view, cluster_id) and (
        secret is None or not same(_mac(secret, body), mac)
    ):
        raise InvalidRequest(f"{HEADER} was not made by this replication set")
    return found


def _set_id(view: Snapshot, cluster_id: str) -> str:
    lineage = view.read(LINEAGE_KEY, Lineage)
    return lineage.set_id if lineage else cluster_id


def judge(view: Snapshot, index: Index, cluster_id: str) -> Verdict:
    """Whether the view is as new as the index asks. Another set's index asks for nothing."""
    lineage = view.read(LINEAGE_KEY, Lineage)
    own, shared = view.positions()
    if index.set_id != (lineage.set_id if lineage else cluster_id):
        return Verdict(behind=False, lost=False)
    behind = index.cluster_id == cluster_id and own.seq < index.local_seq
    if lineage is not None:
        following = next((e for e in lineage.epochs if e.number > index.epoch), None)
        if following is not None and index.seq > following.after.seq:
            return Verdict(behind, lost=True)
    return Verdict(behind or (shared.epoch, shared.seq) < (index.epoch, index.seq), lost=False)


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, body, sha256)[:_MAC_BYTES]
