"""Path filters, sentence by sentence: what is withheld from a secondary, as both sides show it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.replication.clusters import AT, allowed, errors, ok, settle, token_for, warnings, write
from tests.replication.pair import ALL, Pair, replicating_pair, status
from tests.support.undercroft import Answer, Client, until

PATHS, MOUNTS = f"{AT}/primary/paths-filter", f"{AT}/primary/mount-filter"
NONE: dict[str, list[str]] = {"dynamic_filtered_mounts": [], "dynamic_filtered_namespaces": []}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("pair")) as pair:
        bob = {"password": "pw", "token_policies": "all"}
        for path, body in (
            ("sys/auth/people", {"type": "userpass"}),
            ("auth/people/users/bob", bob),
            ("kv1/a", {"v": 1}),
        ):
            assert pair.primary.request("POST", path, body).status == 204
        write(pair.primary, "a")
        settle(pair.secondary, pair.primary)
        yield pair


@pytest.fixture
def pair(made: Pair) -> Iterator[Pair]:
    """Without a filter; and so it is left."""
    yield made
    assert made.primary.request("DELETE", f"{PATHS}/osaka").status == 204
    until(lambda: lacking(made.secondary) == [], made.secondary_server)


def deny(pair: Pair, *paths: str) -> None:
    """And wait until the secondary has it."""
    answer = pair.primary.request("PUT", f"{PATHS}/osaka", {"mode": "deny", "paths": list(paths)})
    assert answer.status == 204, answer
    until(lambda: lacking(pair.secondary) == sorted(paths), pair.secondary_server)


def lacking(secondary: Client) -> list[str]:
    answer = secondary.request("GET", f"{AT}/secondary/dynamic-filter/osaka")
    assert answer.status == 200, answer
    return list(answer.body["data"]["dynamic_filtered_mounts"])


def is_nothing(answer: Answer) -> bool:
    return answer.status == 404 and answer.body == {"errors": []}


# the record


def test_no_filter_is_404_with_no_errors(primary: Client) -> None:
    for path in (PATHS, MOUNTS):
        assert is_nothing(primary.request("GET", f"{path}/osaka"))


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("sent", "mode", "old"),
    [
        ({}, "allow", "whitelist"),
        ({"mode": ""}, "allow", "whitelist"),
        ({"mode": "allow"}, "allow", "whitelist"),
        ({"mode": "deny"}, "deny", "blacklist"),
        ({"mode": "whitelist"}, "allow", "whitelist"),
        ({"mode": "blacklist"}, "deny", "blacklist"),
    ],
)
def test_one_record_has_new_and_old_words(
    primary: Client, method: str, sent: dict[str, str], mode: str, old: str
) -> None:
    primary.request("POST", "sys/mounts/kv1", {"type": "kv"})
    for path in (PATHS, MOUNTS):
        answer = primary.request(method, f"{path}/osaka", {**sent, "paths": ["kv1/"]})
        assert (answer.status, answer.body) == (204, None)
        shown = primary.request("GET", f"{PATHS}/osaka")
        assert (shown.status, shown.body["data"]) == (200, {"mode": mode, "paths": ["kv1/"]})
        shown = primary.request("GET", f"{MOUNTS}/osaka")
        assert (shown.status, shown.body["data"]) == (200, {"mode": old, "paths": ["kv1/"]})
        assert primary.request("DELETE", f"{path}/osaka").status == 204
        assert is_nothing(primary.request("GET", f"{path}/osaka"))


def test_deleting_a_filter_that_is_none_is_204(primary: Client) -> None:
    for path in (PATHS, MOUNTS):
        answer = primary.request("DELETE", f"{path}/osaka")
        assert (answer.status, answer.body) == (204, None)


def test_a_filter_may_be_made_for_an_id_that_is_issued_later(primary: Client) -> None:
    body = {"mode": "deny", "paths": "later/"}
    assert primary.request("POST", f"{PATHS}/osaka", body).status == 200
    token_for(primary, "osaka")
    assert primary.request("GET", f"{PATHS}/osaka").status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"mode": "perhaps", "paths": "kv1/"}, "mode"),
        ({"mode": 7, "paths": "kv1/"}, "mode"),
        ({"paths": []}, "paths"),
        ({"mode": "allow"}, "paths"),
        ({"mode": "allow", "paths": ""}, "paths"),
        ({"mode": "allow", "paths": {"kv1/": True}}, "paths"),
        ({"mode": "deny", "paths": "/"}, "paths"),
        *(
            ({"mode": mode, "paths": f"kv1/,{path}"}, path)
            for mode, path in itertools.product(
                ("allow", "deny"), ("sys/", "identity/", "cubbyhole/", "auth/token/")
            )
        ),
    ],
)
def test_what_is_no_filter_is_refused_and_the_one_before_stays(
    primary: Client, body: dict[str, Any], words: str
) -> None:
    before = {"mode": "deny", "paths": ["kept/"]}
    primary.request("POST", f"{PATHS}/osaka", before)
    for path in (PATHS, MOUNTS):
        answer = primary.request("POST", f"{path}/osaka", body)
        assert answer.status == 400, answer
        assert words in errors(answer)
    assert primary.request("GET", f"{PATHS}/osaka").body["data"] == before


def test_a_path_without_a_mount_is_kept_with_a_warning(primary: Client) -> None:
    primary.request("POST", "sys/mounts/kv1", {"type": "kv"})
    body = {"mode": "deny", "paths": ["kv1/", "team1/", "auth/later/"]}
    answer = primary.request("POST", f"{PATHS}/osaka", body)
    assert answer.status == 200
    assert "team1/" in warnings(answer)
    assert "auth/later/" in warnings(answer)
    assert "kv1/" not in warnings(answer)
    assert primary.request("GET", f"{PATHS}/osaka").body["data"] == body


@pytest.mark.parametrize("wrong", ["-a", "a.", "a%20b", "x" * 129])
def test_a_filters_id_is_one_that_a_token_could_have(primary: Client, wrong: str) -> None:
    answer = primary.request("POST", f"{PATHS}/{wrong}", {"mode": "deny", "paths": "kv1/"})
    assert answer.status == 400
    assert "id" in errors(answer)


def test_filters_are_in_the_performance_family_alone(primary: Client) -> None:
    for family in ("sys/replication/primary", "sys/replication/dr/primary"):
        for name in ("paths-filter", "mount-filter", "dynamic-filter"):
            answer = primary.request("GET", f"{family}/{name}/osaka")
            assert answer.status == 404, answer
            assert "unsupported path" in errors(answer)


def test_each_method_needs_its_capability(primary: Client) -> None:
    body = {"mode": "deny", "paths": "later/"}
    calls = {"read": ("GET", None), "update": ("PUT", body), "delete": ("DELETE", None)}
    primary.request("POST", f"{PATHS}/osaka", body)
    for granted in calls:
        rule = f'path "{PATHS}/+" {{ capabilities = ["{granted}"] }}'
        token = allowed(primary, f"may-{granted}", rule)
        for needed, (method, sent) in calls.items():
            answer = primary.request(method, f"{PATHS}/osaka", sent, token=token)
            assert (answer.status == 403) is (needed != granted), (granted, method, answer)
        primary.request("POST", f"{PATHS}/osaka", body)


def test_unmounting_takes_the_path_out_of_filters(primary: Client) -> None:
    for path in ("one", "two"):
        primary.request("POST", f"sys/mounts/{path}", {"type": "kv"})
    primary.request("POST", f"{PATHS}/osaka", {"mode": "deny", "paths": "one/,two/"})
    assert primary.request("DELETE", "sys/mounts/one").status == 204
    shown = primary.request("GET", f"{PATHS}/osaka").body["data"]
    assert shown == {"mode": "deny", "paths": ["two/"]}


# what a secondary lacks


def test_without_a_filter_nothing_is_lacking_on_either_side(pair: Pair) -> None:
    for client, side in ((pair.primary, "primary"), (pair.secondary, "secondary")):
        answer = client.request("GET", f"{AT}/{side}/dynamic-filter/osaka")
        assert (answer.status, answer.body["data"]) == (200, NONE)
        other = "secondary" if side == "primary" else "primary"
        assert client.request("GET", f"{AT}/{other}/dynamic-filter/osaka").status == 400


def test_both_sides_show_what_is_lacking_now(pair: Pair) -> None:
    deny(pair, "kv1/", "auth/people/")
    shown = pair.primary.request("GET", f"{AT}/primary/dynamic-filter/osaka").body["data"]
    assert shown == {**NONE, "dynamic_filtered_mounts": ["auth/people/", "kv1/"]}
    # A path without a mount is in the record, and lacks nothing.
    pair.primary.request("POST", f"{PATHS}/osaka", {"mode": "deny", "paths": "kv1/,later/"})
    until(lambda: lacking(pair.secondary) == ["kv1/"], pair.secondary_server)
    assert pair.primary.request("POST", "sys/mounts/later", {"type": "kv"}).status == 204
    until(lambda: lacking(pair.secondary) == ["kv1/", "later/"], pair.secondary_server)
    assert pair.primary.request("DELETE", "sys/mounts/later").status == 204


def test_allow_lets_only_those_go(pair: Pair) -> None:
    answer = pair.primary.request("POST", f"{PATHS}/osaka", {"paths": "kv1/"})
    assert answer.status == 204
    until(lambda: "secret/" in lacking(pair.secondary), pair.secondary_server)
    assert "kv1/" not in lacking(pair.secondary)
    assert is_nothing(pair.secondary.request("GET", "secret/data/a"))
    assert pair.secondary.request("GET", "kv1/a").body["data"] == {"v": 1}


def test_a_filtered_mount_is_not_there_for_reads_writes_and_logins(pair: Pair) -> None:
    secondary = pair.secondary
    deny(pair, "kv1/", "auth/people/")
    for method, path in (
        ("GET", "kv1/a"),
        ("LIST", "kv1/"),
        ("POST", "kv1/b"),
        ("DELETE", "kv1/a"),
        ("GET", "auth/people/users/bob"),
        ("POST", "auth/people/users/eve"),
        ("POST", "auth/people/login/bob"),
    ):
        body = {"password": "pw"} if method == "POST" else None
        assert is_nothing(secondary.request(method, path, body)), (method, path)
    assert is_nothing(
        secondary.request("POST", "auth/people/login/bob", {"password": "pw"}, token="")
    )
    # Nothing of that was done at the primary either.
    assert pair.primary.request("GET", "kv1/b").status == 404
    assert pair.primary.request("GET", "kv1/a").body["data"] == {"v": 1}
    assert pair.primary.request("GET", "auth/people/users/eve").status == 404


def test_mount_entries_and_policies_travel_all_the_same(pair: Pair) -> None:
    deny(pair, "kv1/", "auth/people/")
    policy = {"policy": ALL}
    assert pair.primary.request("POST", "sys/policies/acl/more", policy).status == 204
    until(lambda: pair.secondary.request("GET", "sys/policies/acl/more").status == 200)
    assert "kv1/" in pair.secondary.request("GET", "sys/mounts").body["data"]
    assert "people/" in pair.secondary.request("GET", "sys/auth").body["data"]


def test_what_is_allowed_again_is_copied_with_what_came_meanwhile(pair: Pair) -> None:
    deny(pair, "kv1/")
    assert pair.primary.request("POST", "kv1/meanwhile", {"v": 2}).status == 204
    assert pair.primary.request("DELETE", f"{MOUNTS}/osaka").status == 204
    until(lambda: pair.secondary.request("GET", "kv1/meanwhile").status == 200)
    assert pair.secondary.request("GET", "kv1/a").body["data"] == {"v": 1}
    settle(pair.secondary, pair.primary)


# what becomes of it


def test_newly_denied_data_is_removed_at_the_secondary(tmp_path: Path) -> None:
    """Seen once it stands alone: the mount is there, and empty."""
    with replicating_pair(tmp_path) as pair:
        for number in range(3):
            assert pair.primary.request("POST", f"kv1/{number}", {"v": 1}).status == 204
        settle(pair.secondary, pair.primary)
        deny(pair, "kv1/")
        ok(pair.secondary, "secondary/disable")
        for number in range(3):
            assert pair.secondary.request("GET", f"kv1/{number}").status == 404
        assert pair.secondary.request("LIST", "kv1/").status == 404
        assert pair.secondary.request("POST", "kv1/new", {"v": 1}).status == 204
        assert pair.secondary.request("GET", "kv1/new").status == 200


def test_under_another_id_the_filter_must_be_made_again(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        assert pair.primary.request("POST", "kv1/a", {"v": 1}).status == 204
        deny(pair, "kv1/")
        ok(pair.secondary, "secondary/update-primary", {"token": token_for(pair.primary, "perth")})
        until(lambda: pair.secondary.request("GET", "kv1/a").status == 200, pair.secondary_server)
        assert lacking(pair.secondary) == []
        assert pair.primary.request("GET", f"{PATHS}/osaka").status == 200  # of the id, as before


def test_a_filtered_secondary_is_promoted_only_by_force_and_fences_nobody(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        deny(pair, "kv1/")
        answer = pair.secondary.request("POST", f"{AT}/secondary/promote")
        assert answer.status == 400
        assert "path filter" in errors(answer)
        assert status(pair.secondary)["mode"] == "secondary"
        ok(pair.secondary, "secondary/promote", {"force": True})
        assert status(pair.secondary)["mode"] == "primary"
        write(pair.primary, "still")
        assert not status(pair.primary)["fenced"]
