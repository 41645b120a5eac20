"""`python -m bench.scale`: what growth costs.

Fills a store with entries and tokens through the storage layer (the keys and structs that the
server itself writes), starts the server on it, and measures: start to ready, memory of all
processes, KV v2 reads per second beside a small store in the same run.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from bench.__main__ import Work, load
from bench.servers import Server, running
from undercroft.barrier.keyring import Keyring
from undercroft.engines.kv.secret import Secret, add_version
from undercroft.engines.kv.settings import Config
from undercroft.request.mounts import MountTable
from undercroft.request.token_entry import TokenEntry, id_key
from undercroft.storage.store import Store
from undercroft.storage.view import Space

_BATCH = 2_000
_SMALL = 10_000  # entries of the store that is compared with

# Reads random keys of the filled ones, so that neither LMDB nor the CPU's caches know the next.
_READ = """
local seeded = false
request = function()
  if not seeded then
    math.randomseed(os.time() + tonumber(tostring({}):sub(-4), 16))
    seeded = true
  end
  return wrk.format("GET", "/v1/secret/data/fill/" .. math.random(0, %d))
end
"""


def fill(store: Store, entries: int, tokens: int) -> None:
    """`entries` KV v2 keys below `secret/fill/`, `tokens` service tokens with a TTL."""
    with store.snapshot() as view:
        mount = MountTable().table(view).mounts["secret/"]
    now = time.time_ns() // 1_000_000
    payload = b'{"a":"' + b"x" * 64 + b'"}'
    for start in range(0, entries, _BATCH):
        batch = store.batch()
        tx = batch.transaction()
        space = Space(tx, mount.keyspace, mount.id)
        for number in range(start, min(start + _BATCH, entries)):
            add_version(space, f"fill/{number}", Secret(), payload, now, Config())
        batch.accept(tx)
        batch.commit()
    for start in range(0, tokens, _BATCH):
        batch = store.batch()
        tx = batch.transaction()
        for _ in range(start, min(start + _BATCH, tokens)):
            accessor = os.urandom(16).hex()
            entry = TokenEntry(
                accessor=accessor,
                policies=("default",),
                path="auth/token/create",
                display_name="token",
                created_ms=now,
                expires_ms=now + 86_400_000,
                ttl_seconds=86_400,
            )
            tx.put(id_key(accessor), msgspec.msgpack.encode(entry), entry.expires_ms)
        batch.accept(tx)
        batch.commit()


def fill_stopped(server: Server, entries: int, tokens: int) -> None:
    """Stop the server and fill its store."""
    server.stop()
    store = unsealed_store(server, server.unseal_key)
    fill(store, entries, tokens)
    store.close()


def unsealed_store(server: Server, key: bytes) -> Store:
    """The stopped server's store, opened with its keyring (one key share)."""
    from undercroft.barrier.seal import SealManager
    from undercroft.config import Seal

    store = Store.open(server.directory / "data", writable=True)
    found: list[Keyring] = []
    seal = SealManager(
        Seal(),
        on_keyring=found.append,
        on_sealed=lambda: None,
        on_progress=lambda: None,
        bootstrap=lambda tx, now: "",
    )
    batch = store.batch()
    tx = batch.transaction()
    seal.unseal(tx, key)
    batch.abort()
    for effect in tx.after_commit:
        effect()
    store.set_keyring(found[0])
    return store


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=args.directory))
    try:
        with (
            running("undercroft", root / "small", tls=False, audit=False) as small,
            running("undercroft", root / "large", tls=False, audit=False) as large,
        ):
            fill_stopped(small, _SMALL, 0)
            small.restart_seconds()
            began = time.monotonic()
            fill_stopped(large, args.entries, args.tokens)
            took = time.monotonic() - began
            total = args.entries + args.tokens
            print(f"filled {total:,} entries in {took:.0f} s ({total / took:,.0f}/s)")
            starts = [large.restart_seconds() for _ in range(args.rounds)]
            print(f"start to ready: {statistics.median(starts):.2f} s (of {args.rounds})")
            rates: dict[str, list[float]] = {"small": [], "large": []}
            for _ in range(args.rounds):
                for name, server, count in (
                    ("small", small, _SMALL),
                    ("large", large, args.entries),
                ):
                    read = Work("KV v2 read", "", 0, _READ % (count - 1))
                    rates[name].append(load(server, read, args.seconds, 32).per_second)
            few, many = statistics.median(rates["small"]), statistics.median(rates["large"])
            print(f"KV v2 read: {few:,.0f}/s small, {many:,.0f}/s large, ratio {many / few:.2f}")
            print(f"memory (PSS): {small.pss_kib() // 1024} and {large.pss_kib() // 1024} MiB")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
