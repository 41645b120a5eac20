"""The power goes: whatever of it the disk has forgotten, nothing that was answered is lost."""

import random
import sys
from pathlib import Path

import pytest

from tests.unit.storage.disk import Disk, Event, NamesSynced, Renamed, Said, Write, can_trace, trace
from tests.unit.storage.stores import contents, open_store, write
from tests.unit.storage.test_faults import child_environment
from undercroft.storage.verify import problems

pytestmark = pytest.mark.skipif(not can_trace(), reason="there is no strace, or it may not trace")

COMMITS = 12
SEED = 20
# Each commit changes what the one before wrote, so that pages are used again; some values have
# pages of their own. It is retained so little that every commit trims the log.
CHILD = f"""
import sys
from pathlib import Path
from tests.unit.storage.stores import open_store, write
from tests.unit.storage.test_power_loss import change_of
from undercroft.storage import batch as batches
from undercroft.storage.store import Retention
batches.CHECKPOINT_CHANGES = 4
store = open_store(Path(sys.argv[1]), retention=Retention(records=3))
for number in range({COMMITS}):
    write(store, change_of(number), expires_ms=1000)
    print(number, flush=True)
"""


def change_of(number: int) -> dict[str, bytes | None]:
    chance = random.Random(number)
    changed: dict[str, bytes | None] = {
        f"{chance.randrange(30)}": chance.randbytes(chance.choice((20, 300, 9000)))
        for _ in range(12)
    }
    return {"count": b"%d" % number} | changed | {f"{chance.randrange(30)}": None}


def expected(commits: int) -> dict[str, bytes]:
    entries: dict[str, bytes] = {}
    for number in range(commits):
        for name, value in change_of(number).items():
            entries.pop(name, None)
            if value is not None:
                entries[name] = value
    return entries


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    path = tmp_path_factory.mktemp("traced")
    command = [sys.executable, "-c", CHILD, str(path / "store")]
    return trace(command, child_environment(), path / "store" / "data.mdb", path / "trace")


def test_the_trace_has_everything_that_became_of_the_file(
    events: list[Event], tmp_path: Path
) -> None:
    disk = Disk()
    for event in events:
        disk.take(event)
    assert disk.said == [str(number) for number in range(COMMITS)]
    assert not disk.unsafe
    assert sum(isinstance(event, Write) and not event.safe for event in events) > COMMITS
    assert found_after(bytes(disk.safe), tmp_path) == expected(COMMITS)


def test_threat_r_29_the_file_has_its_name_for_good_before_anything_is_answered(
    events: list[Event],
) -> None:
    first = next(at for at, event in enumerate(events) if isinstance(event, Said))
    assert events.index(Renamed()) < events.index(NamesSynced()) < first


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_threat_r_29_a_power_cut_at_any_time_loses_nothing_answered_and_halves_nothing(
    events: list[Event], tmp_path: Path, share: float
) -> None:
    chance, disk = random.Random(SEED), Disk()
    cuts = 0
    for at, event in enumerate(events):
        if disk.is_named:
            image = disk.after_a_cut(chance, share)
            found = found_after(image, tmp_path / str(at))
            answered = len(disk.said)
            assert found in (expected(answered), expected(answered + 1)), f"cut before event {at}"
            cuts += 1
        disk.take(event)
    assert cuts > 3 * COMMITS


def found_after(image: bytes, path: Path) -> dict[str, bytes]:
    """What a node finds that is started on it; it goes on from there."""
    path.mkdir(exist_ok=True)
    (path / "data.mdb").write_bytes(image)
    store = open_store(path)
    try:
        found = contents(store)
        assert problems(store) == []
        write(store, {"after": b"1"})
        assert problems(store) == []
        assert contents(store) == found | {"after": b"1"}
        return found
    finally:
        store.close()
