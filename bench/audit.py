"""Microseconds that auditing adds to a KV v2 read: both lines, one file device.

PYTHONPATH=src python bench/audit.py [rounds]
"""

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.request.audit import Auditor
from undercroft.request.audit_devices import AuditDevice
from undercroft.request.model import Operation, Request, Response
from undercroft.request.mounts import Mount
from undercroft.storage.store import Store

_BODY = (
    b'{"data":{"username":"app","password":"correct horse battery staple","port":5432},'
    b'"metadata":{"created_time":"2026-01-02T03:04:05.678Z","custom_metadata":null,'
    b'"deletion_time":"","destroyed":false,"version":1}}'
)


def caller() -> Any:
    return SimpleNamespace(
        accessor="0123456789abcdef0123456789abcdef",
        policies=("default", "app"),
        display_name="userpass-app",
        meta={"username": "app"},
        entity_id="",
        num_uses=0,
        type="service",
        ttl_seconds=3600,
        created_ms=1_700_000_000_000,
    )


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "data").mkdir()
        store = Store.open(directory / "data", writable=True, durable=False)
        store.set_keyring(Keyring((KeyTerm(1, bytes(32), 0),), bytes(32)))
        options = {"file_path": str(directory / "audit.log")}
        auditor = Auditor([AuditDevice("file", "file/", options=options)])
        batch = store.batch()
        tx = batch.transaction()
        auditor.ensure_salts(tx)
        batch.accept(tx)
        batch.commit()
        auditor.activate()
        with store.snapshot() as view:
            auditor.refresh(view)
        mount, token = Mount(bytes(15) + b"\x09", "secret/", "kv", "kv_1"), caller()
        request = Request(
            "e3a1f7c2-0000-4000-8000-000000000000",
            Operation.READ,
            "secret/data/app",
            token="s.abcdefghijklmnopqrstuvwx",
            remote_address="10.0.0.7",
            remote_port=40000,
        )
        response = Response(data=msgspec.Raw(_BODY))
        started = time.perf_counter()
        for i in range(rounds):
            auditor.exchange(request, mount, token, response, 1_700_000_000_000 + i)
        spent = time.perf_counter() - started
        print(f"audit of a read: {spent / rounds * 1e6:.2f} µs (both lines, one file device)")
        store.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
