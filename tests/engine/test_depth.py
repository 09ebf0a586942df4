"""The adaptive depth on a machine whose costs are known: what it may lose, and what it must win."""

import random

import pytest

from qwen35cli.engine.depth import MOST, Adaptive, Fixed

COSTS = (1.0, 1.30, 1.45, 1.65, 1.85)  # of a round, in plain tokens


def run(depth, acceptance, tokens, costs=COSTS, seed=0, noise=0.0):
    """Time of a token, in plain ones, and the depths; `acceptance` is that of each draft."""
    rng = random.Random(seed)
    time, made, chosen = 0.0, 0, []
    while made < tokens:
        drafts = depth.choose()
        accepted = 0
        while accepted < drafts and rng.random() < acceptance:
            accepted += 1
        seconds = costs[drafts] * (1 + noise * rng.random())
        depth.record(drafts, min(accepted + 1, drafts), accepted, seconds)
        time += seconds
        made += 1 + accepted
        chosen.append(drafts)
    return time / made, chosen


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_at_acceptance_0_it_loses_at_most_3_percent_of_200_tokens(noise):
    for seed in range(5):
        time, chosen = run(Adaptive(), 0.0, 200, seed=seed, noise=noise)
        plain, _ = run(Fixed(0), 0.0, 200, seed=seed + 100, noise=noise)
        assert time <= (1.03 if not noise else 1.06) * plain  # two samples of the noise
        assert chosen[100:].count(0) > 0.95 * len(chosen[100:])


@pytest.mark.parametrize("acceptance", [0.5, 0.7, 0.8, 0.9])
def test_it_comes_near_the_best_fixed_depth(acceptance):
    best = min(run(Fixed(n), acceptance, 4_000)[0] for n in range(MOST + 1))
    assert run(Adaptive(), acceptance, 4_000)[0] < 1.05 * best


def test_it_does_not_draft_where_rounds_cost_too_much():
    time, chosen = run(Adaptive(), 0.8, 1_000, costs=(1.0, 2.1, 3.2, 4.3, 5.4))
    assert chosen.count(0) > 0.98 * len(chosen)
    assert time < 1.03


def test_it_notices_that_drafts_became_good():
    depth = Adaptive()
    run(depth, 0.0, 500)
    _, chosen = run(depth, 0.95, 4_000)
    assert chosen[-1] > 0
    assert run(depth, 0.95, 500)[0] < 0.6


def test_it_notices_that_drafts_became_bad():
    depth = Adaptive()
    run(depth, 0.95, 500)
    assert run(depth, 0.0, 200)[0] < 1.12  # what it had learned fades in a dozen rounds


def test_the_time_of_the_first_drafts_does_not_count():
    depth = Adaptive()
    for _ in range(3):
        depth.record(depth.choose(), 0, 0, 1.0)
    assert depth.choose() == 1
    depth.record(1, 1, 1, 20.0)
    second = depth.choose()
    assert second > 0
    depth.record(second, second, second, 20.0)
    assert depth.choose() != second


def test_without_drafts_it_stays_plain():
    assert run(Adaptive(most=0), 0.9, 100)[1] == [0] * 100
