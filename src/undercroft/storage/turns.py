"""Long work in small pieces, for the sake of whoever waits for the core meanwhile.

A process that computes for milliseconds holds up everybody else on its core for as long; a kernel
that does not preempt takes it off only at a tick. Beside the first copy of a secondary that was
most of the tail of the reads (docs/performance.md).
"""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_turns(items: Iterable[T], every: int) -> Iterable[T]:
    """The items; after each `every` of them, whoever waits for this core runs first."""
    if isinstance(items, list) and len(items) <= every:
        return items  # most commits are small, and a generator has its price
    return _with_turns(items, every)


def _with_turns(items: Iterable[T], every: int) -> Iterator[T]:
    left = every
    for item in items:
        if not left:
            os.sched_yield()
            left = every
        left -= 1
        yield item
