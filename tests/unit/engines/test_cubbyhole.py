"""Cubbyhole: what is a token's own, and goes with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.calls import PATCH, READ, SCAN, Calls, text_of
from undercroft.engines import cubbyhole
from undercroft.errors import InvalidRequest, NotFound, PermissionDenied, UnsupportedOperation
from undercroft.request.mounts import Mount
from undercroft.request.token_entry import WRAPPING_POLICY, TokenEntry, cubbyhole_prefix
from undercroft.storage.keys import CUBBYHOLE, LOCAL


def token(accessor: str, kind: str = "service", policy: str = "default") -> TokenEntry:
    return TokenEntry(accessor, (policy,), "auth/token/create", "t", 0, 0, 0, type=kind)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Calls]:
    mount = Mount(CUBBYHOLE, "cubbyhole/", "cubbyhole", "cubbyhole_1", local=True)
    calls = Calls(tmp_path, cubbyhole.ENGINE, mount)
    calls.token = token("first")
    yield calls
    calls.close()


def test_what_a_token_writes_it_reads_back_byte_for_byte(own: Calls) -> None:
    body = b'{"f":1.0, "ttl":"5m"}'
    own.write("a/b", body)
    response = own.send(READ, "a/b")
    assert text_of(response) == body
    assert response is not None
    assert response.lease_duration == 0


def test_another_token_sees_nothing_of_it(own: Calls) -> None:
    own.write("a", {"x": 1})
    own.token = token("second")
    with pytest.raises(NotFound):
        own.read("a")
    with pytest.raises(NotFound):
        own.list("")
    own.delete("a")
    own.write("a", {"x": 2})
    own.token = token("first")
    assert own.read("a") == {"x": 1}


def test_everything_lies_in_the_local_keyspace_where_revocation_finds_it(own: Calls) -> None:
    own.write("a", {"x": 1})
    with own.store.snapshot() as view:
        assert list(view.keys(b"")) == [cubbyhole_prefix("first") + b"a"]
    assert cubbyhole_prefix("first").startswith(LOCAL + CUBBYHOLE)


def test_names_are_listed_by_level_and_page(own: Calls) -> None:
    for name in ("a", "x/y", "b"):
        own.write(name, {"x": 1})
    assert own.list("") == {"keys": ["a", "b", "x/"]}
    assert own.list("x") == {"keys": ["y"]}
    assert own.list("", after="a", limit=1) == {"keys": ["b"]}
    own.delete("x/y")
    with pytest.raises(NotFound):
        own.list("x")


def test_an_empty_object_and_an_empty_path_are_refused(own: Calls) -> None:
    for body in (b"", b"{}"):
        with pytest.raises(InvalidRequest, match="missing data fields"):
            own.write("a", body)
    for call in (lambda: own.read(""), lambda: own.write("", {"a": 1}), lambda: own.delete("")):
        with pytest.raises(InvalidRequest, match="missing path"):
            call()


def test_deleting_what_is_not_there_is_no_error(own: Calls) -> None:
    own.delete("a")
    own.write("a", {"x": 1})
    own.delete("a")
    with pytest.raises(NotFound):
        own.read("a")


@pytest.mark.parametrize("path", ["a", ""])
def test_batch_tokens_have_no_cubbyhole(own: Calls, path: str) -> None:
    own.token = token("", kind="batch")
    for call in (
        lambda: own.read(path),
        lambda: own.list(path),
        lambda: own.write(path, {"a": 1}),
        lambda: own.delete(path),
    ):
        with pytest.raises(InvalidRequest, match="'service' type tokens"):
            call()


def test_a_wrapping_token_cannot_touch_the_answer_that_it_wraps(own: Calls) -> None:
    own.token = token("wrapping", policy=WRAPPING_POLICY)
    for call in (lambda: own.read("response"), lambda: own.write("response", {"a": 1})):
        with pytest.raises(InvalidRequest, match="sys/wrapping/unwrap"):
            call()


def test_without_a_token_there_is_nothing(own: Calls) -> None:
    own.token = None
    with pytest.raises(PermissionDenied):
        own.read("a")


@pytest.mark.parametrize("operation", [PATCH, SCAN])
def test_there_is_no_patch_and_no_scan(own: Calls, operation: str) -> None:
    with pytest.raises(UnsupportedOperation):
        own.send(PATCH if operation == PATCH else SCAN, "a")


def test_revocation_empties_one_tokens_cubbyhole_and_no_other(own: Calls) -> None:
    for name in ("a", "b/c"):
        own.write(name, {"x": 1})
    for accessor in ("first2", "firs"):
        own.token = token(accessor)
        own.write("a", {"x": 1})
    batch = own.store.batch()
    tx = batch.transaction()
    cubbyhole.delete_all(tx, "first")
    batch.accept(tx)
    batch.commit()
    assert own.names() == ["firs/a", "first2/a"]
