"""Certificates that are renewed while the link is in use (R-31)."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.replication.clusters import follows, ok, read
from tests.replication.pair import prepare
from tests.replication.peer import connected, granted
from tests.replication.relay import relayed
from tests.replication.test_threats_sessions import is_greeted
from tests.support.undercroft import Client, Undercroft, disk_server, until
from undercroft.replication import authority
from undercroft.replication.activation import Grant
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame

OLD_DAYS = 70  # of 90: due since day 60


class Questions:
    """For certificates: they are lost on their way until `arrive`."""

    def __init__(self) -> None:
        self.arrive = False
        self.asked = 0

    def __call__(self, frame: Frame) -> list[Frame]:
        if not isinstance(frame, frames.AskCertificate):
            return [frame]
        self.asked += 1
        return [frame] if self.arrive else []


class Load:
    """Writes without a pause, of a client of its own, until each is done: a link may be down."""

    def __init__(self, client: Client, name: str) -> None:
        self.written = 0
        self._client, self._name, self._over = client, name, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            body = {"data": {"value": 1}}
            path = f"secret/data/{self._name}{self.written}"
            self.written += self._client.request("POST", path, body).status == 200

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def arrived(self, client: Client) -> bool:
        return all(read(client, f"{self._name}{n}") == 1 for n in range(self.written))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Undercroft, Undercroft]]:
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    with (
        disk_server(tmp_path / "primary") as primary,
        disk_server(tmp_path / "secondary") as secondary,
    ):
        yield primary, secondary


def test_threat_r_31_a_certificate_is_renewed_under_load_and_the_session_goes_on(
    servers: tuple[Undercroft, Undercroft],
) -> None:
    primary, secondary = servers
    one, two = primary.client, secondary.client
    questions = Questions()
    with relayed(primary, secondary, OLD_DAYS, questions) as relay:
        until(lambda: questions.asked == 1, secondary)
        relay.drop()  # with the link, what was asked is gone: it asks again
        until(lambda: questions.asked == 2, secondary)
        assert len(set(relay.certificates)) == 1
        questions.arrive = True
        with (
            contextlib.closing(Load(one, "near")) as near,
            contextlib.closing(Load(two, "far")) as far,
        ):
            relay.drop()
            until(lambda: relay.renewed, secondary)
            sessions, before = relay.sessions, (near.written, far.written)
            until(lambda: near.written > before[0] + 50 and far.written > before[1] + 50)
            assert relay.sessions == sessions
        until(lambda: follows(two, one), secondary)
        assert near.arrived(two)
        assert far.arrived(one)
        relay.drop()
        until(lambda: relay.sessions > sessions and follows(two, one), secondary)
        assert relay.certificates[-1] == relay.renewed[-1]
        assert len(relay.renewed) == 1  # what is new is not due again


def renewed(grant: Grant) -> Grant:
    """In a session with the old certificate; it goes on."""
    key, public = authority.new_key()
    with connected(grant) as peer:
        peer.greet()
        peer.send(frames.AskCertificate(public))
        made = peer.expect(frames.Certificate)
        peer.send(frames.AskHeads())
        peer.expect(frames.Heads)
    old = grant.credentials
    assert made.authority == old.authority
    assert not authority.renewal_due(made.certificate, 0)
    new = msgspec.structs.replace(old, certificate=made.certificate, key=key)
    return msgspec.structs.replace(grant, credentials=new)


def test_threat_r_31_with_a_revocation_the_old_and_the_new_certificate_are_over(
    tmp_path: Path,
) -> None:
    with disk_server(tmp_path) as server:
        prepare(server.client)
        ok(server.client, "primary/enable")
        old = granted(server.client, "osaka")
        new = renewed(renewed(old))
        assert new.credentials.certificate != old.credentials.certificate
        assert [is_greeted(grant) for grant in (old, new, old)] == [True] * 3
        ok(server.client, "primary/revoke-secondary", {"id": "osaka"})
        assert [is_greeted(grant) for grant in (old, new)] == [False] * 2
        again = granted(server.client, "osaka")
        assert [is_greeted(grant) for grant in (old, new, again)] == [False, False, True]


@pytest.mark.parametrize("key", [b"", b"no key", bytes(4096)], ids=["none", "text", "zeros"])
def test_threat_r_31_what_is_no_key_is_not_certified(tmp_path: Path, key: bytes) -> None:
    with disk_server(tmp_path) as server:
        ok(server.client, "primary/enable")
        with connected(granted(server.client, "osaka")) as peer:
            peer.greet()
            peer.send(frames.AskCertificate(key))
            last = peer.rest()[-1]
            assert isinstance(last, frames.Bye)
            assert last.text == "a public key that does not parse"
