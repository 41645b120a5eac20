"""Sealed, open and back: key shares, what a seal takes away, rotation, root tokens."""

import os
import signal
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.memory import holders
from tests.support.undercroft import (
    Client,
    Undercroft,
    disk_server,
    free_port,
    restart,
    start,
    until,
    write_config,
)
from undercroft.barrier import shamir
from undercroft.barrier.keyring import Keyring
from undercroft.barrier.root_generation import decode_root_token
from undercroft.barrier.seal_store import open_keyring, open_root_key, read_config
from undercroft.barrier.shares import parse_share
from undercroft.storage.store import Store

OPEN_WHILE_SEALED = ("sys/health", "sys/init", "sys/seal-status", "sys/leader")
STATIC = """
seal "static" {{
  current_key_id = "one"
  current_key    = "{key}"
}}
"""


def fresh(directory: Path, more: str = "") -> Undercroft:
    """A server on disk that nobody has initialised; the caller ends it."""
    port = free_port()
    server = start([f"-config={write_config(directory, port, more)}"], directory, port)
    until(lambda: server.client.request("GET", "sys/seal-status").status == 200, server)
    return server


def unseal_status(client: Client, **fields: Any) -> dict[str, Any]:
    answer = client.request("PUT", "sys/unseal", fields)
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.body
    return body


def mount_kv(client: Client) -> None:
    kv = {"type": "kv", "options": {"version": "2"}}
    assert client.request("POST", "sys/mounts/secret", kv).status == 204


def write(client: Client, name: str, value: str) -> None:
    assert client.request("POST", f"secret/data/{name}", {"data": {"v": value}}).status == 200


def read(client: Client, name: str) -> str:
    answer = client.request("GET", f"secret/data/{name}")
    assert answer.status == 200, answer
    return str(answer.body["data"]["data"]["v"])


# initialise and unseal


def test_five_shares_are_made_and_any_three_of_them_unseal(tmp_path: Path) -> None:
    server = fresh(tmp_path)
    client = server.client
    try:
        assert client.request("GET", "sys/init").body == {"initialized": False}
        assert client.request("GET", "sys/health").status == 501
        made = client.request("PUT", "sys/init", {"secret_shares": 5, "secret_threshold": 3})
        assert made.status == 200
        keys = made.body["keys"]
        assert len(set(keys)) == 5
        assert [b64decode(k).hex() for k in made.body["keys_base64"]] == keys
        assert client.request("GET", "sys/init").body == {"initialized": True}
        assert client.request("GET", "sys/health").status == 503

        first = unseal_status(client, key=keys[4])
        assert (first["sealed"], first["progress"], first["t"], first["n"]) == (True, 1, 3, 5)
        assert first["nonce"]
        second = unseal_status(client, key=made.body["keys_base64"][1])
        assert (second["progress"], second["nonce"]) == (2, first["nonce"])
        third = unseal_status(client, key=keys[2])
        assert (third["sealed"], third["progress"], third["nonce"]) == (False, 0, "")
        client.token = made.body["root_token"]
        until(lambda: client.request("GET", "auth/token/lookup-self").status == 200, server)
    finally:
        server.kill()


def test_a_server_is_initialised_once(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        again = server.client.request(
            "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}
        )
        assert again.status == 400
        assert again.body["errors"] == ["Vault is already initialized"]


def test_conv_13_a_server_without_keys_is_501_to_health_and_503_to_the_rest(tmp_path: Path) -> None:
    server = fresh(tmp_path)
    client = server.client
    try:
        assert client.request("GET", "sys/health").status == 501
        assert client.request("GET", "sys/init").body == {"initialized": False}
        for path in ("sys/mounts", "secret/data/x", "auth/token/lookup-self", "no/such/mount"):
            answer = client.request("GET", path, token="s.unknown")
            assert (answer.status, answer.body) == (503, {"errors": ["Vault is sealed"]}), path
    finally:
        server.kill()


@pytest.fixture(name="sealed")
def _sealed(tmp_path: Path) -> Any:
    """A server with three shares, sealed."""
    with disk_server(tmp_path, shares=3) as server:
        mount_kv(server.client)
        write(server.client, "kept", "value")
        assert server.client.request("PUT", "sys/seal").status == 204
        yield server


def test_reset_forgets_the_shares_given_so_far(sealed: Undercroft) -> None:
    client, keys = sealed.client, sealed.keys
    assert unseal_status(client, key=keys[0])["progress"] == 1
    assert unseal_status(client, key=keys[1])["progress"] == 2
    cleared = unseal_status(client, reset=True)
    assert (cleared["progress"], cleared["nonce"], cleared["sealed"]) == (0, "", True)
    assert unseal_status(client, key=keys[2])["sealed"] is True  # not the third of anything
    assert client.request("GET", "sys/seal-status").body["progress"] == 1


def test_a_share_given_twice_counts_once(sealed: Undercroft) -> None:
    client, keys = sealed.client, sealed.keys
    for _ in range(4):
        assert unseal_status(client, key=keys[0])["progress"] == 1
    assert unseal_status(client, key=b64decode(keys[0]).hex())["progress"] == 1


def test_a_wrong_share_ends_the_attempt_and_the_right_ones_still_open(sealed: Undercroft) -> None:
    client, keys = sealed.client, sealed.keys
    wrong = bytearray(b64decode(keys[2]))
    wrong[0] ^= 1
    unseal_status(client, key=keys[0])
    unseal_status(client, key=keys[1])
    refused = client.request("PUT", "sys/unseal", {"key": wrong.hex()})
    assert refused.status == 400
    assert wrong.hex() not in str(refused.body)
    status = client.request("GET", "sys/seal-status").body
    assert (status["sealed"], status["progress"]) == (True, 0)
    sealed.unseal()
    assert read(client, "kept") == "value"


@pytest.mark.parametrize("share", ["", "nonsense!", "abcd", 7, None, ["x"]])
def test_what_is_no_share_at_all_is_refused_and_not_counted(
    sealed: Undercroft, share: object
) -> None:
    assert sealed.client.request("PUT", "sys/unseal", {"key": share}).status == 400
    assert sealed.client.request("GET", "sys/seal-status").body["progress"] == 0


# sealed


def test_conv_13_a_sealed_server_answers_503_to_all_but_the_open_endpoints(
    sealed: Undercroft,
) -> None:
    client = sealed.client
    for method, path in (
        ("GET", "secret/data/kept"),
        ("POST", "secret/data/new"),
        ("LIST", "secret/metadata/"),
        ("GET", "auth/token/lookup-self"),
        ("POST", "auth/token/create"),
        ("POST", "auth/userpass/login/ada"),
        ("GET", "cubbyhole/x"),
        ("GET", "sys/mounts"),
        ("GET", "sys/policies/acl/default"),
        ("GET", "sys/key-status"),
        ("PUT", "sys/rotate"),
        ("POST", "sys/wrapping/unwrap"),
        ("GET", "sys/internal/ui/mounts"),
        ("GET", "sys/generate-root-token/attempt"),
        ("GET", "no/such/mount"),
        ("GET", "sys/no-such-route"),
    ):
        for token in ("", client.token, "s.unknown"):
            body: Any = {} if method in ("POST", "PUT") else None
            answer = client.request(method, path, body, token=token)
            assert (answer.status, answer.body) == (503, {"errors": ["Vault is sealed"]}), path


def test_conv_13_a_sealed_server_says_so_where_it_is_asked_about_itself(sealed: Undercroft) -> None:
    answers = {path: sealed.client.request("GET", path, token="") for path in OPEN_WHILE_SEALED}
    assert answers["sys/health"].status == 503
    assert answers["sys/health"].body["sealed"] is True
    assert sealed.client.request("GET", "sys/health?sealedcode=299", token="").status == 299
    assert answers["sys/init"].body == {"initialized": True}
    assert answers["sys/seal-status"].body["sealed"] is True
    assert answers["sys/leader"].status in (200, 503)


def test_a_seal_needs_sudo(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        weak = server.client.request("POST", "auth/token/create", {"policies": ["default"]})
        token = weak.body["auth"]["client_token"]
        assert server.client.request("PUT", "sys/seal", token=token).status == 403
        assert server.client.request("PUT", "sys/seal", token="").status == 403
        assert server.client.request("GET", "sys/health").status == 200


def test_a_sealed_server_stays_sealed_when_its_processes_are_replaced(sealed: Undercroft) -> None:
    before = sealed.children()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: (
            sealed.children().keys() == before.keys()
            and not set(sealed.children().values()) & set(before.values())
        ),
        sealed,
    )
    until(lambda: sealed.client.request("GET", "sys/seal-status").status == 200, sealed)
    assert sealed.client.request("GET", "sys/seal-status").body["sealed"] is True
    assert sealed.client.request("GET", "secret/data/kept").status == 503


def test_a_restarted_server_is_sealed_until_its_shares_are_given(tmp_path: Path) -> None:
    with disk_server(tmp_path, shares=3) as server:
        mount_kv(server.client)
        write(server.client, "kept", "value")
        assert server.stop() == 0
        again = start([f"-config={tmp_path / 'undercroft.hcl'}"], tmp_path, server.client.port)
        server.process = again.process
        until(lambda: server.client.request("GET", "sys/seal-status").status == 200, server)
        assert server.client.request("GET", "secret/data/kept").status == 503
        server.unseal()
        assert read(server.client, "kept") == "value"


# what a seal takes away


def stored_keyring(directory: Path, share: str) -> Keyring:
    """The keyring as the store holds it, opened with the one share."""
    store = Store.open(directory / "data", writable=False)
    with store.snapshot() as view:
        config = read_config(view)
        assert config is not None
        root_key = open_root_key(view, config, shamir.combine([parse_share(share)]))
        keyring = open_keyring(view, root_key).keyring(root_key)
    store.close()
    return keyring


def test_no_process_holds_a_key_any_more_when_seal_has_answered(tmp_path: Path) -> None:
    """Memory of a process that is not dumpable shows itself to root alone: others are refused."""
    with disk_server(tmp_path) as server:
        client = server.client
        mount_kv(client)
        write(client, "canary", "kingfisher-over-still-water")
        assert read(client, "canary") == "kingfisher-over-still-water"
        keyring = stored_keyring(tmp_path, server.keys[0])
        pids = [server.process.pid, *server.children().values()]
        if os.geteuid() != 0:
            with pytest.raises(PermissionError):
                holders(pids[1:], keyring.active.key)
            return
        assert set(holders(pids, keyring.active.key)) == set(pids[1:])  # the search finds it
        assert client.request("PUT", "sys/seal").status == 204
        assert holders(pids, keyring.active.key) == []
        assert holders(pids, keyring.root_key) == []
        assert client.request("GET", "secret/data/canary").status == 503


# static seal


def test_a_static_seal_opens_itself_at_every_start(tmp_path: Path) -> None:
    more = STATIC.format(key=b64encode(os.urandom(32)).decode())
    server = fresh(tmp_path, more)
    client = server.client
    try:
        made = client.request("PUT", "sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
        assert made.status == 200
        assert made.body["keys"] == []
        assert len(made.body["recovery_keys"]) == 1
        client.token = made.body["root_token"]
        until(lambda: client.request("GET", "sys/health").status == 200, server)
        mount_kv(client)
        write(client, "kept", "value")
        server.kill()
        restart(server, tmp_path)  # with no key to give
        until(lambda: client.request("GET", "sys/health").status == 200, server)
        status = client.request("GET", "sys/seal-status").body
        assert (status["type"], status["sealed"], status["recovery_seal"]) == (
            "static",
            False,
            True,
        )
        assert read(client, "kept") == "value"
    finally:
        server.kill()


# rotation


def test_rotation_keeps_old_data_readable_and_encrypts_new_data_under_a_new_term(
    tmp_path: Path,
) -> None:
    with disk_server(tmp_path) as server:
        client = server.client
        mount_kv(client)
        write(client, "old", "before")
        assert client.request("GET", "sys/key-status").body["data"]["term"] == 1
        assert client.request("PUT", "sys/rotate").status == 204
        assert client.request("GET", "sys/key-status").body["data"]["term"] == 2
        write(client, "new", "after")
        terms = stored_keyring(tmp_path, server.keys[0])
        assert terms.active.term == 2
        server.kill()
        restart(server, tmp_path)
        assert (read(client, "old"), read(client, "new")) == ("before", "after")
        assert client.request("GET", "sys/key-status").body["data"]["term"] == 2
        # and no worker kept the old keyring: each of them reads what was written afterwards
        for _ in range(8):
            assert read(client, "new") == "after"


# a root token from a quorum


def generate_root(server: Undercroft, prefix: str, token: str) -> str:
    """The whole way of an operator; the new root token."""
    client = server.client

    def ask(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = client.request(method, f"{prefix}/{path}", body, token=token)
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.body if "started" in answer.body else answer.body["data"]
        return found

    begun = ask("PUT", "attempt", {})
    assert begun["started"] is True
    assert begun["required"] == len(server.keys)
    assert ask("GET", "attempt")["otp"] == ""  # told once
    done: dict[str, Any] = {}
    for number, share in enumerate(server.keys, 1):
        done = ask("PUT", "update", {"key": share, "nonce": begun["nonce"]})
        assert done["progress"] == number
    assert done["complete"] is True
    return decode_root_token(done["encoded_token"], begun["otp"])


def is_root(client: Client, token: str) -> bool:
    looked = client.request("GET", "auth/token/lookup-self", token=token)
    return looked.status == 200 and looked.body["data"]["policies"] == ["root"]


def test_a_quorum_generates_a_root_token_for_who_may_ask(tmp_path: Path) -> None:
    with disk_server(tmp_path, shares=3) as server:
        made = generate_root(server, "sys/generate-root-token", server.client.token)
        assert made != server.client.token
        assert is_root(server.client, made)


def test_a_quorum_generates_a_root_token_without_a_token_where_that_is_configured(
    tmp_path: Path,
) -> None:
    with disk_server(
        tmp_path, 'enable_unauthenticated_access = ["generate-root"]', shares=3
    ) as server:
        assert is_root(server.client, generate_root(server, "sys/generate-root", ""))


def test_threat_seal_02_without_a_token_there_is_no_root_generation(tmp_path: Path) -> None:
    with disk_server(tmp_path) as server:
        for method in ("GET", "PUT", "DELETE"):
            answer = server.client.request(method, "sys/generate-root/attempt", token="")
            assert answer.status >= 400
            assert answer.status < 500
        for method in ("GET", "PUT", "DELETE"):
            answer = server.client.request(method, "sys/generate-root-token/attempt", token="")
            assert answer.status == 403


def test_threat_seal_01_a_wrong_nonce_neither_advances_nor_ends_an_attempt(tmp_path: Path) -> None:
    with disk_server(tmp_path, shares=3) as server:
        client = server.client
        attempt = "sys/generate-root-token/attempt"
        begun = client.request("PUT", attempt, {}).body["data"]
        wrong = {"key": server.keys[0], "nonce": "0" * 36}
        assert client.request("PUT", "sys/generate-root-token/update", wrong).status == 400
        client.request("DELETE", f"{attempt}?nonce={'0' * 36}")
        assert client.request("PUT", attempt, {}).status == 400  # one at a time
        shown = client.request("GET", attempt).body["data"]
        assert (shown["started"], shown["nonce"], shown["progress"]) == (True, begun["nonce"], 0)
