"""The seal's routes: Vault's shapes, as OpenBao 2.7.2 answered them, and where they run."""

from pathlib import Path
from typing import Any

import pytest

from undercroft.barrier.shares import SHARE_BYTES_MAX
from undercroft.config import Seal
from undercroft.engines.system.seal import ROUTES
from undercroft.errors import InvalidRequest, PermissionDenied, Sealed, UnsupportedOperation
from undercroft.request.model import Operation

from .barrier.world import Ask, World

# Fields of OpenBao's answers, `commit_date` apart, which tells when OpenBao was built.
STATUS_SEALED = [
    "type",
    "initialized",
    "sealed",
    "t",
    "n",
    "progress",
    "nonce",
    "recovery_seal",
    "version",
    "migration",
    "storage_type",
]
STATUS_STATIC = ["recovery_seal_type"]
STATUS_OPEN = ["cluster_name", "cluster_id"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def one(world: World, path: str, operation: Operation = Operation.UPDATE, **body: Any) -> Any:
    (answer,) = world.batch(Ask(path, body, operation, world.token))
    return answer


def test_init_answers_hexadecimal_and_base64_without_the_envelope(world: World) -> None:
    body = world.ask("sys/init", secret_shares=3, secret_threshold=2)
    assert list(body) == ["keys", "keys_base64", "root_token"]
    assert [len(key) for key in body["keys"]] == [2 * SHARE_BYTES_MAX] * 3
    assert [len(key) for key in body["keys_base64"]] == [44] * 3


def test_one_share_of_one_is_the_key_itself_as_in_openbao(world: World) -> None:
    assert [len(key) for key in world.init(1, 1)] == [64]


def test_init_of_a_static_seal_answers_no_keys_or_recovery_keys(tmp_path: Path) -> None:
    static = Seal(type="static", current_key_id="k", current_key=bytes(32))
    body = World(tmp_path / "a", static).ask("sys/init")
    assert (body["keys"], body["keys_base64"]) == ([], [])
    assert "recovery_keys" not in body
    world = World(tmp_path / "b", static)
    body = world.ask("sys/init", recovery_shares=3, recovery_threshold=2)
    assert list(body) == [
        "keys",
        "keys_base64",
        "recovery_keys",
        "recovery_keys_base64",
        "root_token",
    ]
    shown = world.ask("sys/seal-status", Operation.READ)
    assert (shown["t"], shown["n"], shown["sealed"]) == (2, 3, False)
    assert set(shown) == {*STATUS_SEALED, *STATUS_STATIC, *STATUS_OPEN}
    assert (shown["recovery_seal"], shown["recovery_seal_type"]) == (True, "shamir")


def test_a_parameter_of_zero_is_as_good_as_none(tmp_path: Path) -> None:
    """Command lines send every parameter that they have."""
    world = World(tmp_path)
    counts = {"secret_shares": 1, "secret_threshold": 1}
    world.ask("sys/init", **counts, recovery_shares=0, recovery_threshold=0, pgp_keys=[])
    assert world.ask("sys/init", Operation.READ) == {"initialized": True}


def test_seal_status_has_openbaos_fields_in_every_state(world: World) -> None:
    assert list(world.ask("sys/seal-status", Operation.READ)) == STATUS_SEALED
    shares = world.init(3, 2)
    assert list(world.ask("sys/seal-status", Operation.READ)) == STATUS_SEALED
    assert list(world.unseal(shares[0])) == STATUS_SEALED
    assert set(world.unseal(shares[1])) == {*STATUS_SEALED, *STATUS_OPEN}
    assert set(world.ask("sys/seal-status", Operation.READ)) == {*STATUS_SEALED, *STATUS_OPEN}


def test_an_unseal_is_answered_with_the_state_that_seal_status_shows_next(world: World) -> None:
    for share in world.init(3, 3):
        assert world.unseal(share) == world.ask("sys/seal-status", Operation.READ)


def test_no_seal_migration(world: World) -> None:
    (share,) = world.init(1, 1)
    with pytest.raises(InvalidRequest, match="seal migration"):
        world.ask("sys/unseal", key=share, migrate=True)
    assert not world.manager.unsealed


def test_key_status_repeats_its_data(world: World) -> None:
    world.opened(1, 1)
    answer = one(world, "sys/key-status", Operation.READ)
    assert answer.repeat_data
    assert set(answer.data) == {"term", "install_time", "encryptions"}
    assert answer.data["install_time"] == "2027-01-15T08:00:00Z"


@pytest.mark.parametrize("path", ["sys/rotate", "sys/rotate/keyring"])
def test_rotate_answers_204_on_both_paths(world: World, path: str) -> None:
    world.opened(1, 1)
    assert one(world, path).status == 204
    assert world.read("sys/key-status")["term"] == 2
    assert isinstance(one(world, path, Operation.READ), UnsupportedOperation)


@pytest.mark.parametrize("path", ["sys/rotate/config", "sys/rotate/keyring/config"])
def test_rotate_config_starts_with_vaults_defaults(world: World, path: str) -> None:
    world.opened(1, 1)
    defaults = {"enabled": True, "interval": 0, "max_operations": 3_865_470_566}
    assert world.read(path) == defaults
    assert one(world, path).status == 204
    assert world.read(path) == defaults
    assert one(world, path, interval="25h30m", max_operations=1_000_000).status == 204
    assert world.read(path)["interval"] == "25h30m0s"
    assert one(world, path, interval=0).status == 204
    assert world.read(path) == defaults | {"max_operations": 1_000_000}


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (
            {"max_operations": 999_999},
            r"must be in the range \[1000000,3865470566\]",
        ),
        ({"max_operations": 3_865_470_567}, "max_operations must be in the range"),
        ({"max_operations": 0}, "max_operations must be in the range"),
        ({"interval": "1h"}, "interval must be greater or equal to 24h0m0s"),
        ({"interval": -1}, "interval"),
        ({"enabled": "x"}, "Field validation failed"),
    ],
)
def test_rules_out_of_range_are_refused_and_change_nothing(
    world: World, rules: dict[str, Any], problem: str
) -> None:
    world.opened(1, 1)
    before = world.read("sys/rotate/config")
    with pytest.raises(InvalidRequest, match=problem):
        world.ask("sys/rotate/config", token=world.token, **rules)
    assert world.read("sys/rotate/config") == before


def test_what_answers_while_sealed_is_what_vault_leaves_open(world: World) -> None:
    world.init()
    for path in ("sys/key-status", "sys/rotate/config", "sys/generate-root-token/attempt"):
        with pytest.raises(Sealed):
            world.ask(path, Operation.READ)
    with pytest.raises(Sealed):
        world.ask("sys/generate-root/attempt", Operation.READ)
    assert {route.pattern for route in ROUTES if route.sealed} == {
        "init",
        "seal-status",
        "unseal",
        "seal",
    }


def test_threat_seal_01_what_needs_no_token_is_this_and_no_more() -> None:
    assert {route.pattern for route in ROUTES if route.open} == {
        "init",
        "seal-status",
        "unseal",
        "generate-root/attempt",
        "generate-root/update",
    }
    assert {route.pattern for route in ROUTES if route.sudo} == {"seal", "rotate", "rotate/keyring"}


@pytest.mark.parametrize("path", ["sys/rotate", "sys/seal"])
def test_sudo_paths_are_refused_to_a_token_without_it(world: World, path: str) -> None:
    world.opened(1, 1)
    policy = f'path "{path}" {{ capabilities = ["create", "update"] }}'
    world.ask("sys/policies/acl/p", token=world.token, policy=policy)
    answer = one(world, "auth/token/create", policies=["p"])
    with pytest.raises(PermissionDenied):
        world.ask(path, token=answer.auth.client_token)
    assert world.read("sys/key-status")["term"] == 1
    assert world.manager.unsealed


def test_a_worker_answers_what_it_knows_and_forwards_the_rest(world: World) -> None:
    world.opened(1, 1)
    for path in ("sys/init", "sys/seal-status"):
        assert world.ask_worker(path) == "answered"
    for path in ("sys/key-status", "sys/rotate/config", "sys/generate-root-token/attempt"):
        assert world.ask_worker(path, world.token) == "forwarded"


def test_a_worker_itself_says_that_the_old_root_generation_is_off(world: World) -> None:
    """A flood of it never reaches the one process that writes."""
    world.opened(1, 1)
    with pytest.raises(UnsupportedOperation):
        world.ask_worker("sys/generate-root/attempt")
    world.config.enable_unauthenticated_access = ("generate-root",)
    assert world.ask_worker("sys/generate-root/attempt") == "forwarded"
