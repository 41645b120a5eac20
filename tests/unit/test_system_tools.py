"""sys/tools: random bytes and hashes."""

import hashlib
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node import call_on
from undercroft.engines.system.tools import hash_input, random
from undercroft.errors import InvalidRequest


def drawn(params: dict[str, str] | None = None, **fields: Any) -> str:
    text: str = random(call_on(params=params, fields=fields)).data["random_bytes"]
    return text


def test_random_answers_32_bytes_in_base64_and_never_the_same() -> None:
    assert len(b64decode(drawn())) == 32
    assert drawn() != drawn()


def test_the_count_comes_from_body_or_path() -> None:
    assert len(b64decode(drawn(bytes=5))) == 5
    assert len(bytes.fromhex(drawn({"urlbytes": "7"}, format="hex"))) == 7
    assert len(b64decode(drawn({"source": "all", "urlbytes": "9"}))) == 9
    assert len(b64decode(drawn({"urlbytes": "platform"}))) == 32


def test_a_seal_that_has_no_source_of_its_own_is_said_so() -> None:
    assert random(call_on(fields={"source": "seal"})).warnings
    assert not random(call_on(fields={"source": "all"})).warnings


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({}, {"bytes": 0}),
        ({}, {"bytes": -3}),
        ({}, {"bytes": 131_073}),
        ({}, {"format": "canary"}),
        ({}, {"source": "canary"}),
        ({"urlbytes": "canary"}, {}),
        ({"urlbytes": "9" * 5000}, {}),
        ({"source": "canary", "urlbytes": "5"}, {}),
    ],
)
def test_bad_parameters_are_refused_without_repeating_them(
    params: dict[str, str], fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        drawn(params, **fields)
    assert "canary" not in raised.value.message


def test_the_most_that_can_be_drawn_is_128_kib() -> None:
    assert len(b64decode(drawn(bytes=131_072))) == 131_072


@given(st.binary(max_size=200), st.sampled_from(["sha2-224", "sha2-512", "sha3-256", "sha3-384"]))
def test_hashes_are_those_of_the_standard(data: bytes, algorithm: str) -> None:
    fields = {"input": b64encode(data).decode(), "algorithm": algorithm}
    name = algorithm.replace("sha2-", "sha").replace("sha3-", "sha3_")
    expected = hashlib.new(name, data)
    assert hash_input(call_on(fields=fields)).data == {"sum": expected.hexdigest()}
    encoded = hash_input(call_on(fields={**fields, "format": "base64"})).data["sum"]
    assert b64decode(encoded) == expected.digest()


def test_sha2_256_in_hex_is_the_default() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_input(call_on()).data == {"sum": empty}


@pytest.mark.parametrize(
    "fields", [{"input": "***canary"}, {"algorithm": "canary"}, {"format": "canary"}]
)
def test_bad_hash_parameters_are_refused_without_repeating_them(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        hash_input(call_on(fields=fields))
    assert "canary" not in raised.value.message
