"""Which claims fence a primary, and which do not: fencing is no switch in one region's hands."""

from typing import NamedTuple

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.replication.cluster import DAY_MS, NOW_MS
from tests.unit.replication.handshake import SET_ID, TICKET, client_of, server_of
from undercroft.errors import UndercroftError
from undercroft.replication import authority, claims
from undercroft.replication.activation import ACTIVE, ISSUED, Secondary
from undercroft.replication.authority import Authority, Distrusted, make_authority
from undercroft.replication.claims import Claim, ClaimRefused, SignedClaim
from undercroft.replication.lineage import Epoch, Lineage, founded
from undercroft.replication.role import Credentials
from undercroft.storage.wal import START, Position

OLD = make_authority(SET_ID, NOW_MS)
KNOWN = founded(START, SET_ID, "lisbon", NOW_MS, b"epoch--1")
TIP = Position(1, 90, b"\x11" * 32)
NEWER = KNOWN.opened(TIP, "osaka", NOW_MS, b"epoch--2")


def claim_of(lineage: Lineage = NEWER, secondary_id: str = "osaka", set_id: str = SET_ID) -> Claim:
    return Claim(
        set_id=set_id,
        lineage=lineage,
        secondary_id=secondary_id,
        api_addr="https://osaka:8200",
        cluster_addr="osaka:8201",
        authority=make_authority(SET_ID, NOW_MS).certificate,
        opened_ms=NOW_MS,
    )


def registered(**other: object) -> Secondary:
    made = Secondary("osaka", TICKET, NOW_MS, NOW_MS + DAY_MS, state=ACTIVE)
    return msgspec.structs.replace(made, **other)


class Case(NamedTuple):
    """What a primary with authority OLD looks at; without changes, the claim counts."""

    signed: SignedClaim
    issuer: Authority = OLD
    known: Lineage = KNOWN
    secondary: Secondary | None = registered()
    filtered: bool = False
    now_ms: int = NOW_MS

    def verify(self) -> Claim:
        return claims.verify(
            self.signed,
            self.issuer.certificate,
            self.known,
            self.secondary,
            filtered=self.filtered,
            now_ms=self.now_ms,
        )

    def refusal(self) -> str:
        with pytest.raises((ClaimRefused, Distrusted)) as raised:
            self.verify()
        return raised.value.message


OSAKA = client_of(OLD, NOW_MS)
GOOD = Case(claims.sign(claim_of(), OSAKA))


def test_a_claim_of_a_registered_secondary_that_goes_on_from_our_epoch_counts() -> None:
    claim = GOOD.verify()
    assert claim.lineage == NEWER
    assert (claim.api_addr, claim.cluster_addr) == ("https://osaka:8200", "osaka:8201")
    assert claims.claimant_of(GOOD.signed) == "osaka"


def test_a_claim_survives_being_carried_by_others() -> None:
    carried = claims.decode(msgspec.msgpack.encode(GOOD.signed))
    assert GOOD._replace(signed=carried).verify() == GOOD.verify()


def test_a_claimant_may_have_been_cut_off_for_weeks_past_its_certificates_end() -> None:
    assert GOOD._replace(now_ms=NOW_MS + 60 * DAY_MS).verify().lineage == NEWER


def test_a_certificate_renewed_under_the_same_activation_counts() -> None:
    renewed = client_of(OLD, NOW_MS + 2 * DAY_MS)
    assert renewed.certificate != OSAKA.certificate
    assert GOOD._replace(signed=claims.sign(claim_of(), renewed)).verify().lineage == NEWER


# who it is


def test_a_claim_signed_with_a_certificate_of_another_authority_is_refused() -> None:
    """Also of an authority of this very set: the claimant's own new one, say."""
    other = make_authority(SET_ID, NOW_MS)
    forged = claims.sign(claim_of(), client_of(other, NOW_MS))
    assert "another authority" in GOOD._replace(signed=forged).refusal()


def test_the_primarys_own_server_certificate_claims_nothing() -> None:
    with pytest.raises(Distrusted):
        GOOD._replace(signed=claims.sign(claim_of(), server_of(OLD, NOW_MS))).verify()


def test_a_signature_by_a_key_other_than_the_certificates_is_refused() -> None:
    """Whoever has seen a certificate, and everybody in a session has, cannot claim with it."""
    thief = Credentials(OSAKA.certificate, authority.new_key()[0], OLD.certificate)
    assert "signature" in GOOD._replace(signed=claims.sign(claim_of(), thief)).refusal()


def test_a_claim_changed_in_any_byte_is_refused() -> None:
    for part in ("claim", "signature"):
        original = getattr(GOOD.signed, part)
        for at in range(len(original)):
            changed = bytearray(original)
            changed[at] ^= 0x01
            signed = msgspec.structs.replace(GOOD.signed, **{part: bytes(changed)})
            assert "signature" in GOOD._replace(signed=signed).refusal()


def test_the_certificate_says_who_claims_and_not_the_message() -> None:
    """R-04: a secondary that may not be promoted claims in the name of one that may."""
    lima = client_of(OLD, NOW_MS, "lima")
    in_anothers_name = claims.sign(claim_of(secondary_id="osaka"), lima)
    assert claims.claimant_of(in_anothers_name) == "lima"
    case = GOOD._replace(signed=in_anothers_name, secondary=registered(id="lima", promotable=False))
    assert "'lima' may not be promoted" in case.refusal()


def test_a_registry_entry_of_another_id_vouches_for_nobody() -> None:
    """Two activations never share a ticket; if a caller mixes them up, the claim falls."""
    assert "'osaka'" in GOOD._replace(secondary=registered(id="lima")).refusal()


# whether it may


def test_a_revoked_secondary_fences_nobody() -> None:
    assert "revoked" in GOOD._replace(secondary=None).refusal()


def test_threat_r_03_a_certificate_of_an_activation_before_a_revocation_does_not_count_again() -> (
    None
):
    assert "revoked" in GOOD._replace(secondary=registered(ticket="aa" * 16)).refusal()


def test_who_was_given_a_token_and_never_connected_fences_nobody() -> None:
    """It has none of our data: a stolen token must not stop a set."""
    for at_ms in (NOW_MS, NOW_MS + 2 * DAY_MS):
        case = GOOD._replace(secondary=registered(state=ISSUED), now_ms=at_ms)
        assert "never activated" in case.refusal()


def test_a_secondary_that_was_issued_as_not_promotable_fences_nobody() -> None:
    assert "may not be promoted" in GOOD._replace(secondary=registered(promotable=False)).refusal()


def test_a_filtered_secondary_fences_nobody() -> None:
    assert "filter" in GOOD._replace(filtered=True).refusal()


# what it claims


def refused_lineage(lineage: Lineage, known: Lineage = KNOWN) -> str:
    signed = claims.sign(claim_of(lineage), OSAKA)
    return GOOD._replace(signed=signed, known=known).refusal()


def test_an_epoch_that_we_know_already_fences_nobody() -> None:
    refused_lineage(KNOWN)
    refused_lineage(NEWER, known=NEWER)
    refused_lineage(NEWER, known=NEWER.opened(TIP, "lisbon", NOW_MS))  # it was overruled


def test_a_history_without_an_epoch_of_ours_fences_nobody() -> None:
    stranger = founded(START, SET_ID, "osaka", NOW_MS, b"stranger").opened(TIP, "osaka", NOW_MS)
    refused_lineage(stranger)
    refused_lineage(Lineage(SET_ID, ()))


def test_the_history_of_another_set_fences_nobody() -> None:
    refused_lineage(Lineage("another", NEWER.epochs))


def test_a_claim_for_another_set_than_its_history_is_refused() -> None:
    case = GOOD._replace(signed=claims.sign(claim_of(set_id="another"), OSAKA))
    assert "set" in case.refusal()


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, 2**32, 2 + claims.EPOCHS_AHEAD_MAX])
def test_an_epoch_far_ahead_is_refused_so_that_there_is_always_a_higher_one(number: int) -> None:
    """Else one claim would fence for ever: no epoch could overrule it."""
    lineage = Lineage(SET_ID, (*KNOWN.epochs, Epoch(number, b"epoch--x", TIP, "osaka", NOW_MS)))
    assert "ahead" in refused_lineage(lineage)


def test_many_promotions_that_we_have_not_heard_of_are_not_far_ahead() -> None:
    lineage = KNOWN
    for _ in range(1000):
        lineage = lineage.opened(TIP, "osaka", NOW_MS)
    signed = claims.sign(claim_of(lineage), OSAKA)
    assert GOOD._replace(signed=signed).verify().lineage == lineage


def test_of_two_claims_to_one_number_the_greater_id_wins_on_both_sides() -> None:
    low = KNOWN.opened(TIP, "lima", NOW_MS, b"aaaaaaaa")
    high = KNOWN.opened(TIP, "osaka", NOW_MS, b"bbbbbbbb")
    refused_lineage(low, known=high)
    signed = claims.sign(claim_of(high), OSAKA)
    assert GOOD._replace(signed=signed, known=low).verify().lineage == high


# what does not even parse


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x90",
        msgspec.msgpack.encode({"claim": b"", "signature": b""}),
        msgspec.msgpack.encode({"claim": "text", "signature": b"", "certificate": b""}),
    ],
)
def test_what_is_no_signed_claim_is_refused(raw: bytes) -> None:
    with pytest.raises(ClaimRefused):
        claims.decode(raw)


def test_a_claim_that_is_larger_than_any_history_is_refused_before_it_is_kept() -> None:
    huge = msgspec.structs.replace(claim_of(), api_addr="x" * claims.CLAIM_BYTES_MAX)
    raw = msgspec.msgpack.encode(claims.sign(huge, OSAKA))
    with pytest.raises(ClaimRefused, match="large"):
        claims.decode(raw)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"set_id": SET_ID})]
)
def test_a_signed_body_that_is_no_claim_is_refused(body: bytes) -> None:
    key = serialization.load_der_private_key(OSAKA.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(body, ec.ECDSA(hashes.SHA256()))
    signed = SignedClaim(body, signature, OSAKA.certificate)
    assert "parse" in GOOD._replace(signed=signed).refusal()


@pytest.mark.parametrize(
    "certificate",
    [b"", b"\x30\x00", OLD.certificate, OSAKA.certificate[:-9]],
    ids=["none", "empty", "an authority's", "cut short"],
)
def test_a_claim_without_a_certificate_of_a_secondary_names_nobody(certificate: bytes) -> None:
    signed = msgspec.structs.replace(GOOD.signed, certificate=certificate)
    with pytest.raises(UndercroftError):
        claims.claimant_of(signed)
    GOOD._replace(signed=signed).refusal()
