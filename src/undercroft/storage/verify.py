"""Check a store without its keys: what a damaged disk or a bug would have done.

Reads everything: every record parses and lies where its name belongs, the log is gapless and its
chain holds, the digest tree equals a recomputation from the entries, and the expiry index has just
the entries that expire. Values are not decrypted (the server does that whenever it reads one).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import lmdb

from undercroft.errors import Corrupt, StorageFailed
from undercroft.storage.batch import expiry_key
from undercroft.storage.digest import Delta, DigestTree
from undercroft.storage.keys import OWN
from undercroft.storage.record import parse_head, tag_of
from undercroft.storage.store import Store
from undercroft.storage.wal import NO_TAG


def verify(directory: Path) -> Iterator[str]:
    """Problems, one line each; none: the store is sound. It may be in use: a snapshot is read."""
    try:
        store = Store.open(directory, writable=False)
    except StorageFailed as error:
        yield error.message
        return
    try:
        yield from problems(store)
    finally:
        store.close()


def problems(store: Store) -> Iterator[str]:
    """The same for a store that is open in this process."""
    try:
        with store.env.begin() as txn:
            yield from _check_log(store, txn)
            yield from _check_entries(store, txn)
    except lmdb.Error as error:
        yield f"the file is damaged: {type(error).__name__}"


def recompute(store: Store, txn: lmdb.Transaction) -> DigestTree:
    """The digest tree from the entries themselves."""
    tree = DigestTree()
    tree.apply(
        Delta(parse_head(bytes(stored), bytes(raw)).full_key, NO_TAG, tag_of(bytes(raw)))
        for stored, raw in txn.cursor(store.data)
        if stored[:1] != OWN
    )
    return tree


def _check_log(store: Store, txn: lmdb.Transaction) -> Iterator[str]:
    cursor = txn.cursor(store.wal)
    if not cursor.first():
        return
    try:
        for _, record in store.records(txn, int.from_bytes(cursor.key(), "big")):
            for _ in record.operations():
                pass
    except Corrupt as error:
        yield error.message


def _check_entries(store: Store, txn: lmdb.Transaction) -> Iterator[str]:
    expiring = 0
    for stored, raw in txn.cursor(store.data):
        try:
            head = parse_head(bytes(stored), bytes(raw))
        except Corrupt as error:
            yield f"{error.message} (entry of mount {bytes(stored)[1:17].hex()})"
            continue
        if head.expires_ms:
            expiring += 1
            indexed = cast(
                "bytes | None",
                txn.get(expiry_key(head.expires_ms, bytes(stored)), None, store.expiry),
            )
            if indexed != head.full_key:
                yield "an entry that expires is not in the expiry index"
    if txn.stat(store.expiry)["entries"] != expiring:
        yield "the expiry index has entries that nothing belongs to"
    try:
        sound = store.stored_digests(txn)[0].same_as(recompute(store, txn))
    except Corrupt:
        sound = False
    if not sound:
        yield "the digest tree does not match the entries"
