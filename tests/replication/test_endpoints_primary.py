"""The primary's endpoints, sentence by sentence, where the founding page is silent.

What that page says of them is in test_founding_page*.py; tokens' ids and TTLs too.
"""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP521R1,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA512

from tests.replication.clusters import AT, asked_token, errors, ok, token_for, warnings, write
from tests.replication.pair import replicating_pair, status
from tests.support.undercroft import Answer, Client, until

FILTER = {"mode": "deny", "paths": "quiet/"}
PUBLIC_KEY = base64.b64encode(b"\x01" + bytes(range(1, 33))).decode()  # X25519: any 32 bytes


def unwrap(client: Client, token: str) -> Answer:
    return client.request("POST", "sys/wrapping/unwrap", token=token)


# enable, demote, disable


def test_each_role_change_warns_of_a_pause(disabled: Client) -> None:
    for path, words in (
        ("primary/enable", "enabled as a primary"),
        ("primary/demote", "demoted"),
        ("secondary/promote", "promoted"),
        ("primary/disable", "disabled"),
    ):
        answer = disabled.request("POST", f"{AT}/{path}")
        assert words in warnings(answer), path
        assert "unavailable for a brief period" in warnings(answer), path


@pytest.mark.parametrize(
    "address",
    [
        "https://@host:8201",
        "https://:pw@host:8201",
        "https://ann@host:8201",
        "https://host:8201#there",
        "https://host:8201/#",
        "https://host:8201?",
        "https://host:0",
        "https://host:8201 ",
        "https://ho st:8201",
        "https://[::1:8201",
        "https://host:8201,https://other:8201",
        "https://host:82O1",
        "//host:8201",
        "ftp://host:8201",
    ],
)
def test_an_address_with_anything_but_host_and_port_is_refused(
    disabled: Client, address: str
) -> None:
    body = {"primary_cluster_addr": address}
    answer = disabled.request("POST", f"{AT}/primary/enable", body)
    assert answer.status == 400, answer
    assert "primary_cluster_addr" in errors(answer)
    assert status(disabled) == {"mode": "disabled"}


def test_hosts_may_be_names_or_addresses_of_both_kinds(disabled: Client) -> None:
    for address in ("https://host:1", "https://10.0.0.7:8201", "https://[2001:db8::7]:65535"):
        ok(disabled, "primary/enable", {"primary_cluster_addr": address})
        assert status(disabled)["primary_cluster_addr"] == address
    ok(disabled, "primary/disable")


def test_disable_deletes_ids_and_filters(primary: Client) -> None:
    token_for(primary, "osaka")
    assert primary.request("POST", f"{AT}/primary/paths-filter/perth", FILTER).status == 200
    ok(primary, "primary/disable")
    ok(primary, "primary/enable")
    assert status(primary)["known_secondaries"] == []
    assert primary.request("GET", f"{AT}/primary/paths-filter/perth").status == 404
    token_for(primary, "osaka")  # free again


def test_disable_warns_of_the_wipe_that_ids_known_will_need(primary: Client) -> None:
    token_for(primary, "osaka")
    answer = primary.request("POST", f"{AT}/primary/disable")
    assert len(answer.body["warnings"]) == 2
    assert "wipe" in answer.body["warnings"][1]
    assert "osaka" in answer.body["warnings"][1]


@pytest.mark.parametrize("move", ["primary/disable", "primary/demote"])
def test_an_unused_token_dies_with_its_primary(primary: Client, move: str) -> None:
    token = token_for(primary, "osaka")
    ok(primary, move)
    assert unwrap(primary, token).status == 400


# secondary-token: what it is


def decoded(part: str) -> dict[str, Any]:
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def test_a_token_is_a_jwt_with_the_claims_that_clients_read(primary: Client) -> None:
    answer = asked_token(primary, "id=osaka&ttl=5m")
    header, claims = map(decoded, answer.body["wrap_info"]["token"].split(".")[:2])
    assert header == {"alg": "ES512", "kid": "", "typ": "JWT"}
    assert claims["accessor"] == ""
    assert claims["addr"] == f"http://127.0.0.1:{primary.port}"
    assert claims["type"] == "wrapping"
    assert claims["exp"] == claims["iat"] + 300
    assert claims["nbf"] == claims["iat"] - 5
    assert abs(claims["iat"] - time.time()) < 60
    assert unwrap(primary, claims["jti"]).status == 200


def test_anyone_may_have_the_key_that_a_token_is_signed_with(primary: Client) -> None:
    answer = primary.request("GET", "sys/wrapping/pubkey", token="")
    assert answer.status == 200
    key = answer.body["data"]
    assert key["jwt_curve"] == "p521"
    public = EllipticCurvePublicNumbers(
        int(key["jwt_x"]), int(key["jwt_y"]), SECP521R1()
    ).public_key()
    signed, _, tail = token_for(primary, "osaka").rpartition(".")
    raw = base64.urlsafe_b64decode(tail + "=" * (-len(tail) % 4))
    assert len(raw) == 132
    pair = int.from_bytes(raw[:66], "big"), int.from_bytes(raw[66:], "big")
    public.verify(encode_dss_signature(*pair), signed.encode(), ECDSA(SHA512()))


def test_a_token_unwraps_once_to_what_a_secondary_needs(primary: Client) -> None:
    token = token_for(primary, "osaka")
    answer = unwrap(primary, token)
    assert answer.status == 200
    data = answer.body["data"]
    assert data["id"] == "osaka"
    assert data["cluster_id"] == status(primary)["cluster_id"]
    assert data["client_cert"].startswith("-----BEGIN CERTIFICATE-----")
    assert data["ca_cert"].startswith("-----BEGIN CERTIFICATE-----")
    assert data["client_key"]
    assert len(data["cluster_addrs"]) == 1
    assert unwrap(primary, token).status == 400


def test_every_token_brings_a_certificate_of_its_own(primary: Client) -> None:
    brought = [unwrap(primary, token_for(primary, name)).body["data"] for name in ("a", "b")]
    assert brought[0]["client_cert"] != brought[1]["client_cert"]
    assert brought[0]["client_key"] != brought[1]["client_key"]
    assert brought[0]["ca_cert"] == brought[1]["ca_cert"]


def test_a_promoted_cluster_lets_in_by_an_authority_of_its_own(primary: Client) -> None:
    before = unwrap(primary, token_for(primary, "osaka")).body["data"]
    ok(primary, "primary/demote")
    ok(primary, "secondary/promote")
    after = unwrap(primary, token_for(primary, "osaka")).body["data"]
    assert after["ca_cert"] != before["ca_cert"]
    assert after["cluster_id"] == before["cluster_id"]


def test_a_token_names_the_override_as_the_place_to_go(disabled: Client) -> None:
    ok(disabled, "primary/enable", {"primary_cluster_addr": "https://balancer.example:8201"})
    data = unwrap(disabled, token_for(disabled, "osaka")).body["data"]
    assert data["cluster_addrs"] == ["balancer.example:8201"]


def test_a_token_for_a_key_cannot_be_unwrapped_or_read(primary: Client) -> None:
    made = ok(
        primary, "primary/secondary-token", {"id": "osaka", "secondary_public_key": PUBLIC_KEY}
    )
    token = made["data"]["token"]
    assert set(made["data"]) == {"token"}
    assert "osaka" not in token
    assert token.count(".") != 2  # opaque: no JWT
    assert unwrap(primary, token).status in (400, 403)


# revoke-secondary


def test_revoke_takes_the_filter_too(primary: Client) -> None:
    token_for(primary, "osaka")
    assert primary.request("POST", f"{AT}/primary/paths-filter/osaka", FILTER).status == 200
    ok(primary, "primary/revoke-secondary", {"id": "osaka"})
    assert primary.request("GET", f"{AT}/primary/paths-filter/osaka").status == 404


# a primary that is fenced


def test_a_fenced_primary_lets_nobody_in_until_the_claimant_is_revoked(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        ok(two, "secondary/promote")
        until(lambda: status(one)["fenced"], pair.primary_server)
        claimed = status(two)["epoch"]
        for method, path, body in (
            ("POST", "primary/secondary-token", {"id": "perth"}),
            ("GET", "primary/secondary-token?id=perth", None),
            ("POST", "primary/paths-filter/perth", FILTER),
            ("PUT", "primary/mount-filter/perth", FILTER),
            ("DELETE", "primary/paths-filter/perth", None),
        ):
            answer = one.request(method, f"{AT}/{path}", body)
            assert answer.status == 503, (path, answer)
            assert f"epoch {claimed}" in errors(answer)
        assert one.request("GET", "sys/health").body["fenced"] is True
        ok(one, "primary/revoke-secondary", {"id": "osaka"})
        after = status(one)
        assert not after["fenced"]
        assert after["epoch"] > claimed
        write(one, "again")
        token_for(one, "perth")
