"""A replica that dies, or whose disk fails, goes on from a position that its state is of."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.storage.shared import (
    apply,
    assert_same,
    assert_sound,
    diverge,
    follow,
    open_epoch,
    records_after,
    shared_entries,
)
from tests.unit.storage.stores import open_store, write
from tests.unit.storage.test_faults import child_environment
from undercroft.errors import StorageFailed
from undercroft.storage import batch as batches
from undercroft.storage import faults
from undercroft.storage.store import Retention, Store
from undercroft.storage.wal import START, Position

# Follows in commits of two records, in a store that keeps little log and checkpoints often.
CHILD = """
import sys
from pathlib import Path
from tests.unit.storage.shared import apply, records_after
from tests.unit.storage.stores import open_store
from undercroft.storage import batch as batches
from undercroft.storage.store import Retention
batches.CHECKPOINT_CHANGES = 4
origin = open_store(Path(sys.argv[1]), writable=False)
replica = open_store(Path(sys.argv[2]), retention=Retention(records=3))
while records := records_after(origin, replica.extent.shared)[:2]:
    apply(replica, records)
    print(replica.extent.shared.seq, flush=True)
"""


def written(path: Path) -> tuple[Store, dict[Position, dict[bytes, bytes]]]:
    """A store of eight shared records, and its state as of each."""
    origin, states = open_store(path), dict[Position, dict[bytes, bytes]]()
    for n in range(8):
        states[origin.extent.shared] = shared_entries(origin)
        if n == 4:
            open_epoch(origin, 2, {"lineage": b"2"})
        else:
            write(origin, {f"{n}": b"x", "a": b"%d" % n, f"{n - 2}": None}, expires_ms=100 + n)
    states[origin.extent.shared] = shared_entries(origin)
    return origin, states


@pytest.mark.parametrize("step", [step for step in faults.STEPS if step != "generation"])
@pytest.mark.parametrize("count", [1, 3])
def test_killed_at_a_step_a_replica_has_a_position_and_just_the_state_of_it(
    tmp_path: Path, step: str, count: int
) -> None:
    origin, states = written(tmp_path / "origin")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "origin"), str(tmp_path / "replica")],
        capture_output=True,
        text=True,
        env={**child_environment(), "UNDERCROFT_FAULT": f"{step}:kill:{count}"},
        timeout=60,
    )
    assert done.returncode == -9, done.stderr
    replica = open_store(tmp_path / "replica")
    answered = [0, *map(int, done.stdout.split())][-1]
    assert replica.extent.shared.seq in (answered, answered + 2)
    assert shared_entries(replica) == states[replica.extent.shared]
    assert_sound(replica)
    follow(replica, origin)
    assert_same(replica, origin)
    assert replica.due(999, 99) == origin.due(999, 99)
    origin.close()
    replica.close()


@pytest.mark.parametrize("step", ["data", "expiry", "log", "checkpoint", "trim", "commit"])
def test_after_an_error_at_a_step_nothing_of_the_records_is_there(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    origin, states = written(tmp_path / "origin")
    replica = open_store(tmp_path / "replica", retention=Retention(records=3))
    diverge(replica, {"a": b"mine"})
    faults.arm(f"{step}:error")
    try:
        with pytest.raises(StorageFailed):
            apply(replica, records_after(origin, START)[:3])
    finally:
        faults.arm("")
    assert replica.extent.shared == START
    assert len(shared_entries(replica)) == 1
    assert_sound(replica)
    replica.close()
    replica = open_store(tmp_path / "replica", retention=Retention(records=3))
    assert follow(replica, origin) == 1
    assert shared_entries(replica) == states[replica.extent.shared]
    assert_sound(replica)
    origin.close()
    replica.close()
