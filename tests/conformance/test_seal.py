"""The seal's endpoints beside OpenBao, on servers that stay unsealed.

Init, unseal and seal would take the pair from all other tests: their shapes are held by
`tests/unit/test_system_seal.py`, as OpenBao answered them.
"""

import pytest

from tests.conformance.pair import Pair

# When OpenBao was built; how each stores.
BUILD = {"commit_date", "storage_type"}


def test_seal_status_and_init(pair: Pair) -> None:
    pair.same("GET", "sys/seal-status", token="", status=200, ignore=BUILD)
    pair.same("GET", "sys/init", token="", status=200)
    pair.same("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, status=400)


@pytest.mark.parametrize(
    "body",
    [
        {"secret_shares": 5, "secret_threshold": 1},
        {"secret_shares": 5, "secret_threshold": 6},
        {"secret_shares": 256, "secret_threshold": 5},
        {"secret_shares": 255, "secret_threshold": 256},
        {"secret_shares": 5},
        {},
    ],
)
def test_counts_of_init_out_of_range(pair: Pair, body: dict[str, int]) -> None:
    pair.same("PUT", "sys/init", body, token="", status=400)


@pytest.mark.parametrize("body", [{}, {"key": "zz!"}, {"reset": True}, {"key": "00" * 15}], ids=str)
def test_unseal_of_an_unsealed_server(pair: Pair, body: dict[str, object]) -> None:
    pair.same("POST", "sys/unseal", body, token="", status=400)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unseal_takes_writes_alone(pair: Pair, method: str) -> None:
    # Without a token a wrong verb is 403 here, as on any other path.
    pair.same(method, "sys/unseal", status=405, errors=False)


def test_key_status_and_rotation(pair: Pair) -> None:
    pair.same("GET", "sys/key-status", status=200, ignore={"encryptions", "term"})
    for path in ("sys/rotate", "sys/rotate/keyring"):
        pair.same("POST", path, status=204)
        pair.same("GET", path, status=405, errors=False)
        pair.same("POST", path, token="", status=403)


def test_rules_of_rotation(pair: Pair) -> None:
    pair.same("GET", "sys/rotate/config", status=200)
    for body in (
        {"max_operations": 1},
        {"max_operations": 0},
        {"max_operations": 3865470567},
        {"interval": "1h"},
        {"interval": 1},
    ):
        pair.same("POST", "sys/rotate/config", body, status=400)
    pair.same("POST", "sys/rotate/config", {"interval": "36h"}, status=204)
    pair.same("GET", "sys/rotate/keyring/config", status=200)
    pair.same("POST", "sys/rotate/keyring/config", {"interval": 0}, status=204)
    pair.same("GET", "sys/rotate/config", status=200)


def test_a_root_generation_is_started_shown_and_cancelled(pair: Pair) -> None:
    attempt, update = "sys/generate-root-token/attempt", "sys/generate-root-token/update"
    pair.same("GET", attempt, token="", status=403)
    pair.same("GET", attempt, status=200)
    pair.same("POST", attempt, {"otp": "short"}, status=400)
    pair.same("POST", attempt, status=200)
    # OpenBao adds which namespace it means.
    pair.same("POST", attempt, status=400, errors=False)
    pair.same("GET", attempt, status=200)
    pair.same("POST", update, {"key": "00"}, status=400)
    pair.same("POST", update, {"nonce": "x"}, status=400)
    pair.same("DELETE", attempt, status=204)
    pair.same("DELETE", attempt, status=204)
    pair.same("GET", attempt, status=200)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_the_old_root_generation_is_off(pair: Pair, method: str) -> None:
    pair.same(method, "sys/generate-root/attempt", token="", status=405, errors=False)
    pair.same(method, "sys/generate-root/update", status=405, errors=False)
