"""Every endpoint in every role, and the conventions they share, on one cluster.

Roles and moves: the table of states. What needs two clusters is in the files beside this one.
"""

from typing import Any

import pytest

from tests.replication.clusters import AT, allowed, errors, ok, warnings
from tests.replication.pair import status
from tests.support.undercroft import Answer, Client, until

FAMILIES = ("sys/replication", AT)
ADDRESS = {"primary_cluster_addr": "https://10.0.0.7:8201"}
ID = {"id": "osaka"}
FILTER = {"mode": "deny", "paths": "secret/"}
OF_A_PRIMARY: list[tuple[str, dict[str, Any]]] = [
    ("primary/demote", {}),
    ("primary/disable", {}),
    ("primary/secondary-token", ID),
    ("primary/revoke-secondary", ID),
]
OF_A_SECONDARY: list[tuple[str, dict[str, Any]]] = [
    ("secondary/promote", {}),
    ("secondary/promote", {"force": True}),
    ("secondary/update-primary", {"token": ""}),
    ("secondary/update-primary", {"update_primary_addrs": "https://10.0.0.7:8201"}),
    ("secondary/disable", {}),
]


def unchanging(client: Client) -> dict[str, Any]:
    """Status without its clocks, and what the replicator reports a moment later."""
    clocks = {"state_since", "state_reason", "last_start", "merkle_root", "merkle_root_wal"}
    return {name: value for name, value in status(client).items() if name not in clocks}


def refused(client: Client, path: str, body: Any, *words: str) -> None:
    """400 in both families, each with those words, and nothing has changed."""
    before = unchanging(client)
    for family in FAMILIES:
        answer = client.request("POST", f"{family}/{path}", body)
        assert answer.status == 400, (path, answer)
        for word in words:
            assert word in errors(answer), path
    assert unchanging(client) == before


# the table of moves


def test_a_disabled_cluster_refuses_what_needs_a_role(disabled: Client) -> None:
    for path, body in (*OF_A_PRIMARY, *OF_A_SECONDARY):
        refused(disabled, path, body, "role is disabled", "/enable")
    for path in ("paths-filter", "mount-filter"):
        answer = disabled.request("POST", f"{AT}/primary/{path}/osaka", FILTER)
        assert answer.status == 400
    assert status(disabled) == {"mode": "disabled"}


def test_a_primary_refuses_what_is_a_secondarys(primary: Client) -> None:
    for path, body in OF_A_SECONDARY:
        refused(primary, path, body, "role is primary", "primary/demote")
    refused(primary, "secondary/enable", {"token": "s.0123456789"}, "primary", "demote", "disable")
    refused(primary, "primary/enable", {}, "primary already")
    assert primary.request("POST", f"{AT}/secondary/generate-public-key").status == 400


def test_a_secondary_refuses_what_is_a_primarys(primary: Client) -> None:
    ok(primary, "primary/demote")
    for path, body in OF_A_PRIMARY:
        refused(primary, path, body, "detached secondary", "secondary/promote")
    for body in ({}, ADDRESS):
        refused(primary, "primary/enable", body, "promoted")
    refused(primary, "secondary/enable", {"token": "s.0123456789"}, "secondary/update-primary")
    for path in ("paths-filter", "mount-filter"):
        answer = primary.request("PUT", f"{AT}/primary/{path}/osaka", FILTER)
        assert answer.status == 400


@pytest.mark.parametrize("family", FAMILIES)
def test_the_moves_go_round_in_both_families(disabled: Client, family: str) -> None:
    for path, mode in (
        ("primary/enable", "primary"),
        ("primary/demote", "secondary"),
        ("secondary/promote", "primary"),
        ("primary/demote", "secondary"),
        ("secondary/update-primary", "secondary"),
        ("secondary/disable", "disabled"),
        ("primary/enable", "primary"),
        ("primary/disable", "disabled"),
    ):
        answer = disabled.request("PUT", f"{family}/{path}")
        assert answer.status == 200, (path, answer)
        assert answer.body["warnings"], path
        assert answer.body["request_id"]
        assert status(disabled)["mode"] == mode


def test_promotion_opens_an_epoch_and_keeps_the_cluster_id(primary: Client) -> None:
    before = status(primary)
    ok(primary, "primary/demote")
    answer = primary.request("POST", f"{AT}/secondary/promote", ADDRESS)
    assert (answer.status, answer.body["data"]) == (200, None)
    after = status(primary)
    assert after["cluster_id"] == before["cluster_id"]
    assert after["epoch"] == before["epoch"] + 1
    assert after["primary_cluster_addr"] == "https://10.0.0.7:8201"
    assert not after["fenced"]


def test_a_bad_address_does_not_promote(primary: Client) -> None:
    ok(primary, "primary/demote")
    for address in ("10.0.0.7:8201", "https://10.0.0.7", "ftp://10.0.0.7:8201"):
        refused(
            primary, "secondary/promote", {"primary_cluster_addr": address}, "primary_cluster_addr"
        )


def test_a_secondarys_public_key_can_be_made_while_it_is_no_primary(primary: Client) -> None:
    path = f"{AT}/secondary/generate-public-key"
    for move in ("primary/demote", "secondary/disable"):
        ok(primary, move)
        keys = [primary.request(method, path).body for method in ("POST", "PUT")]
        assert all(key["warnings"] is None for key in keys)
        assert keys[0]["data"] != keys[1]["data"]
        assert set(keys[0]["data"]) == {"secondary_public_key"}


@pytest.mark.parametrize(
    "key", ["x", "AAAA", "Ag==", "AQ==", "A" * 44, "-----BEGIN PUBLIC KEY-----"]
)
def test_a_public_key_that_is_none_is_refused(primary: Client, key: str) -> None:
    refused(
        primary,
        "primary/secondary-token",
        {"id": "osaka", "secondary_public_key": key},
        "secondary_public_key",
    )


def test_a_token_for_a_public_key_is_data_and_is_not_wrapped(disabled: Client) -> None:
    made = disabled.request("POST", f"{AT}/secondary/generate-public-key")
    key = made.body["data"]["secondary_public_key"]
    ok(disabled, "primary/enable")
    answer = disabled.request(
        "POST", f"{AT}/primary/secondary-token", {**ID, "secondary_public_key": key}
    )
    assert answer.body["wrap_info"] is answer.body["warnings"] is None
    assert set(answer.body["data"]) == {"token"}


# a write where nobody may write


def test_a_detached_secondary_reads_on_and_says_why_it_does_not_write(primary: Client) -> None:
    primary.request("POST", "sys/mounts/kept", {"type": "kv"})
    assert primary.request("POST", "kept/a", {"v": 1}).status == 204
    ok(primary, "primary/demote")
    answer = primary.request("POST", "kept/a", {"v": 2})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert "nothing was applied" in errors(answer)
    assert primary.request("GET", "kept/a").body["data"] == {"v": 1}


# conventions


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"token":null}'])
def test_a_body_may_be_empty(primary: Client, body: bytes) -> None:
    for path, wanted in (
        ("primary/demote", 200),
        ("secondary/update-primary", 200),
        ("secondary/generate-public-key", 200),
        ("primary/enable", 400),
        ("secondary/promote", 200),
        ("primary/disable", 200),
    ):
        assert primary.request("PUT", f"{AT}/{path}", body).status == wanted, path


@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"', b"{", b"{}{}"])
def test_a_body_that_is_no_object_changes_nothing(primary: Client, body: bytes) -> None:
    before = unchanging(primary)
    for path in ("primary/demote", "primary/disable", "primary/secondary-token"):
        assert primary.request("POST", f"{AT}/{path}", body).status == 400, path
    assert unchanging(primary) == before


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("primary/secondary-token", {**ID, "promotable": "perhaps"}, "promotable"),
        ("primary/secondary-token", {**ID, "ttl": "soon"}, "ttl"),
        ("primary/secondary-token", {**ID, "ttl": [1]}, "ttl"),
        ("primary/secondary-token", {"id": {"a": 1}}, "id"),
        ("primary/secondary-token", {"id": ["a"]}, "id"),
        ("primary/revoke-secondary", {"id": ["a"]}, "id"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(
    primary: Client, path: str, body: Any, name: str
) -> None:
    refused(primary, path, body, name)


def test_values_may_be_text_as_command_lines_send_them(primary: Client) -> None:
    token = {"id": "osaka", "ttl": "300", "promotable": "false", "policy_ceiling": "a,b"}
    made = ok(primary, "primary/secondary-token", token)
    assert made["wrap_info"]["ttl"] == 300
    paths = {"mode": "deny", "paths": "a/,b/"}
    answer = primary.request("POST", f"{AT}/primary/paths-filter/osaka", paths)
    assert answer.status == 200  # a warning: there are no such mounts
    read = primary.request("GET", f"{AT}/primary/paths-filter/osaka")
    assert read.body["data"] == {"mode": "deny", "paths": ["a/", "b/"]}
    ok(primary, "primary/demote")
    ok(primary, "secondary/promote", {"force": "1"})


def test_an_unknown_field_is_ignored_with_a_warning_that_names_it(primary: Client) -> None:
    for path, body in (
        ("primary/secondary-token", ID),
        ("primary/revoke-secondary", ID),
        ("primary/demote", {}),
        ("secondary/update-primary", {}),
        ("secondary/promote", {}),
        ("primary/enable", ADDRESS),
        ("primary/disable", {}),
        ("secondary/generate-public-key", {}),
    ):
        answer = primary.request("POST", f"{AT}/{path}", {**body, "colour": "red"})
        assert answer.status == 200, (path, answer)
        assert "colour" in warnings(answer), path


CHANGING = (
    "primary/enable",
    "primary/demote",
    "primary/disable",
    "primary/revoke-secondary",
    "secondary/enable",
    "secondary/promote",
    "secondary/disable",
    "secondary/update-primary",
)


@pytest.mark.parametrize("method", ["GET", "LIST", "DELETE"])
@pytest.mark.parametrize("family", FAMILIES)
def test_another_method_is_405(primary: Client, method: str, family: str) -> None:
    for path in CHANGING:
        answer = primary.request(method, f"{family}/{path}")
        assert answer.status == 405, (path, answer)
        assert "unsupported operation" in errors(answer)


def test_status_is_only_read(primary: Client) -> None:
    for path in ("status", "performance/status", "dr/status"):
        for method in ("POST", "PUT", "DELETE"):
            assert primary.request(method, f"sys/replication/{path}").status == 405


def test_replication_lives_in_the_root_namespace_alone(primary: Client) -> None:
    before = unchanging(primary)
    for path in (*CHANGING, "status", "dr/status", "performance/status", "quarantine"):
        method = "GET" if "status" in path or path == "quarantine" else "POST"
        answer = primary.request(
            method, f"sys/replication/{path}", headers={"X-Vault-Namespace": "team1/"}
        )
        assert answer.status == 400, path
        assert "operation only available in root namespace" in errors(answer)
    assert unchanging(primary) == before


def test_a_policy_needs_update_on_the_path_and_no_more(primary: Client) -> None:
    rule = f'path "{AT}/primary/demote" {{ capabilities = ["update"] }}'
    token = allowed(primary, "demoter", rule)
    for path in CHANGING:
        if path != "primary/demote":
            assert primary.request("POST", f"{AT}/{path}", token=token).status == 403, path
    assert primary.request("POST", f"{AT}/primary/demote", token=token).status == 200


def test_reindex_needs_sudo(primary: Client) -> None:
    for path in ("sys/replication/reindex", f"{AT}/reindex"):
        rule = f'path "{path}" {{ capabilities = ["update"] }}'
        plain = allowed(primary, "plain", rule)
        sudo = allowed(primary, "sudo", rule.replace('"update"', '"update", "sudo"'))
        assert primary.request("POST", path, token=plain).status == 403
        assert primary.request("POST", path, token=sudo).status == 200
        until(lambda: "reindex_in_progress" not in status(primary))


def test_the_quarantine_needs_sudo(primary: Client) -> None:
    rule = 'path "sys/replication/quarantine*" { capabilities = ["read", "update", "delete"] }'
    plain = allowed(primary, "plain", rule)
    for method, path in (("GET", ""), ("GET", "/a"), ("DELETE", "/a"), ("POST", "/a/restore")):
        answer = primary.request(method, f"sys/replication/quarantine{path}", token=plain)
        assert answer.status == 403
    assert primary.request("GET", "sys/replication/quarantine/none").status == 404


# repairs


def test_merkle_check_reports_as_vault_does(primary: Client) -> None:
    for method in ("GET", "POST"):
        answer = primary.request(method, "sys/replication/merkle-check")
        assert answer.status == 200
        report = answer.body["data"]["merkle_corruption_report"]
        assert report["corrupted_root"] is False
        kinds = {n: tree["tree_type"] for n, tree in report["corrupted_tree_map"].items()}
        assert kinds == {"1": "replicated", "2": "local"}
        for tree in report["corrupted_tree_map"].values():
            assert tree["corrupted_subtree_root"] is False
            assert tree["corrupted_index_tuples_map"] is None
            assert isinstance(tree["root_hash"], str)
        assert answer.body["data"]["last_corruption_check_epoch"].endswith("Z")
    shown = status(primary)
    assert shown["corrupted_merkle_tree"] is False
    assert int(shown["last_corruption_check_epoch"]) > 1_600_000_000


def test_a_repair_says_which_parameter_is_moot(primary: Client) -> None:
    answer = primary.request(
        "POST", "sys/replication/reindex", {"diff": True, "force": "true", "skip_flush": "t"}
    )
    assert answer.status == 200
    for name in ("diff", "force", "skip_flush"):
        assert f"{name} has no effect" in warnings(answer)
    until(lambda: int(status(primary)["last_reindex_epoch"]) > 1_600_000_000)
    until(lambda: "reindex_in_progress" not in status(primary))


def test_recover_is_harmless_where_all_is_well(primary: Client) -> None:
    before = unchanging(primary)
    answer = primary.request("POST", "sys/replication/recover")
    assert (answer.status, len(answer.body["warnings"])) == (200, 1)
    assert unchanging(primary) == before


# disaster recovery


DR = (
    *(f"primary/{n}" for n in ("enable", "demote", "disable", "secondary-token")),
    "primary/revoke-secondary",
    *(f"secondary/{n}" for n in ("enable", "promote", "disable", "update-primary")),
    *(f"secondary/{n}" for n in ("generate-public-key", "recover", "reindex", "merkle-check")),
    "secondary/generate-operation-token/attempt",
    "secondary/generate-operation-token/update",
    "secondary/operation-token/delete",
    "reindex",
)


def test_disaster_recovery_is_not_supported_yet_and_says_so(disabled: Client) -> None:
    for path in DR:
        for method in ("POST", "PUT"):
            answer: Answer = disabled.request(
                method, f"sys/replication/dr/{path}", {"dr_operation_token": "x"}
            )
            assert answer.status == 400, (path, answer)
            assert "not supported yet" in errors(answer)
    shown = disabled.request("GET", "sys/replication/dr/status", token="")
    assert shown.body["data"] == {"mode": "disabled"}


READ_TOO = ("primary/secondary-token", "secondary/generate-operation-token/attempt")


def test_disaster_recovery_knows_the_methods_that_it_will_have(disabled: Client) -> None:
    """Older clients polled promote with GET: that is no method of it."""
    for path in DR:
        answer = disabled.request("GET", f"sys/replication/dr/{path}")
        assert answer.status == (400 if path in READ_TOO else 405), path
        answer = disabled.request("DELETE", f"sys/replication/dr/{path}")
        assert answer.status == (400 if path.endswith("/attempt") else 405), path
        answer = disabled.request("LIST", f"sys/replication/dr/{path}")
        assert answer.status == 405, path
    promoted = disabled.request("GET", "sys/replication/dr/secondary/promote")
    assert "unsupported operation" in errors(promoted)
    for method in ("POST", "PUT", "DELETE"):
        assert disabled.request(method, "sys/replication/dr/status").status == 405
