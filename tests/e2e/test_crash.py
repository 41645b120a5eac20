"""kill -9 in the middle of mixed load: every acknowledged write is there, none is half there."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.load import Ledger, MixedLoad, check
from tests.support.undercroft import Undercroft, disk_server, restart, until

ROUNDS = 25
WRITERS = 3


def prepare(server: Undercroft) -> list[Ledger]:
    kv = {"type": "kv", "options": {"version": "2"}}
    assert server.client.request("POST", "sys/mounts/secret", kv).status == 204
    return [Ledger(f"writer{i}") for i in range(WRITERS)]


def verify_offline(directory: Path) -> None:
    """Every entry authenticates and the digests equal a recomputation."""
    command = [sys.executable, "-m", "undercroft", "operator", "check", str(directory / "data")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_killed_writer_process_loses_nothing_and_is_replaced(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    with disk_server(tmp_path) as server:
        ledgers = prepare(server)
        for _ in range(ROUNDS):
            with MixedLoad(server.client, ledgers, dice.randrange(1 << 32)) as load:
                until(lambda load=load: load.operations > 20, server)
                time.sleep(dice.uniform(0, 0.1))  # not a wait: where in the load the blow falls
                os.kill(server.children()["writer"], signal.SIGKILL)
                until(
                    lambda: server.client.request("POST", "auth/token/create", {}).status == 200,
                    server,
                )
            for ledger in ledgers:
                check(server.client, ledger)
        assert server.stop() == 0
    verify_offline(tmp_path)


def test_a_killed_server_loses_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    with disk_server(tmp_path) as server:
        ledgers = prepare(server)
        for _ in range(ROUNDS):
            with MixedLoad(server.client, ledgers, dice.randrange(1 << 32)) as load:
                until(lambda load=load: load.operations > 20, server)
                time.sleep(dice.uniform(0, 0.1))  # not a wait: where in the load the blow falls
                server.kill()
            restart(server, tmp_path)
            for ledger in ledgers:
                check(server.client, ledger)
        assert server.stop() == 0
    verify_offline(tmp_path)
