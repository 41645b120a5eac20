"""The numbered conventions of the HTTP surface beside OpenBao: what is answered, and when.

`tests/docs/test_conventions.py` checks that every number has a test or a reason in
docs/compatibility.md. Requests are the subject of `test_conventions_requests.py`.
"""

from tests.conformance.pair import Pair

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
DENIED = "1 error occurred:\n\t* permission denied\n\n"
OVER_LIMIT = 33_554_433


def a_stranger(pair: Pair, name: str = "stranger") -> str:
    """A token on both sides that may look itself up and nothing else."""
    if name not in pair.tokens:
        pair.login(name, "POST", "auth/token/create", {"policies": ["default"]})
    return name


def test_conv_01_an_answer_has_every_part_of_the_envelope(pair: Pair) -> None:
    pair.same("POST", "secret/data/conv01", {"data": {"a": 1}}, status=200)
    for method, path, body in (
        ("GET", "secret/data/conv01", None),
        ("GET", "sys/mounts", None),
        ("POST", "auth/token/create", {"ttl": "1m"}),
        ("LIST", "sys/policies/acl", None),
    ):
        theirs, ours = pair.both(method, path, body)
        assert ours.body.keys() >= ENVELOPE, path
        assert theirs.body.keys() >= ENVELOPE, path
        empty = {name: ours.body[name] for name in ("lease_id", "renewable", "wrap_info")}
        assert empty == {"lease_id": "", "renewable": False, "wrap_info": None}, path


def test_conv_02_an_error_is_a_list_of_texts_and_nothing_there_is_an_empty_one(pair: Pair) -> None:
    theirs, ours = pair.both("GET", "secret/data/conv02-never-written")
    assert (ours.status, ours.body) == (theirs.status, theirs.body) == (404, {"errors": []})
    theirs, ours = pair.both("POST", "auth/token/lookup-accessor", {"accessor": "nobody"})
    for answer in (theirs, ours):
        assert answer.status == 400
        assert list(answer.body) == ["errors"]
        assert all(text and isinstance(text, str) for text in answer.body["errors"])


def test_conv_03_a_write_with_nothing_to_say_is_204_without_a_body(pair: Pair) -> None:
    for path, body in (
        ("sys/policies/acl/conv03", {"policy": 'path "x" { capabilities = ["read"] }'}),
        ("secret/metadata/conv03", {"max_versions": 3}),
        ("sys/mounts/secret/tune", {"description": "key/value secret storage"}),
    ):
        theirs, ours = pair.both("POST", path, body)
        assert (ours.status, ours.body) == (theirs.status, theirs.body) == (204, None), path


def test_conv_04_some_answers_of_sys_repeat_their_data_and_some_have_no_envelope(
    pair: Pair,
) -> None:
    for method, path, body in (
        ("GET", "sys/mounts", None),
        ("GET", "sys/auth", None),
        ("GET", "sys/policy", None),
        ("GET", "sys/policy/default", None),
        ("GET", "sys/audit", None),
        ("GET", "sys/key-status", None),
        ("POST", "sys/capabilities-self", {"path": "secret/x"}),
        ("GET", "sys/ha-status", None),
        ("GET", "sys/mounts/secret/tune", None),
    ):
        theirs, ours = pair.both(method, path, body)
        assert theirs.body.keys() >= theirs.body["data"].keys(), path
        for name, value in ours.body["data"].items():
            assert ours.body[name] == value, (path, name)
    pair.both("POST", "sys/mounts/conv04", {"type": "kv"})
    moved = pair.both("POST", "sys/remount", {"from": "conv04", "to": "conv04-moved"})
    for answer in moved:
        assert answer.body["migration_id"] == answer.body["data"]["migration_id"]
    for path in ("sys/init", "sys/health", "sys/seal-status", "sys/leader"):
        theirs, ours = pair.both("GET", path)
        assert "data" not in theirs.body.keys() | ours.body.keys(), path
        assert "request_id" not in theirs.body.keys() | ours.body.keys(), path


def test_conv_05_a_version_that_was_deleted_is_a_404_that_tells_about_it(pair: Pair) -> None:
    for _ in range(2):
        pair.same("POST", "secret/data/conv05", {"data": {"a": 1}}, status=200)
    pair.same("DELETE", "secret/data/conv05", status=204)
    deleted = pair.same("GET", "secret/data/conv05", status=404)
    assert deleted.body["data"]["data"] is None
    assert deleted.body["data"]["metadata"]["version"] == 2
    pair.same("POST", "secret/destroy/conv05", {"versions": [1]}, status=204)
    destroyed = pair.same("GET", "secret/data/conv05?version=1", status=404)
    assert destroyed.body["data"]["metadata"]["destroyed"] is True
    warned = pair.same("GET", "secret/conv05", status=404)
    assert warned.body["data"] is None
    assert warned.body["warnings"]


def test_conv_06_what_cannot_be_meant_is_400(pair: Pair) -> None:
    pair.both("POST", "sys/auth/userpass", {"type": "userpass"})
    pair.both("POST", "auth/userpass/users/conv06", {"password": "right"})
    pair.same("POST", "secret/data/conv06", {"data": {}}, status=200)
    wrapped = pair.both("GET", "secret/data/conv06", headers={"X-Vault-Wrap-TTL": "60"})
    used = [{"token": answer.body["wrap_info"]["token"]} for answer in wrapped]
    pair.both("POST", "sys/wrapping/unwrap", (used[0], used[1]))
    for path, body in (
        ("auth/userpass/login/conv06", {"password": "wrong"}),
        ("auth/userpass/login/conv06-nobody", {"password": "right"}),
        ("auth/token/create/no-such-role", {}),
        ("secret/data/conv06", {"data": {}, "options": {"cas": 7}}),
        ("sys/wrapping/unwrap", (used[0], used[1])),
        ("auth/token/lookup-accessor", {"accessor": "nobody"}),
        ("auth/token/create", {"ttl": "soon"}),
    ):
        pair.same("POST", path, body, errors=False, status=400)


def test_conv_07_who_is_not_known_or_not_allowed_is_403(pair: Pair) -> None:
    stranger = a_stranger(pair)
    for token in ("", "s.AAAAAAAAAAAAAAAAAAAAAAAA", "no token at all"):
        for path in ("sys/mounts", "secret/data/x", "nowhere/at/all", "sys/nowhere"):
            pair.same("GET", path, token=token, errors=False, status=403)
    for path in ("sys/mounts", "secret/data/x", "nowhere/at/all"):
        pair.same("GET", path, token=stranger, errors=False, status=403)
    pair.same("POST", "auth/token/lookup", {"token": "s.none"}, errors=False, status=403)


def test_conv_07_who_is_locked_out_is_403_also_with_the_right_password(pair: Pair) -> None:
    pair.both("POST", "sys/auth/userpass", {"type": "userpass"})
    pair.both("POST", "auth/userpass/users/conv07", {"password": "right"})
    for _ in range(5):
        wrong = {"password": "wrong"}
        pair.same("POST", "auth/userpass/login/conv07", wrong, token="", errors=False, status=400)
    right = {"password": "right"}
    pair.same("POST", "auth/userpass/login/conv07", right, token="", errors=False, status=403)


def test_conv_14_clients_find_permission_denied_in_the_message(pair: Pair) -> None:
    ruled_out = pair.same("GET", "sys/mounts", token=a_stranger(pair), status=403)
    assert ruled_out.body == {"errors": [DENIED]}
    unknown = pair.same("GET", "sys/mounts", token="s.AAAAAAAAAAAAAAAAAAAAAAAA", status=403)
    assert any("permission denied" in text for text in unknown.body["errors"])


def test_conv_10_too_large_is_413_or_431_and_a_patch_of_another_kind_415(pair: Pair) -> None:
    theirs, ours = pair.both("POST", "secret/data/conv10", b" " * OVER_LIMIT)
    assert ours.status == theirs.status == 413
    pair.same("POST", "auth/token/tidy", ignore={"warnings"}, status=202)
    pair.same("POST", "secret/data/conv10", {"data": {}}, status=200)
    for kind, status in (
        ("application/merge-patch+json", 200),
        ("application/json", 415),
        ("text/plain", 415),
    ):
        theirs, ours = pair.both(
            "PATCH", "secret/data/conv10", {"data": {"a": 1}}, headers={"Content-Type": kind}
        )
        assert ours.status == theirs.status == status, kind
    large = {"X-Large": "x" * 300_000}  # OpenBao's limit is 1 MiB, and it closes as it answers
    assert pair.ours.request("GET", "sys/health", headers=large).status == 431


def test_conv_17_an_answer_is_wrapped_for_the_time_asked(pair: Pair) -> None:
    pair.same("POST", "secret/data/conv17", {"data": {"a": "b"}}, status=200)
    for asked, seconds in (("60", 60), ("60s", 60), ("5m", 300)):
        wrapped = pair.same(
            "GET", "secret/data/conv17", headers={"X-Vault-Wrap-TTL": asked}, status=200
        )
        assert wrapped.body["wrap_info"]["ttl"] == seconds
    for asked, status in (("0", 200), ("-1", 400), ("soon", 400)):
        answer = pair.same(
            "GET",
            "secret/data/conv17",
            headers={"X-Vault-Wrap-TTL": asked},
            errors=False,
            status=status,
        )
        assert not answer.body.get("wrap_info")
    hour = {"X-Vault-Wrap-TTL": "1h"}
    pair.same("GET", "secret/data/conv17-nothing", headers=hour, status=404)
    pair.same("POST", "secret/metadata/conv17", {"max_versions": 3}, headers=hour, status=204)
    signed = pair.both("GET", "secret/data/conv17", headers={**hour, "X-Vault-Wrap-Format": "jwt"})
    for answer in signed:
        assert answer.body["wrap_info"]["token"].count(".") == 2


def test_conv_18_a_wrapped_answer_holds_nothing_but_its_wrapping(pair: Pair) -> None:
    pair.same("POST", "secret/data/conv18", {"data": {"a": "b"}}, status=200)
    wrapped = pair.same("GET", "secret/data/conv18", headers={"X-Vault-Wrap-TTL": "60"}, status=200)
    assert wrapped.body["data"] is None
    assert wrapped.body["request_id"] == ""
    assert wrapped.body["wrap_info"]["creation_path"] == "secret/data/conv18"
    bounded = (
        'path "secret/data/conv18" {\n  capabilities = ["read"]\n'
        '  min_wrapping_ttl = "1m"\n  max_wrapping_ttl = "2m"\n}'
    )
    pair.same("POST", "sys/policies/acl/conv18", {"policy": bounded}, status=204)
    pair.login("conv18", "POST", "auth/token/create", {"policies": ["conv18"]})
    for asked, status in (("", 403), ("30s", 403), ("90s", 200), ("3m", 403)):
        headers = {"X-Vault-Wrap-TTL": asked} if asked else {}
        pair.same("GET", "secret/data/conv18", token="conv18", headers=headers, status=status)
