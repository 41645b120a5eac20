"""Which store is in use, and that another takes its place whole or not at all."""

import stat
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from tests.unit.storage.stores import contents, open_store, write
from tests.unit.storage.test_faults import child_environment
from undercroft.errors import StorageFailed
from undercroft.storage import faults
from undercroft.storage.location import (
    clean,
    discard_staging,
    location,
    name_of,
    require_staging,
    stage,
    swap,
)
from undercroft.storage.verify import verify

OLD, NEW = {"which": b"old"}, {"which": b"new"}

SWAP = """
import sys
from pathlib import Path
from undercroft.storage.location import swap
directory = Path(sys.argv[1])
swap(directory, directory / "staging")
"""


def fill(path: Path, entries: dict[str, bytes]) -> None:
    store = open_store(path)
    write(store, dict(entries))
    store.close()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def in_use(directory: Path) -> dict[str, bytes]:
    store = open_store(location(directory))
    found = contents(store)
    store.close()
    return found


@pytest.fixture(name="staged")
def _staged(tmp_path: Path) -> Path:
    """A data directory with the old store in use and the new one in staging."""
    fill(tmp_path, OLD)
    staged = stage(tmp_path)
    fill(staged, NEW)
    return staged


# where


def test_without_a_pointer_the_store_lies_in_the_data_directory_itself(tmp_path: Path) -> None:
    assert location(tmp_path) == tmp_path
    assert location(tmp_path / "nothing here yet") == tmp_path / "nothing here yet"
    fill(tmp_path, OLD)
    assert location(tmp_path) == tmp_path
    assert name_of(tmp_path, location(tmp_path)) == ""


def test_the_pointer_names_the_store_in_one_line(tmp_path: Path, staged: Path) -> None:
    assert swap(tmp_path, staged) == location(tmp_path) == tmp_path / "store-2"
    assert (tmp_path / "store").read_bytes() == b"store-2\n"
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o600
    assert name_of(tmp_path, location(tmp_path)) == "store-2"


@pytest.mark.parametrize(
    "pointer",
    [
        b"",
        b"\n",
        b"store-",
        b"store-2",  # its line has no end: cut short
        b"store-2\n\n",
        b"store-02\n",
        b"store-2 \n",
        b"staging\n",
        b".\n",
        b"../store-2\n",
        b"/tmp\n",
        b"store-3\n",  # not there
        b"\xff\xfe\n",
        b"store-2\n" * 100,
    ],
)
def test_a_pointer_that_names_no_store_is_an_error_and_never_a_new_store(
    tmp_path: Path, staged: Path, pointer: bytes
) -> None:
    swap(tmp_path, staged)
    before = names(tmp_path)
    (tmp_path / "store").write_bytes(pointer)
    with pytest.raises(StorageFailed, match="store"):
        location(tmp_path)
    with pytest.raises(StorageFailed):
        clean(tmp_path)
    assert verify(tmp_path)
    assert names(tmp_path) == before


def test_a_lost_pointer_or_store_is_an_error_and_never_a_new_store(
    tmp_path: Path, staged: Path
) -> None:
    swap(tmp_path, staged)
    clean(tmp_path)
    (tmp_path / "store").rename(tmp_path / "lost")
    with pytest.raises(StorageFailed, match="is missing"):
        location(tmp_path)
    (tmp_path / "lost").rename(tmp_path / "store")
    (tmp_path / "store-2" / "data.mdb").unlink()
    with pytest.raises(StorageFailed, match="there is no store"):
        location(tmp_path)


def test_a_pointer_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, OLD)
    (tmp_path / "store").mkdir()
    with pytest.raises(StorageFailed, match="cannot read"):
        location(tmp_path)


def test_the_check_follows_the_pointer(tmp_path: Path, staged: Path) -> None:
    swap(tmp_path, staged)
    clean(tmp_path)
    assert list(verify(tmp_path)) == []
    (tmp_path / "store-2" / "data.mdb").write_bytes(bytes(16384))
    assert verify(tmp_path)


# staging


def test_staging_is_private_kept_and_discarded_on_demand(tmp_path: Path) -> None:
    staged = stage(tmp_path)
    assert stat.S_IMODE(staged.stat().st_mode) == 0o700
    fill(staged, NEW)
    clean(tmp_path)
    assert stage(tmp_path) == staged
    assert in_use(staged) == NEW
    discard_staging(tmp_path)
    discard_staging(tmp_path)
    assert not staged.exists()


def test_only_what_is_whole_and_in_staging_is_swapped_in(tmp_path: Path, staged: Path) -> None:
    with pytest.raises(StorageFailed, match="is not the staging directory"):
        swap(tmp_path, tmp_path / "elsewhere")
    with pytest.raises(StorageFailed):
        require_staging(tmp_path, tmp_path)
    data = staged / "data.mdb"
    data.write_bytes(data.read_bytes()[:8192])
    with pytest.raises(StorageFailed, match="cut short"):
        swap(tmp_path, staged)
    data.unlink()
    with pytest.raises(StorageFailed):
        swap(tmp_path, staged)
    assert in_use(tmp_path) == OLD
    assert names(tmp_path) == {"data.mdb", "lock.mdb", "staging"}


# swap


def test_one_swap_after_the_other_leaves_one_store(tmp_path: Path, staged: Path) -> None:
    for number in (2, 3, 4):
        fill(stage(tmp_path), {"number": str(number).encode()})
        assert swap(tmp_path, staged).name == f"store-{number}"
        clean(tmp_path)
        assert names(tmp_path) == {"store", f"store-{number}"}
    assert in_use(tmp_path) == {"number": b"4"}


def test_cleaning_lets_all_else_be(tmp_path: Path, staged: Path) -> None:
    swap(tmp_path, staged)
    fill(stage(tmp_path), NEW)
    (tmp_path / "store-7").mkdir()
    (tmp_path / "store-x").mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / "store.new").touch()
    clean(tmp_path)
    assert names(tmp_path) == {"lock", "store", "store-2", "store-x", "staging"}
    assert in_use(tmp_path) == NEW


def test_a_view_of_the_old_store_stays_readable_when_its_files_are_gone(
    tmp_path: Path, staged: Path
) -> None:
    store = open_store(tmp_path, writable=False)
    with store.snapshot() as view:
        swap(tmp_path, staged)
        clean(tmp_path)
        del store
        assert len(list(view.txn.cursor())) == 1


@pytest.mark.parametrize("step", faults.SWAP_STEPS)
def test_killed_at_a_step_of_a_swap_the_old_store_or_the_new_is_there_whole(
    tmp_path: Path, staged: Path, step: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWAP, str(tmp_path)],
        env={**child_environment(), "UNDERCROFT_FAULT": f"{step}:kill"},
        timeout=60,
    )
    assert done.returncode == -9
    switched = step in ("pointed", "swapped")
    assert in_use(tmp_path) == (NEW if switched else OLD)
    assert list(verify(tmp_path)) == []

    clean(tmp_path)
    kept = {"store", "store-2"} if switched else {"data.mdb", "lock.mdb"}
    assert names(tmp_path) - {"lock", "staging"} == kept
    assert in_use(tmp_path) == (NEW if switched else OLD)

    fill(stage(tmp_path), {"which": b"next"})  # and the next swap is like any other
    swap(tmp_path, staged)
    clean(tmp_path)
    assert in_use(tmp_path)["which"] == b"next"


@pytest.mark.parametrize("step", [s for s in faults.SWAP_STEPS if s not in ("pointed", "swapped")])
def test_a_swap_that_fails_leaves_the_old_store_in_use_and_staging_as_it_was(
    tmp_path: Path, staged: Path, step: str
) -> None:
    faults.arm(f"{step}:error")
    with pytest.raises(StorageFailed, match="injected"):
        swap(tmp_path, staged)
    faults.arm("")
    assert in_use(tmp_path) == OLD
    assert in_use(staged) == NEW
    assert not (tmp_path / "store").exists()
    swap(tmp_path, staged)
    assert in_use(tmp_path) == NEW


def test_a_switch_that_could_not_be_synced_is_told_and_both_stores_stay(
    tmp_path: Path, staged: Path
) -> None:
    """Which one a power cut would bring back cannot be told, so neither is touched."""
    faults.arm("pointed:error")
    with pytest.raises(StorageFailed):
        swap(tmp_path, staged)
    faults.arm("")
    assert in_use(tmp_path) == NEW
    (tmp_path / "store").unlink()
    assert in_use(tmp_path) == OLD


def test_a_copy_that_lmdb_made_of_a_store_in_use_can_be_swapped_in(tmp_path: Path) -> None:
    fill(tmp_path, OLD)
    with lmdb.open(str(tmp_path), readonly=True) as env:
        env.copy(str(stage(tmp_path)))
    swap(tmp_path, tmp_path / "staging")
    clean(tmp_path)
    assert in_use(tmp_path) == OLD
