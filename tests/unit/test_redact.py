"""The redactor shows shapes and never texts."""

import enum
import hmac
import json
import os
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.request.redact import Clear, Hashed, redact, redact_json

SALT = bytes(range(32))
HASHED = Hashed(SALT)

texts = st.text(max_size=30)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=30)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(texts, inner, max_size=4),
    ),
    max_leaves=20,
)


def expected(value: Any) -> Any:
    """The rule, written down a second time."""
    if isinstance(value, str):
        return HASHED.text(value)
    if isinstance(value, bytes):
        return HASHED.data(value)
    if isinstance(value, dict):
        return {k: expected(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [expected(v) for v in value]
    return value


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=64))
def test_the_hash_is_hmac_sha256_under_the_salt(data: bytes, salt: bytes) -> None:
    assert Hashed(salt).data(data) == "hmac-sha256:" + hmac.digest(salt, data, sha256).hex()


def test_a_text_and_its_bytes_hash_alike() -> None:
    assert HASHED.text("päss") == HASHED.data("päss".encode())


@given(values)
def test_threat_aud_05_every_text_and_every_byte_is_hashed_wherever_it_stands(value: Any) -> None:
    assert repr(redact(value, HASHED)) == repr(expected(value))


@given(values)
def test_redacting_leaves_the_value_as_it_was(value: Any) -> None:
    before = repr(value)
    redact(value, HASHED)
    assert repr(value) == before


class Colour(enum.StrEnum):
    RED = "canary-red"


class Secret(msgspec.Struct):
    value: str


@dataclass
class Plain:
    value: str


class Odd:
    def __repr__(self) -> str:
        return "canary-odd"


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Secret("canary-struct"),
        Plain("canary-dataclass"),
        Odd(),
        {"set": {"canary-set"}},
        [frozenset(("canary-frozen",))],
        bytearray(b"canary-array"),
        memoryview(b"canary-view"),
        msgspec.Raw(b'{"a": "canary-raw"}'),
        msgspec.Raw(b"canary-not-json"),
        {"deep": [msgspec.Raw(b'["canary-nested"]')]},
        {b"canary-name": 1},
        {("canary", "tuple"): 1},
        "canary-\ud800-surrogate",
    ],
    ids=lambda value: type(value).__name__,
)
def test_threat_aud_05_what_nobody_thought_of_is_hashed(value: Any) -> None:
    shown = json.dumps(redact(value, HASHED))
    assert "canary" not in shown
    assert "hmac-sha256:" in shown


def test_numbers_booleans_null_and_names_stay() -> None:
    value = {"n": 12345678901234567890123, "f": 1.5, "t": True, "nil": None}
    assert redact(value, HASHED) == value


@pytest.mark.parametrize(
    "moment",
    ["2024-01-01T00:00:00Z", "2026-11-23T00:51:27.924096077Z", "2026-01-02T03:04:05+01:00"],
)
def test_rfc_3339_times_stay_readable(moment: str) -> None:
    assert redact({"t": moment}, HASHED) == {"t": moment}


@pytest.mark.parametrize(
    "text",
    [
        "2024-13-41T99:99:99Z",
        "2024-01-01T00:00:00Z canary",
        "2024-01-01T00:00:00Z\n",
        "2024-01-01",
        "٢٠٢٤-01-01T00:00:00Z",
        "0123456789T0123456789",
    ],
)
def test_what_only_looks_like_a_time_is_hashed(text: str) -> None:
    assert redact(text, HASHED) == HASHED.text(text)


def test_a_key_that_is_not_hashed_shows_its_text_and_its_list_but_not_an_object_below() -> None:
    value = {"a": "x", "b": {"a": "y", "c": "z"}, "l": ["k1", {"c": "z"}], "o": {"c": "z"}}
    assert redact(value, HASHED, ("a", "l", "o")) == {
        "a": "x",
        "b": {"a": "y", "c": HASHED.text("z")},
        "l": ["k1", {"c": HASHED.text("z")}],
        "o": {"c": HASHED.text("z")},
    }


def test_nesting_beyond_reason_is_hashed_whole() -> None:
    value: Any = "canary"
    for _ in range(5000):
        value = [value]
    assert str(redact(value, HASHED)).startswith("hmac-sha256:")


@pytest.mark.parametrize(
    "body", [b"{", b'{"a": canary}', b"\xff canary", b"[" * 5000, b'{"a": 1e999}'], ids=repr
)
def test_threat_aud_07_json_that_does_not_parse_is_hashed_whole(body: bytes) -> None:
    assert redact_json(body, HASHED) == HASHED.data(body)


def test_shown_in_clear_raw_json_is_taken_apart_and_bytes_become_text() -> None:
    value = {"r": msgspec.Raw(b'{"a":\n"b"}'), "b": b"text", "x": b"\xff\xfe"}
    assert redact(value, Clear()) == {"r": {"a": "b"}, "b": "text", "x": "//4="}


def test_no_salt_is_in_a_repr() -> None:
    salt = os.urandom(32)
    assert salt.hex() not in repr(Hashed(salt))
    assert repr(Hashed(salt)) == "<Hashed>"
