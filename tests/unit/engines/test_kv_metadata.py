"""KV v2 metadata: settings of secrets and mounts, custom metadata, names."""

from typing import Any

import pytest

from tests.support.calls import PATCH, WRITE, Calls, data_of
from undercroft.engines.kv.fields import go_duration
from undercroft.errors import InvalidRequest, NotFound
from undercroft.request.model import Operation

NOW = "2026-09-21T14:13:20.123Z"
FRESH = {
    "cas_required": False,
    "created_time": NOW,
    "current_metadata_version": 1,
    "current_version": 0,
    "custom_metadata": None,
    "delete_version_after": "0s",
    "max_versions": 0,
    "metadata_cas_required": False,
    "oldest_version": 0,
    "updated_time": NOW,
    "versions": {},
}


# config


def test_a_mount_starts_with_defaults(v2: Calls) -> None:
    assert v2.read("config") == {
        "cas_required": False,
        "delete_version_after": "0s",
        "max_versions": 0,
        "metadata_cas_required": False,
    }


def test_config_changes_only_what_was_sent(v2: Calls) -> None:
    v2.write("config", {"max_versions": 3, "delete_version_after": "1h30m"})
    v2.write("config", {"cas_required": True})
    v2.write("config", {})
    assert v2.read("config") == {
        "cas_required": True,
        "delete_version_after": "1h30m0s",
        "max_versions": 3,
        "metadata_cas_required": False,
    }
    v2.write("config", {"max_versions": None, "cas_required": None, "delete_version_after": None})
    assert v2.read("config")["max_versions"] == 0
    assert v2.read("config")["cas_required"] is False
    assert v2.read("config")["delete_version_after"] == "1h30m0s"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [("0s", "0s"), (100, "1m40s"), ("90061s", "25h1m1s"), ("1500ms", "1s"), ("-5s", "-1s")],
)
def test_durations_are_shown_as_go_does(v2: Calls, sent: Any, shown: str) -> None:
    v2.write("config", {"delete_version_after": sent})
    assert v2.read("config")["delete_version_after"] == shown


def test_go_durations_name_every_smaller_unit() -> None:
    assert [go_duration(s) for s in (0, 59, 60, 3600, 3661, -90)] == [
        "0s",
        "59s",
        "1m0s",
        "1h0m0s",
        "1h1m1s",
        "-1m30s",
    ]


@pytest.mark.parametrize("where", ["config", "metadata/a"])
@pytest.mark.parametrize("count", [-1, 2**32, "x"])
def test_max_versions_is_a_number_that_fits(v2: Calls, where: str, count: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_versions"):
        v2.write(where, {"max_versions": count})


# metadata


def test_metadata_can_be_there_before_any_data(v2: Calls) -> None:
    assert v2.write("metadata/a", {"max_versions": "3", "cas_required": "true"}) is None
    assert v2.read("metadata/a") == {**FRESH, "max_versions": 3, "cas_required": True}
    with pytest.raises(NotFound):
        v2.read("data/a")
    assert v2.delete("data/a") is None
    assert v2.write("delete/a", {"versions": [1]}) is None


def test_metadata_shows_every_version(v2: Calls) -> None:
    v2.write("data/a", {"data": {}})
    v2.now_ms += 1000
    v2.write("data/a", {"data": {}})
    v2.delete("data/a")
    v2.write("destroy/a", {"versions": [1]})
    assert v2.read("metadata/a") == {
        **FRESH,
        "current_metadata_version": 0,
        "current_version": 2,
        "updated_time": "2026-09-21T14:13:21.123Z",
        "versions": {
            "1": {"created_time": NOW, "deletion_time": "", "destroyed": True},
            "2": {
                "created_time": "2026-09-21T14:13:21.123Z",
                "deletion_time": "2026-09-21T14:13:21.123Z",
                "destroyed": False,
            },
        },
    }


@pytest.mark.parametrize("body", [None, {}, {"foo": 1}, {"metadata_cas": 7}])
def test_a_write_of_nothing_does_nothing(v2: Calls, body: Any) -> None:
    assert v2.write("metadata/a", body) is None
    assert v2.names() == []


@pytest.mark.parametrize("body", [{"custom_metadata": None}, {"max_versions": None}])
def test_null_is_something(v2: Calls, body: Any) -> None:
    v2.write("metadata/a", body)
    assert v2.read("metadata/a") == FRESH


@pytest.mark.parametrize("operation", [WRITE, PATCH])
def test_null_sets_back_to_the_default_but_not_the_time(v2: Calls, operation: Operation) -> None:
    sent = {
        "max_versions": 3,
        "cas_required": True,
        "delete_version_after": "3h",
        "custom_metadata": {"a": "b"},
    }
    v2.write("metadata/a", sent)
    v2.send(operation, "metadata/a", dict.fromkeys(sent))
    assert v2.read("metadata/a") == {
        **FRESH,
        "current_metadata_version": 2,
        "delete_version_after": "3h0m0s",
    }


def test_deleting_metadata_leaves_nothing(v2: Calls) -> None:
    for _ in range(12):
        v2.write("data/a", {"data": {"v": "x" * 2000}})
    v2.write("data/a/b", {"data": {}})
    v2.delete("metadata/a")
    v2.delete("metadata/a")
    assert v2.names() == ["m/a/b"]
    with pytest.raises(NotFound):
        v2.read("metadata/a")
    assert v2.write("data/a", {"data": {}})["version"] == 1


def test_a_patch_needs_a_secret_and_merges(v2: Calls) -> None:
    with pytest.raises(NotFound):
        v2.patch("metadata/a", {"max_versions": 3})
    v2.write("metadata/a", {"custom_metadata": {"a": "1", "b": "2"}})
    v2.patch("metadata/a", {"max_versions": 7, "custom_metadata": {"a": None, "new": "1"}})
    metadata = v2.read("metadata/a")
    assert metadata["custom_metadata"] == {"b": "2", "new": "1"}
    assert metadata["max_versions"] == 7
    assert metadata["current_metadata_version"] == 2
    v2.patch("metadata/a", {})
    assert v2.read("metadata/a") == metadata
    v2.patch("metadata/a", {"custom_metadata": {"b": None, "new": None}})
    assert v2.read("metadata/a")["custom_metadata"] is None


@pytest.mark.parametrize("operation", [WRITE, PATCH])
def test_a_secret_cannot_have_a_negative_time(v2: Calls, operation: Operation) -> None:
    v2.write("data/a", {"data": {}})
    with pytest.raises(InvalidRequest, match="negative"):
        v2.send(operation, "metadata/a", {"delete_version_after": "-1s"})


@pytest.mark.parametrize("operation", [WRITE, PATCH])
def test_what_the_mount_mandates_cannot_be_switched_off(v2: Calls, operation: Operation) -> None:
    v2.write("data/a", {"data": {}})
    v2.write("config", {"cas_required": True})
    response = v2.send(operation, "metadata/a", {"cas_required": False})
    assert response is not None
    assert response.status == 200
    assert response.warnings == [
        '"cas_required" set to false, but is mandated by backend config. '
        "This value will be ignored."
    ]


# custom metadata


def test_custom_metadata_is_texts_and_shown_with_every_version(v2: Calls) -> None:
    v2.write("data/a", {"data": {}})
    v2.send(WRITE, "metadata/a", b'{"custom_metadata":{"t":true,"f":1.50,"s":"\\u00e9","n":1e3}}')
    texts = {"f": "1.50", "n": "1e3", "s": "é", "t": "1"}
    assert v2.read("metadata/a")["custom_metadata"] == texts
    assert v2.read("data/a")["metadata"]["custom_metadata"] == texts
    assert v2.write("data/a", {"data": {}})["custom_metadata"] == texts
    v2.write("metadata/a", {"custom_metadata": {"only": "this"}})
    assert v2.read("metadata/a")["custom_metadata"] == {"only": "this"}
    v2.write("metadata/a", {"custom_metadata": {}})
    assert v2.read("metadata/a")["custom_metadata"] is None


@pytest.mark.parametrize("operation", [WRITE, PATCH])
@pytest.mark.parametrize(
    "custom",
    [
        "text",
        ["a"],
        5,
        {"a": {"b": 1}},
        {"a": ["b"]},
        {"": "v"},
        {"k": ""},
        {"k" * 129: "v"},
        {"ä" * 65: "v"},
        {"k": "v" * 513},
        {"k\x01": "v"},
        {"k": "v\n"},
        {f"k{n}": "v" for n in range(65)},
    ],
)
def test_custom_metadata_has_limits(v2: Calls, operation: Operation, custom: Any) -> None:
    v2.write("data/a", {"data": {}})
    with pytest.raises(InvalidRequest, match="custom_metadata"):
        v2.send(operation, "metadata/a", {"custom_metadata": custom})


def test_custom_metadata_up_to_the_limits(v2: Calls) -> None:
    custom = {f"{n:0128}": "v" * 512 for n in range(64)}
    v2.write("metadata/a", {"custom_metadata": custom})
    assert v2.read("metadata/a")["custom_metadata"] == custom
    with pytest.raises(InvalidRequest, match="at most 64"):
        v2.patch("metadata/a", {"custom_metadata": {"one more": "v"}})


# check-and-set of metadata


def test_metadata_cas_must_be_the_current_metadata_version(v2: Calls) -> None:
    with pytest.raises(InvalidRequest, match="must be 0 when creating"):
        v2.write("metadata/a", {"metadata_cas": 1, "max_versions": 1})
    v2.write("metadata/a", {"metadata_cas": 0, "max_versions": 1})
    v2.patch("metadata/a", {"metadata_cas": 1, "max_versions": 2})
    for wrong in (0, 1, 3, -1, None):
        with pytest.raises(InvalidRequest, match="does not match the current version"):
            v2.write("metadata/a", {"metadata_cas": wrong, "max_versions": 9})
    assert v2.read("metadata/a")["max_versions"] == 2


def test_metadata_cas_can_be_required(v2: Calls) -> None:
    v2.write("metadata/a", {"metadata_cas_required": True})
    for body in ({"max_versions": 4}, {"metadata_cas_required": False}):
        with pytest.raises(InvalidRequest, match="required for this call"):
            v2.write("metadata/a", body)
    v2.write("metadata/a", {"metadata_cas_required": False, "metadata_cas": 1})
    v2.write("metadata/a", {"max_versions": 4})
    v2.write("config", {"metadata_cas_required": True})
    for path in ("a", "b"):
        with pytest.raises(InvalidRequest, match="required for this call"):
            v2.write(f"metadata/{path}", {"max_versions": 4})
    v2.write("metadata/b", {"max_versions": 4, "metadata_cas": 0})
    v2.write("data/c", {"data": {}})


# names


def names(calls: Calls) -> None:
    for name in ("a", "b/c", "b", "d/e/f", "z"):
        calls.write(f"data/l/{name}", {"data": {"x": 1}})
        calls.write(f"data/l/{name}", {"data": {"x": 2}})


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ({}, ["a", "b", "b/", "d/", "z"]),
        ({"after": "a"}, ["b", "b/", "d/", "z"]),
        ({"limit": 2}, ["a", "b"]),
        ({"limit": -1}, ["a", "b", "b/", "d/", "z"]),
        ({"limit": 0}, ["a", "b", "b/", "d/", "z"]),
        ({"after": "b", "limit": 1}, ["b/"]),
        ({"after": "b/", "limit": 1}, ["d/"]),
    ],
)
def test_metadata_is_listed_by_pages(v2: Calls, query: Any, keys: list[str]) -> None:
    names(v2)
    assert v2.list("metadata/l", **query) == {"keys": keys}


def test_lists_know_secrets_without_data_and_not_versions(v2: Calls) -> None:
    names(v2)
    v2.write("metadata/only", {"max_versions": 1})
    v2.delete("data/l/z")
    assert v2.list("metadata") == {"keys": ["l/", "only"]}
    assert v2.list("metadata/l")["keys"][-1] == "z"
    for path in ("metadata/none", "detailed-metadata/none"):
        with pytest.raises(NotFound):
            v2.list(path)
    with pytest.raises(NotFound):
        v2.list("metadata/l", after="zz")


def test_scan_goes_to_every_depth(v2: Calls) -> None:
    names(v2)
    assert v2.scan("metadata/l") == {"keys": ["a", "b", "b/c", "d/e/f", "z"]}
    assert v2.scan("metadata", after="l/b", limit=2) == {"keys": ["l/b/c", "l/d/e/f"]}
    assert v2.scan("metadata/none") == {}
    assert v2.scan("detailed-metadata/none") == {}


def test_a_detailed_list_tells_what_metadata_would(v2: Calls) -> None:
    names(v2)
    for found in (v2.list("detailed-metadata/l"), v2.scan("detailed-metadata/l")):
        assert set(found["key_info"]) == set(found["keys"])
        for name, info in found["key_info"].items():
            assert info == ({} if name.endswith("/") else v2.read(f"metadata/l/{name}"))


def test_reading_metadata_answers_as_json(v2: Calls) -> None:
    assert data_of(None) is None
    with pytest.raises(NotFound):
        v2.read("metadata/a")
