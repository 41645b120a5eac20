"""Two primaries, and who may make one of a secondary (R-11, R-12)."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.replication.clusters import AT, allowed, errors, ok, read, settle, token_for, write
from tests.replication.pair import (
    Pair,
    join,
    prepare,
    replicating_pair,
    replicator_of,
    status,
)
from tests.replication.peer import call, connected, granted
from tests.replication.relay import relayed
from tests.support.undercroft import Client, disk_server, restart, until
from undercroft.replication.protocol import frames
from undercroft.replication.protocol.frames import Frame
from undercroft.request.model import Operation

PROMOTE = f"{AT}/secondary/promote"
QUARANTINE = "sys/replication/quarantine"


def kept_apart(client: Client) -> list[dict[str, Any]]:
    """What is in quarantine, with values."""
    listed = client.request("GET", QUARANTINE)
    assert listed.status == 200, listed
    return [
        client.request("GET", f"{QUARANTINE}/{name}").body["data"]
        for name in listed.body["data"]["keys"]
    ]


def test_threat_r_11_what_only_the_old_primary_wrote_is_set_aside_and_never_merged(
    tmp_path: Path,
) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        write(one, "both", "before")
        settle(two, one)
        os.kill(replicator_of(pair.primary_server), signal.SIGSTOP)  # nobody hears of the next
        write(one, "lost", "only at the old one")
        write(one, "both", "by the old one")
        pair.primary_server.kill()
        ok(two, "secondary/promote")
        write(two, "both", "by the new one")
        restart(pair.primary_server, tmp_path / "primary")
        until(lambda: status(one)["fenced"], pair.primary_server)
        refused = one.request("POST", "secret/data/late", {"data": {}})
        assert refused.status == 503
        assert "epoch" in errors(refused)
        ok(one, "primary/demote")
        ok(one, "secondary/update-primary", {"token": token_for(two, "lisbon")})
        settle(one, two)
        for client in (one, two):
            assert read(client, "lost") == 404
            assert read(client, "both") == "by the new one"
        assert status(one)["quarantined_records"] == len(kept_apart(one)) > 0
        assert status(two)["quarantined_records"] == 0
        saved = json.dumps(kept_apart(one))
        assert "only at the old one" in saved
        assert "by the old one" in saved
        assert "by the new one" not in saved


def test_threat_r_11_a_fenced_primary_does_nothing_for_others_either(tmp_path: Path) -> None:
    """The epoch counts for a forwarded call as it does for a caller of its own."""
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        with connected(granted(one, "perth")) as peer:
            peer.greet()
            made = call(Operation.UPDATE, "kv1/in-time", {"v": 1}, "all")
            assert peer.forward(1, made).error is None
            ok(two, "secondary/promote")
            until(lambda: status(one)["fenced"])
            late = peer.forward(2, call(Operation.UPDATE, "kv1/late", {"v": 1}, "all"))
            assert late.error is not None
            assert late.error.kind == "Unavailable"
        assert one.request("GET", "kv1/late").status == 404
        assert two.request("GET", "kv1/late").status == 404


def test_threat_r_17_a_forward_goes_no_further_than_the_cluster_it_was_sent_to(
    tmp_path: Path,
) -> None:
    """A cluster that has become a secondary itself does not hand on what others hand on to it."""
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        with connected(granted(one, "perth")) as peer:
            peer.greet()
            ok(two, "secondary/promote")
            until(lambda: status(one)["fenced"])
            ok(one, "primary/demote")
            ok(one, "secondary/update-primary", {"token": token_for(two, "lisbon")})
            late = peer.forward(1, call(Operation.UPDATE, "kv1/further", {"v": 1}, "all"))
            assert late.error is not None
        settle(one, two)
        assert one.request("GET", "kv1/further").status == 404


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Pair]:
    """A pair whose secondary audits."""
    for name in ("primary", "secondary"):
        (tmp_path / name).mkdir()
    path = tmp_path / "secondary/audit.log"
    device = f'audit "file" "main" {{ options {{ file_path = "{path}" }} }}'
    with (
        disk_server(tmp_path / "primary") as primary,
        disk_server(tmp_path / "secondary", device) as secondary,
    ):
        prepare(primary.client)
        ok(primary.client, "primary/enable")
        join(primary.client, secondary, "osaka")
        yield Pair(primary, secondary)


def test_threat_r_12_promotion_takes_a_policy_and_is_audited(audited: Pair) -> None:
    two = audited.secondary
    weak = allowed(two, "reader", 'path "*" { capabilities = ["read", "list"] }')
    strong = allowed(two, "promoter", f'path "{PROMOTE}" {{ capabilities = ["update"] }}')
    for token in ("", "s.forged", weak):
        assert two.request("POST", PROMOTE, {"force": True}, token=token).status == 403
    assert status(two)["mode"] == "secondary"
    assert two.request("POST", PROMOTE, token=strong).status == 200
    assert status(two)["mode"] == "primary"
    lines = (audited.secondary_server.log.parent / "audit.log").read_text().splitlines()
    about = [line for line in map(json.loads, lines) if line["request"]["path"] == PROMOTE]
    answers = [line for line in about if line["type"] == "response"]
    assert [bool(line.get("error")) for line in answers] == [True, True, True, False]
    assert answers[-1]["auth"]["policies"] == ["promoter"]


def test_threat_r_12_a_secondary_that_lacks_data_is_promoted_by_force_only(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        deny = {"mode": "deny", "paths": "kv1/"}
        assert one.request("POST", f"{AT}/primary/paths-filter/osaka", deny).status == 204
        until(lambda: two.request("GET", "kv1/x").status == 404)
        until(lambda: two.request("POST", PROMOTE).status == 400)
        assert status(two)["mode"] == "secondary"
        assert not status(one)["fenced"]
        ok(two, "secondary/promote", {"force": True})
        assert status(two)["mode"] == "primary"


def test_threat_r_12_a_secondary_that_is_comparing_is_promoted_by_force_only(
    tmp_path: Path,
) -> None:
    """The relay lets no comparison come to its end."""

    def never_ending(frame: Frame) -> list[Frame]:
        match frame:
            case frames.Welcome():
                return [msgspec.structs.replace(frame, verdict=frames.COMPARE)]
            case frames.Records() | frames.Heads():
                return []
        return [frame]

    homes = [tmp_path / name for name in ("primary", "secondary")]
    for home in homes:
        home.mkdir()
    with (
        disk_server(homes[0]) as primary,
        disk_server(homes[1]) as secondary,
        relayed(primary, secondary) as relay,
    ):
        two = secondary.client
        relay.tamper = never_ending
        secondary.kill()
        restart(secondary, homes[1])
        until(lambda: status(two)["state"] == "merkle-diff", secondary)
        refused = two.request("POST", PROMOTE)
        assert refused.status == 503
        assert "comparison" in errors(refused)
        assert status(two)["mode"] == "secondary"
        ok(two, "secondary/promote", {"force": True})
        assert status(two)["mode"] == "primary"


def test_threat_r_12_a_write_during_a_demotion_is_kept_or_refused(tmp_path: Path) -> None:
    """Four clients write on; what one of them was told is done, the successor has."""
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        done: list[str] = []
        refused: list[int] = []
        over = threading.Event()

        def write_on(who: int) -> None:
            number = 0
            while not over.is_set() and len(refused) < 40:
                name, number = f"w{who}-{number}", number + 1
                answer = one.request("POST", f"secret/data/{name}", {"data": {"value": name}})
                if answer.status == 200:
                    done.append(name)
                else:
                    refused.append(answer.status)

        writers = [threading.Thread(target=write_on, args=(who,)) for who in range(4)]
        for writer in writers:
            writer.start()
        with contextlib.ExitStack() as ending:
            ending.callback(over.set)
            until(lambda: len(done) > 50)
            last = ok(one, "primary/demote")["data"]["last_wal"]
            until(lambda: len(refused) >= 40)
        for writer in writers:
            writer.join()
        assert set(refused) == {503}
        until(lambda: status(two)["last_remote_wal"] >= last)
        ok(two, "secondary/promote")
        assert [name for name in done if read(two, name) != name] == []


def test_a_primary_that_stopped_for_a_promotion_which_is_refused_goes_on(tmp_path: Path) -> None:
    with replicating_pair(tmp_path) as pair:
        one, two = pair.primary, pair.secondary
        settle(two, one)
        writer = pair.secondary_server.children()["writer"]
        os.kill(writer, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(1) as pool:
                promotion = pool.submit(two.request, "POST", PROMOTE)
                time.sleep(11)  # longer than a grant is good for
                assert one.request("POST", "kv1/now", {"v": 1}).status == 503
                os.kill(writer, signal.SIGCONT)
                answer = promotion.result()
        finally:
            os.kill(writer, signal.SIGCONT)
        assert answer.status == 503
        assert "the primary's grant is too old by now" in errors(answer)
        until(lambda: one.request("POST", "kv1/now", {"v": 2}).status == 204, pair.primary_server)
        settle(two, one)
        assert two.request("GET", "kv1/now").body["data"] == {"v": 2}
        assert status(two)["mode"] == "secondary"
