"""KV v1 and v2 beside OpenBao, into the corners: whole histories, every answer compared.

Texts of errors are compared where both servers mean the same check; where OpenBao prints the words
of its JSON decoder, only the status is.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.pair import Pair

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module")
def mounts(pair: Pair) -> Iterator[Pair]:
    for path, version in (("d1", "1"), ("d2", "2"), ("d3", "2"), ("d4", "2")):
        body = {"type": "kv", "options": {"version": version}}
        pair.same("POST", f"sys/mounts/{path}", body, status=204)
    yield pair
    for path in ("d1", "d2", "d3", "d4"):
        pair.both("DELETE", f"sys/mounts/{path}")


def play(pair: Pair, *steps: str | tuple[Any, ...]) -> None:
    """Each step: `VERB path`, with a body behind it; PATCH is a merge patch."""
    for step in steps:
        line, body = (step, None) if isinstance(step, str) else step
        method, path = line.split()
        headers = MERGE if method == "PATCH" else None
        pair.same(method, path, body, headers=headers)


def statuses(pair: Pair, *steps: tuple[Any, ...]) -> None:
    for line, body in steps:
        method, path = line.split()
        headers = MERGE if method == "PATCH" else None
        pair.same(method, path, body, headers=headers, errors=False)


def data(**members: Any) -> dict[str, Any]:
    return {"data": members}


def test_leases_of_v1(mounts: Pair) -> None:
    for body in (
        {"ttl": "bad", "lease": "3h"},
        {"ttl": "", "lease": "3h"},
        {"ttl": None, "lease": "3h"},
        {"ttl": "1d"},
        {"ttl": "1.5s"},
        {"ttl": -5},
        {"ttl": True},
        {"ttl": [1]},
        {"lease": True},
        {"lease": "2h"},
    ):
        play(mounts, ("POST d1/a", body), "GET d1/a")


def test_the_roots_of_mounts(mounts: Pair) -> None:
    play(mounts, "GET d1", "GET d1/", "DELETE d1/", "LIST d1/none", ("POST d1", {"a": 1}))
    for path in ("", "/foo", "/foo/bar", "/config/x", "/data", "/metadata", "/delete", "/destroy"):
        play(mounts, f"GET d2{path}", f"DELETE d2{path}", (f"POST d2{path}", {"a": 1}))
        play(mounts, (f"PATCH d2{path}", {"a": 1}))
    for path in ("", "/foo", "/foo/bar", "/config", "/data", "/data/x", "/delete/x", "/subkeys/x"):
        play(mounts, f"LIST d2{path}", f"SCAN d2{path}")
    for path in ("subkeys", "detailed-metadata", "datax", "config/", "data/", "metadata/"):
        play(mounts, f"GET d2/{path}")
    play(mounts, "GET d2/delete/x", "GET d2/undelete/x", "DELETE d2/destroy/x", "DELETE d2/config")
    play(mounts, ("POST d2/subkeys/x", {}), "GET d2/detailed-metadata/x", "DELETE d2/data/")


def test_a_history_of_versions(mounts: Pair) -> None:
    play(
        mounts,
        ("POST d2/data/a", {"data": None}),
        "GET d2/data/a",
        ("POST d2/data/a", {**data(x=1), "foo": 1, "version": 7}),
        "GET d2/data/a?version=-1",
        "GET d2/data/a?version=",
        *(("POST d2/data/a", data(n=n)) for n in range(4)),
        ("POST d2/delete/a", {"versions": [1, 2, 99, 0, -1]}),
        ("POST d2/undelete/a", {"versions": [1, 99]}),
        ("POST d2/destroy/a", {"versions": ["2", 3]}),
        "GET d2/metadata/a",
        ("POST d2/undelete/a", {"versions": "2"}),
        ("POST d2/delete/a", {"versions": [3]}),
        "GET d2/metadata/a",
        "GET d2/data/a?version=2",
        "GET d2/data/a?version=3",
        ("POST d2/destroy/a", {"versions": [6]}),
        "DELETE d2/data/a",
        "GET d2/data/a",
        "GET d2/subkeys/a",
        ("PATCH d2/data/a", data(x=1)),
        ("POST d2/data/a", {**data(x=1), "options": {"cas": 5}}),
        ("POST d2/data/a", {**data(x=1), "options": {"cas": None}}),
        ("POST d2/data/a", {**data(x=1), "options": {"cas": ""}}),
        ("POST d2/data/a", {**data(x=1), "options": {"cas": "zz"}}),
        ("POST d2/data/a", {**data(x=1), "options": {"cas": 1.5}}),
        ("POST d2/data/a", {**data(x=1), "options": {"cas": "6"}}),
        *(("POST d2/data/a", data(n=n)) for n in range(6)),
        "GET d2/metadata/a",
        ("POST d2/metadata/a", {"max_versions": 2}),
        "GET d2/metadata/a",
        ("POST d2/data/a", data(n=1)),
        "GET d2/metadata/a",
        "DELETE d2/metadata/a",
        "GET d2/metadata/a",
        "DELETE d2/data/a",
    )
    for verb in ("delete", "undelete", "destroy"):
        for versions in ([], None):
            play(mounts, (f"POST d2/{verb}/a", {"versions": versions}))


def test_limits_and_times_of_mount_and_secret(mounts: Pair) -> None:
    play(
        mounts,
        ("POST d3/config", {"max_versions": 3, "delete_version_after": "1h"}),
        ("POST d3/metadata/a", {"max_versions": 2, "delete_version_after": "3h"}),
        *(("POST d3/data/a", data(n=n)) for n in range(5)),
        "GET d3/metadata/a",
        ("POST d3/config", {"max_versions": 0, "delete_version_after": "-1s"}),
        ("POST d3/data/a", data(n=6)),
        "GET d3/metadata/a",
        ("POST d3/undelete/a", {"versions": [5]}),
        "GET d3/metadata/a",
        ("POST d3/config", {"delete_version_after": "9h", "cas_required": True}),
        "GET d3/config",
        ("POST d3/metadata/a", {"cas_required": False}),
        ("PATCH d3/metadata/a", {"cas_required": False}),
        ("POST d3/data/a", data(n=7)),
        ("PATCH d3/data/a", data(n=7)),
        ("POST d3/config", {"max_versions": None, "cas_required": None}),
        "GET d3/config",
        ("POST d3/config", {"delete_version_after": 90061}),
        "GET d3/config",
        ("POST d3/config", {}),
        ("POST d3/config", {"delete_version_after": 0}),
        "GET d3/config",
    )


def test_metadata_and_its_check_and_set(mounts: Pair) -> None:
    play(
        mounts,
        ("POST d4/metadata/a", {}),
        ("POST d4/metadata/a", {"metadata_cas": 1}),
        "GET d4/metadata/a",
        ("POST d4/metadata/n", {"custom_metadata": None}),
        "GET d4/metadata/n",
        ("POST d4/metadata/a", {"metadata_cas": 1, "max_versions": 1}),
        ("POST d4/metadata/a", {"custom_metadata": {"t": True, "s": "x", "n": 5}}),
        "GET d4/metadata/a",
        ("PATCH d4/metadata/a", {}),
        ("PATCH d4/metadata/a", {"max_versions": 7, "custom_metadata": {"s": None, "q": "1"}}),
        "GET d4/metadata/a",
        ("PATCH d4/metadata/a", {"max_versions": None}),
        ("PATCH d4/metadata/a", {"custom_metadata": None, "delete_version_after": None}),
        "GET d4/metadata/a",
        ("POST d4/metadata/a", {"metadata_cas_required": True}),
        ("POST d4/metadata/a", {"max_versions": 4}),
        ("POST d4/metadata/a", {"max_versions": 4, "metadata_cas": 9}),
        ("POST d4/metadata/a", {"max_versions": 4, "metadata_cas": None}),
        ("PATCH d4/metadata/a", {"max_versions": 4, "metadata_cas": 5}),
        "GET d4/metadata/a",
        ("POST d4/config", {"metadata_cas_required": True}),
        ("POST d4/metadata/b", {"max_versions": 1}),
        ("POST d4/metadata/b", {"max_versions": 1, "metadata_cas": 0}),
        ("POST d4/data/c", data(x=1)),
        ("POST d4/config", {"metadata_cas_required": None}),
    )
    statuses(
        mounts,
        ("POST d4/metadata/b", {"delete_version_after": "-1s"}),
        ("PATCH d4/metadata/b", {"delete_version_after": "-1s"}),
        ("POST d4/metadata/b", {"cas_required": "x"}),
        ("POST d4/metadata/b", {"custom_metadata": {"x": None}}),
        ("POST d4/metadata/b", {"custom_metadata": ["a"]}),
        ("POST d4/metadata/b", {"custom_metadata": {"x": "a\n"}}),
        ("PATCH d4/metadata/none", {"max_versions": 1}),
        ("PATCH d4/data/none", {}),
        ("PATCH d4/data/none", {"data": {}}),
        ("POST d4/data/c", {"data": [1]}),
        ("POST d4/data/c", {"data": {}, "options": "x"}),
    )


def test_patches_and_shapes(mounts: Pair) -> None:
    tree = {"a": 1, "b": {"c": {"d": "x", "e": {}}, "l": [1, {"z": 1}]}, "f": {}, "n": None}
    play(
        mounts,
        ("POST d2/data/p", {"data": tree}),
        *(f"GET d2/subkeys/p?depth={depth}" for depth in (0, 1, 2, 3, -1)),
        ("PATCH d2/data/p", data(b={"c": None, "e": 5}, z={"n": None, "m": 1})),
        "GET d2/data/p",
        ("PATCH d2/data/p", {"data": {}, "options": {"cas": 1}}),
        ("PATCH d2/data/p", {"data": None}),
        "GET d2/data/p",
        "GET d2/subkeys/p",
        "GET d2/subkeys/p?version=1",
        "GET d2/subkeys/p?version=9",
        "GET d2/subkeys/none",
    )


def test_names(mounts: Pair) -> None:
    for name in ("a", "b/c", "b", "d/e/f", "z"):
        play(mounts, (f"POST d2/data/l/{name}", {"data": {}}))
    pages = ("", "?after=a", "?limit=2", "?limit=-1", "?limit=0", "?after=b&limit=1", "?after=zz")
    play(mounts, *(f"LIST d2/metadata/l{page}" for page in pages), "SCAN d2/metadata/none")
    play(mounts, "LIST d2/detailed-metadata/none", "LIST d2/detailed-metadata/l/d")


def test_versions_of_mounts(mounts: Pair) -> None:
    for version in ("3", "two"):
        body = {"type": "kv", "options": {"version": version}}
        mounts.same("POST", "sys/mounts/d5", body, status=400, errors=False)
    mounts.same("POST", "sys/mounts/d2/tune", {"options": {"version": "1"}}, errors=False)
    mounts.same("POST", "sys/mounts/d2/tune", {"options": {"version": "2"}}, status=204)
