"""`python -m bench.replication`: replication measured, with its peers, as a Markdown table.

Everything runs on the machine at hand, in one run, in real processes. Compare only figures of one
run. `--only` takes a part of a measurement's name: lag, catch-up, copies, fan-out, promotion.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.replication.catch_up import catch_up
from bench.replication.copies import copies
from bench.replication.fan_out import fan_out
from bench.replication.lag import lag
from bench.replication.promotion import promotion
from bench.replication.rows import HEAD, Row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.replication", description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--peers", action="store_true", help="the peers alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20, help="of a load at a fixed rate")
    parser.add_argument("--rate", type=int, default=1_000, help="writes a second")
    parser.add_argument("--commits", type=int, default=200_000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--etcd-keys", type=int, default=20_000)
    parser.add_argument("--secondaries", type=int, default=20)
    parser.add_argument("--directory", default=None, help="where the data lies (a real disk)")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is missing: apt-get install wrk", file=sys.stderr)
        return 1
    works: dict[str, Callable[[Path], list[Row]]] = {
        "lag": lambda root: lag(root, args.rate, args.seconds),
        "catch-up": lambda root: catch_up(
            root, args.commits, args.etcd_keys, args.rounds, not args.peers
        ),
        "copies": lambda root: copies(root, args.entries, args.rounds),
        "fan-out": lambda root: fan_out(
            root, args.secondaries, args.rate, args.seconds, args.rounds
        ),
        "promotion": lambda root: promotion(root, args.rounds),
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives us
    print(HEAD, flush=True)
    missed = False
    for name, work in works.items():
        if args.only not in name or (args.peers and name != "catch-up"):
            continue
        with tempfile.TemporaryDirectory(dir=args.directory) as directory:
            root = Path(directory)
            root.chmod(0o711)  # PostgreSQL runs as a user of its own and must get through
            for row in work(root):
                print(row, flush=True)
                missed = missed or row.met is False
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
