"""Whole replication sets under faults and operators: a few hundred runs (`make simulate`: many).

A seed that fails names the command that replays it. Put it into REGRESSIONS, with what it showed.
"""

import pytest

from tests.simulation.world import run

SEEDS = 320
BLOCK = 20
STEPS = 1000

REGRESSIONS: list[tuple[int, int, str]] = []


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_breaks_an_invariant(first: int) -> None:
    for seed in range(first, first + BLOCK):
        run(seed, STEPS)


def test_without_faults_and_operators_secondaries_follow() -> None:
    for seed in range(20):
        world = run(seed, STEPS, operators=False, faults=False)
        assert all(cluster.copy is None for cluster in world.clusters)
        assert not world.divergences


def test_a_run_is_decided_by_its_seed() -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run(7, STEPS, trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 5
