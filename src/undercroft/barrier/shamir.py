"""Shamir's secret sharing over GF(256), in the share format of Vault.

A share is one byte of polynomial value for each byte of the secret, then the x coordinate (1 to
255). One share of one is the secret itself. The field is that of AES (polynomial 0x11b).

Constant time (SEAL-03): there are no tables. What decides a branch or a loop here is public: the
x coordinates, counts and lengths. The secret bytes lie side by side in one large integer and are
multiplied all at once, by public factors only, with shifts and masks; guard bits above them keep
that integer's size the same whatever they are. (Log and exp tables, as other libraries have them,
are indexed by the secret and tell it to whoever watches the cache: CVE-2023-25000.)
"""

import os
from collections.abc import Callable, Sequence
from typing import Final

SHARES_MAX: Final = 255
_REDUCE: Final = 0x1B  # what x^8 is in the field: the polynomial without its leading term


class Lanes:
    """Arithmetic on `count` field elements at once, one a byte of an integer.

    Every value, intermediates too, has a set bit above the lanes: two guard bits, of which one
    follows the lanes' high bits and one their low bits when a mask parts them, and a third, still
    higher, while two values are added and their guards cancel out.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        guards = 3 << (8 * count + 8)
        self._guards = guards
        self._sum = 1 << (8 * count + 16)
        self._kept = ((1 << (8 * count)) - 1) | guards
        self._high = int.from_bytes(b"\x01" + b"\x00" + b"\x80" * count, "big")
        self._low = self._kept ^ self._high

    def load(self, values: bytes) -> int:
        return int.from_bytes(b"\x03\x00" + values, "big")

    def store(self, lanes: int) -> bytes:
        return lanes.to_bytes(self.count + 2, "big")[2:]

    def plus(self, a: int, b: int) -> int:
        return (((a | self._sum) ^ b) | self._guards) & self._kept

    def times(self, lanes: int, factor: int) -> int:
        """Every lane times a public factor: double and add, over the factor's bits."""
        product = self._sum
        while True:
            if factor & 1:
                product ^= lanes
            factor >>= 1
            if not factor:
                return (product | self._guards) & self._kept
            carries = ((lanes & self._high) >> 7) * _REDUCE
            doubled = (lanes & self._low) << 1
            lanes = ((doubled ^ carries) | self._guards) & self._kept


def split(
    secret: bytes,
    shares: int,
    threshold: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> list[bytes]:
    """Any `threshold` of the answered shares give the secret, fewer tell nothing about it.

    Raises ValueError for counts outside 1 to 255, and for threshold 1 of several shares: each of
    them would be the secret.
    """
    if not secret:
        raise ValueError("there is no secret to split")
    if not 1 <= threshold <= shares <= SHARES_MAX:
        raise ValueError("needs 1 <= threshold <= shares <= 255")
    if threshold == 1:
        if shares > 1:
            raise ValueError("threshold must be greater than one for multiple shares")
        return [bytes(secret)]
    lanes = Lanes(len(secret))
    # One polynomial a byte: its constant term the secret, all others uniformly random, zero too.
    coefficients = [lanes.load(random_bytes(len(secret))) for _ in range(threshold - 1)]
    coefficients.append(lanes.load(secret))
    return [_evaluate(lanes, coefficients, x) + bytes((x,)) for x in range(1, shares + 1)]


def _evaluate(lanes: Lanes, coefficients: Sequence[int], x: int) -> bytes:
    """Horner's rule, the highest coefficient first."""
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = lanes.plus(lanes.times(value, x), coefficient)
    return lanes.store(value)


def combine(shares: Sequence[bytes]) -> bytes:
    """The secret at x = 0, if these are enough shares of one secret; else something unrelated.

    Raises ValueError when they cannot be shares of one secret.
    """
    if not shares:
        raise ValueError("no parts to combine")
    if len(shares) == 1:
        return bytes(shares[0])
    if len({len(share) for share in shares}) != 1 or len(shares[0]) < 2:
        raise ValueError("all parts must be the same length")
    xs = [share[-1] for share in shares]
    if len(set(xs)) != len(xs):
        raise ValueError("duplicate part detected")
    if 0 in xs:
        raise ValueError("a part has no coordinate")
    lanes = Lanes(len(shares[0]) - 1)
    secret = lanes.load(bytes(lanes.count))
    for x, share in zip(xs, shares, strict=True):
        secret = lanes.plus(secret, lanes.times(lanes.load(share[:-1]), _weight(x, xs)))
    return lanes.store(secret)


def _weight(x: int, xs: Sequence[int]) -> int:
    """Lagrange's factor of the share at x for the value at zero. Coordinates are public."""
    above, below = 1, 1
    for other in xs:
        if other != x:
            above = _multiply(above, other)
            below = _multiply(below, other ^ x)
    return _multiply(above, _invert(below))


_ONE_LANE: Final = Lanes(1)


def _multiply(a: int, b: int) -> int:
    """Of public elements."""
    return _ONE_LANE.times(a, b) & 0xFF


def _invert(a: int) -> int:
    """a^254, which is 1/a, by squaring and multiplying."""
    result, power = 1, a
    for _ in range(7):
        power = _multiply(power, power)
        result = _multiply(result, power)
    return result
