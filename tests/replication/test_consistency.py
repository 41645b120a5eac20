"""Reading what was written, on every member of the set: X-Vault-Index and forwarded writes."""

import base64
from collections.abc import Iterator

import pytest

from tests.replication.pair import Pair, replicating_pair, status
from tests.support.undercroft import until


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicating_pair(tmp_path_factory.mktemp("consistency")) as made:
        assert made.primary.request("POST", "secret/data/a", {"data": {"v": 0}}).status == 200
        until(made.caught_up)
        yield made


def index_of(answer: object) -> str:
    headers = {name.lower(): value for name, value in answer.headers.items()}  # type: ignore[attr-defined]
    return headers.get("x-vault-index", "")


def test_conv_20_a_write_answers_with_an_index_and_a_read_without(pair: Pair) -> None:
    assert index_of(pair.primary.request("POST", "secret/data/a", {"data": {"v": 1}}))
    assert not index_of(pair.primary.request("GET", "secret/data/a"))


def test_a_client_reads_at_the_secondary_what_it_wrote_at_the_primary(pair: Pair) -> None:
    for number in range(50):
        wrote = pair.primary.request("POST", "secret/data/b", {"data": {"v": number}})
        read = pair.secondary.request(
            "GET", "secret/data/b", headers={"X-Vault-Index": index_of(wrote)}
        )
        assert read.body["data"]["data"] == {"v": number}


def test_a_client_reads_at_the_secondary_what_it_wrote_there(pair: Pair) -> None:
    for number in range(20):
        wrote = pair.secondary.request("POST", "secret/data/c", {"data": {"v": number}})
        assert wrote.status == 200
        assert wrote.body["warnings"] is None
        assert pair.secondary.request("GET", "secret/data/c").body["data"]["data"] == {"v": number}


def test_conv_20_an_index_that_cannot_be_read_is_refused(pair: Pair) -> None:
    for text in ("nonsense", "AAAA", "a" * 2000, base64.b64encode(b"\x95" + b"x" * 60).decode()):
        read = pair.primary.request("GET", "secret/data/a", headers={"X-Vault-Index": text})
        assert read.status == 400, text


def test_threat_r_19_an_index_that_was_tampered_with_is_refused_at_once(pair: Pair) -> None:
    made = bytearray(
        base64.b64decode(index_of(pair.primary.request("POST", "secret/data/d", {"data": {}})))
    )
    made[-1] ^= 1
    text = base64.b64encode(bytes(made)).decode()
    read = pair.secondary.request("GET", "secret/data/a", headers={"X-Vault-Index": text})
    assert read.status == 400


def test_conv_12_an_index_that_has_not_arrived_yet_is_answered_412_after_a_wait(pair: Pair) -> None:
    with pair.secondary_cut_off():
        wrote = pair.primary.request("POST", "secret/data/e", {"data": {"v": 1}})
        read = pair.secondary.request(
            "GET", "secret/data/a", headers={"X-Vault-Index": index_of(wrote)}
        )
        assert (read.status, read.headers.get("retry-after")) == (412, "1")
    until(lambda: pair.caught_up(), seconds=20)


def test_conv_39_without_its_primary_a_secondary_reads_and_refuses_shared_writes(
    pair: Pair,
) -> None:
    with pair.secondary_cut_off():
        until(
            lambda: pair.secondary.request("POST", "secret/data/f", {"data": {}}).status == 503,
            seconds=20,
        )
        refused = pair.secondary.request("POST", "secret/data/f", {"data": {}})
        assert "the primary cannot be reached" in refused.body["errors"][0]
        assert refused.headers["retry-after"] == "1"
        assert pair.secondary.request("GET", "secret/data/a").status == 200
        assert pair.secondary.request("POST", "cubbyhole/mine", {"v": 1}).status == 204
        assert pair.secondary.request("POST", "auth/token/create", {}).status == 200
    until(lambda: pair.caught_up(), seconds=20)


def test_a_primary_that_falls_silent_is_given_up_and_tried_anew(pair: Pair) -> None:
    """Nothing hangs up, nothing answers: what a broken network looks like."""
    two = pair.secondary
    with pair.secondary_cut_off():
        until(lambda: status(two)["connection_state"] != "ready", seconds=20)
        assert status(two)["state"] == "idle"
        assert status(two)["state_reason"]
    until(lambda: status(two)["connection_state"] == "ready", pair.secondary_server)
