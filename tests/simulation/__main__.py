"""`python -m tests.simulation`: many seeds on all cores, or one with its trace."""

import argparse
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.oracle import Violation
from tests.simulation.world import run


def attempt(seed: int, steps: int) -> str:
    try:
        run(seed, steps)
    except Violation as violation:
        return str(violation)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="one run, or the first of --seeds")
    parser.add_argument("--seeds", type=int, default=0, help="how many runs")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    parser.add_argument("-v", "--verbose", action="store_true")
    given = parser.parse_args()
    if given.seed is not None and not given.seeds:
        try:
            run(given.seed, given.steps, print if given.verbose else None)
        except Violation as violation:
            cause = violation.__cause__
            traceback.print_exception(
                cause if cause is None or cause.__cause__ is None else cause.__cause__
            )
            print(violation)
            return 1
        return 0
    first = given.seed or 0
    seeds = range(first, first + (given.seeds or 10_000))
    began, failed = time.monotonic(), 0
    with ProcessPoolExecutor(given.jobs) as pool:
        for text in pool.map(partial(attempt, steps=given.steps), seeds, chunksize=8):
            if text:
                failed += 1
                print(text, flush=True)
    seconds = time.monotonic() - began
    print(f"{len(seeds)} seeds × {given.steps} steps in {seconds:.1f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
