"""A disk goes bad under a running secondary: nothing wrong is served, and it heals by itself."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from tests.replication.clusters import errors, ok, read, settle, write
from tests.replication.pair import Pair, join, replicating_pair, status
from tests.support.undercroft import until
from undercroft.storage.environment import DATA_NAME, MAP_BYTES
from undercroft.storage.location import location

COUNT = 40
PAGE = 4096


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair")) as made:
        for number in range(COUNT):
            write(made.primary, f"n{number}", f"value {number}")
        settle(made.secondary, made.primary)
        yield made


def of(pair: Pair) -> Path:
    """The store that the secondary has open."""
    return location(pair.secondary_server.log.parent / "data")


def tampered(pair: Pair, change: Callable[[lmdb.Transaction], None]) -> None:
    """Another process of the machine writes into the secondary's file, past the server."""
    with (
        lmdb.open(str(of(pair)), max_dbs=8, map_size=MAP_BYTES, create=False) as environment,
        environment.begin(write=True, db=environment.open_db(b"data", create=False)) as txn,
    ):
        change(txn)


def entries(txn: lmdb.Transaction) -> dict[bytes, bytes]:
    """What KV v2 holds of the secrets, by key: those of one mount, whose names have no slash."""
    return {key: raw for key, raw in txn.cursor() if key[:1] == b"s" and key[1:17] != bytes(16)}


def heals(pair: Pair, before: int) -> None:
    """By itself: the roots are those of the primary again, and the divergence was counted."""
    until(lambda: status(pair.secondary)["divergences"] > before, pair.secondary_server, 60)
    settle(pair.secondary, pair.primary)
    write(pair.primary, "after", before)
    until(lambda: read(pair.secondary, "after") == before, pair.secondary_server)
    settle(pair.secondary, pair.primary)
    for number in range(COUNT):
        assert read(pair.secondary, f"n{number}") == f"value {number}"
    report = pair.secondary.request("GET", "sys/replication/merkle-check").body["data"]
    assert report["problems"] == []


def flip_values(txn: lmdb.Transaction) -> None:
    for key, raw in entries(txn).items():
        txn.put(key, raw[:10] + bytes((raw[10] ^ 1,)) + raw[11:])


def flip_tags(txn: lmdb.Transaction) -> None:
    for key, raw in entries(txn).items():
        txn.put(key, raw[:-1] + bytes((raw[-1] ^ 1,)))


def cut_short(txn: lmdb.Transaction) -> None:
    for number, (key, raw) in enumerate(entries(txn).items()):
        txn.put(key, raw[: number % 20])


def drop(txn: lmdb.Transaction) -> None:
    for key in list(entries(txn))[::2]:
        txn.delete(key)


def add(txn: lmdb.Transaction) -> None:
    for key, raw in list(entries(txn).items())[:10]:
        txn.put(key + b"x", raw)


def swap(txn: lmdb.Transaction) -> None:
    """Old pages in place of new ones: entries that were once written, at other places."""
    found = list(entries(txn).items())
    for (key, _), (_, raw) in zip(found, found[1:] + found[:1], strict=True):
        txn.put(key, raw)


@pytest.mark.parametrize("change", [flip_values, flip_tags, cut_short, drop, add, swap])
def test_what_the_disk_lost_is_had_from_the_primary_again(
    pair: Pair, change: Callable[[lmdb.Transaction], None]
) -> None:
    before = status(pair.secondary)["divergences"]
    tampered(pair, change)
    heals(pair, before)


def test_until_then_nothing_that_is_damaged_is_served_as_good(pair: Pair) -> None:
    before = status(pair.secondary)["divergences"]
    tampered(pair, flip_values)
    answer = pair.secondary.request("GET", "secret/data/n7")
    if answer.status != 200:  # it has not been healed already
        assert answer.status == 500
        assert "value 7" not in errors(answer)
        assert "damaged" in errors(answer) or "authenticate" in errors(answer)
    heals(pair, before)


def test_an_operator_may_have_it_looked_at_now(pair: Pair) -> None:
    before = status(pair.secondary)["divergences"]
    tampered(pair, flip_tags)
    answer = pair.secondary.request("POST", "sys/replication/recover")
    assert answer.status == 200
    heals(pair, before)


def test_the_log_says_what_was_found_and_no_names(pair: Pair) -> None:
    before = status(pair.secondary)["divergences"]
    tampered(pair, flip_values)
    heals(pair, before)
    log = pair.secondary_server.log.read_text()
    (line, *_) = [x for x in log.splitlines() if "not what was written" in x][::-1]
    assert "unreadable=" in line
    assert "look at the disk" in line
    assert "value 7" not in log


def test_a_page_that_is_gone_is_reported_and_a_new_copy_mends_it(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        for number in range(200):
            write(pair.primary, f"n{number}", f"value {number}")
        settle(pair.secondary, pair.primary)
        garble_a_page(pair)
        until(lambda: status(pair.secondary)["corrupted_merkle_tree"], pair.secondary_server)
        shown = status(pair.secondary)
        assert "the store is damaged" in shown["state_reason"]
        assert "secondary/enable" in shown["state_reason"]
        assert "the store cannot be looked through" in pair.secondary_server.log.read_text()

        ok(pair.secondary, "secondary/disable")
        ok(pair.primary, "primary/revoke-secondary", {"id": "osaka"})
        join(pair.primary, pair.secondary_server, "anew")
        settle(pair.secondary, pair.primary)
        assert not status(pair.secondary)["corrupted_merkle_tree"]
        for number in range(200):
            assert read(pair.secondary, f"n{number}") == f"value {number}"


def garble_a_page(pair: Pair) -> None:
    """Of the secrets alone, so that the rest of the server goes on."""
    found: dict[bytes, bytes] = {}
    tampered(pair, lambda txn: found.update(entries(txn)))
    file = of(pair) / DATA_NAME
    content = file.read_bytes()
    key = sorted(found)[len(found) // 2]
    with file.open("r+b") as data:
        for start in range(0, len(content), PAGE):
            page = content[start : start + PAGE]
            if key in page and nodes(page).items() <= found.items():
                (upper,) = struct.unpack_from("=H", page, 14)
                data.seek(start + upper)
                data.write(bytes(byte ^ 0x5A for byte in page[upper:]))


def nodes(page: bytes) -> dict[bytes, bytes]:
    """What a leaf of LMDB's tree holds (the layout of its `MDB_page` and `MDB_node`)."""
    _, _, flags, lower, _ = struct.unpack_from("=QHHHH", page)
    if flags != 2:
        return {b"": b"no leaf"}
    found = {}
    for at in struct.unpack_from(f"={(lower - 16) // 2}H", page, 16):
        low, high, _, key_size = struct.unpack_from("=HHHH", page, at)
        begin = at + 8 + key_size
        found[page[at + 8 : begin]] = page[begin : begin + (low | high << 16)]
    return found
