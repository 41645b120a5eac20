"""What a request's body may be (HTTP-02): bounded in shape, and never repeated in an error."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.errors import InvalidRequest
from undercroft.http.body import DEPTH_MAX, KEYS_MAX, NUMBER_CHARS_MAX, VALUES_MAX, checked_body

MIB = 1 << 20
FORM = b"application/x-www-form-urlencoded"


def refused(body: bytes, content_type: bytes = b"application/json") -> str:
    with pytest.raises(InvalidRequest) as caught:
        checked_body(body, content_type)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.message


def taken(body: bytes) -> bool:
    return checked_body(body, b"application/json") == body


# what a body is


@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"null", b" null\n"])
def test_nothing_and_null_are_no_body(body: bytes) -> None:
    assert checked_body(body, b"application/json") == b""
    assert checked_body(body, b"") == b""


def test_an_object_passes_as_it_was_sent() -> None:
    body = b'{"b": 1.0, "a": [true, null, "\\u00e4 \\ud83d\\ude00"], "c": {}}'
    assert checked_body(b" \n" + body + b"\r\n", b"") == body


def test_of_a_repeated_key_every_reader_gets_the_last() -> None:
    """The text passes unchanged, and there is one decoder: no two readers can differ."""
    assert taken(b'{"a": 1, "a": 2}')


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b'"text"',
        b"true",
        b"nul",
        b"{",
        b"}",
        b"{]",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1,}',
        b"{a:1}",
        b"{'a':1}",
        b'{"a":1}{"b":2}',
        b'{"a":1} x',
        b'{"a":1}\x00',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":1.}',
        b'{"a":"\n"}',
        b'{"a":"\\x41"}',
        b'{"a":"\\"}',
        b'{"a":\\"1"}',
        b"\xef\xbb\xbf{}",
        b"{/**/}",
        b'{"a":"\xff"}',
        b'{"\xc3\x28":1}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"\\ud800":1}',
    ],
    ids=repr,
)
def test_what_is_not_one_object_is_refused(body: bytes) -> None:
    assert refused(body) == "failed to parse JSON input: the body must be one JSON object"


# limits


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


def test_threat_http_02_nesting_is_bounded() -> None:
    assert taken(nested(DEPTH_MAX))
    assert "nested" in refused(nested(DEPTH_MAX + 1))
    assert "nested" in refused(b'{"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}")


def test_many_shallow_objects_are_not_deep() -> None:
    assert taken(b'{"a":[' + b"{}," * DEPTH_MAX + b"{}]}")


def test_brackets_in_texts_are_texts() -> None:
    assert taken(json.dumps({"a": '[{"\\' * 1000, '{"': "]" * 1000}).encode())


def test_threat_http_02_values_are_bounded() -> None:
    def body(count: int) -> bytes:
        return b'{"a":[' + b",".join([b"0"] * count) + b"]}"

    assert taken(body(VALUES_MAX - 1))
    assert "values" in refused(body(VALUES_MAX + 1))
    assert "values" in refused(b'{"a":[' + b",".join([b'""'] * (VALUES_MAX + 1)) + b"]}")
    assert "values" in refused(b'{"a":[' + b",".join([b"{}"] * VALUES_MAX) + b"]}")


def test_threat_http_02_keys_are_bounded() -> None:
    def body(count: int) -> bytes:
        return json.dumps({f"k{n}": 0 for n in range(count)}).encode()

    assert taken(body(KEYS_MAX))
    assert "keys" in refused(body(KEYS_MAX + 2))


def test_threat_http_02_numbers_are_bounded() -> None:
    assert taken(b'{"a":' + b"1" * NUMBER_CHARS_MAX + b"}")
    for number in (b"1" * (NUMBER_CHARS_MAX + 1), b"-0." + b"1" * 999, b"1e" + b"0" * 999):
        assert "number" in refused(b'{"a":' + number + b"}")


def test_a_long_row_of_digits_in_a_text_is_no_number() -> None:
    assert taken(b'{"a":"' + b"1" * 5000 + b'"}')
    assert taken(b'{"\\"a":"\\\\' + b"1" * 5000 + b'\\""}')


def test_a_text_may_be_as_long_as_the_body() -> None:
    assert taken(b'{"a":"' + b"x" * (8 * MIB) + b'"}')


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (32 * MIB),
        b'{"a":' * (6 * MIB),
        b'{"a":' + b"[" * (32 * MIB),
        b'{"a":[' + b"[]," * (10 * MIB),
        b"{" + b"[" * 400 + b"]" * (31 * MIB),
        b'{"a":"' + b'\\"' * (15 * MIB),
        b'{"a":"' + b"\\" * (31 * MIB),
        b'{"a":"' + b'\\"' * (15 * MIB) + b'"' + b"," * 30_000,
        b'{"a":[' + b'"",' * (10 * MIB),
        b'{"a":[' + b'"' * (31 * MIB) + b"," * 30_000,
        b'{"a":[' + (b"1" * 1000 + b",") * 32_000 + b"x]}",
        b'{"a":' + b"1" * (31 * MIB) + b"}",
        b'{"a":"' + b"x" * (31 * MIB),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_threat_http_02_a_hostile_body_is_refused_quickly(body: bytes) -> None:
    begin = time.process_time()
    refused(body)
    assert time.process_time() - begin < 1.5


CANARY = "kanarienvogel"


@pytest.mark.parametrize(
    "body",
    [
        f'{{"{CANARY}": {CANARY}}}',
        f'{{"{CANARY}": "{CANARY}}}',
        f'{{"a": "{CANARY}\\x"}}',
        f'{{"a": "\\ud800{CANARY}"}}',
        f"{CANARY}",
        f'["{CANARY}"]',
        f'{{"{CANARY}": 1}} {CANARY}',
        '{"a":' * 400 + f'"{CANARY}"' + "}" * 400,
        f'{{"{CANARY}": ' + "1" * 1001 + "}",
    ],
)
def test_threat_aud_07_no_error_repeats_what_was_sent(body: str) -> None:
    assert CANARY not in refused(body.encode())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), _JSON, max_size=4), st.booleans())
def test_every_small_object_is_taken_unchanged(fields: dict[str, object], ascii_only: bool) -> None:
    assert taken(json.dumps(fields, ensure_ascii=ascii_only).encode())


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    for content_type in (b"application/json", FORM):
        with contextlib.suppress(InvalidRequest):
            checked_body(body, content_type)


# forms


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        (b"a=1&b=x%20y+z", {"a": "1", "b": "x y z"}),
        (b"a=1&b=x&a=2&a=3", {"a": "1,2,3", "b": "x"}),
        (b"a=&b", {"a": "", "b": ""}),
        (b"a=%C3%A4", {"a": "ä"}),
    ],
)
def test_a_form_is_an_object_of_texts(form: bytes, fields: dict[str, object]) -> None:
    assert json.loads(checked_body(form, FORM)) == fields


def test_json_that_calls_itself_a_form_is_json() -> None:
    assert checked_body(b'{"a": 1}', FORM) == b'{"a": 1}'
    refused(b"[1]", FORM)


def test_threat_http_02_a_form_is_bounded_and_utf8() -> None:
    assert "form" in refused(b"a=1&" * (KEYS_MAX + 1), FORM)
    assert "form" in refused(b"a=%ff", FORM)
    assert "form" in refused(b"a=\xff", FORM)


@pytest.mark.parametrize("form", [b"x=%zz", b"x=%", b"a=1;b=2"])
def test_a_form_that_reads_in_two_ways_is_refused(form: bytes) -> None:
    assert "form" in refused(form, FORM)
    assert CANARY not in refused(f"{CANARY}=%ff".encode(), FORM)
