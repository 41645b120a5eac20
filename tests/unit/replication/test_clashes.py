"""What a secondary says of its local mounts, and what the primary makes of it."""

import msgspec
import pytest

from undercroft.errors import InvalidRequest
from undercroft.replication.clashes import PATHS_MAX, believed, check_secondaries, local_paths
from undercroft.replication.protocol import frames
from undercroft.replication.status import PeerStatus, ReplicationStatus
from undercroft.request.mounts import Mount, Table
from undercroft.storage.keys import CUBBYHOLE
from undercroft.storage.wal import START


def status(*peers: PeerStatus, mode: str = "primary") -> ReplicationStatus:
    return ReplicationStatus(mode=mode, peers=peers)


def peer(*paths: str, connected: bool = True) -> PeerStatus:
    return PeerStatus("osaka", connected=connected, local_mounts=paths)


def test_it_says_where_its_local_mounts_are_and_nothing_of_others() -> None:
    mounts = [
        Mount(bytes(15) + b"\x11", "b/", "kv", "kv_1", local=True),
        Mount(bytes(15) + b"\x12", "auth/a/", "userpass", "userpass_1", local=True),
        Mount(bytes(15) + b"\x13", "c/", "kv", "kv_2"),
        Mount(CUBBYHOLE, "cubbyhole/", "cubbyhole", "cubbyhole_1", local=True),
    ]
    assert local_paths(Table({mount.path: mount for mount in mounts})) == ("auth/a/", "b/")


def test_it_says_no_more_than_a_bounded_number() -> None:
    many = {
        f"m{n:04}/": Mount(n.to_bytes(16, "big"), f"m{n:04}/", "kv", "kv_1", local=True)
        for n in range(PATHS_MAX + 10)
    }
    assert len(local_paths(Table(many))) == PATHS_MAX


def test_threat_r_24_the_primary_believes_no_more_than_what_may_be_paths_of_mounts() -> None:
    said = ("", "/", "a", "a/", "b\n/", "c\x1b[2J/", "d" * 600 + "/", "é/")
    assert believed(said) == ("a/", "é/")
    assert len(believed(f"{n}/" for n in range(10_000))) == PATHS_MAX


@pytest.mark.parametrize("path", ["a/b/", "a/", "a/b/c/"])
def test_a_path_at_above_and_below_a_local_mount_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match="secondary 'osaka' has a local mount at a/b/"):
        check_secondaries(status(peer("z/"), peer("a/b/")), path, names=True)


def test_threat_r_15_who_asks_by_way_of_another_secondary_is_not_told_whose_mount_it_is() -> None:
    with pytest.raises(InvalidRequest, match="another cluster of the set") as refused:
        check_secondaries(status(peer("secret-project/")), "secret-project/", names=False)
    for told in (refused.value.message, refused.value.hint):
        assert "osaka" not in told
        assert "secret-project" not in told


@pytest.mark.parametrize("path", ["a/bc/", "b/", "auth/a/b/"])
def test_a_path_beside_it_is_not(path: str) -> None:
    check_secondaries(status(peer("a/b/")), path, names=True)


def test_what_counts_is_a_connected_secondary_of_a_primary() -> None:
    check_secondaries(status(peer("a/", connected=False)), "a/", names=True)
    check_secondaries(status(peer("a/"), mode="secondary"), "a/", names=True)
    check_secondaries(status(), "a/", names=True)


def test_a_secondary_of_an_older_release_says_nothing() -> None:
    beat = frames.Heartbeat(1, 2, START, local_mounts=("a/",))
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(beat))
    older = msgspec.convert(fields[:-1], frames.Heartbeat, strict=False)
    assert older.local_mounts == ()
    assert older.rank == beat.rank


def test_a_primary_of_an_older_release_passes_it_over() -> None:
    class Older(msgspec.Struct, frozen=True, array_like=True):
        number: int
        time_ms: int

    beat = frames.Heartbeat(1, 2, START, local_mounts=("a/",))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(beat), type=Older) == Older(1, 2)
