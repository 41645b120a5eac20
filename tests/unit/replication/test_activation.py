"""The registry of activations: who may come in, until when, and who may not any more."""

import pytest

from tests.unit.replication.cluster import HOUR_MS, NOW_MS, Cluster
from undercroft.errors import InvalidRequest, ReadOnly
from undercroft.replication import activation
from undercroft.replication.activation import ACTIVE, EXPIRED, ISSUED, Secondary
from undercroft.storage.keys import OWN

HALF_HOUR_MS = HOUR_MS // 2


def issue(
    cluster: Cluster,
    secondary_id: str = "osaka",
    *,
    at_ms: int = NOW_MS,
    ttl_seconds: int = activation.TTL_SECONDS,
) -> Secondary:
    with cluster.change() as tx:
        return activation.register(tx, secondary_id, ttl_seconds=ttl_seconds, now_ms=at_ms)


def found(cluster: Cluster, secondary_id: str = "osaka") -> Secondary | None:
    with cluster.view() as view:
        return activation.find(view, secondary_id)


def ids(cluster: Cluster) -> list[str]:
    with cluster.view() as view:
        return [secondary.id for secondary in activation.known(view)]


# ids


@pytest.mark.parametrize(
    "good", ["a", "_", "7", "us-east", "osaka.dc-2", "A_b", "a--b", "a..b", "x" * 128]
)
def test_an_id_has_word_characters_and_dashes_and_dots_within(cluster: Cluster, good: str) -> None:
    assert issue(cluster, good).id == good
    assert ids(cluster) == [good]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "-a",
        "a-",
        ".a",
        "a.",
        ".",
        "..",
        "-",
        "a b",
        "a/b",
        "a\n",
        "\na",
        "a\0b",
        "é",
        "a,b",
        "٣",  # a digit, elsewhere
        "x" * 129,
    ],
)
def test_other_ids_are_refused_and_nothing_is_registered(cluster: Cluster, bad: str) -> None:
    with pytest.raises(InvalidRequest):
        issue(cluster, bad)
    assert ids(cluster) == []


def test_an_id_that_is_missing_too_long_or_odd_gets_a_text_of_its_own(cluster: Cluster) -> None:
    texts = set()
    for bad in ("", "x" * 129, "a/b"):
        with pytest.raises(InvalidRequest) as refusal:
            activation.check_id(bad)
        texts.add(refusal.value.message)
    assert len(texts) == 3


# issuing


def test_what_is_issued_is_known_with_all_it_was_issued_with(cluster: Cluster) -> None:
    with cluster.change() as tx:
        made = activation.register(
            tx,
            "osaka",
            ttl_seconds=60,
            now_ms=NOW_MS,
            promotable=False,
            forward_root=True,
            ceiling=("readers", "writers"),
        )
    assert found(cluster) == made
    assert (made.promotable, made.forward_root, made.ceiling) == (
        False,
        True,
        ("readers", "writers"),
    )
    assert (made.issued_ms, made.expires_ms) == (NOW_MS, NOW_MS + 60_000)


def test_threat_r_16_unless_said_otherwise_a_secondary_may_be_promoted_but_forwards_no_root(
    cluster: Cluster,
) -> None:
    made = issue(cluster)
    assert (made.promotable, made.forward_root, made.ceiling) == (True, False, ())
    assert made.expires_ms - made.issued_ms == HALF_HOUR_MS


@pytest.mark.parametrize("seconds", [-1, 0, 24 * 3600 + 1, 10**12])
def test_a_ttl_is_positive_and_at_most_a_day(cluster: Cluster, seconds: int) -> None:
    with pytest.raises(InvalidRequest, match="ttl"):
        issue(cluster, ttl_seconds=seconds)
    assert ids(cluster) == []
    assert issue(cluster, ttl_seconds=24 * 3600).state == ISSUED


def test_an_id_in_use_is_refused_with_what_can_be_done(cluster: Cluster) -> None:
    first = issue(cluster)
    with pytest.raises(InvalidRequest, match="'osaka' is issued already") as refusal:
        issue(cluster)
    assert "revoke" in refusal.value.hint
    with cluster.change() as tx:
        activation.activate(tx, "osaka")
    with pytest.raises(InvalidRequest, match="'osaka' is active already"):
        issue(cluster, at_ms=NOW_MS + 1000 * HOUR_MS)  # long after its token expired
    current = found(cluster)
    assert current is not None
    assert current.ticket == first.ticket


def test_an_id_whose_token_expired_unused_may_be_issued_again_and_the_old_one_is_dead(
    cluster: Cluster,
) -> None:
    old = issue(cluster)
    with pytest.raises(InvalidRequest):
        issue(cluster, at_ms=old.expires_ms - 1)
    new = issue(cluster, at_ms=old.expires_ms)
    assert new.ticket != old.ticket
    assert found(cluster) == new


def test_tickets_are_128_random_bits(cluster: Cluster) -> None:
    tickets = {issue(cluster, f"s{n}").ticket for n in range(20)}
    assert len(tickets) == 20
    assert all(len(bytes.fromhex(ticket)) == 16 for ticket in tickets)


def test_a_token_is_issued_until_it_expires_and_active_for_ever(cluster: Cluster) -> None:
    made = issue(cluster)
    assert made.state_at(NOW_MS) == ISSUED
    assert made.state_at(made.expires_ms - 1) == ISSUED
    assert made.state_at(made.expires_ms) == EXPIRED
    with cluster.change() as tx:
        activation.activate(tx, "osaka")
    active = found(cluster)
    assert active is not None
    assert active.state_at(made.expires_ms + 1000 * HOUR_MS) == ACTIVE


def test_the_wrapping_token_is_remembered_until_the_secondary_has_come(cluster: Cluster) -> None:
    with cluster.change() as tx:
        made = activation.register(tx, "osaka", ttl_seconds=60, now_ms=NOW_MS)
        activation.write(tx, activation.with_wrapping(made, "accessor"))
    unused = found(cluster)
    assert unused is not None
    assert unused.wrapping_accessor == "accessor"
    for _ in range(2):  # each time that it connects
        with cluster.change() as tx:
            activation.activate(tx, "osaka")
    used = found(cluster)
    assert used is not None
    assert (used.state, used.wrapping_accessor, used.ticket) == (ACTIVE, "", made.ticket)


def test_who_is_not_registered_cannot_become_active(cluster: Cluster) -> None:
    with cluster.change() as tx:
        activation.activate(tx, "nobody")
    assert ids(cluster) == []


# revoking


def test_who_is_revoked_is_not_known_any_more_and_may_be_issued_anew(cluster: Cluster) -> None:
    old = issue(cluster)
    with cluster.change() as tx:
        assert activation.revoke(tx, "osaka") == old
    assert found(cluster) is None
    assert issue(cluster).ticket != old.ticket


@pytest.mark.parametrize("unknown", ["", "lima", "osak", "osaka2", "osaka/", "../osaka", "x" * 999])
def test_revoking_an_unknown_id_lists_those_that_are_known(cluster: Cluster, unknown: str) -> None:
    issue(cluster, "osaka")
    issue(cluster, "lisbon")
    with cluster.view() as view, pytest.raises(InvalidRequest, match="lisbon, osaka"):
        activation.revoke(view, unknown)
    assert ids(cluster) == ["lisbon", "osaka"]


def test_revoking_where_nobody_is_known_says_so(cluster: Cluster) -> None:
    with cluster.view() as view, pytest.raises(InvalidRequest, match="known ids: none"):
        activation.revoke(view, "osaka")


def test_the_end_of_the_set_ends_all_activations(cluster: Cluster) -> None:
    for name in ("osaka", "lisbon", "a.b-c"):
        issue(cluster, name)
    with cluster.change() as tx:
        activation.forget_all(tx)
    assert ids(cluster) == []


def test_activations_stay_with_this_cluster(cluster: Cluster) -> None:
    issue(cluster)
    with cluster.view() as view:
        holding = [full for full in view.keys(b"") if b"osaka" in full]
    assert [full[:1] for full in holding] == [OWN]


def test_nothing_is_registered_through_a_view(cluster: Cluster) -> None:
    with cluster.view() as view, pytest.raises(ReadOnly):
        activation.register(view, "osaka", ttl_seconds=60, now_ms=NOW_MS)
