"""`python -m tests.guards`: take every guard out in turn and see its tests fail."""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.guards.page import page
from tests.guards.run import failing, judge
from tests.guards.table import Guard, guards


def main() -> int:
    """0 if every removal was caught, else 1; one line for each."""
    options = _options()
    if options.page:
        sys.stdout.write(page(guards()))
        return 0
    chosen = [guard for guard in guards() if _matches(guard, options.only)]
    if not chosen:
        print("there are no such guards")
        return 1
    start = time.monotonic()
    if broken := failing(chosen):
        print("with every guard in its place, these do not pass:", *broken, sep="\n    ")
        return 1
    bad = 0
    with ThreadPoolExecutor(options.parallel) as pool:
        for verdict in pool.map(judge, chosen):
            bad += verdict.outcome != "caught"
            detail = f"\n    {verdict.detail}" if verdict.detail else ""
            print(f"{verdict.outcome:9}{verdict.guard.name}{detail}", flush=True)
    seconds = time.monotonic() - start
    print(f"{len(chosen) - bad} of {len(chosen)} removals caught in {seconds:.0f} s")
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.guards", description=__doc__)
    parser.add_argument(
        "only", nargs="*", help="threats, or parts of a file's name: only these guards"
    )
    parser.add_argument("-k", "--parallel", type=int, default=2, help="removals at a time")
    parser.add_argument("--page", action="store_true", help="print docs/guards.md, run nothing")
    return parser.parse_args()


def _matches(guard: Guard, only: list[str]) -> bool:
    return not only or any(word.lower() in f"{guard.name} {guard.tests}".lower() for word in only)


if __name__ == "__main__":
    sys.exit(main())
