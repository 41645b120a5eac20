"""auth/token, response wrapping and userpass beside OpenBao."""

from typing import Any

import pytest

from tests.conformance.pair import Pair


def made(pair: Pair, name: str, body: dict[str, Any], **more: Any) -> None:
    """Create a token on both sides and call it `name`."""
    theirs, ours = pair.both("POST", "auth/token/create", body, **more)
    assert theirs.status == ours.status == 200, (theirs, ours)
    pair.remember(name, theirs, ours)


@pytest.fixture
def maker(pair: Pair) -> None:
    """A policy whose tokens may make others of any kind."""
    policy = {"policy": 'path "auth/token/*" { capabilities = ["create", "update", "sudo"] }'}
    pair.same("PUT", "sys/policies/acl/maker", policy, status=204)


def accessors(pair: Pair, name: str) -> tuple[dict[str, str], dict[str, str]]:
    theirs, ours = pair.both("GET", "auth/token/lookup-self", token=name)
    return (
        {"accessor": theirs.body["data"]["accessor"]},
        {"accessor": ours.body["data"]["accessor"]},
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"policies": ["default"]},
        {"policies": ["p1", "P2"], "ttl": "1h", "meta": {"a": "b"}},
        {"no_default_policy": True, "policies": ["p1", "root-like"]},
        {"no_parent": True, "display_name": "my name!"},
        {"num_uses": 3, "renewable": False},
        {"period": "30m"},
        {"explicit_max_ttl": "2h", "ttl": "1h"},
        {"ttl": "2000h"},
        {"type": "batch", "policies": ["default"], "ttl": "1h"},
        {"type": "service"},
    ],
)
def test_a_token_is_created_and_looked_up(pair: Pair, body: dict[str, Any]) -> None:
    pair.same("POST", "auth/token/create", body, status=200)
    made(pair, "t", body)
    pair.same("GET", "auth/token/lookup-self", token="t")


@pytest.mark.parametrize(
    "body",
    [
        {"ttl": "garbage"},
        {"ttl": "-1h"},
        {"type": "nonsense"},
        {"num_uses": -1},
        {"period": "-1h"},
        {"explicit_max_ttl": "-1h"},
        {"type": "batch", "period": "1h"},
        {"type": "batch", "num_uses": 2},
        {"meta": "text"},
        {"policies": {"a": 1}},
    ],
)
def test_a_creation_that_makes_no_sense_is_refused(pair: Pair, body: dict[str, Any]) -> None:
    pair.same("POST", "auth/token/create", body, errors=False)


def test_an_orphan_is_created_at_its_own_path(pair: Pair) -> None:
    pair.same("POST", "auth/token/create-orphan", {"ttl": "1h"}, status=200)


@pytest.mark.usefixtures("maker")
def test_a_child_cannot_have_more_than_its_parent(pair: Pair) -> None:
    made(pair, "maker", {"policies": ["maker"]})
    pair.same("POST", "auth/token/create", {"policies": ["maker"]}, token="maker", status=200)
    pair.same("POST", "auth/token/create", {}, token="maker", status=200)


def test_without_sudo_policies_stay_within_the_parents(pair: Pair) -> None:
    policy = {"policy": 'path "auth/token/create*" { capabilities = ["create", "update"] }'}
    pair.same("PUT", "sys/policies/acl/plain", policy, status=204)
    made(pair, "plain", {"policies": ["plain"]})
    create = "auth/token/create"
    pair.same("POST", create, {"policies": ["other"]}, token="plain", errors=False)
    pair.same("POST", create, {"policies": ["root"]}, token="plain", errors=False)
    pair.same("POST", create, {"no_parent": True}, token="plain", errors=False)
    pair.same("POST", create, {"id": "mine"}, token="plain", errors=False)
    pair.same("POST", create, {"policies": ["plain"]}, token="plain", status=200)


def test_threat_acl_09_a_parent_without_default_gets_no_default_child(pair: Pair) -> None:
    text = 'path "auth/token/create" { capabilities = ["create", "update"] }'
    pair.same("POST", "sys/policies/acl/bare", {"policy": text})
    made(pair, "bare", {"policies": ["bare"], "no_default_policy": True})
    child = pair.same("POST", "auth/token/create", {}, token="bare", status=200)
    assert child.body["auth"]["policies"] == ["bare"]
    more = {"policies": ["bare", "default"]}
    pair.same("POST", "auth/token/create", more, token="bare", status=400, errors=False)


def test_a_token_is_found_by_its_accessor(pair: Pair) -> None:
    made(pair, "found", {"policies": ["default"], "ttl": "1h", "meta": {"k": "v"}})
    pair.same("POST", "auth/token/lookup-accessor", accessors(pair, "found"), status=200)
    pair.same("POST", "auth/token/lookup-accessor", {"accessor": "none"}, errors=False)
    pair.same("POST", "auth/token/lookup-accessor", {}, errors=False)


def test_another_token_is_looked_up_by_id(pair: Pair) -> None:
    made(pair, "other", {"ttl": "1h"})
    body = tuple({"token": token} for token in pair.tokens["other"])
    pair.same("POST", "auth/token/lookup", body, status=200)
    pair.same("POST", "auth/token/lookup", {"token": "s.unknown"}, errors=False)


def test_renewal_extends_within_the_bounds(pair: Pair) -> None:
    made(pair, "renewed", {"ttl": "1h", "explicit_max_ttl": "2h"})
    pair.same("POST", "auth/token/renew-self", {"increment": "30m"}, token="renewed", status=200)
    # Whether a second has passed since the creation shows in a warning.
    clock = {"warnings"}
    renew = "auth/token/renew"
    more = {"increment": "9h"}
    pair.same("POST", f"{renew}-self", more, token="renewed", status=200, ignore=clock)
    body = tuple({"token": token} for token in pair.tokens["renewed"])
    pair.same("POST", renew, body, status=200, ignore=clock)
    named = accessors(pair, "renewed")
    pair.same("POST", f"{renew}-accessor", named, status=200, ignore=clock)
    made(pair, "periodic", {"period": "1h"})
    pair.same("POST", "auth/token/renew-self", {}, token="periodic", status=200)
    made(pair, "fixed", {"ttl": "1h", "renewable": False})
    pair.same("POST", "auth/token/renew-self", {}, token="fixed", status=400, errors=False)
    pair.same("POST", "auth/token/renew-self", {}, status=400, errors=False)


@pytest.mark.usefixtures("maker")
def test_revocation_takes_the_children_too(pair: Pair) -> None:
    made(pair, "parent", {"policies": ["maker"]})
    made(pair, "child", {"policies": ["default"]}, token="parent")
    made(pair, "grandchild", {"policies": ["maker"]}, token="parent")
    body = tuple({"token": token} for token in pair.tokens["parent"])
    pair.same("POST", "auth/token/revoke", body, status=204)
    for name in ("parent", "child", "grandchild"):
        pair.same("GET", "auth/token/lookup-self", token=name, status=403)
    pair.same("POST", "auth/token/revoke", {"token": "s.unknown"}, errors=False)


@pytest.mark.usefixtures("maker")
def test_revoking_an_orphan_leaves_its_children(pair: Pair) -> None:
    made(pair, "lone", {"policies": ["maker"]})
    made(pair, "kept", {"policies": ["default"]}, token="lone")
    body = tuple({"token": token} for token in pair.tokens["lone"])
    pair.same("POST", "auth/token/revoke-orphan", body, status=204)
    pair.same("GET", "auth/token/lookup-self", token="lone", status=403)
    pair.same("GET", "auth/token/lookup-self", token="kept", status=200)


def test_a_token_revokes_itself(pair: Pair) -> None:
    made(pair, "self", {"policies": ["default"]})
    pair.same("POST", "auth/token/revoke-self", {}, token="self", status=204)
    pair.same("GET", "auth/token/lookup-self", token="self", status=403)
    made(pair, "accessed", {"policies": ["default"]})
    pair.same("POST", "auth/token/revoke-accessor", accessors(pair, "accessed"), status=204)
    pair.same("GET", "auth/token/lookup-self", token="accessed", status=403)
    pair.same("POST", "auth/token/revoke-accessor", {"accessor": "none"}, errors=False)


def test_a_counted_token_ends_with_its_last_use(pair: Pair) -> None:
    made(pair, "counted", {"num_uses": 2, "policies": ["default"]})
    pair.same("GET", "auth/token/lookup-self", token="counted", status=200)
    # OpenBao shows the last use as -1.
    pair.same("GET", "auth/token/lookup-self", token="counted", status=200, ignore={"num_uses"})
    pair.same("GET", "auth/token/lookup-self", token="counted", status=403)


def test_a_batch_token_cannot_be_renewed_or_revoked_and_has_no_cubbyhole(pair: Pair) -> None:
    made(pair, "batch", {"type": "batch", "policies": ["default"], "ttl": "1h"})
    pair.same("GET", "auth/token/lookup-self", token="batch", status=200)
    pair.same("POST", "auth/token/renew-self", {}, token="batch", errors=False)
    pair.same("POST", "auth/token/revoke-self", {}, token="batch", errors=False)
    pair.same("POST", "cubbyhole/a", {"a": 1}, token="batch", errors=False)


def test_roles_shape_what_is_created(pair: Pair) -> None:
    role = {
        "allowed_policies": ["a", "b"],
        "orphan": True,
        "path_suffix": "suffix",
        "token_period": "1h",
        "renewable": True,
    }
    pair.same("POST", "auth/token/roles/r1", role, status=204)
    pair.same("GET", "auth/token/roles/r1", status=200)
    pair.same("LIST", "auth/token/roles", status=200)
    pair.same("POST", "auth/token/create/r1", {"policies": ["a"]}, status=200)
    pair.same("POST", "auth/token/create/r1", {"policies": ["c"]}, errors=False)
    pair.same("POST", "auth/token/create/unknown", {}, errors=False)
    pair.same("DELETE", "auth/token/roles/r1", status=204)
    pair.same("GET", "auth/token/roles/r1", status=404)


@pytest.mark.parametrize("token", ["", "s.unknown", "x" * 5000, "garbage.token"])
def test_a_missing_or_unknown_token_is_refused_alike_everywhere(pair: Pair, token: str) -> None:
    for path in ("auth/token/lookup-self", "secret/data/x", "nowhere/at/all", "sys/mounts"):
        pair.same("GET", path, token=token, status=403)


# wrapping

OWN = {"encryptions", "term"}
WRAP = {"X-Vault-Wrap-TTL": "5m"}


def wrapped(pair: Pair, body: dict[str, Any]) -> tuple[str, str]:
    theirs, ours = pair.both("POST", "sys/wrapping/wrap", body, headers=WRAP)
    return theirs.body["wrap_info"]["token"], ours.body["wrap_info"]["token"]


def test_an_answer_is_wrapped_and_unwrapped_once(pair: Pair) -> None:
    pair.same("POST", "sys/wrapping/wrap", {"a": 1, "b": "c"}, headers=WRAP, status=200)
    tokens = wrapped(pair, {"a": 1})
    bodies = tuple({"token": token} for token in tokens)
    pair.same("POST", "sys/wrapping/lookup", bodies, status=200)
    pair.same("POST", "sys/wrapping/unwrap", bodies, status=200)
    pair.same("POST", "sys/wrapping/unwrap", bodies, status=400)
    pair.same("POST", "sys/wrapping/lookup", bodies, status=400)


def test_a_wrapping_token_unwraps_itself(pair: Pair) -> None:
    pair.tokens["wrapping"] = wrapped(pair, {"a": 1})
    pair.same("POST", "sys/wrapping/unwrap", None, token="wrapping", status=200)
    pair.same("POST", "sys/wrapping/unwrap", None, token="wrapping", errors=False)


def test_threat_wrap_02_a_wrapping_token_is_good_for_nothing_else(pair: Pair) -> None:
    pair.tokens["wrapping"] = wrapped(pair, {"a": 1})
    pair.same("GET", "secret/data/x", token="wrapping", status=403, errors=False)


def test_a_rewrapped_token_replaces_the_old(pair: Pair) -> None:
    bodies = tuple({"token": token} for token in wrapped(pair, {"a": 1}))
    pair.same("POST", "sys/wrapping/rewrap", bodies, status=200)
    pair.same("POST", "sys/wrapping/unwrap", bodies, status=400)


def test_any_endpoint_can_be_wrapped(pair: Pair) -> None:
    pair.same("GET", "auth/token/lookup-self", headers=WRAP, status=200)
    pair.same("POST", "auth/token/create", {}, headers=WRAP, status=200)
    pair.same("GET", "secret/data/none", headers=WRAP, status=404)


@pytest.mark.parametrize("ttl", ["-1", "garbage", "0", "60", "60s", "1h", ""])
def test_the_wrapping_header_is_a_duration(pair: Pair, ttl: str) -> None:
    pair.same("GET", "sys/key-status", headers={"X-Vault-Wrap-TTL": ttl}, errors=False, ignore=OWN)


def test_wrapping_without_the_header_is_refused(pair: Pair) -> None:
    pair.same("POST", "sys/wrapping/wrap", {"a": 1}, errors=False)


# userpass


@pytest.fixture(scope="module")
def users(pair: Pair) -> str:
    pair.same("POST", "sys/auth/users", {"type": "userpass"}, status=204)
    return "auth/users"


def test_a_user_is_made_shown_and_deleted(pair: Pair, users: str) -> None:
    body = {"password": "one two", "token_policies": ["a", "b"], "token_ttl": "1h"}
    pair.same("POST", f"{users}/users/ann", body, status=204)
    pair.same("GET", f"{users}/users/ann", status=200)
    pair.same("LIST", f"{users}/users", status=200)
    pair.same("POST", f"{users}/users/ann/policies", {"token_policies": "c"}, status=204)
    pair.same("GET", f"{users}/users/ann", status=200)
    pair.same("DELETE", f"{users}/users/ann", status=204)
    pair.same("GET", f"{users}/users/ann", status=404)
    pair.same("POST", f"{users}/users/nopass", {}, errors=False)


def test_a_user_logs_in_whatever_the_case_of_the_name(pair: Pair, users: str) -> None:
    pair.same("POST", f"{users}/users/Bob", {"password": "pw", "token_ttl": "1h"}, status=204)
    ignore = {"entity_id"}  # the identity engine is not built yet
    for name in ("bob", "BOB", "Bob"):
        pair.same(
            "POST", f"{users}/login/{name}", {"password": "pw"}, token="", status=200, ignore=ignore
        )
    pair.login("bob", "POST", f"{users}/login/bob", {"password": "pw"}, token="")
    pair.same("GET", "auth/token/lookup-self", token="bob", status=200, ignore=ignore)


def test_a_wrong_password_and_an_unknown_user_look_alike(pair: Pair, users: str) -> None:
    pair.same("POST", f"{users}/users/carl", {"password": "pw"}, status=204)
    wrong = pair.same("POST", f"{users}/login/carl", {"password": "no"}, token="", status=400)
    unknown = pair.same("POST", f"{users}/login/nobody", {"password": "no"}, token="", status=400)
    assert wrong.body == unknown.body


def test_a_user_is_locked_out_after_five_failures(pair: Pair, users: str) -> None:
    pair.same("POST", f"{users}/users/dora", {"password": "pw"}, status=204)
    for _ in range(5):
        pair.same("POST", f"{users}/login/dora", {"password": "no"}, token="", status=400)
    pair.same("POST", f"{users}/login/dora", {"password": "pw"}, token="", status=403)


def test_a_new_password_replaces_the_old(pair: Pair, users: str) -> None:
    pair.same("POST", f"{users}/users/eve", {"password": "old"}, status=204)
    pair.same("POST", f"{users}/users/eve/password", {"password": "new"}, status=204)
    pair.same("POST", f"{users}/login/eve", {"password": "old"}, token="", status=400)
    pair.same(
        "POST",
        f"{users}/login/eve",
        {"password": "new"},
        token="",
        status=200,
        ignore={"entity_id"},
    )
