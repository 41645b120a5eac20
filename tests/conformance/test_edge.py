"""The conventions of the HTTP surface (API inventory, section 0) beside OpenBao."""

from typing import Any

import pytest

from tests.conformance.pair import Pair

# OpenBao makes the root token of a development server like any other token.
DEV_ROOT = {"display_name", "path"}


@pytest.mark.parametrize(
    "path",
    [
        "nowhere",
        "nowhere/at/all",
        "sys/nowhere",
        "auth/nowhere/login",
        "auth/token/nowhere",
        "secret",
        "secret/",
        "cubbyhole/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "LIST"])
def test_conv_08_unknown_paths(pair: Pair, method: str, path: str) -> None:
    body: Any = {} if method == "POST" else None
    if path == "cubbyhole/" and method in ("GET", "DELETE"):
        # OpenBao answers 500, or deletes nothing and calls it 204.
        assert 400 <= pair.ours.request(method, path).status < 500
    else:
        pair.same(method, path, body, errors=False)


@pytest.mark.parametrize("method", ["TRACE", "FOO", "HEAD"])
def test_conv_09_verbs_that_nothing_serves(pair: Pair, method: str) -> None:
    theirs, ours = pair.both(method, "sys/mounts")
    assert ours.status == theirs.status == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("LIST", "secret/data/x"),
        ("DELETE", "auth/token/lookup-self"),
        ("PATCH", "auth/token/create"),
        ("PATCH", "cubbyhole/x"),
        ("GET", "auth/token/create"),
        ("POST", "sys/health"),
    ],
)
def test_conv_09_verbs_that_a_known_path_does_not_serve(pair: Pair, method: str, path: str) -> None:
    kind = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
    body: Any = {} if method in ("POST", "PATCH") else None
    pair.same(method, path, body, headers=kind, errors=False, status=405)


def test_conv_09_head_is_for_health(pair: Pair) -> None:
    theirs, ours = pair.both("HEAD", "sys/health", token="")
    assert ours.status == theirs.status == 200


@pytest.mark.parametrize(
    "body",
    [b"[]", b'"text"', b"5", b"{", b"{}x", b'{"a":}', b"\xff", b'{"a":"\xff"}', b"null", b""],
)
def test_conv_23_what_a_body_may_be(pair: Pair, body: bytes) -> None:
    theirs, ours = pair.both("POST", "auth/token/lookup-accessor", body)
    if theirs.status == 500:
        assert 400 <= ours.status < 500
    else:
        assert ours.status == theirs.status, (theirs, ours)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"ttl":"2m"}', {"Content-Type": "text/plain"}),
        (b'{"ttl":"2m"}', {}),
        (b'{"ttl":"1m","ttl":"2m"}', {}),
        (b"ttl=2m", {"Content-Type": "application/x-www-form-urlencoded"}),
    ],
)
def test_conv_23_a_body_is_an_object_or_a_form(
    pair: Pair, body: bytes, headers: dict[str, str]
) -> None:
    made = pair.same("POST", "auth/token/create", body, headers=headers, status=200)
    assert made.body["auth"]["lease_duration"] == 120


@pytest.mark.parametrize(
    "target",
    [
        "sys//mounts",
        "sys/./mounts",
        "sys/../sys/mounts",
        "secret/data/a..b",
        "secret/%2e%2e/sys/mounts",
        "sys%2fmounts",
        "secret/data/%00",
        "secret/data/%0a",
        "secret/data/%ff",
        "secret/data/a%20b",
    ],
)
def test_conv_31_odd_paths(pair: Pair, target: str) -> None:
    theirs, ours = pair.both("GET", target)
    if theirs.status == 500 or target.endswith("%ff"):  # text that is no UTF-8: 4xx
        assert 400 <= ours.status < 500
    else:
        assert ours.status == theirs.status, (theirs, ours)
        if theirs.status == 307:
            assert ours.headers["location"] == theirs.headers["location"]


def test_conv_22_headers_of_an_answer(pair: Pair) -> None:
    theirs, ours = pair.both("GET", "sys/mounts")
    for name in ("cache-control", "content-type", "strict-transport-security"):
        assert ours.headers.get(name) == theirs.headers.get(name), name
    asked = {"Accept-Encoding": "gzip", "Origin": "https://elsewhere"}
    theirs, ours = pair.both("GET", "sys/mounts", headers=asked)
    for answer in (theirs, ours):  # neither compressed, nor for other origins, nor numbered
        assert (
            not {"content-encoding", "x-request-id", "x-vault-request-id"} & answer.headers.keys()
        )
        assert "access-control-allow-origin" not in answer.headers
        assert isinstance(answer.body, dict)


def test_conv_25_unknown_fields_are_warned_about(pair: Pair) -> None:
    pair.same("POST", "auth/token/create", {"zebra": 1, "ttl": "1h"}, status=200)
    pair.same("POST", "secret/metadata/conv25", {"zebra": 1, "max_versions": 2}, status=204)


def test_conv_21_headers_that_change_nothing(pair: Pair) -> None:
    headers = {
        "X-Vault-Request": "true",
        "X-Vault-MFA": "x",
        "X-Vault-Policy-Override": "true",
        "X-Vault-No-Request-Forwarding": "true",
        "X-Unknown": "1",
    }
    pair.same("GET", "auth/token/lookup-self", headers=headers, status=200, ignore=DEV_ROOT)


def test_conv_16_namespaces_that_do_not_exist(pair: Pair) -> None:
    pair.same("GET", "sys/mounts", headers={"X-Vault-Namespace": "nope"}, errors=False)
    pair.same("GET", "nope/sys/mounts", errors=False, status=404)
    theirs, ours = pair.both("GET", "sys/mounts", headers={"X-Vault-Namespace": "root"})
    assert theirs.status == ours.status == 200


def test_conv_15_a_bearer_token_is_a_token(pair: Pair) -> None:
    for value in ("Bearer root", "bearer root", "Basic root", "Bearer", "root"):
        theirs, ours = pair.both(
            "GET", "auth/token/lookup-self", token="", headers={"Authorization": value}
        )
        assert ours.status == theirs.status, value


def test_conv_13_health_of_an_open_server(pair: Pair) -> None:
    for query in ("", "?activecode=299", "?standbyok=true", "?activecode=x"):
        theirs, ours = pair.both("GET", f"sys/health{query}", token="")
        assert ours.status == theirs.status, query
