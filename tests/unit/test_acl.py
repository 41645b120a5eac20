"""What policies decide together: precedence, merging, constraints, folders, templates, root."""

import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undercroft.request.acl import Acl
from undercroft.request.constraints import glob_matches
from undercroft.request.model import Operation
from undercroft.request.policy import parse_policy

READ, LIST, UPDATE = Operation.READ, Operation.LIST, Operation.UPDATE


def acl(*texts: str, identity: Mapping[str, str] | None = None) -> Acl:
    return Acl.compile([parse_policy(f"p{at}", t) for at, t in enumerate(texts)], identity)


def rules(given: dict[str, str]) -> str:
    """A policy from patterns and capabilities, separated by spaces."""
    return "\n".join(
        f'path "{pattern}" {{ capabilities = [{", ".join(repr(c) for c in names.split())}] }}'
        for pattern, names in given.items()
    ).replace("'", '"')


def updates(constraint: str, **sent: Any) -> bool:
    policy = f'path "a" {{ capabilities = ["update"] {constraint} }}'
    return acl(policy).allows(UPDATE, "a", lambda: sent)


# root and nothing


def test_root_may_everything() -> None:
    root = Acl.root()
    assert root.is_root
    assert all(root.allows(operation, "any/path") for operation in Operation)
    assert root.sudo("sys/seal")
    assert root.capabilities("any/path") == ["root"]


def test_no_policy_grants_nothing_but_help() -> None:
    nothing = acl()
    granted = {operation for operation in Operation if nothing.allows(operation, "a")}
    assert granted == {Operation.HELP}
    assert not nothing.sudo("a")
    assert nothing.capabilities("a") == ["deny"]


def test_each_capability_grants_its_operation_alone() -> None:
    for name in ("create", "read", "update", "patch", "delete", "list", "scan"):
        one = acl(rules({"a": name}))
        assert {o for o in Operation if one.allows(o, "a")} == {Operation(name), Operation.HELP}
        assert one.capabilities("a") == [name]


def test_sudo_is_asked_for_by_itself() -> None:
    both = acl(rules({"a": "read sudo", "b": "read"}))
    assert (both.sudo("a"), both.sudo("b"), both.sudo("c")) == (True, False, False)
    assert both.capabilities("a") == ["read", "sudo"]


# precedence


@pytest.mark.parametrize(
    ("winner", "loser", "path"),
    [
        ("a/b", "a/*", "a/b"),  # exact beats wildcard
        ("a/b", "a/+", "a/b"),
        ("a/b/*", "a/*", "a/b/c"),  # the later first wildcard
        ("a/b/+", "a/+/c", "a/b/c"),
        ("a/b*", "a/+", "a/b"),
        ("a/+/c", "a/*", "a/b/c"),  # no trailing star
        ("a/+/c*", "a/+/*", "a/b/cd"),  # longer
        ("a/+/c/d", "a/+/+/d", "a/b/c/d"),  # fewer pluses
        ("a/+/c/+", "a/+/b/+", "a/x/c/y"),  # only one matches
        ("*", "+/*", "a/b"),  # fewer pluses: the surprising one
    ],
)
def test_conv_35_the_more_specific_rule_wins(winner: str, loser: str, path: str) -> None:
    for patterns in ((winner, loser), (loser, winner)):
        granted = {winner: "read", loser: "delete"}
        assert acl(*(rules({p: granted[p]}) for p in patterns)).capabilities(path) == ["read"]
        denied = {winner: "deny", loser: "read"}
        assert not acl(rules({p: denied[p] for p in patterns})).allows(READ, path)


def test_a_plus_is_one_segment_and_a_star_elsewhere_than_at_the_end_is_a_letter() -> None:
    one = acl(rules({"a/+/c": "read", "x*y": "read", "p+": "read", "q/+r": "read"}))
    assert one.allows(READ, "a/b/c")
    assert not one.allows(READ, "a/b/b/c")
    assert [one.allows(READ, p) for p in ("x*y", "xzy", "p+", "pz", "q/+r", "q/zr")] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_a_prefix_needs_no_more_than_itself() -> None:
    one = acl(rules({"a/b*": "read"}))
    assert [one.allows(READ, path) for path in ("a/b", "a/bc", "a/b/c", "a", "a/")] == [
        True,
        True,
        True,
        False,
        False,
    ]


# merging


def test_capabilities_of_one_pattern_add_up_and_deny_is_all_that_remains() -> None:
    assert acl(rules({"a": "read"}), rules({"a": "list"})).capabilities("a") == ["list", "read"]
    for texts in (("read", "deny", "list"), ("deny", "read"), ("read deny",)):
        merged = acl(*(rules({"a": text}) for text in texts))
        assert merged.capabilities("a") == ["deny"]
        assert not any(merged.allows(operation, "a") for operation in (READ, LIST))


def test_a_rule_without_capabilities_hides_wider_ones() -> None:
    assert acl(rules({"a/*": "read", "a/b": ""})).capabilities("a/b") == ["deny"]


def test_constraints_of_one_pattern_add_up() -> None:
    both = acl(
        'path "a" { capabilities = ["update"] allowed_parameters = { x = ["1"] } }',
        'path "a" { policy = "read" allowed_parameters = { x = ["2"], y = [] } '
        'required_parameters = ["x"] max_wrapping_ttl = 9 }',
    )
    assert both.allows(UPDATE, "a", lambda: {"x": "2", "y": 7}, 9)
    assert both.allows(UPDATE, "a", lambda: {"x": "1"}, 9)
    assert not both.allows(UPDATE, "a", lambda: {"x": "3"}, 9)
    assert not both.allows(UPDATE, "a", lambda: {"y": 7}, 9)
    assert not both.allows(UPDATE, "a", lambda: {"x": "1"}, 10)


# parameters


def test_parameters_are_looked_at_only_where_a_rule_constrains_them() -> None:
    def unwanted() -> Mapping[str, object]:
        raise AssertionError("nobody should look")

    assert acl(rules({"a": "update"})).allows(UPDATE, "a", unwanted)
    wraps = acl('path "a" { policy = "write" max_wrapping_ttl = 5 }')
    assert wraps.allows(UPDATE, "a", unwanted, 5)


def test_a_constraint_that_cannot_be_checked_denies() -> None:
    assert not acl('path "a" { policy = "write" denied_parameters = { x = [] } }').allows(
        UPDATE, "a"
    )


def test_names_of_parameters_are_compared_in_lower_case() -> None:
    assert not updates("denied_parameters = { X = [] }", x=1)
    assert not updates("denied_parameters = { x = [] }", X=1)
    assert updates('allowed_parameters = { X = ["a"] }', x="a")
    assert not updates('required_parameters = ["x"]', X=1), "handlers read the exact name"


def test_a_star_names_all_parameters() -> None:
    assert not updates('denied_parameters = { "*" = [] }', x=1)
    assert updates('denied_parameters = { "*" = [] }')
    assert updates('allowed_parameters = { "*" = [], x = ["a"] }', y=1, x="a")
    assert not updates('allowed_parameters = { "*" = [], x = ["a"] }', y=1, x="b")


def test_numbers_are_compared_by_value_and_not_with_booleans() -> None:
    assert updates("allowed_parameters = { x = [1, 2.5] }", x=1)
    assert updates("allowed_parameters = { x = [1, 2.5] }", x=1.0)
    assert updates("allowed_parameters = { x = [1, 2.5] }", x=2.5)
    assert not updates("allowed_parameters = { x = [1] }", x=True)
    assert not updates("allowed_parameters = { x = [true] }", x=1)
    assert not updates("allowed_parameters = { x = [1] }", x="1")


@pytest.mark.parametrize(
    ("pattern", "matched", "missed"),
    [
        ("a", ["a"], ["", "ab", "ba", "A"]),
        ("a*", ["a", "ab", "a*"], ["", "ba"]),
        ("*a", ["a", "ba"], ["ab", ""]),
        ("*a*", ["a", "bab"], ["", "b"]),
        ("a*b", ["a*b"], ["axb", "ab"]),
        ("*", ["", "a"], []),
        ("**", ["", "a"], []),
        ("", [""], ["a"]),
    ],
)
def test_globs_have_stars_at_their_ends_only(
    pattern: str, matched: list[str], missed: list[str]
) -> None:
    assert all(glob_matches(pattern, text) for text in matched)
    assert not any(glob_matches(pattern, text) for text in missed)


def test_conv_18_a_bound_on_wrapping_asks_for_wrapping() -> None:
    bound = acl('path "a" { policy = "read" min_wrapping_ttl = 5 max_wrapping_ttl = 10 }')
    assert [bound.allows(READ, "a", wrap_ttl=ttl) for ttl in (5, 10)] == [True, True]
    assert not any(bound.allows(READ, "a", wrap_ttl=ttl) for ttl in (None, 0, 4, 11))


# folders


def test_conv_28_a_list_is_decided_alike_with_and_without_the_slash_in_the_rule() -> None:
    for pattern in ("a/p", "a/p/", "a/+", "a/+/", "a/p*", "a/*", "+/p"):
        assert acl(rules({pattern: "list"})).allows(LIST, "a/p/"), pattern


def test_threat_acl_01_a_narrower_deny_holds_with_and_without_the_slash() -> None:
    for shape in ("a/p", "a/p/", "a/+", "a/+/", "a/p*", "a/p/*", "+/p", "+/p/"):
        for operation in (LIST, Operation.SCAN):
            both = acl(rules({"*": "list scan", shape: "deny"}))
            assert not both.allows(operation, "a/p/"), shape
            assert both.capabilities("a/p/") == ["deny"], shape


def test_a_narrower_grant_of_a_folder_holds_against_a_wider_deny() -> None:
    assert acl(rules({"a/*": "deny", "a/p/*": "list"})).allows(LIST, "a/p/")
    assert acl(rules({"a/+": "deny", "a/+/": "list"})).allows(LIST, "a/p/")
    assert acl(rules({"a/p": "deny", "a/p/": "list"})).allows(LIST, "a/p/")


# threats


def test_threat_acl_02_a_rule_is_no_match_for_a_path_that_leaves_it() -> None:
    one = acl(rules({"kv/metadata/app/*": "delete", "kv/+/app": "delete"}))
    assert not one.allows(Operation.DELETE, "kv/metadata/other/x")
    assert not one.allows(Operation.DELETE, "kv/a/b/app")


@pytest.mark.parametrize(
    "value", ["a/b", "+", "*", "a*", "a,b", "/", "a\0", "a\n", ".", "..", " /"]
)
@pytest.mark.parametrize(
    "name", ["entity.name", "entity.metadata.team", "entity.aliases.acc.name", "groups.ids.g.name"]
)
def test_threat_acl_03_a_value_with_metacharacters_never_makes_a_rule(
    name: str, value: str
) -> None:
    text = f'path "kv/{{{{identity.{name}}}}}" {{ policy = "write" }}\n' + rules({"x": "read"})
    closed = acl(text, identity={f"identity.{name}": value})
    assert closed.closed
    assert not any(closed.allows(o, p) for o in Operation for p in ("kv/a", "kv/a/b", "x", "kv/+"))
    assert closed.capabilities("x") == ["deny"]
    assert acl(text, identity={f"identity.{name}": "a-b.c @é"}).allows(READ, "kv/a-b.c @é")


def test_threat_acl_04_a_template_renders_from_the_values_of_this_login() -> None:
    text = 'path "kv/{{identity.entity.aliases.acc.name}}" { policy = "read" }'
    mine = acl(text, identity={"identity.entity.aliases.acc.name": "second"})
    assert mine.allows(READ, "kv/second")
    assert not mine.allows(READ, "kv/first")


def test_threat_acl_06_checks_leave_nothing_behind() -> None:
    one = acl(rules({"a/+/c": "read", "b/*": "read", "d": "read"}))
    one.capabilities("warm/up")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for at in range(20_000):
            one.capabilities(f"a/{at}/c")
            one.allows(READ, f"b/{at}")
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def test_threat_acl_07_no_rule_grants_an_operation_that_has_no_capability() -> None:
    everything = acl(rules({"*": "create read update patch delete list scan sudo"}))
    granted = {str(o) for o in Operation if everything.allows(o, "a")}
    assert granted == {"create", "read", "update", "patch", "delete", "list", "scan", "help"}
    for name in (*(granted - {"help"}), "sudo"):
        only = acl(rules({"*": name}))
        assert {str(o) for o in Operation if only.allows(o, "a")} == {name, "help"} - {"sudo"}


@pytest.mark.parametrize("limit", [None, 0, -1, 6, "0", "-1", "6", "x", "", " 5", "5x", True, 5.0])
def test_threat_acl_08_a_page_limit_cannot_be_left_out_or_outbid(limit: object) -> None:
    capped = acl('path "a/*" { capabilities = ["list", "read", "scan"] pagination_limit = 5 }')
    sent = {} if limit is None else {"limit": limit}
    for operation in (LIST, Operation.SCAN):
        assert not capped.allows(operation, "a/b/", lambda: sent)
        assert not capped.allows(operation, "a/b/")
        assert capped.allows(operation, "a/b/", lambda: {"limit": "5"})
        assert capped.allows(operation, "a/b/", lambda: {"limit": 1})
    assert capped.allows(READ, "a/b", lambda: sent)


@pytest.mark.parametrize(
    "value",
    [
        "bad",
        ["bad"],
        ["good", "bad"],
        ["good", ["x", ["bad"]]],
        "good,bad",
        "good, bad",
        ["good,bad"],
        "BAD",
        " bad ",
        ["Bad "],
    ],
)
def test_threat_acl_10_a_denied_value_hides_in_no_list(value: object) -> None:
    assert not updates('denied_parameters = { policies = ["bad", "worse"] }', policies=value)
    assert updates('denied_parameters = { policies = ["bad"] }', policies=["good", "badly"])


@pytest.mark.parametrize(
    ("denied", "value"),
    [
        ('"1"', 1),
        ('"1"', [1]),
        ("1", "1"),
        ("1", " 1"),
        ("1", 1.0),
        ("1", "1.0"),
        ("1", True),
        ("true", "true"),
        ("true", "True"),
        ("true", "t"),
        ("true", "1"),
        ("true", 1),
        ("false", "0"),
        ('"1"', True),
        ('"true"', True),
        ("2.5", "2.5"),
    ],
)
def test_threat_acl_10_a_denied_value_hides_in_no_other_type(denied: str, value: object) -> None:
    assert not updates(f"denied_parameters = {{ x = [{denied}] }}", x=value)


def test_threat_acl_10_every_element_must_be_allowed() -> None:
    constraint = 'allowed_parameters = { policies = ["dev-*", "ops"] }'
    for value in ("ops", "dev-1", ["dev-1", "ops"], "dev-1,dev-2", "dev-1, ops"):
        assert updates(constraint, policies=value), value
    for wrong in (
        "dev-1,admin",
        ["dev-1", "admin"],
        ["dev-1,admin"],
        [],
        [[]],
        None,
        {},
        ["ops", 1],
    ):
        assert not updates(constraint, policies=wrong), wrong
    deep: Any = "admin"
    for _ in range(5000):
        deep = [deep]
    assert not updates(constraint, policies=deep)
    assert not updates('denied_parameters = { policies = ["admin"] }', policies=deep)


def test_threat_acl_11_rules_meet_the_canonical_path_letter_by_letter() -> None:
    one = acl(rules({"auth/userpass/users/*": "read", "auth/userpass/users/alice": "deny"}))
    assert not one.allows(READ, "auth/userpass/users/alice")
    # Canonicalising is the route's business (`Route.lower`): a different path is a different path.
    assert one.allows(READ, "auth/userpass/users/ALICE")


def test_threat_acl_12_a_denial_that_cannot_be_placed_closes_everything() -> None:
    text = rules({"kv/*": "read"}) + '\npath "kv/{{identity.entity.name}}" { policy = "deny" }'
    for identity in (None, {}, {"identity.entity.name": ""}, {"identity.entity.name": "a/b"}):
        closed = acl(text, identity=identity)
        assert closed.closed
        assert not any(closed.allows(operation, "kv/x") for operation in Operation)
        assert not closed.sudo("kv/x")
    placed = acl(text, identity={"identity.entity.name": "eve"})
    assert placed.allows(READ, "kv/x")
    assert not placed.allows(READ, "kv/eve")


def test_a_grant_for_somebody_without_identity_is_left_out() -> None:
    text = rules({"a": "read"}) + '\npath "b/{{identity.entity.id}}" { policy = "read" }'
    assert acl(text).allows(READ, "a")
    assert not acl(text).allows(READ, "b/")
    assert not acl(text).allows(READ, "b/{{identity.entity.id}}")


# against a reference that is slow and plain

segment = st.sampled_from(["a", "b", "ab", "+", "+", "a+", "+b"])
pattern_text = st.builds(
    lambda parts, tail: "/".join(parts) + tail,
    st.lists(segment, min_size=1, max_size=4),
    st.sampled_from(["", "", "/", "/*", "*", "/a*"]),
).filter(lambda p: "+*" not in p)
capability_sets = st.one_of(
    st.just({"deny"}), st.sets(st.sampled_from(["read", "list", "update", "sudo"]))
)
paths = st.builds(
    lambda parts, tail: "/".join(parts) + tail,
    st.lists(st.sampled_from(["a", "b", "ab", "x", "+b", "a+"]), min_size=1, max_size=4),
    st.sampled_from(["", "/"]),
)


def matches(pattern: str, path: str) -> bool:
    """Segment by segment, by hand."""
    if not is_segmented(pattern):
        return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern
    wanted, given = pattern.removesuffix("*").split("/"), path.split("/")
    open_end = pattern.endswith("*")
    if len(given) < len(wanted) or (len(given) > len(wanted) and not open_end):
        return False
    for at, (want, have) in enumerate(zip(wanted, given, strict=False)):
        last = open_end and at == len(wanted) - 1
        if want != "+" and want != have and not (last and have.startswith(want)):
            return False
    return True


def is_segmented(pattern: str) -> bool:
    return pattern == "+" or pattern.startswith("+/") or "/+" in pattern


def wins(one: str, other: str) -> bool:
    """Convention 35, clause by clause: whether `one` beats `other`."""

    def first_wildcard(pattern: str) -> int:
        return pattern.index("+") if is_segmented(pattern) else len(pattern) - 1

    if first_wildcard(one) != first_wildcard(other):
        return first_wildcard(one) > first_wildcard(other)
    if one.endswith("*") != other.endswith("*"):
        return other.endswith("*")
    pluses = [
        p.removesuffix("*").split("/").count("+") if is_segmented(p) else 0 for p in (one, other)
    ]
    if pluses[0] != pluses[1]:
        return pluses[0] < pluses[1]
    bare = [p.removesuffix("*") for p in (one, other)]
    return (len(bare[0]), bare[0]) > (len(bare[1]), bare[1])


def best(given: dict[str, set[str]], path: str) -> str | None:
    winner = None
    for pattern in given:
        wild = is_segmented(pattern) or pattern.endswith("*")
        if wild and matches(pattern, path) and (winner is None or wins(pattern, winner)):
            winner = pattern
    return winner


def reference(given: dict[str, set[str]], path: str) -> list[str]:
    """What `capabilities` must say."""
    decisive: str | None
    exact = {p for p in given if not is_segmented(p) and not p.endswith("*")}
    if path in exact:
        decisive = path
    elif not path.endswith("/"):
        decisive = best(given, path)
    elif path[:-1] in exact:
        decisive = path[:-1]
    else:
        decisive, bare = best(given, path), best(given, path[:-1])
        if decisive is None or (bare and given[bare] == {"deny"} and wins(bare, decisive)):
            decisive = bare
    granted = given[decisive] if decisive is not None else set()
    return sorted(granted) or ["deny"]


@given(st.dictionaries(pattern_text, capability_sets, max_size=8), paths)
@settings(max_examples=500)
def test_the_compiled_acl_equals_a_plain_reference(
    given_rules: dict[str, set[str]], path: str
) -> None:
    compiled = acl(rules({p: " ".join(sorted(c)) for p, c in given_rules.items()}))
    expected = reference(given_rules, path)
    assert compiled.capabilities(path) == expected
    assert compiled.sudo(path) == ("sudo" in expected)
    for operation in (READ, LIST, UPDATE):
        assert compiled.allows(operation, path) == (str(operation) in expected)
