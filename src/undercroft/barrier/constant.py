"""The one place where secrets are compared (TOK-17), in time that tells nothing of them."""

import hmac


def same(a: str | bytes, b: str | bytes) -> bool:
    """Whether two secrets are equal. How long it takes depends on their lengths alone."""
    left = a.encode() if isinstance(a, str) else a
    right = b.encode() if isinstance(b, str) else b
    return hmac.compare_digest(left, right)
