"""A store that is beyond mending: when a copy may take its place, and what the copy takes over."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.node import committed, keyring
from tests.unit.storage.shared import write_beside
from tests.unit.storage.stores import MOUNT, contents, open_store, write
from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.barrier.seal_store import StoredKeyring, open_keyring, write_keyring
from undercroft.errors import Corrupt, Unavailable
from undercroft.replication.copying import _not_shared, finish_replacement
from undercroft.replication.lineage import LINEAGE_KEY, Lineage, founded
from undercroft.replication.replacing import Replacement, Replacing
from undercroft.replication.role import (
    PRIMARY,
    SECONDARY,
    Credentials,
    Role,
    Upstream,
    read_checks,
    read_role,
    write_role,
)
from undercroft.replication.sinks import CopySink
from undercroft.storage.environment import DATA_NAME
from undercroft.storage.keys import LOCAL, OWN, SHARED
from undercroft.storage.probe import Readable, probe
from undercroft.storage.record import full_key_of
from undercroft.storage.store import Retention, Store
from undercroft.storage.verify import problems
from undercroft.storage.view import Space
from undercroft.storage.wal import START, Position

NEW = founded(START, "set", "tokyo", 0)
UPSTREAM = Upstream("osaka", Credentials(b"c", b"k", b"ca"), ("127.0.0.1:8201",))
REPLACEMENT = Replacement(UPSTREAM, NEW)
MOVED = Upstream("osaka", Credentials(b"c2", b"k2", b"ca"), ("10.0.0.1:8201",))
PAGE = 4096


def at(seq: int) -> Position:
    return Position(1, seq, b"c" * 16)


# may it be replaced?


@pytest.mark.parametrize(
    ("theirs", "position", "said"),
    [
        (NEW, 10, ""),
        (NEW, 99, ""),
        (NEW.started(10), 12, ""),
        (NEW.opened(at(10), "tokyo", 0), 12, ""),
        (NEW, 9, "the primary lacks what this secondary has"),
        (NEW.opened(at(9), "kobe", 0), 99, "the primary lacks what this secondary has"),
        (founded(START, "set", "kobe", 0), 99, "the primary lacks what this secondary has"),
        (founded(START, "other", "kobe", 0), 99, "the primary lacks what this secondary has"),
        (NEW.started(9), 99, "the primary was restored from an older copy"),
    ],
)
def test_a_copy_is_made_only_of_a_primary_that_has_all_that_was_replicated(
    theirs: Lineage, position: int, said: str
) -> None:
    assert REPLACEMENT.objection(theirs, at(position), at(10)) == said


class Node:
    def __init__(self, store: Store, role: Role) -> None:
        self.store = store
        self.role = role
        self.told = 0

    def refresh_soon(self) -> None:
        self.told += 1

    def report_soon(self) -> None:
        pass


def judged(node: Node, replacing: Replacing) -> Replacement | None:
    async def judge() -> Replacement | None:
        replacing.found("a page is gone")
        while replacing._judging is not None:
            await asyncio.sleep(0.01)
        return replacing.current

    return asyncio.run(judge())


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "live")
    with committed(store) as tx:
        write_keyring(tx, StoredKeyring(keyring().terms), keyring().root_key)
        write_role(tx, Role(SECONDARY, set_id="set", upstream=UPSTREAM, withheld=(b"w",)))
        Space(tx, SHARED, bytes(16)).write("replication/lineage", NEW)
    for number in range(200):
        write(store, {f"n{number}": b"x" * 100})
    yield store
    store.close()


def test_a_damaged_secondary_is_copied_anew(live: Store) -> None:
    node = Node(live, Role(SECONDARY, upstream=UPSTREAM))
    replacing = Replacing(node)
    assert judged(node, replacing) == REPLACEMENT
    assert replacing.damage.startswith("a page is gone: it is being copied anew")
    assert node.told == 1


@pytest.mark.parametrize("role", [Role(PRIMARY), Role(SECONDARY)], ids=["primary", "detached"])
def test_who_follows_nobody_has_nobody_to_be_copied_from(live: Store, role: Role) -> None:
    replacing = Replacing(Node(live, role))
    assert judged(Node(live, role), replacing) is None
    assert "secondary/enable" in replacing.damage


def test_after_one_that_failed_none_is_begun_until_an_operator_says_so(live: Store) -> None:
    node = Node(live, Role(SECONDARY, upstream=UPSTREAM))
    replacing = Replacing(node)
    assert judged(node, replacing)
    replacing.given_up("no space")
    assert "no space" in replacing.damage
    assert judged(node, replacing) is None
    replacing.allow()
    assert judged(node, replacing) == REPLACEMENT


# can it be read?


def zero(store: Path, name: bytes) -> None:
    """The pages that hold an entry's key."""
    with (store / DATA_NAME).open("r+b") as file:
        content = file.read()
        for start in range(2 * PAGE, len(content), PAGE):
            if name in content[start : start + PAGE]:
                file.seek(start)
                file.write(bytes(PAGE))


def test_a_probe_reads_all_of_a_sound_store(live: Store) -> None:
    assert asyncio.run(probe(Path(live.env.path()))) is Readable.ALL


def test_a_probe_survives_what_it_dies_of(live: Store) -> None:
    directory = Path(live.env.path())
    live.close()
    zero(directory, SHARED + MOUNT + b"n150")
    assert asyncio.run(probe(directory)) is Readable.OWN


def test_a_store_whose_own_entries_are_gone_is_left_to_an_operator(live: Store) -> None:
    write_beside(live, LOCAL, {f"here{number}": b"x" * 100 for number in range(200)})
    directory = Path(live.env.path())
    live.close()
    zero(directory, LOCAL + MOUNT + b"here150")
    assert asyncio.run(probe(directory)) is Readable.NOTHING


# what is taken over


@pytest.fixture
def staged(tmp_path: Path, live: Store) -> Iterator[CopySink]:
    """A copy whose primary is two records further, under a term of the keys that is new here."""
    sink = copy_in(tmp_path)
    ring = Keyring((*keyring().terms, KeyTerm(2, b"2" * 32, 5)), bytes(32))
    source = open_store(tmp_path / "primary")
    source.set_keyring(ring)
    with committed(source) as tx:
        Space(tx, SHARED, bytes(16)).write("replication/lineage", NEW)
    write(source, {"theirs": b"new", "long" * 200: b"l"}, expires_ms=4_000_000_000_000)
    sink.adopt(tuple((t.term, t.key, t.installed_ms) for t in ring.terms), (), lambda: None)
    with source.snapshot() as view:
        entries = [(key, raw) for key, raw in view.entries_of(source.data) if key[:1] == SHARED]
    sink.store_entries([(full_key_of(key, raw), raw) for key, raw in entries], lambda _: None)
    sink.withhold((b"kept back",))
    sink.jump(source.extent.shared, lambda: None)
    yield sink
    sink.store.close()
    source.close()


def copy_in(tmp_path: Path) -> CopySink:
    (tmp_path / "staging").mkdir(exist_ok=True)
    return CopySink(tmp_path / "staging", Retention(records=1, bytes=1 << 20))


def taken_over(tmp_path: Path, live: Store, sink: CopySink) -> Store:
    finish_replacement(live, sink, REPLACEMENT, 77, unsettled=True)
    store = Store.open(tmp_path / "staging", writable=True)
    with store.snapshot() as view:
        store.set_keyring(open_keyring(view, bytes(32)).keyring(bytes(32)))
    return store


def beside(store: Store, keyspace: bytes) -> dict[str, bytes | None]:
    with store.snapshot() as view:
        space = Space(view, keyspace, MOUNT)
        return {name: space.get(name) for name in space.names()}


def test_the_copy_has_what_is_ours_and_what_is_the_primarys(
    tmp_path: Path, live: Store, staged: CopySink
) -> None:
    ours = {"mine": b"1", "m" * 700: b"long", **{f"many{n}": b"%d" % n for n in range(1500)}}
    for keyspace in (LOCAL, OWN):
        write_beside(live, keyspace, ours)
        with committed(live) as tx:
            Space(tx, keyspace, MOUNT).put("dies", b"x", 3_000_000_000_000)
    theirs = staged.position()
    store = taken_over(tmp_path, live, staged)
    assert contents(store) == {"theirs": b"new", "long" * 200: b"l"}
    for keyspace in (LOCAL, OWN):
        assert beside(store, keyspace) == {**ours, "dies": b"x"}
    assert len(store.due(5_000_000_000_000, 100)) == 4
    assert problems(store) == []
    assert store.extent.shared == theirs
    with store.snapshot() as view:
        role = read_role(view)
        assert (role.upstream, role.comparing, role.withheld) == (UPSTREAM, True, (b"kept back",))
        checks = read_checks(view)
        assert (checks.replacements, checks.replaced_ms) == (1, 77)
        assert view.read(LINEAGE_KEY, Lineage) == NEW
    store.close()


def test_the_log_goes_on_behind_the_place_that_clients_were_told(
    tmp_path: Path, live: Store, staged: CopySink
) -> None:
    write_beside(live, OWN, {"mine": b"1"})
    last = live.position
    store = taken_over(tmp_path, live, staged)
    assert store.position == last
    assert list(store.log(last.seq + 1)) == []
    write_beside(store, OWN, {"mine": b"2"})
    assert store.position.seq == last.seq + 1
    store.close()
    again = Store.open(tmp_path / "staging", writable=True)
    assert again.position.seq == last.seq + 1
    assert problems(again) == []
    again.close()


def test_what_an_earlier_attempt_left_and_is_gone_since_does_not_come_back(
    tmp_path: Path, live: Store, staged: CopySink
) -> None:
    staged.store.set_keyring(keyring())
    write_beside(staged.store, OWN, {"revoked token": b"1"})
    write_beside(live, OWN, {"mine": b"1"})
    store = taken_over(tmp_path, live, staged)
    assert beside(store, OWN) == {"mine": b"1"}
    assert problems(store) == []
    store.close()


def lose(store: Store, key: bytes) -> None:
    """As a leaf page does that reads as if it were empty: nothing but the digests knows."""
    with store.env.begin(write=True) as txn:
        assert txn.delete(key, db=store.data)


def test_a_store_that_has_lost_what_was_ours_alone_is_not_left_behind(
    live: Store, staged: CopySink
) -> None:
    write_beside(live, LOCAL, {"here": b"1", "there": b"2"})
    lose(live, LOCAL + MOUNT + b"here")
    with pytest.raises(Corrupt, match="not shared are damaged or gone"):
        finish_replacement(live, staged, REPLACEMENT, 77, unsettled=False)


@pytest.mark.parametrize("is_blind", [True, False])
def test_where_digests_cannot_be_read_what_is_ours_is_taken_over_with_a_warning(
    live: Store, staged: CopySink, caplog: pytest.LogCaptureFixture, *, is_blind: bool
) -> None:
    write_beside(live, LOCAL, {"here": b"1", "there": b"2"})
    lose(live, LOCAL + MOUNT + b"here")
    if not is_blind:
        with live.env.begin(write=True) as txn:
            assert txn.delete(live.position.seq.to_bytes(8, "big"), db=live.wal)
    finish_replacement(live, staged, REPLACEMENT, 77, unsettled=False, is_blind=is_blind)
    assert "nothing tells whether the damaged store" in caplog.text


def test_entries_of_ours_that_are_out_of_order_are_not_taken_over(live: Store) -> None:
    write_beside(live, LOCAL, {"here": b"1", "there": b"2"})
    with live.snapshot() as view:
        entries = list(view.entries_of(live.data))
        entries.insert(1, entries.pop(2))
        view.entries_of = lambda database: iter(entries)  # type: ignore[method-assign]
        with pytest.raises(Corrupt, match="out of order"):
            list(_not_shared(live, view))


def test_a_copy_that_follows_new_addresses_is_finished(
    tmp_path: Path, live: Store, staged: CopySink
) -> None:
    with committed(live) as tx:
        write_role(tx, Role(SECONDARY, set_id="set", upstream=MOVED))
    store = taken_over(tmp_path, live, staged)
    with store.snapshot() as view:
        assert read_role(view).upstream == MOVED
    store.close()


OTHER = Upstream("kobe", Credentials(b"c", b"k", b"ca"), ("127.0.0.1:8201",))
PROMOTED = Upstream("osaka", Credentials(b"c", b"k", b"another ca"), ("127.0.0.1:8201",))


@pytest.mark.parametrize(
    "role",
    [Role(PRIMARY), Role(SECONDARY), *(Role(SECONDARY, upstream=u) for u in (OTHER, PROMOTED))],
    ids=["primary", "detached", "another id", "another primary"],
)
def test_a_node_whose_role_has_changed_keeps_its_store(
    live: Store, staged: CopySink, role: Role
) -> None:
    with committed(live) as tx:
        write_role(tx, role)
    with pytest.raises(Unavailable):
        finish_replacement(live, staged, REPLACEMENT, 77, unsettled=False)
