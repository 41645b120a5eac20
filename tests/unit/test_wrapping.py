"""Response wrapping: an answer is fetched once, with a token that is good for nothing else."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.unit.token_world import START_MS, World
from undercroft.errors import InvalidRequest, PermissionDenied, ReadOnly
from undercroft.request.model import Operation, Response, WrapInfo
from undercroft.request.token_entry import cubbyhole_prefix
from undercroft.request.wrapping import INVALID, wrap

WRAP = "sys/wrapping/wrap"
UNWRAP = "sys/wrapping/unwrap"
LOOKUP = "sys/wrapping/lookup"
REWRAP = "sys/wrapping/rewrap"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


def wrapped(
    world: World, path: str = WRAP, form: str = "", ttl: int = 60, **fields: Any
) -> WrapInfo:
    response = world.ask(path, world.root, wrap_ttl_seconds=ttl, wrap_format=form, **fields)
    assert response.wrap_info is not None
    return response.wrap_info


def data_of(response: Response) -> Any:
    return json.loads(msgspec.json.encode(response.data))


def assert_invalid(world: World, path: str, caller: str, **fields: Any) -> None:
    with pytest.raises(InvalidRequest, match=INVALID):
        world.ask(path, caller, **fields)


def test_conv_18_a_wrapped_answer_says_where_it_waits_and_no_more(world: World) -> None:
    info = wrapped(world, a=1)
    assert (info.ttl, info.creation_path) == (60, WRAP)
    assert info.creation_time == "2027-01-15T08:00:00Z"
    assert info.token not in repr(info)


def test_unwrapping_gives_what_was_wrapped(world: World) -> None:
    info = wrapped(world, a=1, b={"c": 1.5})
    assert data_of(world.ask(UNWRAP, info.token)) == {"a": 1, "b": {"c": 1.5}}


def test_numbers_come_back_as_they_were_written(world: World) -> None:
    raw = msgspec.Raw(b'{"a":1.0,"b":1e3,"c":12345678901234567890123}')

    def put_aside(tx: Any) -> WrapInfo:
        return wrap(
            tx,
            Response(data=raw),
            tokens=world.tokens,
            ttl_seconds=60,
            creation_path="p",
            now_ms=world.now_ms,
        )

    info = world.change(put_aside)
    assert bytes(world.ask(UNWRAP, info.token).data) == bytes(raw)


def test_a_new_token_can_be_wrapped_and_its_accessor_is_known_before(world: World) -> None:
    info = wrapped(world, "auth/token/create", policies=["tk"])
    auth = world.ask(UNWRAP, info.token).auth
    assert auth is not None
    assert auth.accessor == info.wrapped_accessor
    assert world.entry(auth.client_token) is not None


@pytest.mark.parametrize("way", ["own", "body"])
def test_threat_wrap_01_an_answer_is_unwrapped_once(world: World, way: str) -> None:
    info = wrapped(world, a=1)
    if way == "own":
        world.ask(UNWRAP, info.token)
    else:
        world.ask(UNWRAP, world.root, token=info.token)
    assert_invalid(world, UNWRAP, info.token)
    assert_invalid(world, UNWRAP, world.root, token=info.token)
    assert_invalid(world, LOOKUP, world.root, token=info.token)
    assert_invalid(world, REWRAP, world.root, token=info.token)
    assert world.see(lambda v: list(v.keys(cubbyhole_prefix(info.accessor)))) == []


def test_threat_wrap_01_of_two_unwraps_in_one_group_commit_one_succeeds(world: World) -> None:
    info = wrapped(world, a=1)
    batch = world.store.batch(lambda: world.now_ms)
    outcomes = []
    for _ in range(2):
        tx = batch.transaction()
        entry = world.tokens.lookup(tx, info.token, world.now_ms)
        outcomes.append(entry is not None)
        if entry is not None:
            world.tokens.revoke(tx, entry.accessor)
        batch.accept(tx)
    batch.commit()
    assert outcomes == [True, False]


def test_threat_wrap_01_a_crash_before_the_commit_leaves_it_whole(world: World) -> None:
    info = wrapped(world, a=1)

    class Crash(Exception):
        pass

    def unwrap_and_crash(tx: Any) -> None:
        entry = world.tokens.lookup(tx, info.token, world.now_ms)
        assert entry is not None
        world.tokens.revoke(tx, entry.accessor)
        raise Crash

    with pytest.raises(Crash):
        world.change(unwrap_and_crash)
    world.restart()
    assert data_of(world.ask(UNWRAP, info.token)) == {"a": 1}


def test_threat_wrap_02_a_wrapping_token_is_no_caller_anywhere_else(world: World) -> None:
    info = wrapped(world, a=1)
    for path, operation in (
        ("auth/token/lookup-self", Operation.READ),
        ("auth/token/renew-self", Operation.UPDATE),
        ("auth/token/revoke-self", Operation.UPDATE),
        ("auth/token/create", Operation.UPDATE),
        ("auth/userpass/users", Operation.LIST),
        (WRAP, Operation.UPDATE),
    ):
        with pytest.raises(PermissionDenied):
            world.ask(path, info.token, operation)
    assert data_of(world.ask(UNWRAP, info.token)) == {"a": 1}


def test_threat_wrap_02_a_lookup_shows_path_time_and_ttl_only(world: World) -> None:
    info = wrapped(world, secret="s")
    expected = {
        "creation_path": WRAP,
        "creation_time": "2027-01-15T08:00:00Z",
        "creation_ttl": 60,
    }
    assert world.ask(LOOKUP, info.token, Operation.READ).data == expected
    assert world.ask(LOOKUP, "", token=info.token).data == expected
    assert data_of(world.ask(UNWRAP, info.token)) == {"secret": "s"}


def test_threat_wrap_03_a_read_only_node_never_answers_in_the_clear(world: World) -> None:
    def put_aside(view: Any) -> WrapInfo:
        return wrap(
            view,
            Response(data={"a": 1}),
            tokens=world.tokens,
            ttl_seconds=60,
            creation_path="p",
            now_ms=world.now_ms,
        )

    with pytest.raises(ReadOnly):
        world.see(put_aside)


def test_conv_06_what_is_no_wrapping_token_is_a_bad_request(world: World) -> None:
    plain = world.create(policies=["tk"]).client_token
    for path in (UNWRAP, LOOKUP, REWRAP):
        for text in ("nope", plain, world.root, "a.b.c", ""):
            assert_invalid(world, path, world.root, token=text)
    assert_invalid(world, UNWRAP, "")


def test_a_caller_is_needed_and_judged_when_the_body_names_the_token(world: World) -> None:
    info = wrapped(world, a=1)
    without = world.create(policies=["none"], no_default_policy=True).client_token
    for caller in ("", "nope", without):
        with pytest.raises(PermissionDenied):
            world.ask(UNWRAP, caller, token=info.token)
    plain = world.create(policies=["tk"]).client_token
    assert data_of(world.ask(UNWRAP, plain, token=info.token)) == {"a": 1}


def test_a_wrapping_token_ends_with_its_time_and_cannot_be_renewed(world: World) -> None:
    info = wrapped(world, a=1, ttl=5)
    with pytest.raises(InvalidRequest, match="not renewable"):
        world.ask("auth/token/renew", world.root, token=info.token)
    world.pass_time(5)
    assert_invalid(world, UNWRAP, info.token)
    world.reap()
    assert world.see(lambda v: list(v.keys(cubbyhole_prefix(info.accessor)))) == []


def test_revoking_a_wrapping_token_destroys_the_answer(world: World) -> None:
    info = wrapped(world, a=1)
    world.ask("auth/token/revoke-accessor", world.root, accessor=info.accessor)
    assert_invalid(world, UNWRAP, info.token)
    assert world.see(lambda v: list(v.keys(cubbyhole_prefix(info.accessor)))) == []


def test_rewrapping_keeps_path_and_ttl_and_kills_the_old_token(world: World) -> None:
    old = wrapped(world, a=1, ttl=77)
    world.pass_time(10)
    new = world.ask(REWRAP, world.root, token=old.token).wrap_info
    assert new is not None
    assert (new.ttl, new.creation_path) == (77, WRAP)
    assert_invalid(world, UNWRAP, old.token)
    third = world.ask(REWRAP, new.token, wrap_ttl_seconds=5).wrap_info
    assert third is not None
    assert third.ttl == 5
    assert data_of(world.ask(UNWRAP, third.token)) == {"a": 1}


def test_an_unwrapped_answer_can_be_wrapped_again(world: World) -> None:
    info = wrapped(world, a=1)
    again = world.ask(UNWRAP, info.token, wrap_ttl_seconds=60).wrap_info
    assert again is not None
    assert again.creation_path == UNWRAP
    assert data_of(world.ask(UNWRAP, again.token)) == {"a": 1}


def test_wrap_without_the_header_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequest, match="endpoint requires response wrapping to be used"):
        world.ask(WRAP, world.root, a=1)


# as JWT


def claims_of(text: str) -> dict[str, Any]:
    payload = text.split(".")[1]
    return json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def test_a_jwt_says_where_to_unwrap_it_and_is_signed_by_the_published_key(world: World) -> None:
    info = wrapped(world, form="jwt", a=1)
    claims = claims_of(info.token)
    issued = START_MS // 1000
    assert claims.pop("jti").startswith("s.")
    assert claims == {
        "accessor": "",
        "addr": "https://here:8200",
        "exp": issued + 60,
        "iat": issued,
        "nbf": issued - 5,
        "type": "wrapping",
    }
    pem = world.read("sys/wrapping/pubkey")["public_key"]
    assert load_pem_public_key(pem.encode()).key_size == 521  # type: ignore[union-attr]
    assert world.ask(LOOKUP, info.token).data["creation_ttl"] == 60
    assert data_of(world.ask(UNWRAP, info.token)) == {"a": 1}
    assert_invalid(world, UNWRAP, info.token)


def test_a_jwt_that_is_not_ours_unwraps_nothing(world: World) -> None:
    info = wrapped(world, form="jwt", a=1)
    header, payload, signature = info.token.split(".")
    none = urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    claims = claims_of(info.token) | {"exp": 2**40}
    longer = urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    for forged in (
        f"{none}.{payload}.",
        f"{none}.{payload}.{signature}",
        f"{header}.{longer}.{signature}",
        f"{header}.{payload}.{flipped}",
        f"{header}.{payload}.{signature[:-4]}",
    ):
        assert_invalid(world, UNWRAP, world.root, token=forged)
    assert data_of(world.ask(UNWRAP, world.root, token=info.token)) == {"a": 1}
