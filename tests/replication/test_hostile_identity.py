"""A secondary with a real certificate that wants what is another's (R-04).

Who it is stands in its certificate and nowhere else. `perth` may not have kv1/; `osaka` may.
"""

import json
import uuid
from collections.abc import Iterator

import msgspec
import pytest

from tests.replication.clusters import AT, ok
from tests.replication.pair import prepare, status
from tests.replication.peer import Peer, connected, granted, hello
from tests.support.undercroft import Undercroft, disk_server, until
from undercroft.replication import authority
from undercroft.replication.activation import Grant
from undercroft.replication.claims import Claim, sign
from undercroft.replication.lineage import Lineage
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.storage.keys import SHARED
from undercroft.storage.wal import START, SharedRecord, operations_of

EVERY_BUCKET = b"".join(number.to_bytes(2, "big") for number in range(1 << 16))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    with disk_server(tmp_path_factory.mktemp("primary")) as started:
        client = started.client
        prepare(client)
        for path in ("kv1/kept", "secret/data/common"):
            assert client.request("POST", path, {"data": {"v": 1}}).status in (200, 204)
        ok(client, "primary/enable")
        deny = {"mode": "deny", "paths": "kv1/"}
        assert client.request("POST", f"{AT}/primary/paths-filter/perth", deny).status == 204
        yield started


@pytest.fixture(scope="module")
def osaka(server: Undercroft) -> Grant:
    return granted(server.client, "osaka")


@pytest.fixture(scope="module")
def perth(server: Undercroft) -> Grant:
    return granted(server.client, "perth")


@pytest.fixture(scope="module")
def theirs(server: Undercroft) -> bytes:
    """The head of kv1/."""
    mount = server.client.request("GET", "sys/mounts").body["data"]["kv1/"]
    return SHARED + uuid.UUID(mount["uuid"]).bytes


def entries_from(peer: Peer) -> list[bytes]:
    found: list[bytes] = []
    while True:
        frame = peer.expect(frames.Entries)
        found += frame.entries
        if frame.done:
            return found


def every_answer(peer: Peer, head: bytes) -> tuple[bytes, bytes, bytes, list[bytes]]:
    """Whether it may have the mount, its nodes, its buckets, and all entries there."""
    peer.send(frames.AskHeads(), frames.AskNodes(head), frames.AskBuckets(head, bytes(range(256))))
    digest = peer.expect(frames.Heads).heads.get(head, b"")
    nodes, sums = peer.expect(frames.Nodes).nodes, peer.expect(frames.Buckets).sums
    peer.send(frames.AskScan(head, b""))
    entries = entries_from(peer)
    peer.send(frames.AskEntries(head, EVERY_BUCKET, b""))
    return digest, nodes, sums, entries + entries_from(peer)


def hung_up_on(server: Undercroft, peer: Peer, code: str = "protocol") -> str:
    """Why, as the peer is told; and the primary's log names it, by its certificate."""
    last = peer.rest()[-1]
    assert isinstance(last, frames.Bye)
    assert last.code == code
    peer.sock.close()
    gone = f"a secondary is gone: id=perth reason={json.dumps(last.text)}"
    until(lambda: gone in server.log.read_text(), server)
    return last.text


def test_who_may_have_a_mount_is_answered_all_of_it(osaka: Grant, theirs: bytes) -> None:
    with connected(osaka) as peer:
        peer.greet()
        digest, nodes, sums, entries = every_answer(peer, theirs)
    assert all((digest, nodes.strip(b"\0"), sums.strip(b"\0")))
    scanned, by_bucket = entries[: len(entries) // 2], entries[len(entries) // 2 :]
    assert scanned == by_bucket
    assert scanned
    assert {key[:17] for key in scanned[::2]} == {theirs}


def test_threat_r_04_what_another_id_may_have_is_not_had_by_asking_for_it(
    server: Undercroft, perth: Grant, theirs: bytes
) -> None:
    """Not by its head, and not by a Hello that says it is another cluster at another address."""
    with connected(perth) as peer:
        welcome = peer.greet(cluster_addr="https://osaka:8201", api_addr="https://osaka:8200")
        assert welcome.secondary_id == "perth"
        assert peer.expect(frames.Withheld).mounts == (theirs[1:],)
        assert every_answer(peer, theirs) == (b"", b"", b"", [])


def test_threat_r_04_what_is_written_for_another_id_comes_as_its_digest_only(
    server: Undercroft, perth: Grant, theirs: bytes
) -> None:
    with connected(perth) as peer:
        welcome = peer.greet()
        peer.send(frames.Ack(0, welcome.position))
        assert server.client.request("POST", "kv1/new", {"v": 2}).status == 204
        (raw,) = peer.expect(frames.Records).records
        assert [key for _, _, key, _, _ in operations_of(SharedRecord.decode(raw).body)] == [b""]
        assert theirs not in peer.heard


@pytest.mark.parametrize("intent", [frames.PROBE, frames.CLAIM])
def test_threat_r_04_who_came_for_something_else_is_answered_no_question(
    server: Undercroft, perth: Grant, intent: str
) -> None:
    with connected(perth) as peer:
        peer.greet(intent)
        peer.send(frames.AskHeads())
        assert hung_up_on(server, peer) == "a AskHeads in a session that is for something else"


@pytest.mark.parametrize(
    "frame",
    [
        hello(api_addr="https://osaka:8200"),
        frames.Welcome(1, "", b"s" * 16, "osaka", "c", Lineage("", ()), START, frames.FOLLOW),
        frames.Records([]),
        frames.Terms(((99, bytes(32), 0),)),
        frames.Withheld(()),
        frames.Handover(True, 1),
        frames.Certificate(b"", b""),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_threat_r_04_whoever_speaks_as_another_is_hung_up_on_and_that_is_logged(
    server: Undercroft, perth: Grant, frame: Frame
) -> None:
    """As another secondary, in the middle of its session, or as the primary."""
    with connected(perth) as peer:
        peer.greet()
        peer.send(frame)
        assert hung_up_on(server, peer) == f"a {type(frame).__name__} that only a primary sends"


def test_threat_r_04_a_new_certificate_is_for_the_id_of_the_old_one(perth: Grant) -> None:
    """The question has a key in it and no name."""
    with connected(perth) as peer:
        peer.greet()
        peer.send(frames.AskCertificate(authority.new_key()[1]))
        made = peer.expect(frames.Certificate)
        assert authority.named_by(made.certificate) == authority.named_by(
            perth.credentials.certificate
        )


def test_threat_r_04_a_claim_in_the_name_of_another_fences_nobody_and_is_logged(
    server: Undercroft, osaka: Grant, perth: Grant
) -> None:
    """`osaka` may be promoted, `perth` lacks data: it signs as itself, and under that name."""
    with connected(osaka) as other, connected(perth) as peer:
        other.greet()  # it is one that counts
        lineage = peer.greet(frames.CLAIM).lineage
        ahead = lineage.opened(START, "c", 0)
        claim = Claim(lineage.set_id, ahead, "osaka", "", "", osaka.credentials.authority, 0)
        own = sign(claim, perth.credentials)
        stolen = msgspec.structs.replace(own, certificate=osaka.credentials.certificate)
        for signed, why in ((own, "'perth' has a path filter"), (stolen, "its signature is wrong")):
            peer.send(frames.Announce(msgspec.msgpack.encode(signed)))
            answer = peer.expect(frames.Announced)
            assert not answer.accepted
            assert why in answer.reason
            until(lambda why=why: "refused: by=perth reason=" in log_of(server, why), server)
    assert not status(server.client)["fenced"]


def log_of(server: Undercroft, text: str) -> str:
    """Its lines that have the text."""
    return "\n".join(line for line in server.log.read_text().splitlines() if text in line)


def test_threat_r_04_who_lacks_data_does_not_stop_the_primary(
    server: Undercroft, perth: Grant
) -> None:
    with connected(perth) as peer:
        peer.greet()
        peer.send(frames.AskHandover())
        answer = peer.expect(frames.Handover)
        assert not answer.granted
        assert answer.reason
    assert server.client.request("POST", "kv1/goes-on", {"v": 1}).status == 204
