"""userpass: users, logins, lockout; the token parameters that all methods share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from tests.unit.token_world import World
from undercroft.engines.auth import token_params, userpass
from undercroft.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Refused,
    Unavailable,
    UnsupportedPath,
)
from undercroft.request import passwords
from undercroft.request.lockouts import rule_of
from undercroft.request.model import Auth, Operation
from undercroft.request.mounts import Mount, MountConfig

HOUR = 3600
USERS = "auth/userpass/users"
LOGIN = "auth/userpass/login"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id all the same, at a cost that tests can pay a thousand times."""
    quick = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    monkeypatch.setattr(passwords, "_HASHER", quick)
    monkeypatch.setattr(passwords, "_NOBODY", quick.hash("nobody"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


def add(world: World, name: str = "alice", password: str = "right", **fields: Any) -> None:
    world.ask(f"{USERS}/{name}", world.root, password=password, **fields)


def login(world: World, name: str = "alice", password: str = "right") -> Auth:
    auth = world.ask(f"{LOGIN}/{name}", password=password).auth
    assert auth is not None
    return auth


def fail(world: World, name: str = "alice", times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Refused, match="invalid username or password"):
            login(world, name, "wrong")


# users


def test_a_user_reads_back_as_the_oracle_answers(world: World) -> None:
    add(world, "Alice", policies=["A", "b"], ttl=HOUR, max_ttl=2 * HOUR)
    assert world.read(f"{USERS}/ALICE") == {
        "max_ttl": 2 * HOUR,
        "policies": ("a", "b"),
        "token_bound_cidrs": (),
        "token_explicit_max_ttl": 0,
        "token_max_ttl": 2 * HOUR,
        "token_no_default_policy": False,
        "token_num_uses": 0,
        "token_period": 0,
        "token_policies": ("a", "b"),
        "token_strictly_bind_ip": False,
        "token_ttl": HOUR,
        "token_type": "default",
        "ttl": HOUR,
    }


def test_the_new_name_of_a_parameter_wins_and_the_old_one_fades(world: World) -> None:
    add(world, token_policies=["x"], policies=["y"], token_ttl=1800, ttl=1200)
    data = world.read(f"{USERS}/alice")
    assert (data["policies"], data["token_policies"], data["ttl"]) == (("x",), ("x",), 1800)
    world.ask(f"{USERS}/alice", world.root, token_policies=["z"])
    data = world.read(f"{USERS}/alice")
    assert "policies" not in data
    assert (data["token_policies"], data["ttl"]) == (("z",), 1800)


def test_users_are_listed_and_deleted(world: World) -> None:
    with pytest.raises(NotFound):
        world.ask(USERS, world.root, Operation.LIST)
    add(world, "bob")
    add(world, "Alice")
    assert world.ask(USERS, world.root, Operation.LIST).data == {"keys": ["alice", "bob"]}
    for _ in range(2):
        world.ask(f"{USERS}/BOB", world.root, Operation.DELETE)
    with pytest.raises(NotFound):
        world.read(f"{USERS}/bob")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "must provide either password or password_hash"),
        ({"password": ""}, "must provide either password or password_hash"),
        ({"password": "p", "password_hash": "h"}, "only one of password or password_hash"),
        ({"password_hash": "$2a$10$" + "N" * 53}, "not a valid argon2id hash"),
        ({"password": "p", "token_ttl": 3, "token_max_ttl": 2}, "cannot be greater than"),
        ({"password": "p", "token_type": "batch", "token_num_uses": 3}, "limited use count"),
        ({"password": "p", "token_type": "batch", "token_period": 3}, "periodic tokens"),
        ({"password": "p", "token_type": "x"}, "invalid 'token_type' value"),
        ({"password": "p", "token_num_uses": -1}, "'token_num_uses' cannot be negative"),
        ({"password": "p", "token_ttl": -1}, "negative"),
        ({"password": "p", "token_bound_cidrs": ["300.1.1.1"]}, "token_bound_cidrs"),
        ({"password": "p" * 5000}, "longer than"),
        (
            {"password": "p", "token_bound_cidrs": ["::1"], "token_strictly_bind_ip": True},
            "conflicts",
        ),
    ],
)
def test_a_user_that_could_not_work_is_refused(
    world: World, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        world.ask(f"{USERS}/alice", world.root, **fields)
    with pytest.raises(NotFound):
        world.read(f"{USERS}/alice")


@pytest.mark.parametrize("name", ["root", "ROOT", " root", "root\u200b", "ｒｏｏｔ"])
def test_threat_id_01_a_user_is_never_given_root(world: World, name: str) -> None:
    with pytest.raises(InvalidRequest):
        add(world, token_policies=[name])
    with pytest.raises(InvalidRequest):
        add(world, policies=[name])


def test_password_and_policies_have_paths_of_their_own(world: World) -> None:
    add(world)
    world.ask(f"{USERS}/alice/password", world.root, password="new")
    fail(world)
    world.ask(f"{USERS}/alice/policies", world.root, token_policies=["p"], ttl=5)
    assert login(world, password="new").policies == ["default", "p"]
    for path in ("nobody/password", "nobody/policies"):
        with pytest.raises(InvalidRequest, match="username does not exist"):
            world.ask(f"{USERS}/{path}", world.root, password="x")
    with pytest.raises(InvalidRequest, match="must provide"):
        world.ask(f"{USERS}/alice/password", world.root)


def test_a_hash_made_elsewhere_logs_in(world: World) -> None:
    made = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("brought")
    world.ask(f"{USERS}/alice", world.root, password_hash=made)
    assert login(world, password="brought").metadata == {"username": "alice"}


@pytest.mark.parametrize(("memory", "time"), [(64, 1), (2_000_000, 1), (8192, 99)])
def test_a_hash_too_weak_or_too_costly_is_refused(memory: int, time: int) -> None:
    text = f"$argon2id$v=19$m={memory},t={time},p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
    with pytest.raises(InvalidRequest, match="weaker, or costlier"):
        passwords.check_hash(text)


def test_no_text_of_a_user_shows_the_hash() -> None:
    assert "argon2" not in repr(userpass.User("$argon2id$x"))


# login


def test_a_login_answers_what_the_oracle_answers(world: World) -> None:
    add(world, "Alice", token_policies=["b", "a"], token_ttl=HOUR)
    auth = login(world, "ALICE")
    assert auth.policies == auth.token_policies == ["a", "b", "default"]
    assert (auth.metadata, auth.lease_duration) == ({"username": "alice"}, HOUR)
    assert (auth.renewable, auth.orphan, auth.alias_name) == (True, True, "alice")
    data = world.read("auth/token/lookup-self", auth.client_token)
    assert (data["display_name"], data["path"]) == ("userpass-alice", "auth/userpass/login/ALICE")


def test_conv_06_wrong_user_and_wrong_password_are_told_alike(world: World) -> None:
    add(world)
    fail(world, "alice")
    fail(world, "nobody")
    for password in ("", None):
        with pytest.raises(InvalidRequest, match="missing password"):
            world.ask(f"{LOGIN}/alice", password=password)


def test_threat_log_01_an_unknown_user_costs_the_same_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work counted, not the clock: every attempt verifies one hash of equal parameters."""
    add(world)
    real, costs = passwords._HASHER, list[str]()

    class Counting:
        def verify(self, stored: str, password: bytes) -> bool:
            costs.append(stored.split("$")[3])
            return real.verify(stored, password)

    monkeypatch.setattr(passwords, "_HASHER", Counting())
    fail(world, "alice")
    fail(world, "nobody")
    assert len(costs) == 2
    assert costs[0] == costs[1]


def test_threat_log_01_unknown_users_lock_like_known_ones(world: World) -> None:
    add(world)
    for name in ("alice", "nobody"):
        fail(world, name, 5)
        with pytest.raises(PermissionDenied):
            login(world, name)


def test_nobodys_password_is_no_way_in(world: World) -> None:
    with pytest.raises(Refused):
        login(world, "ghost", "nobody")


def test_threat_log_02_all_spellings_share_one_counter_and_it_survives_a_restart(
    world: World,
) -> None:
    add(world)
    for name in ("alice", "ALICE", "Alice", "aLiCe", "alicE"):
        fail(world, name)
    world.restart()
    for name in ("alice", "ALICE"):
        with pytest.raises(PermissionDenied):
            login(world, name)
    world.pass_time(900)
    assert login(world).client_token


@pytest.mark.parametrize(
    "name",
    [" alice", "alice ", "al ice", "ａlice", "caf\u00e9", "cafe\u0301", ".a", "a.", "a@b", "a-"],
)
def test_threat_id_08_what_is_not_the_canonical_name_is_no_user(world: World, name: str) -> None:
    with pytest.raises(UnsupportedPath):
        add(world, name)
    with pytest.raises(UnsupportedPath):
        login(world, name)


def test_a_login_in_time_clears_the_counter(world: World) -> None:
    add(world)
    for _ in range(3):
        fail(world, times=4)
        assert login(world).client_token


def test_old_failures_are_forgotten(world: World) -> None:
    add(world)
    fail(world, times=4)
    world.pass_time(900)
    fail(world, times=4)
    assert login(world).client_token


def test_lockout_entries_expire_from_the_store(world: World) -> None:
    fail(world, "ghost")
    world.pass_time(901)
    assert len(world.store.due(world.now_ms, 10)) == 1


def test_the_mount_decides_how_often_and_how_long(world: World) -> None:
    add(world)
    config = {"lockout_threshold": "2", "lockout_duration": "10m", "lockout_counter_reset": "1m"}
    world.tune("auth/userpass/", user_lockout_config=config)
    fail(world, times=2)
    world.pass_time(599)
    with pytest.raises(PermissionDenied):
        login(world)
    world.pass_time(1)
    assert login(world).client_token
    world.tune("auth/userpass/", user_lockout_config={"lockout_disable": True})
    fail(world, times=9)
    assert login(world).client_token
    assert rule_of(Mount(b"", "auth/x/", "x", "x")).threshold == 5


def test_locked_users_are_shown_and_let_in_again(world: World) -> None:
    add(world)
    assert world.read("sys/locked-users")["total"] == 0
    fail(world, times=5)
    shown = {
        "mount_accessor": "auth_userpass_1",
        "counts": 1,
        "alias_identifiers": ["alice"],
    }
    namespace = {
        "namespace_id": "root",
        "namespace_path": "",
        "counts": 1,
        "mount_accessors": [shown],
    }
    assert world.read("sys/locked-users") == {"by_namespace": [namespace], "total": 1}
    other = world.ask("sys/locked-users", world.root, Operation.READ, mount_accessor="nope").data
    assert other["by_namespace"][0]["mount_accessors"] == [
        {"mount_accessor": "nope", "counts": 0, "alias_identifiers": None}
    ]
    for _ in range(2):
        world.ask("sys/locked-users/auth_userpass_1/unlock/alice", world.root)
    assert login(world).client_token


def test_a_user_changed_during_the_login_is_not_let_in_by_the_old_password(world: World) -> None:
    add(world)
    with world.store.snapshot() as view:
        call = world.call_of(view, f"{LOGIN}/alice", {"username": "alice"}, {"password": "right"})
        verdict = userpass.prepare_login(call)
    world.ask(f"{USERS}/alice/password", world.root, password="new")
    with world.transaction() as tx:
        call.view, call.prepared = tx, verdict
        with pytest.raises(Unavailable):
            userpass.login(call)


# token parameters


def test_threat_log_11_every_token_parameter_reaches_the_token(world: World) -> None:
    add(
        world,
        token_policies=["p"],
        token_ttl=60,
        token_max_ttl=120,
        token_explicit_max_ttl=90,
        token_num_uses=7,
        token_no_default_policy=True,
        token_bound_cidrs=["127.0.0.0/8"],
    )
    auth = login(world)
    entry = world.entry(auth.client_token)
    assert entry is not None
    assert (entry.policies, entry.ttl_seconds, entry.max_ttl_seconds) == (("p",), 60, 120)
    assert (entry.explicit_max_ttl_seconds, entry.num_uses) == (90, 7)
    assert entry.bound_cidrs == ("127.0.0.0/8",)
    world.address = "10.0.0.1"
    with pytest.raises(PermissionDenied):
        login(world)
    with pytest.raises(PermissionDenied):
        world.read("auth/token/lookup-self", auth.client_token)


def test_a_strictly_bound_token_is_bound_to_who_logged_in(world: World) -> None:
    add(world, token_strictly_bind_ip=True)
    world.address = "10.9.8.7"
    token = login(world).client_token
    assert world.read("auth/token/lookup-self", token)["bound_cidrs"] == ("10.9.8.7",)
    world.address = "10.9.8.8"
    with pytest.raises(PermissionDenied):
        world.read("auth/token/lookup-self", token)


@pytest.mark.parametrize(
    ("rule", "wanted", "kind"),
    [
        ("default-service", "default", "service"),
        ("default-service", "batch", "batch"),
        ("default-batch", "default", "batch"),
        ("default-batch", "service", "service"),
        ("service", "batch", "service"),
        ("batch", "service", "batch"),
    ],
)
def test_the_mount_has_the_last_word_on_the_type(rule: str, wanted: str, kind: str) -> None:
    mount = Mount(b"", "auth/x/", "x", "x", config=MountConfig(token_type=rule))
    assert token_params.token_type_of(wanted, mount) == kind


def test_a_mounts_maximum_caps_a_login_with_a_warning(world: World) -> None:
    add(world, token_ttl=5 * HOUR)
    world.tune("auth/userpass/", max_lease_ttl=1800, default_lease_ttl=600)
    response = world.ask(f"{LOGIN}/alice", password="right")
    assert response.auth is not None
    assert response.auth.lease_duration == 1800
    assert response.warnings == [
        'TTL of "5h" exceeded the effective max_ttl of "30m"; TTL value is capped accordingly'
    ]


def test_a_renewal_asks_the_user_as_it_is_now(world: World) -> None:
    add(world, token_policies=["p"], token_ttl=HOUR, token_max_ttl=2 * HOUR)
    token = login(world).client_token
    response = world.ask("auth/token/renew-self", token, increment=5 * HOUR)
    assert response.auth is not None
    assert response.auth.lease_duration == 2 * HOUR
    world.ask(f"{USERS}/alice", world.root, token_policies=["q"])
    with pytest.raises(InvalidRequest, match="policies have changed, not renewing"):
        world.ask("auth/token/renew-self", token)
    world.ask(f"{USERS}/alice", world.root, Operation.DELETE)
    with pytest.raises(InvalidRequest, match="gone, not renewing"):
        world.ask("auth/token/renew-self", token)


def test_a_token_of_a_method_that_is_gone_is_not_renewed(world: World) -> None:
    add(world)
    token = login(world).client_token
    del world.mounts["auth/userpass/"]
    with pytest.raises(InvalidRequest, match="gone, not renewing"):
        world.ask("auth/token/renew-self", token)
