"""One primary that feeds many secondaries: what they cost its writers."""

from pathlib import Path

from bench.replication.rows import Row


def fan_out(root: Path, secondaries: int, per_second: int, seconds: int) -> list[Row]:
    return []
