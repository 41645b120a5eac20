"""The certificate authority of a replication set's primary, and what it issues.

Made when a cluster becomes primary; its key never leaves the cluster. The cluster port speaks TLS
1.3 with a certificate on both sides, none but this authority's are believed, and the name of a
secondary is what its certificate says. A certificate also carries the ticket of the activation it
was issued for: revoking the activation ends every certificate of it, whatever they live.
"""

import datetime
import os
import ssl
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from undercroft.errors import UndercroftError
from undercroft.replication.protocol.frames import ALPN
from undercroft.replication.role import Credentials
from undercroft.storage.keys import OWN, SYSTEM, key
from undercroft.storage.view import Snapshot, Transaction

AUTHORITY_KEY: Final = key(OWN, SYSTEM, "replication/performance/authority")

AUTHORITY_DAYS: Final = 3650
# Revoking goes by the ticket, not by waiting: so long that a cluster may be cut off for weeks and
# still tell an old primary that its epoch is over.
CERTIFICATE_HOURS: Final = 24 * 90
ID_CHARS_MAX: Final = 128  # of a secondary
_CURVE: Final = ec.SECP256R1()
# Clocks of clusters may be an hour apart, and nobody is to be locked out by that.
_BACKDATED: Final = datetime.timedelta(hours=1, minutes=5)
_RENEWED_AFTER: Final = 2 / 3  # of its life

# What a certificate or a key from outside can raise, each part of it when it is first looked at.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    LookupError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


class Distrusted(UndercroftError):
    """A certificate that this authority has not issued, or not for this use."""


class Authority(msgspec.Struct, frozen=True):
    """DER; the key is PKCS8."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "<Authority>"


class Named(msgspec.Struct, frozen=True):
    """Whom a certificate names: a secondary, and the ticket of its activation."""

    secondary_id: str
    ticket: str


def read_authority(view: Snapshot) -> Authority | None:
    return view.read(AUTHORITY_KEY, Authority)


def write_authority(tx: Transaction, authority: Authority) -> None:
    tx.put(AUTHORITY_KEY, msgspec.msgpack.encode(authority))


def forget(tx: Transaction) -> None:
    if tx.exists(AUTHORITY_KEY):
        tx.delete(AUTHORITY_KEY)


def make_authority(set_id: str, now_ms: int) -> Authority:
    """A new authority, with a name of its own: after a promotion there are two in a set."""
    private = ec.generate_private_key(_CURVE)
    name = _name(f"replication {set_id} {os.urandom(4).hex()}")
    certificate = (
        _builder(name, name, private.public_key(), now_ms, hours=24 * AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    return Authority(_der(certificate), key_der(private))


def new_key() -> tuple[bytes, bytes]:
    """Private (PKCS8) and public (SubjectPublicKeyInfo) key, DER."""
    private = ec.generate_private_key(_CURVE)
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key_der(private), public


def key_der(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),  # the barrier encrypts it
    )


def issue_client(authority: Authority, named: Named, public_key: bytes, now_ms: int) -> bytes:
    """A secondary's certificate. Raises Distrusted for a public key that is none."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, named.secondary_id[:64]),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, named.ticket),
        ]
    )
    alternative = x509.SubjectAlternativeName([x509.OtherName(_ID_OID, _utf8(named.secondary_id))])
    return _issue(
        authority, name, _public(public_key), now_ms, ExtendedKeyUsageOID.CLIENT_AUTH, alternative
    )


def issue_server(authority: Authority, set_id: str, public_key: bytes, now_ms: int) -> bytes:
    """The primary's own certificate."""
    name = _name(server_name(set_id))
    alternative = x509.SubjectAlternativeName([x509.DNSName(server_name(set_id))])
    return _issue(
        authority, name, _public(public_key), now_ms, ExtendedKeyUsageOID.SERVER_AUTH, alternative
    )


def server_name(set_id: str) -> str:
    """What a secondary expects the primary's certificate to say."""
    return f"primary.{set_id}.undercroft"


def renewal_due(certificate: bytes, now_ms: int) -> bool:
    parsed = x509.load_der_x509_certificate(certificate)
    begins, ends = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    return _moment(now_ms) >= begins + (ends - begins) * _RENEWED_AFTER


def fingerprint(certificate: bytes) -> str:
    return x509.load_der_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def named_by(certificate: bytes) -> Named:
    """Whom a secondary's certificate names. Raises Distrusted."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        units = parsed.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        other = next(n for n in names if isinstance(n, x509.OtherName) and n.type_id == _ID_OID)
        return Named(_text_of(other.value), str(units[0].value))
    except (*_UNREADABLE, StopIteration):
        raise Distrusted("a certificate that names no secondary") from None


def check_issued(certificate: bytes, authority: bytes) -> None:
    """Whether it is this authority's, for a client; expired or not. Raises Distrusted."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        parsed.verify_directly_issued_by(x509.load_der_x509_certificate(authority))
        uses = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (*_UNREADABLE, InvalidSignature):
        raise Distrusted("a certificate of another authority") from None
    if ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise Distrusted("a certificate for another use")


def server_context(authority: Authority, certificate: bytes, key: bytes) -> ssl.SSLContext:
    """The cluster port's: TLS 1.3, a certificate of ours demanded, nothing resumed (R-06)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    return _strict(context, authority.certificate, certificate, key)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """A secondary's; connect with `server_name(set_id)` as the host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    return _strict(context, credentials.authority, credentials.certificate, credentials.key)


def _strict(
    context: ssl.SSLContext, authority: bytes, certificate: bytes, key: bytes
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(cadata=authority)
    load_pem(context, ssl.DER_cert_to_PEM_cert(certificate) + _key_pem(key).decode())
    return context


def load_pem(context: ssl.SSLContext, pem: str) -> None:
    """Certificate and key of this side; `ssl` takes them from files only. Raises SSLError.

    A key under a pass phrase is refused as well.
    """
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)  # a file, but on no disk
    try:
        os.write(descriptor, pem.encode())
        # Without a password the library would ask the terminal for one, and wait.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    finally:
        os.close(descriptor)


_ID_OID: Final = x509.ObjectIdentifier("2.25.113059749145936325402354257176981405696")


def _utf8(text: str) -> bytes:
    """DER UTF8String; ids have at most 128 characters, and those are ASCII."""
    raw = text.encode()
    if len(raw) > 127:
        return b"\x0c\x81" + bytes((len(raw),)) + raw
    return b"\x0c" + bytes((len(raw),)) + raw


def _text_of(der: bytes) -> str:
    """What `_utf8` encoded. Raises ValueError."""
    text = der[3 if der[1:2] == b"\x81" else 2 :].decode()
    if _utf8(text[:ID_CHARS_MAX]) != der:
        raise ValueError("no UTF8String of an id")
    return text


def _key_pem(der: bytes) -> bytes:
    return serialization.load_der_private_key(der, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public(der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        public = serialization.load_der_public_key(der)
    except _UNREADABLE:
        raise Distrusted("a public key that does not parse") from None
    # A secondary chooses its key: it must not be weaker than what the authority itself uses.
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != _CURVE.name:
        raise Distrusted("a public key of another kind")
    return public


def _issue(
    authority: Authority,
    name: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now_ms: int,
    use: x509.ObjectIdentifier,
    alternative: x509.SubjectAlternativeName,
) -> bytes:
    issuer = x509.load_der_x509_certificate(authority.certificate)
    private = serialization.load_der_private_key(authority.key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey), "only such keys are stored here"
    certificate = (
        _builder(name, issuer.subject, public, now_ms, hours=CERTIFICATE_HOURS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
        .add_extension(alternative, critical=False)
        .sign(private, hashes.SHA256())
    )
    return _der(certificate)


def _builder(
    name: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now_ms: int,
    *,
    hours: int,
) -> x509.CertificateBuilder:
    begins = _moment(now_ms) - _BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(_moment(now_ms) + datetime.timedelta(hours=hours))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _moment(now_ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
