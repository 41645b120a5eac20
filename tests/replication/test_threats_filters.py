"""A path filter holds against a secondary that keeps to no rule (R-14); local data stays (R-15)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.clusters import AT, errors, ok
from tests.replication.pair import join, prepare, replicator_of, status
from tests.replication.peer import Peer, connected, granted
from tests.support.undercroft import Client, Undercroft, disk_server, until
from undercroft.replication.protocol import frames
from undercroft.storage.keys import SHARED

HIDDEN = b"a-name-that-stays"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    """A primary with data in secret/ and kv1/ and in a local mount, mine/."""
    with disk_server(tmp_path_factory.mktemp("primary")) as started:
        client = started.client
        prepare(client)
        assert (
            client.request("POST", "sys/mounts/mine", {"type": "kv", "local": True}).status == 204
        )
        for path in (f"kv1/{HIDDEN.decode()}", f"mine/{HIDDEN.decode()}", "secret/data/open"):
            made = client.request("POST", path, {"data": {"value": "x"}})
            assert made.status in (200, 204), made
        ok(client, "primary/enable")
        yield started


def deny(primary: Client, secondary_id: str, *paths: str) -> None:
    body = {"mode": "deny", "paths": list(paths)}
    made = primary.request("POST", f"{AT}/primary/paths-filter/{secondary_id}", body)
    assert made.status in (200, 204), made  # 200: with a warning, where no mount is yet


def mount_id(primary: Client, path: str) -> bytes:
    mounts = primary.request("GET", "sys/mounts").body["data"]
    return bytes.fromhex(mounts[path]["uuid"].replace("-", ""))


def everything_asked(peer: Peer, head: bytes) -> None:
    """Every question there is about what lies under a head."""
    peer.send(
        frames.AskHeads(),
        frames.AskNodes(head),
        frames.AskBuckets(head, bytes(range(256))),
        frames.AskEntries(head, b"".join(n.to_bytes(2, "big") for n in range(1 << 16)), b""),
        frames.AskScan(head, b""),
        frames.AskScan(head, b""),
    )


@pytest.mark.parametrize("intent", [frames.STREAM, frames.PROBE, frames.CLAIM, "ahead"])
def test_threat_r_14_nothing_under_a_denied_mount_is_answered_whatever_the_session_is_for(
    server: Undercroft, intent: str
) -> None:
    """Also to one whose hello says that it has more than the primary."""
    primary = server.client
    deny(primary, intent, "kv1/")
    denied = SHARED + mount_id(primary, "kv1/")
    grant = granted(primary, intent)
    with connected(grant) as peer:
        welcome = peer.greet(frames.STREAM if intent == "ahead" else intent)
    with connected(grant) as peer:
        if intent == "ahead":
            ahead = welcome.position._replace(seq=welcome.position.seq + 9)
            again = peer.greet(lineage=welcome.lineage, position=ahead, partial=False)
            assert again.verdict == frames.BEHIND
        else:
            peer.greet(intent)
        everything_asked(peer, denied)
        if intent == frames.STREAM:
            assert denied not in peer.expect(frames.Heads).heads
            assert [peer.expect(frames.Entries).entries for _ in range(3)] == [[], [], []]
        else:
            assert not any(isinstance(frame, frames.Entries) for frame in peer.rest())
    assert HIDDEN not in peer.heard


def streaming(peer: Peer) -> None:
    """As one whose first copy is complete."""
    position = peer.greet().position
    peer.send(frames.Ack(0, position))


def shipped(peer: Peer, name: bytes) -> None:
    """Wait until the log has brought an entry of that name."""
    while name not in peer.heard:
        peer.expect(frames.Records)


def put(primary: Client, path: str) -> None:
    assert primary.request("POST", path, {"data": {"value": "x"}}).status in (200, 204)


def test_threat_r_14_what_is_written_behind_a_new_filter_is_not_shipped(
    server: Undercroft,
) -> None:
    """Also when the primary's replicator hears of the filter and of the write at once."""
    primary = server.client
    with connected(granted(primary, "late")) as peer:
        streaming(peer)
        put(primary, "kv1/seen-before")
        shipped(peer, b"seen-before")
        replicator = replicator_of(server)
        os.kill(replicator, signal.SIGSTOP)
        try:
            deny(primary, "late", "kv1/")
            put(primary, "kv1/never-seen")
        finally:
            os.kill(replicator, signal.SIGCONT)
        put(primary, "secret/data/marker")
        shipped(peer, b"marker")
        assert b"never-seen" not in peer.heard


def test_threat_r_14_a_filtered_secondary_tells_its_callers_nothing_of_what_there_is(
    tmp_path: Path,
) -> None:
    """Of mounts denied before it joined, one that is made later and one that moves there."""
    homes = [tmp_path / name for name in ("primary", "secondary")]
    for home in homes:
        home.mkdir()
    device = f'audit "file" "main" {{ options {{ file_path = "{homes[1]}/audit.log" }} }}'
    with disk_server(homes[0]) as first, disk_server(homes[1], device) as second:
        primary, secondary = first.client, second.client
        prepare(primary)
        ok(primary, "primary/enable")
        deny(primary, "osaka", "kv1/", "team/")
        name = HIDDEN.decode()
        put(primary, f"kv1/{name}")
        put(primary, "secret/data/a-name-that-goes")
        join(primary, second, "osaka")
        kv2 = {"type": "kv", "options": {"version": "2"}}
        assert primary.request("POST", "sys/mounts/team/late", kv2).status == 204
        put(primary, f"team/late/data/{name}")
        moved = primary.request("POST", "sys/remount", {"from": "secret", "to": "team/moved"})
        assert moved.status == 200, moved
        until(lambda: secondary.request("GET", "team/moved/data/x").status == 404)
        until(lambda: primary.request("POST", f"team/moved/data/{name}", DATA).status == 200)
        until(lambda: status(secondary)["last_remote_wal"] == last_wal(primary))
        for mount in ("kv1/", "team/late/data/", "team/moved/data/"):
            there, nowhere = (asked(secondary, mount + path) for path in (name, "nothing-here"))
            assert there == nowhere == {(404, "")}
        for listed in ("kv1/", "team/late/metadata/", "team/moved/metadata/"):
            assert secondary.request("LIST", listed).status == 404
        kept = b"".join(file.read_bytes() for file in homes[1].rglob("*.mdb"))
        assert b"a-name-that-goes" in kept
        assert HIDDEN not in kept + second.log.read_bytes()


DATA = {"data": {"value": "x"}}


def last_wal(primary: Client) -> int:
    return int(status(primary)["last_performance_wal"])


def asked(client: Client, path: str) -> set[tuple[int, str]]:
    """What reading, writing and deleting there is answered with."""
    answers = [client.request(method, path, DATA) for method in ("GET", "POST", "PUT", "DELETE")]
    return {(answer.status, errors(answer)) for answer in answers}
