"""The auditor: what an entry says, what it never says, and that nothing goes unrecorded."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.unit.node import NOW_MS, committed, mount, open_store
from undercroft.errors import AuditFailed, InvalidRequest
from undercroft.observe.metrics import Metrics
from undercroft.request.audit import HEADERS_ENTRY, AuditedHeaders, Auditor
from undercroft.request.audit_devices import AuditDevice
from undercroft.request.model import Auth, Operation, RawBody, Request, Response, WrapInfo
from undercroft.storage.keys import AUDIT, LOCAL, SHARED, SYSTEM
from undercroft.storage.store import Store
from undercroft.storage.view import Space

KV = mount("kv/", "kv")
TOKEN_ID = "s.canary-token-id-000000000"
ACCESSOR = "canary-accessor"


def token(**more: Any) -> Any:
    facts = {
        "accessor": ACCESSOR,
        "policies": ("default", "app"),
        "display_name": "userpass-bob",
        "meta": {"username": "bob"},
        "entity_id": "",
        "num_uses": 0,
        "type": "service",
        "ttl_seconds": 3600,
        "created_ms": 1_790_000_000_000,
    }
    return SimpleNamespace(**{**facts, **more})


def request(operation: Operation = Operation.READ, path: str = "kv/app", **more: Any) -> Request:
    facts: dict[str, Any] = {
        "token": TOKEN_ID,
        "remote_address": "10.0.0.7",
        "remote_port": 4711,
    }
    return Request("req-1", operation, path, **{**facts, **more})


class Node:
    """Auditors over one real store; each device writes `<name>.log`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store: Store = open_store(directory / "data")
        self.warnings: list[str] = []
        self.metrics = Metrics()

    def devices(self, **options: dict[str, str]) -> list[AuditDevice]:
        return [
            AuditDevice(
                "file", f"{n}/", options={"file_path": str(self.directory / f"{n}.log"), **given}
            )
            for n, given in options.items()
        ]

    def auditor(self, **options: dict[str, str]) -> Auditor:
        auditor = Auditor(
            self.devices(**(options or {"main": {}})),
            data_directory=self.directory / "data",
            metrics=self.metrics,
            warn=self.warnings.append,
        )
        with committed(self.store) as tx:
            auditor.ensure_salts(tx)
        auditor.activate()
        self.refresh(auditor)
        return auditor

    def refresh(self, auditor: Auditor) -> None:
        with self.store.snapshot() as view:
            auditor.refresh(view)

    def text(self, name: str = "main") -> str:
        return (self.directory / f"{name}.log").read_text()

    def lines(self, name: str = "main") -> list[Any]:
        return [json.loads(line) for line in self.text(name).splitlines()]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.store.close()


def test_a_read_makes_a_request_and_a_response_line_with_vaults_fields(node: Node) -> None:
    auditor = node.auditor()
    asked = request(query={"version": "3"})
    answer = Response({"data": {"password": "canary", "n": 1}, "at": "2024-01-01T00:00:00Z"})
    auditor.exchange(asked, KV, token(), answer, NOW_MS)
    first, second = node.lines()

    def hashed(text: str) -> str | None:
        return auditor.hash("main/", text)

    auth = {
        "client_token": hashed(TOKEN_ID),
        "accessor": hashed(ACCESSOR),
        "display_name": "userpass-bob",
        "policies": ["default", "app"],
        "token_policies": ["default", "app"],
        "policy_results": {"allowed": True},
        "metadata": {"username": "bob"},
        "token_type": "service",
        "token_ttl": 3600,
        "token_issue_time": "2026-09-21T14:13:20Z",
    }
    sent = {
        "id": "req-1",
        "operation": "read",
        "mount_point": "kv/",
        "mount_type": "kv",
        "mount_accessor": "kv",
        "mount_class": "secret",
        "client_token": hashed(TOKEN_ID),
        "client_token_accessor": hashed(ACCESSOR),
        "namespace": {"id": "root"},
        "path": "kv/app",
        "data": {"version": hashed("3")},
        "remote_address": "10.0.0.7",
        "remote_port": 4711,
    }
    time = "2026-09-21T14:13:20.123Z"
    assert first == {"time": time, "type": "request", "auth": auth, "request": sent}
    assert second == {
        "time": time,
        "type": "response",
        "auth": auth,
        "request": sent,
        "response": {
            "mount_point": "kv/",
            "mount_type": "kv",
            "mount_accessor": "kv",
            "mount_class": "secret",
            "data": {
                "data": {"password": hashed("canary"), "n": 1},
                "at": "2024-01-01T00:00:00Z",
            },
        },
    }


def test_request_and_response_apart_say_the_same_as_an_exchange(node: Node) -> None:
    auditor = node.auditor()
    asked, answer = request(Operation.UPDATE, body=b'{"a":"b"}'), Response({"v": 1})
    auditor.request(asked, KV, token(), NOW_MS)
    auditor.response(asked, KV, token(), answer, NOW_MS)
    apart = node.text()
    auditor.exchange(asked, KV, token(), answer, NOW_MS)
    assert node.text() == apart * 2


def test_threat_aud_01_no_secret_of_any_field_is_in_a_hashed_entry(node: Node) -> None:
    with committed(node.store) as tx:
        headers = AuditedHeaders({"x-secret": True})
        Space(tx, SHARED, SYSTEM).write(HEADERS_ENTRY, headers)
    auditor = node.auditor()
    body = b'{"p":"canary-1","l":["canary-2",{"o":"canary-3"}],"n":{"x":"canary-4"}}'
    asked = request(
        Operation.UPDATE,
        body=body,
        query={"q": "canary-5"},
        headers={"x-secret": "canary-6", "x-other": "canary-7"},
        wrap_ttl_seconds=60,
    )
    answers = [
        Response(msgspec.Raw(body)),
        Response({"b": b"canary-8", "k": ["canary-9"]}),
        Response(auth=Auth(client_token="canary-10", accessor="canary-11", display_name="bob")),
        Response(wrap_info=WrapInfo("canary-12", "canary-13", 60, "now", "p", "canary-14")),
        Response(raw=RawBody(200, "text/plain", b"canary-15")),
        Response(headers={"X-Some": "canary-16"}),
        None,
    ]
    for answer in answers:
        for who in (token(), token(accessor="", type="batch"), None):
            auditor.exchange(asked, KV, who, answer, NOW_MS)
            auditor.request(asked, KV, who, NOW_MS)
            auditor.response(asked, KV, who, answer, NOW_MS)
    auditor.exchange(asked, None, None, None, NOW_MS, error="permission denied")
    assert len(node.lines()) == 4 * 3 * 7 + 2
    assert "canary" not in node.text()
    assert "canary" not in repr(vars(auditor)) + repr(asked) + repr(answers)


def test_threat_aud_01_what_is_kept_of_a_caller_holds_no_token(node: Node) -> None:
    auditor = node.auditor()
    auditor.exchange(request(), KV, token(), None, NOW_MS)
    form = auditor._devices[0].format
    assert form is not None
    ((_, parts),) = form._callers.values()
    assert TOKEN_ID.encode() not in parts.auth + parts.request


def test_threat_aud_03_a_raw_device_does_not_make_another_one_talk(node: Node) -> None:
    auditor = node.auditor(first={}, raw={"log_raw": "true"}, last={})
    asked = request(Operation.UPDATE, body=b'{"p":"canary-1"}')
    auditor.exchange(asked, KV, token(), Response({"o": {"p": "canary-2"}}), NOW_MS)
    assert "canary" not in node.text("first") + node.text("last")
    first, second = node.lines("raw")
    assert first["request"]["data"] == {"p": "canary-1"}
    assert first["auth"]["client_token"] == TOKEN_ID
    assert second["response"]["data"] == {"o": {"p": "canary-2"}}
    assert node.lines("first") != node.lines("last")  # each has its own salt


def test_hmac_accessor_false_shows_accessors_and_hides_tokens(node: Node) -> None:
    auditor = node.auditor(main={"hmac_accessor": "false"})
    answer = Response(auth=Auth(client_token="canary-new", accessor="acc-new"))
    auditor.exchange(request(), KV, token(), answer, NOW_MS)
    second = node.lines()[1]
    assert second["auth"]["accessor"] == ACCESSOR
    assert second["request"]["client_token_accessor"] == ACCESSOR
    assert second["response"]["auth"]["accessor"] == "acc-new"
    assert "canary-new" not in node.text()
    assert TOKEN_ID not in node.text()


def test_keys_that_a_mount_declares_are_shown_each_on_its_side(node: Node) -> None:
    auditor = node.auditor()
    open_kv = mount(
        "open/", "kv", audit_non_hmac_request_keys=["a"], audit_non_hmac_response_keys=["b"]
    )
    asked = request(Operation.UPDATE, "open/x", body=b'{"a":"in-a","b":"in-b"}')
    auditor.exchange(asked, open_kv, token(), Response({"a": "out-a", "b": "out-b"}), NOW_MS)
    second = node.lines()[1]
    assert second["request"]["data"] == {"a": "in-a", "b": auditor.hash("main/", "in-b")}
    assert second["response"]["data"] == {"a": auditor.hash("main/", "out-a"), "b": "out-b"}


def test_a_mount_that_was_tuned_counts_at_once(node: Node) -> None:
    auditor = node.auditor()
    asked = request(Operation.UPDATE, body=b'{"a":"x"}')
    auditor.request(asked, KV, token(), NOW_MS)
    auditor.request(asked, mount("kv/", "kv", audit_non_hmac_request_keys=["a"]), token(), NOW_MS)
    assert [line["request"]["data"]["a"] == "x" for line in node.lines()] == [False, True]


def test_a_token_that_changed_is_described_anew(node: Node) -> None:
    auditor = node.auditor()
    auditor.request(request(), KV, token(), NOW_MS)
    auditor.request(request(), KV, token(policies=("other",)), NOW_MS)
    assert [line["auth"]["policies"] for line in node.lines()] == [["default", "app"], ["other"]]


def test_two_batch_tokens_are_never_taken_for_each_other(node: Node) -> None:
    auditor = node.auditor()
    same = token(accessor="", type="batch")
    auditor.request(request(token="b.one"), KV, same, NOW_MS)
    auditor.request(request(token="b.two"), KV, same, NOW_MS)
    sent = [line["request"]["client_token"] for line in node.lines()]
    assert sent == [auditor.hash("main/", "b.one"), auditor.hash("main/", "b.two")]


def test_elided_lists_tell_how_many_and_other_answers_stay_whole(node: Node) -> None:
    auditor = node.auditor(main={"elide_list_responses": "true"})
    answer = Response({"keys": ["a", "b"], "key_info": {"a": {}, "b": {}}, "more": "x"})
    auditor.exchange(request(Operation.LIST), KV, token(), answer, NOW_MS)
    auditor.exchange(request(Operation.READ), KV, token(), answer, NOW_MS)
    listed, read = (line["response"]["data"] for line in node.lines()[1::2])
    assert (listed["keys"], listed["key_info"]) == (2, 2)
    assert len(read["keys"]) == 2


def test_a_prefix_stands_before_every_line(node: Node) -> None:
    node.auditor(main={"prefix": "@cee: "}).exchange(request(), KV, token(), None, NOW_MS)
    lines = node.text().splitlines()
    assert [line.startswith('@cee: {"time"') for line in lines] == [True, True]


def test_a_refusal_is_recorded_with_its_reason_and_the_tokens_hash(node: Node) -> None:
    auditor = node.auditor()
    denied = "1 error occurred:\n\t* permission denied\n\n"
    auditor.exchange(request(), KV, token(), None, NOW_MS, error=denied)
    auditor.exchange(request(token="canary"), KV, None, None, NOW_MS, error="permission denied")
    _, known, _, unknown = node.lines()
    assert known["error"] == denied
    assert known["auth"]["policy_results"] == {"allowed": False}
    assert known["response"]["data"] == {"error": auditor.hash("main/", denied)}
    assert unknown["auth"] == {"token_type": "default"}
    assert unknown["request"]["client_token"] == auditor.hash("main/", "canary")


def test_an_open_route_without_a_token_is_recorded_as_allowed(node: Node) -> None:
    node.auditor().exchange(request(token=""), KV, None, None, NOW_MS)
    assert node.lines()[0]["auth"] == {"token_type": "default", "policy_results": {"allowed": True}}
    assert "client_token" not in node.lines()[0]["request"]


@pytest.mark.parametrize("path", ["sys/health", "sys/seal-status", "sys/leader"])
def test_what_load_balancers_ask_is_not_recorded(node: Node, path: str) -> None:
    auditor = node.auditor()
    auditor.exchange(request(path=path), KV, None, None, NOW_MS)
    auditor.request(request(path=path), KV, None, NOW_MS)
    auditor.response(request(path=path), KV, None, None, NOW_MS)
    assert node.text() == ""


def test_threat_aud_07_a_malformed_body_is_recorded_as_its_hash(node: Node) -> None:
    auditor = node.auditor(main={}, raw={"log_raw": "true"})
    for body in (b'{"p": canary', b'["canary"]', b'"canary"', b"\xffcanary"):
        asked = request(Operation.UPDATE, body=body)
        auditor.exchange(asked, KV, token(), None, NOW_MS, error="failed to parse JSON input")
    assert "canary-" not in node.text().replace(ACCESSOR, "")
    assert "canary" not in node.text()
    assert node.lines()[1]["request"]["data"]["body"].startswith("hmac-sha256:")
    assert len(node.lines("raw")) == 8


def test_threat_aud_11_no_field_can_end_a_line_or_forge_one(node: Node) -> None:
    forged = '\n{"time":"2026-01-01T00:00:00Z","type":"request","auth":{}}\n'
    auditor = node.auditor(main={}, raw={"log_raw": "true"})
    with committed(node.store) as tx:
        Space(tx, SHARED, SYSTEM).write(HEADERS_ENTRY, AuditedHeaders({"x-a": False}))
    node.refresh(auditor)
    pretty = json.dumps({"a": {"type": "forged", "x": forged}}, indent=1).encode()
    asked = request(
        Operation.UPDATE,
        f"kv/{forged}",
        body=pretty,
        headers={"x-a": forged},
        query={forged: forged},
        remote_address=forged,
    )
    who = token(display_name=forged, meta={forged: forged}, policies=(forged,))
    answers = [
        Response(msgspec.Raw(pretty), warnings=[forged], headers={forged: forged}),
        Response({forged: msgspec.Raw(pretty)}, lease_id=forged),
    ]
    odd = mount("kv/", forged)
    for answer in answers:
        auditor.exchange(asked, odd, who, answer, NOW_MS)
    auditor.exchange(asked, odd, who, None, NOW_MS, error=forged)
    for name in ("main", "raw"):
        assert [line["type"] for line in node.lines(name)] == ["request", "response"] * 3
        assert "\r" not in node.text(name)


def fail_with_enospc(auditor: Auditor, index: int) -> None:
    """From now on the device writes to a full disk."""
    sink: Any = auditor._devices[index].sink
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, sink._fd)
    os.close(full)


def test_threat_aud_11_when_no_device_can_record_the_request_fails(node: Node) -> None:
    auditor = node.auditor(one={}, two={})
    fail_with_enospc(auditor, 0)
    fail_with_enospc(auditor, 1)
    for record in (auditor.exchange, auditor.response):
        with pytest.raises(AuditFailed, match="internal error"):
            record(request(), KV, token(), None, NOW_MS)
    with pytest.raises(AuditFailed):
        auditor.request(request(), KV, token(), NOW_MS)
    assert node.metrics.value("vault.audit.log_request_failure") == 1
    assert node.metrics.value("vault.audit.log_response_failure") == 2
    assert node.metrics.value("undercroft.audit.device_failures") == 6


def test_one_device_that_works_is_enough_and_the_other_is_reported_once(node: Node) -> None:
    auditor = node.auditor(one={}, two={})
    fail_with_enospc(auditor, 0)
    for _ in range(3):
        auditor.exchange(request(), KV, token(), None, NOW_MS)
    assert len(node.lines("two")) == 6
    assert node.warnings == ['audit device "one/" fails: No space left on device']
    assert node.metrics.value("undercroft.audit.device_failures") == 3
    auditor.reopen()
    auditor.exchange(request(), KV, token(), None, NOW_MS)
    assert node.warnings[1:] == ['audit device "one/" works again']
    assert len(node.lines("one")) == 2


def test_threat_aud_11_without_its_salts_an_unsealed_node_serves_nothing(node: Node) -> None:
    auditor = Auditor(node.devices(new={}), warn=node.warnings.append)
    auditor.activate()
    node.refresh(auditor)
    with pytest.raises(AuditFailed):
        auditor.exchange(request(), KV, token(), None, NOW_MS)
    with pytest.raises(AuditFailed):
        auditor.hash("new/", "x")
    with committed(node.store) as tx:
        auditor.ensure_salts(tx)
    node.refresh(auditor)
    auditor.exchange(request(), KV, token(), None, NOW_MS)
    assert len(node.lines("new")) == 2


def test_sealed_there_is_no_auditing_and_unsealed_the_salt_is_the_same(node: Node) -> None:
    auditor = node.auditor()
    before = auditor.hash("main/", "x")
    auditor.forget()
    assert not auditor.active
    auditor.activate()
    node.refresh(auditor)
    assert auditor.active
    assert auditor.hash("main/", "x") == before


def test_salts_are_local_and_stay_and_each_device_has_its_own(node: Node) -> None:
    auditor = node.auditor(one={}, two={})
    with node.store.snapshot() as view:
        keys = list(view.keys(LOCAL + AUDIT))
        salts = {view.get(key) for key in keys}
    assert keys == [LOCAL + AUDIT + b"audit/one/salt", LOCAL + AUDIT + b"audit/two/salt"]
    assert len(salts) == 2
    with committed(node.store) as tx:
        auditor.ensure_salts(tx, random=lambda size: bytes(size))
    with node.store.snapshot() as view:
        assert {view.get(key) for key in keys} == salts


def test_headers_are_recorded_once_configured_and_hashed_if_asked(node: Node) -> None:
    auditor = node.auditor()
    asked = request(headers={"x-a": "one", "x-b": "two", "x-c": "three"})
    auditor.request(asked, KV, token(), NOW_MS)
    with committed(node.store) as tx:
        headers = AuditedHeaders({"x-a": False, "x-b": True})
        Space(tx, SHARED, SYSTEM).write(HEADERS_ENTRY, headers)
    node.refresh(auditor)
    auditor.request(asked, KV, token(), NOW_MS)
    first, second = node.lines()
    assert "headers" not in first["request"]
    hashed = auditor.hash("main/", "two")
    assert second["request"]["headers"] == {"x-a": ["one"], "x-b": [hashed]}


def test_without_devices_nothing_is_active() -> None:
    auditor = Auditor()
    auditor.activate()
    assert not auditor.active
    assert auditor.devices == []


def test_a_bad_device_is_refused_at_start(tmp_path: Path) -> None:
    bad = AuditDevice("file", "x/", options={"file_path": str(tmp_path / "a"), "mode": "0777"})
    with pytest.raises(InvalidRequest):
        Auditor([bad])


def test_lines_of_several_processes_never_mix(node: Node) -> None:
    auditor = node.auditor()
    answer = Response({"text": "x" * 3000, "list": list(range(500))})
    children = []
    for worker in range(3):
        pid = os.fork()
        if pid == 0:
            for _ in range(100):
                auditor.exchange(request(path=f"kv/{worker}"), KV, token(), answer, NOW_MS)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    paths = [line["request"]["path"] for line in node.lines()]
    assert {path: paths.count(path) for path in set(paths)} == {f"kv/{w}": 200 for w in range(3)}
