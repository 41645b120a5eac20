"""sys/audit, sys/audit-hash, sys/config/auditing: no device is made by an API."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.node import call_on, committed, open_store
from undercroft.engines.system.audit import (
    ROUTES,
    delete_header,
    disable,
    enable,
    hash_input,
    list_devices,
    list_headers,
    read_header,
    write_header,
)
from undercroft.errors import InvalidRequest, ReadOnly
from undercroft.request.audit import Auditor
from undercroft.request.audit_devices import AuditDevice
from undercroft.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def auditor(tmp_path: Path, store: Store) -> Auditor:
    options = {"file_path": str(tmp_path / "a.log")}
    made = Auditor([AuditDevice("file", "main/", "all of it", options=options)])
    with committed(store) as tx:
        made.ensure_salts(tx)
        made.refresh(tx)
    made.activate()
    return made


def test_devices_are_listed_as_declared(auditor: Auditor, tmp_path: Path) -> None:
    response = list_devices(call_on(audit=auditor))
    assert response.repeat_data
    assert response.data == {
        "main/": {
            "path": "main/",
            "type": "file",
            "description": "all of it",
            "local": False,
            "options": {"file_path": str(tmp_path / "a.log")},
        }
    }


def test_threat_aud_09_no_call_makes_or_removes_a_device(auditor: Auditor) -> None:
    fields = {"type": "file", "options": {"file_path": "/tmp/evil"}}
    with pytest.raises(InvalidRequest, match="cannot enable audit device via API"):
        enable(call_on(audit=auditor, params={"path": "x"}, fields=fields))
    for path in ("main", "main/"):
        with pytest.raises(InvalidRequest, match="configuration-managed"):
            disable(call_on(audit=auditor, params={"path": path}))
    assert disable(call_on(audit=auditor, params={"path": "none"})) is None


def test_audit_hash_answers_what_entries_hold(auditor: Auditor) -> None:
    for path in ("main", "main/"):
        call = call_on(audit=auditor, params={"path": path}, fields={"input": "hello"})
        assert hash_input(call).data == {"hash": auditor.hash("main/", "hello")}


def test_audit_hash_needs_an_input_and_a_device(auditor: Auditor) -> None:
    with pytest.raises(InvalidRequest, match='the "input" parameter is empty'):
        hash_input(call_on(audit=auditor, params={"path": "main"}))
    with pytest.raises(InvalidRequest, match="unknown audit backend") as raised:
        hash_input(call_on(audit=auditor, params={"path": "canary"}, fields={"input": "x"}))
    assert "canary" not in raised.value.message


def test_headers_are_configured_read_listed_and_deleted(store: Store) -> None:
    with committed(store) as tx:
        write_header(call_on(tx, params={"header": "x-b"}, fields={"hmac": True}))
        write_header(call_on(tx, params={"header": "x-a"}))
    with store.snapshot() as view:
        assert list_headers(call_on(view)).data == {
            "headers": {"x-a": {"hmac": False}, "x-b": {"hmac": True}}
        }
        assert read_header(call_on(view, params={"header": "x-b"})).data == {"x-b": {"hmac": True}}
        with pytest.raises(InvalidRequest, match="Could not find header"):
            read_header(call_on(view, params={"header": "x-c"}))
        with pytest.raises(ReadOnly):
            write_header(call_on(view, params={"header": "x-c"}))
    with committed(store) as tx:
        for name in ("x-b", "x-b", "x-none"):
            assert delete_header(call_on(tx, params={"header": name})) is None
    with store.snapshot() as view:
        assert list(list_headers(call_on(view)).data["headers"]) == ["x-a"]


def test_configured_headers_count_from_the_next_request(store: Store, auditor: Auditor) -> None:
    with store.snapshot() as view:
        auditor.refresh(view)
    with committed(store) as tx:
        write_header(call_on(tx, params={"header": "x-a"}))
    with store.snapshot() as view:
        auditor.refresh(view)
    assert auditor._headers == {"x-a": False}


def test_there_is_a_bound_on_headers(store: Store) -> None:
    with committed(store) as tx:
        for i in range(256):
            write_header(call_on(tx, params={"header": f"x-{i}"}))
        with pytest.raises(InvalidRequest, match="256"):
            write_header(call_on(tx, params={"header": "x-more"}))


def test_everything_about_devices_needs_sudo_and_names_are_lower_cased() -> None:
    routes = {route.pattern: route for route in ROUTES}
    assert [p for p, r in routes.items() if not r.sudo] == ["audit-hash/{path*}"]
    assert routes["config/auditing/request-headers/{header}"].lower == ("header",)
