"""The founding API page, primary/secondary-token and revoke-secondary, sentence by sentence."""

import pytest

from tests.replication.clusters import allowed, asked_token, errors, ok
from tests.replication.pair import status
from tests.support.undercroft import Client

PRIMARY = "sys/replication/primary"


def test_secondary_token_requires_sudo(primary: Client) -> None:
    plain = '{ capabilities = ["create", "read", "update"] }'
    sudo = '{ capabilities = ["read", "update", "sudo"] }'
    for family in (PRIMARY, "sys/replication/performance/primary"):
        path = f"{family}/secondary-token"
        without = allowed(primary, "without", f'path "{path}" {plain}')
        having = allowed(primary, "having", f'path "{path}" {sudo}')
        for method in ("GET", "POST", "PUT"):
            asked = f"{path}?id={method}" if method == "GET" else path
            body = None if method == "GET" else {"id": method}
            assert primary.request(method, asked, body, token=without).status == 403
            assert primary.request(method, asked, body, token=having).status == 200
            ok(primary, "primary/revoke-secondary", {"id": method})


def test_its_answer_is_only_wrap_info_with_six_fields(primary: Client) -> None:
    answer = asked_token(primary, "id=us-east")
    assert answer.status == 200
    body = answer.body
    assert body["data"] is body["warnings"] is body["auth"] is None
    assert body["lease_id"] == ""
    assert set(body["wrap_info"]) == {
        "token",
        "accessor",
        "ttl",
        "creation_time",
        "creation_path",
        "wrapped_accessor",
    }
    assert body["wrap_info"]["wrapped_accessor"] == ""
    assert body["wrap_info"]["creation_path"] == f"{PRIMARY}/secondary-token"
    assert body["wrap_info"]["ttl"] == 1800  # 30m


@pytest.mark.parametrize(
    ("ttl", "seconds"), [("300", 300), ("5m", 300), ("90s", 90), ("24h", 86400), ("1h", 3600)]
)
def test_its_ttl_is_as_asked(primary: Client, ttl: str, seconds: int) -> None:
    assert asked_token(primary, f"id=a&ttl={ttl}").body["wrap_info"]["ttl"] == seconds
    answer = primary.request("POST", f"{PRIMARY}/secondary-token", {"id": "b", "ttl": ttl})
    assert answer.body["wrap_info"]["ttl"] == seconds


@pytest.mark.parametrize("ttl", ["0", "-1", "-5m", "25h", "86401", "soon", "1 potato"])
def test_a_ttl_out_of_range_is_refused_by_its_name(primary: Client, ttl: str) -> None:
    for answer in (
        asked_token(primary, f"id=osaka&ttl={ttl.replace(' ', '%20')}"),
        primary.request("PUT", f"{PRIMARY}/secondary-token", {"id": "osaka", "ttl": ttl}),
    ):
        assert answer.status == 400
        assert "ttl" in errors(answer)
    assert status(primary)["known_secondaries"] == []


def test_the_header_does_not_rule_its_ttl(primary: Client) -> None:
    for wrap_ttl in ("60", "7d", "0"):
        answer = primary.request(
            "GET",
            f"{PRIMARY}/secondary-token?id=a{wrap_ttl}&ttl=5m",
            headers={"X-Vault-Wrap-TTL": wrap_ttl},
        )
        assert answer.status == 200, answer
        assert answer.body["wrap_info"]["ttl"] == 300


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "-a",
        "a-",
        ".a",
        "a.",
        "a/b",
        "a b",
        "a%2Fb",
        "ü",
        "a\x00b",
        "x" * 129,
        "../a",
        "-",
        "a\n",
    ],
)
def test_an_id_that_could_not_be_part_of_a_path_is_refused(primary: Client, wrong: str) -> None:
    answer = primary.request("POST", f"{PRIMARY}/secondary-token", {"id": wrong})
    assert answer.status == 400
    assert "id" in errors(answer)
    assert status(primary)["known_secondaries"] == []


def test_id_is_required(primary: Client) -> None:
    for answer in (
        primary.request("GET", f"{PRIMARY}/secondary-token"),
        primary.request("POST", f"{PRIMARY}/secondary-token", {"ttl": "5m"}),
        primary.request("POST", f"{PRIMARY}/secondary-token", {"id": None}),
        primary.request("POST", f"{PRIMARY}/revoke-secondary"),
        primary.request("POST", f"{PRIMARY}/revoke-secondary", {"id": ""}),
    ):
        assert answer.status == 400
        assert "missing id" in errors(answer)


@pytest.mark.parametrize("right", ["a", "us-east", "eu_1.b", "9", "x" * 128, "A.B-C_d"])
def test_any_other_id_names_a_secondary(primary: Client, right: str) -> None:
    assert asked_token(primary, f"id={right}").status == 200
    assert status(primary)["known_secondaries"] == [right]


def test_an_id_is_unique_until_it_is_revoked(primary: Client) -> None:
    assert asked_token(primary, "id=osaka").status == 200
    again = asked_token(primary, "id=osaka")
    assert again.status == 400
    assert "revoke" in errors(again)
    assert status(primary)["known_secondaries"] == ["osaka"]
    answer = primary.request("POST", f"{PRIMARY}/revoke-secondary", {"id": "osaka"})
    assert (answer.status, len(answer.body["warnings"])) == (200, 1)
    assert asked_token(primary, "id=osaka").status == 200


def test_revoke_of_an_unknown_id_names_those_there_are(primary: Client) -> None:
    for name in ("osaka", "perth"):
        asked_token(primary, f"id={name}")
    answer = primary.request("POST", f"{PRIMARY}/revoke-secondary", {"id": "oskaa"})
    assert answer.status == 400
    assert "osaka, perth" in errors(answer)


def test_revoke_takes_its_id_from_a_query_too(primary: Client) -> None:
    asked_token(primary, "id=osaka")
    assert primary.request("POST", f"{PRIMARY}/revoke-secondary?id=osaka").status == 200
    assert status(primary)["known_secondaries"] == []
