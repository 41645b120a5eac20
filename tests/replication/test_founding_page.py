"""The founding API page, sys/replication/primary, sentence by sentence, on one cluster.

Its activation tokens are in test_founding_page_tokens.py, what it promises about secondaries is in
test_founding_page_secondaries.py.
"""

import pytest

from tests.replication.clusters import allowed, asked_token, errors, ok, warnings
from tests.replication.pair import status
from tests.support.undercroft import Client

PRIMARY = "sys/replication/primary"
PAGE = "sys/repliation/primary"  # as the page spells its URLs
ENVELOPE = {
    "request_id",
    "lease_id",
    "renewable",
    "lease_duration",
    "data",
    "wrap_info",
    "warnings",
    "auth",
}


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("body", [None, b"", b"{}", b"null"], ids=["none", "empty", "{}", "null"])
def test_enable_demote_disable_answer_200_with_a_warning(
    disabled: Client, method: str, body: bytes | None
) -> None:
    for path, mode in (
        (f"{PRIMARY}/enable", "primary"),
        (f"{PRIMARY}/demote", "secondary"),
        ("sys/replication/secondary/promote", "primary"),
        (f"{PRIMARY}/disable", "disabled"),
    ):
        answer = disabled.request(method, path, body)
        assert answer.status == 200, (path, answer)
        assert set(answer.body) - {"mount_type"} >= ENVELOPE
        assert answer.body["warnings"], path
        assert answer.body["wrap_info"] is answer.body["auth"] is None
        assert status(disabled)["mode"] == mode


@pytest.mark.parametrize("method", ["GET", "DELETE", "LIST", "PATCH"])
def test_what_changes_roles_takes_no_other_method(primary: Client, method: str) -> None:
    for name in ("enable", "demote", "disable", "revoke-secondary"):
        merge = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        answer = primary.request(method, f"{PRIMARY}/{name}", headers=merge)
        assert answer.status == 405, answer
        assert "unsupported operation" in errors(answer)
    assert status(primary)["mode"] == "primary"


def test_a_primary_has_the_override_of_its_address_or_none(disabled: Client) -> None:
    moved = "https://balancer.example:8201"
    disabled.request("POST", f"{PRIMARY}/enable", {"primary_cluster_addr": moved})
    assert status(disabled)["primary_cluster_addr"] == moved
    ok(disabled, "primary/disable")
    disabled.request("POST", f"{PRIMARY}/enable")
    assert status(disabled)["primary_cluster_addr"] == ""


def test_the_override_may_come_by_query(disabled: Client) -> None:
    moved = "https://balancer.example:8201"
    answer = disabled.request("POST", f"{PRIMARY}/enable?primary_cluster_addr={moved}")
    assert answer.status == 200
    assert status(disabled)["primary_cluster_addr"] == moved


@pytest.mark.parametrize(
    "address",
    [
        "http://host:8201",
        "host:8201",
        "https://host",
        "https://ann:pw@host:8201",
        "https://host:8201/path",
        "https://host:99999",
        "https://host:8201?x=y",
        "https://:8201",
        7,
        ["https://host:8201"],
    ],
)
def test_an_address_of_another_form_is_refused_by_its_name(
    disabled: Client, address: object
) -> None:
    answer = disabled.request("POST", f"{PRIMARY}/enable", {"primary_cluster_addr": address})
    assert answer.status == 400
    assert "primary_cluster_addr" in errors(answer)
    assert status(disabled) == {"mode": "disabled"}


def test_enabled_again_a_primary_changes_its_address_or_refuses(primary: Client) -> None:
    before = status(primary)
    refused = primary.request("POST", f"{PRIMARY}/enable")
    assert refused.status == 400
    assert "primary already" in errors(refused)
    moved = {"primary_cluster_addr": "https://10.0.0.7:8201"}
    assert primary.request("POST", f"{PRIMARY}/enable", moved).status == 200
    after = status(primary)
    assert after["primary_cluster_addr"] == "https://10.0.0.7:8201"
    assert (after["cluster_id"], after["epoch"]) == (before["cluster_id"], before["epoch"])


def test_a_secondary_must_be_promoted_and_cannot_be_enabled(primary: Client) -> None:
    ok(primary, "primary/demote")
    for body in ({}, {"primary_cluster_addr": "https://10.0.0.7:8201"}):
        refused = primary.request("POST", f"{PRIMARY}/enable", body)
        assert refused.status == 400
        assert "promoted" in errors(refused)
    assert status(primary)["mode"] == "secondary"


def test_demoted_it_connects_to_nobody_and_keeps_its_cluster_id(primary: Client) -> None:
    before = status(primary)
    demoted = primary.request("POST", f"{PRIMARY}/demote")
    assert demoted.body["data"] == {"last_wal": before["last_performance_wal"]}
    after = status(primary)
    assert after["cluster_id"] == before["cluster_id"]
    assert (after["mode"], after["state"]) == ("secondary", "idle")
    assert after["connection_state"] == "idle"
    assert after["secondary_id"] == ""
    assert after["primaries"] == after["known_primary_cluster_addrs"] == []


def test_enabled_after_disable_it_has_another_cluster_id(primary: Client) -> None:
    before = status(primary)["cluster_id"]
    ok(primary, "primary/disable")
    assert status(primary) == {"mode": "disabled"}
    ok(primary, "primary/enable")
    assert status(primary)["cluster_id"] not in ("", before)


def test_the_data_of_a_cluster_stays_through_every_role(disabled: Client) -> None:
    disabled.request("POST", "sys/mounts/kept", {"type": "kv"})
    assert disabled.request("POST", "kept/a", {"v": 1}).status == 204
    for name in (
        "primary/enable",
        "primary/demote",
        "secondary/promote",
        "primary/demote",
        "secondary/disable",
    ):
        ok(disabled, name)
        assert disabled.request("GET", "kept/a").body["data"] == {"v": 1}, name
    assert disabled.request("POST", "kept/a", {"v": 2}).status == 204


# the misspelt URLs


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_the_pages_own_spelling_answers_alike_and_names_the_right_path(
    disabled: Client, method: str
) -> None:
    for name, mode in (("enable", "primary"), ("demote", "secondary")):
        answer = disabled.request(method, f"{PAGE}/{name}")
        assert answer.status == 200, answer
        assert f"{PRIMARY}/{name}" in warnings(answer)
        assert len(answer.body["warnings"]) == 2
        assert status(disabled)["mode"] == mode
    ok(disabled, "secondary/promote")
    answer = disabled.request(method, f"{PAGE}/disable")
    assert answer.status == 200
    assert f"{PRIMARY}/disable" in warnings(answer)
    assert status(disabled) == {"mode": "disabled"}


def test_the_pages_parameters_go_with_its_spelling(disabled: Client) -> None:
    moved = "https://balancer.example:8201"
    for sent in ({"primary_cluster_addr": moved}, None):
        query = "" if sent else f"?primary_cluster_addr={moved}"
        assert disabled.request("POST", f"{PAGE}/enable{query}", sent).status == 200
        assert status(disabled)["primary_cluster_addr"] == moved
        ok(disabled, "primary/disable")


def test_the_page_places_revoke_secondary_under_secondary(primary: Client) -> None:
    for method in ("POST", "PUT"):
        assert asked_token(primary, "id=osaka").status == 200
        answer = primary.request(
            method, "sys/replication/secondary/revoke-secondary", {"id": "osaka"}
        )
        assert answer.status == 200, answer
        assert f"{PRIMARY}/revoke-secondary" in warnings(answer)
        assert status(primary)["known_secondaries"] == []


@pytest.mark.parametrize("name", ["secondary-token", "revoke-secondary", "status", "x"])
def test_no_other_path_is_misspelt(primary: Client, name: str) -> None:
    for method in ("GET", "POST"):
        answer = primary.request(method, f"{PAGE}/{name}?id=osaka")
        assert answer.status == 404, answer
    assert primary.request("GET", f"{PAGE}/enable").status in (404, 405)
    assert status(primary)["known_secondaries"] == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (f"{PAGE}/demote", f"{PRIMARY}/demote"),
        ("sys/replication/secondary/revoke-secondary", f"{PRIMARY}/revoke-secondary"),
    ],
)
def test_a_wrong_url_is_authorised_as_the_right_path(
    primary: Client, wrong: str, right: str
) -> None:
    only_wrong = allowed(primary, "wrong", f'path "{wrong}" {{ capabilities = ["update"] }}')
    only_right = allowed(primary, "right", f'path "{right}" {{ capabilities = ["update"] }}')
    assert asked_token(primary, "id=osaka").status == 200
    body = {"id": "osaka"}
    assert primary.request("POST", wrong, body, token=only_wrong).status == 403
    assert status(primary)["known_secondaries"] == ["osaka"]
    assert primary.request("POST", wrong, body, token=only_right).status == 200


def test_a_deny_of_the_performance_path_holds_for_the_pages_path(primary: Client) -> None:
    grants = f'path "{PRIMARY}/demote" {{ capabilities = ["update"] }}\n'
    denies = 'path "sys/replication/performance/primary/demote" { capabilities = ["deny"] }'
    denied = allowed(primary, "denied", grants + denies)
    for path in (f"{PRIMARY}/demote", f"{PAGE}/demote"):
        assert primary.request("POST", path, token=denied).status == 403
    granted = allowed(primary, "granted", grants)
    path = "sys/replication/performance/primary/demote"
    assert primary.request("POST", path, token=granted).status == 403  # under its own path only
    assert primary.request("POST", f"{PRIMARY}/demote", token=granted).status == 200


def test_without_a_token_nothing_changes(primary: Client) -> None:
    for name in ("enable", "demote", "disable", "revoke-secondary", "secondary-token"):
        for sent in ("", "hvs.unknown"):
            answer = primary.request("POST", f"{PRIMARY}/{name}", {"id": "osaka"}, token=sent)
            assert answer.status == 403
            assert "permission denied" in errors(answer)
    assert status(primary)["known_secondaries"] == []


def test_what_needs_a_primary_says_so_on_another_cluster(disabled: Client) -> None:
    calls = ("demote", "disable", "secondary-token?id=a", "revoke-secondary?id=a")
    for call in calls:
        answer = disabled.request("POST", f"{PRIMARY}/{call}")
        assert answer.status == 400
        assert "disabled" in errors(answer)
    ok(disabled, "primary/enable")
    ok(disabled, "primary/demote")
    for call in calls:
        answer = disabled.request("POST", f"{PRIMARY}/{call}")
        assert answer.status == 400
        assert "secondary" in errors(answer)
