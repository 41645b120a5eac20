"""The cluster port's TLS, by real handshakes: who gets in, and who does not (R-05, R-06)."""

import os
import ssl
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization

from tests.unit.replication.cluster import DAY_MS, HOUR_MS
from tests.unit.replication.handshake import (
    SET_ID,
    client_of,
    now_ms,
    server_context,
    server_of,
    shake,
)
from undercroft.replication import authority
from undercroft.replication.authority import Authority, make_authority
from undercroft.replication.protocol.frames import ALPN
from undercroft.replication.role import Credentials

_SECONDS = 30.0


@pytest.fixture(scope="module")
def ours() -> Authority:
    return make_authority(SET_ID, now_ms())


@pytest.fixture(scope="module")
def server(ours: Authority) -> ssl.SSLContext:
    return server_context(ours, server_of(ours))


def client(credentials: Credentials) -> ssl.SSLContext:
    return authority.client_context(credentials)


def pem_of(key: bytes, pass_phrase: bytes = b"") -> str:
    """A private key for `load_pem`, under a pass phrase or in clear."""
    return (
        serialization.load_der_private_key(key, None)
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(pass_phrase)
            if pass_phrase
            else serialization.NoEncryption(),
        )
        .decode()
    )


def test_a_secondary_and_its_primary_meet_in_tls_1_3(
    ours: Authority, server: ssl.SSLContext
) -> None:
    credentials = client_of(ours)
    session = shake(server, client(credentials))
    assert (session.version, session.alpn) == ("TLSv1.3", ALPN)
    assert session.certificate == credentials.certificate
    assert session.said == b"hello"


def test_threat_r_06_a_session_cannot_be_resumed_so_a_revoked_certificate_is_looked_at_again(
    ours: Authority, server: ssl.SSLContext
) -> None:
    assert not shake(server, client(client_of(ours))).tickets


@pytest.mark.parametrize("hours", [-1, 1])
def test_threat_r_13_clocks_an_hour_apart_are_no_obstacle(ours: Authority, hours: int) -> None:
    issued_ms = now_ms() + hours * HOUR_MS
    made = make_authority(SET_ID, issued_ms)
    shake(server_context(made, server_of(made, issued_ms)), client(client_of(made, issued_ms)))


# whom the server refuses


def test_threat_r_05_the_server_refuses_a_client_of_another_authority(
    ours: Authority, server: ssl.SSLContext
) -> None:
    stranger = client_of(make_authority(SET_ID, now_ms()))
    trusting = Credentials(stranger.certificate, stranger.key, ours.certificate)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake(server, client(trusting))


def test_the_server_refuses_a_client_without_a_certificate(
    ours: Authority, server: ssl.SSLContext
) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=ours.certificate)
    bare.set_alpn_protocols([ALPN])
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(server, bare)


def test_the_server_refuses_a_certificate_that_is_for_servers(
    ours: Authority, server: ssl.SSLContext
) -> None:
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_VERIFY_FAILED.*purpose"):
        shake(server, client(server_of(ours)))


def test_the_server_refuses_an_expired_certificate(ours: Authority, server: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_VERIFY_FAILED.*expired"):
        shake(server, client(client_of(ours, now_ms() - 91 * DAY_MS)))


def test_the_server_refuses_a_certificate_that_a_secondary_signed_with_its_own(
    ours: Authority, server: ssl.SSLContext
) -> None:
    secondary = client_of(ours)
    below = client_of(Authority(secondary.certificate, secondary.key), secondary_id="lima")
    context = client(Credentials(below.certificate, below.key, ours.certificate))
    chain = "".join(map(ssl.DER_cert_to_PEM_cert, (below.certificate, secondary.certificate)))
    authority.load_pem(context, chain + pem_of(below.key))
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake(server, context)


def test_threat_r_06_the_server_refuses_tls_1_2(ours: Authority, server: ssl.SSLContext) -> None:
    old = client(client_of(ours))
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake(server, old)


@pytest.mark.parametrize("offered", [[], ["h2"], ["undercroft-replication/0"], [ALPN + "0"]])
def test_threat_r_06_no_protocol_is_chosen_for_a_client_that_does_not_speak_ours(
    ours: Authority, server: ssl.SSLContext, offered: list[str]
) -> None:
    """The library lets such a handshake end; the cluster port closes who has no protocol."""
    other = client(client_of(ours))
    if offered:
        other.set_alpn_protocols(offered)
    else:
        other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        other.load_verify_locations(cadata=ours.certificate)
        own = client_of(ours)
        authority.load_pem(other, ssl.DER_cert_to_PEM_cert(own.certificate) + pem_of(own.key))
    assert shake(server, other).alpn is None


# whom the client refuses


def test_threat_r_05_the_client_refuses_a_server_of_another_authority(
    ours: Authority, server: ssl.SSLContext
) -> None:
    strange = make_authority(SET_ID, now_ms())
    middle = server_context(ours, server_of(strange))  # it lets everybody in: a man in the middle
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(middle, client(client_of(ours)))


def test_the_client_refuses_the_primary_of_another_set(ours: Authority) -> None:
    elsewhere = server_context(ours, server_of(ours, set_id="another"))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        shake(elsewhere, client(client_of(ours)))


def test_the_client_refuses_another_secondary_whatever_its_id(ours: Authority) -> None:
    """Also when the id is the very name that it looks for."""
    name = authority.server_name(SET_ID)
    assert len(name) < 64
    impostor = server_context(ours, client_of(ours, secondary_id=name))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(impostor, client(client_of(ours)))


def test_the_client_refuses_an_expired_server(ours: Authority) -> None:
    late = server_context(ours, server_of(ours, now_ms() - 91 * DAY_MS))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(late, client(client_of(ours)))


def test_threat_r_06_the_client_refuses_tls_1_2(ours: Authority) -> None:
    old = server_context(ours, server_of(ours))
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(old, client(client_of(ours)))


@pytest.mark.parametrize("side", ["server", "client"])
def test_neither_side_trusts_anything_but_the_authority(ours: Authority, side: str) -> None:
    own = server_of(ours)
    context = server_context(ours, own) if side == "server" else client(client_of(ours))
    assert context.get_ca_certs(binary_form=True) == [ours.certificate]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.options & ssl.OP_NO_TICKET


# keys and files


def test_making_a_context_leaves_no_descriptor_open(ours: Authority) -> None:
    credentials = client_of(ours)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        client(credentials)
    with pytest.raises(ssl.SSLError):
        authority.load_pem(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "no PEM")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_key_under_a_pass_phrase_is_refused_and_nobody_is_asked_for_it(ours: Authority) -> None:
    """client_key_pem comes with a request: a prompt would hold the server up."""
    own = client_of(ours)
    pem = ssl.DER_cert_to_PEM_cert(own.certificate) + pem_of(own.key, b"correct horse")
    program = (
        "import ssl, sys\n"
        "from undercroft.replication import authority\n"
        "authority.load_pem(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), sys.argv[1])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, pem],
        stdin=subprocess.PIPE,  # nothing ever comes: who asks here waits until the deadline
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # no terminal, so the library would ask its standard input
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as child:
        try:
            child.wait(_SECONDS)
        finally:
            child.kill()
        assert child.stderr is not None
        said = child.stderr.read()
    assert b"ssl.SSLError" in said
    assert b"pass phrase" not in said
