"""Who gets a session at the cluster port, and who gets one no more (R-03, R-05, R-06)."""

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.replication.clusters import AT, errors, ok, read, token_for
from tests.replication.pair import prepare, replicating_pair, replicator_of, status
from tests.replication.peer import SECONDS, call, connected, granted, hello
from tests.support.undercroft import Undercroft, disk_server, free_port, restart, until
from tests.unit.replication.handshake import server_context, server_of
from undercroft.replication import authority
from undercroft.replication.activation import Grant
from undercroft.replication.authority import make_authority
from undercroft.replication.protocol import frames
from undercroft.request.model import Operation

CUT_SECONDS = 5.0  # what the threat allows


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Undercroft]:
    """A primary."""
    with disk_server(tmp_path) as started:
        prepare(started.client)
        ok(started.client, "primary/enable")
        yield started


def is_greeted(grant: Grant) -> bool:
    with connected(grant) as peer:
        with contextlib.suppress(OSError):  # it may have hung up already
            peer.send(hello())
        try:
            return peer.expect(frames.Welcome).secondary_id == grant.secondary_id
        except EOFError:
            assert peer.heard == b""
            return False


def test_threat_r_03_a_revocation_cuts_the_live_session_within_seconds(server: Undercroft) -> None:
    with connected(granted(server.client, "osaka")) as peer:
        peer.greet()
        made = call(Operation.UPDATE, "kv1/before", {"v": 1}, "all")
        assert peer.forward(1, made).error is None
        since = time.monotonic()
        ok(server.client, "primary/revoke-secondary", {"id": "osaka"})
        last = peer.rest(CUT_SECONDS)[-1]
        assert time.monotonic() - since < CUT_SECONDS
        assert isinstance(last, frames.Bye)
        assert last.code == "revoked"


def test_threat_r_03_a_revoked_certificate_is_not_greeted_again(
    server: Undercroft, tmp_path: Path
) -> None:
    """Not at once, not after a restart, not when its id is given to another."""
    grant = granted(server.client, "osaka")
    assert is_greeted(grant)
    ok(server.client, "primary/revoke-secondary", {"id": "osaka"})
    assert not is_greeted(grant)
    server.kill()
    restart(server, tmp_path)
    until(lambda: not is_greeted(grant), server)
    again = granted(server.client, "osaka")
    assert is_greeted(again)
    assert not is_greeted(grant)


def test_threat_r_03_what_a_revoked_secondary_forwards_is_not_done(server: Undercroft) -> None:
    """Not even what it has sent before the revocation and is read after it."""
    client = server.client
    late = call(Operation.UPDATE, "kv1/after", {"v": 1}, "all")
    with connected(granted(client, "osaka")) as peer:
        peer.greet()
        replicator = replicator_of(server)
        os.kill(replicator, signal.SIGSTOP)
        try:
            peer.send(frames.Forward(1, msgspec.msgpack.encode(late)))
            ok(client, "primary/revoke-secondary", {"id": "osaka"})
        finally:
            os.kill(replicator, signal.SIGCONT)
        assert not any(isinstance(frame, frames.Forwarded) for frame in peer.rest())
    assert client.request("GET", "kv1/after").status == 404


def test_threat_r_03_the_next_primary_knows_a_revoked_secondary_as_little(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        grant = granted(one, "perth")
        assert is_greeted(grant)
        ok(one, "primary/revoke-secondary", {"id": "perth"})
        ok(two, "secondary/promote")
        node = two.request("GET", "sys/ha-status").body["data"]["nodes"][0]
        there = Grant(
            grant.type,
            grant.set_id,
            grant.secondary_id,
            grant.credentials,
            (node["cluster_address"].removeprefix("https://"),),
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            is_greeted(there)
        blind = authority.client_context(grant.credentials)
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE  # it would take anybody
        with connected(there, blind) as peer:
            with contextlib.suppress(OSError):
                peer.send(hello())
            assert peer.rest() == []
        assert status(two)["known_secondaries"] == []


class Middle:
    """A TLS server with an authority of its own, which takes whoever comes and listens."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self.heard: list[bytes] = []
        self.came = 0
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            self.came += 1
            plain.settimeout(SECONDS)
            with (
                contextlib.suppress(OSError),
                plain,
                self._context.wrap_socket(plain, server_side=True) as sock,
            ):
                self.heard.append(sock.recv(1 << 16))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


def test_threat_r_05_a_man_in_the_middle_hears_nothing_of_a_secondary(
    server: Undercroft, tmp_path: Path
) -> None:
    """He has the right name, an authority of his own, and asks for no certificate."""
    primary, port = server.client, free_port()
    ok(primary, "primary/enable", {"primary_cluster_addr": f"https://127.0.0.1:{port}"})
    theirs = make_authority("his own", time.time_ns() // 1_000_000)
    context = server_context(theirs, server_of(theirs, set_id=status(primary)["cluster_id"]))
    context.verify_mode = ssl.CERT_NONE
    with contextlib.closing(Middle(context, port)) as middle:
        (tmp_path / "secondary").mkdir()
        with disk_server(tmp_path / "secondary") as second:
            token = token_for(primary, "osaka")
            refused = second.client.request("POST", f"{AT}/secondary/enable", {"token": token})
            assert refused.status == 503
            assert "TLS" in errors(refused)
            assert status(second.client) == {"mode": "disabled"}
        assert middle.came > 0
        assert b"".join(middle.heard) == b""


@pytest.mark.parametrize("alpn", ["h2", "http/1.1", "undercroft-replication/0"])
def test_threat_r_06_who_does_not_name_the_protocol_is_not_greeted(
    server: Undercroft, alpn: str
) -> None:
    grant = granted(server.client, "osaka")
    context = authority.client_context(grant.credentials)
    context.set_alpn_protocols([alpn])
    with connected(grant, context) as peer:
        with contextlib.suppress(OSError):
            peer.send(hello())
        assert peer.rest() == []
        assert peer.heard == b""
    assert is_greeted(grant)  # it was but the name


def test_no_word_is_answered_in_plaintext(server: Undercroft) -> None:
    grant = granted(server.client, "osaka")
    host, _, port = grant.addresses[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as plain:
        plain.sendall(frames.encode(hello()))
        with contextlib.suppress(ConnectionError):
            answer = plain.recv(1 << 16)
            assert len(answer) <= 7  # nothing, or the alert of a TLS that found no TLS
    assert read(server.client, "nothing") == 404  # and it serves on
