"""What is not the next record of the shared log, or is none at all, changes nothing."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.storage.shared import (
    Opener,
    apply,
    committed,
    everything,
    follow,
    forged,
    open_epoch,
    records_after,
)
from tests.unit.storage.stores import MOUNT, change, contents, keyring, open_store, write
from undercroft.errors import Corrupt, Internal
from undercroft.storage.batch import Batch, OutOfOrder
from undercroft.storage.keys import LOCAL, OWN, SHARED
from undercroft.storage.record import clear_record, seal_record
from undercroft.storage.wal import (
    NO_TAG,
    START,
    SharedRecord,
    digest_operation,
    encode_correction,
    encode_operation,
    encode_withheld,
    operations_of,
)

KEY = SHARED + MOUNT + b"a"
LONG_KEY = SHARED + MOUNT + b"x" * 600
SEALED = seal_record(keyring(), KEY, b"1")
CLEAR = clear_record(OWN + MOUNT + b"a", b"1" * 40)


def test_threat_r_08_a_record_twice_or_ahead_of_its_turn_changes_nothing(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    for n in range(3):
        write(origin, {"a": b"%d" % n})
    first, second, third = records_after(origin, START)
    apply(replica, [first])
    before = everything(replica)
    for wrong in ([first], [third], [second, second], [second, third, second]):
        for beside in (False, True):
            with pytest.raises(OutOfOrder):
                apply(replica, wrong, beside=beside)
            assert everything(replica) == before
    apply(replica, [second, third])
    assert contents(replica) == {"a": b"2"}


def test_a_record_of_an_earlier_epoch_is_out_of_order(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    open_epoch(origin, 2, {"a": b"1"})
    follow(replica, origin)
    late = forged(replica.extent.shared, encode_operation(KEY, NO_TAG, SEALED), epoch=1)
    with pytest.raises(OutOfOrder):
        apply(replica, [late])


def test_a_record_of_another_history_is_refused(opened: Opener) -> None:
    one, other, replica = opened("one"), opened("other"), opened("replica")
    write(one, {"a": b"1"})
    write(other, {"a": b"2"})
    write(other, {"a": b"3"})
    follow(replica, one)
    before = everything(replica)
    with pytest.raises(Corrupt, match="not what its chain says"):
        apply(replica, records_after(other, START)[1:])
    assert everything(replica) == before


def test_what_failed_does_not_spoil_what_else_is_in_the_batch(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1"})
    write(origin, {"b": b"2"})
    first, second = records_after(origin, START)

    def step(batch: Batch) -> None:
        batch.accept_shared(first, batch.transaction())
        with pytest.raises(Corrupt):
            batch.accept_shared(second._replace(chain=bytes(16)), batch.transaction())
        with pytest.raises(OutOfOrder):
            batch.accept_shared(first, batch.transaction())

    committed(replica, step)
    assert contents(replica) == {"a": b"1"}
    follow(replica, origin)
    assert contents(replica) == {"a": b"1", "b": b"2"}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_threat_r_09_a_record_in_which_any_bit_is_flipped_changes_nothing(
    prepared: tuple[Callable[..., None], list[bytes]], data: st.DataObject
) -> None:
    offer, records = prepared
    raw = bytearray(data.draw(st.sampled_from(records)))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    # A record of another number or of an earlier epoch is not looked at any further.
    with pytest.raises((Corrupt, OutOfOrder) if bit < 128 else Corrupt):
        offer(bytes(raw), beside=data.draw(st.booleans()))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_record_cut_short_or_with_more_behind_it_changes_nothing(
    prepared: tuple[Callable[..., None], list[bytes]], data: st.DataObject
) -> None:
    offer, records = prepared
    raw = data.draw(st.sampled_from(records))
    shorter = st.integers(0, len(raw) - 1).map(lambda size: raw[:size])
    longer = st.binary(min_size=1, max_size=40).map(lambda more: raw + more)
    with pytest.raises(Corrupt):
        offer(data.draw(shorter | longer))


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Callable[..., None], list[bytes]]:
    """An empty replica that takes a record, and records that could each be its first."""
    path = tmp_path_factory.mktemp("stores")
    origin, replica = open_store(path / "origin"), open_store(path / "replica")
    changes: dict[str, bytes | None] = {"a": b"1", "x" * 500: b"2"}
    write(origin, changes, expires_ms=10**15)
    (whole,) = records_after(origin, START)
    origin.close()
    removal = forged(START, encode_operation(KEY, b"t" * 16, None))
    put = encode_operation(KEY, NO_TAG, SEALED)
    plain = forged(START, put)  # what nearly all are: applied on a quick way of their own
    digest_only = plain._replace(body=encode_withheld(digest_operation(put)))
    before = everything(replica)

    def offer(raw: bytes, *, beside: bool = False) -> None:
        try:
            apply(replica, [SharedRecord.decode(raw)], beside=beside)
        finally:
            assert everything(replica) == before

    return offer, [record.encode() for record in (whole, plain, removal, digest_only)]


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([encode_operation(LOCAL + KEY[1:], NO_TAG, SEALED)], id="a local key"),
        pytest.param([encode_operation(OWN + KEY[1:], NO_TAG, SEALED)], id="an own key"),
        pytest.param([encode_operation(OWN + KEY[1:], NO_TAG, None)], id="an own key deleted"),
        pytest.param([encode_operation(b"", NO_TAG, None)], id="no key"),
        pytest.param([encode_operation(KEY[:16], NO_TAG, None)], id="a key without a mount"),
        pytest.param([encode_operation(KEY, NO_TAG, b"")], id="an empty record"),
        pytest.param([encode_operation(KEY, NO_TAG, SEALED[:20])], id="a record cut short"),
        pytest.param([encode_operation(KEY, NO_TAG, b"\x02" + SEALED[1:])], id="unknown format"),
        pytest.param([encode_operation(KEY, NO_TAG, CLEAR)], id="a record in clear"),
        pytest.param([encode_operation(LONG_KEY, NO_TAG, SEALED)], id="a long key left out"),
        pytest.param([encode_operation(KEY, NO_TAG, SEALED)] * 2, id="a key twice"),
    ],
)
def test_a_record_that_no_cluster_writes_is_refused_whatever_its_chain_says(
    opened: Opener, operations: list[bytes]
) -> None:
    replica = opened("replica")
    before = everything(replica)
    with pytest.raises(Corrupt):
        apply(replica, [forged(START, *operations)])
    assert everything(replica) == before


def test_a_correction_never_travels(opened: Opener) -> None:
    replica = opened("replica")
    before = everything(replica)
    with pytest.raises(Corrupt, match="never travels"):
        apply(replica, [forged(START, encode_correction(KEY, NO_TAG, b"t" * 16))])
    assert everything(replica) == before


def test_what_is_withheld_is_a_digest_and_nothing_beside_it(opened: Opener) -> None:
    """Its chain does not name what else it has: it could be given another meaning on the way."""
    replica = opened("replica")
    put = encode_operation(KEY, NO_TAG, SEALED)
    digest = digest_operation(put)
    named = b"\x03" + digest + len(KEY).to_bytes(4, "big") + KEY + bytes(4)
    with pytest.raises(Corrupt, match="does not parse"):
        apply(replica, [forged(START, put)._replace(body=named)])
    apply(replica, [forged(START, put)._replace(body=encode_withheld(digest))])


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_correction_of_another_size_than_a_leaf_does_not_parse(size: int) -> None:
    with pytest.raises(Corrupt, match="does not parse"):
        list(operations_of(encode_correction(KEY, NO_TAG, bytes(size))))


@pytest.mark.parametrize(
    ("key", "record"),
    [(LOCAL + KEY[1:], SEALED), (OWN + KEY[1:], None), (KEY, b""), (KEY, CLEAR), (b"s", None)],
    ids=["local", "own", "empty", "clear", "no mount"],
)
def test_threat_r_15_a_compared_entry_that_is_not_shared_or_not_sealed_is_refused(
    opened: Opener, key: bytes, record: bytes | None
) -> None:
    replica = opened("replica")
    before = everything(replica)
    with pytest.raises(Corrupt):
        committed(
            replica, lambda b: b.accept_entries([(KEY, SEALED), (key, record)], b.transaction())
        )
    assert everything(replica) == before


def test_of_one_key_among_compared_entries_the_last_counts(opened: Opener) -> None:
    replica = opened("replica")
    entries = [(KEY, None), (KEY, SEALED)]
    assert committed(replica, lambda b: b.accept_entries(entries, b.transaction())) == 1
    assert contents(replica) == {"a": b"1"}


def test_shared_writes_of_this_cluster_cannot_hide_in_a_replicated_record(opened: Opener) -> None:
    origin, replica = opened("origin"), opened("replica")
    write(origin, {"a": b"1"})
    before = everything(replica)

    def steps(batch: Batch) -> None:
        tx = batch.transaction()
        change(tx, {"b": b"mine"})
        with pytest.raises(Internal):
            batch.accept_shared(records_after(origin, START)[0], tx)
        with pytest.raises(Internal):
            batch.accept_entries([(KEY, SEALED)], tx)

    committed(replica, steps)
    assert everything(replica) == before
