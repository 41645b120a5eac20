"""The writer's side of replication: each change that the replicator asks for, in a transaction.

The replicator is a process of the same trust, but what it hands over came from another cluster: a
record must follow the one before, be what its chain says, and touch nothing but shared entries.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from undercroft.barrier.keyring import KeyTerm
from undercroft.engines.base import Services
from undercroft.errors import InvalidRequest
from undercroft.replication import activation, changes, quarantine
from undercroft.replication.membership import fence_by, grant_handover, withdraw_handover
from undercroft.replication.role import (
    SECONDARY,
    Credentials,
    Role,
    read_checks,
    read_role,
    write_checks,
    write_role,
)
from undercroft.request.mounts import Mount, mount_id_of
from undercroft.request.work import enqueue_purge
from undercroft.storage.batch import Batch
from undercroft.storage.keys import SHARED, SYSTEM
from undercroft.storage.store import Store
from undercroft.storage.view import Transaction
from undercroft.storage.wal import DELETE, SharedRecord, operations_of

_MOUNTS: Final = SHARED + SYSTEM + b"mounts/"


class Applier:
    """One per writer. `run` answers the change's result; what it raises ends the session."""

    def __init__(self, store: Store, services: Services) -> None:
        self._store = store
        self._services = services
        self._kinds: dict[type, Callable[[Batch, Transaction, Any], int]] = {
            changes.ApplyRecords: self._records,
            changes.StoreEntries: self._entries,
            changes.JumpTo: self._jump,
            changes.SetAside: self._set_aside,
            changes.AdoptTerms: self._terms,
            changes.LearnAddresses: self._addresses,
            changes.NewCertificate: self._certificate,
            changes.Withhold: self._withhold,
            changes.FenceBy: self._fence,
            changes.GrantHandover: self._grant,
            changes.WithdrawHandover: self._withdraw,
            changes.Connected: self._connected,
            changes.Announced: self._announced,
            changes.BeginComparison: self._begin,
            changes.KeepClaim: self._keep_claim,
            changes.Settled: self._settled,
            changes.Submitted: self._submitted,
            changes.CorrectDigests: self._correct,
            changes.StoreDigests: self._store_digests,
            changes.Reindexed: self._reindexed,
        }

    def run(self, batch: Batch, change: changes.Change) -> tuple[int, Transaction]:
        """The result, and the transaction that was accepted last.

        Raises OutOfOrder, UndercroftError: nothing of the change that failed is in the batch, but
        of several records those before the bad one are.
        """
        tx = batch.transaction()
        result = self._kinds[type(change)](batch, tx, change)
        batch.accept(tx)
        return result, tx

    def _copying(self, tx: Transaction) -> Role:
        role = read_role(tx)
        if role.mode != SECONDARY or role.upstream is None:
            raise InvalidRequest("this cluster follows no primary now")
        return role

    def _records(self, batch: Batch, tx: Transaction, change: changes.ApplyRecords) -> int:
        self._copying(tx)
        differing = 0
        left = change.records
        while left := left[batch.accept_plain(left) :]:
            record, left = SharedRecord.decode(left[0]), left[1:]
            own = None
            if _MOUNTS in record.body:
                own = batch.transaction()
                self._follow_mounts(own, record)
            differing += batch.accept_shared(record, own)
        return differing

    def _follow_mounts(self, tx: Transaction, record: SharedRecord) -> None:
        for kind, _, key, _, _ in operations_of(record.body):
            if kind == DELETE and key.startswith(_MOUNTS):
                self._unmount(tx, key)

    def _unmount(self, tx: Transaction, key: bytes) -> None:
        """The mount's local data goes, and the tokens that came by it: both are this cluster's."""
        mount = tx.read(key, Mount)
        enqueue_purge(tx, mount_id_of(key))
        if mount is not None and mount.auth:
            self._services.tokens.revoke_mount(tx, mount.id)

    def _entries(self, batch: Batch, tx: Transaction, change: changes.StoreEntries) -> int:
        self._copying(tx)
        own = batch.transaction()
        for key, record in change.entries:
            if record is None and key.startswith(_MOUNTS):
                self._unmount(own, key)
        return batch.accept_entries(change.entries, own)

    def _correct(self, batch: Batch, tx: Transaction, change: changes.CorrectDigests) -> int:
        batch.correct_digests(change.corrections)
        return len(change.corrections)

    def _store_digests(self, batch: Batch, tx: Transaction, change: changes.StoreDigests) -> int:
        self._store.renew_digests(tx.txn)
        return 0

    def _reindexed(self, batch: Batch, tx: Transaction, change: changes.Reindexed) -> int:
        now_ms = batch.now_ms
        before = read_checks(tx)
        checks = msgspec.structs.replace(
            before, checked_ms=now_ms, corrupted=change.unreadable, reindexed_ms=now_ms
        )
        write_checks(tx, checks)
        return 0

    def _jump(self, batch: Batch, tx: Transaction, change: changes.JumpTo) -> int:
        self._copying(tx)
        batch.accept_jump(change.position)
        return 0

    def _settled(self, batch: Batch, tx: Transaction, change: changes.Settled) -> int:
        write_role(tx, msgspec.structs.replace(self._copying(tx), comparing=False))
        return 0

    def _submitted(self, batch: Batch, tx: Transaction, change: changes.Submitted) -> int:
        write_role(tx, msgspec.structs.replace(self._copying(tx), submits=False))
        return 0

    def _keep_claim(self, batch: Batch, tx: Transaction, change: changes.KeepClaim) -> int:
        write_role(tx, msgspec.structs.replace(self._copying(tx), claim=change.claim))
        return 0

    def _begin(self, batch: Batch, tx: Transaction, change: changes.BeginComparison) -> int:
        write_role(tx, msgspec.structs.replace(self._copying(tx), comparing=True))
        return 0

    def _set_aside(self, batch: Batch, tx: Transaction, change: changes.SetAside) -> int:
        self._copying(tx)
        return quarantine.set_aside(self._store, tx, change.behind_seq, batch.now_ms)

    def _terms(self, batch: Batch, tx: Transaction, change: changes.AdoptTerms) -> int:
        self._copying(tx)
        seal = self._services.seal
        assert seal is not None
        terms, alternates = (
            tuple(KeyTerm(*term) for term in some) for some in (change.terms, change.alternates)
        )
        seal.renewal.adopt(tx, terms, alternates)
        return 0

    def _addresses(self, batch: Batch, tx: Transaction, change: changes.LearnAddresses) -> int:
        role = self._copying(tx)
        assert role.upstream is not None
        kept = tuple(a for a in role.upstream.addresses if a not in change.addresses)
        upstream = msgspec.structs.replace(
            role.upstream,
            addresses=(change.addresses + kept)[:16],  # never shrinks to nothing
            api_addr=change.api_addr or role.upstream.api_addr,
        )
        write_role(tx, msgspec.structs.replace(role, upstream=upstream))
        return 0

    def _certificate(self, batch: Batch, tx: Transaction, change: changes.NewCertificate) -> int:
        role = self._copying(tx)
        assert role.upstream is not None
        credentials = Credentials(change.certificate, change.key, change.authority)
        upstream = msgspec.structs.replace(role.upstream, credentials=credentials)
        write_role(tx, msgspec.structs.replace(role, upstream=upstream))
        return 0

    def _withhold(self, batch: Batch, tx: Transaction, change: changes.Withhold) -> int:
        role = self._copying(tx)
        write_role(tx, msgspec.structs.replace(role, withheld=change.mounts))
        return 0

    def _fence(self, batch: Batch, tx: Transaction, change: changes.FenceBy) -> int:
        fence_by(tx, change.claim, batch.now_ms)
        return 0

    def _grant(self, batch: Batch, tx: Transaction, change: changes.GrantHandover) -> int:
        return grant_handover(tx, change.secondary_id, batch.now_ms)

    def _withdraw(self, batch: Batch, tx: Transaction, change: changes.WithdrawHandover) -> int:
        withdraw_handover(tx, change.secondary_id)
        return 0

    def _connected(self, batch: Batch, tx: Transaction, change: changes.Connected) -> int:
        activation.activate(tx, change.secondary_id)
        return 0

    def _announced(self, batch: Batch, tx: Transaction, change: changes.Announced) -> int:
        role = read_role(tx)
        left = tuple(a for a in role.announcements if change.address not in a.addresses)
        write_role(tx, msgspec.structs.replace(role, announcements=left))
        return 0
