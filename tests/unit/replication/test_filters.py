"""Path filters: what is withheld from a secondary, for every filter and every table of mounts."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.replication.cluster import Cluster
from undercroft.errors import InvalidRequest
from undercroft.replication import filters
from undercroft.replication.filters import ALLOW, DENY, PathFilter, Selection, make_filter
from undercroft.request.mounts import Mount
from undercroft.storage.keys import (
    AUDIT,
    CUBBYHOLE,
    LOCAL,
    LOCKOUTS,
    OWN,
    QUARANTINE,
    QUEUE,
    SHARED,
    SYSTEM,
    TOKENS,
)

BUILT_IN = (SYSTEM, TOKENS, CUBBYHOLE, LOCKOUTS, QUEUE, AUDIT, QUARANTINE)


def mount(path: str, number: int = 0, *, local: bool = False) -> Mount:
    mount_id = (number or sum(path.encode()) + 1000).to_bytes(16, "little")
    return Mount(mount_id, path, "kv", f"kv_{number}", local=local)


def head(of: Mount) -> bytes:
    return SHARED + of.id


def gone(made: PathFilter, *paths: str) -> set[str]:
    """Which of some mounts do not go."""
    mounts = {path: mount(path, n + 1000) for n, path in enumerate(paths)}
    selection = Selection(made, mounts.values())
    return {path for path, found in mounts.items() if not selection.passes(head(found))}


# what a filter is


@pytest.mark.parametrize(
    ("word", "mode"),
    [("", ALLOW), ("allow", ALLOW), ("deny", DENY), ("whitelist", ALLOW), ("blacklist", DENY)],
)
def test_modes_have_their_words_of_old_and_the_default_is_allow(word: str, mode: str) -> None:
    assert make_filter(word, ["kv/"]).mode == mode


@pytest.mark.parametrize("word", ["Allow", "none", "allow ", "allow,deny", "\0"])
def test_a_mode_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(InvalidRequest, match="mode"):
        make_filter(word, ["kv/"])


@pytest.mark.parametrize("given_path", ["kv", "kv/", "/kv", "/kv/", " kv/ ", "kv//"])
def test_a_path_is_kept_with_one_slash_behind_and_none_before(given_path: str) -> None:
    assert make_filter("deny", [given_path]).paths == ("kv/",)


def test_a_path_given_twice_is_kept_once_and_order_stays() -> None:
    assert make_filter("deny", ["b", "a/", "b/"]).paths == ("b/", "a/")


@pytest.mark.parametrize("paths", [[], [""], ["", "  "]])
def test_allow_needs_a_path_or_nothing_would_go(paths: list[str]) -> None:
    for mode in ("", "allow", "whitelist"):
        with pytest.raises(InvalidRequest, match="paths"):
            make_filter(mode, paths)


def test_deny_without_paths_lets_everything_go() -> None:
    made = make_filter("deny", [])
    assert made.paths == ()
    assert gone(made, "kv/", "auth/userpass/") == set()


@pytest.mark.parametrize("path", ["/", "//", " / "])
@pytest.mark.parametrize("mode", ["allow", "deny"])
def test_a_path_of_slashes_alone_is_refused_since_it_names_no_mount(mode: str, path: str) -> None:
    with pytest.raises(InvalidRequest, match="paths"):
        make_filter(mode, ["kv/", path])


@pytest.mark.parametrize(
    "path",
    [
        *("sys", "sys/", "/sys/", "sys/policy/", "identity/", "cubbyhole", "auth/token/"),
        *("auth/token", "identity/entity", " sys/"),
    ],
)
@pytest.mark.parametrize("mode", ["allow", "deny"])
def test_what_every_cluster_needs_cannot_be_filtered(mode: str, path: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be filtered"):
        make_filter(mode, ["kv/", path])


@pytest.mark.parametrize(
    "path", ["sys-logs/", "system/", "identity2/", "auth/tokens/", "team/sys/"]
)
def test_names_that_only_begin_alike_can_be_filtered(path: str) -> None:
    assert make_filter("deny", [path]).paths == (path,)


# what it withholds


def test_allow_lets_only_those_go_and_deny_all_but_those() -> None:
    paths = ("kv/", "secret/", "auth/userpass/")
    assert gone(make_filter("allow", ["kv/"]), *paths) == {"secret/", "auth/userpass/"}
    assert gone(make_filter("deny", ["kv/"]), *paths) == {"kv/"}


def test_a_path_covers_the_mounts_below_it_and_not_those_that_begin_alike() -> None:
    paths = ("team1/kv/", "team1/a/b/", "team1/", "team10/kv/", "team/", "xteam1/")
    covered = {"team1/kv/", "team1/a/b/", "team1/"}
    assert gone(make_filter("deny", ["team1"]), *paths) == covered
    assert gone(make_filter("allow", ["team1"]), *paths) == set(paths) - covered


def test_a_path_within_a_mount_does_not_cover_the_mount() -> None:
    assert gone(make_filter("deny", ["kv/private/"]), "kv/") == set()


def test_a_path_without_a_mount_waits_for_one() -> None:
    made = make_filter("deny", ["late/"])
    assert gone(made, "kv/") == set()
    assert gone(made, "kv/", "late/") == {"late/"}


def test_case_counts() -> None:
    assert gone(make_filter("deny", ["KV/"]), "kv/", "KV/") == {"KV/"}


def test_all_auth_mounts_can_be_denied_but_tokens_still_have_their_own() -> None:
    own = Mount(TOKENS, "auth/token/", "token", "auth_token")
    users = mount("auth/userpass/")
    selection = Selection(make_filter("deny", ["auth/"]), [own, users])
    assert selection.passes(head(own))
    assert not selection.passes(head(users))
    assert selection.withheld == (users.id,)


def test_threat_r_14_a_mount_that_moves_is_looked_at_under_its_new_path() -> None:
    made = make_filter("deny", ["private/"])
    before, after = mount("public/", 7), mount("private/", 7)
    assert Selection(made, [before]).passes(head(before))
    assert not Selection(made, [after]).passes(head(before))


# properties

_NAMES = st.text("abs/", min_size=1, max_size=6).map(lambda t: t.strip("/") or "a")
_PATHS = st.lists(_NAMES.map(lambda t: t + "/"), unique=True, max_size=8)
_MODES = st.sampled_from(["allow", "deny"])


def _mounts(paths: Sequence[str], local: Sequence[bool]) -> list[Mount]:
    return [
        mount(path, n + 1000, local=bool(local) and local[n % len(local)])
        for n, path in enumerate(paths)
    ]


@given(mode=_MODES, chosen=_PATHS, paths=_PATHS, local=st.lists(st.booleans(), max_size=3))
def test_threat_r_14_what_is_withheld_never_passes_and_what_is_not_does(
    mode: str, chosen: list[str], paths: list[str], local: list[bool]
) -> None:
    assume(mode == "deny" or chosen)
    mounts = _mounts(paths, local)
    selection = Selection(make_filter(mode, chosen), mounts)
    for found in mounts:
        listed = any((found.path + "\n").startswith(path) for path in chosen)
        goes = not found.local and listed == (mode == "allow")
        assert selection.passes(head(found)) is goes
        assert (found.id in selection.withheld) is (not goes and not found.local)
        # What is local or this cluster's own never goes, whoever asks.
        assert not selection.passes(LOCAL + found.id)
        assert not selection.passes(OWN + found.id)


@given(mode=_MODES, chosen=_PATHS, paths=_PATHS)
def test_allow_and_deny_of_the_same_paths_are_opposites(
    mode: str, chosen: list[str], paths: list[str]
) -> None:
    assume(chosen)
    allowed, denied = (gone(make_filter(m, chosen), *paths) for m in ("allow", "deny"))
    assert allowed | denied == set(paths)
    assert not allowed & denied


@given(mode=_MODES, chosen=_PATHS, paths=_PATHS, unknown=st.binary(min_size=16, max_size=16))
def test_threat_r_14_a_head_of_no_known_mount_is_withheld(
    mode: str, chosen: list[str], paths: list[str], unknown: bytes
) -> None:
    """Data of a mount that is just being made, or was just removed."""
    assume(mode == "deny" or chosen)
    mounts = _mounts(paths, ())
    assume(unknown[:15] != bytes(15) and unknown not in {m.id for m in mounts})
    assert not Selection(make_filter(mode, chosen), mounts).passes(SHARED + unknown)


@given(mode=_MODES, chosen=_PATHS, paths=_PATHS)
def test_what_every_cluster_has_always_passes(
    mode: str, chosen: list[str], paths: list[str]
) -> None:
    assume(mode == "deny" or chosen)
    selection = Selection(make_filter(mode, chosen), _mounts(paths, ()))
    assert all(selection.passes(SHARED + space) for space in BUILT_IN)
    assert not set(BUILT_IN) & set(selection.withheld)


@given(noise=st.binary(max_size=40))
def test_what_is_no_head_of_a_shared_mount_does_not_pass(noise: bytes) -> None:
    assume(len(noise) != 17 or noise[:1] != SHARED)
    assert not Selection(make_filter("deny", []), [mount("kv/")]).passes(noise)


# where it is kept


def read(cluster: Cluster, secondary_id: str = "osaka") -> PathFilter | None:
    with cluster.view() as view:
        return filters.read_filter(view, secondary_id)


def write(cluster: Cluster, made: PathFilter, secondary_id: str = "osaka") -> None:
    with cluster.change() as tx:
        filters.write_filter(tx, secondary_id, made)


def test_a_filter_is_kept_per_secondary_until_it_is_deleted(cluster: Cluster) -> None:
    made = make_filter("deny", ["kv/"])
    write(cluster, made)
    assert read(cluster) == made
    assert read(cluster, "lisbon") is None
    assert read(cluster, "osak") is None
    for _ in range(2):  # also if there is none
        with cluster.change() as tx:
            filters.delete_filter(tx, "osaka")
    assert read(cluster) is None


def test_filters_stay_with_this_cluster_and_end_with_its_set(cluster: Cluster) -> None:
    write(cluster, make_filter("deny", ["kv/"]))
    write(cluster, make_filter("allow", ["kv/"]), "lisbon")
    with cluster.view() as view:
        assert {full[:1] for full in view.keys(b"") if b"/filters/" in full} == {OWN}
    with cluster.change() as tx:
        filters.forget_all(tx)
    assert read(cluster) is None
    assert read(cluster, "lisbon") is None


def test_unmounting_takes_the_path_out_of_every_filter(cluster: Cluster) -> None:
    write(cluster, make_filter("deny", ["kv/", "secret/"]))
    write(cluster, make_filter("allow", ["kv/"]), "lisbon")
    with cluster.change() as tx:
        filters.forget_path(tx, "kv/")
    assert read(cluster) == PathFilter(DENY, ("secret/",))
    emptied = read(cluster, "lisbon")
    assert emptied == PathFilter(ALLOW, ())
    assert gone(emptied, "kv/", "secret/") == {"kv/", "secret/"}


def test_unmounting_leaves_the_paths_above_and_below_alone(cluster: Cluster) -> None:
    made = make_filter("deny", ["team1/", "team1/kv/x/"])
    write(cluster, made)
    with cluster.change() as tx:
        filters.forget_path(tx, "team1/kv/")
    assert read(cluster) == made
