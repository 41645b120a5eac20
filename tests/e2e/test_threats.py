"""Threats that need a whole server to be seen, named as the threat catalogue names them."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.undercroft import Client, Undercroft, disk_server, restart

AUDIT = """
audit "file" "file" {{
  options {{
    file_path = "{path}"
  }}
}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undercroft]:
    directory = Path(tmp_path_factory.mktemp("threats"))
    with disk_server(directory, AUDIT.format(path=directory / "audit.log")) as running:
        kv = {"type": "kv", "options": {"version": "2"}}
        assert running.client.request("POST", "sys/mounts/secret", kv).status == 204
        assert (
            running.client.request("POST", "sys/auth/userpass", {"type": "userpass"}).status == 204
        )
        yield running


@pytest.fixture
def client(server: Undercroft) -> Client:
    return server.client


def raw(client: Client, data: bytes) -> bytes:
    with socket.create_connection((client.host, client.port), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_threat_http_05_without_a_token_every_path_answers_alike(client: Client) -> None:
    answers = set()
    for path in (
        "secret/data/x",
        "secret/nothing/like/this",
        "nowhere",
        "sys/mounts",
        "sys/nothing",
        "auth/token/lookup-self",
        "auth/nowhere/x",
        "cubbyhole/x",
    ):
        for method in ("GET", "POST", "DELETE", "LIST"):
            for token in ("", "s.unknown"):
                answer = client.request(method, path, {} if method == "POST" else None, token=token)
                answers.add((answer.status, json.dumps(answer.body)))
    assert answers == {(403, '{"errors": ["permission denied"]}')}


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/sys/health HTTP/1.1\r\n\r\n",
        b"GET /v1/%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/sys/unseal HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{x}",
        b"POST /v1/secret/data/a HTTP/1.1\r\nHost: a\r\nContent-Length: zz\r\n\r\n",
        b"FOO /v1/sys/health HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_threat_http_06_an_error_names_no_host_path_version_or_code(
    client: Client, data: bytes
) -> None:
    answer = raw(client, data).decode("latin-1").lower()
    assert " 200 " not in answer.partition("\r\n")[0]
    for telling in ("traceback", "file ", ".py", "python", "uvloop", "lmdb", "/tmp", "127.0.0.1"):
        assert telling not in answer
    assert socket.gethostname().lower() not in re.sub(r"host header", "", answer)


def test_threat_http_03_size_and_shape_are_judged_before_the_token(client: Client) -> None:
    huge = b"POST /v1/secret/data/a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
    assert b" 413 " in raw(client, huge)
    deep = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
    assert client.request("POST", "secret/data/a", deep, token="").status == 400


def test_threat_aud_02_headers_and_bodies_of_forwarded_requests_are_not_in_clear(
    server: Undercroft, client: Client
) -> None:
    headers = {"X-Custom": "canary-header", "Authorization": "Bearer canary-bearer"}
    body = {"data": {"password": "canary-body"}}
    client.request("POST", "secret/data/canary", body, headers=headers)
    client.request("GET", "secret/data/canary", headers=headers)
    client.request("POST", "auth/userpass/login/nobody", {"password": "canary-login"}, token="")
    audit = (server.log.parent / "audit.log").read_text()
    log = server.log.read_text()
    assert "secret/data/canary" in audit
    for canary in ("canary-header", "canary-bearer", "canary-body", "canary-login"):
        assert canary not in audit
        assert canary not in log


def test_threat_aud_04_answers_outside_the_envelope_leak_nothing_into_the_audit(
    server: Undercroft, client: Client
) -> None:
    for path in ("sys/metrics?format=prometheus", "sys/internal/specs/openapi", "sys/metrics"):
        assert client.request("GET", path).status == 200
    text = (server.log.parent / "audit.log").read_text()
    assert client.token not in text
    told = [
        entry["response"] for entry in map(json.loads, text.splitlines()) if "response" in entry
    ]
    bodies = [answer["data"]["http_raw_body"] for answer in told if "http_raw_body" in str(answer)]
    assert len(bodies) >= 3
    assert all(re.fullmatch("hmac-sha256:[0-9a-f]{64}", body) for body in bodies)


def test_threat_tok_13_tokens_with_odd_ids_are_revoked_once_and_for_all(client: Client) -> None:
    for number, odd in enumerate(("a:b", "a%2fb", "a/b", "ünïcode", "a b", "a" * 200)):
        made = client.request("POST", "auth/token/create", {"id": f"{odd}{number}", "ttl": "1h"})
        assert made.status == 200, odd
        token = made.body["auth"]["client_token"]
        assert client.request("POST", "auth/token/revoke", {"token": token}).status == 204
        assert client.request("POST", "auth/token/lookup", {"token": token}).status in (403, 404)


def test_threat_seal_12_nothing_over_the_api_names_a_file_or_a_program(client: Client) -> None:
    device = {"type": "file", "options": {"file_path": "/tmp/made-by-api"}}
    assert client.request("PUT", "sys/audit/made", device).status == 400
    for path in ("sys/plugins/catalog/secret/x", "sys/raw/core/audit", "sys/storage/raft/snapshot"):
        assert client.request("PUT", path, {"command": "x"}).status == 404
    assert not Path("/tmp/made-by-api").exists()


def test_threat_http_07_no_handler_ever_sees_the_tokens_headers(client: Client) -> None:
    from undercroft.http.message import HttpRequest
    from undercroft.http.vault import to_request

    headers = {
        b"host": b"a",
        b"x-vault-token": b"canary",
        b"authorization": b"Bearer canary",
        b"cookie": b"canary",
        b"proxy-authorization": b"canary",
        b"accept": b"x",
    }
    request = to_request(HttpRequest("GET", b"/v1/a/b", headers, b"", ("::1", 1)), "id")
    assert request.headers == {"host": "a", "accept": "x"}


def test_metrics_without_a_token_only_where_the_listener_says_so(
    client: Client, tmp_path: Path
) -> None:
    assert client.request("GET", "sys/metrics", token="").status == 403
    with disk_server(tmp_path) as opened:
        config = tmp_path / "undercroft.hcl"
        text = config.read_text().replace(
            "tls_disable     = true",
            "tls_disable = true\n  telemetry {\n    unauthenticated_metrics_access = true\n  }",
        )
        config.write_text(text)
        assert opened.stop() == 0
        restart(opened, tmp_path)
        assert opened.client.request("GET", "sys/metrics", token="").status == 200
        assert opened.client.request("GET", "sys/mounts", token="").status == 403
