"""Commits, savepoints, expiry, the log and its retention, the digest tree."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.storage.stores import MOUNT, change, contents, open_store, write
from undercroft.errors import Corrupt, InvalidRequest, ReadOnly, Sealed, StorageFailed
from undercroft.storage import batch as batches
from undercroft.storage import view as views
from undercroft.storage.keys import LOCAL, OWN, SYSTEM, key
from undercroft.storage.store import Retention, Trimmed
from undercroft.storage.verify import problems
from undercroft.storage.view import Decoded, Space
from undercroft.storage.wal import (
    LOCAL_RECORD,
    NO_TAG,
    START,
    decode_record,
    encode_operation,
    follow,
)

NAMES = st.one_of(
    st.sampled_from(["a", "a/b", "a/b/c", "a-b", "a//c", "b", "é", "a" * 600, "a" * 600 + "/x"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.integers(440, 700).map(lambda size: "long/" + "x" * size),
).filter(lambda name: not name.endswith("/"))  # no path may end so
VALUES = st.binary(max_size=64)


def test_a_request_that_is_not_accepted_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    batch = store.batch()
    refused, kept = batch.transaction(), batch.transaction()
    change(refused, {"refused": b"1"})
    change(kept, {"kept": b"2"})
    batch.accept(kept)
    batch.commit()
    assert contents(store) == {"kept": b"2"}


def test_a_request_sees_the_accepted_requests_before_it_in_the_batch(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    batch = store.batch()
    first = batch.transaction()
    change(first, {"a": b"1"})
    batch.accept(first)
    second = batch.transaction()
    assert Space(second, b"s", MOUNT).get("a") == b"1"
    batch.abort()


def test_a_key_deleted_and_written_again_in_one_request_is_one_change(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1", "b": b"1"}, expires_ms=100)
    batch = store.batch()
    tx = batch.transaction()
    space = Space(tx, b"s", MOUNT)
    space.delete("a")
    assert space.list() == ["b"]
    space.put("a", b"2")
    space.put("b", b"2")
    space.delete("b")
    space.put("c", b"2", expires_ms=50)
    space.delete("c")
    assert space.list() == ["a"]
    batch.accept(tx)
    batch.commit()
    assert contents(store) == {"a": b"2"}
    assert store.due(1000, 10) == []
    (_, last) = list(store.log(1))[-1]
    assert [op.key[17:] for op in decode_record(last).operations()] == [b"a", b"b"]
    assert not problems(store)


def test_an_aborted_batch_leaves_nothing_and_the_next_continues_the_log(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    before = write(store, {"a": b"1"})
    batch = store.batch()
    tx = batch.transaction()
    change(tx, {"b": b"2"})
    batch.accept(tx)
    batch.abort()
    after = write(store, {"c": b"3"})
    assert contents(store) == {"a": b"1", "c": b"3"}
    assert after.seq == before.seq + 1
    assert not list(problems(store))


def test_a_snapshot_does_not_move_and_cannot_write(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1"})
    with store.snapshot() as view:
        space = Space(view, b"s", MOUNT)
        write(store, {"a": b"2"})
        assert space.get("a") == b"1"
        with pytest.raises(ReadOnly):
            space.put("a", b"3")
        with pytest.raises(ReadOnly):
            space.delete("a")
    assert contents(store) == {"a": b"2"}


def test_a_sealed_store_gives_nothing_out(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1"})
    store.set_keyring(None)
    with store.snapshot() as view, pytest.raises(Sealed):
        Space(view, b"s", MOUNT).get("a")


def test_a_value_moved_to_another_name_does_not_open(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1", "b": b"2"})
    with store.env.begin(store.data, write=True) as txn:
        txn.put(b"s" + MOUNT + b"b", txn.get(b"s" + MOUNT + b"a"))
    with store.snapshot() as view, pytest.raises(Corrupt):
        Space(view, b"s", MOUNT).get("b")


def test_a_name_over_32_kib_is_refused_and_one_of_32_kib_is_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"x" * 32768: b"1"})
    assert contents(store) == {"x" * 32768: b"1"}
    with pytest.raises(InvalidRequest):
        write(store, {"x" * 32769: b"1"})


def test_only_configuration_raises_the_generation(tmp_path: Path) -> None:
    store = open_store(tmp_path)

    def generation() -> int:
        with store.snapshot() as view:
            return view.generation

    write(store, {"a": b"1"})
    assert generation() == 0
    batch = store.batch()
    tx = batch.transaction()
    tx.put(key(LOCAL, SYSTEM, "mounts/x"), b"")
    batch.accept(tx)
    batch.commit()
    assert generation() == 1


def test_own_entries_are_readable_while_sealed_and_no_part_of_the_digest(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.set_keyring(None)
    root = store.digests.root(b"sl")
    batch = store.batch()
    tx = batch.transaction()
    tx.put_clear(key(OWN, SYSTEM, "seal"), b"in clear")
    batch.accept(tx)
    batch.commit()
    with store.snapshot() as view:
        assert view.get(key(OWN, SYSTEM, "seal")) == b"in clear"
    assert store.digests.root(b"sl") == root


# expiry


def test_due_entries_come_in_the_order_of_their_time(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for name, when in (("late", 300), ("early", 100), ("middle", 200)):
        write(store, {name: b""}, expires_ms=when)
    due = [full[17:] for full in store.due(250, 10)]
    assert due == [b"early", b"middle"]
    assert len(store.due(999, 2)) == 2


def test_a_changed_or_deleted_entry_leaves_no_expiry_behind(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    long = "x" * 2000
    write(store, {"a": b"", "b": b"", "c": b"", long: b""}, expires_ms=100)
    write(store, {"a": b""}, expires_ms=900)
    write(store, {"b": None, long: None})
    write(store, {"c": b"for good"})
    assert store.due(500, 10) == []
    assert [full[17:] for full in store.due(1000, 10)] == [b"a"]
    assert not list(problems(store))


# the log


def test_the_log_holds_every_operation_and_its_chain_holds(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1", "b": b"2"})
    write(store, {"a": None, "gone": None})
    records = [(seq, decode_record(raw)) for seq, raw in store.log(1)]
    assert [seq for seq, _ in records] == [1, 2]
    names = [[(op.key[17:], op.record is None) for op in r.operations()] for _, r in records]
    assert names == [[(b"a", False), (b"b", False)], [(b"a", True)]]


def test_deleting_what_is_not_there_makes_no_record(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert write(store, {"gone": None}).seq == 0


def test_an_altered_or_missing_log_record_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for n in range(4):
        write(store, {str(n): b"x"})
    name = (2).to_bytes(8, "big")
    with store.env.begin(store.wal, write=True) as txn:
        raw = bytearray(txn.get(name))
        raw[40] ^= 1
        txn.put(name, bytes(raw))
    with pytest.raises(Corrupt, match="record 2 was altered"):
        list(store.log(1))
    assert problems(store) == ["log record 2 was altered", "log record 2 was altered"]
    with store.env.begin(store.wal, write=True) as txn:
        txn.delete(name)
    with pytest.raises(Corrupt, match="gap"):
        list(store.log(1))
    store.close()
    with pytest.raises(StorageFailed, match="the log has 3 records from 1 to 4"):
        open_store(tmp_path)


def test_a_log_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1"})
    write(store, {"b": b"1"})
    with store.env.begin(store.wal, write=True) as txn:
        txn.delete((2).to_bytes(8, "big"))
    store.close()
    with pytest.raises(StorageFailed, match="the log has 1 records"):
        open_store(tmp_path)


def test_a_start_verifies_the_log_it_rolls_forward_to_its_very_end(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1"})
    name = store.position.seq.to_bytes(8, "big")
    with store.env.begin(store.wal, write=True) as txn:
        raw = bytearray(txn.get(name) or b"")
        raw[-1] ^= 1
        txn.put(name, bytes(raw))
    store.close()
    with pytest.raises(StorageFailed, match="log record 1 was altered") as refused:
        open_store(tmp_path)
    assert "operator check" in refused.value.hint


def test_a_last_record_that_another_history_has_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    before = write(store, {"a": b"1"})
    after = write(store, {"b": b"1"})
    operation = encode_operation(b"l" + MOUNT + b"b", NO_TAG, None)
    _, foreign = follow(before, LOCAL_RECORD, START, 1, 0, operation)
    with store.env.begin(store.wal, write=True) as txn:
        txn.put(after.seq.to_bytes(8, "big"), foreign)
    store.close()
    with pytest.raises(StorageFailed, match="end of the log was altered"):
        open_store(tmp_path)


def test_a_checkpoint_stores_only_what_changed_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    write(store, {str(n): b"x" for n in range(2000)})
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    write(store, {"a": b"1"})
    assert len(list(store.digests.changed_nodes())) == 1


def test_digests_that_are_damaged_on_disk_can_all_be_stored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 3)
    store = open_store(tmp_path)
    for n in range(20):
        write(store, {str(n): b"x"})
    with store.env.begin(store.meta, write=True) as txn:
        nodes = [(key, raw) for key, raw in txn.cursor() if key.startswith(b"digest/")]
        for key, raw in nodes:
            txn.put(key, raw[:-1] + bytes((raw[-1] ^ 1,)))
        txn.put(nodes[0][0][:-1] + b"\xff", b"of no mount's node")
    assert problems(store) == ["the stored digest tree is damaged; the next start makes it anew"]
    batch = store.batch()
    store.renew_digests(batch.transaction().txn)
    batch.commit()
    assert not problems(store)
    root = store.digests.root(b"s")
    store.close()
    again = open_store(tmp_path)
    assert (again.digests.root(b"s"), again.digests_rebuilt) == (root, False)


def test_reading_the_log_from_where_it_no_longer_reaches_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    store = open_store(tmp_path, retention=Retention(records=3))
    for n in range(10):
        write(store, {str(n): b"x"})
    assert [seq for seq, _ in store.log(store.log_first)] == [8, 9, 10]
    assert list(store.log(11)) == []
    for first in (store.log_first - 1, 12):
        with pytest.raises(Trimmed):
            list(store.log(first))


def test_the_log_is_trimmed_by_count_but_never_past_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 10)
    store = open_store(tmp_path, retention=Retention(records=5))
    for n in range(9):
        write(store, {str(n): b"x"})
    assert store.log_first == 1  # no checkpoint yet: a start needs all of it
    for n in range(30):
        write(store, {str(n): b"x"})
    assert store.position.seq - 15 <= store.log_first <= store.checkpoint.seq + 1
    store.close()
    again = open_store(tmp_path, retention=Retention(records=5))
    assert again.digests.root(b"s") == store.digests.root(b"s")
    assert not list(problems(again))


@pytest.mark.parametrize(
    "retention", [Retention(bytes=2000), Retention(age_seconds=1)], ids=["bytes", "age"]
)
def test_the_log_is_trimmed_by_size_and_by_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retention: Retention
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    store = open_store(tmp_path, retention=retention)
    for n in range(50):
        batch = store.batch(lambda n=n: n * 100)
        tx = batch.transaction()
        change(tx, {str(n): b"x" * 100})
        batch.accept(tx)
        batch.commit()
    assert 30 < store.log_first < 50
    with store.env.begin() as txn:
        held = sum(len(value) for _, value in txn.cursor(store.wal))
    assert held == store.log_bytes


def test_the_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    before = write(store, {"a": b"1"})
    store.close()
    store = open_store(tmp_path)
    assert store.position == before
    assert write(store, {"b": b"2"}).seq == before.seq + 1


def test_a_checkpoint_comes_also_after_many_bytes_so_that_a_start_reads_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_BYTES", 10_000)
    store = open_store(tmp_path)
    for n in range(20):
        write(store, {str(n): b"x" * 1000})
    assert 0 < store.position.seq - store.checkpoint.seq <= 11
    assert store.checkpoint.size_bytes < 13_000


def test_a_log_that_grew_far_over_its_bounds_is_trimmed_a_slice_per_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    monkeypatch.setattr(batches, "TRIM_RECORDS", 3)
    store = open_store(tmp_path)
    for n in range(30):
        write(store, {str(n): b"x"})
    store.close()
    store = open_store(tmp_path, retention=Retention(records=2))
    firsts = []
    for _ in range(20):
        write(store, {"more": b"x"})
        firsts.append(store.log_first)
    assert [after - before for before, after in pairwise(firsts)][:5] == [3] * 5
    assert store.position.seq - store.log_first == 1
    assert not problems(store)


# what is decoded


class Thing(msgspec.Struct):
    size: int


def test_a_decoded_struct_is_shared_while_its_record_is_the_same(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": msgspec.msgpack.encode(Thing(1))})

    def read() -> Thing | None:
        with store.snapshot() as view:
            return Space(view, b"s", MOUNT).read("a", Thing)

    first = read()
    assert first is read()
    with store.snapshot() as old:
        write(store, {"a": msgspec.msgpack.encode(Thing(2))})
        assert read() == Thing(2)
        assert Space(old, b"s", MOUNT).read("a", Thing) == Thing(1)


def test_a_view_that_outlives_the_seal_leaves_nothing_decoded_behind(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": msgspec.msgpack.encode(Thing(1))})
    with store.snapshot() as old:
        store.set_keyring(None)
        assert Space(old, b"s", MOUNT).read("a", Thing) == Thing(1)
        with store.snapshot() as view, pytest.raises(Sealed):
            Space(view, b"s", MOUNT).read("a", Thing)


def test_what_is_decoded_takes_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_CACHE_BYTES_MAX", 10 * (512 + 100))
    cache = Decoded()
    for n in range(100):
        cache.put(b"%d" % (n % 50), bytes(100), n)
    held = [n for n in range(50) if cache.get(b"%d" % n, bytes(100)) is not None]
    assert held == list(range(40, 50))
    cache.put(b"large", bytes(100_000), 1)
    assert cache.get(b"large", bytes(100_000)) is None


# names


@pytest.mark.parametrize("name", ["\ud800", "a/\udfff/b"])
def test_threat_seal_08_a_name_that_is_no_unicode_is_refused_and_never_found(
    tmp_path: Path, name: str
) -> None:
    store = open_store(tmp_path)
    with pytest.raises(InvalidRequest) as refused:
        write(store, {name: b"1"})
    assert name not in refused.value.message
    write(store, {name: None})
    with store.snapshot() as view:
        space = Space(view, b"s", MOUNT)
        assert space.get(name) is None
        assert space.list(name + "/") == []
        assert space.list("", after=name, limit=1) == []


@settings(max_examples=40, deadline=None)
@given(
    name=st.text(st.characters(), max_size=40)
    | st.builds(str.__mul__, st.sampled_from("a/\x00é\U0001f600"), st.integers(1, 33_000))
)
def test_threat_seal_08_any_name_is_refused_or_stored_and_the_store_opens_again(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    path = tmp_path_factory.mktemp("store")
    store = open_store(path)
    try:
        write(store, {name: b"1"}, expires_ms=5)
        kept = {name: b"1"}
    except InvalidRequest:
        kept = {}
    store.close()
    store = open_store(path)
    assert contents(store) == kept
    assert len(store.due(9, 9)) == len(kept)
    assert not problems(store)
    store.close()


def test_a_page_of_a_long_listing_is_found_without_reading_it_all(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {f"app/{n:05}": b"" for n in range(3000)})
    with store.snapshot() as view:
        space = Space(view, b"s", MOUNT)
        assert space.list("app/", after="01500", limit=3) == ["01501", "01502", "01503"]
        assert len(view._children(space.prefix + b"app/", b"01500", 3)) == 3


# properties


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    committed=st.dictionaries(NAMES, VALUES, max_size=12),
    overlay=st.dictionaries(NAMES, st.none() | VALUES, max_size=8),
    data=st.data(),
)
def test_listing_and_reading_equal_a_plain_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    committed: dict[str, bytes],
    overlay: dict[str, bytes | None],
    data: st.DataObject,
) -> None:
    store = open_store(tmp_path_factory.mktemp("store"))
    batch = None
    try:
        write(store, dict(committed))
        batch = store.batch()
        tx = batch.transaction()
        change(tx, overlay)
        model = {n: v for n, v in {**committed, **overlay}.items() if v is not None}
        space = Space(tx, b"s", MOUNT)
        assert {name: space.get(name) for name in space.names()} == model
        prefixes = [n[: n.rindex("/") + 1] for n in model if "/" in n]
        prefix = data.draw(st.sampled_from(["", *prefixes]))
        below = [n[len(prefix) :] for n in model if n.startswith(prefix)]
        expected = sorted({n[: n.find("/") + 1] or n for n in below}, key=str.encode)
        assert space.list(prefix) == expected
        limit = data.draw(st.integers(1, 5))
        after = data.draw(st.sampled_from(["", *expected]))
        rest = [n for n in expected if n.encode() > after.encode()]
        assert space.list(prefix, after=after, limit=limit) == rest[:limit]
        batch.accept(tx)
        batch.commit()
        with store.snapshot() as view:
            space = Space(view, b"s", MOUNT)
            assert {name: space.get(name) for name in space.names()} == model
            assert space.list(prefix) == expected
            assert space.list(prefix, after=after, limit=limit) == rest[:limit]
    finally:
        if batch is not None:
            batch.abort()
        store.close()


class Histories(RuleBasedStateMachine):
    """Any history of commits, refusals, aborts and restarts: digests equal a recomputation."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self._directory = tempfile.TemporaryDirectory(prefix="undercroft-test-")
        self.path = Path(self._directory.name)
        batches.CHECKPOINT_CHANGES = 3  # type: ignore[misc]
        self.store = open_store(self.path, retention=Retention(records=4))
        self.model: dict[str, bytes] = {}

    @rule(changes=st.dictionaries(NAMES, st.none() | VALUES, max_size=4), accepted=st.booleans())
    def request(self, changes: dict[str, bytes | None], accepted: bool) -> None:
        batch = self.store.batch()
        tx = batch.transaction()
        change(tx, changes)
        if accepted:
            batch.accept(tx)
        batch.commit()
        if accepted:
            merged = {**self.model, **changes}
            self.model = {n: v for n, v in merged.items() if v is not None}

    @rule(changes=st.dictionaries(NAMES, st.none() | VALUES, min_size=1, max_size=4))
    def aborted(self, changes: dict[str, bytes | None]) -> None:
        batch = self.store.batch()
        tx = batch.transaction()
        change(tx, changes)
        batch.accept(tx)
        batch.abort()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = open_store(self.path, retention=Retention(records=4))

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.env.begin() as txn:
            assert self.store.digests.same_as(self.store.recompute(txn))
        assert contents(self.store) == self.model

    def teardown(self) -> None:
        batches.CHECKPOINT_CHANGES = 10_000  # type: ignore[misc]
        if hasattr(self, "store"):
            self.store.close()
            self._directory.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
