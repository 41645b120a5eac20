"""A primary that is suddenly younger: restored from an older copy of its directory (R-10), and the
copy of a primary started beside it (R-32).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.clusters import (
    errors,
    follows,
    ok,
    outgrow_log,
    read,
    settle,
    token_for,
    write,
)
from tests.replication.pair import Pair, log_in, replicating_pair, status
from tests.support.undercroft import (
    Client,
    Undercroft,
    free_port,
    restart,
    start,
    until,
    write_config,
)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with replicating_pair(tmp_path) as made:
        yield made


def copy(server: Undercroft, home: Path, to: Path) -> None:
    """Of its data, while it is stopped; it goes on then."""
    server.stop()
    shutil.copytree(home / "data", to, ignore=shutil.ignore_patterns("*.sock"))
    restart(server, home)


def put_back(server: Undercroft, home: Path, backup: Path) -> None:
    server.stop()
    shutil.rmtree(home / "data")
    shutil.copytree(backup, home / "data")
    restart(server, home)


def state_of(client: Client) -> tuple[object, ...]:
    """What a cluster has, by its own account."""
    at = status(client)
    return at["last_remote_wal"], at["merkle_root"], at["merkle_root_wal"]


def has_stopped(secondary: Client) -> bool:
    at = status(secondary)
    return bool(
        at["state"] == "idle"
        and at["connection_state"] == "idle"
        and "restored from an older copy" in at["state_reason"]
    )


def test_threat_r_10_a_primary_restored_from_an_older_copy_is_not_followed(
    pair: Pair, tmp_path: Path
) -> None:
    """Not at once, not when asked to look again, not when the primary has written as much anew."""
    one, two = pair.primary, pair.secondary
    write(one, "kept", "old")
    settle(two, one)
    copy(pair.primary_server, tmp_path / "primary", tmp_path / "backup")
    for number in range(20):
        write(one, f"lost{number}", number)
    write(one, "kept", "new")
    settle(two, one)
    before = state_of(two)
    put_back(pair.primary_server, tmp_path / "primary", tmp_path / "backup")
    until(lambda: has_stopped(two), pair.secondary_server)
    assert read(one, "lost0") == 404
    assert "replication has stopped" in pair.secondary_server.log.read_text()

    def is_untouched() -> bool:
        values = [read(two, f"lost{number}") for number in range(20)]
        return values == list(range(20)) and read(two, "kept") == "new"

    assert is_untouched()
    for number in range(30):  # another history, as long as that and longer
        write(one, f"other{number}")
    assert two.request("POST", "sys/replication/recover").status in (200, 204)
    until(lambda: has_stopped(two), pair.secondary_server)
    assert is_untouched()
    assert read(two, "other0") == 404
    assert state_of(two) == before
    pair.secondary_server.kill()
    restart(pair.secondary_server, tmp_path / "secondary")
    until(lambda: has_stopped(two), pair.secondary_server)
    assert is_untouched()
    assert state_of(two) == before


def test_threat_r_10_it_is_not_followed_either_once_its_log_holds_nothing_of_the_old_time(
    tmp_path: Path,
) -> None:
    """The chain of its records cannot tell any more: when it was started does."""
    with replicating_pair(tmp_path, "replication { logshipper_buffer_length = 20 }\n") as pair:
        one, two = pair.primary, pair.secondary
        copy(pair.primary_server, tmp_path / "primary", tmp_path / "backup")
        for number in range(20):
            write(one, f"lost{number}", number)
        settle(two, one)
        before = state_of(two)
        pair.secondary_server.stop()
        put_back(pair.primary_server, tmp_path / "primary", tmp_path / "backup")
        for number in range(60):
            write(one, f"other{number}")
        outgrow_log(one)
        restart(pair.secondary_server, tmp_path / "secondary")
        until(lambda: has_stopped(two), pair.secondary_server)
        assert [read(two, f"lost{number}") for number in range(20)] == list(range(20))
        assert read(two, "other0") == 404
        assert state_of(two) == before


def test_whoever_was_away_while_the_primary_was_started_anew_follows_it(tmp_path: Path) -> None:
    """Within its log and beyond it: not every start is of an older copy."""
    with replicating_pair(tmp_path, "replication { logshipper_buffer_length = 20 }\n") as pair:
        one, two = pair.primary, pair.secondary
        for how, more in (("within", write), ("beyond", lambda client, _: outgrow_log(client))):
            pair.secondary_server.stop()
            write(one, "before", how)
            pair.primary_server.stop()
            restart(pair.primary_server, tmp_path / "primary")
            more(one, "more")
            write(one, "after", how)
            restart(pair.secondary_server, tmp_path / "secondary")
            until(pair.caught_up, pair.secondary_server)
            assert (read(two, "before"), read(two, "after")) == (how, how)


def test_threat_r_10_who_kept_it_all_can_be_promoted_and_the_restored_one_follows(
    pair: Pair, tmp_path: Path
) -> None:
    """The way out that the status names."""
    one, two = pair.primary, pair.secondary
    copy(pair.primary_server, tmp_path / "primary", tmp_path / "backup")
    write(one, "lost", "found")
    settle(two, one)
    put_back(pair.primary_server, tmp_path / "primary", tmp_path / "backup")
    until(lambda: has_stopped(two), pair.secondary_server)
    ok(two, "secondary/promote", {"force": True})
    assert read(two, "lost") == "found"
    until(lambda: status(one)["fenced"], pair.primary_server)
    assert errors(one.request("POST", "secret/data/more", {"data": {"v": 1}}))
    ok(one, "primary/demote")
    ok(one, "secondary/update-primary", {"token": token_for(two, "paris")})
    until(lambda: follows(one, two), pair.primary_server)
    log_in(one)
    assert read(one, "lost") == "found"


def test_threat_r_32_a_copy_started_as_a_second_cluster_gets_no_secondary_of_the_first(
    pair: Pair, tmp_path: Path
) -> None:
    """It has the same authority, the same names, and a history that goes on without the first."""
    one, two = pair.primary, pair.secondary
    copy(pair.primary_server, tmp_path / "primary", tmp_path / "backup")
    twin_home = tmp_path / "twin"
    twin_home.mkdir()
    port = free_port()
    config = write_config(twin_home, port)
    shutil.copytree(tmp_path / "backup", twin_home / "data", dirs_exist_ok=True)
    twin = start([f"-config={config}"], twin_home, port, one.token)
    try:
        twin.keys = pair.primary_server.keys
        until(lambda: twin.client.request("GET", "sys/seal-status").status == 200, twin)
        twin.unseal()
        until(lambda: follows(two, one), pair.secondary_server)
        for _ in range(20):  # more than the first: by length alone they cannot be told apart
            write(twin.client, "whose", "the twin's")
        write(one, "whose", "the first's")
        write(one, "more")
        settle(two, one)
        assert read(two, "whose") == "the first's"
        assert [s["connection_status"] for s in status(twin.client)["secondaries"]] != ["connected"]
        before = state_of(two)
        # The first is gone, and an operator gives the twin its address.
        pair.primary_server.stop()
        twin.stop()
        moved = (tmp_path / "primary" / "undercroft.hcl").read_text()
        data, own = tmp_path / "primary" / "data", twin_home / "data"
        (twin_home / "undercroft.hcl").write_text(moved.replace(str(data), str(own)))
        twin.client = one
        restart(twin, twin_home)
        until(lambda: has_stopped(two), pair.secondary_server)
        assert read(two, "whose") == "the first's"
        assert state_of(two) == before
        assert read(one, "whose") == "the twin's"
    finally:
        twin.kill()
