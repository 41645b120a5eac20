"""Errors as clients see them: one status for each, a fixed body, no detail of ours (HTTP-06)."""

import json

import pytest

from undercroft import errors
from undercroft.http.failure import plain, status_of, to_http


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("m"), 400),
        (errors.Refused("m"), 400),
        (errors.PermissionDenied(), 403),
        (errors.NotFound(), 404),
        (errors.UnsupportedPath(), 404),
        (errors.UnsupportedOperation(), 405),
        (errors.TooLarge("m"), 413),
        (errors.UnsupportedMediaType("m"), 415),
        (errors.Sealed(), 503),
        (errors.Unavailable("m"), 503),
        (errors.StorageFull("m"), 507),
        (errors.UndercroftError("m"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_status(error: errors.UndercroftError, status: int) -> None:
    response = to_http(error)
    assert status_of(error) == response.status == status
    assert set(json.loads(response.body)) == {"errors"}


def test_every_kind_of_error_has_a_status_of_an_error() -> None:
    kinds = list(errors.UndercroftError.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert 400 <= status_of(kind.__new__(kind)) < 600


def test_the_hint_follows_the_message() -> None:
    body = to_http(errors.InvalidRequest("what is wrong", hint="what to do")).body
    assert body == b'{"errors":["what is wrong: what to do"]}\n'


def test_nothing_to_say_is_an_empty_list() -> None:
    assert to_http(errors.NotFound()).body == b'{"errors":[]}\n'
    assert plain(418).body == b'{"errors":[]}\n'


def test_an_error_that_passes_says_when_to_come_back() -> None:
    response = to_http(errors.Unavailable("busy"))
    assert dict(response.headers)["Retry-After"].isdigit()
    assert to_http(errors.Sealed()).headers == ()


def test_threat_kv_01_a_text_cannot_leave_its_json_string() -> None:
    body = plain(400, '"]}<script>\n\x00').body
    assert json.loads(body) == {"errors": ['"]}<script>\n\x00']}
    assert body.count(b"\n") == 1
    assert plain(400).content_type == "application/json"
