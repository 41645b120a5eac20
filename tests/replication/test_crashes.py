"""Processes die under load, on either side: afterwards both hold what was acknowledged, and agree.

`REPLICATION_CRASH_ROUNDS` (default 8) sets how often; `make test-crashes` runs a hundred.
"""

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from tests.replication.load import Load
from tests.replication.pair import Pair, log_in, replicating_pair, status
from tests.support.undercroft import Undercroft, restart, until

ROUNDS = int(os.environ.get("REPLICATION_CRASH_ROUNDS", "8"))


def processes(server: Undercroft) -> list[int]:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


@pytest.mark.parametrize("seed", [1, 2])
def test_no_crash_under_load_loses_an_acknowledged_write(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with replicating_pair(tmp_path) as pair:
        log_in(pair.primary)  # a token of the replicated kind of user, good on either side's own
        loads = [Load(pair.primary, "p"), Load(pair.secondary, "s")]
        try:
            for _ in range(ROUNDS):
                _crash(pair, tmp_path, rng)
        finally:
            acknowledged = [name for load in loads for name in load.stop()]
        try:
            until(pair.caught_up, seconds=60)
        except AssertionError:
            logs = [s.log.read_text()[-3000:] for s in (pair.primary_server, pair.secondary_server)]
            raise AssertionError("\n---\n".join(logs)) from None
        assert len(acknowledged) > 20
        for client in (pair.primary, pair.secondary):
            for name in acknowledged:
                answer = client.request("GET", f"secret/data/{name}")
                assert answer.status == 200, (name, answer)
        assert status(pair.secondary)["divergences"] == 0


def _crash(pair: Pair, directory: Path, rng: random.Random) -> None:
    """One process, or all of a cluster."""
    name = rng.choice(("primary", "secondary"))
    server = pair.primary_server if name == "primary" else pair.secondary_server
    threading.Event().wait(rng.uniform(0.05, 0.4))  # how far things have come by then
    if rng.random() < 0.3:
        server.kill()
        restart(server, directory / name)
    else:
        os.kill(rng.choice(processes(server)), signal.SIGKILL)
        until(lambda: server.client.request("GET", "sys/health").status == 200, server)
