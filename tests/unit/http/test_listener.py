"""The listening socket: TLS versions, certificates and their reload, proxies, too many clients."""

import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.unit.http.edge import Edge, Tiny, answer, serving, until_closed
from undercroft.cli import certificates as maker
from undercroft.cli.certificates import Certificates, make_certificates
from undercroft.config import Listener as Settings
from undercroft.errors import InvalidRequest
from undercroft.http.limits import CONNECTIONS_MAX, Usage
from undercroft.http.listener import server_context

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(name="made")
def made_fixture(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture(name="edge")
def edge_fixture(made: Certificates) -> Iterator[Edge]:
    with serving(Tiny(), **files(made)) as edge:
        yield edge


def files(made: Certificates) -> dict[str, str]:
    return {"tls_cert_file": str(made.certificate), "tls_key_file": str(made.key)}


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def served_certificate(edge: Edge) -> bytes:
    with trusting().wrap_socket(edge.connect()) as sock:
        sock.sendall(GET)
        assert answer(sock)[0] == 200
        return sock.getpeercert(binary_form=True) or b""


def der(made: Certificates) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.certificate.read_text())


# versions


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_12_and_13_are_spoken(edge: Edge, version: ssl.TLSVersion) -> None:
    context = trusting()
    context.minimum_version = context.maximum_version = version
    with context.wrap_socket(edge.connect()) as sock:
        sock.sendall(GET)
        assert answer(sock)[0] == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_tls_is_refused(edge: Edge, version: ssl.TLSVersion) -> None:
    context = trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")  # else the client would not even offer it
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError, match=r"EOF|PROTOCOL_VERSION"):
        context.wrap_socket(edge.connect())


def test_a_listener_may_ask_for_tls_13(made: Certificates) -> None:
    with serving(Tiny(), tls_min_version="tls13", **files(made)) as edge:
        context = trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match=r"EOF|PROTOCOL_VERSION"):
            context.wrap_socket(edge.connect())


def test_threat_http_04_a_half_handshake_takes_no_place_and_ends_in_time(
    made: Certificates,
) -> None:
    usage = Usage()
    served = serving(Tiny(), usage, http_read_header_timeout=0.2, **files(made))
    with served as edge, edge.connect() as half:
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        half.settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert half.recv(100) == b""
        assert usage.connections == 0


def test_threat_http_04_plain_text_and_half_handshakes_do_not_stop_the_listener(
    edge: Edge, made: Certificates
) -> None:
    half = edge.connect()
    half.sendall(b"\x16\x03\x01\x02\x00\x01")
    with edge.connect() as plain:
        plain.sendall(GET)
        plain.settimeout(10)
        assert b"HTTP/" not in plain.recv(100)
    with edge.connect() as reset:
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert served_certificate(edge) == der(made)
    half.close()


# certificates


def test_new_certificates_are_taken_at_a_reload(edge: Edge, made: Certificates) -> None:
    old = der(made)
    new = make_certificates(made.ca.parent)
    assert served_certificate(edge) == old
    edge.call(edge.listener.reload)
    assert served_certificate(edge) == der(new) != old


def test_a_certificate_with_another_kind_of_key_replaces_the_old_one(
    made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL holds one certificate of each kind of key: a stale one must not stay beside."""
    monkeypatch.setattr(
        maker.ec, "generate_private_key", lambda _: rsa.generate_private_key(65537, 2048)
    )
    make_certificates(made.ca.parent)
    monkeypatch.undo()
    with serving(Tiny(), **files(made)) as edge:
        first = der(made)
        new = make_certificates(made.ca.parent)
        edge.call(edge.listener.reload)
        only_rsa = trusting()
        only_rsa.maximum_version = ssl.TLSVersion.TLSv1_2
        only_rsa.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        assert served_certificate(edge) == der(new) != first
        with pytest.raises(ssl.SSLError):
            only_rsa.wrap_socket(edge.connect())


@pytest.mark.parametrize("bad", ["garbage", "missing", "another key"])
def test_bad_certificates_at_a_reload_leave_the_old_ones(
    edge: Edge, made: Certificates, tmp_path: Path, bad: str
) -> None:
    old = der(made)
    if bad == "garbage":
        made.certificate.write_text("garbage")
    elif bad == "missing":
        made.key.unlink()
    else:
        (tmp_path / "other").mkdir()
        other = make_certificates(tmp_path / "other")
        made.certificate.write_bytes(other.certificate.read_bytes())
    edge.call(edge.listener.reload)
    assert served_certificate(edge) == old


def test_a_connection_outlives_a_reload(edge: Edge, made: Certificates) -> None:
    with trusting().wrap_socket(edge.connect()) as sock:
        make_certificates(made.ca.parent)
        edge.call(edge.listener.reload)
        sock.sendall(GET)
        assert answer(sock)[0] == 200


def test_a_listener_with_bad_files_does_not_start_and_names_them_only(tmp_path: Path) -> None:
    settings = Settings(tls_cert_file=str(tmp_path / "no"), tls_key_file=str(tmp_path / "no"))
    with pytest.raises(InvalidRequest) as caught:
        server_context(settings)
    assert caught.value.message == "cannot load tls_cert_file and tls_key_file"
    assert str(tmp_path) not in caught.value.hint


# client certificates


def test_a_client_certificate_is_required_when_the_listener_says_so(
    made: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = make_certificates(tmp_path / "other")
    known = client_certificate(tmp_path)
    with serving(
        Tiny(),
        tls_client_ca_file=str(known),
        tls_require_and_verify_client_cert=True,
        **files(made),
    ) as edge:
        for chain in (None, stranger):
            context = trusting()
            if chain is not None:
                context.load_cert_chain(chain.certificate, chain.key)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                exchange(context, edge)
        context = trusting()
        context.load_cert_chain(known)
        assert exchange(context, edge) == 1


def test_the_cas_of_clients_are_read_again_at_a_reload(made: Certificates, tmp_path: Path) -> None:
    known = client_certificate(tmp_path)
    context = trusting()
    context.load_cert_chain(known)
    ca = {"tls_client_ca_file": str(known), "tls_require_and_verify_client_cert": True}
    with serving(Tiny(), **ca, **files(made)) as edge:
        assert exchange(context, edge) == 1
        client_certificate(tmp_path)
        edge.call(edge.listener.reload)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            exchange(context, edge)
        renewed = trusting()
        renewed.load_cert_chain(known)
        assert exchange(renewed, edge) == 1


def client_certificate(directory: Path) -> Path:
    """A certificate that is its own CA, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = directory / "client.pem"
    file.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


def exchange(context: ssl.SSLContext, edge: Edge) -> int:
    with context.wrap_socket(edge.connect()) as sock:
        sock.sendall(GET)  # in TLS 1.3 a client hears of the refusal only when it reads
        if not (first := sock.recv(1)):
            raise ConnectionError("ended without an answer")
        return len(first)


def test_client_certificates_without_their_ca_do_not_start(
    made: Certificates, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="tls_client_ca_file"):
        server_context(
            Settings(
                tls_require_and_verify_client_cert=True,
                tls_client_ca_file=str(tmp_path / "no"),
                **files(made),
            )
        )


# proxies


def forwarded(edge: Edge, *lines: bytes) -> tuple[int, bytes]:
    with edge.connect() as client:
        client.sendall(b"\r\n".join([GET[:-4], *lines]) + b"\r\n\r\n")
        status, _, body = answer(client)
        return status, body


def test_a_proxy_names_the_client_and_its_line_comes_last() -> None:
    app = Tiny()
    with serving(app, x_forwarded_for_authorized_addrs=["127.0.0.1"]) as edge:
        lines = (b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: 203.0.113.9")
        assert forwarded(edge, *lines)[0] == 200
        status, body = forwarded(edge)
        assert status == 400
        assert list(json.loads(body)) == ["errors"]
    assert [request.peer[0] for request in app.requests] == ["203.0.113.9"]


def test_without_proxies_the_header_means_nothing() -> None:
    app = Tiny()
    with serving(app) as edge:
        assert forwarded(edge, b"X-Forwarded-For: 6.6.6.6")[0] == 200
    assert app.requests[0].peer[0] == "127.0.0.1"


# numbers


def test_one_connection_too_many_is_503_and_the_next_after_one_ends_is_served() -> None:
    usage = Usage()
    with serving(Tiny(), usage) as edge, edge.connect() as held:
        held.sendall(GET)
        answer(held)
        usage.connections += CONNECTIONS_MAX - 1
        with edge.connect() as client:
            status, headers, body = answer(client)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert body == b'{"errors":["too many connections"]}\n'
            assert client.recv(1) == b""
        usage.connections -= 1
        with edge.connect() as client:
            client.sendall(GET)
            assert answer(client)[0] == 200


def test_one_connection_that_cannot_be_swept_is_ended_and_others_still_have_limits() -> None:
    with (
        serving(Tiny(), http_read_header_timeout=0.1) as edge,
        edge.connect() as broken,
        edge.connect() as slow,
    ):
        for client in (broken, slow):
            client.sendall(GET)
            answer(client)
        connections = edge.call(lambda: list(edge.listener._connections))
        port = broken.getsockname()[1]
        (first,) = [c for c in connections if c._peer[1] == port]
        edge.call(setattr, first, "since", None)
        slow.sendall(GET[:5])
        assert until_closed(slow).startswith(b"HTTP/1.1 408 ")
        with contextlib.suppress(ConnectionResetError):
            assert broken.recv(1) == b""


def test_connections_are_counted_until_they_end() -> None:
    usage = Usage()
    with serving(Tiny(), usage) as edge:
        with edge.connect() as client:
            client.sendall(GET[:-4] + b"\r\nConnection: close\r\n\r\n")
            until_closed(client)
        edge.call(edge.listener.drain, 5)
    assert usage.connections == 0
