"""secondary/enable and update-primary refused, sentence by sentence.

Whatever is wrong with a token, an address or a certificate is said, and nothing has changed.
"""

import base64
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.tls import tls_server
from tests.replication.clusters import AT, claims_of, errors, ok, token_for
from tests.replication.pair import prepare, status
from tests.support.undercroft import Answer, Client, Undercroft, disk_server, free_port

NAMES = (f"perth{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    """A primary."""
    with disk_server(tmp_path_factory.mktemp("first")) as server:
        prepare(server.client)
        ok(server.client, "primary/enable")
        yield server


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    """In no set, but for what a test does with it."""
    with disk_server(tmp_path_factory.mktemp("other")) as server:
        yield server


def disabled(server: Undercroft) -> Client:
    if status(server.client)["mode"] == "secondary":
        ok(server.client, "secondary/disable")
    return server.client


@pytest.fixture
def single(other: Undercroft) -> Iterator[Client]:
    """Disabled, with data that a wipe would take; and so it is afterwards."""
    client = disabled(other)
    client.request("POST", "sys/mounts/kept", {"type": "kv"})
    client.request("POST", "kept/a", {"v": 1})
    yield client
    assert status(client) == {"mode": "disabled"}
    assert client.request("GET", "kept/a").body["data"] == {"v": 1}


@pytest.fixture
def detached(other: Undercroft) -> Iterator[Client]:
    """A secondary without a primary; and so it is afterwards."""
    client = disabled(other)
    ok(client, "primary/enable")
    ok(client, "primary/demote")
    before = status(client)
    yield client
    after = status(client)
    for name in ("mode", "cluster_id", "secondary_id", "known_primary_cluster_addrs", "epoch"):
        assert after[name] == before[name]


def enable(client: Client, **body: Any) -> Answer:
    return client.request("POST", f"{AT}/secondary/enable", body)


def update(client: Client, **body: Any) -> Answer:
    return client.request("POST", f"{AT}/secondary/update-primary", body)


def altered(token: str, **changed: Any) -> str:
    """With other claims than it was signed with."""
    header, _, signature = token.split(".")
    text = json.dumps(claims_of(token) | changed).encode()
    return ".".join((header, base64.urlsafe_b64encode(text).decode().rstrip("="), signature))


# the token


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "missing token"),
        (None, "missing token"),
        ("nonsense", "no activation token"),
        ("a.b.c", "no activation token"),
        ("ucr1.AAAA", "no activation token"),
        ("ucr1.", "no activation token"),
    ],
)
def test_what_is_no_token_is_refused(single: Client, token: str | None, words: str) -> None:
    answer = enable(single, token=token)
    assert answer.status == 400, answer
    assert words in errors(answer)


def test_enable_without_any_field_misses_its_token(single: Client) -> None:
    assert "missing token" in errors(single.request("POST", f"{AT}/secondary/enable"))


def test_a_token_for_the_other_type_says_which(single: Client, first: Undercroft) -> None:
    token = token_for(first.client, next(NAMES))
    answer = enable(single, token=altered(token, rtype="dr"))
    assert answer.status == 400
    assert "for dr replication" in errors(answer)


def test_each_fault_of_a_token_has_a_text_of_its_own(single: Client, first: Undercroft) -> None:
    used, good = (token_for(first.client, next(NAMES)) for _ in range(2))
    assert first.client.request("POST", "sys/wrapping/unwrap", token=used).status == 200
    faults = {
        "used": enable(single, token=used),
        "signature": enable(single, token=altered(good, iat=7)),
        "type": enable(single, token=altered(good, rtype="dr")),
        "none": enable(single, token="nonsense"),
        "missing": enable(single),
    }
    assert {answer.status for answer in faults.values()} == {400}
    assert len({errors(answer) for answer in faults.values()}) == len(faults)
    assert "intercepted" in errors(faults["used"])
    assert "audit log" in errors(faults["used"])
    assert "signature" in errors(faults["signature"])
    assert "intercepted" not in errors(faults["signature"])
    # An altered token has not used up the good one.
    assert first.client.request("POST", "sys/wrapping/unwrap", token=good).status == 200


def test_a_token_sealed_for_a_key_that_is_not_held_any_more(
    single: Client, first: Undercroft
) -> None:
    key = ok(single, "secondary/generate-public-key")["data"]["secondary_public_key"]
    body = {"id": next(NAMES), "secondary_public_key": key}
    token = ok(first.client, "primary/secondary-token", body)["data"]["token"]
    ok(single, "secondary/generate-public-key")
    answer = enable(single, token=token)
    assert answer.status == 400
    assert "generate a public key and a token again" in errors(answer)


def test_a_pending_key_is_gone_after_a_seal(
    single: Client, other: Undercroft, first: Undercroft
) -> None:
    key = ok(single, "secondary/generate-public-key")["data"]["secondary_public_key"]
    body = {"id": next(NAMES), "secondary_public_key": key}
    token = ok(first.client, "primary/secondary-token", body)["data"]["token"]
    assert single.request("PUT", "sys/seal").status == 204
    other.unseal()
    answer = enable(single, token=token)
    assert answer.status == 400
    assert "generate a public key and a token again" in errors(answer)


def test_a_token_of_this_cluster_itself_leads_nowhere(other: Undercroft) -> None:
    client = disabled(other)
    key = ok(client, "secondary/generate-public-key")["data"]["secondary_public_key"]
    ok(client, "primary/enable")
    body = {"id": "myself", "secondary_public_key": key}
    token = ok(client, "primary/secondary-token", body)["data"]["token"]
    ok(client, "primary/demote")
    answer = update(client, token=token)
    assert answer.status == 400, answer
    assert "this cluster's own" in errors(answer)
    assert status(client)["secondary_id"] == ""
    ok(client, "secondary/disable")
    answer = enable(client, token=token)
    assert answer.status == 400, answer
    assert "this cluster's own" in errors(answer)
    assert status(client) == {"mode": "disabled"}


def test_a_token_of_another_set_leads_to_enable_alone(detached: Client, first: Undercroft) -> None:
    answer = update(detached, token=token_for(first.client, next(NAMES)))
    assert answer.status == 400
    for words in ("cluster_id", "secondary/enable", "wipe"):
        assert words in errors(answer)


# the way to the primary


def test_a_bare_wrapping_token_needs_the_primarys_address(
    single: Client, first: Undercroft
) -> None:
    token = claims_of(token_for(first.client, next(NAMES)))["jti"]
    answer = enable(single, token=token)
    assert answer.status == 400
    assert "primary_api_addr" in errors(answer)


@pytest.mark.parametrize(
    "address", ["10.0.0.7:8200", "ftp://host", "https://", "https://ann@host", "https://host:x"]
)
def test_the_primarys_address_is_a_url(single: Client, first: Undercroft, address: str) -> None:
    token = token_for(first.client, next(NAMES))
    answer = enable(single, token=token, primary_api_addr=address)
    assert answer.status == 400, answer
    assert "primary_api_addr" in errors(answer)


def test_an_address_where_nobody_is_503_with_step_and_address(
    single: Client, first: Undercroft
) -> None:
    token = token_for(first.client, next(NAMES))
    for address, reason in (
        (f"http://127.0.0.1:{free_port()}", "refused"),
        ("http://no-such-host.invalid:8200", ""),
    ):
        answer = enable(single, token=token, primary_api_addr=address)
        assert answer.status == 503, answer
        assert f"the primary's API at {address} cannot be reached" in errors(answer)
        assert reason in errors(answer)
    # It was not used up.
    assert first.client.request("POST", "sys/wrapping/unwrap", token=token).status == 200


def test_what_the_primarys_api_answers_is_passed_on(
    single: Client, first: Undercroft, tmp_path: Path
) -> None:
    token = token_for(first.client, next(NAMES))
    with disk_server(tmp_path) as closed:
        assert closed.client.request("PUT", "sys/seal").status == 204
        address = f"http://127.0.0.1:{closed.client.port}"
        answer = enable(single, token=token, primary_api_addr=address)
    assert answer.status == 400, answer
    for words in ("error unwrapping secondary token", "503", "Vault is sealed"):
        assert words in errors(answer)


def test_a_primary_whose_cluster_port_is_closed_is_503_with_the_address(
    single: Client, tmp_path: Path
) -> None:
    with disk_server(tmp_path) as server:
        nowhere = f"https://127.0.0.1:{free_port()}"
        ok(server.client, "primary/enable", {"primary_cluster_addr": nowhere})
        answer = enable(single, token=token_for(server.client, "osaka"))
    assert answer.status == 503, answer
    assert "cluster port cannot be reached" in errors(answer)
    assert nowhere.removeprefix("https://") in errors(answer)


@pytest.fixture(scope="module")
def behind_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    """A primary whose API has a certificate of a CA that nobody knows."""
    with tls_server(tmp_path_factory.mktemp("tls")) as server:
        ok(server.client, "primary/enable")
        yield server


def test_a_certificate_that_is_not_trusted_is_named(single: Client, behind_tls: Undercroft) -> None:
    assert behind_tls.client.ca_file is not None
    answer = enable(single, token=token_for(behind_tls.client, next(NAMES)))
    assert answer.status == 503, answer
    assert "not trusted" in errors(answer)
    assert "subject" in errors(answer)
    assert "issuer" in errors(answer)
    assert "ca_cert" in errors(answer)


@pytest.mark.parametrize(
    "trust",
    [
        {"ca_file": "/nowhere/ca.pem"},
        {"ca_path": "/nowhere"},
        {"ca_cert": "nonsense"},
        {"client_cert_pem": "nonsense", "client_key_pem": "nonsense"},
        {"client_key_pem": "nonsense"},
    ],
)
def test_trust_that_cannot_be_read_is_refused_by_its_name(
    single: Client, first: Undercroft, behind_tls: Undercroft, trust: dict[str, str]
) -> None:
    for server in (first, behind_tls):
        token = token_for(server.client, next(NAMES))
        answer = enable(single, token=token, **trust)
        assert answer.status == 400, answer
        assert next(iter(trust)) in errors(answer)
        unwrapped = server.client.request("POST", "sys/wrapping/unwrap", token=token)
        assert unwrapped.status == 200  # not used up


# update-primary: which of its three uses


def test_either_a_token_or_addresses(detached: Client, first: Undercroft) -> None:
    token = token_for(first.client, next(NAMES))
    answer = update(detached, token=token, update_primary_addrs="https://10.0.0.7:8201")
    assert answer.status == 400
    assert "either token or update_primary_addrs" in errors(answer)


def test_a_detached_secondary_needs_a_token(detached: Client) -> None:
    answer = update(detached, update_primary_addrs="https://10.0.0.7:8201")
    assert answer.status == 400
    assert "a token is needed" in errors(answer)


def test_forgetting_the_primary_twice_is_no_error(detached: Client) -> None:
    for body in ({}, {"token": ""}, {"token": None}, {"token": "", "update_primary_addrs": []}):
        assert update(detached, **body).status == 200
