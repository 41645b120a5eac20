"""The numbered conventions beside OpenBao: how requests are read, and who may make them."""

import http.client
import json
import socket
import uuid
from typing import NamedTuple

import pytest

from tests.conformance.pair import Pair


class Raw(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def exchange(port: int, message: bytes) -> Raw:
    """Bytes as they are, over a connection of their own."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(message)
        response = http.client.HTTPResponse(connection)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Raw(response.status, headers, response.read())


def raw(pair: Pair, message: str | bytes) -> tuple[Raw, Raw]:
    data = message.encode() if isinstance(message, str) else message
    return exchange(pair.oracle.port, data), exchange(pair.ours.port, data)


def post(path: str, body: str) -> str:
    return (
        f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nX-Vault-Token: root\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )


def get(target: str, *, method: str = "GET", headers: str = "X-Vault-Token: root\r\n") -> str:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n"


def limited(pair: Pair, name: str, policy: str) -> str:
    """A token on both sides with this policy alone; `token=name` uses it."""
    pair.same("POST", f"sys/policies/acl/{name}", {"policy": policy}, status=204)
    body = {"policies": [name], "no_default_policy": True}
    pair.login(name, "POST", "auth/token/create", body)
    return name


@pytest.mark.parametrize(
    "body",
    [
        '{"a":' * 20_000 + "1" + "}" * 20_000,
        '{"a":[' + ",".join(['"x"'] * 200_000) + "]}",
        "{" + ",".join(f'"k{number}":1' for number in range(100_000)) + "}",
        '{"a":' + "1" * 5000 + "}",
    ],
    ids=["deep", "many elements", "many names", "long number"],
)
def test_conv_11_json_beyond_its_limits_is_refused_before_who_asks_is_known(
    pair: Pair, body: str
) -> None:
    for token in ("", "root"):  # 403 without a token if that came first
        pair.same("POST", "sys/wrapping/wrap", body.encode(), token=token, errors=False, status=400)


def test_conv_15_of_two_token_headers_the_first_counts(pair: Pair) -> None:
    for first, second, status in (("root", "s.no", 200), ("s.no", "root", 403)):
        headers = f"X-Vault-Token: {first}\r\nX-Vault-Token: {second}\r\n"
        theirs, ours = raw(pair, get("/v1/auth/token/lookup-self", headers=headers))
        assert ours.status == theirs.status == status


def test_conv_19_the_header_of_official_clients_is_not_needed(pair: Pair) -> None:
    for headers in ({}, {"X-Vault-Request": "true"}, {"X-Vault-Request": "false"}):
        theirs, ours = pair.both("GET", "sys/mounts", headers=headers)
        assert ours.status == theirs.status == 200


@pytest.mark.parametrize("path", ["conv24/n", "secret/data/conv24"])
def test_conv_24_numbers_come_back_as_they_were_written(pair: Pair, path: str) -> None:
    pair.both("POST", "sys/mounts/conv24", {"type": "kv"})
    numbers = '{"data":{"n":[1.0,1e3,12345678901234567890123,1.50,-0,0.1e-7]}}'
    assert [answer.status < 300 for answer in raw(pair, post(path, numbers))] == [True, True]
    theirs, ours = raw(pair, get(f"/v1/{path}"))
    assert numbers[:-1].encode() in ours.body
    if path == "conv24/n":  # KV version 2 of OpenBao makes floats of them
        assert numbers[:-1].encode() in theirs.body


def test_conv_26_a_value_of_the_wrong_type_is_400_and_is_not_echoed(pair: Pair) -> None:
    for path, body in (
        ("auth/token/create", {"num_uses": "hunter2"}),
        ("auth/token/create", {"meta": "hunter2"}),
        ("secret/config", {"max_versions": "hunter2"}),
        ("sys/mounts/conv26", {"type": ["hunter2", {"a": 1}]}),
    ):
        theirs, ours = pair.both("POST", path, body)
        assert ours.status == theirs.status == 400, (theirs, ours)
        assert ours.body["errors"][0].startswith("Field validation failed: "), ours
        assert "hunter2" not in json.dumps(ours.body)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90), ("90", 90), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("1d", 86_400)],
)
def test_conv_27_a_duration_is_seconds_or_a_text_and_is_answered_in_seconds(
    pair: Pair, given: int | str, seconds: int
) -> None:
    made = pair.same("POST", "auth/token/create", {"ttl": given}, status=200)
    assert made.body["auth"]["lease_duration"] == seconds


@pytest.mark.parametrize("given", [["a", "b"], "a,b", "a, b"])
def test_conv_27_a_list_is_an_array_or_a_text_with_commas(
    pair: Pair, given: list[str] | str
) -> None:
    pair.same("POST", "auth/token/roles/conv27", {"allowed_policies": given}, status=204)
    role = pair.same("GET", "auth/token/roles/conv27", status=200)
    assert role.body["data"]["allowed_policies"] == ["a", "b"]


def test_conv_28_a_list_is_the_same_with_and_without_its_slash(pair: Pair) -> None:
    for name in ("b", "a/x", "B", "a", "%C3%A4"):
        pair.same("POST", f"secret/data/conv28/{name}", {"data": {}}, status=200)
    rule = 'path "secret/metadata/conv28/" { capabilities = ["list"] }'
    listing = limited(pair, "conv28", rule)
    for token in ("root", listing):
        for path in ("secret/metadata/conv28", "secret/metadata/conv28/"):
            for method, query in (("LIST", ""), ("GET", "?list=true")):
                answer = pair.same(method, path + query, token=token, status=200)
                assert answer.body["data"]["keys"] == ["B", "a", "a/", "b", "ä"]


def test_conv_29_lists_have_pages_and_scans_go_deep(pair: Pair) -> None:
    for name in ("a", "b/c/d", "b/e", "f"):
        pair.same("POST", f"secret/data/conv29/{name}", {"data": {}}, status=200)
    for query in ("?list=true&after=a&limit=1", "?list=true&limit=2", "?list=true&after=b/"):
        pair.same("GET", f"secret/metadata/conv29{query}", status=200)
    for method, query in (("GET", "?scan=true"), ("SCAN", "")):
        theirs, ours = pair.both(method, f"secret/metadata/conv29{query}")
        assert ours.body["data"]["keys"] == ["a", "b/c/d", "b/e", "f"]
        assert sorted(theirs.body["data"]["keys"]) == ours.body["data"]["keys"]  # by depth there


def test_conv_30_every_path_has_help(pair: Pair) -> None:
    for path in ("sys/mounts", "secret/data/conv30", "auth/token/create", "cubbyhole/x"):
        theirs, ours = pair.both("GET", f"{path}?help=1")
        assert ours.status == theirs.status == 200
        assert ours.body["help"]
        assert ours.body["openapi"]["paths"], path


def test_conv_32_a_name_does_not_end_in_a_slash(pair: Pair) -> None:
    for method, body, status in (("POST", {"data": {}}, 400), ("GET", None, 404)):
        pair.same(method, "secret/data/conv32/", body, errors=False, status=status)
    pair.same("POST", "secret/data/conv32/a..b", {"data": {"a": 1}}, status=200)
    pair.same("GET", "secret/data/conv32/a..b", status=200)


def test_conv_33_names_are_one_in_any_case_also_for_policies(pair: Pair) -> None:
    pair.both("POST", "sys/auth/userpass", {"type": "userpass"})
    pair.same("POST", "auth/userpass/users/Conv33", {"password": "pw"}, status=204)
    rules = (
        'path "auth/userpass/users/*" { capabilities = ["read"] }\n'
        'path "auth/userpass/users/conv33" { capabilities = ["deny"] }\n'
        'path "sys/policies/acl/*" { capabilities = ["read"] }\n'
        'path "sys/policies/acl/conv33" { capabilities = ["deny"] }'
    )
    reader = limited(pair, "conv33", rules)
    for name in ("conv33", "CONV33", "cOnV33"):
        pair.same("GET", f"auth/userpass/users/{name}", status=200)
        pair.same("GET", f"sys/policies/acl/{name}", status=200, ignore={"modified"})
        for path in (f"auth/userpass/users/{name}", f"sys/policies/acl/{name}"):
            assert pair.ours.request("GET", path, token=pair.tokens[reader][1]).status == 403, path


def test_conv_34_what_is_not_there_is_created_and_what_is_there_updated(pair: Pair) -> None:
    for name, can in (("conv34-c", "create"), ("conv34-u", "update")):
        limited(pair, name, f'path "secret/data/conv34/*" {{ capabilities = ["{can}"] }}')
    pair.same("POST", "secret/data/conv34/x", {"data": {}}, token="conv34-u", status=403)
    pair.same("POST", "secret/data/conv34/x", {"data": {}}, token="conv34-c", status=200)
    pair.same("POST", "secret/data/conv34/x", {"data": {}}, token="conv34-c", status=403)
    pair.same("POST", "secret/data/conv34/x", {"data": {}}, token="conv34-u", status=200)


def test_conv_36_only_v1_is_served(pair: Pair) -> None:
    theirs, ours = raw(pair, get("/"))
    assert ours.status == theirs.status == 307
    assert ours.headers["location"] == theirs.headers["location"] == "/ui/"
    for target in ("/v2", "/v2/sys/health", "/nowhere"):
        theirs, ours = raw(pair, get(target))
        assert ours.status == theirs.status == 404
        assert json.loads(ours.body) == {"errors": []}


def test_conv_37_deleting_what_is_not_there_is_fine(pair: Pair) -> None:
    for path in (
        "sys/mounts/conv37",
        "sys/auth/conv37",
        "sys/policies/acl/conv37",
        "secret/data/conv37",
        "secret/metadata/conv37",
        "cubbyhole/conv37",
    ):
        pair.same("DELETE", path, status=204)
    pair.same("POST", "auth/token/revoke", {"token": "s.conv37"}, status=204)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /v1/sys/seal-status HTTP/1.0\r\n", 200),
        ("GET /v1/sys/seal-status HTTP/1.1\r\nHost: x\r\n", 200),
        ("GET http://elsewhere/v1/sys/seal-status HTTP/1.1\r\nHost: x\r\n", 200),
        ("GET /v1/sys/seal-status HTTP/1.1\r\n", 400),
        (
            "POST /v1/sys/unseal HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n",
            400,
        ),
    ],
)
def test_conv_38_forms_of_a_request(pair: Pair, head: str, status: int) -> None:
    theirs, ours = raw(pair, f"{head}\r\n{{}}")
    assert ours.status == theirs.status == status


def test_conv_38_a_connection_carries_many_requests(pair: Pair) -> None:
    for port in (pair.oracle.port, pair.ours.port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(3):
            connection.request("GET", "/v1/sys/seal-status")
            used = connection.sock
            assert connection.getresponse().read()
            assert connection.sock is used
        connection.close()


def test_conv_40_a_token_says_its_type_and_chosen_ones_have_no_dot(pair: Pair) -> None:
    for kind, head in (("service", "s."), ("batch", "b.")):
        for answer in pair.both("POST", "auth/token/create", {"type": kind, "policies": "default"}):
            assert answer.body["auth"]["client_token"].startswith(head)
    chosen = uuid.uuid4().hex
    made = pair.same("POST", "auth/token/create", {"id": chosen}, status=200, ignore={"warnings"})
    assert made.body["auth"]["client_token"] == chosen
    pair.same("POST", "auth/token/create", {"id": "conv.40"}, errors=False, status=400)
