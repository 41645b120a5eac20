"""How a cluster that joins believes the primary's API: ca_file, ca_path, ca_cert, client_*_pem."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.replication.clusters import AT, claims_of, errors, ok, token_for
from tests.replication.pair import log_in, prepare, status
from tests.support.undercroft import Client, disk_server, free_port, until
from undercroft.cli.certificates import make_certificates


def a_certificate(directory: Path) -> tuple[str, str]:
    """Of a client, signed by itself; as text, certificate and key. Also in `client.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "joining")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(serialization.Encoding.PEM).decode()
    (directory / "client.pem").write_text(certificate)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate, private.decode()


class Far:
    """A primary with an API in clear, and one in TLS that may ask for a client's certificate."""

    def __init__(self, client: Client, address: str, directory: Path) -> None:
        self.client, self.address, self.directory = client, address, directory

    def join(self, joining: Client, **trust: str) -> int:
        """The status of secondary/enable; what went wrong is in `said`."""
        self.client.request("POST", f"{AT}/primary/revoke-secondary", {"id": "osaka"})
        body = {"token": token_for(self.client, "osaka"), "primary_api_addr": self.address}
        answer = joining.request("POST", f"{AT}/secondary/enable", {**body, **trust})
        self.said = errors(answer)
        return answer.status


def tls(directory: Path, more: str) -> tuple[str, str]:
    """A listener's stanza and its address."""
    made, port = make_certificates(directory), free_port()
    return (
        f"""
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{free_port()}"
  tls_cert_file   = "{made.certificate}"
  tls_key_file    = "{made.key}"
  {more}
}}
""",
        f"https://127.0.0.1:{port}",
    )


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    directory = tmp_path_factory.mktemp("far")
    stanza, address = tls(directory, "")
    with disk_server(directory, stanza) as server:
        ok(server.client, "primary/enable")
        yield Far(server.client, address, directory)


@pytest.fixture
def joining(disabled: Client) -> Iterator[Client]:
    yield disabled
    if status(disabled)["mode"] == "bootstrapping":
        ok(disabled, "secondary/disable")


def test_a_file_a_directory_or_text_will_do(far: Far, tmp_path: Path) -> None:
    (tmp_path / "some-name.pem").write_text((far.directory / "ca.pem").read_text())
    for number, trust in enumerate(
        (
            {"ca_file": str(far.directory / "ca.pem")},
            {"ca_path": str(tmp_path)},
            {"ca_cert": (far.directory / "ca.pem").read_text()},
        )
    ):
        (tmp_path / str(number)).mkdir()
        with disk_server(tmp_path / str(number)) as server:
            assert far.join(server.client, **trust) == 200, (trust, far.said)
            until(lambda at=server.client: status(at).get("state") == "stream-wals", server)


def test_without_any_the_systems_roots_decide(far: Far, joining: Client) -> None:
    assert far.join(joining) == 503
    assert "not trusted" in far.said
    assert "Undercroft development CA" in far.said


def test_another_ca_is_not_enough(far: Far, joining: Client, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    for trust in ({"ca_file": str(tmp_path / "ca.pem")}, {"ca_path": str(tmp_path)}):
        assert far.join(joining, **trust) == 503
        assert "not trusted" in far.said


def test_a_directory_without_a_certificate_is_refused(
    far: Far, joining: Client, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert far.join(joining, ca_path=str(tmp_path)) == 400
    assert "ca_path" in far.said


def test_a_listener_that_demands_a_clients_certificate_gets_one(tmp_path: Path) -> None:
    certificate, key = a_certificate(tmp_path)
    demands = (
        f'tls_client_ca_file = "{tmp_path / "client.pem"}"\n'
        "  tls_require_and_verify_client_cert = true"
    )
    stanza, address = tls(tmp_path, demands)
    for name in ("p", "s"):
        (tmp_path / name).mkdir()
    with disk_server(tmp_path / "p", stanza) as p, disk_server(tmp_path / "s") as s:
        ok(p.client, "primary/enable")
        far = Far(p.client, address, tmp_path)
        trust = {"ca_file": str(tmp_path / "ca.pem")}
        assert far.join(s.client, **trust) == 503
        trust |= {"client_cert_pem": certificate, "client_key_pem": key}
        assert far.join(s.client, **trust) == 200, far.said
        until(lambda: status(s.client).get("state") == "stream-wals", s)


def test_neither_side_writes_down_what_lets_a_cluster_in(tmp_path: Path) -> None:
    """Neither the tokens nor what they bring, in audit or log of either."""
    for name in ("p", "s"):
        (tmp_path / name).mkdir()
    audits = [tmp_path / name / "audit.log" for name in ("p", "s")]
    devices = [f'audit "file" "main" {{ options {{ file_path = "{path}" }} }}' for path in audits]
    with (
        disk_server(tmp_path / "p", devices[0]) as p,
        disk_server(tmp_path / "s", devices[1]) as s,
    ):
        prepare(p.client)
        ok(p.client, "primary/enable")
        token = token_for(p.client, "osaka")
        ok(s.client, "secondary/enable", {"token": token})
        until(lambda: status(s.client).get("state") == "stream-wals", s)
        log_in(s.client)
        key = ok(s.client, "secondary/generate-public-key")["data"]["secondary_public_key"]
        body = {"id": "perth", "secondary_public_key": key}
        sealed = ok(p.client, "primary/secondary-token", body)["data"]["token"]
        ok(s.client, "secondary/update-primary", {"token": sealed})
        stolen = token_for(p.client, "hobart")
        brought = p.client.request("POST", "sys/wrapping/unwrap", token=stolen).body["data"]

        written = "".join(path.read_text() for path in (*audits, p.log, s.log))
        for path in ("secondary-token", "secondary/enable", "update-primary", "wrapping/unwrap"):
            assert path in written
        secrets = [sealed, sealed[5:], brought["client_key"], brought["client_cert"][40:80]]
        for text in (token, stolen):
            secrets += [*text.split(".")[1:], claims_of(text)["jti"]]
        for secret in secrets:
            assert secret not in written
