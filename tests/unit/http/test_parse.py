"""The grammar of HTTP/1 requests, sentence by sentence: one reading, or none (HTTP-08)."""

import contextlib
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.http.limits import HEADERS_MAX
from undercroft.http.parse import CHUNK_LINE_MAX, CHUNKED, BadRequest, Chunks, Head, parse_head

HOST = b"Host: a"


def parsed(*lines: bytes, request: bytes = b"GET /v1/a HTTP/1.1") -> Head:
    return parse_head(b"\r\n".join((request, *lines)), None)[0]


def refused(*lines: bytes, request: bytes = b"GET /v1/a HTTP/1.1") -> int:
    with pytest.raises(BadRequest) as caught:
        parsed(*lines, request=request)
    return caught.value.status


# the request line


@pytest.mark.parametrize("method", ["GET", "LIST", "SCAN", "PATCH", "M-SEARCH"])
def test_any_token_is_a_method(method: str) -> None:
    assert parsed(HOST, request=method.encode() + b" /v1/a HTTP/1.1").method == method


def test_the_target_stays_as_it_was_sent() -> None:
    head = parsed(HOST, request=b"GET /v1/%2e%2E/a//b?x=%00 HTTP/1.1")
    assert head.target == b"/v1/%2e%2E/a//b?x=%00"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /v1/a",
        b"GET  /v1/a HTTP/1.1",
        b"GET /v1/a  HTTP/1.1",
        b" GET /v1/a HTTP/1.1",
        b"GET /v1/a HTTP/1.1 ",
        b"GET /v1/a b HTTP/1.1",
        b"GET\t/v1/a HTTP/1.1",
        b"GET /v1/a http/1.1",
        b"GET /v1/a HTTP/1.2",
        b"GET /v1/a HTTP/2.0",
        b"PRI * HTTP/2.0",
        b"GET /v1/a HTTP/1.10",
        b"G(T /v1/a HTTP/1.1",
        b"GET /v1/\xc3\xa4 HTTP/1.1",
        b"GET /v1/\x00 HTTP/1.1",
        b"GET /v1/a\rb HTTP/1.1",
        b"GET /v1/a\n HTTP/1.1",
        b"GET /v1/a HTTP/1.1\nX: y",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_threat_http_08_a_request_line_of_another_shape_is_refused(line: bytes) -> None:
    assert refused(HOST, request=line) == 400


# header lines


def test_names_are_lowered_and_the_space_around_values_goes() -> None:
    assert parsed(b"HOST:a", b"X-Some: \t b c \t").headers == {b"host": b"a", b"x-some": b"b c"}


def test_a_value_may_hold_eight_bit_characters_as_they_are() -> None:
    assert parsed(HOST, b"X-A: \xc3\xa4\xff").headers[b"x-a"] == b"\xc3\xa4\xff"


@pytest.mark.parametrize(
    "line",
    [
        b"X-A : b",
        b"X-A\t: b",
        b" X-A: b",
        b": b",
        b"X-A",
        b"X A: b",
        b"X\xc3\xa4: b",
        b"X-A: b\x00",
        b"X-A: b\x01c",
        b"X-A: b\x7f",
        b"X-A: b\rc: d",
        b"X-A: b\nc: d",
        b"X-A: b\r\n folded",
        b"X-A: b\r\n\tfolded",
        b"X-A: b\r",
        b"X-A: b\r\r\nc: d",
    ],
    ids=repr,
)
def test_threat_http_08_a_header_line_of_another_shape_is_refused(line: bytes) -> None:
    assert refused(HOST, line) == 400
    assert refused(line, HOST) == 400


def test_threat_http_08_of_two_token_headers_the_first_counts() -> None:
    headers = parsed(HOST, b"X-Vault-Token: one", b"x-vault-TOKEN: two").headers
    assert headers[b"x-vault-token"] == b"one"


def test_the_addresses_of_several_forwarded_lines_stand_in_their_order() -> None:
    """A proxy may add a line of its own behind a client's; the last hop is the one to believe."""
    headers = parsed(HOST, b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: 10.0.0.1, b").headers
    assert headers[b"x-forwarded-for"] == b"6.6.6.6, 10.0.0.1, b"


@pytest.mark.parametrize("line", [HOST, b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_threat_http_08_a_header_of_framing_or_routing_stands_once(line: bytes) -> None:
    rest = [] if line is HOST else [HOST]
    assert refused(line, line, *rest) == 400
    assert refused(line, *rest, line.upper()) == 400


def test_a_request_of_http_11_names_its_host() -> None:
    assert refused(b"X-A: b") == 400
    assert refused() == 400


def test_many_headers_are_431() -> None:
    most = [b"X-%d: y" % n for n in range(HEADERS_MAX - 2)]
    assert len(parsed(HOST, *most).headers) == HEADERS_MAX - 1
    assert refused(HOST, *most, b"One: more") == 431
    assert refused(HOST, *[b"Same: y"] * HEADERS_MAX) == 431


def test_a_repeated_block_is_parsed_once_and_another_anew() -> None:
    line = b"GET /v1/a HTTP/1.1\r\n"
    first, last = parse_head(line + b"Host: a\r\nX: 1", None)
    again, last = parse_head(line + b"Host: a\r\nX: 1", last)
    other, _ = parse_head(line + b"Host: a\r\nX: 2", last)
    assert again.headers is first.headers
    assert other.headers[b"x"] == b"2"


def test_a_block_that_is_known_holds_for_its_own_version_of_http_only() -> None:
    _, last = parse_head(b"GET /v1/a HTTP/1.0\r\nX: 1", None)
    with pytest.raises(BadRequest, match="Host"):
        parse_head(b"GET /v1/a HTTP/1.1\r\nX: 1", last)


# framing


@pytest.mark.parametrize(
    ("line", "length"),
    [
        (b"X: y", 0),
        (b"Content-Length: 0", 0),
        (b"Content-Length: 17", 17),
        (b"Content-Length: 017", 17),
        (b"Transfer-Encoding: chunked", CHUNKED),
        (b"transfer-encoding:  Chunked ", CHUNKED),
    ],
)
def test_a_body_is_framed_by_one_header(line: bytes, length: int) -> None:
    assert parsed(HOST, line).length == length


@pytest.mark.parametrize(
    "value",
    [b"", b"-1", b"+1", b"1,1", b"1 1", b"0x10", b"1e3", b"1.0", b"\xb2", b"1_0", b"9" * 19],
)
def test_threat_http_08_a_length_that_is_no_plain_number_is_refused(value: bytes) -> None:
    assert refused(HOST, b"Content-Length: " + value) == 400


def test_threat_http_08_length_and_chunks_exclude_each_other_in_either_order() -> None:
    both = (b"Content-Length: 5", b"Transfer-Encoding: chunked")
    assert refused(HOST, *both) == 400
    assert refused(HOST, *reversed(both)) == 400
    assert refused(HOST, b"Content-Length: 0", both[1]) == 400


@pytest.mark.parametrize(
    "coding",
    [b"", b"identity", b"gzip, chunked", b"chunked, chunked", b"chunked, identity", b"xchunked"],
)
def test_threat_http_08_any_other_coding_is_not_implemented(coding: bytes) -> None:
    assert refused(HOST, b"Transfer-Encoding: " + coding) == 501


def test_an_upgrade_is_refused() -> None:
    assert refused(HOST, b"Connection: Upgrade", b"Upgrade: h2c") == 400
    assert refused(HOST, b"Connection: keep-alive, Upgrade", b"Upgrade: websocket") == 400


# versions


def test_http_11_keeps_the_connection_unless_told_to_close_it() -> None:
    assert parsed(HOST).keep_alive
    assert not parsed(HOST, b"Connection: Close").keep_alive
    assert not parsed(HOST, b"Connection: TE, close").keep_alive


def test_http_10_closes_the_connection_unless_told_to_keep_it() -> None:
    request = b"GET /v1/a HTTP/1.0"
    assert parsed(request=request) == Head("GET", b"/v1/a", {}, 0, False, True)
    assert parsed(b"Connection: Keep-Alive", request=request).keep_alive


def test_threat_http_08_http_10_has_no_chunks() -> None:
    assert refused(b"Transfer-Encoding: chunked", request=b"POST /v1/a HTTP/1.0") == 400


# chunks


def read(*pieces: bytes) -> tuple[bytes, bytes, bool]:
    """What a stream in these pieces carries: the body, what is left, whether it is complete."""
    chunks, body, buffer, complete = Chunks(), b"", b"", False
    for piece in pieces:
        buffer += piece
        if not complete:
            found, buffer, complete = chunks.feed(buffer)
            body += found
    return body, buffer, complete


def test_chunks_are_joined_and_what_follows_them_is_left() -> None:
    assert read(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nGET /") == (
        b"abc0123456789",
        b"GET /",
        True,
    )


def test_extensions_and_trailers_are_dropped() -> None:
    stream = b"3;name=value\r\nabc\r\n0 ; x\r\nX-Vault-Token: t\r\nOther: \r\n\r\n"
    assert read(stream) == (b"abc", b"", True)


def test_line_ends_inside_a_chunk_are_its_own() -> None:
    assert read(b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n") == (b"\r\n0\r\n\r\n", b"", True)


def test_a_body_without_its_end_is_not_complete() -> None:
    for stream in (b"3", b"3\r\n", b"3\r\nab", b"3\r\nabc", b"3\r\nabc\r\n0\r\n", b"0\r\nX: y\r\n"):
        assert not read(stream)[2]


@pytest.mark.parametrize(
    "stream",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"3\nabc\n0\n\n\r\n",
        b"3_0\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc0\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc\rx",
        b"3;\x00\r\nabc\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"f" * 16 + b"\r\n",
        b"0" * 17 + b"\r\n",
        b"3" + b";" * CHUNK_LINE_MAX + b"\r\n",
        b"3" * (CHUNK_LINE_MAX + 1),
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX: " + b"y" * CHUNK_LINE_MAX + b"\r\n\r\n",
    ],
    ids=lambda stream: repr(stream[:24]),
)
def test_threat_http_08_chunks_of_another_shape_are_refused(stream: bytes) -> None:
    with pytest.raises(BadRequest):
        read(stream)


def test_threat_http_01_trailers_without_end_are_refused() -> None:
    with pytest.raises(BadRequest):
        read(b"0\r\n", *[b"X: y\r\n" * 100] * 100)


def test_threat_http_01_the_smallest_chunks_cost_no_more_than_their_bytes() -> None:
    """Cutting each chunk off the front would copy the rest each time: seconds for this stream."""
    stream = b"1\r\na\r\n" * 200_000 + b"0\r\n\r\n"
    begin = time.process_time()
    body, _, complete = read(stream)
    assert (len(body), complete) == (200_000, True)
    assert time.process_time() - begin < 2


@given(
    bodies=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_a_cut_anywhere_in_a_chunked_stream_changes_nothing(
    bodies: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(b"%x;e\r\n%b\r\n" % (len(body), body) for body in bodies)
    stream += b"0\r\nTrailer: x\r\n\r\nnext"
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert read(*pieces) == (b"".join(bodies), b"next", True)


@given(st.binary(max_size=60))
def test_no_bytes_make_the_parsers_raise_anything_but_a_refusal(data: bytes) -> None:
    for parse in (lambda: parse_head(data, None), lambda: read(data)):
        with contextlib.suppress(BadRequest):
            parse()
