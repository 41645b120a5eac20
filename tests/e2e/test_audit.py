"""The file audit device: what is recorded, what never is, and what happens when it cannot be."""

import contextlib
import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.undercroft import Client, Undercroft, disk_server, free_port, write_config

DEVICE = """
audit "file" "{name}" {{
  options {{
    file_path = "{path}"
  }}
}}
"""
CANARIES = ("canary-value-91", "canary-key-92", "canary-passphrase-93", "canary-meta-94")


def device(path: Path, name: str = "main") -> str:
    return DEVICE.format(name=name, path=path)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def last(path: Path, kind: str, of: str) -> dict[str, Any]:
    return [e for e in entries(path) if e["type"] == kind and e["request"]["path"] == of][-1]


@contextlib.contextmanager
def audited(directory: Path) -> Iterator[tuple[Undercroft, Path]]:
    """A server with one device, KV v2 and a user."""
    log = directory / "audit.log"
    with disk_server(directory, device(log)) as server:
        prepare(server.client)
        yield server, log


def prepare(client: Client) -> None:
    kv = {"type": "kv", "options": {"version": "2"}}
    assert client.request("POST", "sys/mounts/secret", kv).status == 204
    assert client.request("POST", "sys/auth/userpass", {"type": "userpass"}).status == 204
    user = {"password": CANARIES[2], "token_policies": ["default"]}
    assert client.request("POST", "auth/userpass/users/ada", user).status == 204


# what is recorded


def test_a_write_is_recorded_as_request_and_answer(tmp_path: Path) -> None:
    with audited(tmp_path) as (server, log):
        made = server.client.request("POST", "secret/data/app", {"data": {"k": CANARIES[0]}})
        asked = last(log, "request", "secret/data/app")
        told = last(log, "response", "secret/data/app")
        assert asked["request"]["operation"] in ("create", "update")
        assert asked["request"]["data"]["data"]["k"].startswith("hmac-sha256:")
        assert asked["request"]["id"] == told["request"]["id"] == made.body["request_id"]
        assert asked["request"]["mount_type"] == "kv"
        assert asked["request"]["remote_address"] == "127.0.0.1"
        assert asked["auth"]["token_type"] == "service"
        assert told["response"]["data"]["version"] == 1
        assert not told.get("error")


def test_a_read_is_recorded_with_its_answer_hashed(tmp_path: Path) -> None:
    with audited(tmp_path) as (server, log):
        server.client.request("POST", "secret/data/app", {"data": {"k": CANARIES[0]}})
        assert server.client.request("GET", "secret/data/app").status == 200
        told = last(log, "response", "secret/data/app")
        assert told["request"]["operation"] == "read"
        assert told["response"]["data"]["data"]["k"].startswith("hmac-sha256:")


def test_a_denial_is_recorded_with_its_reason(tmp_path: Path) -> None:
    with audited(tmp_path) as (server, log):
        login = server.client.request(
            "POST", "auth/userpass/login/ada", {"password": CANARIES[2]}, token=""
        )
        weak = login.body["auth"]["client_token"]
        assert server.client.request("GET", "secret/data/app", token=weak).status == 403
        denied = last(log, "response", "secret/data/app")
        assert "permission denied" in denied["error"]
        assert denied["auth"]["policies"] == ["default"]
        assert server.client.request("GET", "secret/data/app", token="s.unknown").status == 403
        assert "permission denied" in last(log, "response", "secret/data/app")["error"]


def test_a_login_is_recorded_with_the_token_hashed_whether_it_succeeds_or_fails(
    tmp_path: Path,
) -> None:
    path = "auth/userpass/login/ada"
    with audited(tmp_path) as (server, log):
        login = server.client.request("POST", path, {"password": CANARIES[2]}, token="")
        told = last(log, "response", path)
        assert told["response"]["auth"]["client_token"].startswith("hmac-sha256:")
        assert told["response"]["auth"]["policies"] == ["default"]
        assert told["request"]["data"]["password"].startswith("hmac-sha256:")
        shown = server.client.request(
            "POST", "sys/audit-hash/main", {"input": login.body["auth"]["client_token"]}
        )
        assert shown.body["data"]["hash"] == told["response"]["auth"]["client_token"]
        assert server.client.request("POST", path, {"password": "no"}, token="").status == 400
        assert last(log, "response", path)["error"]


def test_the_device_is_listed(tmp_path: Path) -> None:
    with audited(tmp_path) as (server, log):
        listed = server.client.request("GET", "sys/audit").body["data"]
        assert listed["main/"]["type"] == "file"
        assert listed["main/"]["options"]["file_path"] == str(log)


def test_threat_aud_01_no_secret_is_ever_in_the_file_or_the_log(tmp_path: Path) -> None:
    value, name, password, meta = CANARIES
    with audited(tmp_path) as (server, log):
        client = server.client
        secrets = [client.token, password, value, name, meta]

        def ask(method: str, path: str, body: Any = None, **more: Any) -> Any:
            return client.request(method, path, body, **more).body

        ask("POST", "secret/data/app", {"data": {"v": value, "n": {"deep": [value]}}})
        ask("GET", "secret/data/app")
        ask("PATCH", "secret/data/app", {"data": {"w": value}}, headers=MERGE)
        ask("POST", "secret/metadata/app", {"custom_metadata": {"m": meta}})
        ask("GET", "secret/metadata/app")
        ask("POST", "cubbyhole/mine", {"v": value})
        ask("GET", "cubbyhole/mine")
        login = ask("POST", "auth/userpass/login/ada", {"password": password}, token="")
        ask("POST", "auth/userpass/login/ada", {"password": value}, token="")
        ask("POST", "auth/userpass/users/bob", {"password": password})
        made = ask("POST", "auth/token/create", {"id": name, "meta": {"m": "known"}})
        ask("GET", "auth/token/lookup-self", token=name)
        ask("POST", "auth/token/lookup", {"token": name})
        ask("POST", "auth/token/renew", {"token": name})
        batch = ask("POST", "auth/token/create", {"type": "batch", "policies": "default"})
        ask("GET", "secret/data/app", token=batch["auth"]["client_token"])
        wrapped = ask("GET", "secret/data/app", headers={"X-Vault-Wrap-TTL": "60"})
        token = wrapped["wrap_info"]["token"]
        ask("POST", "sys/wrapping/lookup", {"token": token})
        again = ask("POST", "sys/wrapping/rewrap", {"token": token})["wrap_info"]["token"]
        ask("POST", "sys/wrapping/unwrap", token=again)
        ask("POST", "sys/wrapping/wrap", {"v": value}, headers={"X-Vault-Wrap-TTL": "60"})
        ask("POST", "auth/token/revoke", {"token": name})
        ask("POST", "secret/data/app", f'{{"data": {{"v": "{value}"'.encode())
        ask("POST", "secret/data/app", {"data": value, "other": [{"deep": value}]})
        ask("GET", "secret/data/app", token=value)
        ask("GET", "secret/data/app", headers={"Authorization": f"Bearer {value}"}, token="")
        ask("POST", "no/such/mount", {"v": value})
        secrets += [login["auth"]["client_token"], batch["auth"]["client_token"], token, again]
        secrets += [login["auth"]["accessor"], made["auth"]["accessor"]]
        recorded = log.read_text() + server.log.read_text()
        assert len(entries(log)) > 40
        assert [secret for secret in secrets if secret in recorded] == []


MERGE = {"Content-Type": "application/merge-patch+json"}


# a device that fails


@contextlib.contextmanager
def limited(directory: Path, size: int, more: str) -> Iterator[Undercroft]:
    """A server whose files grow to `size` bytes and no further, as on a file system that is full.

    The limit goes to the workers alone: they write the audit files, the writer the store.
    """
    with disk_server(directory, more) as server:
        prepare(server.client)
        for name, pid in server.children().items():
            if name.startswith("worker"):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))
        yield server


def fill(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.write(b"{}\n" * ((size - file.tell()) // 3 + 1))


LIMIT = 1 << 20


def test_threat_aud_11_what_no_device_records_is_refused_and_has_no_effect(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    with limited(tmp_path, LIMIT, device(log)) as server:
        client = server.client
        assert client.request("POST", "secret/data/app", {"data": {"k": "1"}}).status == 200
        room = log.stat().st_size
        fill(log, LIMIT)
        refused = (
            client.request("POST", "secret/data/app", {"data": {"k": "2"}}),
            client.request("POST", "secret/data/other", {"data": {"k": "2"}}),
            client.request("DELETE", "secret/metadata/app"),
            client.request("POST", "sys/auth/more", {"type": "userpass"}),
            client.request("GET", "secret/data/app"),
            client.request("GET", "secret/data/missing"),
            client.request("GET", "secret/data/app", token=""),
            client.request("POST", "auth/token/create", {}),
            client.request("POST", "auth/userpass/login/ada", {"password": CANARIES[2]}, token=""),
        )
        assert {answer.status for answer in refused} == {500}
        for answer in refused:
            assert answer.body.keys() == {"errors"}
        assert client.request("GET", "sys/health").status == 200
        with log.open("r+b") as file:
            file.truncate(room)  # there is room again: it goes on without a restart
        found = client.request("GET", "secret/data/app")
        assert (found.status, found.body["data"]["data"]) == (200, {"k": "1"})
        assert found.body["data"]["metadata"]["version"] == 1
        assert client.request("GET", "secret/data/other").status == 404
        assert "more/" not in client.request("GET", "sys/auth").body["data"]


def test_one_device_of_two_is_enough_and_the_failing_one_is_told_of(tmp_path: Path) -> None:
    full, good = tmp_path / "full.log", tmp_path / "good.log"
    more = device(full, "full") + device(good, "good")
    with limited(tmp_path, LIMIT, more) as server:
        fill(full, LIMIT)
        client = server.client
        assert client.request("POST", "secret/data/app", {"data": {"k": "1"}}).status == 200
        assert client.request("GET", "secret/data/app").status == 200
        assert last(good, "response", "secret/data/app")["request"]["operation"] == "read"
        assert "secret/data/app" not in full.read_text()
        assert "full/" in server.log.read_text()
        fill(good, LIMIT)
        assert client.request("GET", "secret/data/app").status == 500


def test_lines_of_concurrent_requests_never_mix(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    with disk_server(tmp_path, device(log) + "workers = 3\n") as server:
        prepare(server.client)

        def ask(name: int) -> None:
            for i in range(20):
                body = {"data": {"k": "x" * (i * 400)}}
                assert server.client.request("POST", f"secret/data/{name}", body).status == 200

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [e for e in entries(log) if e["request"]["path"].startswith("secret/data/")]
        assert len(found) == 2 * 4 * 20


def test_a_server_does_not_start_without_its_device(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    config = write_config(tmp_path, free_port(), device(tmp_path / "taken"))
    command = [sys.executable, "-m", "undercroft", "server", f"-config={config}"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert refused.returncode == 1
    assert 'audit device "main/": cannot open the file' in refused.stderr
