"""Any history at one store, followed by another in any pieces and by a third through that one."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.storage.shared import (
    accept,
    assert_same,
    assert_sound,
    committed,
    copy_state,
    diverge,
    open_epoch,
    records_after,
    shared_entries,
    write_beside,
)
from tests.unit.storage.stores import MOUNT, change, open_store
from undercroft.storage import batch as batches
from undercroft.storage.batch import Batch, OutOfOrder
from undercroft.storage.keys import LOCAL, OWN, SHARED
from undercroft.storage.store import Foreign, Retention, Store, Trimmed
from undercroft.storage.view import Space
from undercroft.storage.wal import START, Position, SharedRecord

NAMES = st.sampled_from(["a", "b", "c/d", "long/" + "x" * 500, "long/" + "y" * 500])
CHANGES = st.dictionaries(NAMES, st.none() | st.binary(max_size=8), min_size=1, max_size=4)
EXPIRIES = st.sampled_from([0, 0, 100, 200])
REPLICAS = st.sampled_from(["second", "third"])
EVERY = st.sampled_from(["first", "second", "third"])
# The second keeps so little that the third often has to compare; the first keeps all.
RETENTION = {"second": Retention(records=6)}
UPSTREAM = {"second": "first", "third": "second"}


class Clusters(RuleBasedStateMachine):
    """`first` writes, `second` follows it and `third` follows `second`."""

    @initialize()
    def begin(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="undercroft-test-")
        batches.CHECKPOINT_CHANGES = 3  # type: ignore[misc]
        self.stores = {name: self._open(name) for name in ("first", "second", "third")}
        self.first = self.stores["first"]
        # What the shared log says at each position, and which replicas are known to be otherwise.
        self.states: dict[Position, dict[bytes, bytes]] = {START: {}}
        self.log: list[SharedRecord] = []
        self.diverged: set[str] = set()

    def _open(self, name: str) -> Store:
        return open_store(Path(self._directory.name, name), retention=RETENTION.get(name))

    # at the first

    @rule(
        requests=st.lists(st.tuples(CHANGES, EXPIRIES), min_size=1, max_size=3), kept=st.booleans()
    )
    def write(self, requests: list[tuple[dict[str, bytes | None], int]], kept: bool) -> None:
        batch, states = self.first.batch(), dict[Position, dict[bytes, bytes]]()
        held = shared_entries(self.first)
        for changes, expires_ms in requests:
            tx = batch.transaction()
            change(tx, changes, expires_ms)
            Space(tx, LOCAL, MOUNT).put("beside", b"it")
            batch.accept(tx)
            held = _changed(held, tx.writes)
            states[batch.shared] = held
        if not kept:
            batch.abort()
            return
        batch.commit()
        self.states |= states
        self._log_more()

    @rule(changes=CHANGES)
    def open_epoch(self, changes: dict[str, bytes | None]) -> None:
        number = self.first.extent.shared.epoch + 1
        open_epoch(self.first, number, {**changes, "lineage": b"%d" % number})
        self.states[self.first.extent.shared] = shared_entries(self.first)
        self._log_more()

    def _log_more(self) -> None:
        after = self.log[-1].position if self.log else START
        self.log += records_after(self.first, after)

    # anywhere

    @rule(name=EVERY, keyspace=st.sampled_from([LOCAL, OWN]), entry=NAMES, value=st.binary())
    def write_beside(self, name: str, keyspace: bytes, entry: str, value: bytes) -> None:
        write_beside(self.stores[name], keyspace, {entry: value[:8]})

    @rule(name=EVERY)
    def restart(self, name: str) -> None:
        self.stores[name].close()
        self.stores[name] = self._open(name)
        self.first = self.stores["first"]

    # at a replica

    @rule(name=REPLICAS, most=st.integers(1, 9), kept=st.booleans(), beside=st.booleans())
    def follow(self, name: str, most: int, kept: bool, beside: bool) -> None:
        replica, upstream = self.stores[name], self.stores[UPSTREAM[name]]
        try:
            records = records_after(upstream, replica.extent.shared)[:most]
        except Trimmed:
            assert upstream.extent.jumped or upstream.extent.first > 1
            return
        except Foreign:  # it is further than the one that it follows: that one has jumped or lags
            assert replica.extent.shared.seq > upstream.extent.shared.seq
            return
        batch = replica.batch()
        differing = 0
        for record in records:
            if not beside:
                differing += accept(batch, record)
                continue
            tx = batch.transaction()
            Space(tx, LOCAL, MOUNT).put("beside", b"%d" % record.seq)
            differing += batch.accept_shared(record, tx)
        assert not differing or name in self.diverged
        if kept:
            batch.commit()
        else:
            batch.abort()

    @rule(name=REPLICAS)
    def compare(self, name: str) -> None:
        """With its upstream; what is right there is right here afterwards."""
        upstream = UPSTREAM[name]
        copy_state(self.stores[name], self.stores[upstream])
        assert_same(self.stores[name], self.stores[upstream])
        self.diverged.discard(name)
        if upstream in self.diverged:
            self.diverged.add(name)

    @rule(name=REPLICAS, changes=CHANGES)
    def diverge(self, name: str, changes: dict[str, bytes | None]) -> None:
        diverge(self.stores[name], changes)
        self.diverged.add(name)

    @precondition(lambda self: len(self.log) > 1)
    @rule(name=REPLICAS, data=st.data())
    def offer_out_of_order(self, name: str, data: st.DataObject) -> None:
        store = self.stores[name]
        wrong = [r for r in self.log if r.seq != store.extent.shared.seq + 1]
        record = data.draw(st.sampled_from(wrong))
        before = store.extent

        def step(batch: Batch) -> None:
            try:
                batch.accept_shared(record, batch.transaction())
            except OutOfOrder:
                return
            raise AssertionError("it was accepted")

        committed(store, step)
        assert store.extent == before

    # what holds at any time

    def _running(self) -> Iterator[tuple[str, Store]]:
        yield from getattr(self, "stores", {}).items()

    @invariant()
    def digests_are_those_of_the_entries_now_and_after_a_start(self) -> None:
        for _, store in self._running():
            assert_sound(store)

    @invariant()
    def a_replica_is_what_the_first_was_at_its_position(self) -> None:
        for name, store in self._running():
            if name not in self.diverged:
                assert shared_entries(store) == self.states[store.extent.shared]

    @invariant()
    def every_log_ships_the_same_records_or_says_that_it_cannot(self) -> None:
        for name, store in self._running():
            last = store.extent.shared.seq
            assert (store.extent.shared == START) == (last == 0)
            for position in (START, *(r.position for r in self.log[:last])):
                try:
                    shipped = records_after(store, position)
                except Trimmed:
                    assert name != "first"
                    assert position.seq < last
                    continue
                assert shipped == self.log[position.seq : last]

    def teardown(self) -> None:
        batches.CHECKPOINT_CHANGES = 10_000  # type: ignore[misc]
        for _, store in self._running():
            store.close()
        if hasattr(self, "_directory"):
            self._directory.cleanup()


def _changed(held: dict[bytes, bytes], writes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    merged: dict[bytes, bytes | None] = dict(held)
    merged.update((key, value) for key, value in writes.items() if key[:1] == SHARED)
    return {key: value for key, value in merged.items() if value is not None}


TestClusters = Clusters.TestCase
TestClusters.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
