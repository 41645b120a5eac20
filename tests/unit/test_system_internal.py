"""sys/internal/ui: what a caller may see of the mounts, and nothing of the others."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node import SYS, Rules, call_on, mount
from undercroft.engines.system.internal import (
    ROUTES,
    list_mounts,
    list_namespaces,
    read_mount,
    resultant_acl,
    touches,
)
from undercroft.errors import PermissionDenied

KV = mount("kv/", "kv")
TEAM = mount("team/kv/", "kv")
LISTED = mount("listed/", "kv", listing_visibility="unauth")
TOKEN = mount("auth/token/", "token")
MOUNTS = (SYS, KV, TEAM, LISTED, TOKEN)
TOKENS = {
    "root": Rules({}, is_root=True),
    "app": Rules({"team/kv/data/app/*": ["read"], "auth/token/lookup-self": ["read"]}),
    "denied": Rules({"kv/*": ["deny"]}),
}


def call(token: str = "", path: str = "") -> Any:
    params = {"path": path} if path else {}
    made = call_on(token=token, params=params, mounts=MOUNTS, tokens=TOKENS)
    made.caller = None  # the routes are open: the pipeline looks at no token
    return made


def test_without_a_token_only_mounts_listed_for_everyone_are_shown_in_brief() -> None:
    assert list_mounts(call()).data == {
        "auth": {},
        "secret": {"listed/": {"type": "kv", "description": "", "options": {}}},
    }


def test_a_caller_sees_mounts_that_a_rule_touches_and_root_sees_all() -> None:
    data = list_mounts(call("app")).data
    assert (set(data["secret"]), set(data["auth"])) == ({"team/kv/", "listed/"}, {"token/"})
    assert data["secret"]["team/kv/"]["accessor"] == "kv"
    assert len(list_mounts(call("root")).data["secret"]) == 4


def test_a_bad_token_is_refused_where_none_is_needed() -> None:
    for handler in (list_mounts, read_mount):
        with pytest.raises(PermissionDenied):
            handler(call("bad", "kv/x"))


def test_the_preflight_names_the_mount_of_a_path() -> None:
    data = read_mount(call("app", "team/kv/data/app/x")).data
    assert (data["path"], data["type"]) == ("team/kv/", "kv")
    assert read_mount(call("app", "team/kv")).data["path"] == "team/kv/"
    assert read_mount(call("root", "auth/token/x")).data["path"] == "token/"


def test_a_mount_out_of_sight_and_one_that_is_not_there_look_the_same() -> None:
    told = []
    for path in ("kv/x", "no/x"):
        with pytest.raises(PermissionDenied) as raised:
            read_mount(call("app", path))
        told.append(raised.value.message.replace(path, "PATH"))
    assert told[0] == told[1]
    with pytest.raises(PermissionDenied):
        read_mount(call("denied", "kv/x"))
    with pytest.raises(PermissionDenied):
        read_mount(call("", "listed/x"))


@pytest.mark.parametrize(
    ("pattern", "prefix", "expected"),
    [
        ("kv/a", "kv/", True),
        ("kv/", "kv/", True),
        ("kv", "kv/", True),
        ("kv*", "kv/", True),
        ("*", "kv/", True),
        ("k*", "kv/deep/", True),
        ("kv/d*", "kv/deep/", True),
        ("kv/deep/x", "kv/", True),
        ("+/a", "kv/", True),
        ("+/deep/*", "kv/deep/", True),
        ("kv/+", "kv/deep/", True),
        ("kv/+/x*", "kv/", True),
        ("other/*", "kv/", False),
        ("kv2/*", "kv/", False),
        ("kv/deeper", "kv/deep/", False),
        ("kv/a", "kv/deep/", False),
        ("+", "kv/deep/", False),
        ("x*", "kv/", False),
    ],
)
def test_a_pattern_touches_a_mount_when_it_can_match_below(
    pattern: str, prefix: str, expected: bool
) -> None:
    assert touches(pattern, prefix) is expected


segments = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3).map("/".join)


@given(segments, segments)
def test_a_path_touches_every_mount_that_holds_it(mount_path: str, below: str) -> None:
    full = f"{mount_path}/{below}"
    assert touches(full, mount_path + "/")
    for size in range(len(full)):
        assert touches(full[:size] + "*", mount_path + "/")


def test_the_resultant_acl_tells_exact_paths_from_globs() -> None:
    made = call_on(token="app", tokens=TOKENS)
    assert resultant_acl(made).data == {
        "root": False,
        "exact_paths": {"auth/token/lookup-self": {"capabilities": ["read"]}},
        "glob_paths": {"team/kv/data/app/": {"capabilities": ["read"]}},
    }
    assert resultant_acl(call_on(token="root", tokens=TOKENS)).data == {"root": True}


def test_namespaces_are_none_and_need_a_token() -> None:
    assert list_namespaces(call_on()).data == {}
    routes = {route.pattern: route.open for route in ROUTES}
    assert not routes["internal/ui/namespaces"]
    assert not routes["internal/ui/resultant-acl"]
