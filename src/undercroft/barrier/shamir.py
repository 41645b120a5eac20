"""Shamir's secret sharing over GF(2^8), in the share format of Vault.

A share is the polynomials' values at one point, a byte each, with the point as last byte. The field
is AES's (x^8 + x^4 + x^3 + x + 1). Arithmetic uses no table and no branch on a secret (SEAL-03):
multiplication is shift-and-add over whole machine words, many bytes side by side, so its time and
its memory accesses depend on lengths only.
"""

from collections.abc import Callable, Sequence
from typing import Final

SHARES_MAX: Final = 255


def split(
    secret: bytes, shares: int, threshold: int, random: Callable[[int], bytes]
) -> list[bytes]:
    """`shares` shares, any `threshold` of which give the secret back, fewer say nothing.

    `random(n)` answers n random bytes. A threshold of 1 (one share) is the secret itself, as Vault
    gives it out.
    """
    if not 1 <= threshold <= shares <= SHARES_MAX:
        raise ValueError("the threshold must lie between 1 and the number of shares, at most 255")
    if shares == 1:
        return [secret]
    if threshold == 1:
        raise ValueError("a threshold of 1 makes every share the secret: use one share")
    size = len(secret)
    coefficients = [secret] + [random(size) for _ in range(threshold - 1)]
    packed = [int.from_bytes(c, "big") for c in coefficients]
    points = _distinct_points(shares, random)
    return [_evaluate(packed, x, size).to_bytes(size, "big") + bytes((x,)) for x in points]


def combine(shares: Sequence[bytes]) -> bytes:
    """The secret, if these are enough shares of one secret; otherwise noise (the caller checks)."""
    if len(shares) == 1:
        return shares[0]
    size = len(shares[0]) - 1
    points = [share[-1] for share in shares]
    if len(set(points)) != len(points) or any(len(s) != size + 1 for s in shares):
        raise ValueError("the shares do not belong together")
    secret = 0
    for share, x in zip(shares, points, strict=True):
        secret ^= _times(int.from_bytes(share[:-1], "big"), _weight(x, points), size)
    return secret.to_bytes(size, "big")


def _distinct_points(count: int, random: Callable[[int], bytes]) -> list[int]:
    """The points 1 to 255 in random order; they are no secret, so a shuffle may branch on them."""
    points = list(range(1, SHARES_MAX + 1))
    for i in range(len(points) - 1, 0, -1):
        j = int.from_bytes(random(4), "big") % (i + 1)
        points[i], points[j] = points[j], points[i]
    return points[:count]


def _evaluate(coefficients: list[int], x: int, size: int) -> int:
    """Horner's rule on all bytes of the secret at once."""
    value = 0
    for coefficient in reversed(coefficients):
        value = _times(value, x, size) ^ coefficient
    return value


def _weight(x: int, points: list[int]) -> int:
    """Lagrange's basis polynomial of the point `x` at 0: a public number."""
    weight = 1
    for other in points:
        if other != x:
            weight = _times(weight, _times(other, _inverse(other ^ x), 1), 1)
    return weight


def _inverse(a: int) -> int:
    """a^254, which is 1/a for every a but 0."""
    result = 1
    for _ in range(7):
        a = _times(a, a, 1)
        result = _times(result, a, 1)
    return result


def _times(packed: int, factor: int, size: int) -> int:
    """Each of `size` packed bytes times one byte. All eight steps are always made.

    The secret is only ever in `packed`, whose bits are moved by shifts and masks; the factor (a
    point, a weight) is public.
    """
    ones = int.from_bytes(b"\x01" * size, "big")
    low = ones * 0x7F
    product = 0
    for bit in range(8):
        product ^= packed * ((factor >> bit) & 1)
        high = (packed >> 7) & ones
        packed = ((packed & low) << 1) ^ (high * 0x1B)
    return product
