"""From HTTP to a request: Vault's conventions, and one path only (PATH-IS-PATH, ACL-02)."""

import re
import uuid
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.errors import (
    InvalidRequest,
    NotFound,
    UndercroftError,
    UnsupportedMediaType,
    UnsupportedOperation,
)
from undercroft.http.message import HttpRequest
from undercroft.http.vault import PATH_BYTES_MAX, Redirect, request_ids, to_request
from undercroft.request.model import Operation, Request


def ask(target: bytes, method: str = "GET", body: bytes = b"", **headers: bytes) -> Request:
    """Headers are written with underscores; Host is always there."""
    sent = {b"host": b"a"} | {
        name.lower().replace("_", "-").encode(): value for name, value in headers.items()
    }
    return to_request(HttpRequest(method, target, sent, body, ("10.0.0.9", 99)), "id")


def path_of(target: bytes) -> str:
    return ask(target).path


def location(target: bytes) -> str:
    with pytest.raises(Redirect) as caught:
        ask(target)
    assert caught.value.response.status == 307
    assert caught.value.response.body == b""
    return dict(caught.value.response.headers)["Location"]


# paths


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/secret/data/a", "secret/data/a"),
        (b"/v1/secret/data/a/", "secret/data/a/"),
        (b"/v1/secret/data/a%2fb", "secret/data/a/b"),
        (b"/v1/secret/data/a%2Fb%2f", "secret/data/a/b/"),
        (b"/%76%31/secret/a", "secret/a"),
        (b"/v1/secret/a%20b", "secret/a b"),
        (b"/v1/secret/a+b", "secret/a+b"),
        (b"/v1/secret/%C3%A4", "secret/ä"),
        (b"/v1/secret/a%25b", "secret/a%b"),
        (b"/v1/secret/a%253fb", "secret/a%3fb"),
        (b"/v1/secret/a%3fb%23c", "secret/a?b#c"),
        (b"/v1/secret/.a", "secret/.a"),
        (b"/v1/secret/...", "secret/..."),
        (b"/v1/secret/a..b", "secret/a..b"),
        (b"/v1/secret/a;b", "secret/a;b"),
        (b"/v1/secret/a%5cb", "secret/a\\b"),
        (b"/v1/a:b@c!$&'()*+,=~", "a:b@c!$&'()*+,=~"),
        (b"http://host:8200/v1/secret/a", "secret/a"),
        (b"HTTPS://host/v1/secret/a", "secret/a"),
    ],
)
def test_a_path_is_decoded_exactly_once(target: bytes, path: str) -> None:
    assert path_of(target) == path


DOTS = [
    b"%2e",
    b"%2e%2e",
    b"%2E%2e",
    b".%2e",
    b"%2e.",
    b"%252e%252e",
    b"%25252e%2e",
    b"%2e%2e;",
    b"..;x=y",
    b"..%3bx",
    b"%2e%2e%253bx",
    b".;",
    b"..%5c",
    b"%5c..",
    b"x%5c..%5cy",
    b"..\\x",
    b"x%255c..",
    b"x%252f..",
    b"x%2f..%2fy",
    b"x%2f.",
    b"..%2f",
    b"%2e%2e%2f",
]


@pytest.mark.parametrize("segment", DOTS)
@pytest.mark.parametrize("method", ["GET", "DELETE", "LIST", "POST"])
def test_threat_acl_02_a_dot_segment_in_any_spelling_is_refused(
    segment: bytes, method: str
) -> None:
    for target in (
        b"/v1/secret/data/%b/b" % segment,
        b"/v1/secret/data/%b" % segment,
        b"/v1/%b/sys" % segment,
        b"/v1/secret/data/%b?a=b" % segment,
        b"http://a/v1/secret/%b" % segment,
    ):
        with pytest.raises(InvalidRequest):
            ask(target, method)


@pytest.mark.parametrize("target", [b"/v1/a%2f%2fb", b"/v1/a/%2f", b"/v1/a%2f/b", b"/v1/%2fa"])
def test_threat_acl_02_an_empty_segment_that_was_encoded_is_refused(target: bytes) -> None:
    with pytest.raises((InvalidRequest, NotFound)):
        path_of(target)


@pytest.mark.parametrize(
    ("target", "to"),
    [
        (b"/v1//secret", "/v1/secret"),
        (b"//v1/secret", "/v1/secret"),
        (b"/v1/secret//", "/v1/secret/"),
        (b"/v1/secret/./a", "/v1/secret/a"),
        (b"/v1/secret/../sys/mounts", "/v1/sys/mounts"),
        (b"/v1/secret/data/a/..", "/v1/secret/data"),
        (b"/v1/secret/.", "/v1/secret"),
        (b"/v1/../../../etc/passwd", "/etc/passwd"),
        (b"/v1//a?x=%20y&list=true", "/v1/a?x=%20y&list=true"),
        (b"/v1//a%2f%20", "/v1/a%2f%20"),
        (b"//evil.example/v1", "/evil.example/v1"),
        (b"/\\evil//x", "/%5Cevil/x"),
        (b"http://evil.example//v1/a", "/v1/a"),
        (b"/", "/ui/"),
        (b"http://a", "/ui/"),
    ],
)
def test_raw_empty_and_dot_segments_are_sent_to_the_clean_path_here(target: bytes, to: str) -> None:
    assert location(target) == to


@pytest.mark.parametrize("code", [*range(0x20), 0x7F])
def test_control_characters_are_refused(code: int) -> None:
    with pytest.raises(InvalidRequest, match="control"):
        path_of(b"/v1/secret/a%%%02xb" % code)


@pytest.mark.parametrize(
    "bad", [b"%ff", b"%c3", b"%c3%28", b"%c0%af", b"%c0%ae%c0%ae", b"%ed%a0%80", b"%f4%90%80%80"]
)
def test_a_path_that_is_not_utf_8_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidRequest, match="UTF-8"):
        path_of(b"/v1/secret/a" + bad)


@pytest.mark.parametrize("bad", [b"%", b"%2", b"%zz", b"%2g", b"%u002e", b"% 2e"])
def test_a_broken_percent_encoding_is_refused(bad: bytes) -> None:
    with pytest.raises(InvalidRequest, match="percent"):
        path_of(b"/v1/secret/a" + bad)


@pytest.mark.parametrize("target", [b"v1/a", b"*", b"host:443", b"ftp://a/v1/a", b"", b"?a"])
def test_a_target_that_is_no_path_is_refused(target: bytes) -> None:
    with pytest.raises(InvalidRequest):
        path_of(target)


@pytest.mark.parametrize(
    "target", [b"/v1", b"/v1/", b"/v2/a", b"/v1a/b", b"/V1/a", b"/v1%00a", b"/secret", b"/v1?a=b"]
)
def test_what_is_not_below_v1_is_not_there(target: bytes) -> None:
    with pytest.raises((NotFound, InvalidRequest)) as caught:
        path_of(target)
    assert caught.value.message in ("", "the path has control or invisible characters")


def test_a_path_of_32_kib_fits_even_encoded_and_a_longer_one_does_not() -> None:
    assert path_of(b"/v1/secret/" + b"%61" * 32 * 1024) == "secret/" + "a" * 32 * 1024
    with pytest.raises(InvalidRequest, match="too long"):
        path_of(b"/v1/" + b"%61" * (PATH_BYTES_MAX + 1))
    with pytest.raises(InvalidRequest, match="too long"):
        path_of(b"/v1/" + b"a" * 3 * PATH_BYTES_MAX)


_PIECES = st.sampled_from(
    b"/ . .. %2e %2f %5c \\ ; %25 2e 2f a %41 %c3%a4 %20 + ? # %3f %3b %00 ~ %".split(b" ")
)


@given(st.lists(_PIECES, max_size=14).map(b"".join), st.sampled_from(["GET", "LIST", "DELETE"]))
def test_threat_acl_02_a_path_has_no_empty_or_dot_segments_and_means_itself(
    tail: bytes, method: str
) -> None:
    try:
        path = ask(b"/v1/" + tail, method).path
    except (UndercroftError, Redirect):
        return
    segments = path.removesuffix("/").split("/")
    assert not {"", ".", ".."} & set(segments)
    assert path.isprintable()
    assert ask(b"/v1/" + quote(path).encode(), method).path == path


@given(st.lists(_PIECES, max_size=14).map(b"".join))
def test_a_redirect_leads_to_this_server_and_to_no_other_redirect(tail: bytes) -> None:
    try:
        ask(b"/v1/" + tail)
    except UndercroftError:
        return
    except Redirect as redirect:
        to = dict(redirect.response.headers)["Location"]
    else:
        return
    assert re.fullmatch(r"/(?![/\\])[\x21-\x7e]*", to)
    if to != "/ui/":
        assert redirect_of(to.encode()) in ("", "/ui/")


def redirect_of(target: bytes) -> str:
    try:
        ask(target)
    except UndercroftError:
        return ""
    except Redirect as redirect:
        return dict(redirect.response.headers)["Location"]
    return ""


# operations


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("GET", Operation.READ),
        ("POST", Operation.UPDATE),
        ("PUT", Operation.UPDATE),
        ("DELETE", Operation.DELETE),
        ("LIST", Operation.LIST),
        ("SCAN", Operation.SCAN),
    ],
)
def test_a_method_is_an_operation(method: str, operation: Operation) -> None:
    assert ask(b"/v1/secret/a", method).operation is operation


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "get", "REVOKE", ""])
def test_other_methods_are_not_supported(method: str) -> None:
    with pytest.raises(UnsupportedOperation):
        ask(b"/v1/secret/a", method)


def test_head_is_for_health_only() -> None:
    assert ask(b"/v1/sys/health?standbyok=true", "HEAD").operation is Operation.READ
    for target in (b"/v1/secret/a", b"/v1/sys/health/", b"/v1/sys/healthy"):
        with pytest.raises(UnsupportedOperation):
            ask(target, "HEAD")


@pytest.mark.parametrize(
    "target", [b"/v1/secret/a", b"/v1/secret/a/", b"/v1/secret/a%2f", b"/v1/secret/a?b=c"]
)
@pytest.mark.parametrize("method", ["LIST", "SCAN"])
def test_the_path_of_a_listing_ends_in_one_slash(method: str, target: bytes) -> None:
    assert ask(target, method).path == "secret/a/"


def test_the_query_asks_for_a_listing_and_is_consumed() -> None:
    for flag in (b"1", b"t", b"T", b"true", b"TRUE", b"True"):
        request = ask(b"/v1/secret/a?x=y&list=" + flag)
        assert (request.operation, request.path) == (Operation.LIST, "secret/a/")
        assert request.query == {"x": "y"}
        assert ask(b"/v1/secret/a?scan=" + flag).operation is Operation.SCAN
    for flag in (b"", b"0", b"f", b"F", b"false", b"FALSE", b"False"):
        assert ask(b"/v1/secret/a?scan=%b&list=%b" % (flag, flag)).operation is Operation.READ
    for flag in (b"yes", b"2", b"tRUE", b"%20"):
        with pytest.raises(InvalidRequest):
            ask(b"/v1/secret/a?list=" + flag)


def test_only_a_get_can_be_turned_into_a_listing() -> None:
    for method in ("POST", "DELETE"):
        request = ask(b"/v1/secret/a?list=true", method)
        assert request.path == "secret/a"
        assert request.operation in (Operation.UPDATE, Operation.DELETE)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "LIST", "SCAN"])
@pytest.mark.parametrize("query", [b"help=1", b"help=true", b"help=0", b"list=true&help=1"])
def test_help_is_asked_for_by_the_query_and_does_nothing_else(method: str, query: bytes) -> None:
    request = ask(b"/v1/secret/a?" + query, method, b'{"a":1}')
    assert (request.operation, request.body, request.query) == (Operation.HELP, b"", {})


def test_help_without_a_value_is_not_asked_for() -> None:
    assert ask(b"/v1/secret/a?help").operation is Operation.READ


@pytest.mark.parametrize("method", ["LIST", "DELETE", "POST"])
def test_what_asks_for_a_listing_is_no_parameter_of_any_method(method: str) -> None:
    assert ask(b"/v1/secret/a?list=true&scan=x&after=b", method).query == {"after": "b"}


def test_a_request_lists_or_scans() -> None:
    with pytest.raises(InvalidRequest):
        ask(b"/v1/secret/a?list=true&scan=true")


@pytest.mark.parametrize("query", [b"a=%zz", b"a=%2", b"a=1;b=2", b"list=true;x=1", b"a=b#c"])
def test_a_query_that_reads_in_two_ways_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ask(b"/v1/a?" + query)


def test_a_target_has_no_fragment() -> None:
    with pytest.raises(InvalidRequest):
        path_of(b"/v1/secret/a#b")


@pytest.mark.parametrize(
    "character", [b"%c2%80", b"%e2%80%8b", b"%e2%80%ae", b"%c2%a0", b"%ef%bb%bf", b"%e2%80%a8"]
)
def test_invisible_characters_are_refused(character: bytes) -> None:
    """Next-line, zero-width space, right-to-left override …: names that look like others."""
    with pytest.raises(InvalidRequest, match="invisible"):
        path_of(b"/v1/secret/a" + character)


def test_the_query_is_decoded_and_the_first_of_a_name_counts() -> None:
    assert ask(b"/v1/a?x=1&x=2&y=%C3%A4+b&z").query == {"x": "1", "y": "ä b", "z": ""}
    for bad in (b"x=%ff", b"\xff", b"&".join([b"a=b"] * 101)):
        with pytest.raises(InvalidRequest):
            ask(b"/v1/a?" + bad)


def test_a_patch_is_a_merge_patch() -> None:
    kind = b"application/merge-patch+json"
    request = ask(b"/v1/secret/a", "PATCH", b'{"a":null}', content_type=kind)
    assert (request.operation, request.body) == (Operation.PATCH, b'{"a":null}')
    for kind in (b"Application/Merge-Patch+JSON", b"application/merge-patch+json ; charset=utf-8"):
        assert ask(b"/v1/secret/a", "PATCH", b"{}", content_type=kind).body == b"{}"
    for headers in (
        {},
        {"content_type": b"application/json"},
        {"content_type": b"application/merge-patch+jsonx"},
    ):
        with pytest.raises(UnsupportedMediaType):
            ask(b"/v1/secret/a", "PATCH", b"{}", **headers)


def test_the_body_counts_where_something_is_written_only() -> None:
    assert ask(b"/v1/secret/a", "POST", b' {"a":1} ').body == b'{"a":1}'
    assert ask(b"/v1/secret/a", "PUT", b"null").body == b""
    for method in ("GET", "DELETE", "LIST"):
        assert ask(b"/v1/secret/a", method, b"garbage").body == b""
    with pytest.raises(InvalidRequest):
        ask(b"/v1/secret/a", "POST", b"garbage")


# headers


def test_the_token_comes_by_its_header_or_as_a_bearer() -> None:
    assert ask(b"/v1/a").token == ""
    assert ask(b"/v1/a", X_Vault_Token=b"t").token == "t"
    assert ask(b"/v1/a", Authorization=b"Bearer  t ").token == "t"
    assert ask(b"/v1/a", Authorization=b"Basic t").token == ""
    assert ask(b"/v1/a", Authorization=b"Bearer b", X_Vault_Token=b"t").token == "t"


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (b"60", 60),
        (b"1m", 60),
        (b"2h", 7200),
        (b"0", None),
        (b"0s", None),
        (b"", None),
        (b"1.5s", 1),
        (b"10ms", 1),
        (b"1d", 86400),
        (b"060", 60),
        (b"+60", 60),
    ],
)
def test_wrapping_is_asked_for_by_a_lifetime(ttl: bytes, seconds: int | None) -> None:
    assert ask(b"/v1/a", X_Vault_Wrap_TTL=ttl, X_Vault_Token=b"t").wrap_ttl_seconds == seconds


@pytest.mark.parametrize(
    "ttl", [b"-1", b"-1m", b"-1ms", b"1.5", b"1e3", b"x", b"1y", b"\xff", b"9" * 400]
)
def test_a_bad_lifetime_is_refused(ttl: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ask(b"/v1/a", X_Vault_Wrap_TTL=ttl)


def test_a_wrapped_answer_is_a_token_or_a_jwt() -> None:
    more = {"X_Vault_Wrap_TTL": b"60", "X_Vault_Token": b"t"}
    assert ask(b"/v1/a", **more).wrap_format == ""
    assert ask(b"/v1/a", X_Vault_Wrap_Format=b"jwt", **more).wrap_format == "jwt"
    with pytest.raises(InvalidRequest):
        ask(b"/v1/a", X_Vault_Wrap_Format=b"xml", **more)


@pytest.mark.parametrize("name", [b"", b"/", b"root", b"root/", b"/root/"])
def test_there_is_the_root_namespace(name: bytes) -> None:
    assert ask(b"/v1/a", X_Vault_Namespace=name, X_Vault_Token=b"t").path == "a"


def test_there_is_no_other_namespace() -> None:
    for name in (b"team", b"root/team", b"..", b"\xff"):
        with pytest.raises(NotFound):
            ask(b"/v1/a", X_Vault_Namespace=name)


def test_a_header_counts_even_when_it_is_nearly_alone() -> None:
    """HTTP/1.0 needs no Host, and a login has no token: a wrap or namespace is never dropped."""
    sent = {b"x-vault-token": b"t", b"x-vault-wrap-ttl": b"60"}
    old = to_request(HttpRequest("GET", b"/v1/a", sent, b"", ("", 0)), "id")
    assert old.wrap_ttl_seconds == 60
    assert ask(b"/v1/a", X_Vault_Wrap_TTL=b"60").wrap_ttl_seconds == 60


def test_threat_http_07_the_tokens_headers_stay_at_the_edge() -> None:
    secret = {"X_Vault_Token": b"t", "Authorization": b"Bearer b", "Cookie": b"c"}
    headers = ask(b"/v1/a", X_Other=b"\xe4", Proxy_Authorization=b"p", **secret).headers
    assert headers == {"host": "a", "x-other": "ä"}


def test_the_client_is_the_peer_or_whom_the_proxy_named() -> None:
    assert (ask(b"/v1/a").remote_address, ask(b"/v1/a").remote_port) == ("10.0.0.9", 99)
    http = HttpRequest("GET", b"/v1/a", {}, b"", ("10.0.0.9", 99))
    assert to_request(http, "id", "10.1.1.1").remote_address == "10.1.1.1"


def test_request_ids_are_random_uuids_and_differ() -> None:
    new_id = request_ids()
    ids = [new_id() for _ in range(300)]
    assert len(set(ids)) == 300
    for text in ids:
        assert uuid.UUID(text).version == 4
        assert uuid.UUID(text).variant == uuid.RFC_4122
        assert str(uuid.UUID(text)) == text


def test_a_form_is_known_by_its_media_type_however_written() -> None:
    kind = b"Application/X-WWW-Form-Urlencoded; charset=utf-8"
    assert ask(b"/v1/secret/a", "POST", b"a=1&b=x", content_type=kind).body == b'{"a":"1","b":"x"}'
