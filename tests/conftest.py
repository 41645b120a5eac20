"""Fixtures that any test may ask for."""

from tests.support.oracle import oracle

__all__ = ["oracle"]
