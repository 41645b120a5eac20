"""Microseconds of a KV call over a real store, handler alone: no HTTP, token, policy or fsync.

`python -m bench.kv` compares the two layouts of docs/decisions/0006-kv-layout.md: a short newest
payload beside its metadata, or every payload in an entry of its own (a limit of 0 bytes).
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.calls import READ, WRITE, Calls

from undercroft.engines.kv import engine_for, secret
from undercroft.request.mounts import Mount

PAYLOAD = b'{"username":"application","password":"' + b"p" * 48 + b'"}'
BATCH = 64


def mounted(directory: Path, version: str) -> Calls:
    mount = Mount(b"k" * 16, "kv/", "kv", "kv_1", options={"version": version})
    return Calls(directory, engine_for(mount), mount)


def best(work: Callable[[], int], repeat: int = 3) -> float:
    """Microseconds of one of the calls that `work` makes and counts, in its best run."""
    found = []
    for _ in range(repeat):
        start = time.perf_counter()
        count = work()
        found.append((time.perf_counter() - start) / count * 1e6)
    return min(found)


def prepared(calls: Calls, view: Any, path: str) -> Callable[[], Any]:
    """The handler over a call that the pipeline would have made; only the handler is measured."""
    match, request = calls.request(READ, path)
    made: list[Any] = []
    handler = match.route.handlers[READ].apply

    class Stop(Exception):
        pass

    calls.call(match._replace(route=_capturing(match.route, made)), request, view)
    call = made[0]
    return lambda: handler(call)


def _capturing(route: Any, made: list[Any]) -> Any:
    from dataclasses import replace

    from undercroft.engines.base import Handler

    return replace(route, handlers={READ: Handler(lambda call: made.append(call))})


def reads(calls: Calls, paths: list[str]) -> float:
    with calls.store.snapshot() as view:
        handlers = [prepared(calls, view, path) for path in paths]

        def work() -> int:
            for handler in handlers:
                handler()
            return len(handlers)

        return best(work)


def writes(calls: Calls, paths: list[str], body: bytes) -> float:
    """A whole write as the writer does it, in batches, without the wait for the disk."""

    def work() -> int:
        for start in range(0, len(paths), BATCH):
            batch = calls.store.batch(lambda: calls.now_ms)
            for path in paths[start : start + BATCH]:
                match, request = calls.request(WRITE, path, body)
                tx = batch.transaction()
                calls.call(match, request, tx)
                batch.accept(tx)
            batch.commit()
        return len(paths)

    return best(work)


def size_kib(directory: Path) -> int:
    return (directory / "data.mdb").stat().st_blocks // 2


def layout(limit: int, keys: int, versions: int) -> None:
    """One layout's numbers. The mutable constant is the layout's only switch."""
    secret.INLINE_BYTES_MAX = limit  # type: ignore[misc]
    name = f"payloads up to {limit} bytes inline" if limit else "every payload its own entry"
    body = b'{"data":' + PAYLOAD + b"}"
    with tempfile.TemporaryDirectory() as folder:
        calls = mounted(Path(folder), "2")
        paths = [f"data/app/{n}" for n in range(keys)]
        print(f"{name}, {keys} keys")
        print(f"  first write             {once(calls, paths, body):7.2f} µs")
        print(f"  entries, file           {len(calls.names())}, {size_kib(Path(folder))} KiB")
        some = random.Random(1).sample(paths, min(keys, 5_000))
        print(f"  read, one version       {reads(calls, some):7.2f} µs")
        for _ in range(versions):
            once(calls, some[:1_000], body)
        print(f"  write, all versions full{writes(calls, some[:1_000], body):7.2f} µs")
        print(f"  read, all versions full {reads(calls, some[:1_000]):7.2f} µs")
        calls.close()


def once(calls: Calls, paths: list[str], body: bytes) -> float:
    start = time.perf_counter()
    for at in range(0, len(paths), BATCH):
        batch = calls.store.batch(lambda: calls.now_ms)
        for path in paths[at : at + BATCH]:
            match, request = calls.request(WRITE, path, body)
            tx = batch.transaction()
            calls.call(match, request, tx)
            batch.accept(tx)
        batch.commit()
    return (time.perf_counter() - start) / len(paths) * 1e6


def version_1(keys: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        calls = mounted(Path(folder), "1")
        paths = [f"app/{n}" for n in range(keys)]
        print(f"KV v1, {keys} keys")
        print(f"  write                   {once(calls, paths, PAYLOAD):7.2f} µs")
        print(f"  read                    {reads(calls, paths[:5_000]):7.2f} µs")
        calls.close()


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    chosen = secret.INLINE_BYTES_MAX
    version_1(keys)
    layout(chosen, keys, 11)
    layout(0, keys, 11)


if __name__ == "__main__":
    main()
