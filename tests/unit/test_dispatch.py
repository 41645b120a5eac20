"""Routes and fields: what a path means and what a body may hold."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.engines.base import Call, Engine, Field, Kind, Route, lists, reads, writes
from undercroft.errors import InvalidRequest, UnsupportedOperation, UnsupportedPath
from undercroft.request.dispatch import Routes, convert, lowered, parse_fields
from undercroft.request.model import Operation, Request, Response


def _apply(call: Call) -> Response | None:
    return None


ROUTES = Routes(
    Engine(
        "test",
        (
            Route("data/{path*}", {**reads(_apply), **writes(_apply)}),
            Route("data/{path*}/tune", reads(_apply)),
            Route("metadata/{path*}", {**reads(_apply), **lists(_apply)}),
            Route("users", lists(_apply)),
            Route("users/{name}", reads(_apply), lower=("name",)),
            Route("users/{name}/password", writes(_apply), lower=("name",)),
            Route("config", reads(_apply)),
        ),
    )
)


def matched(path: str, operation: Operation = Operation.READ) -> tuple[str, dict[str, str]]:
    found = ROUTES.match(path, operation)
    return found.route.pattern, found.params


def test_a_rest_parameter_takes_every_segment() -> None:
    assert matched("data/a/b/c") == ("data/{path*}", {"path": "a/b/c"})


def test_a_literal_behind_a_rest_parameter_wins_over_the_open_end() -> None:
    assert matched("data/a/b/tune") == ("data/{path*}/tune", {"path": "a/b"})


def test_a_rest_parameter_takes_nothing_only_when_listing() -> None:
    assert matched("metadata/", Operation.LIST) == ("metadata/{path*}", {"path": ""})
    with pytest.raises(UnsupportedPath):
        matched("data/")


def test_a_listing_keeps_its_prefix_with_the_slash() -> None:
    assert matched("metadata/a/b/", Operation.LIST)[1] == {"path": "a/b/"}


def test_a_listing_matches_a_literal_with_or_without_the_slash() -> None:
    assert matched("users/", Operation.LIST) == matched("users", Operation.LIST)


def test_one_segment_never_takes_two() -> None:
    with pytest.raises(UnsupportedPath):
        matched("users/a/b")


def test_a_known_path_with_another_verb_is_an_unsupported_operation() -> None:
    with pytest.raises(UnsupportedOperation):
        matched("config", Operation.DELETE)
    with pytest.raises(UnsupportedPath):
        matched("nothing")


def test_lower_cased_names_change_the_path_that_policies_see() -> None:
    found = ROUTES.match("users/ALICE/password", Operation.UPDATE)
    assert lowered("users/ALICE/password", found) == ("users/alice/password", {"name": "alice"})


FIELDS = {
    field.name: field
    for field in (
        Field("text"),
        Field("count", Kind.INT),
        Field("flag", Kind.BOOL),
        Field("ttl", Kind.DURATION),
        Field("names", Kind.LIST),
        Field("numbers", Kind.INTS),
        Field("labels", Kind.STRINGS),
        Field("any", Kind.RAW),
        Field("name"),
    )
}


def parsed(
    body: bytes = b"", query: dict[str, str] | None = None, **params: str
) -> tuple[dict[str, Any], list[str]]:
    request = Request("1", Operation.UPDATE, "x", body=body, query=query or {})
    return parse_fields(FIELDS, request, params)


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        (b'{"text":"a"}', "text", "a"),
        (b'{"text":5}', "text", "5"),
        (b'{"text":true}', "text", "1"),
        (b'{"count":"12"}', "count", 12),
        (b'{"count":12.0}', "count", 12),
        (b'{"flag":"true"}', "flag", True),
        (b'{"flag":"f"}', "flag", False),
        (b'{"flag":0}', "flag", False),
        (b'{"ttl":"1h"}', "ttl", 3600),
        (b'{"ttl":90}', "ttl", 90),
        (b'{"names":"a, b,"}', "names", ["a", "b"]),
        (b'{"names":["a",1]}', "names", ["a", "1"]),
        (b'{"numbers":"1,2"}', "numbers", [1, 2]),
        (b'{"numbers":[1,"2"]}', "numbers", [1, 2]),
        (b'{"labels":{"a":1}}', "labels", {"a": "1"}),
        (b'{"labels":["a=b=c"]}', "labels", {"a": "b=c"}),
        (b'{"any":[1.0, 1e3]}', "any", msgspec.Raw(b"[1.0, 1e3]")),
    ],
)
def test_a_field_is_read_by_its_kind(body: bytes, name: str, value: Any) -> None:
    fields, warnings = parsed(body)
    assert bytes(fields[name]) == bytes(value) if name == "any" else fields[name] == value
    assert warnings == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"count":"CANARY"}',
        b'{"count":1.5}',
        b'{"flag":"CANARY"}',
        b'{"ttl":"CANARY"}',
        b'{"names":[["CANARY"]]}',
        b'{"numbers":["CANARY"]}',
        b'{"labels":"CANARY"}',
        b'{"text":{"a":"CANARY"}}',
        b'{"text":["CANARY"]}',
    ],
)
def test_threat_aud_07_a_value_of_the_wrong_kind_is_refused_without_echoing_it(
    body: bytes,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(body)
    assert caught.value.message.startswith("Field validation failed: ")
    assert "CANARY" not in caught.value.message


def test_json_null_counts_as_not_sent() -> None:
    assert parsed(b'{"text":null,"count":null}') == ({}, [])


def test_the_last_of_a_duplicated_key_wins() -> None:
    assert parsed(b'{"text":"a","text":"b"}')[0] == {"text": "b"}


def test_a_body_field_wins_over_the_query() -> None:
    assert parsed(b'{"text":"body"}', {"text": "query", "count": "3"})[0] == {
        "text": "body",
        "count": 3,
    }


def test_unknown_fields_are_named_in_a_warning() -> None:
    assert parsed(b'{"zebra":1,"ape":2}')[1] == [
        "Endpoint ignored these unrecognized parameters: [ape zebra]"
    ]


def test_a_path_parameter_replaces_a_body_field_with_a_warning() -> None:
    fields, warnings = parsed(b'{"name":"body"}', name="path")
    assert fields["name"] == "path"
    assert warnings == [
        "Endpoint replaced the value of these parameters with the values captured from the "
        "endpoint's path: [name]"
    ]


@given(
    kind=st.sampled_from([k for k in Kind if k is not Kind.RAW]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)
def test_threat_tok_16_any_value_for_any_kind_is_converted_or_refused(
    kind: Kind, value: Any
) -> None:
    with contextlib.suppress(InvalidRequest):
        convert(Field("field", kind), value)
