"""What an activation token says and brings, and the text for each way in which it is no good."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.replication.cluster import HOUR_MS, NOW_MS, Cluster
from undercroft.errors import InvalidRequest
from undercroft.replication import activation
from undercroft.replication.activation import Grant, TokenClaims
from undercroft.replication.role import PERFORMANCE, Credentials
from undercroft.request.lifetimes import Limits
from undercroft.request.model import Response
from undercroft.request.tokens import TokenStore
from undercroft.request.wrapping import wrap
from undercroft.request.wrapping_jwt import token_of
from undercroft.storage.keys import OWN
from undercroft.storage.view import Snapshot

EXPIRES_MS = NOW_MS + HOUR_MS // 2
SECRET = b"private key of the secondary"
GRANT = Grant(
    type=PERFORMANCE,
    set_id="0b6c2b9e-6f0d-4d0f-9a39-6a2f3a3f7c11",
    secondary_id="osaka",
    credentials=Credentials(b"certificate", SECRET, b"authority"),
    addresses=("10.1.0.4:8201", "10.1.0.5:8201"),
    api_addr="https://10.1.0.4:8200",
    expires_ms=EXPIRES_MS,
)


def pending_key(cluster: Cluster) -> str:
    with cluster.change() as tx:
        return activation.make_pending_key(tx)


def refusal(view: Snapshot, token: str) -> str:
    """The text with which the token is refused, hint included."""
    with pytest.raises(InvalidRequest) as raised:
        activation.open_sealed(view, token)
    return f"{raised.value.message}: {raised.value.hint}"


# sealed for a public key


def test_what_is_sealed_for_a_key_is_opened_with_it(cluster: Cluster) -> None:
    token = activation.seal_for(pending_key(cluster), GRANT)
    assert activation.is_sealed(token)
    with cluster.view() as view:
        assert activation.open_sealed(view, token) == GRANT


def test_threat_r_01_a_token_shows_nothing_of_what_it_brings_and_no_two_are_alike(
    cluster: Cluster,
) -> None:
    public = pending_key(cluster)
    tokens = [activation.seal_for(public, GRANT) for _ in range(2)]
    assert tokens[0] != tokens[1]
    for token in tokens:
        body = token.partition(".")[2]
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        for told in (SECRET, b"osaka", b"8201", b"certificate"):
            assert told not in raw


def test_neither_a_grant_nor_its_list_prints_the_key() -> None:
    for shown in (repr(GRANT), str(GRANT), f"{[GRANT]}"):
        assert "private" not in shown


def test_a_new_key_replaces_the_old_and_tokens_for_the_old_are_dead(cluster: Cluster) -> None:
    first = pending_key(cluster)
    token = activation.seal_for(first, GRANT)
    second = pending_key(cluster)
    assert second != first
    with cluster.view() as view:
        assert "generate a public key and a token again" in refusal(view, token)
        again = activation.seal_for(second, GRANT)
        assert activation.open_sealed(view, again) == GRANT


def test_threat_r_02_a_key_that_was_used_is_gone(cluster: Cluster) -> None:
    token = activation.seal_for(pending_key(cluster), GRANT)
    for _ in range(2):  # also when there is none
        with cluster.change() as tx:
            activation.forget_pending_key(tx)
    with cluster.view() as view:
        assert "generate a public key and a token again" in refusal(view, token)


def test_the_private_half_is_kept_encrypted_among_what_never_leaves(cluster: Cluster) -> None:
    pending_key(cluster)
    with cluster.view() as view:
        (full,) = [full for full in view.keys(b"") if b"pending" in full]
        assert full[:1] == OWN
        private, stored = view.get(full), view.raw(full)
    assert private is not None
    assert stored is not None
    assert private not in stored


def test_no_token_another_key_and_another_type_are_told_apart(cluster: Cluster) -> None:
    public = pending_key(cluster)
    good = activation.seal_for(public, GRANT)
    other_type = activation.seal_for(public, msgspec.structs.replace(GRANT, type="dr"))
    with cluster.view() as view:
        texts = [
            refusal(view, "ucr1.!"),
            refusal(view, other_type),
        ]
    pending_key(cluster)
    with cluster.view() as view:
        texts.append(refusal(view, good))
    assert len(set(texts)) == 3
    assert "no activation token" in texts[0]
    assert "for dr replication" in texts[1]
    assert "not held here" in texts[2]


def test_every_changed_byte_is_noticed(cluster: Cluster) -> None:
    token = activation.seal_for(pending_key(cluster), GRANT)
    body = token.partition(".")[2]
    raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    with cluster.view() as view:
        for at in range(len(raw)):
            changed = bytearray(raw)
            # The highest bit of an X25519 key counts for nothing there, so it has to count here.
            changed[at] ^= 0x80
            refusal(view, "ucr1." + base64.urlsafe_b64encode(changed).decode().rstrip("="))


@given(noise=st.one_of(st.text(max_size=200), st.from_regex(r"ucr1\.[\w-]*", fullmatch=True)))
def test_noise_is_refused_in_words(noise: str) -> None:
    """Whatever the text: it is no token, or for another key."""
    with pytest.raises(InvalidRequest):
        activation.open_sealed(_Holding(), noise)


class _Holding(Snapshot):
    """A view in which every entry is a private key: cheap enough for many examples."""

    def __init__(self) -> None:
        pass

    def get(self, key: bytes) -> bytes | None:
        return bytes(range(32))


@pytest.mark.parametrize("size", [0, 1, 31, 32, 47, 48, 60])
def test_a_token_cut_short_is_refused(cluster: Cluster, size: int) -> None:
    token = activation.seal_for(pending_key(cluster), GRANT)
    with cluster.view() as view:
        refusal(view, token[: len("ucr1.") + size])


# the secondary's public key


_LOW_ORDER = (bytes(32), (1).to_bytes(32, "little"), ((1 << 255) - 20).to_bytes(32, "little"))


@pytest.mark.parametrize(
    "public",
    [
        "",
        "no base64!",
        "é",
        base64.b64encode(b"\x01" + bytes(range(31))).decode(),
        base64.b64encode(b"\x01" + bytes(range(33))).decode(),
        base64.b64encode(b"\x02" + bytes(range(32))).decode(),  # a kind unknown here
        base64.b64encode(bytes(range(32))).decode(),
        *(base64.b64encode(b"\x01" + point).decode() for point in _LOW_ORDER),
    ],
)
def test_a_public_key_that_is_none_is_refused(public: str) -> None:
    with pytest.raises(InvalidRequest, match="secondary_public_key"):
        activation.seal_for(public, GRANT)


# tokens that are unwrapped at the primary


def wrapped(cluster: Cluster, rtype: str = PERFORMANCE) -> str:
    with cluster.change() as tx:
        return wrap(
            tx,
            Response(data={"id": "osaka"}),
            tokens=TokenStore(Limits()),
            ttl_seconds=1800,
            creation_path="sys/replication/performance/primary/secondary-token",
            now_ms=NOW_MS,
            form="jwt",
            address="https://10.1.0.4:8200",
            claims={"ca": "ab" * 32, "rtype": rtype},
        ).token


def claims_in(token: str) -> dict[str, object]:
    body = token.split(".")[1]
    raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    return msgspec.json.decode(raw, type=dict[str, object])


def jwt(**claims: object) -> str:
    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    return f"{part(b'{}')}.{part(msgspec.json.encode(claims))}.{part(b'signature')}"


def test_a_token_says_where_the_primary_is_and_which_authority_is_its_own(
    cluster: Cluster,
) -> None:
    token = wrapped(cluster)
    assert activation.parse_token(token) == TokenClaims(
        jti=token,  # whole: the primary checks the signature before it unwraps
        addr="https://10.1.0.4:8200",
        exp=NOW_MS // 1000 + 1800,
        type="wrapping",
        rtype=PERFORMANCE,
        ca="ab" * 32,
    )


def test_the_token_has_the_claims_that_vaults_ui_reads_and_two_of_ours(cluster: Cluster) -> None:
    claims = claims_in(wrapped(cluster))
    assert set(claims) == {
        *("accessor", "addr", "exp", "iat", "jti", "nbf", "type"),
        *("ca", "rtype"),
    }
    assert claims["nbf"] == NOW_MS // 1000 - 5
    assert (claims["accessor"], claims["type"]) == ("", "wrapping")


def test_the_primary_finds_its_wrapping_token_in_it_and_in_no_altered_one(
    cluster: Cluster,
) -> None:
    token = wrapped(cluster)
    head, body, signature = token.split(".")
    altered = jwt(**{**claims_in(token), "ca": "cd" * 32}).split(".")[1]
    with cluster.view() as view:
        assert token_of(view, token, NOW_MS) == claims_in(token)["jti"]
        assert token_of(view, f"{head}.{altered}.{signature}", NOW_MS) == ""
    assert body != altered


def test_a_bare_wrapping_token_is_taken_as_it_is(cluster: Cluster) -> None:
    bare = str(claims_in(wrapped(cluster))["jti"])
    for token in (bare, "s.3nHzG4K3nBqjz1RA4Zz0Qk7G", "0b6c2b9e-6f0d-4d0f-9a39-6a2f3a3f7c11"):
        assert activation.parse_token(token) == TokenClaims(jti=token)


def test_a_secondary_leaves_it_to_the_primarys_clock_whether_a_token_has_expired(
    cluster: Cluster,
) -> None:
    over = msgspec.structs.replace(GRANT, expires_ms=1)
    token = activation.seal_for(pending_key(cluster), over)
    with cluster.view() as view:
        assert activation.open_sealed(view, token) == over
    assert activation.parse_token(jwt(jti="s.x", type="wrapping", exp=1)).exp == 1
    assert "expired" in activation.expired().message


def test_a_token_of_the_other_type_says_so(cluster: Cluster) -> None:
    with pytest.raises(InvalidRequest, match="for dr replication"):
        activation.parse_token(wrapped(cluster, "dr"))


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "..",
        "a.b.c",
        "a.b.c.d",
        "\u00e9.\u00e9.\u00e9",
        jwt(),
        jwt(jti="s.x", type="other"),
        jwt(jti="s.x", type="wrapping", exp="soon"),
        jwt(jti=["s.x"], type="wrapping"),
        "a.W10.c",  # []
        "a.bnVsbA.c",  # null
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no activation token"):
        activation.parse_token(text)


def test_a_missing_token_is_missing() -> None:
    with pytest.raises(InvalidRequest, match="missing token"):
        activation.parse_token("")


@given(noise=st.text(alphabet=st.characters(), max_size=120))
def test_noise_is_no_token_nor_anything_but_a_refusal(noise: str) -> None:
    with pytest.raises(InvalidRequest):
        activation.parse_token(noise)
