"""A claim: the signed word that an epoch was opened. It fences a primary whose epoch is over.

Fencing must not be a switch in the hands of one compromised region, so a claim counts only when it
is signed with the key of a certificate that this very primary issued, to an id that is neither
revoked, nor filtered, nor unpromotable, and when its lineage goes on from ours
(docs/decisions/0010-replication.md). Anybody may carry it: what proves it is in it.
"""

from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from undercroft.errors import InvalidRequest
from undercroft.replication import authority
from undercroft.replication.activation import ACTIVE, Secondary
from undercroft.replication.lineage import Lineage
from undercroft.replication.role import Credentials

CHAIN_MAX: Final = 16  # promotions that a returning primary may have missed
CLAIM_BYTES_MAX: Final = 1 << 20  # thousands of epochs; it is kept in the role, which is read often
# The number of an epoch has 64 bits, and overruling a claim takes a higher one: it must exist.
EPOCHS_AHEAD_MAX: Final = 1 << 20


class ClaimRefused(InvalidRequest):
    """The claim does not count; the message says why."""


class Claim(msgspec.Struct, frozen=True):
    """Who opened which epoch, and where it is reached. `authority`: its new CA certificate."""

    set_id: str
    lineage: Lineage
    secondary_id: str  # for messages: the certificate decides
    api_addr: str
    cluster_addr: str
    authority: bytes
    opened_ms: int


class SignedClaim(msgspec.Struct, frozen=True):
    """`claim` is MessagePack of a Claim; ECDSA with SHA-256 by the certificate's key."""

    claim: bytes
    signature: bytes
    certificate: bytes
    # The claims before it, oldest first: each names the authority that issued the next one's
    # certificate, so that a primary several epochs back can follow.
    before: "tuple[SignedClaim, ...]" = ()


def sign(claim: Claim, credentials: Credentials, after: SignedClaim | None = None) -> SignedClaim:
    """`after` is the claim of the primary that issued the credentials, if it has one."""
    before = () if after is None else (*after.before, msgspec.structs.replace(after, before=()))
    private = serialization.load_der_private_key(credentials.key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey), "only such keys are issued"
    body = msgspec.msgpack.encode(claim)
    signature = private.sign(body, ec.ECDSA(hashes.SHA256()))
    return SignedClaim(body, signature, credentials.certificate, before[-CHAIN_MAX:])


def decode(raw: bytes) -> SignedClaim:
    """Raises ClaimRefused."""
    if len(raw) > CLAIM_BYTES_MAX:
        raise ClaimRefused("it is too large")
    try:
        return msgspec.msgpack.decode(raw, type=SignedClaim)
    except msgspec.MsgspecError:
        raise ClaimRefused("it does not parse") from None


def claimant_of(signed: SignedClaim) -> str:
    """The id in its certificate. Raises Distrusted."""
    return authority.named_by(signed.certificate).secondary_id


def verify(
    signed: SignedClaim,
    issuer: bytes,
    known: Lineage,
    secondary: Secondary | None,
    *,
    filtered: bool,
    now_ms: int,
) -> Claim:
    """The claim, if it counts against a primary with authority `issuer` and lineage `known`.

    One that goes on from the claim of a secondary of ours counts like that secondary's own.

    `secondary`: what the registry has under the id of the certificate. An expired certificate is
    good enough: the claimant may have been cut off for weeks. Raises ClaimRefused, Distrusted.
    """
    links = _links(signed, issuer)
    claim = _first(links[0], secondary, filtered=filtered)
    for link in links[1:]:
        authority.check_issued(link.certificate, claim.authority)
        following = _signed_by_its_certificate(link)
        if not following.lineage.descends_from(claim.lineage):
            raise ClaimRefused("its epoch does not go on from that of the claim before")
        claim = following
    if claim.set_id != known.set_id:
        raise ClaimRefused("it is of another replication set")
    if not claim.lineage.beats(known):
        raise ClaimRefused("its epoch does not go on from ours, or is no newer")
    if claim.lineage.current.number > known.current.number + EPOCHS_AHEAD_MAX:
        raise ClaimRefused("its epoch is too far ahead of ours")
    return claim


def _links(signed: SignedClaim, issuer: bytes) -> tuple[SignedClaim, ...]:
    """From the first claim on that a secondary of ours made. Raises Distrusted."""
    links = (*signed.before[-CHAIN_MAX:], signed)
    for index, link in enumerate(links):
        try:
            authority.check_issued(link.certificate, issuer)
        except authority.Distrusted:
            continue
        return links[index:]
    raise authority.Distrusted("a certificate of another authority")


def secondary_of(signed: SignedClaim, issuer: bytes) -> str:
    """The id of our secondary by whose word the claim counts. Raises Distrusted."""
    return claimant_of(_links(signed, issuer)[0])


def _first(signed: SignedClaim, secondary: Secondary | None, *, filtered: bool) -> Claim:
    named = authority.named_by(signed.certificate)
    if secondary is None or (secondary.id, secondary.ticket) != (named.secondary_id, named.ticket):
        raise ClaimRefused(f"'{named.secondary_id}' is revoked or was never activated")
    if secondary.state != ACTIVE:  # it has nothing of our data: a stolen token must not fence us
        raise ClaimRefused(f"'{named.secondary_id}' was never activated")
    if not secondary.promotable:
        raise ClaimRefused(f"'{named.secondary_id}' may not be promoted")
    if filtered:
        raise ClaimRefused(f"'{named.secondary_id}' has a path filter: it lacks data")
    return _signed_by_its_certificate(signed)


def _signed_by_its_certificate(signed: SignedClaim) -> Claim:
    public = x509.load_der_x509_certificate(signed.certificate).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey), "only such keys are certified"
    try:
        public.verify(signed.signature, signed.claim, ec.ECDSA(hashes.SHA256()))
        return msgspec.msgpack.decode(signed.claim, type=Claim)
    except InvalidSignature:
        raise ClaimRefused("its signature is wrong") from None
    except msgspec.MsgspecError:
        raise ClaimRefused("it does not parse") from None
