"""What token work costs in one process: microseconds per look-up, create, renew, in batches of 32.

`PYTHONPATH=src python bench/tokens.py`. The real store, on disk, one fsync a batch; no HTTP.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from undercroft.barrier.keyring import Keyring, KeyTerm
from undercroft.engines.auth import token
from undercroft.engines.base import Call, Caller
from undercroft.request.model import Auth, Operation, Request
from undercroft.request.mounts import Mount
from undercroft.request.tokens import TokenStore
from undercroft.storage.store import Store
from undercroft.storage.view import Transaction

NOW_MS = 1_800_000_000_000
# What the handler asks of others, answered at once: only this area's own work is measured.
ROOT_ACL: Any = SimpleNamespace(is_root=True)
TOKENS = TokenStore()
SERVICES: Any = SimpleNamespace(
    tokens=TOKENS, policies=SimpleNamespace(exists=lambda view, name: True)
)
MOUNT = Mount(id=b"t" * 16, path="auth/token/", type="token", accessor="auth_token_1")
BATCH = 32


def measure(name: str, count: int, work: Callable[[int], None]) -> None:
    start = time.perf_counter()
    work(count)
    spent = time.perf_counter() - start
    print(f"{name:28} {spent / count * 1e6:8.2f} µs   {count / spent:10.0f} /s")


def in_batches(store: Store, count: int, step: Callable[[Transaction, int], None]) -> None:
    for start in range(0, count, BATCH):
        batch = store.batch(lambda: NOW_MS)
        for n in range(start, min(start + BATCH, count)):
            tx = batch.transaction()
            step(tx, n)
            batch.accept(tx)
        batch.commit()


def main(count: int) -> None:
    tokens = TOKENS
    with tempfile.TemporaryDirectory() as directory:
        store = Store.open(Path(directory), writable=True)
        store.set_keyring(Keyring((KeyTerm(1, bytes(32), 0),), bytes(32)))
        batch = store.batch(lambda: NOW_MS)
        tx = batch.transaction()
        root = tokens.bootstrap(tx, NOW_MS)
        batch.accept(tx)
        batch.commit()
        made: list[Auth] = []

        handler = token.ENGINE.routes[0].handlers[Operation.UPDATE]

        def create(tx: Transaction, n: int) -> None:
            parent = tokens.lookup(tx, root, NOW_MS)
            assert parent is not None
            request = Request("id", Operation.UPDATE, "auth/token/create", root)
            fields = {"policies": ["app"], "ttl": 3600}
            call = Call(request, MOUNT, tx, NOW_MS, SERVICES, {}, fields, Caller(parent, ROOT_ACL))
            response = handler.apply(call)
            assert response is not None
            assert response.auth is not None
            made.append(response.auth)

        def renew(tx: Transaction, n: int) -> None:
            entry = tokens.lookup(tx, made[n].client_token, NOW_MS)
            assert entry is not None
            tokens.renew(tx, entry, 60, NOW_MS + 1, tokens.limits)

        def revoke(tx: Transaction, n: int) -> None:
            tokens.revoke(tx, made[n].accessor)

        def look_up(token: str) -> Callable[[int], None]:
            def run(times: int) -> None:
                with store.snapshot() as view:
                    for _ in range(times):
                        assert tokens.lookup(view, token, NOW_MS) is not None

            return run

        def handlers_alone(times: int) -> None:
            batch = store.batch(lambda: NOW_MS)
            for n in range(times):
                create(batch.transaction(), n)
            batch.abort()
            made.clear()

        measure("create, the handler alone", count, handlers_alone)
        measure("create a child token", count, lambda n: in_batches(store, n, create))
        measure("look up a root token", count, look_up(root))
        measure("look up a child token", count, look_up(made[0].client_token))
        made_batch = Auth(policies=["app"], token_type="batch")
        with store.snapshot() as view:
            tokens.issue(view, made_batch, MOUNT, NOW_MS, path="auth/x/login")
        measure("look up a batch token", count, look_up(made_batch.client_token))
        measure("renew", count, lambda n: in_batches(store, n, renew))
        measure("revoke", count, lambda n: in_batches(store, n, revoke))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
