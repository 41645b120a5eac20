"""The envelope of answers, byte for byte (conventions 01 to 05 and 18)."""

import json
from typing import Any

import pytest

from undercroft.http.encode import encode, envelope
from undercroft.request.model import Auth, RawBody, Response, WrapInfo

KEYS = ["request_id", "lease_id", "renewable", "lease_duration", "data"]
KEYS += ["wrap_info", "warnings", "auth"]


def sent(response: Response) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(envelope("id", response))
    return fields


def test_all_keys_are_there_in_their_order_and_a_line_feed_ends_them() -> None:
    body = envelope("id", Response(data={"a": 1}))
    assert body == (
        b'{"request_id":"id","lease_id":"","renewable":false,"lease_duration":0,'
        b'"data":{"a":1},"wrap_info":null,"warnings":null,"auth":null}\n'
    )
    assert list(json.loads(body)) == KEYS


def test_a_lease_is_told() -> None:
    fields = sent(Response(data={}, lease_id='db/"x', renewable=True, lease_duration=60))
    assert (fields["lease_id"], fields["renewable"], fields["lease_duration"]) == (
        'db/"x',
        True,
        60,
    )


def test_warnings_are_a_list_or_null() -> None:
    assert sent(Response(warnings=['a "b"']))["warnings"] == ['a "b"']
    assert sent(Response(data={}, warnings=[]))["warnings"] is None


def test_nothing_at_all_is_204_without_a_body() -> None:
    answer = encode("id", Response())
    assert (answer.status, answer.body) == (204, b"")
    assert encode("id", Response(status=204, data={"a": 1})).body == b""


@pytest.mark.parametrize("data", [{}, {"a": None}])
def test_data_is_200_even_when_empty(data: dict[str, Any]) -> None:
    answer = encode("id", Response(data=data))
    assert answer.status == 200
    assert json.loads(answer.body)["data"] == data


def test_a_warning_alone_is_200() -> None:
    assert encode("id", Response(warnings=["w"])).status == 200


def test_a_status_is_kept() -> None:
    assert encode("id", Response(status=404, data={"a": 1})).status == 404


def test_data_stands_at_the_top_too_where_vault_repeats_it() -> None:
    fields = sent(Response(data={"a": 1, "b": "}"}, repeat_data=True))
    assert list(fields) == ["a", "b", *KEYS]
    assert fields["data"] == {"a": 1, "b": "}"}
    assert list(sent(Response(data={}, repeat_data=True))) == KEYS
    assert list(sent(Response(warnings=["w"], repeat_data=True))) == KEYS


def test_an_auth_block_has_vaults_fields() -> None:
    auth = sent(Response(auth=Auth(["default"], client_token="t", accessor="c")))["auth"]
    assert list(auth) == [
        "client_token",
        "accessor",
        "policies",
        "token_policies",
        "metadata",
        "lease_duration",
        "renewable",
        "entity_id",
        "token_type",
        "orphan",
        "mfa_requirement",
        "num_uses",
    ]
    assert (auth["client_token"], auth["metadata"], auth["mfa_requirement"]) == ("t", None, None)


def test_a_wrapped_answer_says_nothing_of_the_request_behind_it() -> None:
    wrapped = sent(Response(wrap_info=WrapInfo("t", "c", 60, "now", "secret/data/a")))
    assert wrapped["request_id"] == ""
    assert wrapped["data"] is wrapped["auth"] is None
    assert wrapped["wrap_info"] == {
        "token": "t",
        "accessor": "c",
        "ttl": 60,
        "creation_time": "now",
        "creation_path": "secret/data/a",
    }


def test_a_wrapped_login_names_the_accessor_of_its_token() -> None:
    info = WrapInfo("t", "c", 60, "now", "auth/x/login", wrapped_accessor="inner")
    assert sent(Response(wrap_info=info))["wrap_info"]["wrapped_accessor"] == "inner"


def test_a_raw_answer_passes_as_it_is() -> None:
    raw = RawBody(472, "text/plain", b"<x>")
    answer = encode("id", Response(raw=raw, headers={"X-A": "b"}))
    assert (answer.status, answer.body, answer.content_type) == (472, b"<x>", "text/plain")
    assert answer.headers == (("X-A", "b"),)
