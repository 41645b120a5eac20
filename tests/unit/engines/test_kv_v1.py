"""KV v1, sentence by sentence, and which engine a mount gets."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.calls import DEFAULT_LEASE_SECONDS, PATCH, READ, Calls, text_of
from tests.unit.engines.conftest import kv_mount
from undercroft.engines import kv
from undercroft.engines.kv import v1 as engine_v1
from undercroft.engines.kv import v2 as engine_v2
from undercroft.errors import InvalidRequest, NotFound, UnsupportedOperation


def test_an_object_comes_back_byte_for_byte(v1: Calls) -> None:
    body = b'{"f":1.0, "e":1e3,"n":12345678901234567890123,"u":"\\u00e9<\xc3\xa9>","a":1,"a":2}'
    v1.write("a/b", body)
    assert text_of(v1.send(READ, "a/b")) == body


def test_a_write_replaces_the_whole_object(v1: Calls) -> None:
    v1.write("a", {"x": 1, "y": 2})
    v1.write("a", {"x": 3})
    assert v1.read("a") == {"x": 3}


def test_a_path_that_was_never_written_is_not_found(v1: Calls) -> None:
    with pytest.raises(NotFound) as caught:
        v1.read("a")
    assert caught.value.message == ""


@pytest.mark.parametrize("body", [b"", b"{}", b" { } "])
def test_nothing_to_store_is_refused(v1: Calls, body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="missing data fields"):
        v1.write("a", body)


def test_deleting_what_is_not_there_is_no_error(v1: Calls) -> None:
    v1.write("a", {"x": 1})
    v1.delete("a")
    v1.delete("a")
    with pytest.raises(NotFound):
        v1.read("a")
    assert v1.names() == []


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"ttl": "1h"}, 3600),
        ({"ttl": 90}, 90),
        ({"ttl": "90"}, 90),
        ({"ttl": "1.5s"}, 1),
        ({"ttl": -5}, -5),
        ({"ttl": "-5s"}, -5),
        ({"ttl": "1d"}, 86400),
        ({"lease": "2h"}, 7200),
        ({"ttl": "", "lease": "3h"}, 0),
        ({"ttl": None, "lease": "3h"}, 0),
        (b'{"\\u0074tl":"1h"}', 3600),
        ({"ttl": "bad", "lease": "3h"}, DEFAULT_LEASE_SECONDS),
        ({"ttl": True}, DEFAULT_LEASE_SECONDS),
        ({"ttl": [1]}, DEFAULT_LEASE_SECONDS),
        (b'{"ttl":1.5}', DEFAULT_LEASE_SECONDS),
        (b'{"ttl":1e3}', DEFAULT_LEASE_SECONDS),
        ({"other": "1h"}, DEFAULT_LEASE_SECONDS),
    ],
)
def test_lease_duration_is_what_the_writer_said_or_the_default(
    v1: Calls, body: Any, seconds: int
) -> None:
    v1.write("a", body)
    response = v1.send(READ, "a")
    assert response is not None
    assert response.lease_duration == seconds
    assert not response.renewable
    assert response.lease_id == ""


def test_lists_one_level_sorted_by_bytes_folders_with_a_slash(v1: Calls) -> None:
    for name in ("a", "b/c", "b/d/e", "c", "b", "a-b", "ä"):
        v1.write(name, {"x": 1})
    assert v1.list("") == {"keys": ["a", "a-b", "b", "b/", "c", "ä"]}
    assert v1.list("b") == {"keys": ["c", "d/"]}
    assert v1.list("", after="a", limit=2) == {"keys": ["a-b", "b"]}
    assert v1.scan("") == {"keys": ["a", "a-b", "b", "b/c", "b/d/e", "c", "ä"]}
    assert v1.scan("", after="b", limit=2) == {"keys": ["b/c", "b/d/e"]}
    assert v1.scan("b") == {"keys": ["c", "d/e"]}


def test_an_empty_list_is_not_found_and_an_empty_scan_is_empty(v1: Calls) -> None:
    with pytest.raises(NotFound):
        v1.list("")
    with pytest.raises(NotFound):
        v1.list("nope")
    assert v1.scan("nope") == {}


def test_there_is_no_patch(v1: Calls) -> None:
    with pytest.raises(UnsupportedOperation):
        v1.send(PATCH, "a", {"x": 1})


def test_the_mount_itself_is_no_secret(v1: Calls) -> None:
    with pytest.raises(NotFound):
        v1.read("")
    with pytest.raises(InvalidRequest):
        v1.write("", {"x": 1})
    assert v1.delete("") is None


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False)),
    st.sampled_from([b"", b" ", b"\n\t "]),
)
def test_any_object_is_kept_as_text(members: dict[str, float], space: bytes) -> None:
    import msgspec

    body = b"{" + space + msgspec.json.encode({**members, "z": 1})[1:]
    assert engine_v1.object_body(_call(body)) == body


def _call(body: bytes) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(request=SimpleNamespace(body=body))


# which engine


@pytest.mark.parametrize("version", ["", "1"])
def test_a_mount_without_version_2_is_a_version_1(version: str) -> None:
    assert kv.engine_for(kv_mount(version)) is engine_v1.ENGINE
    kv.check(kv_mount(version), None)


def test_a_mount_with_version_2_has_versions() -> None:
    assert kv.engine_for(kv_mount("2")) is engine_v2.ENGINE
    kv.check(kv_mount("2"), None)


@pytest.mark.parametrize("version", ["3", "two", "0", "v2"])
def test_other_versions_do_not_exist(version: str) -> None:
    with pytest.raises(InvalidRequest, match="version"):
        kv.check(kv_mount(version), None)


@pytest.mark.parametrize(("before", "after"), [("1", "2"), ("2", "1"), ("", "2")])
def test_tuning_cannot_change_the_version(before: str, after: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be changed"):
        kv.check(kv_mount(after), kv_mount(before))


def test_tuning_may_repeat_the_version() -> None:
    kv.check(kv_mount("2"), kv_mount("2"))
    kv.check(kv_mount("1"), kv_mount(""))
