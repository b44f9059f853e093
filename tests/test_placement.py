"""Placement asks for the runs that tell most, the same ones whenever it is asked, and needs fewer than a grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kc_interp.errors import SpecError
from kc_interp.scaling import simulation
from kc_interp.scaling.placement import Batch, Outcome, Placement, Run, expected_entropy
from kc_interp.scaling.simulation import SIZES, WIDTHS
from kc_interp.scaling.thresholds import fit


def outcomes(threshold_width: int, widths: tuple[int, ...] = WIDTHS, seeds: int = 2) -> list[Outcome]:
    return [Outcome(Run(width, seed), width > threshold_width) for width in widths for seed in range(seeds)]


def test_the_expected_entropy_is_that_of_both_outcomes_by_hand() -> None:
    weights = np.asarray([[[0.1, 0.2], [0.3, 0.1], [0.2, 0.1]]])
    chance = np.asarray([[[0.9, 0.8], [0.4, 0.5], [0.1, 0.2]], [[0.5, 0.5]] * 3])
    expected = []
    for size in chance:
        total = 0.0
        for likelihood in (size, 1 - size):
            joint = (weights[0] * likelihood).sum(axis=1)
            p = joint / joint.sum()
            total += joint.sum() * -sum(q * math.log(q) for q in p)
        expected.append(total)
    np.testing.assert_allclose(expected_entropy(weights, chance), expected)
    assert expected[0] < expected[1], "a coin toss says nothing of t"


def test_the_first_batch_spreads_over_the_range() -> None:
    batch = Placement(WIDTHS, SIZES, batch_runs=8).next_batch([])
    at = sorted(WIDTHS.index(run.width) for run in batch.runs)
    assert len(batch.runs) == 8 and len(set(at)) >= 5
    assert at[0] <= 5 and at[-1] >= 15


def test_once_the_transition_is_seen_the_runs_go_to_it() -> None:
    batch = Placement(WIDTHS, SIZES, budget_runs=99, batch_runs=8).next_batch(outcomes(40))
    assert {run.width for run in batch.runs} <= {28, 32, 40, 48, 56, 64}
    assert {32, 40, 48, 56} & {run.width for run in batch.runs}


def test_a_batch_depends_on_what_was_completed_and_not_on_its_order() -> None:
    placement, done = Placement(WIDTHS, SIZES, budget_runs=99), outcomes(40)
    first = placement.next_batch(done)
    assert placement.next_batch(done[::-1]) == first == placement.next_batch(done)
    assert Placement(WIDTHS, SIZES, budget_runs=99, seed=5).next_batch([]) != placement.next_batch([])


def test_seeds_count_up_within_a_width_and_none_is_asked_for_twice() -> None:
    world, rng = simulation.World(4.5, 0.05, 0.0), np.random.default_rng(0)
    done = simulation.adaptive(world, Placement(WIDTHS, SIZES, budget_runs=30), rng)
    runs = [outcome.run for outcome in done]
    assert len(runs) == 30 == len(set(runs))
    for width in WIDTHS:
        seeds = [run.seed for run in runs if run.width == width]
        assert seeds == list(range(len(seeds)))


def test_a_seed_that_others_used_is_skipped() -> None:
    done = [Outcome(Run(width, seed), width > 40) for width in WIDTHS for seed in (1, 7)]
    batch = Placement(WIDTHS, SIZES, budget_runs=99, batch_runs=8).next_batch(done)
    assert not {outcome.run for outcome in done} & set(batch.runs)


def test_it_stops_when_the_budget_is_spent_and_never_exceeds_it() -> None:
    placement = Placement(WIDTHS, SIZES, budget_runs=44, batch_runs=8)
    assert len(placement.next_batch(outcomes(40)).runs) == 2
    done = [*outcomes(40), Outcome(Run(8, 9), False), Outcome(Run(8, 10), False)]
    assert placement.next_batch(done) == Batch((), "the budget of 44 runs is spent")


def test_it_stops_when_the_interval_is_as_narrow_as_was_asked_for() -> None:
    batch = Placement(WIDTHS, SIZES, budget_runs=500, width_dex=0.3).next_batch(outcomes(40, seeds=6))
    assert not batch.runs and batch.stop.endswith("dex wide, 0.3 was asked for")
    assert Placement(WIDTHS, SIZES, budget_runs=500, width_dex=0.01).next_batch(outcomes(40, seeds=6)).runs


def test_a_task_that_is_never_learned_is_sought_at_the_largest_sizes() -> None:
    batch = Placement(WIDTHS, SIZES, budget_runs=99).next_batch(outcomes(999))
    assert {run.width for run in batch.runs} == {256}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (8,), "sizes": (2228,)}, "placement needs at least two of each"),
        ({"widths": (16, 8), "sizes": (5972, 2228)}, "must ascend, none twice"),
        ({"widths": (8, 16), "sizes": (2228, 5972), "batch_runs": 0}, "are at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Placement(**settings)


def test_a_run_of_a_width_outside_the_study_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="a run of width 9, but the study allows 8, 16"):
        Placement((8, 16), (2228, 5972)).next_batch([Outcome(Run(9, 0), True)])


def test_placed_runs_err_less_than_as_many_on_a_grid() -> None:
    rng, placed, spread = np.random.default_rng(3), [], []
    for i in range(25):
        world = simulation.draw_world(rng, (0.05, 0.1))
        placement = Placement(WIDTHS, SIZES, budget_runs=32, seed=i)
        placed.append(placement.posterior(simulation.adaptive(world, placement, rng)).t_mean - world.t)
        sizes = simulation.fixed_sizes(32)
        learned = world.accuracies(sizes, rng) >= 0.9
        spread.append(fit(sizes, learned, span=(SIZES[0], SIZES[-1])).t_mean - world.t)
    assert np.sqrt(np.mean(np.square(placed))) < 0.7 * np.sqrt(np.mean(np.square(spread)))


@pytest.mark.slow
def test_with_48_runs_the_error_is_at_most_035_dex_and_the_interval_covers() -> None:
    worlds = 1_000
    allowed = 1.96 * math.sqrt(0.95 * 0.05 / worlds)
    for slopes, most in (((0.05, 0.1), 0.035), ((0.05, 0.3), math.inf)):
        rng, errors, hits = np.random.default_rng(7), [], 0
        for i in range(worlds):
            world = simulation.draw_world(rng, slopes)
            placement = Placement(WIDTHS, SIZES, seed=i)
            posterior = placement.posterior(simulation.adaptive(world, placement, rng))
            t = posterior.t
            errors.append(posterior.t_mean - world.t)
            hits += (t.low is None or t.low <= world.t) and (t.high is None or world.t <= t.high)
        assert np.sqrt(np.mean(np.square(errors))) <= most
        assert hits / worlds >= 0.95 - allowed
