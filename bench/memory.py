"""Memory at equal data: OpenBao and Undercroft get the same secrets and tokens, and are read from.

PSS of all processes of each, when idle, after the writes and after a read of everything; and again
after a restart, when nothing has been read yet.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.servers import Server, running

_WRITERS = 16
_SETTLE_SECONDS = 3.0


def each(server: Server, count: int, method: str, path: str, body: str = "") -> None:
    """Requests 0 to `count`, over a few connections. Raises RuntimeError for one that fails."""
    failed: list[str] = []

    def run(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        headers = {"X-Vault-Token": server.token}
        for number in range(first, count, _WRITERS):
            connection.request(method, f"/v1/{path}".format(number), body or None, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                failed.append(f"{server.name}: {answer.status} {text[:200]!r}")
                return

    threads = [threading.Thread(target=run, args=(first,)) for first in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(failed[0])


def measure(name: str, secrets: int, tokens: int) -> list[int]:
    """PSS in KiB: empty, filled, all read, started anew."""
    found = []
    with (
        tempfile.TemporaryDirectory() as root,
        running(name, Path(root) / name, tls=False, audit=False) as server,
    ):

        def look() -> None:
            time.sleep(_SETTLE_SECONDS)
            found.append(server.pss_kib())

        look()
        value = json.dumps({"data": {"value": "x" * 300}})
        each(server, secrets, "POST", "secret/data/team/{}", value)
        each(server, tokens, "POST", "auth/token/create", '{"ttl": "24h"}')
        look()
        each(server, secrets, "GET", "secret/data/team/{}")
        look()
        server.restart_seconds()
        look()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--secrets", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=5_000)
    args = parser.parse_args()
    theirs, ours = (measure(n, args.secrets, args.tokens) for n in ("openbao", "undercroft"))
    print(f"{args.secrets:,} secrets of 300 bytes in KV v2, {args.tokens:,} tokens\n")
    print("| memory of all processes (PSS) | OpenBao MiB | ours MiB | ratio |")
    print("|---|---|---|---|")
    for what, bao, we in zip(
        ("empty", "filled", "and all read", "started anew"), theirs, ours, strict=True
    ):
        print(f"| {what} | {bao // 1024} | {we // 1024} | {we / bao:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
