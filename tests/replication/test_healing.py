"""A disk goes bad under a running secondary: nothing wrong is served, and it heals by itself."""

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.replication.clusters import errors, read, settle, write
from tests.replication.pair import STATUS, Pair, child_of, replicating_pair, status
from tests.support.undercroft import Client, until
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


def flip_two_tags(txn: lmdb.Transaction) -> None:
    """In the sum of a mount's leaves that cancels."""
    for key, raw in [item for item in entries(txn).items() if b"n1" in item[0]][:2]:
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


@pytest.mark.parametrize(
    "change", [flip_values, flip_tags, flip_two_tags, cut_short, drop, add, swap]
)
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


def garbled(page: bytes) -> bytes:
    """Names and values are noise, the page's own table is not."""
    (upper,) = struct.unpack_from("=H", page, 14)
    return page[:upper] + bytes(byte ^ 0x5A for byte in page[upper:])


def zeroed(page: bytes) -> bytes:
    """As after a lost write. LMDB ends the process that walks into it."""
    return bytes(len(page))


def half_lost(page: bytes) -> bytes:
    return page[: PAGE // 2] + bytes(PAGE // 2)


@pytest.mark.parametrize("damage", [garbled, zeroed, half_lost])
def test_a_page_that_is_gone_is_healed_by_a_new_copy_that_keeps_what_is_our_own(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    with replicating_pair(tmp_path) as pair:
        for number in range(200):
            write(pair.primary, f"n{number}", f"value {number}")
        own = keep_something_of_our_own(pair.secondary)
        settle(pair.secondary, pair.primary)
        before = status(pair.secondary)
        damage_a_page(pair, damage)
        write(pair.primary, "meanwhile", 1)
        replaced(pair)

        assert "the store is damaged" in pair.secondary_server.log.read_text()
        settle(pair.secondary, pair.primary)
        shown = status(pair.secondary)
        assert not shown["corrupted_merkle_tree"]
        assert shown["last_store_replacement"]
        for name in ("cluster_id", "secondary_id", "shadowed_mounts"):
            assert shown[name] == before[name]
        for number in range(200):
            assert read(pair.secondary, f"n{number}") == f"value {number}"
        assert read(pair.secondary, "meanwhile") == 1
        own()
        report = pair.secondary.request("GET", "sys/replication/merkle-check").body["data"]
        assert report["problems"] == []
        write(pair.secondary, "after", 2)  # it forwards again
        assert read(pair.primary, "after") == 2


def test_a_replacement_that_is_interrupted_again_and_again_is_completed(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        for number in range(200):
            write(pair.primary, f"n{number}", f"value {number}")
        own = keep_something_of_our_own(pair.secondary)
        settle(pair.secondary, pair.primary)
        damage_a_page(pair, zeroed)
        until(lambda: status(pair.secondary)["corrupted_merkle_tree"], pair.secondary_server)
        for number in range(4):
            name = ("uc:replicator", "uc:writer")[number % 2]
            os.kill(child_of(pair.secondary_server, name), signal.SIGKILL)
            time.sleep(0.3)
        replaced(pair)
        settle(pair.secondary, pair.primary)
        for number in range(200):
            assert read(pair.secondary, f"n{number}") == f"value {number}"
        own()


def test_what_is_written_here_while_the_store_is_replaced_is_kept_or_refused(
    tmp_path: Path,
) -> None:
    with replicating_pair(tmp_path) as pair:
        for number in range(200):
            write(pair.primary, f"n{number}", f"value {number}")
        own = keep_something_of_our_own(pair.secondary)
        settle(pair.secondary, pair.primary)
        damage_a_page(pair, garbled)
        kept, refused = [], 0
        while not status_or_nothing(pair).get("store_replacements"):
            name = f"w{len(kept) + refused}"
            answer = pair.secondary.request("POST", f"here/{name}", {"value": 1})
            if answer.status == 204:
                kept.append(name)
            else:
                assert answer.status in (500, 503), answer
                refused += 1
        assert kept
        for name in kept:
            assert pair.secondary.request("GET", f"here/{name}").status == 200, name
        own()


def status_or_nothing(pair: Pair) -> dict[str, Any]:
    answer = pair.secondary.request("GET", STATUS)
    return answer.body["data"] if answer.status == 200 else {}


def replaced(pair: Pair) -> None:
    until(lambda: status(pair.secondary)["store_replacements"] == 1, pair.secondary_server, 60)


def keep_something_of_our_own(secondary: Client) -> Callable[[], None]:
    """A token, a local mount with a secret. Answers how to see whether they are still there."""
    made = secondary.request("POST", "auth/token/create", {"policies": ["all"], "ttl": "1h"})
    token = made.body["auth"]["client_token"]
    mount = {"type": "kv", "local": True}
    assert secondary.request("POST", "sys/mounts/here", mount).status == 204
    for number in range(50):
        body = {"value": number}
        assert secondary.request("POST", f"here/n{number}", body).status == 204

    def are_there() -> None:
        assert secondary.request("GET", "auth/token/lookup-self", token=token).status == 200
        for number in range(50):
            answer = secondary.request("GET", f"here/n{number}")
            assert answer.body["data"] == {"value": number}

    return are_there


def damage_a_page(pair: Pair, damage: Callable[[bytes], bytes]) -> None:
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
                data.seek(start)
                data.write(damage(page))


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
