"""Shamir's secret sharing: its promises, its field, and shares that OpenBao made."""

import ast
import itertools
import os
import statistics
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undercroft.barrier import shamir
from undercroft.barrier.shamir import Lanes, combine, split

# Shares of a throw-away OpenBao 2.7.2, initialised with 5 shares and a threshold of 3.
OPENBAO = [
    "f9761778bdc4ef13042a5601abaa2e0b6487b2344567cf3487ad201afa9d9111ee",
    "822a1c86086a158cbafc8bad3721fbd4bd55a91f9d0a205ceb363668e66d459d5f",
    "c30449a982fa50f13b69027c94cdb10b010fad81374181af195961531c267dd2f2",
    "ab8e9c175341acecad3ecc46a423259af198c6bb8961beb80302925b7d98658db8",
    "d7a8eb25d92f8266ecf2e5cedf551a7b7a191e5b1ca8b4e091649d6adc458c38b4",
]


def slow_times(a: int, b: int) -> int:
    """Multiplication in GF(256) by the book: polynomials modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(15, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


@given(st.data())
def test_any_threshold_of_the_shares_gives_the_secret_back(data: st.DataObject) -> None:
    secret = data.draw(st.binary(min_size=1, max_size=64))
    shares = data.draw(st.integers(2, 40))
    threshold = data.draw(st.integers(2, shares))
    made = split(secret, shares, threshold)
    chosen = data.draw(st.permutations(made))[:threshold]
    assert combine(chosen) == secret


def test_all_subsets_of_five_shares() -> None:
    secret = os.urandom(32)
    made = split(secret, 5, 3)
    for size in (3, 4, 5):
        for chosen in itertools.combinations(made, size):
            assert combine(chosen) == secret
    for chosen in itertools.combinations(made, 2):
        assert combine(chosen) != secret


def test_a_share_is_the_value_and_one_byte_of_coordinate() -> None:
    made = split(bytes(32), 255, 2)
    assert {len(share) for share in made} == {33}
    assert sorted(share[-1] for share in made) == list(range(1, 256))


def test_one_share_of_one_is_the_secret_itself() -> None:
    assert split(b"the secret", 1, 1) == [b"the secret"]
    assert combine([b"the secret"]) == b"the secret"


@pytest.mark.parametrize(
    ("shares", "threshold"), [(0, 0), (1, 0), (5, 6), (256, 3), (256, 256), (5, 1), (-1, 1)]
)
def test_counts_out_of_range_are_refused(shares: int, threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(b"secret", shares, threshold)


@pytest.mark.parametrize(
    "shares",
    [[], [b"a1", b"b1"], [b"a1", b"bb2"], [b"1", b"2"], [b"a\x00", b"b\x01"]],
    ids=["none", "same coordinate", "lengths", "too short", "coordinate zero"],
)
def test_what_cannot_be_shares_of_one_secret_is_refused(shares: list[bytes]) -> None:
    with pytest.raises(ValueError, match="part"):
        combine(shares)


def test_a_wrong_share_gives_another_key() -> None:
    secret = os.urandom(32)
    made = split(secret, 3, 2)
    flipped = bytes((made[0][0] ^ 1,)) + made[0][1:]
    assert combine([flipped, made[1]]) != secret


def test_threat_seal_03_shares_of_openbao_combine_to_one_key_in_every_subset() -> None:
    """Another field or another format would give a different key for each subset."""
    shares = [bytes.fromhex(text) for text in OPENBAO]
    for size in (3, 4, 5):
        keys = {combine(chosen) for chosen in itertools.combinations(shares, size)}
        assert len(keys) == 1
    assert len({combine(chosen) for chosen in itertools.combinations(shares, 2)}) > 1


def test_threat_seal_03_fewer_shares_than_the_threshold_fit_every_secret() -> None:
    """With fixed coefficients, one share of two takes each of its 256 values exactly once."""
    for secret in (b"\x00", b"\x53", b"\xff"):
        seen = {split(secret, 2, 2, lambda n, c=c: bytes((c,)) * n)[1][0] for c in range(256)}
        assert len(seen) == 256


def test_threat_seal_03_multiplication_is_the_fields_for_every_pair() -> None:
    lanes = Lanes(256)
    every = lanes.load(bytes(range(256)))
    for factor in range(256):
        expected = bytes(slow_times(a, factor) for a in range(256))
        assert lanes.store(lanes.times(every, factor)) == expected


def test_threat_seal_03_no_table_is_indexed_by_anything() -> None:
    """Subscripts in the arithmetic are slices and fixed positions, never a computed index."""
    tree = ast.parse(Path(shamir.__file__).read_text())
    types = {"Callable", "Sequence", "list"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            is_type = isinstance(node.value, ast.Name) and node.value.id in types
            fixed = isinstance(node.slice, ast.Slice | ast.Constant | ast.UnaryOp)
            assert is_type or fixed, ast.unparse(node)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255))
def test_threat_seal_03_numbers_keep_their_size_whatever_the_secret(
    secret: bytes, factor: int
) -> None:
    """Python's integers take time by their length: guard bits keep that the same."""
    lanes = Lanes(32)
    length = lanes.load(bytes(32)).bit_length()
    value = lanes.load(secret)
    assert value.bit_length() == length
    assert lanes.times(value, factor).bit_length() == length
    assert lanes.plus(value, value).bit_length() == length


def test_threat_seal_03_time_does_not_follow_the_secret() -> None:
    """All zeros against all ones, interleaved: medians within a fifth of each other."""
    kinds = {b: split(bytes((b,)) * 32, 5, 3)[:3] for b in (0x00, 0xFF)}
    times: dict[int, list[int]] = {0x00: [], 0xFF: []}
    for _ in range(400):
        for kind, shares in kinds.items():
            start = time.perf_counter_ns()
            combine(shares)
            times[kind].append(time.perf_counter_ns() - start)
    zeros, ones = statistics.median(times[0x00]), statistics.median(times[0xFF])
    assert abs(zeros - ones) < 0.2 * max(zeros, ones)


@settings(deadline=None)
@given(st.sampled_from([(255, 255), (255, 2), (3, 3)]))
def test_the_largest_splits_are_quick(counts: tuple[int, int]) -> None:
    secret = os.urandom(32)
    start = time.perf_counter()
    made = split(secret, *counts)
    assert time.perf_counter() - start < 1.0
    assert combine(made[-counts[1] :]) == secret
