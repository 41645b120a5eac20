"""Rotation, by hand and by rule, and the count of encryptions that rules."""

from pathlib import Path

import pytest

from undercroft.barrier.renewal import SAVE_COUNT, SAVE_MS
from undercroft.barrier.seal_store import OPERATIONS_MAX
from undercroft.errors import Sealed
from undercroft.storage.keys import SHARED, TOKENS, key

from .world import ENTRY, Ask, World

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.shares = world.opened(1, 1)  # type: ignore[attr-defined]
    return world


def reopened(world: World) -> None:
    world.restart()
    world.unseal(*world.shares)  # type: ignore[attr-defined]


def rotate(world: World) -> None:
    world.ask("sys/rotate", token=world.token)


def set_rules(world: World, **rules: object) -> None:
    world.batch(Ask("sys/rotate/config", dict(rules), token=world.token))


def test_after_a_rotation_old_data_is_readable_and_new_data_has_the_new_term(world: World) -> None:
    world.put(b"old")
    rotate(world)
    other = key(SHARED, TOKENS, "other")
    world.put(b"new", other)
    assert [world.get(), world.get(other)] == [b"old", b"new"]
    terms = [world.see(lambda view, n=n: view.raw(n)[2:6]) for n in (ENTRY, other)]
    assert terms == [b"\0\0\0\1", b"\0\0\0\2"]


def test_terms_survive_a_restart(world: World) -> None:
    world.put(b"old")
    rotate(world)
    rotate(world)
    reopened(world)
    assert world.get() == b"old"
    assert world.read("sys/key-status")["term"] == 3


def test_two_rotations_in_one_commit_make_two_terms_and_lose_nothing(world: World) -> None:
    """The second reads what the first wrote; from memory it would make term 2 again."""
    ask = Ask("sys/rotate", token=world.token)
    world.put(b"before")
    assert [a.status for a in world.batch(ask, ask)] == [204, 204]
    world.put(b"after", key(SHARED, TOKENS, "after"))
    reopened(world)
    assert world.get() == b"before"
    assert world.get(key(SHARED, TOKENS, "after")) == b"after"
    assert world.read("sys/key-status")["term"] == 3


def test_a_rotation_whose_commit_failed_never_happened(world: World) -> None:
    world.batch(Ask("sys/rotate", token=world.token), commit=False)
    world.put(b"value")
    reopened(world)
    assert world.get() == b"value"
    assert world.read("sys/key-status")["term"] == 1


def test_it_rotates_when_the_count_reaches_the_limit(world: World) -> None:
    set_rules(world, max_operations=1_000_000)
    keyring = world.store.keyring
    assert keyring is not None
    keyring.encryptions = 999_999
    assert world.maintain() != "rotate"
    keyring.encryptions = 1_000_000
    assert world.maintain() == "rotate"
    assert world.read("sys/key-status")["term"] == 2
    assert world.read("sys/key-status")["encryptions"] == 0


def test_the_default_limit_is_vaults(world: World) -> None:
    keyring = world.store.keyring
    assert keyring is not None
    keyring.encryptions = OPERATIONS_MAX - 1
    assert world.maintain() == "save_count"
    keyring.encryptions = OPERATIONS_MAX
    assert world.maintain() == "rotate"


def test_it_rotates_when_the_term_is_old_enough(world: World) -> None:
    set_rules(world, interval="24h")
    world.now_ms += DAY_MS - 1
    assert world.maintain() != "rotate"
    world.now_ms += 1
    assert world.maintain() == "rotate"
    assert world.maintain() == ""


def test_disabled_it_does_not_rotate(world: World) -> None:
    set_rules(world, interval="24h", enabled=False)
    world.now_ms += 100 * DAY_MS
    assert world.maintain() != "rotate"


def test_rules_survive_a_restart(world: World) -> None:
    set_rules(world, interval="48h", max_operations=2_000_000, enabled=False)
    reopened(world)
    assert world.read("sys/rotate/config") == {
        "enabled": False,
        "interval": "48h0m0s",
        "max_operations": 2_000_000,
    }


def test_the_count_goes_on_record_after_a_while(world: World) -> None:
    world.maintain()
    world.put(b"value")
    counted = world.read("sys/key-status")["encryptions"]
    world.now_ms += SAVE_MS - 1
    assert world.maintain() == ""
    world.now_ms += 1
    assert world.maintain() == "save_count"
    assert world.maintain() == ""
    reopened(world)
    assert world.read("sys/key-status")["encryptions"] == counted


def test_the_count_goes_on_record_after_many_encryptions(world: World) -> None:
    keyring = world.store.keyring
    assert keyring is not None
    keyring.encryptions += SAVE_COUNT
    assert world.maintain() == "save_count"
    assert world.maintain() == ""


def test_the_count_goes_on_record_with_the_seal(world: World) -> None:
    keyring = world.store.keyring
    assert keyring is not None
    keyring.encryptions = 12_345
    world.ask("sys/seal", token=world.token)
    world.unseal(*world.shares)  # type: ignore[attr-defined]
    assert world.read("sys/key-status")["encryptions"] == 12_345


def test_what_init_itself_encrypted_is_counted(world: World) -> None:
    assert world.read("sys/key-status")["encryptions"] > 0


def test_a_sealed_server_has_nothing_to_maintain_and_cannot_rotate(world: World) -> None:
    world.ask("sys/seal", token=world.token)
    world.now_ms += 1000 * DAY_MS
    assert world.maintain() == ""
    with pytest.raises(Sealed):
        world.change(lambda tx: world.manager.renewal.rotate(tx, world.now_ms))
