"""A primary that missed several promotions is fenced by the newest of them."""

from pathlib import Path

import msgspec

from tests.unit.replication.cluster import NOW_MS
from tests.unit.replication.cluster import Cluster as Opened
from tests.unit.storage.stores import open_store
from undercroft.node.state import CLUSTER_KEY, Cluster
from undercroft.replication import activation, authority, membership
from undercroft.replication.lineage import LINEAGE_KEY
from undercroft.replication.role import (
    SECONDARY,
    Credentials,
    Role,
    Upstream,
    read_role,
    write_role,
)


def named(directory: Path, name: str) -> Opened:
    made = Opened(open_store(directory / name))
    with made.change() as tx:
        tx.put(CLUSTER_KEY, msgspec.msgpack.encode(Cluster(name, name)))
    return made


def role_of(cluster: Opened) -> Role:
    with cluster.view() as view:
        return read_role(view)


def admit(primary: Opened, secondary_id: str, address: str) -> Upstream:
    with primary.change() as tx:
        own = authority.read_authority(tx)
        assert own is not None
        made = activation.register(tx, secondary_id, ttl_seconds=60, now_ms=NOW_MS)
        activation.activate(tx, secondary_id)
        key, public = authority.new_key()
        naming = authority.Named(secondary_id, made.ticket)
        certificate = authority.issue_client(own, naming, public, NOW_MS)
        return Upstream(secondary_id, Credentials(certificate, key, own.certificate), (address,))


def follow_lineage(source: Opened, target: Opened) -> None:
    """What streaming does."""
    with source.view() as view:
        lineage = membership.lineage_of(view)
    with target.change() as tx:
        tx.allow_shared()
        tx.put(LINEAGE_KEY, msgspec.msgpack.encode(lineage))


def promote(cluster: Opened, address: str) -> None:
    with cluster.change() as tx:
        membership.promote(
            tx,
            primary_cluster_addr="",
            api_addr=address,
            cluster_addr=address,
            announce=True,
            now_ms=NOW_MS,
        )


def test_threat_r_11_a_primary_two_epochs_back_is_fenced_by_the_chain_of_claims(
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    a, b, c = (named(tmp_path, name) for name in ("a", "b", "c"))
    with a.change() as tx:
        membership.enable_primary(tx, "", NOW_MS)
    for cluster, name in ((b, "b"), (c, "c")):
        upstream = admit(a, name, "a:8201")
        follow_lineage(a, cluster)
        with cluster.change() as tx:
            write_role(tx, Role(SECONDARY, set_id=role_of(a).set_id, upstream=upstream))
    promote(b, "b:8201")  # a is dead
    follow_lineage(b, c)
    upstream = admit(b, "c", "b:8201")
    with c.change() as tx:
        membership.change_primary(tx, upstream, NOW_MS)
    with c.change() as tx:
        write_role(tx, msgspec.structs.replace(role_of(c), claim=role_of(b).claim))
    promote(c, "c:8201")
    assert [told.addresses for told in role_of(c).announcements] == [("a:8201",), ("b:8201",)]
    for old in (b, a):
        with old.change() as tx:
            membership.fence_by(tx, role_of(c).claim, NOW_MS)
        fence = role_of(old).fence
        assert fence is not None
        assert fence.cluster_addr == "c:8201"
        assert membership.refusal(role_of(old)) is not None
    assert membership.refusal(role_of(c)) is None
    assert role_of(a).fence.claimant == "b"  # type: ignore[union-attr]
