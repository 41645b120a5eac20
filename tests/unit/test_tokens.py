"""Tokens: issue, look up, use, renew, revoke; auth/token as clients see it."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.token_world import START_MS, World
from undercroft.errors import InvalidRequest, NotFound, PermissionDenied
from undercroft.request import token_tree
from undercroft.request.bound_cidrs import check_cidrs, is_within, narrow
from undercroft.request.lifetimes import Limits, Wish, lifetime, short_duration
from undercroft.request.model import Auth, Operation
from undercroft.request.policy_names import check_policy_names
from undercroft.request.token_entry import (
    CHILD_PREFIX,
    ID_PREFIX,
    QUEUE_PREFIX,
    TokenEntry,
    cubbyhole_prefix,
)
from undercroft.storage.keys import LOCAL, TOKENS

HOUR = 3600
DEFAULT_TTL = 768 * HOUR


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


def refusal(world: World, path: str, caller: str, **fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        world.ask(path, caller, **fields)
    return caught.value.message


def index_size(world: World) -> int:
    return world.see(lambda view: sum(1 for _ in view.keys(CHILD_PREFIX)))


# ids and looking up


def test_an_issued_token_is_found_by_its_id_and_by_its_accessor(world: World) -> None:
    made = world.create(policies=["tk"])
    entry = world.entry(made.client_token)
    assert entry is not None
    assert entry.accessor == made.accessor
    again = world.see(lambda v: world.tokens.lookup_accessor(v, made.accessor, world.now_ms))
    assert again == entry


def test_conv_40_service_ids_are_s_and_24_letters_and_never_repeat(world: World) -> None:
    ids = {world.create(policies=["tk"]).client_token for _ in range(50)}
    assert len(ids) == 50
    assert all(len(i) == 26 and i.startswith("s.") and i[2:].isalnum() for i in ids)


def test_the_id_of_a_token_is_stored_nowhere(world: World) -> None:
    made = world.create(policies=["tk"], meta={"who": "me"})
    secret = made.client_token[2:].encode()

    def everything(view: Any) -> bytes:
        keys = list(view.keys(LOCAL + TOKENS))
        return b"".join(k + (view.get(k) or b"") for k in keys)

    assert secret not in world.see(everything)


@pytest.mark.parametrize(
    "text",
    ["", "s.", "nope", "s." + "a" * 24, "b.", "b.AAAA", "b.!!", "x" * 2000, "\ud800", "é", "a\0b"],
)
def test_what_is_no_token_is_not_found(world: World, text: str) -> None:
    assert world.entry(text) is None


def test_an_accessor_is_no_token_and_a_token_is_no_accessor(world: World) -> None:
    made = world.create(policies=["tk"])
    assert world.entry(made.accessor) is None
    by_id = world.see(lambda v: world.tokens.lookup_accessor(v, made.client_token, world.now_ms))
    assert by_id is None


@pytest.mark.parametrize("accessor", ["", "salt", "../salt", "A" * 32, "0" * 31, "\ud800" * 32])
def test_what_is_no_accessor_is_not_found(world: World, accessor: str) -> None:
    found = world.see(lambda v: world.tokens.lookup_accessor(v, accessor, world.now_ms))
    assert found is None


def test_a_token_dies_the_millisecond_it_expires(world: World) -> None:
    made = world.create(policies=["tk"], ttl=HOUR)
    world.now_ms = START_MS + HOUR * 1000 - 1
    assert world.entry(made.client_token) is not None
    world.now_ms += 1
    assert world.entry(made.client_token) is None


def test_no_text_of_an_entry_shows_its_accessor_or_metadata(world: World) -> None:
    made = world.create(policies=["tk"], meta={"who": "hidden"})
    entry = world.entry(made.client_token)
    assert made.accessor not in repr(entry)
    assert "hidden" not in repr(entry)
    assert made.client_token not in repr(made)


# creating


def test_create_answers_what_the_oracle_answers(world: World) -> None:
    response = world.ask("auth/token/create", world.root, policies=["a", "B", " c "], ttl=HOUR)
    auth = response.auth
    assert auth is not None
    assert response.warnings == [f'Policy "{n}" does not exist' for n in "abc"]
    assert auth.policies == auth.token_policies == ["a", "b", "c", "default"]
    assert (auth.lease_duration, auth.renewable, auth.orphan) == (HOUR, True, False)


def test_root_makes_a_root_token_that_never_ends(world: World) -> None:
    auth = world.create()
    assert (auth.policies, auth.lease_duration, auth.renewable) == (["root"], 0, False)
    world.pass_time(100 * 365 * 24 * HOUR)
    assert world.entry(auth.client_token) is not None


def test_an_expiring_root_token_makes_only_expiring_root_tokens(world: World) -> None:
    brief = world.create(policies=["root"], ttl=HOUR).client_token
    assert world.create(brief, ttl=2 * HOUR).lease_duration == 2 * HOUR
    message = "expiring root tokens cannot create non-expiring root tokens"
    assert refusal(world, "auth/token/create", brief) == message
    assert refusal(world, "auth/token/create", brief, no_parent=True) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ttl": -1}, "ttl must be positive"),
        ({"period": -1}, "period must be positive"),
        ({"explicit_max_ttl": -1}, "explicit_max_ttl must be positive"),
        ({"num_uses": -1}, "number of uses cannot be negative"),
        ({"type": "x"}, "invalid 'token_type' value"),
        ({"id": "a.b"}, "custom token ID cannot have a '.' in the value"),
        ({"id": "s.b"}, "custom token ID cannot have the 's.' prefix"),
        ({"id": " b"}, "custom token ID is too long, or not fit for a header"),
        ({"policies": ["response-wrapping"]}, 'cannot assign policy "response-wrapping"'),
        ({"type": "batch"}, "batch tokens cannot be root tokens"),
        ({"type": "batch", "period": 1}, 'batch tokens cannot have "period" set'),
        (
            {"type": "batch", "policies": ["a"], "num_uses": 1},
            'batch tokens cannot have "num_uses" set',
        ),
        (
            {"entity_alias": "x"},
            "'entity_alias' is only allowed in combination with token role",
        ),
    ],
)
def test_create_refuses(world: World, fields: dict[str, Any], message: str) -> None:
    assert refusal(world, "auth/token/create", world.root, **fields) == message


def test_a_custom_id_works_once(world: World) -> None:
    assert world.create(id="my-own", policies=["tk"]).client_token == "my-own"
    assert world.entry("my-own") is not None
    message = refusal(world, "auth/token/create", world.root, id="my-own")
    assert message == "cannot create a token with a duplicate ID"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "x"}, "root or sudo privileges required to specify token id"),
        ({"no_parent": True}, "root or sudo privileges required to create orphan token"),
        ({"period": 60}, "root or sudo privileges required to create periodic token"),
    ],
)
def test_some_things_need_sudo(world: World, fields: dict[str, Any], message: str) -> None:
    plain = world.create(policies=["tk"]).client_token
    assert refusal(world, "auth/token/create", plain, **fields) == message
    world.sudo_paths.add("auth/token/create")
    sudo = world.create(policies=["sudo"]).client_token
    world.create(sudo, policies=["x"], **fields)


def test_a_token_with_counted_uses_has_no_children(world: World) -> None:
    counted = world.create(policies=["tk"], num_uses=5).client_token
    message = refusal(world, "auth/token/create", counted)
    assert message == "restricted use token cannot generate child tokens"


def test_threat_acl_09_a_child_has_no_policy_that_its_parent_lacks(world: World) -> None:
    """Every way to a child, but for roles that name what they allow and for sudo."""
    world.ask("auth/token/roles/plain", world.root)
    bare = world.create(policies=["tk", "p1"], no_default_policy=True).client_token
    ways: list[dict[str, Any]] = [
        {"at": "auth/token/create"},
        {"at": "auth/token/create-orphan"},
        {"at": "auth/token/create/plain"},
        {"at": "auth/token/create", "type": "batch"},
    ]
    for way in ways:
        assert world.create(bare, **way).policies == ["p1", "tk"]
        assert world.create(bare, **way, policies=["p1"]).policies == ["p1"]
        for more in (["p1", "default"], ["p2"], ["root"], ["ROOT"], ["p1", "tk", "x"]):
            way_to = dict(way)
            at = way_to.pop("at")
            with pytest.raises(InvalidRequest):
                world.ask(at, bare, policies=more, **way_to)


def test_default_is_inherited_unless_it_is_not_wanted(world: World) -> None:
    parent = world.create(policies=["tk"]).client_token
    assert world.create(parent).policies == ["default", "tk"]
    assert world.create(parent, policies=["tk"]).policies == ["default", "tk"]
    assert world.create(parent, no_default_policy=True).policies == ["tk"]
    both = world.create(parent, no_default_policy=True, policies=["tk", "default"])
    assert both.policies == ["tk"]


def test_sudo_gives_any_policy_but_root(world: World) -> None:
    world.sudo_paths.add("auth/token/create")
    sudo = world.create(policies=["sudo"], no_default_policy=True).client_token
    assert world.create(sudo, policies=["zz"]).policies == ["default", "zz"]
    message = refusal(world, "auth/token/create", sudo, policies=["root"])
    assert message == "root tokens may not be created without parent token being root"


@pytest.mark.parametrize("name", ["root", "ROOT", " root", "root\u200b", "ｒｏｏｔ", "ro\u00adot"])
def test_threat_id_01_root_comes_by_no_role_and_no_spelling(world: World, name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_policy_names([name])
    assert refusal(world, "auth/token/roles/r", world.root, allowed_policies=[name])
    plain = world.create(policies=["tk"]).client_token
    assert refusal(world, "auth/token/create", plain, policies=[name])
    mount = world.mounts["auth/userpass/"]
    for auth in (Auth(policies=[name]), Auth(policies=[name], ttl_seconds=60)):
        with pytest.raises(InvalidRequest):
            world.change(
                lambda tx, a=auth: world.tokens.issue(tx, a, mount, world.now_ms, path="x")
            )


# roles


def test_a_role_reads_back_as_the_oracle_answers(world: World) -> None:
    world.ask(
        "auth/token/roles/R2",
        world.root,
        allowed_policies=["b", "A", "a"],
        orphan=True,
        explicit_max_ttl=3 * HOUR,
        token_bound_cidrs=["127.0.0.1/8", "10.0.0.1"],
        token_num_uses=3,
        allowed_entity_aliases=["E", "f"],
    )
    data = world.read("auth/token/roles/R2")
    assert data["allowed_policies"] == ("a", "b")
    assert data["explicit_max_ttl"] == data["token_explicit_max_ttl"] == 3 * HOUR
    assert data["token_bound_cidrs"] == ("127.0.0.1/8", "10.0.0.1")
    assert (data["token_num_uses"], data["orphan"], data["renewable"]) == (3, True, True)
    assert data["token_type"] == "default-service"
    with pytest.raises(NotFound):
        world.read("auth/token/roles/r2")


def test_the_new_name_of_a_role_parameter_wins_with_a_warning(world: World) -> None:
    response = world.ask("auth/token/roles/r", world.root, period=60, token_period=120)
    assert response.warnings == [
        "Both 'token_period' and deprecated 'period' value supplied, ignoring the deprecated value"
    ]
    data = world.read("auth/token/roles/r")
    assert (data["period"], data["token_period"]) == (0, 120)


@pytest.mark.parametrize(
    "fields",
    [
        {"token_type": "batch"},
        {"token_type": "batch", "orphan": True},
        {"token_type": "x"},
        {"path_suffix": "a/b"},
        {"token_bound_cidrs": ["nope"]},
        {"token_num_uses": -1},
        {"token_period": -1},
    ],
)
def test_a_role_that_could_not_work_is_refused(world: World, fields: dict[str, Any]) -> None:
    refusal(world, "auth/token/roles/r", world.root, **fields)
    with pytest.raises(NotFound):
        world.read("auth/token/roles/r")


def test_roles_are_listed_and_deleted(world: World) -> None:
    with pytest.raises(NotFound):
        world.ask("auth/token/roles", world.root, Operation.LIST)
    world.ask("auth/token/roles/b", world.root)
    world.ask("auth/token/roles/a", world.root)
    listed = world.ask("auth/token/roles", world.root, Operation.LIST)
    assert listed.data == {"keys": ["a", "b"]}
    world.ask("auth/token/roles/a", world.root, Operation.DELETE)
    world.ask("auth/token/roles/a", world.root, Operation.DELETE)
    assert world.ask("auth/token/roles", world.root, Operation.LIST).data == {"keys": ["b"]}


def test_a_role_that_names_policies_replaces_the_parents(world: World) -> None:
    world.ask("auth/token/roles/r", world.root, allowed_policies=["p1", "p2"])
    world.ask("auth/token/roles/g", world.root, allowed_policies_glob=["x-*"])
    plain = world.create(policies=["tk"]).client_token
    assert world.create(plain, "auth/token/create/r").policies == ["default", "p1", "p2"]
    assert world.create(plain, "auth/token/create/r", policies=["p2"]).policies == ["default", "p2"]
    assert world.create(plain, "auth/token/create/g", policies=["x-1"]).policies == [
        "default",
        "x-1",
    ]
    assert world.create(plain, "auth/token/create/g").policies == ["default"]
    refusal(world, "auth/token/create/r", plain, policies=["tk"])
    refusal(world, "auth/token/create/g", plain, policies=["y"])
    refusal(world, "auth/token/create/g", plain, policies=["root"])
    assert refusal(world, "auth/token/create/none", plain) == "unknown role"


def test_a_role_refuses_what_it_disallows(world: World) -> None:
    world.ask("auth/token/roles/r", world.root, disallowed_policies=["root", "d*"])
    world.ask("auth/token/roles/n", world.root, disallowed_policies=["default"])
    message = 'token policy "root" is disallowed by this role'
    assert refusal(world, "auth/token/create/r", world.root) == message
    assert world.create(at="auth/token/create/r", policies=["dx"]).policies == ["default", "dx"]
    assert world.create(at="auth/token/create/n", policies=["a"]).policies == ["a"]


def test_a_role_shapes_its_tokens(world: World) -> None:
    world.ask(
        "auth/token/roles/r",
        world.root,
        orphan=True,
        renewable=False,
        path_suffix="suffix",
        token_period=2 * HOUR,
        token_num_uses=3,
    )
    response = world.ask("auth/token/create/r", world.root, policies=["a"], period=HOUR, num_uses=9)
    auth = response.auth
    assert auth is not None
    assert response.warnings is not None
    assert "Period specified both" in response.warnings[0]
    entry = world.entry(auth.client_token)
    assert entry is not None
    assert (entry.orphan, entry.renewable, entry.num_uses) == (True, False, 3)
    assert (entry.path, entry.role) == ("auth/token/create/r/suffix", "r")
    assert auth.lease_duration == HOUR


# looking up, as clients see it


def test_lookup_answers_every_field_of_the_oracle(world: World) -> None:
    made = world.create(
        policies=["tk"], meta={"a": "b"}, display_name="  Foo/Bar__é!! x ", ttl=HOUR
    )
    data = world.read("auth/token/lookup-self", made.client_token)
    assert data == {
        "accessor": made.accessor,
        "creation_time": START_MS // 1000,
        "creation_ttl": HOUR,
        "display_name": "token---Foo-Bar------x",
        "entity_id": "",
        "expire_time": "2027-01-15T09:00:00Z",
        "explicit_max_ttl": 0,
        "id": made.client_token,
        "issue_time": "2027-01-15T08:00:00Z",
        "meta": {"a": "b"},
        "num_uses": 0,
        "orphan": False,
        "path": "auth/token/create",
        "policies": ("default", "tk"),
        "renewable": True,
        "ttl": HOUR,
        "type": "service",
    }
    by_accessor = world.ask("auth/token/lookup-accessor", world.root, accessor=made.accessor).data
    assert by_accessor == data | {"id": ""}
    assert world.ask("auth/token/lookup", world.root, token=made.client_token).data == data


def test_conv_06_and_07_unknown_tokens_are_denied_unknown_accessors_are_bad(world: World) -> None:
    with pytest.raises(PermissionDenied, match="bad token"):
        world.ask("auth/token/lookup", world.root, token="nope")
    bad = "1 error occurred:\n\t* invalid accessor\n\n"
    assert refusal(world, "auth/token/lookup-accessor", world.root, accessor="nope") == bad
    missing = "1 error occurred:\n\t* missing accessor\n\n"
    assert refusal(world, "auth/token/renew-accessor", world.root) == missing
    with pytest.raises(PermissionDenied):
        world.ask("auth/token/lookup-self", "nope")


def test_root_has_no_end(world: World) -> None:
    data = world.read("auth/token/lookup-self")
    assert (data["ttl"], data["expire_time"], data["policies"]) == (0, None, ("root",))


# times


@given(
    now=st.integers(0, 10**8),
    ttl=st.integers(0, 10**9),
    period=st.sampled_from([0, 0, 1, 60, 10**6]),
    role_max=st.integers(0, 10**6),
    explicit=st.integers(0, 10**6),
    default=st.integers(1, 10**6),
    longest=st.integers(1, 10**6),
)
def test_threat_tok_10_no_maximum_is_ever_passed(
    now: int, ttl: int, period: int, role_max: int, explicit: int, default: int, longest: int
) -> None:
    limits = Limits(DEFAULT_TTL, DEFAULT_TTL).within_mount(default, longest)
    life = lifetime(now, now, limits, Wish(ttl, period, role_max, explicit))
    given_maxima = [m for m in (longest, role_max, explicit) if m]
    asked = period or ttl or min(default, longest)
    assert life.expires_ms == now + min([asked, *given_maxima]) * 1000
    assert bool(life.warnings) == (asked > min(given_maxima))


@pytest.mark.parametrize("offset_ms", range(-1500, 1001, 50))
def test_threat_tok_01_a_renewal_near_the_maximum_stays_finite(
    world: World, offset_ms: int
) -> None:
    made = world.create(policies=["tk"], ttl=HOUR, explicit_max_ttl=HOUR)
    end_ms = START_MS + HOUR * 1000
    world.now_ms = end_ms + offset_ms
    if offset_ms >= 0:
        assert world.entry(made.client_token) is None
        return
    auth = world.ask("auth/token/renew-self", made.client_token, increment=HOUR).auth
    assert auth is not None
    assert auth.lease_duration >= 1
    entry = world.entry(made.client_token)
    assert entry is not None
    assert entry.expires_ms == end_ms


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 9000)), max_size=6),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "ttl": st.integers(1, 9000),
            "explicit_max_ttl": st.integers(1, 9000),
            "period": st.integers(1, 9000),
        },
    ),
)
def test_every_token_but_root_ends_however_it_is_renewed(
    world: World, steps: list[tuple[int, int]], fields: dict[str, int]
) -> None:
    world.tune("auth/token/", max_lease_ttl=7200)
    made = world.create(policies=["tk"], **fields)
    started_ms = world.now_ms
    for seconds, increment in steps:
        world.pass_time(seconds)
        try:
            world.ask("auth/token/renew-self", made.client_token, increment=increment)
        except (PermissionDenied, InvalidRequest):
            break
    entry = world.see(lambda v: v.read(ID_PREFIX + made.accessor.encode(), TokenEntry))
    assert entry.expires_ms > started_ms
    assert entry.expires_ms <= world.now_ms + 7200 * 1000
    if "period" not in fields:
        assert entry.expires_ms <= started_ms + 7200 * 1000
    if "explicit_max_ttl" in fields:
        assert entry.expires_ms <= started_ms + fields["explicit_max_ttl"] * 1000


def test_capped_times_are_warned_about_in_words(world: World) -> None:
    response = world.ask("auth/token/create", world.root, policies=["tk"], ttl=9999 * HOUR)
    assert response.warnings == [
        'TTL of "9999h" exceeded the effective max_ttl of "768h"; TTL value is capped accordingly'
    ]
    assert [short_duration(s) for s in (0, 61, 3600, 3601, 5400)] == [
        "0s",
        "1m1s",
        "1h",
        "1h0m1s",
        "1h30m",
    ]


def test_a_mounts_own_maximum_stands_in_for_the_systems(world: World) -> None:
    world.tune("auth/token/", max_lease_ttl=9999 * HOUR)
    assert world.create(policies=["tk"], ttl=9000 * HOUR).lease_duration == 9000 * HOUR


def test_a_periodic_token_is_renewed_past_every_maximum_but_the_explicit(world: World) -> None:
    forever = world.create(policies=["tk"], period=HOUR).client_token
    ending = world.create(policies=["tk"], period=HOUR, explicit_max_ttl=2 * HOUR).client_token
    for _ in range(3):
        world.pass_time(HOUR - 1)
        assert world.ask("auth/token/renew-self", forever, increment=9).auth is not None
        if world.entry(ending) is not None:
            world.ask("auth/token/renew-self", ending)
    assert world.entry(forever) is not None
    assert world.entry(ending) is None


def test_renewal_moves_the_end_and_says_so(world: World) -> None:
    made = world.create(policies=["tk"], ttl=HOUR)
    world.pass_time(10)
    auth = world.ask("auth/token/renew", world.root, token=made.client_token, increment=60).auth
    assert auth is not None
    assert (auth.client_token, auth.lease_duration) == (made.client_token, 60)
    data = world.read("auth/token/lookup-self", made.client_token)
    assert (data["ttl"], data["creation_ttl"]) == (60, HOUR)
    assert data["last_renewal_time"] == START_MS // 1000 + 10
    blind = world.ask("auth/token/renew-accessor", world.root, accessor=made.accessor).auth
    assert blind is not None
    assert (blind.client_token, blind.issued) == ("", True)


def test_what_cannot_be_renewed(world: World) -> None:
    fixed = world.create(policies=["tk"], renewable=False).client_token
    batch = world.create(policies=["tk"], type="batch").client_token
    assert refusal(world, "auth/token/renew-self", world.root) == "lease is not renewable"
    assert refusal(world, "auth/token/renew-self", fixed) == "lease is not renewable"
    assert refusal(world, "auth/token/renew-self", batch) == "batch tokens cannot be renewed"
    assert refusal(world, "auth/token/renew", world.root, token="nope") == "token not found"
    assert refusal(world, "auth/token/renew", world.root) == "missing token ID"


def test_a_token_of_a_deleted_role_is_not_renewed(world: World) -> None:
    world.ask("auth/token/roles/r", world.root, token_period=HOUR)
    made = world.create(at="auth/token/create/r", policies=["tk"]).client_token
    world.ask("auth/token/renew-self", made)
    world.ask("auth/token/roles/r", world.root, Operation.DELETE)
    assert "could not be found" in refusal(world, "auth/token/renew-self", made)


def test_threat_tok_12_what_expired_while_the_server_was_down_is_gone(world: World) -> None:
    made = [world.create(policies=["tk"], ttl=60) for _ in range(5)]
    kept = world.create(policies=["tk"], ttl=HOUR)
    world.restart()
    world.pass_time(61)
    assert all(world.entry(m.client_token) is None for m in made)
    assert world.entry(kept.client_token) is not None
    world.reap()
    left = world.ask("auth/token/accessors", world.root, Operation.LIST).data["keys"]
    assert set(left) == {kept.accessor, world.entry(world.root).accessor}  # type: ignore[union-attr]


def test_threat_tok_12_an_entry_without_an_end_is_no_token_unless_root(world: World) -> None:
    made = world.create(policies=["tk"])
    entry = world.entry(made.client_token)
    assert entry is not None
    endless = msgspec.structs.replace(entry, expires_ms=0)
    key = ID_PREFIX + made.accessor.encode()
    world.change(lambda tx: tx.put(key, msgspec.msgpack.encode(endless)))
    assert world.entry(made.client_token) is None


# uses


def test_threat_tok_15_the_last_use_takes_children_and_cubbyhole_along(world: World) -> None:
    counted = world.create(policies=["tk"], num_uses=2)
    world.change(lambda tx: tx.put(cubbyhole_prefix(counted.accessor) + b"a/b", b"x"))
    assert world.read("auth/token/lookup-self", counted.client_token)["num_uses"] == 1
    assert world.read("auth/token/lookup-self", counted.client_token)["num_uses"] == 0
    with pytest.raises(PermissionDenied):
        world.read("auth/token/lookup-self", counted.client_token)
    world.settle()
    assert world.see(lambda v: list(v.keys(cubbyhole_prefix(counted.accessor)))) == []
    assert not world.see(lambda v: v.exists(ID_PREFIX + counted.accessor.encode()))


def test_threat_tok_15_of_two_last_uses_one_succeeds(world: World) -> None:
    counted = world.create(policies=["tk"], num_uses=1)
    seen = world.entry(counted.client_token)  # both requests looked it up before either wrote
    assert seen is not None
    world.change(lambda tx: world.tokens.use(tx, seen, world.now_ms))
    with pytest.raises(PermissionDenied):
        world.change(lambda tx: world.tokens.use(tx, seen, world.now_ms))


def test_a_use_outlives_a_restart(world: World) -> None:
    counted = world.create(policies=["tk"], num_uses=1)
    world.read("auth/token/lookup-self", counted.client_token)
    world.restart()
    assert world.entry(counted.client_token) is None


# bound addresses


def test_threat_tok_11_children_keep_the_restriction_of_their_parent(world: World) -> None:
    world.ask("auth/token/roles/near", world.root, token_bound_cidrs=["127.0.0.0/8"])
    world.ask("auth/token/roles/far", world.root, token_bound_cidrs=["10.0.0.0/8"])
    world.ask("auth/token/roles/one", world.root, token_bound_cidrs=["127.0.0.1"], orphan=True)
    parent = world.create(at="auth/token/create/near", policies=["tk"]).client_token
    ways = ["create", "create-orphan", "create/near", "create/one"]
    for way in ways:
        for kind in ("service", "batch"):
            child = world.create(parent, f"auth/token/{way}", type=kind).client_token
            world.address = "8.8.8.8"
            with pytest.raises(PermissionDenied):
                world.read("auth/token/lookup-self", child)
            world.address = "127.0.0.1"
            world.read("auth/token/lookup-self", child)
    assert "outside" in refusal(world, "auth/token/create/far", parent)


def test_networks_and_addresses() -> None:
    assert check_cidrs(["127.0.0.1/32", "10.1.2.3/8", "::1"], "f") == [
        "127.0.0.1",
        "10.1.2.3/8",
        "::1",
    ]
    assert is_within("::ffff:10.9.9.9", ["10.0.0.0/8"])
    assert not is_within("", ["0.0.0.0/0"])
    assert not is_within("::1", ["0.0.0.0/0"])
    assert narrow(["10.0.0.0/8", "1.2.3.4"], ["10.1.0.0/16", "::/0"]) == ["10.1.0.0/16"]
    with pytest.raises(InvalidRequest):
        check_cidrs(["300.1.1.1"], "f")


# batch tokens


def test_a_batch_token_is_stored_nowhere_and_works_with_the_keyring_alone(world: World) -> None:
    before = world.see(lambda v: list(v.keys(b"")))
    made = world.create(policies=["tk"], type="batch", no_parent=True, meta={"a": "b"})
    assert world.see(lambda v: list(v.keys(b""))) == before
    assert made.client_token.startswith("b.")
    assert (made.accessor, made.renewable, made.orphan) == ("", False, True)
    with TemporaryDirectory() as elsewhere:
        other = World(Path(elsewhere))  # another cluster under the same keyring
        data = other.read("auth/token/lookup-self", made.client_token)
        other.store.close()
    assert (data["type"], data["accessor"], data["meta"]) == ("batch", "", {"a": "b"})


def test_a_batch_token_ends_with_its_time_and_with_its_parent(world: World) -> None:
    parent = world.create(policies=["tk"])
    child = world.create(parent.client_token, type="batch", ttl=HOUR).client_token
    brief = world.create(policies=["tk"], type="batch", ttl=5).client_token
    world.pass_time(5)
    assert world.entry(brief) is None
    assert world.entry(child) is not None
    world.ask("auth/token/revoke-self", parent.client_token)
    assert world.entry(child) is None


def test_threat_tok_02_a_batch_token_makes_nothing_that_could_outlive_it(world: World) -> None:
    """Nobody could end it with the batch token, which is stored nowhere."""
    world.ask("auth/token/roles/r", world.root, allowed_policies=["tk"])
    world.sudo_paths |= {f"auth/token/{way}" for way in ("create", "create-orphan", "create/r")}
    batch = world.create(policies=["sudo", "tk"], type="batch", ttl=HOUR).client_token
    for way in ("create", "create-orphan", "create/r"):
        for fields in ({}, {"type": "batch"}, {"no_parent": True}, {"ttl": 9 * HOUR}):
            message = refusal(world, f"auth/token/{way}", batch, policies=["tk"], **fields)
            assert message == "batch tokens cannot create more tokens"


def test_a_batch_token_cannot_be_revoked_or_have_children(world: World) -> None:
    batch = world.create(policies=["tk"], type="batch").client_token
    message = "batch tokens cannot be revoked"
    assert refusal(world, "auth/token/revoke-self", batch) == message
    assert refusal(world, "auth/token/revoke", world.root, token=batch) == message
    assert refusal(world, "auth/token/revoke-orphan", world.root, token=batch) == message
    assert refusal(world, "auth/token/create", batch) == "batch tokens cannot create more tokens"


@given(at=st.integers(2, 150), flip=st.integers(1, 255))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_changed_batch_token_is_no_token(world: World, at: int, flip: int) -> None:
    text = world.create(policies=["tk"], type="batch").client_token
    index = min(at, len(text) - 2)
    changed = text[:index] + chr((ord(text[index]) + flip) % 256) + text[index + 1 :]
    assert changed == text or world.entry(changed) is None


# revoking


def test_children_die_with_their_parent(world: World) -> None:
    parent = world.create(policies=["tk"])
    child = world.create(parent.client_token)
    grandchild = world.create(child.client_token)
    orphan = world.create(child.client_token, "auth/token/create-orphan")
    world.ask("auth/token/revoke", world.root, token=parent.client_token)
    assert [world.entry(t.client_token) for t in (parent, child, grandchild)] == [None] * 3
    assert world.entry(orphan.client_token) is not None


def test_conv_37_revoking_what_is_not_there_is_fine(world: World) -> None:
    world.ask("auth/token/revoke", world.root, token="nope")
    warned = world.ask("auth/token/revoke-accessor", world.root, accessor="nope")
    assert warned.warnings == ["No token found with this accessor"]
    message = refusal(world, "auth/token/revoke-orphan", world.root, token="nope")
    assert message == "token to revoke not found"


def test_revoke_orphan_lets_the_children_live(world: World) -> None:
    parent = world.create(policies=["tk"])
    child = world.create(parent.client_token)
    grandchild = world.create(child.client_token)
    world.ask("auth/token/revoke-orphan", world.root, token=parent.client_token)
    assert world.entry(parent.client_token) is None
    entry = world.entry(child.client_token)
    assert entry is not None
    assert entry.orphan
    assert world.entry(grandchild.client_token) is not None
    plain = world.create(policies=["tk"]).client_token
    message = refusal(world, "auth/token/revoke-orphan", plain, token=plain)
    assert message == "root or sudo privileges required to revoke and orphan"


def test_a_revoked_parent_takes_everyone_along_before_the_queue_has_run(world: World) -> None:
    parent = world.create(policies=["tk"])
    children = [world.create(parent.client_token) for _ in range(20)]
    below = [world.create(c.client_token) for c in children]
    world.change(lambda tx: token_tree.revoke_tree(tx, [parent.accessor], budget=4))
    assert all(world.entry(t.client_token) is None for t in (*children, *below))
    assert world.see(token_tree.has_work)
    world.restart()  # a crash loses no queued work
    world.settle()
    left = world.ask("auth/token/accessors", world.root, Operation.LIST).data["keys"]
    assert len(left) == 1
    assert world.see(lambda v: list(v.keys(QUEUE_PREFIX))) == []


def test_many_children_become_orphans_in_steps_and_live_all_the_while(world: World) -> None:
    parent = world.create(policies=["tk"])
    children = [world.create(parent.client_token) for _ in range(9)]
    entry = world.entry(parent.client_token)
    assert entry is not None
    world.change(lambda tx: token_tree.orphan_children(tx, entry, budget=4))
    assert world.entry(parent.client_token) is None
    for _ in range(5):
        assert all(world.entry(c.client_token) is not None for c in children)
        world.change(lambda tx: token_tree.continue_work(tx, budget=4))
    found = [world.entry(c.client_token) for c in children]
    assert all(f is not None and f.orphan for f in found)
    assert not world.see(lambda v: v.exists(ID_PREFIX + parent.accessor.encode()))
    assert not world.see(token_tree.has_work)


def test_an_expired_parent_takes_its_children_along(world: World) -> None:
    parent = world.create(policies=["tk"], ttl=60)
    child = world.create(parent.client_token, ttl=HOUR)
    world.pass_time(60)
    assert world.entry(child.client_token) is None
    world.reap()
    left = world.ask("auth/token/accessors", world.root, Operation.LIST).data["keys"]
    assert child.accessor not in left


def test_reaping_spares_what_was_renewed_meanwhile(world: World) -> None:
    made = world.create(policies=["tk"], ttl=60)
    world.pass_time(59)
    key = ID_PREFIX + made.accessor.encode()
    world.ask("auth/token/renew-self", made.client_token, increment=60)
    world.pass_time(2)
    world.change(lambda tx: world.tokens.reap(tx, [key, LOCAL + TOKENS + b"salt"], world.now_ms))
    assert world.entry(made.client_token) is not None


def test_the_tokens_of_a_mount_end_together(world: World) -> None:
    mount = world.mounts["auth/userpass/"]
    logins = [Auth(policies=["a"]) for _ in range(10)]
    for auth in logins:
        world.change(lambda tx, a=auth: world.tokens.issue(tx, a, mount, world.now_ms, path="p"))
    other = world.create(policies=["tk"])
    world.change(lambda tx: world.tokens.revoke_mount(tx, mount.id))
    world.settle()
    assert all(world.entry(a.client_token) is None for a in logins)
    assert world.entry(other.client_token) is not None


def test_tidy_finds_what_should_not_be_there(world: World) -> None:
    parent = world.create(policies=["tk"])
    child = world.create(parent.client_token)
    world.change(
        lambda tx: tx.delete(ID_PREFIX + parent.accessor.encode())
    )  # as if by a bad restore
    answer = world.ask("auth/token/tidy", world.root)
    assert answer.status == 202
    world.settle()
    assert not world.see(lambda v: v.exists(ID_PREFIX + child.accessor.encode()))
    assert index_size(world) == 0


class Model:
    """What revocation does, said plainly: a dictionary from token to parent."""

    def __init__(self) -> None:
        self.parents: dict[int, int | None] = {}

    def revoke(self, token: int) -> None:
        for child in [c for c, p in self.parents.items() if p == token]:
            self.revoke(child)
        self.parents.pop(token, None)

    def revoke_orphan(self, token: int) -> None:
        for child, parent in self.parents.items():
            if parent == token:
                self.parents[child] = None
        self.parents.pop(token, None)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["create", "create", "create", "revoke", "orphan", "queue"]),
            st.integers(0, 30),
        ),
        max_size=40,
    ),
    budget=st.integers(2, 6),
)
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_revocation_does_what_the_plain_model_does(
    world: World, steps: list[tuple[str, int]], budget: int
) -> None:
    model, made = Model(), list[Auth]()
    for action, number in steps:
        alive = sorted(model.parents)
        target = alive[number % len(alive)] if alive else None
        if action == "create":
            parent = target if number % 3 else None
            at = "auth/token/create" if parent is not None else "auth/token/create-orphan"
            maker = world.root if parent is None else made[parent].client_token
            model.parents[len(made)] = parent
            made.append(world.create(maker, at, policies=["tk"]))
        elif action == "queue":
            world.change(lambda tx: token_tree.continue_work(tx, budget))
        elif target is not None and action == "revoke":
            model.revoke(target)
            accessor = made[target].accessor
            world.change(lambda tx, a=accessor: token_tree.revoke_tree(tx, [a], budget))
        elif target is not None:
            model.revoke_orphan(target)
            entry = world.entry(made[target].client_token)
            assert entry is not None
            world.change(lambda tx, e=entry: token_tree.orphan_children(tx, e, budget))
        found = {n for n, auth in enumerate(made) if world.entry(auth.client_token) is not None}
        assert found == set(model.parents)
    while world.change(lambda tx: token_tree.continue_work(tx, budget)):
        pass
    kept = {
        n
        for n, a in enumerate(made)
        if world.see(lambda v, a=a: v.exists(ID_PREFIX + a.accessor.encode()))
    }
    assert kept == set(model.parents)
    indexed = sum(1 for parent in model.parents.values() if parent is not None)
    assert index_size(world) == indexed
    for number in list(model.parents):
        world.ask("auth/token/revoke", world.root, token=made[number].client_token)
    world.settle()


def test_accessors_are_listed_without_ids(world: World) -> None:
    made = world.create(policies=["tk"])
    keys = world.ask("auth/token/accessors", world.root, Operation.LIST).data["keys"]
    assert made.accessor in keys
    assert keys == sorted(keys)
    assert made.client_token not in keys
