"""The lines that are printed: one measurement each, as rows of a Markdown table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEAD = "| measurement | figure | target | met | remarks |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Row:
    """`met` is None where nothing is asked (a peer's figure, a remark)."""

    name: str
    figure: str
    target: str = ""
    met: bool | None = None
    remarks: str = ""

    def __str__(self) -> str:
        met = {None: "", True: "yes", False: "**no**"}[self.met]
        return f"| {self.name} | {self.figure} | {self.target} | {met} | {self.remarks} |"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_and_spread(values: Sequence[float], unit: str) -> str:
    """`median (least to greatest)`; a single value stands alone."""
    middle = f"{statistics.median(values):,.0f} {unit}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.0f} to {max(values):,.0f})"


@dataclass(frozen=True)
class Rate:
    """How many a second, and the processor time that one took, on both sides together."""

    per_second: float
    processor_us: float
