"""kill -9 and errors at every step of a commit, full disks, a map that is too small."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.storage.stores import MOUNT, change, contents, open_store, write
from undercroft.errors import Corrupt, Internal, StorageFailed, StorageFull, Unavailable
from undercroft.storage import batch as batches
from undercroft.storage import environment, faults
from undercroft.storage.batch import Batch
from undercroft.storage.keys import LOCAL, SYSTEM, key
from undercroft.storage.verify import problems
from undercroft.storage.view import Space

# Commits batches of two requests, three entries each, and reports every batch that was answered.
# Each touches configuration too, and retention is so short that every commit trims the log.
CHILD = """
import sys
from pathlib import Path
from tests.unit.storage.stores import change, open_store
from undercroft.storage import batch as batches
from undercroft.storage.keys import LOCAL, SYSTEM, key
from undercroft.storage.store import Retention
batches.CHECKPOINT_CHANGES = 4
store = open_store(Path(sys.argv[1]), retention=Retention(records=3))
for number in range(10):
    batch = store.batch()
    for part in range(2):
        tx = batch.transaction()
        entries = {f"{number}/{part}/{i}": b"x" * 50 for i in range(3)}
        if number:
            entries[f"{number - 1}/{part}/0"] = None
        change(tx, entries, expires_ms=1000)
        tx.put(key(LOCAL, SYSTEM, f"setting/{part}"), str(number).encode())
        batch.accept(tx)
    batch.commit()
    print(number, flush=True)
"""


def run_child(path: Path, fault: str) -> tuple[int, list[int]]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        capture_output=True,
        text=True,
        env={**child_environment(), "UNDERCROFT_FAULT": fault},
        timeout=60,
    )
    return done.returncode, [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("step", faults.STEPS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_threat_r_28_killed_at_a_step_of_a_commit_all_or_nothing_is_there(
    tmp_path: Path, step: str, count: int
) -> None:
    code, answered = run_child(tmp_path, f"{step}:kill:{count}")
    assert code == -9
    store = open_store(tmp_path)
    found = contents(store)
    batches = {name.partition("/")[0] for name in found}
    whole = {str(number) for number in answered}
    assert whole <= batches
    assert len(batches - whole) <= 1  # the one whose commit had happened when it was killed
    for number in batches:
        last = str(int(number) + 1) not in batches
        names = {name for name in found if name.startswith(f"{number}/")}
        assert len(names) == (6 if last else 4)
    assert not problems(store)
    write(store, {"after": b"1"})


@pytest.mark.parametrize("step", [step for step in faults.STEPS if step != "committed"])
def test_threat_r_26_after_an_error_at_any_step_nothing_is_applied_nor_written_any_more(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 1)
    store = open_store(tmp_path)
    before = write(store, {"a": b"1"})
    faults.arm(f"{step}:error")
    batch = store.batch()
    try:
        with pytest.raises(StorageFailed):
            accept_and_commit(batch)
    finally:
        faults.arm("")
        batch.abort()
    assert store.failure
    with pytest.raises(StorageFailed):
        store.batch()
    assert contents(store) == {"a": b"1"}, "reading goes on"
    assert store.position == before
    assert not problems(store)
    store.close()
    again = open_store(tmp_path)  # the restart that the error's text asks for
    assert contents(again) == {"a": b"1"}
    write(again, {"c": b"3"})
    assert not problems(again)


def accept_and_commit(batch: Batch) -> None:
    tx = batch.transaction()
    change(tx, {"b": b"2", "a": None}, expires_ms=100)
    tx.put(key(LOCAL, SYSTEM, "setting"), b"1")
    batch.accept(tx)
    batch.commit()


def test_what_failed_half_way_cannot_be_committed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    batch = store.batch()
    tx = batch.transaction()
    change(tx, {"a": b"1", "b": b"2"})
    faults.arm("data:error:2")
    try:
        with pytest.raises(StorageFailed):
            batch.accept(tx)
    finally:
        faults.arm("")
    with pytest.raises(Internal):
        batch.commit()
    with pytest.raises(Internal):
        batch.accept(tx)
    batch.abort()
    assert contents(store) == {}


def test_a_request_that_meets_a_damaged_entry_fails_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path)
    write(store, {"spoilt": b"1"})
    with store.env.begin(store.data, write=True) as txn:
        txn.put(b"s" + MOUNT + b"spoilt", b"\xff")
    batch = store.batch()
    refused, kept = batch.transaction(), batch.transaction()
    change(refused, {"x": b"1", "spoilt": b"2"})
    change(kept, {"kept": b"3"})
    with pytest.raises(Corrupt):
        batch.accept(refused)
    batch.accept(kept)
    batch.commit()
    with store.snapshot() as view:
        space = Space(view, b"s", MOUNT)
        assert list(space.names()) == ["kept", "spoilt"]
        with pytest.raises(Corrupt) as damaged:
            space.get("spoilt")
    fields = vars(caplog.records[-1])["fields"]  # the log tells which it is, the client is not told
    assert "'spoilt' of mount" in fields["entry"]
    assert "spoilt" not in damaged.value.message


FULL_CHILD = """
import resource, signal, sys
from pathlib import Path
from tests.unit.storage.stores import contents, open_store, write
from undercroft.errors import StorageFull
from undercroft.storage.verify import problems
store = open_store(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write(store, {"first": b"x"})
limit = Path(sys.argv[1], "data.mdb").stat().st_size + 400_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
written = 0
try:
    while True:
        write(store, {str(written): b"x" * 3000})
        written += 1
except StorageFull:
    pass
assert len(contents(store)) == written + 1 > 20, "reads go on, nothing is half there"
try:
    write(store, {"refused": b"x" * 3000_00})
    raise SystemExit("a write fitted into a full disk")
except StorageFull:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(store, {"again": b"x" * 3000})
assert len(contents(store)) == written + 2
assert not problems(store)
"""


def test_a_limit_on_the_file_refuses_writes_until_it_is_raised(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_CHILD, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 2 MiB. Without the right to mount one, nothing: see the test before."""
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if made.returncode != 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if made.returncode == 0:
            subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_refuses_writes_until_there_is_room(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    with small_disk(mounted):
        ballast = mounted / "ballast"
        ballast.write_bytes(b"x" * 500_000)
        store = open_store(mounted / "data")
        written = 0
        while written < 2000:
            try:
                write(store, {str(written): b"x" * 3000})
            except StorageFull:
                break
            written += 1
        assert 20 < len(contents(store)) == written < 2000
        with pytest.raises(StorageFull, match="no space"):
            write(store, {"large": b"x" * 1_000_000})
        assert store.log_bytes == sum(len(raw) for _, raw in store.log(1))
        ballast.unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
        write(store, {"again": b"x" * 3000})
        assert len(contents(store)) == written + 1
        assert not problems(store)
        store.close()


# the map


def test_the_map_grows_by_itself_and_readers_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "MAP_BYTES", 1 << 20)
    store = open_store(tmp_path)
    with ReadingChild(tmp_path) as child:
        assert child.count() == 0
        for number in range(1000):
            write(store, {str(number): b"x" * 3000})
            if number % 250 == 0:
                assert child.count() == number + 1
        assert store.env.info()["map_size"] > 3_000_000
        assert child.count() == 1000


class ReadingChild:
    """Another process with the store open, that counts the entries when asked."""

    SOURCE = """
import sys
from pathlib import Path
from tests.unit.storage.stores import contents, open_store
from undercroft.storage import environment
environment.MAP_BYTES = 1 << 20
store = open_store(Path(sys.argv[1]), writable=False)
for line in sys.stdin:
    print(len(contents(store)), flush=True)
"""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SOURCE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )

    def __enter__(self) -> "ReadingChild":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def count(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def test_a_view_that_was_open_when_the_map_grew_is_to_be_taken_anew(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1"})
    view = store.snapshot()
    store.map_was_full = True
    write(store, {"b": b"2"})
    with pytest.raises(Unavailable):
        Space(view, b"s", MOUNT).get("a")
    assert contents(store) == {"a": b"1", "b": b"2"}


def test_a_commit_larger_than_the_map_is_refused_and_the_next_has_a_greater_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "MAP_BYTES", 1 << 20)
    store = open_store(tmp_path)
    refused = 0
    while True:
        try:
            write(store, {"large": b"x" * 3_000_000})
            break
        except StorageFull:
            refused += 1
    assert 0 < refused < 5
    assert not problems(store)


def test_where_little_can_be_mapped_the_map_begins_smaller(tmp_path: Path) -> None:
    source = """
import resource, sys
from pathlib import Path
from tests.unit.storage.stores import open_store, write
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
store = open_store(Path(sys.argv[1]))
write(store, {"a": b"1"})
print(store.env.info()["map_size"])
"""
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path)],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert environment.MAP_BYTES_MIN <= int(done.stdout) < 4 << 30
