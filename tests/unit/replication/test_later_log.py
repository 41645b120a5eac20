"""A log with a record of a kind that only a later release knows: it stops there (R-25)."""

import pytest

from tests.unit.replication.cluster import Cluster
from tests.unit.replication.test_primary_session import Primary
from tests.unit.storage.stores import write
from undercroft.replication.protocol import frames
from undercroft.storage.wal import JUMP_RECORD

KIND_AT = 1  # in a record as stored


def of_a_later_kind(cluster: Cluster, number: int) -> None:
    """The record of that number, in the cluster's own log."""
    store, name = cluster.store, number.to_bytes(8, "big")
    with store.env.begin(write=True, db=store.wal) as txn:
        raw = bytearray(txn.get(name) or b"")
        raw[KIND_AT] = JUMP_RECORD + 1
        txn.put(name, bytes(raw))


@pytest.mark.parametrize("streaming", [True, False], ids=["in its session", "as it comes"])
def test_threat_r_25_a_record_of_an_unknown_kind_ends_the_session_and_is_not_skipped(
    cluster: Cluster, *, streaming: bool
) -> None:
    primary = Primary(cluster)
    begin = primary.state.position()
    hello = frames.Hello(1, 1, frames.STREAM, "test", "b", primary.state.lineage(), begin, 0)
    sent = primary.sends(hello) if streaming else []
    for number in range(3):
        write(cluster.store, {f"n{number}": b"v"})
    primary.state.advance()
    of_a_later_kind(cluster, cluster.store.extent.last.seq - 1)
    if streaming:
        primary.session.committed()
    sent += primary.sends() if streaming else primary.sends(hello)
    assert not any(isinstance(frame, frames.Records) for frame in sent)
    assert isinstance(sent[-1], frames.Bye)
    assert sent[-1].text == primary.session.ended == "a log record has an unknown format"
