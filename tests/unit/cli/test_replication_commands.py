"""What the replication commands ask of a server, and what they tell."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.contract import (
    PRIMARY,
    SECONDARY,
    Contract,
    Reply,
    playing,
    primary,
    secondary,
)
from undercroft.cli.certificates import make_certificates

CANARY = "canary-in-a-token"
WARNED = Reply(warnings=("This cluster is being changed.",))
QUARANTINE = "sys/replication/quarantine"
ENCRYPTED = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nQUJD\n-----END ENCRYPTED PRIVATE KEY-----\n"
ENTRY = "000002-000000000027-0000"


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Iterator[Contract]:
    with playing() as played:
        monkeypatch.setenv("VAULT_ADDR", played.address)
        yield played


@pytest.fixture
def replication(contract: Contract, run: Run) -> Run:
    """`run` forgets the environment, so the address comes with every command."""

    def _run(*words: str) -> Any:
        return run("replication", *words, VAULT_ADDR=contract.address, VAULT_TOKEN="t")

    return _run


def typed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# What goes over the wire


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        (["enable-primary"], "POST", f"{PRIMARY}/enable", {}),
        (
            ["enable-primary", "-primary-cluster-addr=https://b:8201"],
            "POST",
            f"{PRIMARY}/enable",
            {"primary_cluster_addr": "https://b:8201"},
        ),
        (["generate-public-key"], "POST", f"{SECONDARY}/generate-public-key", {}),
        (
            ["secondary-token", "-ttl=5m", "-public-key=KEY", "osaka"],
            "POST",
            f"{PRIMARY}/secondary-token",
            {"id": "osaka", "ttl": "5m", "secondary_public_key": "KEY"},
        ),
        (
            ["secondary-token", "-promotable=false", "-forward-root", "osaka"],
            "POST",
            f"{PRIMARY}/secondary-token",
            {"id": "osaka", "promotable": False, "forward_root": True},
        ),
        (
            ["secondary-token", "-policy-ceiling=app, web", "-policy-ceiling=ops", "osaka"],
            "POST",
            f"{PRIMARY}/secondary-token",
            {"id": "osaka", "policy_ceiling": ["app", "web", "ops"]},
        ),
        (
            ["secondary-token", "-promotable", "osaka"],
            "POST",
            f"{PRIMARY}/secondary-token",
            {"id": "osaka"},
        ),
        (["demote", "-yes"], "POST", f"{PRIMARY}/demote", {}),
        (["revoke", "-yes", "osaka"], "POST", f"{PRIMARY}/revoke-secondary", {"id": "osaka"}),
        (
            ["promote", "-yes", "-no-wait", "-force", "-primary-cluster-addr=https://b:8201"],
            "POST",
            f"{SECONDARY}/promote",
            {"force": True, "primary_cluster_addr": "https://b:8201"},
        ),
        (["promote", "-yes", "-wait=false"], "POST", f"{SECONDARY}/promote", {}),
        (
            ["enable-secondary", "-yes", "-no-wait", "-primary-api-addr=https://p:8200", "TOKEN"],
            "POST",
            f"{SECONDARY}/enable",
            {"token": "TOKEN", "primary_api_addr": "https://p:8200"},
        ),
        (["update-primary", "TOKEN"], "POST", f"{SECONDARY}/update-primary", {"token": "TOKEN"}),
        (["update-primary", ""], "POST", f"{SECONDARY}/update-primary", {"token": ""}),
        (
            ["update-primary", "-addrs=a:8201, b:8201"],
            "POST",
            f"{SECONDARY}/update-primary",
            {"update_primary_addrs": ["a:8201", "b:8201"]},
        ),
        (["filter", "read", "osaka"], "GET", f"{PRIMARY}/paths-filter/osaka", None),
        (
            ["filter", "write", "-mode=deny", "osaka", "a/", "auth/b/"],
            "POST",
            f"{PRIMARY}/paths-filter/osaka",
            {"mode": "deny", "paths": ["a/", "auth/b/"]},
        ),
        (["filter", "delete", "-yes", "osaka"], "DELETE", f"{PRIMARY}/paths-filter/osaka", None),
        (["quarantine", "list"], "GET", QUARANTINE, None),
        (["quarantine", "read", ENTRY], "GET", f"{QUARANTINE}/{ENTRY}", None),
        (["quarantine", "restore", ENTRY], "POST", f"{QUARANTINE}/{ENTRY}/restore", {}),
        (["quarantine", "discard", "-yes", ENTRY], "DELETE", f"{QUARANTINE}/{ENTRY}", None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_asks_for_one_thing(
    words: list[str], method: str, path: str, body: Any, contract: Contract, replication: Run
) -> None:
    contract.play(f"{method} {path}", Reply({"some": "thing"}))
    done = replication(*words)
    assert done.code == 0, done
    assert contract.changes() == [(method, path, body)]
    assert contract.seen[-1].token == "t"


def test_a_change_tells_its_warnings_apart_from_what_it_came_to(
    contract: Contract, replication: Run
) -> None:
    contract.play(f"POST {PRIMARY}/enable", WARNED)
    done = replication("enable-primary")
    assert done.out == "Success! This cluster is a primary.\n"
    assert done.err == "Warning: This cluster is being changed.\n"


def test_a_change_as_json_is_the_servers_envelope(contract: Contract, replication: Run) -> None:
    contract.play(f"POST {PRIMARY}/demote", Reply({"last_wal": 27}, warnings=("w",)))
    told = json.loads(replication("demote", "-yes", "-format=json").out)
    assert (told["data"], told["warnings"]) == ({"last_wal": 27}, ["w"])


def test_demote_tells_what_a_successor_must_have(contract: Contract, replication: Run) -> None:
    contract.play(f"POST {PRIMARY}/demote", Reply({"last_wal": 27}))
    assert replication("demote", "-yes").out.endswith("\n\nlast_wal    27\n")


def test_a_token_goes_into_a_file_by_its_field(contract: Contract, replication: Run) -> None:
    wrap = {"token": "eyJ", "accessor": "a", "ttl": 1800, "creation_time": "t"}
    contract.play(f"POST {PRIMARY}/secondary-token", Reply(wrap_info=wrap))
    assert replication("secondary-token", "-field=wrapping_token", "osaka").out == "eyJ"
    assert "wrapping_token_ttl:              30m" in replication("secondary-token", "osaka").out


def test_a_refusal_of_the_server_is_exit_code_2(contract: Contract, replication: Run) -> None:
    refused = Reply(status=400, errors=("this cluster is a secondary: promote it",))
    contract.play(f"POST {PRIMARY}/enable", refused)
    done = replication("enable-primary")
    assert done.code == 2
    assert "this cluster is a secondary: promote it" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["secondary-token", "a/b"],
        ["revoke", "-yes", "../.."],
        ["revoke", "-yes", "a\n"],
        ["filter", "read", "x" * 129],
        ["filter", "write", "-a", "p/"],
        ["filter", "write", "osaka", ""],
        ["filter", "delete", "-yes", ""],
        ["secondary-token", "-policy-ceiling=", "osaka"],
        ["secondary-token", "-policy-ceiling=a,,b", "osaka"],
        ["update-primary", "-primary-client-cert=/nowhere", "TOKEN"],
        ["update-primary", "-primary-client-key=/nowhere", "TOKEN"],
        ["quarantine", "discard", "-yes", "a?b"],
        ["update-primary"],
        ["update-primary", "-addrs=a", "TOKEN"],
        ["update-primary", "-addrs=,"],
        ["disable", "both"],
        ["promote", "-yes", "-timeout=x"],
        ["promote", "-yes", "-timeout=-1s"],
        ["enable-secondary", "-yes", ""],
        ["enable-secondary", "-yes", "-ca-file=/nowhere", "TOKEN"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_found_before_anything_is_asked(
    words: list[str], contract: Contract, replication: Run
) -> None:
    assert replication(*words).code == 1
    assert contract.changes() == []


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["generate-public-key"], f"POST {SECONDARY}/generate-public-key"),
        (["secondary-token", "osaka"], f"POST {PRIMARY}/secondary-token"),
        (["filter", "read", "osaka"], f"GET {PRIMARY}/paths-filter/osaka"),
        (["quarantine", "list"], f"GET {QUARANTINE}"),
        (["quarantine", "read", ENTRY], f"GET {QUARANTINE}/{ENTRY}"),
        (["status"], "GET sys/replication/status"),
        (["watch"], f"GET {PRIMARY.rpartition('/')[0]}/status"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_empty_answer_where_one_is_needed_is_told(
    words: list[str], call: str, contract: Contract, replication: Run
) -> None:
    contract.play(call, Reply(status=204))
    done = replication(*words)
    assert done.code == 2
    assert "the server's answer is empty" in done.err


# Tokens and certificates


def test_a_token_from_standard_input_is_shown_nowhere(
    contract: Contract, replication: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract.play(f"POST {SECONDARY}/update-primary", WARNED)
    typed(f"{CANARY}\n", monkeypatch)
    done = replication("update-primary", "-")
    assert contract.changes()[0][2] == {"token": CANARY}
    assert CANARY not in done.out + done.err


def test_an_empty_standard_input_does_not_detach(
    contract: Contract, replication: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("", monkeypatch)
    assert replication("update-primary", "-").code == 1
    assert contract.changes() == []


def test_a_ca_is_read_here_and_a_key_beside_it_stays_here(
    contract: Contract, replication: Run, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path, ("p.test",))
    both = tmp_path / "both.pem"
    both.write_text(made.key.read_text() + made.ca.read_text() + made.certificate.read_text())
    contract.play(f"POST {SECONDARY}/enable", WARNED)
    replication("enable-secondary", "-yes", "-no-wait", f"-ca-file={both}", "TOKEN")
    sent = contract.changes()[0][2]["ca_cert"]
    assert sent == made.ca.read_text() + made.certificate.read_text()
    assert "PRIVATE" not in sent


def test_a_certificate_for_the_primary_goes_with_its_key(
    contract: Contract, replication: Run, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path)
    contract.play(f"POST {SECONDARY}/update-primary", WARNED)
    both = tmp_path / "both.pem"
    both.write_text(made.certificate.read_text() + made.key.read_text())
    words = (f"-primary-client-cert={both}", f"-primary-client-key={both}")
    assert replication("update-primary", *words, "TOKEN").code == 0
    ((_, _, body),) = contract.changes()
    assert body["client_cert_pem"] == made.certificate.read_text()
    assert body["client_key_pem"] == made.key.read_text()


def test_the_authorities_of_a_directory_are_all_taken(
    contract: Contract, replication: Run, tmp_path: Path
) -> None:
    authorities = set()
    for name in ("one", "two"):
        (tmp_path / "made" / name).mkdir(parents=True)
        text = make_certificates(tmp_path / "made" / name).ca.read_text()
        (tmp_path / f"{name}.pem").write_text(text)
        authorities.add(text)
    (tmp_path / "notes.txt").write_text("no certificate")
    contract.play(f"POST {SECONDARY}/update-primary", WARNED)
    assert replication("update-primary", f"-ca-file={tmp_path}", "TOKEN").code == 0
    ((_, _, body),) = contract.changes()
    assert body["ca_cert"].count("BEGIN CERTIFICATE") == 2
    assert all(text in body["ca_cert"] for text in authorities)


@pytest.mark.parametrize("text", ["", ENCRYPTED])
def test_a_file_without_a_key_that_can_be_read_is_no_key(
    text: str, contract: Contract, replication: Run, tmp_path: Path
) -> None:
    made = make_certificates(tmp_path)
    made.key.write_text(text)
    words = (f"-primary-client-cert={made.certificate}", f"-primary-client-key={made.key}")
    done = replication("update-primary", *words, "TOKEN")
    assert (done.code, contract.changes()) == (1, [])
    assert "must hold one private key" in done.err


def test_a_file_without_certificate_is_no_ca(
    contract: Contract, replication: Run, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text(CANARY)
    done = replication("update-primary", f"-ca-file={tmp_path}/key.pem", "TOKEN")
    assert (done.code, contract.seen) == (1, [])
    assert "holds no certificate" in done.err
    assert CANARY not in done.err


# Leaving


@pytest.mark.parametrize(
    ("status", "path", "told"),
    [
        (primary(), f"{PRIMARY}/disable", "The replication set has ended"),
        (secondary(), f"{SECONDARY}/disable", "has left the set"),
        (secondary(mode="bootstrapping"), f"{SECONDARY}/disable", "is given up"),
    ],
)
def test_disable_goes_by_what_the_cluster_is(
    status: dict[str, Any], path: str, told: str, contract: Contract, replication: Run
) -> None:
    contract.status(status)
    contract.play(f"POST {path}", WARNED)
    done = replication("disable", "-yes")
    assert done.code == 0
    assert told in done.out
    assert contract.changes() == [("POST", path, {})]


def test_disable_does_nothing_to_a_cluster_that_is_not_what_was_said(
    contract: Contract, replication: Run
) -> None:
    contract.status(primary())
    done = replication("disable", "-yes", "secondary")
    assert done.code == 2
    assert "this cluster is no secondary but a primary" in done.err
    assert contract.changes() == []


def test_there_is_nothing_to_disable_where_nothing_is_replicated(
    contract: Contract, replication: Run
) -> None:
    contract.status({"mode": "disabled"})
    done = replication("disable", "-yes")
    assert done.code == 2
    assert "replication is disabled on this cluster" in done.err


# Filters and quarantine


def test_the_list_of_filters_has_every_known_secondary(
    contract: Contract, replication: Run
) -> None:
    contract.status(primary())
    contract.play(
        f"GET {PRIMARY}/paths-filter/osaka", Reply({"mode": "deny", "paths": ["a/", "auth/b/"]})
    )
    contract.play(f"GET {PRIMARY}/paths-filter/porto", Reply(status=404, errors=()))
    assert replication("filter", "list").out == (
        "Secondary    Mode          Paths\n"
        "---------    ----          -----\n"
        "osaka        deny          a/ auth/b/\n"
        "porto        everything\n"
    )
    assert json.loads(replication("filter", "list", "-format=json").out) == {
        "osaka": {"mode": "deny", "paths": ["a/", "auth/b/"]},
        "porto": None,
    }


def test_no_filter_means_everything(contract: Contract, replication: Run) -> None:
    contract.play(f"GET {PRIMARY}/paths-filter/osaka", Reply(status=404, errors=()))
    done = replication("filter", "read", "osaka")
    assert done.code == 2
    assert "there is no filter for osaka: it has everything" in done.err


def test_a_filter_written_without_mode_allows(contract: Contract, replication: Run) -> None:
    contract.play(f"POST {PRIMARY}/paths-filter/osaka", Reply(status=204))
    done = replication("filter", "write", "osaka", "a/")
    assert contract.changes()[0][2] == {"mode": "allow", "paths": ["a/"]}
    assert done.out == "Success! The secondary osaka gets only these paths: a/\n"


def test_the_quarantine_is_listed_by_path(contract: Contract, replication: Run) -> None:
    info = {
        "mount": "kv1/",
        "path": "deep/\x1b[31mred\nline",
        "operation": "put",
        "written": "2031-04-02T09:15:07Z",
        "differs": True,
    }
    contract.play(f"GET {QUARANTINE}", Reply({"keys": [ENTRY], "key_info": {ENTRY: info}}))
    row = replication("quarantine", "list").out.splitlines()[-1]
    path = "kv1/deep/\\x1b[31mred line"
    assert row == f"{ENTRY}    {path}    put          2031-04-02T09:15:07Z    true"


def test_an_empty_quarantine_is_good_news(contract: Contract, replication: Run) -> None:
    contract.play(f"GET {QUARANTINE}", Reply({"keys": [], "key_info": {}}))
    done = replication("quarantine", "list")
    assert (done.code, done.out) == (0, "Nothing is in quarantine.\n")


@pytest.mark.parametrize("words", [["read"], ["restore"], ["discard", "-yes"]], ids=" ".join)
def test_an_entry_that_is_not_there_is_named(
    words: list[str], contract: Contract, replication: Run
) -> None:
    for call in (f"GET {QUARANTINE}/{ENTRY}", f"DELETE {QUARANTINE}/{ENTRY}"):
        contract.play(call, Reply(status=404, errors=()))
    contract.play(f"POST {QUARANTINE}/{ENTRY}/restore", Reply(status=404, errors=()))
    done = replication("quarantine", *words, ENTRY)
    assert done.code == 2
    assert f"there is no {ENTRY} in quarantine" in done.err
