"""kill -9 and errors at every step of a commit, full disks, flipped bits."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.storage.stores import MOUNT, change, contents, open_store, write
from undercroft.errors import StorageFull
from undercroft.storage import faults
from undercroft.storage.batch import Batch
from undercroft.storage.verify import problems
from undercroft.storage.view import Transaction

ROOT = Path(__file__).parents[3]

# Commits batches of two requests, three entries each, and reports every batch that was answered.
CHILD = """
import sys
from pathlib import Path
from tests.unit.storage.stores import change, open_store
from undercroft.storage import batch as batches
batches.CHECKPOINT_CHANGES = 4
store = open_store(Path(sys.argv[1]))
for number in range(10):
    batch = store.batch()
    for part in range(2):
        tx = batch.transaction()
        entries = {f"{number}/{part}/{i}": b"x" * 50 for i in range(3)}
        if number:
            entries[f"{number - 1}/{part}/0"] = None
        change(tx, entries, expires_ms=1000)
        batch.accept(tx)
    batch.commit()
    print(number, flush=True)
"""


def run_child(path: Path, fault: str) -> tuple[int, list[int]]:
    environment = {**os.environ, "UNDERCROFT_FAULT": fault, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    return done.returncode, [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("step", faults.STEPS)
@pytest.mark.parametrize("count", [1, 5, 8])
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
    assert not list(problems(store))
    write(store, {"after": b"1"})


@pytest.mark.parametrize("step", [s for s in faults.STEPS if s not in ("committed", "checkpoint")])
def test_an_error_at_a_step_of_a_commit_leaves_nothing(tmp_path: Path, step: str) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1"})
    faults.arm(f"{step}:error")
    batch = store.batch()
    try:
        tx = batch.transaction()
        change(tx, {"b": b"2", "a": None}, expires_ms=100)
        with pytest.raises(OSError, match="injected"):
            accept_and_commit(batch, tx)
    finally:
        faults.arm("")
        batch.abort()
    assert contents(store) == {"a": b"1"}
    write(store, {"c": b"3"})
    assert not list(problems(store))


def accept_and_commit(batch: Batch, tx: Transaction) -> None:
    batch.accept(tx)
    batch.commit()


FULL_CHILD = """
import resource, signal, sys
from pathlib import Path
from tests.unit.storage.stores import contents, open_store, write
from undercroft.errors import StorageFull
store = open_store(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = Path(sys.argv[1], "data.mdb").stat().st_size + 400_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
written = 0
try:
    while True:
        write(store, {str(written): b"x" * 3000})
        written += 1
except StorageFull:
    pass
assert len(contents(store)) == written > 20, "reads go on, nothing is half there"
try:
    write(store, {"refused": b"x" * 3000_00})
    raise SystemExit("a write fitted into a full disk")
except StorageFull:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(store, {"again": b"x" * 3000})
assert len(contents(store)) == written + 1
"""


def test_a_full_disk_refuses_writes_until_there_is_room(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)], capture_output=True
    )
    if made.returncode != 0:
        # Without the right to mount, a limit on the file's size stands in for the full disk.
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        done = subprocess.run(
            [sys.executable, "-c", FULL_CHILD, str(tmp_path / "data")],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return
    try:
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
        ballast.unlink()
        write(store, {"again": b"x" * 3000})
        assert len(contents(store)) == written + 1
        assert not list(problems(store))
        store.close()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


FLIP_CHILD = """
import sys
from pathlib import Path
from tests.unit.storage.stores import MOUNT, open_store
from undercroft.errors import UndercroftError
from undercroft.storage.view import Space
import lmdb
try:
    store = open_store(Path(sys.argv[1]), writable=False)
    with store.snapshot() as view:
        space = Space(view, b"s", MOUNT)
        for number in range(200):
            try:
                value = space.get(str(number))
            except UndercroftError:
                continue
            if value is not None and value != str(number).encode() * 40:
                raise SystemExit(77)
except (UndercroftError, lmdb.Error):
    pass
"""


def test_threat_r_27_a_flipped_bit_is_never_served_as_data(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    path = tmp_path / "data"
    store = open_store(path)
    for number in range(200):
        write(store, {str(number): str(number).encode() * 40})
    store.close()
    sound = (path / "data.mdb").read_bytes()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    for _ in range(25):
        damaged = bytearray(sound)
        for _ in range(20):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        (path / "data.mdb").write_bytes(damaged)
        done = subprocess.run(
            [sys.executable, "-c", FLIP_CHILD, str(path)], env=environment, capture_output=True
        )
        assert done.returncode != 77, "a value came back that nobody wrote"


def test_the_offline_check_finds_a_changed_entry(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write(store, {"a": b"1", "b": b"2"})
    assert not list(problems(store))
    with store.env.begin(store.data, write=True) as txn:
        raw = bytearray(txn.get(b"s" + MOUNT + b"a"))
        raw[-1] ^= 1
        txn.put(b"s" + MOUNT + b"a", bytes(raw))
    assert list(problems(store)) == ["the digest tree does not match the entries"]
