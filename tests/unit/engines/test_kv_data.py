"""KV v2 data: versions, check-and-set, patches, subkeys, single versions, bytes kept."""

from typing import Any

import msgspec
import pytest

from tests.support.calls import DELETE, LIST, PATCH, READ, SCAN, WRITE, Calls, data_of, text_of
from undercroft.engines.kv import jsontext
from undercroft.engines.kv.fields import PATH_BYTES_MAX
from undercroft.engines.kv.secret import INLINE_BYTES_MAX
from undercroft.errors import (
    InvalidRequest,
    NotFound,
    ReadOnly,
    UndercroftError,
    UnsupportedOperation,
)
from undercroft.request.model import Operation

LONG = "x" * (INLINE_BYTES_MAX + 1)
WRITTEN = {
    "created_time": "2026-09-21T14:13:20.123Z",
    "custom_metadata": None,
    "deletion_time": "",
    "destroyed": False,
    "version": 1,
}


def status_and_data(calls: Calls, path: str, **query: Any) -> tuple[int, Any]:
    response = calls.send(READ, path, None, query)
    assert response is not None
    return response.status or 200, data_of(response)


# writing and reading


def test_a_write_answers_with_the_new_versions_metadata(v2: Calls) -> None:
    assert v2.write("data/a", {"data": {"x": 1}}) == WRITTEN


def test_a_read_gives_the_newest_version(v2: Calls) -> None:
    v2.write("data/a", {"data": {"x": 1}})
    v2.now_ms += 1
    v2.write("data/a", {"data": {"x": 2}})
    metadata = {**WRITTEN, "created_time": "2026-09-21T14:13:20.124Z", "version": 2}
    assert v2.read("data/a") == {"data": {"x": 2}, "metadata": metadata}


@pytest.mark.parametrize("value", ["short", LONG])
def test_every_kept_version_can_be_read(v2: Calls, value: str) -> None:
    for number in (1, 2, 3):
        v2.write("data/a", {"data": {"n": number, "v": value}})
    for number in (1, 2, 3):
        assert v2.read("data/a", version=number)["data"] == {"n": number, "v": value}
    for newest in (0, -1, ""):
        assert v2.read("data/a", version=newest)["data"]["n"] == 3


def test_what_never_was_is_not_found(v2: Calls) -> None:
    with pytest.raises(NotFound):
        v2.read("data/a")
    v2.write("data/a", {"data": {}})
    with pytest.raises(NotFound):
        v2.read("data/a", version=2)


@pytest.mark.parametrize("data", [{}, None])
def test_empty_data_is_data(v2: Calls, data: Any) -> None:
    v2.write("data/a", {"data": data})
    assert v2.read("data/a") == {"data": data, "metadata": WRITTEN}


@pytest.mark.parametrize("body", [None, {}, {"options": {"cas": 0}}])
def test_a_write_needs_data(v2: Calls, body: Any) -> None:
    for operation in (WRITE, PATCH):
        with pytest.raises(InvalidRequest, match="no data provided"):
            v2.send(operation, "data/a", body)


@pytest.mark.parametrize("data", ["text", 5, [1], True])
def test_data_is_an_object(v2: Calls, data: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        v2.write("data/a", {"data": data})
    assert "text" not in caught.value.message
    assert v2.names() == []


def test_payloads_come_back_byte_for_byte(v2: Calls) -> None:
    payload = b'{ "f":1.0,"e":1e3,"n":12345678901234567890123, "u":"\\u00e9","a":1,"a":2 }'
    v2.send(WRITE, "data/a", b'{"data":' + payload + b"}")
    v2.write("data/a", {"data": {}})
    stored = text_of(v2.send(READ, "data/a", None, {"version": 1}))
    assert stored.startswith(b'{"data":' + payload + b',"metadata":')


def test_unknown_fields_are_warned_about(v2: Calls) -> None:
    v2.write("data/a", {"data": {}, "foo": 1, "version": 7})
    assert v2.warnings == ["Endpoint ignored these unrecognized parameters: [foo]"]


def test_a_short_payload_needs_one_entry_and_a_long_one_its_own(v2: Calls) -> None:
    v2.write("data/a", {"data": {"v": 1}})
    assert v2.names() == ["m/a"]
    v2.write("data/a", {"data": {"v": LONG}})
    assert v2.names() == ["m/a", "v/a/1", "v/a/2"]


def test_a_long_payload_is_written_once_whatever_happens_around_it(v2: Calls) -> None:
    def record(name: str) -> bytes | None:
        with v2.store.snapshot() as view:
            return view.raw(v2.mount.keyspace + v2.mount.id + name.encode())

    v2.write("data/a", {"data": {"v": LONG}})
    written = record("v/a/1")
    assert written is not None
    v2.write("metadata/a", {"custom_metadata": {"a": "b"}})
    v2.delete("data/a")
    v2.write("undelete/a", {"versions": [1]})
    v2.write("data/a", {"data": {"v": LONG}})
    assert record("v/a/1") == written
    assert len(record("m/a") or b"") < INLINE_BYTES_MAX


def test_paths_that_look_like_versions_do_not_mix(v2: Calls) -> None:
    for path in ("a", "a/1", "a/1/2", "1"):
        for number in (1, 2, 3):
            v2.write(f"data/{path}", {"data": {"at": f"{path} {number}", "v": LONG}})
    for path in ("a", "a/1", "a/1/2", "1"):
        for number in (1, 2, 3):
            assert v2.read(f"data/{path}", version=number)["data"]["at"] == f"{path} {number}"


def test_the_longest_path_takes_many_versions_and_a_longer_one_none(v2: Calls) -> None:
    path = "data/" + "ä/" * (PATH_BYTES_MAX // 3 - 1) + "b"
    for number in (1, 2, 3):
        v2.write(path, {"data": {"n": number, "v": LONG}})
    assert [v2.read(path, version=n)["data"]["n"] for n in (1, 2, 3)] == [1, 2, 3]
    with pytest.raises(InvalidRequest, match="longer than"):
        v2.write(path + "ccccc", {"data": {}})


def test_create_or_update_is_decided_by_the_secret_being_there(v2: Calls) -> None:
    def operation(path: str) -> Operation:
        match, request = v2.request(WRITE, path, {"data": {}, "max_versions": 5})
        with v2.store.snapshot() as view, pytest.raises(ReadOnly):
            v2.call(match, request, view)
        return request.operation

    assert operation("data/a") is Operation.CREATE
    v2.write("data/a", {"data": {}})
    v2.delete("data/a")
    assert operation("data/a") is Operation.UPDATE
    assert operation("metadata/a") is Operation.UPDATE
    assert operation("metadata/b") is Operation.CREATE


# versions kept


def numbers(calls: Calls, path: str = "a") -> list[int]:
    return [int(n) for n in calls.read(f"metadata/{path}")["versions"]]


def test_ten_versions_are_kept_unless_something_else_is_said(v2: Calls) -> None:
    for _ in range(12):
        v2.write("data/a", {"data": {"v": LONG}})
    assert numbers(v2) == list(range(3, 13))
    assert len(v2.names()) == 11
    with pytest.raises(NotFound):
        v2.read("data/a", version=2)


@pytest.mark.parametrize(("own", "general", "kept"), [(2, 0, 2), (2, 3, 3), (4, 3, 4), (0, 1, 1)])
def test_the_larger_of_secret_and_mount_counts(
    v2: Calls, own: int, general: int, kept: int
) -> None:
    v2.write("config", {"max_versions": general})
    v2.write("metadata/a", {"max_versions": own})
    for number in range(6):
        v2.write("data/a", {"data": {"n": number, "v": LONG if number % 2 else ""}})
    assert numbers(v2) == list(range(7 - kept, 7))
    assert sum(name.startswith("v/") for name in v2.names()) <= kept


def test_a_lower_limit_takes_effect_at_the_next_write(v2: Calls) -> None:
    for _ in range(5):
        v2.write("data/a", {"data": {}})
    v2.write("metadata/a", {"max_versions": 2})
    assert numbers(v2) == [1, 2, 3, 4, 5]
    v2.write("data/a", {"data": {}})
    assert numbers(v2) == [5, 6]
    assert v2.names() == ["m/a", "v/a/5"]


def test_oldest_version_counts_from_the_moment_that_the_limit_is_reached(v2: Calls) -> None:
    v2.write("metadata/a", {"max_versions": 3})
    seen = []
    for _ in range(5):
        v2.write("data/a", {"data": {}})
        seen.append(v2.read("metadata/a")["oldest_version"])
    assert seen == [0, 0, 1, 2, 3]


# check-and-set


def test_cas_must_be_the_newest_version(v2: Calls) -> None:
    def write(cas: Any) -> Any:
        return v2.write("data/a", {"data": {}, "options": {"cas": cas}})["version"]

    assert write(0) == 1
    assert write(1) == 2
    assert write("2") == 3
    for wrong in (0, 2, 4, -3, None, True, ""):
        with pytest.raises(InvalidRequest, match="did not match the current version"):
            write(wrong)
    for garbage in ("zz", 1.5, {}, []):
        with pytest.raises(InvalidRequest, match="error parsing check-and-set parameter"):
            write(garbage)


def test_cas_of_a_secret_that_is_not_there_is_0(v2: Calls) -> None:
    with pytest.raises(InvalidRequest, match="did not match"):
        v2.write("data/a", {"data": {}, "options": {"cas": 1}})
    v2.write("metadata/a", {"max_versions": 3})
    v2.write("data/a", {"data": {}, "options": {"cas": 0}})


@pytest.mark.parametrize("where", ["config", "metadata/a"])
@pytest.mark.parametrize("options", [None, {}, {"foo": 1}])
def test_cas_can_be_required(v2: Calls, where: str, options: Any) -> None:
    v2.write("data/a", {"data": {}})
    v2.write(where, {"cas_required": True})
    for operation in (WRITE, PATCH):
        with pytest.raises(InvalidRequest, match="check-and-set parameter required"):
            v2.send(operation, "data/a", {"data": {}, "options": options})
    v2.write("data/a", {"data": {}, "options": {"cas": 1}})


def test_threat_kv_01_of_two_writes_with_one_cas_in_one_batch_one_wins(v2: Calls) -> None:
    v2.write("data/a", {"data": {"n": 0}})
    batch = v2.store.batch(lambda: v2.now_ms)
    outcomes = []
    for n in (1, 2):
        match, request = v2.request(WRITE, "data/a", {"data": {"n": n}, "options": {"cas": 1}})
        tx = batch.transaction()
        try:
            v2.call(match, request, tx)
        except InvalidRequest as error:
            outcomes.append(error.message)
        else:
            batch.accept(tx)
            outcomes.append("written")
    batch.commit()
    assert outcomes == ["written", "check-and-set parameter did not match the current version"]
    assert v2.read("data/a")["data"] == {"n": 1}
    assert v2.read("metadata/a")["current_version"] == 2


# deleting


def test_a_deleted_version_is_a_404_with_its_metadata(v2: Calls) -> None:
    v2.write("data/a", {"data": {"x": 1}})
    v2.now_ms += 1000
    v2.delete("data/a")
    gone = {**WRITTEN, "deletion_time": "2026-09-21T14:13:21.123Z"}
    assert status_and_data(v2, "data/a") == (404, {"data": None, "metadata": gone})


def test_deleting_again_changes_nothing(v2: Calls) -> None:
    v2.write("data/a", {"data": {}})
    v2.delete("data/a")
    before = v2.read("metadata/a"), v2.store.position
    v2.now_ms += 5000
    v2.delete("data/a")
    v2.write("delete/a", {"versions": [1]})
    v2.delete("data/none")
    assert (v2.read("metadata/a"), v2.store.position) == before


@pytest.mark.parametrize("value", ["short", LONG])
def test_versions_are_deleted_undeleted_and_destroyed_by_number(v2: Calls, value: str) -> None:
    for number in range(1, 5):
        v2.write("data/a", {"data": {"n": number, "v": value}})
    v2.write("delete/a", {"versions": [1, 2, 4, 99, 0, -1]})
    assert [status_and_data(v2, "data/a", version=n)[0] for n in range(1, 5)] == [
        404,
        404,
        200,
        404,
    ]
    v2.write("undelete/a", {"versions": "1,4,99"})
    assert v2.read("data/a")["data"] == {"n": 4, "v": value}
    v2.write("destroy/a", {"versions": ["2", 4]})
    v2.write("undelete/a", {"versions": [2, 4]})
    v2.write("delete/a", {"versions": [4]})
    status, data = status_and_data(v2, "data/a")
    assert (status, data["data"], data["metadata"]["destroyed"]) == (404, None, True)
    assert data["metadata"]["deletion_time"] == ""
    assert v2.read("data/a", version=1)["data"] == {"n": 1, "v": value}
    assert v2.names() == ["m/a", "v/a/1", "v/a/3"]


def test_a_destroyed_payload_is_in_no_entry(v2: Calls) -> None:
    v2.write("data/a", {"data": {"v": "needle"}})
    v2.write("destroy/a", {"versions": [1]})
    with v2.store.snapshot() as view:
        values = [view.get(v2.mount.keyspace + v2.mount.id + n.encode()) for n in v2.names()]
    assert values
    assert not any(b"needle" in value for value in values if value)
    v2.write("data/a", {"data": {"v": "second"}})
    assert v2.names() == ["m/a"]


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("delete", "No version number provided"),
        ("undelete", "No version number provided"),
        ("destroy", "no version number provided"),
    ],
)
def test_which_versions_must_be_said(v2: Calls, verb: str, message: str) -> None:
    for body in (None, {}, {"versions": []}, {"versions": None}):
        with pytest.raises(InvalidRequest, match=message):
            v2.write(f"{verb}/a", body)
    assert v2.write(f"{verb}/none", {"versions": [1]}) is None
    assert v2.names() == []


# deletion by time


@pytest.mark.parametrize(
    ("own", "general", "seconds"),
    [("3h", 0, 10800), (0, "1h", 3600), ("3h", "1h", 3600), ("1h", "3h", 3600), ("3h", -1, 0)],
)
def test_a_version_lives_for_the_shorter_of_secret_and_mount(
    v2: Calls, own: Any, general: Any, seconds: int
) -> None:
    v2.write("config", {"delete_version_after": general})
    v2.write("metadata/a", {"delete_version_after": own})
    written = v2.write("data/a", {"data": {"x": 1}})
    if not seconds:
        assert written["deletion_time"] == ""
        return
    v2.now_ms += seconds * 1000 - 1
    assert v2.read("data/a")["data"] == {"x": 1}
    v2.now_ms += 1
    assert status_and_data(v2, "data/a") == (404, {"data": None, "metadata": written})


def test_undeleting_starts_the_time_again(v2: Calls) -> None:
    v2.write("metadata/a", {"delete_version_after": "10s"})
    v2.write("data/a", {"data": {"x": 1}})
    v2.now_ms += 60_000
    v2.write("undelete/a", {"versions": [1]})
    v2.now_ms += 9_999
    assert v2.read("data/a")["data"] == {"x": 1}
    v2.now_ms += 1
    assert status_and_data(v2, "data/a")[0] == 404


# patch


def patched(calls: Calls, before: bytes, change: bytes) -> bytes:
    calls.send(WRITE, "data/a", b'{"data":' + before + b"}")
    calls.send(PATCH, "data/a", b'{"data":' + change + b"}")
    found: dict[str, msgspec.Raw] = msgspec.json.decode(
        text_of(calls.send(READ, "data/a")), type=dict[str, msgspec.Raw]
    )
    return bytes(found["data"])


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (b'{"a":1.50,"b":2}', b'{"b":1e3}', b'{"a":1.50,"b":1e3}'),
        (b'{"a":{"c":1,"d":null}}', b'{"a":{"c":null,"e":1.0}}', b'{"a":{"d":null,"e":1.0}}'),
        (b'{"l":[1.0,{"x":null},[]]}', b'{"z":1}', b'{"l":[1.0,{"x":null},[]],"z":1}'),
        (b'{"s":"\\u00e9\\ud83d\\ude00\\n"}', b"{}", '{"s":"é😀\\n"}'.encode()),
        (b'{"a":1}', b'{"z":{"n":null,"m":1}}', b'{"a":1,"z":{"m":1}}'),
        (b'{"a":{"b":1}}', b'{"a":[null]}', b'{"a":[null]}'),
        (b'{"a":1}', b"{}", b'{"a":1}'),
        (b'{"a":1}', b"null", b"null"),
        (b"null", b'{"a":1,"b":null}', b'{"a":1}'),
        (b'{"n":12345678901234567890123}', b'{"a":null}', b'{"n":12345678901234567890123}'),
    ],
)
def test_a_patch_is_merged_and_numbers_stay_as_written(
    v2: Calls, before: bytes, change: bytes, after: bytes
) -> None:
    assert patched(v2, before, change) == after


def test_a_deep_and_long_patch_takes_time_in_proportion_to_its_length(v2: Calls) -> None:
    depth, filler = 300, b"x" * 200_000
    deep = b'{"a":' * depth + b'"' + filler + b'"' + b"}" * depth
    decoded = [0]

    def counting(text: bytes, parse: Any = jsontext._parse) -> Any:
        decoded[0] += len(text)
        return parse(text)

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(jsontext, "_parse", counting)
        assert patched(v2, deep, deep) == deep
    assert decoded[0] == 2 * len(deep)


def test_a_patch_makes_a_version(v2: Calls) -> None:
    v2.write("data/a", {"data": {"a": 1}})
    v2.now_ms += 1
    answer = v2.patch("data/a", {"data": {"b": 2}, "options": {"cas": 1}})
    assert answer == {**WRITTEN, "created_time": "2026-09-21T14:13:20.124Z", "version": 2}
    assert v2.read("data/a", version=1)["data"] == {"a": 1}
    with pytest.raises(InvalidRequest, match="did not match"):
        v2.patch("data/a", {"data": {"b": 2}, "options": {"cas": 1}})


def test_there_must_be_something_to_patch(v2: Calls) -> None:
    with pytest.raises(NotFound):
        v2.patch("data/a", {"data": {"a": 1}})
    v2.write("metadata/a", {"max_versions": 3})
    with pytest.raises(NotFound):
        v2.patch("data/a", {"data": {"a": 1}})


def test_a_deleted_version_is_not_patched(v2: Calls) -> None:
    v2.write("data/a", {"data": {"a": 1}})
    v2.delete("data/a")
    response = v2.send(PATCH, "data/a", {"data": {"b": 1}})
    assert response is not None
    assert response.status == 404
    assert data_of(response)["version"] == 1


# subkeys

TREE = {"a": 1, "b": {"c": {"d": "x", "e": {}}, "l": [1, {"z": 1}]}, "f": {}, "n": None}


@pytest.mark.parametrize(
    ("depth", "shape"),
    [
        (0, {"a": None, "b": {"c": {"d": None, "e": None}, "l": None}, "f": None, "n": None}),
        (1, {"a": None, "b": None, "f": None, "n": None}),
        (-1, {"a": None, "b": None, "f": None, "n": None}),
        (2, {"a": None, "b": {"c": None, "l": None}, "f": None, "n": None}),
    ],
)
def test_subkeys_show_the_shape_without_values(v2: Calls, depth: int, shape: Any) -> None:
    v2.write("data/a", {"data": TREE})
    assert v2.read("subkeys/a", depth=depth) == {"metadata": WRITTEN, "subkeys": shape}


def test_subkeys_of_a_version(v2: Calls) -> None:
    v2.write("data/a", {"data": {"one": 1}})
    v2.write("data/a", {"data": None})
    v2.write("data/a", {"data": {}})
    assert v2.read("subkeys/a", version=1)["subkeys"] == {"one": None}
    assert v2.read("subkeys/a", version=2)["subkeys"] is None
    assert v2.read("subkeys/a")["subkeys"] == {}
    v2.delete("data/a")
    status, data = status_and_data(v2, "subkeys/a")
    assert (status, data["subkeys"], data["metadata"]["version"]) == (404, None, 3)
    for path, query in (("subkeys/b", {}), ("subkeys/a", {"version": 9})):
        with pytest.raises(NotFound):
            v2.read(path, **query)


# paths that are none

COMMANDS = {READ: "get", WRITE: "put", PATCH: "patch", DELETE: "delete", LIST: "list", SCAN: "scan"}


@pytest.mark.parametrize("operation", COMMANDS)
@pytest.mark.parametrize("path", ["", "foo", "foo/bar", "datax", "config/x"])
def test_a_path_without_data_is_explained(v2: Calls, operation: Operation, path: str) -> None:
    response = v2.send(operation, path, {"a": 1} if operation in (WRITE, PATCH) else None)
    assert response is not None
    assert response.status == 404
    assert response.warnings is not None
    assert response.warnings[0].startswith("Invalid path for a versioned K/V secrets engine.")
    assert f"'bao kv {COMMANDS[operation]}'" in response.warnings[0]


@pytest.mark.parametrize("operation", [READ, WRITE, DELETE, PATCH])
@pytest.mark.parametrize("path", ["data", "metadata", "delete", "undelete", "destroy"])
def test_the_root_of_an_api_can_only_be_listed(v2: Calls, operation: Operation, path: str) -> None:
    response = v2.send(operation, path)
    assert response is not None
    assert (response.status, response.warnings) == (
        404,
        ["Non-listing operations on the root of a K/V v2 mount are not supported."],
    )


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (LIST, "data"),
        (LIST, "data/foo"),
        (SCAN, "data/foo"),
        (LIST, "delete/x"),
        (READ, "delete/x"),
        (READ, "undelete/x"),
        (DELETE, "destroy/x"),
        (WRITE, "subkeys/x"),
        (LIST, "subkeys/x"),
        (READ, "detailed-metadata/x"),
        (DELETE, "config"),
        (PATCH, "config"),
    ],
)
def test_a_wrong_verb_is_unsupported(v2: Calls, operation: Operation, path: str) -> None:
    with pytest.raises(UnsupportedOperation):
        v2.send(operation, path)


@pytest.mark.parametrize("path", ["data/", "metadata/", "subkeys/", "data/a/"])
def test_a_trailing_slash_names_nothing(v2: Calls, path: str) -> None:
    v2.write("data/a", {"data": {}})
    with pytest.raises(NotFound):
        v2.read(path)
    if not path.startswith("subkeys"):
        v2.delete(path)
        for operation in (WRITE, PATCH):
            with pytest.raises(InvalidRequest, match="ending in '/'"):
                v2.send(operation, path, {"data": {}})
    assert v2.read("data/a")["metadata"]["deletion_time"] == ""


def test_no_error_repeats_what_was_sent(v2: Calls) -> None:
    bodies: list[tuple[Operation, str, Any]] = [
        (WRITE, "data/a", {"data": "needle"}),
        (WRITE, "data/a", {"data": {}, "options": "needle"}),
        (WRITE, "data/a", {"data": {}, "options": {"cas": "needle"}}),
        (WRITE, "metadata/a", {"custom_metadata": {"needle": {}}}),
        (WRITE, "metadata/a", {"custom_metadata": {"needle" * 40: "v"}}),
        (WRITE, "metadata/a", {"custom_metadata": {"k": "needle\n"}}),
        (WRITE, "metadata/a", {"max_versions": "needle"}),
        (WRITE, "config", {"delete_version_after": "needle"}),
        (WRITE, "delete/a", {"versions": ["needle"]}),
    ]
    for operation, path, body in bodies:
        with pytest.raises(UndercroftError) as caught:
            v2.send(operation, path, body)
        assert "needle" not in caught.value.message + caught.value.hint
