"""The replication authority: what it issues, whom it believes, when certificates are renewed."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.unit.replication.cluster import DAY_MS, NOW_MS, Cluster
from tests.unit.replication.handshake import SET_ID, TICKET, client_of, server_of
from undercroft.replication import authority
from undercroft.replication.authority import Distrusted, Named, make_authority

NOW = datetime.datetime.fromtimestamp(NOW_MS / 1000, datetime.UTC)
DER = serialization.Encoding.DER
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def uses_of(certificate: bytes) -> list[x509.ObjectIdentifier]:
    parsed = x509.load_der_x509_certificate(certificate)
    return list(parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


# the authority itself


def test_an_authority_signs_certificates_with_p256_and_sha256_for_ten_years() -> None:
    made = x509.load_der_x509_certificate(make_authority(SET_ID, NOW_MS).certificate)
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert isinstance(made.signature_hash_algorithm, hashes.SHA256)
    basic = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert made.not_valid_after_utc - NOW == datetime.timedelta(days=3650)


def test_the_authority_before_and_the_one_after_a_promotion_have_different_names() -> None:
    one, other = (
        x509.load_der_x509_certificate(make_authority(SET_ID, NOW_MS).certificate) for _ in range(2)
    )
    assert one.subject != other.subject
    assert SET_ID in one.subject.rfc4514_string()


def test_an_authority_is_kept_in_the_store_until_it_is_forgotten(cluster: Cluster) -> None:
    made = make_authority(SET_ID, NOW_MS)
    with cluster.view() as view:
        assert authority.read_authority(view) is None
    with cluster.change() as tx:
        authority.write_authority(tx, made)
    with cluster.view() as view:
        assert authority.read_authority(view) == made
    for _ in range(2):  # also where there is none
        with cluster.change() as tx:
            authority.forget(tx)
    with cluster.view() as view:
        assert authority.read_authority(view) is None


def test_neither_an_authority_nor_credentials_print_their_key() -> None:
    made = make_authority(SET_ID, NOW_MS)
    credentials = client_of(made, NOW_MS)
    for shown in (repr(made), str(made), f"{credentials!r}", repr([credentials])):
        assert len(shown) < 40, shown
        assert "key" not in shown


# what it issues


def test_a_secondarys_certificate_names_it_and_the_ticket_of_its_activation() -> None:
    certificate = client_of(make_authority(SET_ID, NOW_MS), NOW_MS).certificate
    assert authority.named_by(certificate) == Named("osaka", TICKET)
    assert uses_of(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("length", [1, 64, 65, 126, 127, 128])
def test_an_id_of_any_length_that_may_be_issued_is_read_back_whole(length: int) -> None:
    secondary_id = "x" * (length - 1) + "y"
    made = make_authority(SET_ID, NOW_MS)
    certificate = client_of(made, NOW_MS, secondary_id).certificate
    assert authority.named_by(certificate).secondary_id == secondary_id


def test_the_primarys_certificate_has_the_name_that_secondaries_expect_of_it() -> None:
    certificate = server_of(make_authority(SET_ID, NOW_MS), NOW_MS).certificate
    parsed = x509.load_der_x509_certificate(certificate)
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"primary.{SET_ID}.undercroft"]
    assert uses_of(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_certificates_live_90_days_and_begin_more_than_an_hour_back() -> None:
    made = make_authority(SET_ID, NOW_MS)
    for certificate in (client_of(made, NOW_MS).certificate, server_of(made, NOW_MS).certificate):
        parsed = x509.load_der_x509_certificate(certificate)
        assert parsed.not_valid_after_utc - NOW == datetime.timedelta(days=90)
        assert NOW - parsed.not_valid_before_utc > datetime.timedelta(hours=1)
        basic = parsed.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca) == (True, False)


def test_no_two_certificates_have_one_serial_number_or_one_fingerprint() -> None:
    made = make_authority(SET_ID, NOW_MS)
    _, public = authority.new_key()
    issued = [authority.issue_server(made, SET_ID, public, NOW_MS) for _ in range(8)]
    assert len({x509.load_der_x509_certificate(c).serial_number for c in issued}) == 8
    assert len({authority.fingerprint(c) for c in issued}) == 8


def test_a_fingerprint_is_sha256_of_the_certificate_in_hex() -> None:
    certificate = make_authority(SET_ID, NOW_MS).certificate
    digest = hashes.Hash(hashes.SHA256())
    digest.update(certificate)
    assert authority.fingerprint(certificate) == digest.finalize().hex()


def _spki(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return public.public_bytes(DER, SPKI)


_P256 = _spki(ec.generate_private_key(ec.SECP256R1()).public_key())
_UNFIT = {
    "nothing": b"",
    "no DER": b"no key",
    "cut short": _P256[:-1],
    "an algorithm nobody knows": _P256.replace(b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a" * 7),
    "a curve nobody knows": _P256.replace(b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a" * 8),
    "RSA": _spki(rsa.generate_private_key(65537, 2048).public_key()),
    "Ed25519": _spki(ed25519.Ed25519PrivateKey.generate().public_key()),
    "another curve": _spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "the private key": authority.new_key()[0],
}


@pytest.mark.parametrize("public", _UNFIT.values(), ids=_UNFIT)
def test_nothing_is_issued_for_what_is_no_p256_key(public: bytes) -> None:
    made = make_authority(SET_ID, NOW_MS)
    with pytest.raises(Distrusted):
        authority.issue_client(made, Named("osaka", TICKET), public, NOW_MS)


# renewal


@pytest.mark.parametrize(
    ("days", "due"), [(-1, False), (0, False), (59, False), (60, True), (89, True), (1000, True)]
)
def test_renewal_is_due_after_two_thirds_of_a_certificates_life(days: int, due: bool) -> None:
    # From its beginning, which lies an hour and 5 minutes back.
    certificate = client_of(make_authority(SET_ID, NOW_MS), NOW_MS).certificate
    assert authority.renewal_due(certificate, NOW_MS + days * DAY_MS) is due


def test_renewal_begins_a_day_before_the_end() -> None:
    certificate = client_of(make_authority(SET_ID, NOW_MS), NOW_MS).certificate
    assert authority.renewal_due(certificate, NOW_MS + 90 * DAY_MS - DAY_MS)


# whom it believes


def test_an_authority_believes_what_it_issued_to_a_secondary_even_when_it_has_expired() -> None:
    made = make_authority(SET_ID, NOW_MS)
    authority.check_issued(client_of(made, NOW_MS - 300 * DAY_MS).certificate, made.certificate)


def test_an_authority_does_not_believe_anothers_certificate_not_even_of_the_same_set() -> None:
    made, other = make_authority(SET_ID, NOW_MS), make_authority(SET_ID, NOW_MS)
    with pytest.raises(Distrusted):
        authority.check_issued(client_of(other, NOW_MS).certificate, made.certificate)


def test_an_authority_that_takes_the_name_of_another_is_found_out_by_its_signature() -> None:
    made = make_authority(SET_ID, NOW_MS)
    impostor = authority.Authority(made.certificate, authority.new_key()[0])
    with pytest.raises(Distrusted):
        authority.check_issued(client_of(impostor, NOW_MS).certificate, made.certificate)


def test_the_primarys_own_certificate_is_none_of_a_secondary() -> None:
    made = make_authority(SET_ID, NOW_MS)
    with pytest.raises(Distrusted):
        authority.check_issued(server_of(made, NOW_MS).certificate, made.certificate)
    with pytest.raises(Distrusted):
        authority.named_by(server_of(made, NOW_MS).certificate)


def test_the_authority_is_no_secondary_either() -> None:
    made = make_authority(SET_ID, NOW_MS)
    with pytest.raises(Distrusted):
        authority.check_issued(made.certificate, made.certificate)
    with pytest.raises(Distrusted):
        authority.named_by(made.certificate)


@pytest.mark.parametrize("noise", [b"", b"\x30", b"\x30\x80\x00\x00", b"certificate", bytes(500)])
def test_what_is_no_certificate_is_distrusted(noise: bytes) -> None:
    made = make_authority(SET_ID, NOW_MS)
    with pytest.raises(Distrusted):
        authority.named_by(noise)
    with pytest.raises(Distrusted):
        authority.check_issued(noise, made.certificate)


@pytest.mark.filterwarnings("ignore:Parsed a")  # one below 1
def test_a_certificate_changed_in_any_signed_byte_is_distrusted() -> None:
    made = make_authority(SET_ID, NOW_MS)
    good = client_of(made, NOW_MS).certificate
    authority.check_issued(good, made.certificate)
    signed = x509.load_der_x509_certificate(good).tbs_certificate_bytes
    begin = good.index(signed)
    for at in range(begin, begin + len(signed)):
        bad = bytearray(good)
        bad[at] ^= 0x01
        with pytest.raises(Distrusted):
            authority.check_issued(bytes(bad), made.certificate)


# A serial number below 1: the library warns that it will refuse it one day.
@pytest.mark.filterwarnings("ignore:Parsed a")
def test_reading_the_name_in_a_hostile_certificate_raises_nothing_but_distrusted() -> None:
    """A claim brings its certificate from anywhere: the id is read before it is verified."""
    good = client_of(make_authority(SET_ID, NOW_MS), NOW_MS).certificate
    for at in range(len(good)):
        for flip in (0x01, 0x80):
            bad = bytearray(good)
            bad[at] ^= flip
            try:
                authority.named_by(bytes(bad))
            except Distrusted:
                continue


def test_an_extension_that_comes_twice_is_distrusted() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "twice")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(days=1))
    )
    for last in (5, 6):
        oid = x509.ObjectIdentifier(f"1.2.3.4.{last}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"x"), critical=False)
    der = builder.sign(private, hashes.SHA256()).public_bytes(DER)
    twice = der.replace(b"\x06\x04\x2a\x03\x04\x06", b"\x06\x04\x2a\x03\x04\x05")
    assert twice != der
    with pytest.raises(Distrusted):
        authority.named_by(twice)
