"""`replication status` and `watch`, as people and as programs read them."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.contract import (
    STATUS,
    Contract,
    Reply,
    detached,
    playing,
    primary,
    secondary,
    syncing,
)
from tests.unit.cli.person import ROOT, SECONDS, at_terminal

BOTH = "GET sys/replication/status"


@pytest.fixture
def contract() -> Iterator[Contract]:
    with playing() as played:
        yield played


def shown(contract: Contract, run: Run, performance: dict[str, Any]) -> str:
    contract.play(BOTH, Reply({"dr": {"mode": "disabled"}, "performance": performance}))
    done = run("replication", "status", VAULT_ADDR=contract.address)
    assert done.code == 0, done
    return done.out


def test_the_status_of_a_primary_has_every_secondary_in_a_row(contract: Contract, run: Run) -> None:
    text = shown(contract, run, primary(quarantined_records=2))
    assert (
        text
        == """\
Performance replication
Role                       primary
Replication Set            0b6c2b9e-6f0d-4d0f-9a39-6a2f3a3f7c11
Epoch                      3
State                      running
Position                   90,417
Quarantined                2 records: see `undercroft replication quarantine list`

Secondary    State                               Lag                   Position
---------    -----                               ---                   --------
osaka        follows the log as it is written    12 records, 180 ms    90,405
porto        never seen                          unknown               -

Disaster-recovery replication
Role                             none: replication is disabled
"""
    )


def test_the_status_of_a_secondary_in_words(contract: Contract, run: Run) -> None:
    rows = shown(contract, run, secondary())
    for row in (
        "Role                       secondary",
        "State                      follows the log as it is written",
        "Secondary ID               osaka",
        "Connection                 connected",
        "Primary                    https://10.1.0.4:8200",
        "Lag                        12 records, 180 ms",
        "Quarantined                nothing",
    ):
        assert row in rows.splitlines()


@pytest.mark.parametrize(
    ("performance", "told"),
    [
        (primary(fenced=True), "primary, fenced: a newer epoch began elsewhere"),
        (detached(), "secondary, detached: it follows no primary"),
        (detached(state_reason="a local mount hides secret/"), "a local mount hides secret/"),
        (syncing(50, 200), "[######------------------]  25 %  50 of 200 entries"),
        (secondary(connection_state="transient_failure"), "broken; it is tried again"),
        (secondary(corrupted_merkle_tree=True), "found inconsistent by the last check"),
    ],
)
def test_what_is_wrong_is_told(
    performance: dict[str, Any], told: str, contract: Contract, run: Run
) -> None:
    assert told in shown(contract, run, performance)


def test_the_status_as_json_is_the_servers(contract: Contract, run: Run) -> None:
    data = {"dr": {"mode": "disabled"}, "performance": primary(last_wal=10**22)}
    contract.play(BOTH, Reply(data))
    done = run("replication", "status", "-format=json", VAULT_ADDR=contract.address)
    assert json.loads(done.out) == data


def test_the_status_takes_no_token_along(contract: Contract, run: Run) -> None:
    contract.play(BOTH, Reply({"performance": primary()}))
    run("replication", "status", VAULT_ADDR=contract.address, VAULT_TOKEN="t")
    assert [seen.token for seen in contract.seen] == [""]


def test_a_server_without_replication_says_so(contract: Contract, run: Run) -> None:
    done = run("replication", "status", VAULT_ADDR=contract.address)
    assert done.code == 2
    assert "404: unsupported path" in done.err


def test_at_a_terminal_the_watch_is_redrawn_in_place_and_ctrl_c_ends_it_with_0(
    contract: Contract, tmp_path: Path
) -> None:
    contract.status(primary(), primary(last_performance_wal=90500))
    words = ("replication", "watch", "-interval=0.1")
    with at_terminal(*words, address=contract.address, home=tmp_path) as person:
        person.sees("osaka", times=3)
        person.presses_ctrl_c()
        assert person.ends() == 0
    # three members below a head of two lines and the line of the time: six lines up
    assert "\x1b[6F" in person.shown
    assert "Traceback" not in person.shown
    assert "95" in person.shown  # the lag of the second look


def test_lines_too_long_for_the_terminal_are_cut_so_that_they_can_be_redrawn(
    contract: Contract, tmp_path: Path
) -> None:
    contract.status(detached(state_reason="x" * 500))
    words = ("replication", "watch", "-interval=0.1")
    with at_terminal(*words, address=contract.address, home=tmp_path) as person:
        person.sees("\x1b[J", times=2)
        assert "x" * 119 in person.shown
        assert "x" * 120 not in person.shown


@contextmanager
def piped(contract: Contract, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "undercroft", "replication", "watch", "-interval=0.1", *words],
        env={"PYTHONPATH": str(ROOT / "src"), "VAULT_ADDR": contract.address, "HOME": "/"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_into_a_pipe_the_watch_prints_a_block_per_look(contract: Contract) -> None:
    contract.status(primary(), primary(last_performance_wal=90500))
    with piped(contract) as process:
        lines = lines_of(process, 14)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in "".join(lines) + rest
    assert lines[6] == "\n"
    assert lines[4].split() == ["osaka", "stream-wals", "12", "180", "-", "-"]
    assert lines[11].split()[:4] == ["osaka", "stream-wals", "95", "180"]


def test_a_watch_outlives_a_server_that_is_away(contract: Contract) -> None:
    sealed = Reply(status=503, errors=("Vault is sealed",))
    contract.play(f"GET {STATUS}", Reply(primary()), sealed, Reply(primary()))
    with piped(contract) as process:
        lines = lines_of(process, 12)
    assert lines[7].startswith("no answer: the server answers 503: Vault is sealed")
    assert lines[9].endswith("primary\n")


def test_a_watch_as_json_prints_the_servers_status_at_each_look(contract: Contract) -> None:
    contract.status(detached())
    length = len(json.dumps(detached(), indent=2).splitlines())
    with piped(contract, "-format=json") as process:
        looks = [json.loads("".join(lines_of(process, length))) for _ in range(2)]
    assert looks == [detached(), detached()]


@pytest.mark.parametrize("interval", ["x", "0", "nan", "-1"])
def test_an_interval_is_a_number_of_seconds(interval: str, contract: Contract, run: Run) -> None:
    done = run("replication", "watch", f"-interval={interval}", VAULT_ADDR=contract.address)
    assert done.code == 1
    assert contract.seen == []


def test_a_watch_of_nothing_fails_at_once(contract: Contract, run: Run) -> None:
    assert run("replication", "watch", VAULT_ADDR="http://127.0.0.1:1").code == 2
