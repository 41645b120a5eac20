"""What cannot be undone is told in plain words and needs a yes; what takes long is waited for."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Ran, Run
from tests.unit.cli.contract import (
    PRIMARY,
    SECONDARY,
    STATUS,
    Contract,
    Reply,
    detached,
    playing,
    primary,
    secondary,
    syncing,
)
from tests.unit.cli.person import at_terminal
from undercroft.cli.replication import waiting

WARNED = Reply(warnings=("This cluster is being changed.",))
ENTRY = "000002-000000000027-0000"
CATCHING_UP = Reply(status=503, errors=("still catching up",), headers={"Retry-After": "0"})
DANGEROUS = (
    (["enable-secondary", "-no-wait", "TOKEN"], {"mode": "disabled"}, "is wiped and replaced"),
    (["promote", "-no-wait"], secondary(), "the present primary stops taking writes"),
    (
        ["promote", "-no-wait"],
        secondary(connection_state="transient_failure"),
        "although the present primary is out of reach",
    ),
    (["promote", "-no-wait"], detached(), "no other cluster is told or stopped"),
    (["promote", "-no-wait", "-force"], secondary(), "even if data is known to be missing"),
    (["demote"], primary(), "stops taking writes to shared data"),
    (["disable"], primary(), "must be wiped to follow a primary again (connected: osaka"),
    (["disable"], secondary(), "stands alone with the data it has"),
    (["disable"], syncing(1, 2), "is given up; the cluster is as it was before"),
    (["revoke", "osaka"], primary(), "cannot come back without a new token"),
    (["filter", "delete", "osaka"], primary(), "gets everything but kv1/. Without its filter"),
    (["quarantine", "discard", ENTRY], primary(), "is dropped for good"),
)


@pytest.fixture
def contract() -> Iterator[Contract]:
    with playing() as played:
        for name in ("enable", "demote", "disable", "revoke-secondary"):
            played.play(f"POST {PRIMARY}/{name}", WARNED)
        for name in ("enable", "promote", "disable"):
            played.play(f"POST {SECONDARY}/{name}", WARNED)
        kept = Reply({"mode": "deny", "paths": ["kv1/"]})
        played.play(f"GET {PRIMARY}/paths-filter/osaka", kept)
        played.play(f"DELETE {PRIMARY}/paths-filter/osaka", Reply(status=204))
        played.play(f"DELETE sys/replication/quarantine/{ENTRY}", Reply(status=204))
        yield played


@pytest.fixture
def replication(contract: Contract, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)

    def _run(*words: str) -> Ran:
        return run("replication", *words, VAULT_ADDR=contract.address, VAULT_TOKEN="t")

    return _run


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("words", "status", "told"), DANGEROUS)
def test_without_a_terminal_and_without_yes_nothing_is_done(
    words: list[str], status: dict[str, Any], told: str, contract: Contract, replication: Run
) -> None:
    contract.status(status)
    done = replication(*words)
    assert done.code == 1
    assert "there is no terminal to ask for it; nothing was done" in done.err
    assert told in one_line(done.err)
    assert "-yes goes on without asking" in done.err
    assert [call for call in contract.changes() if call[0] != "GET"] == []


@pytest.mark.parametrize(("words", "status", "told"), DANGEROUS)
def test_with_yes_nobody_is_asked(
    words: list[str], status: dict[str, Any], told: str, contract: Contract, replication: Run
) -> None:
    contract.status(status)
    done = replication(*words, "-yes")
    assert done.code == 0, done
    assert told not in one_line(done.err)
    assert len(contract.changes()) == 1


@pytest.mark.parametrize(("answer", "code", "changes"), [("yes", 0, 1), ("y", 1, 0), ("", 1, 0)])
def test_a_person_is_asked_and_only_yes_goes_on(
    answer: str, code: int, changes: int, contract: Contract, tmp_path: Path
) -> None:
    words = ("replication", "revoke", "osaka")
    with at_terminal(*words, address=contract.address, home=tmp_path) as person:
        person.sees("Type yes to go on: ")
        assert contract.changes() == []
        person.types(f"{answer}\n")
        assert person.ends() == code
    assert ("nothing was done" in person.shown) == (code == 1)
    assert len(contract.changes()) == changes


def test_a_person_who_is_not_to_be_asked_is_not(contract: Contract, tmp_path: Path) -> None:
    words = ("replication", "revoke", "-non-interactive", "osaka")
    with at_terminal(*words, address=contract.address, home=tmp_path) as person:
        assert person.ends() == 1
    assert contract.changes() == []


def test_a_token_is_asked_for_after_the_yes_and_not_shown(
    contract: Contract, tmp_path: Path
) -> None:
    words = ("replication", "enable-secondary", "-no-wait")
    with at_terminal(*words, address=contract.address, home=tmp_path) as person:
        person.sees("Type yes to go on: ")
        person.types("yes\n")
        person.sees("Activation token (will be hidden): ")
        person.types("canary\n")
        assert person.ends() == 0
    assert contract.changes() == [("POST", f"{SECONDARY}/enable", {"token": "canary"})]
    assert "canary" not in person.shown


# Waiting


def test_enable_secondary_waits_until_the_log_is_followed(
    contract: Contract, replication: Run
) -> None:
    contract.status(
        {"mode": "disabled"},
        syncing(50, 200),
        secondary(connection_state="connecting"),
        secondary(),
        {"mode": "never asked again"},
    )
    done = replication("enable-secondary", "-yes", "TOKEN")
    assert done.code == 0, done
    assert done.out.endswith("This cluster is a secondary and follows the log of its primary.\n")
    assert "[######------------------]  25 %  50 of 200 entries" in done.err
    assert len(contract.plays[f"GET {STATUS}"]) == 1


def test_waiting_bears_a_server_that_is_away_for_a_moment(
    contract: Contract, replication: Run
) -> None:
    away = Reply(status=503, errors=("Vault is sealed",))
    contract.play(f"GET {STATUS}", Reply(syncing(1, 2)), away, Reply(secondary()))
    done = replication("enable-secondary", "-yes", "TOKEN")
    assert done.code == 0
    assert "no status: the server answers 503" in done.err


def test_waiting_ends_when_the_server_stays_away(
    contract: Contract, replication: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.1)
    contract.play(f"GET {STATUS}", Reply(status=503, errors=("Vault is sealed",)))
    assert replication("enable-secondary", "-yes", "TOKEN").code == 2


def test_waiting_ends_when_the_set_up_is_given_up(contract: Contract, replication: Run) -> None:
    contract.status(syncing(1, 2), {"mode": "disabled"})
    done = replication("enable-secondary", "-yes", "TOKEN")
    assert done.code == 2
    assert "given up" in done.err


def test_the_reason_why_a_copy_stands_still_is_told(contract: Contract, replication: Run) -> None:
    stuck = secondary(mode="bootstrapping", state="idle", state_reason="10.1.0.4: refused")
    contract.status(stuck, secondary())
    assert "10.1.0.4: refused" in replication("enable-secondary", "-yes", "TOKEN").err


def test_waiting_sends_no_token_to_the_open_status(contract: Contract, replication: Run) -> None:
    contract.status(secondary())
    replication("enable-secondary", "-yes", "TOKEN")
    assert [seen.token for seen in contract.seen] == ["t", ""]


def test_at_a_terminal_progress_is_one_line_and_ctrl_c_says_that_the_server_goes_on(
    contract: Contract, tmp_path: Path
) -> None:
    contract.status(syncing(50, 200))
    words = ("replication", "enable-secondary", "-yes", "TOKEN")
    with at_terminal(*words, address=contract.address, home=tmp_path) as person:
        person.sees("\r")
        person.sees("50 of 200 entries", times=2)
        person.presses_ctrl_c()
        assert person.ends() == 130
    assert "No longer waiting; the server goes on." in person.shown


def test_promote_is_asked_again_while_the_server_says_when(
    contract: Contract, replication: Run
) -> None:
    contract.play(f"POST {SECONDARY}/promote", CATCHING_UP, CATCHING_UP, WARNED)
    contract.status(secondary(), primary())
    done = replication("promote", "-yes")
    assert done.code == 0, done
    assert done.out.endswith("Success! This cluster is the primary.\n")
    assert len(contract.changes()) == 3
    assert "not yet: the server answers 503: still catching up" in done.err


def test_promote_gives_up_after_its_timeout(contract: Contract, replication: Run) -> None:
    contract.play(f"POST {SECONDARY}/promote", CATCHING_UP)
    began = time.monotonic()
    done = replication("promote", "-yes", "-timeout=200ms")
    assert 0.1 < time.monotonic() - began < 5
    assert done.code == 2
    assert "still catching up" in done.err
    assert "tried until -timeout" in done.err


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=503, errors=("Vault is sealed",)), []),
        (Reply(status=400, errors=("it has a path filter",)), []),
        (CATCHING_UP, ["-no-wait"]),
    ],
)
def test_promote_is_asked_once_where_asking_again_is_of_no_use(
    reply: Reply, words: list[str], contract: Contract, replication: Run
) -> None:
    contract.play(f"POST {SECONDARY}/promote", reply)
    assert replication("promote", "-yes", *words).code == 2
    assert len(contract.changes()) == 1


def test_a_promotion_that_does_not_complete_in_time_is_told(
    contract: Contract, replication: Run
) -> None:
    contract.status(secondary())
    done = replication("promote", "-yes", "-timeout=100ms")
    assert done.code == 2
    assert "was asked for and is not complete" in done.err


def test_as_json_waiting_adds_nothing_to_the_answer(contract: Contract, replication: Run) -> None:
    contract.status(primary())
    done = replication("promote", "-yes", "-format=json")
    assert "Success" not in done.out
    assert done.code == 0
