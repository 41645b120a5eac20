"""Where a store lies: private, locked, and in memory gone afterwards."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.storage.stores import open_store, write
from tests.unit.storage.test_faults import child_environment
from undercroft.errors import InvalidRequest
from undercroft.storage.directory import locked_directory, memory_directory


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_threat_seal_05_every_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    place = tmp_path / "new" / "data"
    with locked_directory(place):
        store = open_store(place)
        write(store, {"a": b"1"})
        for directory in (place, place.parent):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        files = list(place.iterdir())
        assert {file.name for file in files} == {"data.mdb", "lock.mdb", "lock"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    with memory_directory() as memory:
        assert stat.S_IMODE(memory.stat().st_mode) == 0o700


def test_a_restored_file_that_all_could_read_becomes_private(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "data.mdb").chmod(0o644)
    open_store(tmp_path)
    assert stat.S_IMODE((tmp_path / "data.mdb").stat().st_mode) == 0o600


def test_a_second_server_is_refused_and_told_the_first_ones_pid(tmp_path: Path) -> None:
    refused = pytest.raises(InvalidRequest, match=f"pid {os.getpid()}")
    with locked_directory(tmp_path), refused, locked_directory(tmp_path):
        pass
    with locked_directory(tmp_path):
        pass


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    source = (
        "import os, sys; from pathlib import Path;"
        "from undercroft.storage.directory import locked_directory\n"
        "with locked_directory(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", source, str(tmp_path)], env=child_environment())
    assert done.returncode == -signal.SIGKILL
    with locked_directory(tmp_path):
        pass


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(InvalidRequest, match="directory"), locked_directory(place):
            pass


def test_killed_while_it_was_made_a_store_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "data.mdb").write_bytes(b"half")
    write(open_store(tmp_path), {"a": b"1"})
    assert not (tmp_path / "new").exists()


def test_memory_is_freed_also_that_of_servers_that_were_killed() -> None:
    source = (
        "import os; from undercroft.storage.directory import memory_directory\n"
        "with memory_directory() as d: print(d, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], env=child_environment(), capture_output=True, text=True
    )
    left = Path(done.stdout.strip())
    assert left.is_dir()
    with memory_directory() as living:
        assert not left.exists()
        with memory_directory():
            assert living.is_dir()
    assert not living.exists()
