"""A threshold is the posterior of its runs: exact where it can be computed by hand, a bound where nothing was tried."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kc_interp.errors import DataError
from kc_interp.scaling import simulation
from kc_interp.scaling.accuracy_curves import fit_accuracy
from kc_interp.scaling.simulation import SIZES
from kc_interp.scaling.thresholds import (
    LAPSES,
    SLOPES_DEX,
    TAILS,
    Estimate,
    Grid,
    capacity,
    difference,
    fit,
    interaction,
)

ALL = np.asarray(SIZES, dtype=float)
SPAN = (SIZES[0], SIZES[-1])


def sharp(at: float, seeds: int = 3, sizes: np.ndarray = ALL) -> tuple[np.ndarray, np.ndarray]:
    """Runs of which exactly those above a size learn."""
    repeated = np.repeat(sizes, seeds)
    return repeated, repeated > at


def test_the_posterior_is_bayes_rule_point_by_point() -> None:
    grid = Grid(np.asarray([3.9, 4.0, 4.1]), np.asarray([0.05, 0.2]), np.asarray([0.0, 0.1]))
    sizes, learned = np.asarray([1e4, 1e4, 2e4]), np.asarray([True, False, True])
    found = fit(sizes, learned, grid=grid)
    expected = np.ones((3, 2))
    for i, t in enumerate(grid.t):
        for j, (slope, lapse) in enumerate(zip(grid.slope, grid.lapse, strict=True)):
            for size, won in zip(sizes, learned, strict=True):
                p = (1 - lapse) / (1 + math.exp(-(math.log10(size) - t) / slope))
                expected[i, j] *= p if won else 1 - p
    np.testing.assert_allclose(found.weights, expected / expected.sum())


def test_the_grid_agrees_with_draws_from_the_continuous_prior() -> None:
    rng = np.random.default_rng(0)
    sizes, learned = np.asarray([5e3, 1e4, 2e4, 4e4, 8e4, 2e4]), np.asarray([0, 0, 1, 1, 1, 0], dtype=bool)
    n = 400_000
    t = rng.uniform(np.log10(SPAN[0]) - 1, np.log10(SPAN[1]) + 1, n)
    slope = SLOPES_DEX[0] * (SLOPES_DEX[1] / SLOPES_DEX[0]) ** rng.random(n)
    lapse = rng.beta(*LAPSES, n)
    weights = np.ones(n)
    for size, won in zip(sizes, learned, strict=True):
        p = (1 - lapse) / (1 + np.exp(-(np.log10(size) - t) / slope))
        weights *= p if won else 1 - p
    found = fit(sizes, learned, span=SPAN)
    mean = np.average(t, weights=weights)
    assert found.t_mean == pytest.approx(mean, abs=0.01)
    assert found.t_sd == pytest.approx(np.sqrt(np.average((t - mean) ** 2, weights=weights)), rel=0.05)


def test_a_sharp_transition_is_located_between_the_sizes_around_it() -> None:
    t = fit(*sharp(20_000)).t
    assert t.censored is None and t.low is not None and t.high is not None and t.value is not None
    assert math.log10(14_468) < t.value < math.log10(26_420)
    assert t.low < t.value < t.high


@pytest.mark.parametrize(("learned", "side"), [(False, "above"), (True, "below")])
def test_never_or_always_learned_gives_a_bound_and_no_value(learned: bool, side: str) -> None:
    posterior = fit(np.repeat(ALL, 2), np.full(2 * len(ALL), learned))
    t = posterior.t
    assert t.censored == side and t.value is None
    assert (t.high is None) == (side == "above") and (t.low is None) == (side == "below")
    edge = math.log10(SIZES[-1 if side == "above" else 0])
    assert (t.low if side == "above" else t.high) == pytest.approx(edge, abs=0.15)
    assert t.says().startswith(f"censored: {side} ") and t.says().endswith("parameters (one-sided 95 % bound)")
    says = posterior.summary().says()
    assert f"{42 if learned else 0} of 42 runs from 2,230 to 833,000 learned." in says


def test_one_run_locates_nothing_and_says_so() -> None:
    posterior = fit(np.asarray([1e4]), np.asarray([True]), span=SPAN)
    assert posterior.at(0.9).value is None
    both = Estimate(None, None, None, "both", "1 runs over these sizes do not locate it")
    assert both.says() == "censored on both sides: 1 runs over these sizes do not locate it"


def test_a_size_where_more_succeed_than_the_lapse_allows_does_not_exist() -> None:
    sizes, learned = sharp(20_000, seeds=8)
    learned &= np.arange(len(sizes)) % 4 > 0
    posterior = fit(sizes, learned)
    ninety = posterior.at(0.9)
    assert ninety.censored == "above" and ninety.value is None and "90% is never reached" in ninety.note
    assert posterior.t.censored is None
    lapse = posterior.summary().lapse
    assert lapse.low is not None and lapse.high is not None and lapse.low < 0.25 < lapse.high


def test_sizes_at_ten_fifty_and_ninety_percent_ascend() -> None:
    world = simulation.World(4.5, 0.1, 0.0)
    sizes = simulation.fixed_sizes(420)
    posterior = fit(sizes, world.accuracies(sizes, np.random.default_rng(1)) >= 0.9)
    ten, half, ninety = (estimate.value for estimate in posterior.summary().at.values())
    assert ten is not None and half is not None and ninety is not None and ten < half < ninety
    curve = posterior.curve(ALL)
    assert (np.diff(curve[:, 0]) >= 0).all() and (curve[:, 1] <= curve[:, 2]).all()


@given(st.integers(0, len(SIZES) - 1), st.lists(st.booleans(), min_size=len(SIZES), max_size=len(SIZES)))
def test_at_a_known_slope_one_more_success_never_raises_the_threshold(at: int, learned: list[bool]) -> None:
    grid = Grid(np.linspace(2.5, 7, 91), np.asarray([0.1]), np.asarray([0.05]))
    fewer, more = np.asarray(learned), np.asarray(learned)
    fewer[at], more[at] = False, True
    assert fit(ALL, more, grid=grid).t_mean <= fit(ALL, fewer, grid=grid).t_mean + 1e-9


def test_the_order_of_the_runs_does_not_matter() -> None:
    sizes, learned = sharp(20_000)
    order = np.random.default_rng(0).permutation(len(sizes))
    np.testing.assert_allclose(fit(sizes[order], learned[order]).weights, fit(sizes, learned).weights)


def test_the_difference_of_two_arms_is_signed_and_has_an_interval() -> None:
    a, b = fit(*sharp(60_000), span=SPAN), fit(*sharp(15_000), span=SPAN)
    forth, back = difference(a, b), difference(b, a)
    assert forth.value is not None and back.value is not None and forth.low is not None and forth.high is not None
    assert forth.value == pytest.approx(-0.6, abs=0.1) and back.value == pytest.approx(-forth.value, abs=0.011)
    assert forth.low < forth.value < forth.high < 0


def test_a_censored_arm_makes_the_difference_one_sided_and_two_may_leave_nothing() -> None:
    never, known = fit(ALL, np.zeros(21, dtype=bool)), fit(*sharp(15_000), span=SPAN)
    gap = difference(never, known)
    assert gap.censored == "below" and gap.low is None and gap.high is not None and gap.high < -1
    assert difference(known, never).censored == "above"
    assert difference(never, never).censored == "both"


def test_the_capacity_bound_is_the_smallest_solution_of_any_arm() -> None:
    sizes, solved = np.asarray([5e3, 8e3, 8e4, 2e3]), np.asarray([False, True, True, False])
    arm = fit(*sharp(60_000))
    found = capacity(sizes, solved, ["SUM", "MAX+MED+SUM", "SUM", "SUM"], {"SUM": arm})
    assert (found.size, found.arm) == (8e3, "MAX+MED+SUM")
    gap, t = found.distances_dex["SUM"], arm.t
    assert gap.value is not None and t.value is not None and gap.low is not None and gap.low > 0
    assert gap.value == pytest.approx(t.value - math.log10(8e3))
    assert capacity(sizes, np.zeros(4, dtype=bool), ["SUM"] * 4, {}).note == "none of 4 runs solves it"


@pytest.mark.parametrize(
    ("sizes", "message"), [([], "a threshold needs at least one"), ([4.2], "sizes are counts, not logarithms")]
)
def test_what_cannot_be_fitted_is_refused(sizes: list[float], message: str) -> None:
    if sizes == [4.2]:
        sizes = [0.42]
    with pytest.raises(DataError, match=message):
        fit(np.asarray(sizes, dtype=float), np.zeros(len(sizes), dtype=bool))


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(DataError, match="give the smallest first"):
        Grid.over(5, 4)


def test_an_accuracy_curve_of_bimodal_runs_is_their_success_curve_lifted_to_chance() -> None:
    sizes, learned = sharp(20_000)
    curve = fit_accuracy(sizes, np.where(learned, 1.0, 0.25), 0.25)
    np.testing.assert_allclose(curve.posterior.weights, fit(sizes, learned).weights)
    accuracy = curve.accuracy(np.asarray([2e3, 9e5]))
    assert accuracy[0, 0] == pytest.approx(0.25, abs=0.02) and accuracy[1, 0] > 0.95
    assert curve.t == fit(sizes, learned).t and set(curve.sizes()) == {0.1, 0.5, 0.9}


def test_the_accuracy_curve_of_graded_scores_finds_their_midpoint() -> None:
    rise = 1 / (1 + np.exp(-(np.log10(ALL) - 4.5) / 0.15))
    t = fit_accuracy(np.repeat(ALL, 4), np.repeat(0.2 + 0.8 * rise, 4), 0.2).t
    assert t.value == pytest.approx(4.5, abs=0.03)


def test_an_accuracy_that_is_a_percentage_is_refused() -> None:
    with pytest.raises(DataError, match=r"accuracies lie in \[0, 1\]"):
        fit_accuracy(np.asarray([1e4]), np.asarray([95.0]), 0.1)


@pytest.mark.slow
def test_in_worlds_of_the_prior_the_interval_of_t_covers_at_its_stated_rate() -> None:
    """The posterior's own interval at 95 %; what is reported, cut to bounds within the sizes tried, at no less."""
    rng, whole, reported, worlds = np.random.default_rng(0), 0, 0, 1_000
    for _ in range(worlds):
        world = simulation.draw_prior(rng)
        sizes = simulation.fixed_sizes(96)
        posterior = fit(sizes, world.accuracies(sizes, rng) >= 0.9, span=SPAN)
        low, high = posterior.t_quantiles(*TAILS)
        whole += low <= world.t <= high
        t = posterior.t
        reported += (t.low is None or t.low <= world.t) and (t.high is None or world.t <= t.high)
    error = 1.96 * math.sqrt(0.95 * 0.05 / worlds)
    assert whole / worlds == pytest.approx(0.95, abs=error)
    assert reported / worlds >= 0.95 - error


def test_a_bound_never_lies_beyond_the_sizes_tried() -> None:
    never, always = fit(ALL, np.zeros(21, dtype=bool)), fit(ALL, np.ones(21, dtype=bool))
    assert never.t.low is not None and never.t.low <= math.log10(ALL.max())
    assert always.t.high is not None and always.t.high >= math.log10(ALL.min())
    widest = math.log10(ALL.max() / ALL.min())
    gap = difference(always, never)
    assert gap.censored == "above" and gap.low is not None and gap.low <= widest


def test_the_interaction_is_the_difference_of_two_differences() -> None:
    sizes = (60_000, 15_000, 30_000, 20_000)
    a, b, c, d = (fit(*sharp(size), span=SPAN) for size in sizes)
    found, one, other = interaction(a, b, c, d), difference(a, b), difference(c, d)
    assert found.value is not None and found.low is not None and found.high is not None
    assert one.value is not None and other.value is not None
    assert found.value == pytest.approx(one.value - other.value, abs=0.02)
    assert found.low < math.log10(15 / 60) - math.log10(20 / 30) < found.high
    never = fit(ALL, np.zeros(21, dtype=bool))
    assert interaction(never, b, c, d).censored == "below" and interaction(a, b, c, never).censored == "below"
    assert interaction(never, b, never, d).censored == "both"
