"""Files that are no store, cut short, torn, with flipped bits: refused or reported, not served."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from tests.unit.storage.stores import MOUNT, contents, open_store, write
from tests.unit.storage.test_faults import child_environment
from undercroft.errors import Corrupt, StorageFailed
from undercroft.storage import batch as batches
from undercroft.storage.verify import Report, examine, problems, verify

PAGE = 4096
META_TRANSACTION = 16 + 24 + 96 + 8  # place of the transaction's number in a meta page
META_LAST_PAGE = META_TRANSACTION - 8
META_ROOT = META_LAST_PAGE - 8


def filled(path: Path, count: int = 200) -> bytes:
    """A store with `count` entries whose values follow from their names, and its file."""
    store = open_store(path)
    for number in range(count):
        write(store, {str(number): str(number).encode() * 40})
    store.close()
    return (path / "data.mdb").read_bytes()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(os.urandom(16384))
    with pytest.raises(StorageFailed, match="not an LMDB file"):
        open_store(tmp_path)


def test_an_lmdb_file_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=2) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"b", db=env.open_db(b"theirs", txn=txn))
    before = (tmp_path / "data.mdb").read_bytes()
    with pytest.raises(StorageFailed, match="no store of this kind"):
        open_store(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == before


def test_a_store_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store.env.begin(store.meta, write=True) as txn:
        txn.put(b"format", b"99")
    store.close()
    for writable in (True, False):
        with pytest.raises(StorageFailed, match="format"):
            open_store(tmp_path, writable=writable)


def test_a_file_that_was_cut_short_is_refused_wherever(tmp_path: Path) -> None:
    whole = filled(tmp_path)
    for size in (0, 1, 100, PAGE, PAGE + 50, 2 * PAGE, len(whole) // 2, len(whole) - 1):
        (tmp_path / "data.mdb").write_bytes(whole[:size])
        with pytest.raises(StorageFailed, match="cut short") as refused:
            open_store(tmp_path)
        assert "restore a backup" in refused.value.hint
        assert verify(tmp_path)
    (tmp_path / "data.mdb").write_bytes(whole)
    assert not verify(tmp_path)


@pytest.mark.parametrize(
    ("at", "what"),
    [
        (16, "not an LMDB file"),  # the magic number
        (20, "another version"),
        (META_TRANSACTION, "contradict"),
        (META_TRANSACTION + 3, "contradict"),
        (META_LAST_PAGE + 2, "contradict|cut short"),
        (META_ROOT, "root page"),
        (META_ROOT + 5, "root page"),
    ],
)
@pytest.mark.parametrize("bit", [0, 1, 4])
def test_threat_r_27_a_damaged_meta_page_is_refused(
    tmp_path: Path, at: int, what: str, bit: int
) -> None:
    damaged = bytearray(filled(tmp_path, 20))
    both = [int.from_bytes(damaged[p + META_TRANSACTION :][:8], "little") for p in (0, PAGE)]
    newest = 0 if both[0] > both[1] else PAGE
    damaged[newest + at] ^= 1 << bit
    (tmp_path / "data.mdb").write_bytes(damaged)
    with pytest.raises(StorageFailed, match=what):
        open_store(tmp_path)


def test_a_damaged_checkpoint_of_the_digests_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECKPOINT_CHANGES", 3)
    filled(tmp_path, 30)
    store = open_store(tmp_path)
    root = store.digests.root(b"s")
    with store.env.begin(store.meta, write=True) as txn:
        name = next(k for k in txn.cursor(store.meta).iternext(values=False) if b"digest/" in k)
        raw = bytearray(txn.get(name, b"", store.meta))
        raw[2] ^= 4
        txn.put(name, bytes(raw), db=store.meta)
    assert problems(store) == ["the stored digest tree is damaged; the next start makes it anew"]
    store.close()
    again = open_store(tmp_path)
    assert again.digests_rebuilt
    assert again.digests.root(b"s") == root
    write(again, {"a": b"1"})
    root = again.digests.root(b"s")
    again.close()
    third = open_store(tmp_path)
    assert not third.digests_rebuilt
    assert third.digests.root(b"s") == root
    assert not problems(third)


READING_CHILD = """
import sys
from pathlib import Path
from tests.unit.storage.stores import MOUNT, open_store
from undercroft.errors import UndercroftError
from undercroft.storage.view import Space
wrong = 0
try:
    store = open_store(Path(sys.argv[1]), writable=sys.argv[2] == "writable")
    with store.snapshot() as view:
        space = Space(view, b"s", MOUNT)
        for number in range(200):
            try:
                value = space.get(str(number))
            except UndercroftError:
                continue
            if value is not None and value != str(number).encode() * 40:
                raise SystemExit(77)
        try:
            space.list()
        except UndercroftError:
            pass
except UndercroftError as error:
    print(error.message)
"""


def test_threat_r_27_flipped_bits_are_never_served_and_the_check_explains_a_crash(
    tmp_path: Path,
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    path = tmp_path / "data"
    sound = filled(path)
    for round_number in range(24):
        damaged = bytearray(sound)
        for _ in range(dice.choice((1, 4, 30))):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        shutil.rmtree(path)
        path.mkdir()
        (path / "data.mdb").write_bytes(damaged)
        report = verify(path)
        mode = "writable" if round_number % 2 else "readonly"
        done = subprocess.run(
            [sys.executable, "-c", READING_CHILD, str(path), mode],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 77, "a value came back that nobody wrote"
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode != 0:  # killed by what LMDB followed, or stopped by its own assertions
            assert done.returncode < 0
            assert report, "the check did not find what kills the process"
        if done.stdout:
            assert report, f"the check did not find: {done.stdout}"


def test_every_flipped_bit_of_an_entry_or_of_the_log_is_found_by_the_check(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    store = open_store(tmp_path)
    for number in range(20):
        write(store, {str(number): b"v" * 100}, expires_ms=number % 2)
    for database in (store.data, store.wal):
        for _ in range(40):
            with store.env.begin(database, write=True) as txn:
                name = dice.choice(list(txn.cursor(database).iternext(values=False)))
                sound = txn.get(name) or b""
                damaged = bytearray(sound)
                damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
                txn.put(name, bytes(damaged))
            assert problems(store)
            with store.env.begin(database, write=True) as txn:
                txn.put(name, sound)
    assert not problems(store)


def test_the_check_of_a_running_store_goes_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undercroft.storage.verify.SLICE", 10)
    filled(tmp_path, 35)
    store = open_store(tmp_path)
    report = Report()
    slices = 0
    for _ in examine(store, report):
        slices += 1
        write(store, {f"meanwhile {slices}": b"x"})
    assert slices == 6  # three of the log, three of the entries
    assert (report.entries, report.records, report.problems) == (35, 35, [])
    assert report.finished


def test_the_offline_check_names_what_it_finds_and_shows_no_value(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    write(store, {"a": b"1", "b": b"2", "of\x00\x1b[31m" + "x" * 500: b"3"})
    assert not problems(store)
    with store.env.begin(store.data, write=True) as txn:
        raw = bytearray(txn.get(b"s" + MOUNT + b"a") or b"")
        raw[-1] ^= 1
        txn.put(b"s" + MOUNT + b"a", bytes(raw))
        for key, value in txn.cursor(store.data):
            if b"of" in key:
                txn.put(key, b"\x01\x00" + value[2:])
    with pytest.raises(Corrupt):
        contents(store)
    store.close()
    damaged, digest = verify(tmp_path / "data")
    assert damaged.startswith("a stored entry has an unknown format: 'of\\x00\\x1b[31mxxx")
    assert len(damaged) < 250
    assert digest == "the digest tree does not match the entries"


def test_a_copy_that_lmdb_made_is_a_store(tmp_path: Path) -> None:
    filled(tmp_path / "data", 30)
    for compact in (False, True):
        store = open_store(tmp_path / "data")
        copy = tmp_path / f"copy-{compact}"
        copy.mkdir()
        store.env.copy(str(copy), compact=compact)
        expected = contents(store)
        store.close()
        assert not verify(copy)
        assert contents(open_store(copy)) == expected


def test_the_check_of_what_is_not_there_says_so(tmp_path: Path) -> None:
    assert verify(tmp_path) == [f"there is no data.mdb in {tmp_path}"]
    assert list(tmp_path.iterdir()) == []
