"""`python -m bench`: Undercroft beside OpenBao, same machine, same run, as a Markdown table.

Every figure is the median of alternating rounds (A B A B …), so that a machine whose speed drifts
treats both alike. The load is wrk with 32 connections, on the same cores as the server it loads.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.servers import Server, running

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Work:
    """One kind of request and the ratio that is wanted for it."""

    name: str
    path: str
    target: float
    lua: str = ""


COUNTER = """
local n = 0
local id = ""
request = function()
  n = n + 1
  return wrk.format("POST", "/v1/secret/data/w/" .. id .. "/" .. (n % 5000), nil,
    '{"data":{"value":"' .. n .. '","text":"0123456789012345678901234567890123456789"}}')
end
init = function(args) id = tostring({}):sub(8) end
"""
CREATE = """
wrk.method = "POST"
wrk.body = '{"policies":["bench"],"ttl":"1h"}'
"""
WORKS = (
    Work("KV v2 read", "secret/data/bench", 3.0),
    Work("KV v2 durable write", "secret/data/w", 4.0, COUNTER),
    Work("KV v1 read", "kv1/bench", 2.0),
    Work("token lookup-self", "auth/token/lookup-self", 3.0),
    Work("token create", "auth/token/create", 3.0, CREATE),
)


@dataclass(frozen=True)
class Figure:
    per_second: float
    p99_ms: float
    errors: int


def load(server: Server, work: Work, seconds: int, connections: int) -> Figure:
    command = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-H", f"X-Vault-Token: {server.token}"]
    if work.lua:
        script = server.directory / "work.lua"
        script.write_text(work.lua)
        command += ["-s", str(script)]
    command.append(f"{server.url}/v1/{work.path}")
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    assert rate is not None, text
    assert tail is not None, text
    return Figure(float(rate[1]), float(tail[1]) * UNITS[tail[2]], int(failed[1]) if failed else 0)


def compare(tls: bool, audit: bool, args: argparse.Namespace) -> list[str]:
    works = [w for w in WORKS if not args.only or args.only in w.name]
    rows = []
    with (
        tempfile.TemporaryDirectory(dir=args.directory) as root,
        running("openbao", Path(root) / "openbao", tls=tls, audit=audit) as bao,
        running("undercroft", Path(root) / "undercroft", tls=tls, audit=audit) as ours,
    ):
        for work in works:
            figures: dict[str, list[Figure]] = {"openbao": [], "undercroft": []}
            for _ in range(args.rounds):
                for server in (bao, ours):
                    figure = load(server, work, args.seconds, args.connections)
                    figures[server.name].append(figure)
            rows.append(_row(work, tls, audit, figures))
            print(rows[-1], flush=True)
        print(
            f"memory (PSS): OpenBao {bao.pss_kib() // 1024} MiB, "
            f"Undercroft {ours.pss_kib() // 1024} MiB",
            flush=True,
        )
    return rows


def _row(work: Work, tls: bool, audit: bool, figures: dict[str, list[Figure]]) -> str:
    def median(name: str, attribute: str) -> float:
        return float(statistics.median(getattr(f, attribute) for f in figures[name]))

    theirs, ours = median("openbao", "per_second"), median("undercroft", "per_second")
    their_tail, our_tail = median("openbao", "p99_ms"), median("undercroft", "p99_ms")
    errors = sum(f.errors for f in figures["undercroft"])
    return (
        f"| {work.name} | {'on' if tls else 'off'} | {'file' if audit else 'off'} "
        f"| {theirs:,.0f} | {ours:,.0f} | {ours / theirs:.2f} "
        f"| {their_tail:.1f} | {our_tail:.1f} | {our_tail / their_tail:.2f} | {errors} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", default="", help="only works whose name has this text")
    parser.add_argument("--tls", choices=("off", "on", "both"), default="both")
    parser.add_argument("--audit", choices=("off", "on", "both"), default="both")
    parser.add_argument("--directory", default=None, help="where the data lies (a real disk)")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is missing: apt-get install wrk", file=sys.stderr)
        return 1
    print("| work | TLS | audit | OpenBao/s | ours/s | ratio | p99 ms | p99 ms | ratio | errors |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for tls in (False, True):
        for audit in (False, True):
            if args.tls in ("both", "on" if tls else "off") and args.audit in (
                "both",
                "on" if audit else "off",
            ):
                compare(tls, audit, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
