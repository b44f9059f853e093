"""A run that stopped before learning still counts, and no time beyond the longest budget is claimed."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats

from kc_interp.errors import DataError
from kc_interp.scaling.simulation import Times
from kc_interp.scaling.survival import fit_times, kaplan_meier

NEVER = np.zeros(12, dtype=bool)


def test_without_censoring_the_median_is_scipys_log_normal_fit() -> None:
    steps, learned = Times(4.0, 0.2, 0.0).draw(400, 1e9, np.random.default_rng(0))
    assert learned.all()
    scale = scipy.stats.lognorm.fit(scipy.stats.CensoredData(steps), floc=0)[2]
    median = fit_times(steps, learned).median
    assert median.value == pytest.approx(math.log10(scale), abs=0.02)
    assert median.low is not None and median.high is not None
    assert median.high - median.low == pytest.approx(2 * 1.96 * 0.2 / math.sqrt(400), rel=0.3)


def test_censored_runs_move_the_median_up() -> None:
    steps, learned = Times(4.0, 0.2, 0.0).draw(60, 1.3e4, np.random.default_rng(1))
    assert 0 < (~learned).sum() < 30
    with_all, learned_only = fit_times(steps, learned), fit_times(steps[learned], learned[learned])
    assert with_all.quantile(0.5).value is not None and learned_only.median.value is not None
    assert with_all.median.value > learned_only.median.value  # type: ignore[operator]


def test_a_share_that_never_learns_is_told_from_late_learning() -> None:
    steps, learned = Times(3.5, 0.1, 0.4).draw(100, 1e5, np.random.default_rng(2))
    share = fit_times(steps, learned).by(1e5)
    assert share.low is not None and share.high is not None and share.low < 0.6 < share.high
    ninety = fit_times(steps, learned).quantile(0.9)
    assert ninety.censored == "above" and ninety.value is None and "no run was longer than 100,000 steps" in ninety.note


def test_if_no_run_learned_the_median_is_a_bound_at_most_at_the_budget() -> None:
    found = fit_times(np.full(12, 8e3), NEVER).median
    assert found.censored == "above" and found.value is None and found.high is None
    assert found.low is not None and found.low <= math.log10(8e3) + 1e-9
    assert found.says("steps").startswith("censored: above ")


def test_nothing_is_said_of_a_time_that_no_run_reached() -> None:
    found = fit_times(np.full(12, 8e3), NEVER).by(3.2e4)
    assert found.value is None and found.note == "no run was longer than 8,000 steps"


def test_where_all_learned_before_the_end_times_up_to_it_are_known() -> None:
    steps, all_of_them = np.full(20, 500.0), np.ones(20, dtype=bool)
    alone, within = fit_times(steps, all_of_them), fit_times(steps, all_of_them, budget_steps=8e3)
    assert alone.median.censored == "above" and alone.by(600.0).value is None
    assert within.median.censored is None and within.longest == pytest.approx(math.log10(8e3))
    assert within.median.low is not None and within.median.high is not None
    assert within.median.low < math.log10(500) < within.median.high < math.log10(600)
    assert within.by(600.0).value is not None
    with pytest.raises(DataError, match="a run of 500 steps, but the longest is said to have 400"):
        fit_times(steps, all_of_them, budget_steps=400.0)


def test_a_time_between_two_checks_is_as_good_as_an_exact_one_when_checks_are_close() -> None:
    steps, learned = Times(4.0, 0.2, 0.1).draw(40, 3e4, np.random.default_rng(3))
    exact = fit_times(steps, learned)
    close = fit_times(steps, learned, since=np.where(learned, steps * 0.999, 0.0))
    coarse = fit_times(steps, learned, since=np.where(learned, steps * 0.5, 0.0))
    np.testing.assert_allclose(close.weights, exact.weights, atol=2e-4)
    assert coarse.median.value < exact.median.value  # type: ignore[operator]


def test_learning_before_the_first_check_is_below_it() -> None:
    steps = np.full(20, 500.0)
    found = fit_times(steps, np.ones(20, dtype=bool), since=np.zeros(20))
    assert found.median.high is not None and found.median.high < math.log10(500)


def test_kaplan_meier_by_hand() -> None:
    found = kaplan_meier(np.asarray([10.0, 20, 20, 30, 40]), np.asarray([True, True, False, True, False]))
    np.testing.assert_allclose(found.learned, [0.2, 0.4, 0.7, 0.7])
    assert (found.low[:3] <= found.learned[:3]).all() and (found.learned[:3] <= found.high[:3]).all()


@pytest.mark.parametrize("steps", [[], [0.0]])
def test_times_that_are_not_times_are_refused(steps: list[float]) -> None:
    with pytest.raises(DataError, match="at least one run, and steps above 0"):
        fit_times(np.asarray(steps, dtype=float), np.ones(len(steps), dtype=bool))


def test_a_last_check_after_learning_is_refused() -> None:
    with pytest.raises(DataError, match="must lie before the step"):
        fit_times(np.asarray([5e3]), np.asarray([True]), np.asarray([5e3]))


@pytest.mark.slow
def test_the_interval_of_the_median_covers_at_its_stated_rate() -> None:
    rng, hits = np.random.default_rng(0), []
    for _ in range(1_000):
        truth = Times(rng.uniform(3.5, 4.5), 10 ** rng.uniform(-1.3, -0.4), rng.uniform(0, 0.4))
        steps, learned = truth.draw(24, 10 ** rng.uniform(4, 5), rng)
        median = fit_times(steps, learned).median
        at = truth.location + truth.scale * NormalDist().inv_cdf(0.5 / (1 - truth.never))
        hits.append((median.low is None or median.low <= at) and (median.high is None or at <= median.high))
    assert np.mean(hits) >= 0.95 - 1.96 * math.sqrt(0.95 * 0.05 / 1_000)
