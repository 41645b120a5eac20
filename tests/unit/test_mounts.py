"""The mount table: which engine serves which path, and what is left when one is unmounted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node import mount
from tests.unit.pipeline_world import Node
from undercroft.errors import InvalidRequest, PermissionDenied, UnsupportedPath
from undercroft.request import work
from undercroft.request.model import Operation
from undercroft.request.mounts import Mount, Table, check_new_path, new_accessor, new_mount_id
from undercroft.storage.keys import CUBBYHOLE, LOCAL, QUEUE, SHARED, SYSTEM, TOKENS
from undercroft.storage.view import Snapshot


@pytest.fixture(name="node")
def _node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.store.close()


def table(*paths: str) -> Table:
    return Table({path: mount(path, "kv") for path in paths})


# routing


@pytest.mark.parametrize(
    ("path", "served_by"),
    [
        ("a/x", "a/"),
        ("a/b/x", "a/b/"),
        ("a/b/c/x", "a/b/c/"),
        ("a/b/c/d/e/f", "a/b/c/"),
        ("a/bc/x", "a/"),
        ("a/", "a/"),
        ("a", "a/"),
        ("a/b", "a/b/"),
        ("ab/x", None),
        ("b/a/x", None),
        ("", None),
        ("/a/x", None),
        ("A/x", None),
    ],
)
def test_the_longest_mounted_prefix_serves_a_path(path: str, served_by: str | None) -> None:
    found = table("a/", "a/b/", "a/b/c/").match(path)
    assert (found.path if found else None) == served_by


_segments = st.lists(st.sampled_from(["a", "b", "ab", ""]), min_size=1, max_size=5)


@given(st.sets(_segments.map(lambda s: "/".join(s) + "/"), max_size=8), _segments)
def test_routing_equals_the_plain_definition_of_a_longest_prefix(
    mounted: set[str], segments: list[str]
) -> None:
    path = "/".join(segments)
    prefixes = [p for p in mounted if path.startswith(p) or path + "/" == p]
    found = table(*mounted).match(path)
    assert (found.path if found else None) == max(prefixes, key=len, default=None)


@pytest.mark.parametrize(
    ("path", "conflict"),
    [
        ("a/b/", "a/b/"),
        ("a/b/c/", "a/b/"),
        ("a/", "a/b/"),
        ("a/bc/", ""),
        ("b/", ""),
        ("auth/x/", "auth/x/"),
        ("auth/", "auth/x/"),
    ],
)
def test_no_mount_lies_above_or_below_another(path: str, conflict: str) -> None:
    assert table("a/b/", "auth/x/").conflict(path) == conflict


def test_a_conflict_is_told_by_the_path_that_is_in_use() -> None:
    with pytest.raises(InvalidRequest, match="path is already in use at a/b/"):
        check_new_path(table("a/b/"), "a/b/c/", auth=False)
    with pytest.raises(InvalidRequest, match="path is already in use at x/"):
        check_new_path(table("auth/x/"), "auth/x/y/", auth=True)


@pytest.mark.parametrize("path", ["sys/", "sys/x/", "cubbyhole/", "auth/", "auth/x/", "identity/"])
def test_the_server_keeps_its_own_paths(path: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot mount"):
        check_new_path(table(), path, auth=False)


@pytest.mark.parametrize("path", ["sys", "cubbyhole"])
def test_what_every_cluster_has_is_not_unmounted(node: Node, path: str) -> None:
    with pytest.raises(InvalidRequest):
        node.ask(f"sys/mounts/{path}", Operation.DELETE)
    with pytest.raises(InvalidRequest):
        node.ask("sys/auth/token", Operation.DELETE)


def test_every_cluster_begins_with_the_same_mounts(node: Node) -> None:
    with node.store.snapshot() as view:
        mounts = node.services.mounts.table(view).mounts
    assert {m.path: m.id for m in mounts.values()} == {
        "sys/": SYSTEM,
        "cubbyhole/": CUBBYHOLE,
        "auth/token/": TOKENS,
    }


# the table of a view


def test_the_table_is_built_anew_only_when_configuration_has_changed(node: Node) -> None:
    node.ask("sys/mounts/secret", type="kv")
    with node.store.snapshot() as view:
        first = node.services.mounts.table(view)
    node.ask("secret/a", k="v")
    with node.store.snapshot() as view:
        assert node.services.mounts.table(view) is first
    node.ask("sys/mounts/other", type="kv")
    with node.store.snapshot() as view:
        second = node.services.mounts.table(view)
    assert second is not first
    assert "other/" in second.mounts


def test_a_snapshot_from_before_a_change_keeps_its_table(node: Node) -> None:
    with node.store.snapshot() as before:
        node.ask("sys/mounts/secret", type="kv")
        with node.store.snapshot() as after:
            assert "secret/" in node.services.mounts.table(after).mounts
        assert "secret/" not in node.services.mounts.table(before).mounts


def test_a_transaction_sees_the_mounts_that_it_makes_itself(node: Node) -> None:
    made = Mount(new_mount_id(), "new/", "kv", new_accessor("kv"))
    with node.transaction() as tx:
        node.services.mounts.put(tx, made)
        assert node.services.mounts.table(tx).match("new/x") == made
        node.services.mounts.remove(tx, made)
        assert node.services.mounts.table(tx).match("new/x") is None


def test_a_change_that_is_not_committed_leaves_no_table_behind(node: Node) -> None:
    batch = node.store.batch()
    tx = batch.transaction()
    node.services.mounts.put(tx, mount("new/", "kv"))
    assert "new/" in node.services.mounts.table(tx).mounts
    batch.abort()
    with node.store.snapshot() as view:
        assert "new/" not in node.services.mounts.table(view).mounts


def test_a_local_mount_is_kept_apart_and_served_alike(node: Node) -> None:
    node.ask("sys/mounts/here", type="kv", local=True)
    node.ask("here/a", k="v")
    with node.store.snapshot() as view:
        found = node.services.mounts.table(view).mounts["here/"]
        assert found.keyspace == LOCAL
        assert count(view, SHARED, found.id) == 0
        assert count(view, LOCAL, found.id) == 1


def test_ten_thousand_mounts_are_built_matched_and_added_to(node: Node) -> None:
    with node.transaction() as tx:
        for i in range(10_000):
            mount_id = bytes(8) + b"many" + i.to_bytes(4, "big")
            made = Mount(mount_id, f"t/{i}/kv/", "kv", f"kv_{i}")
            node.services.mounts.put(tx, made)
    node.ask("sys/mounts/one/more", type="kv")
    with node.store.snapshot() as view:
        built = node.services.mounts.table(view)
        assert len(built.mounts) == 10_000 + 1 + 3
        for i in range(10_000):
            found = built.match(f"t/{i}/kv/some/name")
            assert found is not None
            assert found.accessor == f"kv_{i}"
        assert built.match("t/10000/kv/x") is None
    node.ask("t/9999/kv/a", k="v")
    assert node.read("t/9999/kv/a") is not None
    with pytest.raises(InvalidRequest, match="already in use"):
        node.ask("sys/mounts/t/77", type="kv")


# unmounting


def count(view: Snapshot, keyspace: bytes, mount_id: bytes) -> int:
    return sum(1 for _ in view.keys(keyspace + mount_id))


ENTRIES = 12


def unmounted(node: Node, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A KV engine with entries, unmounted; its id. A slice takes five entries."""
    monkeypatch.setattr(work, "SLICE", 5)
    node.ask("sys/mounts/secret", type="kv")
    for i in range(ENTRIES):
        node.ask(f"secret/{i}", k="v")
    with node.store.snapshot() as view:
        mount_id = node.services.mounts.table(view).mounts["secret/"].id
    node.ask("sys/mounts/secret", Operation.DELETE)
    return mount_id


def left(node: Node, mount_id: bytes) -> int:
    with node.store.snapshot() as view:
        return count(view, SHARED, mount_id) + count(view, LOCAL, mount_id)


def jobs(node: Node) -> int:
    with node.store.snapshot() as view:
        return count(view, LOCAL, QUEUE)


def test_an_unmounted_path_is_gone_at_once_and_its_data_goes_in_slices(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_id = unmounted(node, monkeypatch)
    with pytest.raises(UnsupportedPath):
        node.read("secret/1")
    sizes = [left(node, mount_id)]
    while node.slice():
        sizes.append(left(node, mount_id))
    assert sizes[:4] == [12, 7, 2, 0]
    assert jobs(node) == 0


def test_a_crash_between_two_slices_loses_none_of_the_purge(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_id = unmounted(node, monkeypatch)
    for expected in (7, 2):
        assert node.slice()
        node.restart()
        assert left(node, mount_id) == expected
        assert jobs(node) == 1
    node.settle()
    assert (left(node, mount_id), jobs(node)) == (0, 0)


def test_a_crash_within_a_slice_undoes_the_slice_and_keeps_the_job(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_id = unmounted(node, monkeypatch)
    batch = node.store.batch()
    tx = batch.transaction()
    work.work(tx, node.services)
    batch.accept(tx)
    batch.abort()
    node.restart()
    assert (left(node, mount_id), jobs(node)) == (ENTRIES, 1)
    node.settle()
    assert (left(node, mount_id), jobs(node)) == (0, 0)


def test_a_new_mount_at_the_same_path_begins_empty_and_is_spared_by_the_purge(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount_id = unmounted(node, monkeypatch)
    node.ask("sys/mounts/secret", type="kv")
    node.ask("secret/new", k="v")
    node.settle()
    assert left(node, mount_id) == 0
    assert node.read("secret/new") is not None
    assert node.ask("secret/", Operation.LIST).data == {"keys": ["new"]}


def test_a_purge_touches_no_other_mount(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.ask("sys/mounts/other", type="kv")
    node.ask("other/a", k="v")
    unmounted(node, monkeypatch)
    node.settle()
    assert node.read("other/a") is not None


def test_a_moved_mount_keeps_its_data_and_accessor(node: Node) -> None:
    node.ask("sys/mounts/old", type="kv")
    node.ask("old/a", k="v")
    before = node.read("sys/mounts/old")["accessor"]
    node.ask("sys/remount", **{"from": "old", "to": "deep/new"})
    assert node.read("deep/new/a") is not None
    assert node.read("sys/mounts/deep/new")["accessor"] == before
    with pytest.raises(UnsupportedPath):
        node.read("old/a")


# unmounting an auth method


def logged_in(node: Node, path: str) -> str:
    node.ask(f"sys/auth/{path}", type="userpass")
    node.ask(f"auth/{path}/users/ada", password="pw", token_policies=["default"])
    auth = node.ask(f"auth/{path}/login/ada", token="", password="pw").auth
    assert auth is not None
    return auth.client_token


def test_disabling_an_auth_method_ends_its_tokens_with_the_answer(node: Node) -> None:
    gone, kept = logged_in(node, "gone"), logged_in(node, "kept")
    node.ask("sys/auth/gone", Operation.DELETE)
    with pytest.raises(PermissionDenied):
        node.read("auth/token/lookup-self", gone)
    assert node.entry(kept) is not None
    node.settle()
    assert node.entry(gone) is None
    assert node.entry(kept) is not None
    assert node.entry(node.root) is not None


def test_disabling_an_auth_method_ends_what_descends_from_its_tokens(node: Node) -> None:
    node.policy("maker", 'path "auth/token/create" { capabilities = ["create", "update"] }')
    node.ask("sys/auth/gone", type="userpass")
    node.ask("auth/gone/users/ada", password="pw", token_policies=["maker"])
    login = node.ask("auth/gone/login/ada", token="", password="pw").auth
    assert login is not None
    child = node.ask("auth/token/create", token=login.client_token, ttl="1h").auth
    assert child is not None
    node.ask("sys/auth/gone", Operation.DELETE)
    assert node.entry(child.client_token) is None
    node.settle()
    with node.store.snapshot() as view:
        accessors = node.services.tokens.accessors(view)
    assert child.accessor not in accessors
    assert login.accessor not in accessors


def test_a_crash_while_its_tokens_are_revoked_loses_none_of_it(node: Node) -> None:
    token = logged_in(node, "gone")
    node.ask("sys/auth/gone", Operation.DELETE)
    for _ in range(20):
        node.slice()
        node.restart()
        assert node.entry(token) is None
    node.settle()
    assert jobs(node) == 0
    assert node.entry(token) is None
