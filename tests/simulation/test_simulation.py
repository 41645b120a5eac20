"""Whole replication sets under faults and operators: a few hundred runs (`make simulate`: many).

A seed that fails names the command that replays it. Put it into REGRESSIONS, with what it showed.
"""

import pytest

from tests.simulation.world import run

SEEDS = 320
BLOCK = 20
STEPS = 1000

REGRESSIONS = {
    18: "a cluster came back from a drill, and was refused as newer",
    37: "killed in a comparison after a divergence: it looked like more than the primary had",
    55: "a copy went on without looking at what had not been written when it was interrupted",
    344: "a filter came while the mount was being walked",
    401: "what a copy had read ahead was taken for a divergence",
    522: "a filter changed while the jump after a comparison was on its way",
    537: "two epochs of one number: the second one's writes were not set aside",
    623: "a copy that had read ahead went over to another history",
    1406: "a walk read entries that were newer than the position told",
    1976: "two clusters had rotated to different keys under one number",
    3991: "a mount was denied while the secondary was away",
    4053: "the log of a cluster that had been filtered was shipped, with its holes",
    5331: "a change was made though one before it, of the same session, had been refused",
    9875: "a session began while what its predecessor had asked for was still under way",
}


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_breaks_an_invariant(first: int) -> None:
    for seed in range(first, first + BLOCK):
        run(seed, STEPS)


@pytest.mark.parametrize("seed", REGRESSIONS, ids=lambda seed: f"{seed}: {REGRESSIONS[seed]}")
def test_what_was_found_once_stays_found(seed: int) -> None:
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
