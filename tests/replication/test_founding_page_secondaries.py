"""The founding API page on secondaries: revoked, left behind, demoted, and back."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.clusters import (
    AT,
    asked_token,
    errors,
    ok,
    read,
    settle,
    token_for,
    write,
)
from tests.replication.pair import Pair, join, log_in, replicating_pair, status
from tests.support.undercroft import disk_server, restart, until

PRIMARY = "sys/replication/primary"
AT_ONCE_SECONDS = 5.0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with replicating_pair(tmp_path) as made:
        yield made


def peers(pair: Pair) -> dict[str, str]:
    """Secondaries by name, with their connection_status, as the primary sees them."""
    found = status(pair.primary)["secondaries"]
    return {peer["node_id"]: peer["connection_status"] for peer in found}


def ready(pair: Pair) -> bool:
    return bool(status(pair.secondary)["connection_state"] == "ready")


def only_here(pair: Pair) -> None:
    """Local data of the secondary: a wipe would take it."""
    made = pair.secondary.request("POST", "sys/mounts/here", {"type": "kv", "local": True})
    assert made.status == 204, made
    assert pair.secondary.request("POST", "here/a", {"v": 1}).status == 204


def test_revoke_disconnects_immediately_and_lets_nobody_back_without_a_new_token(
    pair: Pair, tmp_path: Path
) -> None:
    until(lambda: peers(pair) == {"osaka": "connected"}, pair.primary_server)
    began = time.monotonic()
    answer = pair.primary.request("POST", f"{PRIMARY}/revoke-secondary", {"id": "osaka"})
    assert answer.status == 200
    assert answer.body["warnings"]
    until(lambda: not ready(pair), pair.secondary_server, AT_ONCE_SECONDS)
    assert time.monotonic() - began < AT_ONCE_SECONDS
    until(lambda: peers(pair).get("osaka") != "connected", pair.primary_server, AT_ONCE_SECONDS)
    write(pair.primary, "after")

    # neither by itself after a restart, nor by naming the primary's address again
    address = status(pair.secondary)["primary_cluster_addr"]
    pair.secondary_server.stop()
    restart(pair.secondary_server, tmp_path / "secondary")
    refused = pair.secondary.request(
        "POST", f"{AT}/secondary/update-primary", {"update_primary_addrs": [address]}
    )
    assert refused.status in (400, 503), refused
    until(lambda: "revoked" in status(pair.secondary)["state_reason"], pair.secondary_server)
    assert not ready(pair)
    assert read(pair.secondary, "after") == 404

    ok(pair.secondary, "secondary/update-primary", {"token": token_for(pair.primary, "osaka")})
    settle(pair.secondary, pair.primary)
    assert read(pair.secondary, "after") == 1


def test_an_activation_token_that_was_revoked_unused_is_dead(tmp_path: Path) -> None:
    for name in ("p", "s"):
        (tmp_path / name).mkdir()
    with disk_server(tmp_path / "p") as p, disk_server(tmp_path / "s") as s:
        ok(p.client, "primary/enable")
        token = asked_token(p.client, "id=osaka").body["wrap_info"]["token"]
        ok(p.client, "primary/revoke-secondary", {"id": "osaka"})
        refused = s.client.request("POST", f"{AT}/secondary/enable", {"token": token})
        assert refused.status == 400
        assert status(s.client) == {"mode": "disabled"}

        brief = asked_token(p.client, "id=osaka&ttl=1s").body["wrap_info"]["token"]
        # Expired unused, its id may be given again.
        until(lambda: asked_token(p.client, "id=osaka").status == 200)
        expired = s.client.request("POST", f"{AT}/secondary/enable", {"token": brief})
        assert expired.status == 400
        assert "expired" in errors(expired)
        assert status(s.client) == {"mode": "disabled"}


def test_a_token_lets_one_secondary_in(tmp_path: Path) -> None:
    for name in ("p", "s", "thief"):
        (tmp_path / name).mkdir()
    with (
        disk_server(tmp_path / "p") as p,
        disk_server(tmp_path / "s") as s,
        disk_server(tmp_path / "thief") as thief,
    ):
        ok(p.client, "primary/enable")
        token = token_for(p.client, "osaka")
        ok(thief.client, "secondary/enable", {"token": token})
        refused = s.client.request("POST", f"{AT}/secondary/enable", {"token": token})
        assert refused.status == 400
        assert "intercepted" in errors(refused)
        assert status(s.client) == {"mode": "disabled"}


def test_a_secondary_must_be_promoted_and_cannot_be_enabled(pair: Pair) -> None:
    for body in ({}, {"primary_cluster_addr": "https://10.0.0.7:8201"}):
        for path in (f"{PRIMARY}/enable", f"{AT}/primary/enable", "sys/repliation/primary/enable"):
            refused = pair.secondary.request("POST", path, body)
            assert refused.status == 400
            assert "promoted" in errors(refused)
    assert ready(pair)


def test_a_demoted_primary_keeps_its_cluster_id_and_rejoins_without_a_wipe(pair: Pair) -> None:
    one, two = pair.primary, pair.secondary
    assert one.request("POST", "sys/mounts/here", {"type": "kv", "local": True}).status == 204
    assert one.request("POST", "here/a", {"v": 1}).status == 204
    before = status(one)["cluster_id"]
    ok(one, "primary/demote")
    assert status(one)["cluster_id"] == before
    ok(two, "secondary/promote")
    write(two, "meanwhile")
    assert status(one)["state"] == "idle"  # it does not attempt to connect
    assert read(one, "meanwhile") == 404

    ok(one, "secondary/update-primary", {"token": token_for(two, "lisbon")})
    settle(one, two)
    assert status(one)["cluster_id"] == status(two)["cluster_id"] == before
    assert read(one, "meanwhile") == 1
    # Local data and its own root token are here still: nothing was wiped.
    assert one.request("GET", "here/a").body["data"] == {"v": 1}


def test_after_disable_nobody_connects_until_an_activation_which_wipes(
    pair: Pair, tmp_path: Path
) -> None:
    one, two = pair.primary, pair.secondary
    write(one, "before")
    settle(two, one)
    only_here(pair)
    set_id = status(one)["cluster_id"]
    disabled = one.request("POST", f"{PRIMARY}/disable")
    assert disabled.status == 200
    assert "osaka" in " ".join(disabled.body["warnings"])
    until(lambda: not ready(pair), pair.secondary_server, AT_ONCE_SECONDS)

    ok(one, "primary/enable")
    assert status(one)["cluster_id"] != set_id == status(two)["cluster_id"]
    write(one, "after")
    token = token_for(one, "osaka")
    refused = two.request("POST", f"{AT}/secondary/update-primary", {"token": token})
    assert refused.status == 400
    assert "cluster_id" in errors(refused)
    pair.secondary_server.stop()
    restart(pair.secondary_server, tmp_path / "secondary")
    until(lambda: status(two)["connection_state"] == "transient_failure", pair.secondary_server)
    assert read(two, "before") == 1
    assert read(two, "after") == 404

    ok(two, "secondary/disable")
    assert two.request("GET", "here/a").status == 200
    former = two.token
    ok(one, "primary/revoke-secondary", {"id": "osaka"})
    join(one, pair.secondary_server, "osaka")
    settle(two, one)
    assert status(two)["cluster_id"] == status(one)["cluster_id"]
    assert read(two, "after") == 1
    assert two.request("GET", "here/a").status in (403, 404)
    assert two.request("GET", "auth/token/lookup-self", token=former).status == 403


def test_a_secondary_that_was_disabled_is_wiped_when_it_comes_again(pair: Pair) -> None:
    one, two = pair.primary, pair.secondary
    only_here(pair)
    ok(two, "secondary/disable")
    write(two, "alone")
    log_in(two)
    ok(one, "primary/revoke-secondary", {"id": "osaka"})
    join(one, pair.secondary_server, "osaka")
    settle(two, one)
    assert read(two, "alone") == 404
    assert two.request("GET", "sys/mounts/here").status == 400
