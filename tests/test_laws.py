"""Laws find what was put in, say which way they were fitted, and count operations that tasks share once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kc_interp.errors import DataError
from kc_interp.scaling import laws
from kc_interp.scaling.laws import Crossed, Tasks
from kc_interp.scaling.simulation import Law


def tasks(seed: int = 0, **settings: float) -> Tasks:
    return Law(**settings).draw(np.random.default_rng(seed))


def exact(form: str) -> Tasks:
    names, complexity = tasks().names, np.linspace(100, 500, 15)
    y = {
        "constant": np.full(15, 4.0) + 0.01 * (-1.0) ** np.arange(15),
        "linear": np.log10(2_000 + 300 * complexity),
        "power": -2 + 2.5 * np.log10(complexity),
        "exponential": 3 + 0.004 * complexity,
    }[form]
    return Tasks.of(names, complexity, y)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.5, allow_subnormal=False))
def test_the_inverted_exponent_is_the_direct_one_over_r_squared(seed: int, scatter: float) -> None:
    drawn = tasks(seed, scatter_sd=scatter)
    direct, inverted = laws.direct(drawn), laws.inverted(drawn)
    assert inverted.value == pytest.approx(direct.value / direct.r2)
    assert abs(inverted.value) >= abs(direct.value)


def test_the_papers_exponent_shrinks_to_1_76_when_read_the_other_way_at_r_squared_of_60_percent() -> None:
    rng = np.random.default_rng(0)
    log_n = np.linspace(3, 6, 15)
    noise = rng.standard_normal(15)
    design = np.column_stack([np.ones(15), log_n])
    noise -= design @ np.linalg.lstsq(design, noise, rcond=None)[0]
    signal = 0.34 * (log_n - log_n.mean())
    noise *= math.sqrt((signal @ signal) * (1 - 0.6) / 0.6 / (noise @ noise))
    drawn = Tasks.of(tasks().names, 10 ** (math.log10(18) + 0.34 * log_n + noise), log_n)
    assert laws.inverted(drawn).value == pytest.approx(1 / 0.34)
    assert laws.direct(drawn).value == pytest.approx(0.6 / 0.34)
    assert laws.direct(drawn).value == pytest.approx(1.76, abs=0.01)
    assert "n^0.34" in laws.inverted(drawn).means


def test_every_exponent_carries_the_range_it_stands_on() -> None:
    drawn = tasks()
    for found in (laws.direct(drawn), laws.inverted(drawn), Crossed(drawn).exponent):
        assert found.range_dex == pytest.approx(np.log10(drawn.complexity.max() / drawn.complexity.min()))


def test_an_inverted_interval_is_open_when_the_slope_may_be_zero() -> None:
    drawn = tasks(1, exponent=0.0, scatter_sd=0.5)
    found = laws.inverted(drawn)
    assert found.low is None and found.high is None


def test_the_direct_interval_is_scipys() -> None:
    drawn = tasks()
    expected = scipy.stats.linregress(drawn.x, drawn.y)
    half = scipy.stats.t.ppf(0.975, 13) * expected.stderr
    found = laws.direct(drawn)
    assert (found.low, found.high) == pytest.approx((expected.slope - half, expected.slope + half))


@pytest.mark.parametrize("form", laws.FORMS)
def test_the_form_that_made_the_points_wins_and_predicts_what_was_left_out(form: str) -> None:
    best = laws.compare_forms(exact(form))[0]
    assert best.form == form and best.weight > 0.5
    assert best.left_out_task < 0.02 and best.left_out_part is not None and best.left_out_part < 0.02


def test_aicc_by_hand() -> None:
    drawn = tasks()
    power = next(fit for fit in laws.compare_forms(drawn) if fit.form == "power")
    expected = scipy.stats.linregress(drawn.x, drawn.y)
    gaps = drawn.y - expected.intercept - expected.slope * drawn.x
    log = scipy.stats.norm.logpdf(gaps, scale=np.sqrt((gaps**2).mean())).sum()
    assert power.aicc == pytest.approx(2 * 3 - 2 * log + 2 * 3 * 4 / (15 - 3 - 1))


def test_four_tasks_are_too_few_for_the_aicc_of_any_law_but_the_constant() -> None:
    drawn = tasks()
    fits = laws.compare_forms(drawn.take(np.arange(len(drawn.names)) < 4))
    assert [(fit.form, fit.weight) for fit in fits if np.isfinite(fit.aicc)] == [("constant", 1.0)]
    assert [fit.weight for fit in fits[1:]] == [0, 0, 0]


def test_left_out_errors_by_refitting_equal_those_of_the_hat_matrix() -> None:
    drawn = tasks()
    errors = laws.left_out_errors(drawn, "power")
    assert laws.left_out_rms(drawn.x, drawn.y[None])[0] == pytest.approx(np.sqrt((errors**2).mean()))


def test_leaving_out_an_operation_predicts_its_tasks_from_the_others() -> None:
    drawn = tasks()
    out = np.asarray(["SUM" in name for name in drawn.names])
    line = scipy.stats.linregress(drawn.x[~out], drawn.y[~out])
    gaps = drawn.y[out] - line.intercept - line.slope * drawn.x[out]
    assert laws.left_out_part_errors(drawn, "power")["SUM"] == pytest.approx(np.sqrt((gaps**2).mean()))


def test_an_operation_that_every_task_holds_cannot_be_left_out() -> None:
    drawn = tasks()
    with_sum = drawn.take(drawn.parts[:, drawn.part_names.index("SUM")])
    assert laws.left_out_part_errors(with_sum, "power")["SUM"] is None


def test_the_point_that_was_bent_is_the_influential_one() -> None:
    drawn = exact("power")
    y = drawn.y.copy()
    y[-1] += 1.0
    found = laws.influence(Tasks.of(drawn.names, drawn.complexity, y))
    assert max(found, key=lambda name: abs(found[name])) == drawn.names[-1]
    assert found[drawn.names[-1]] < 0


def test_huber_ignores_one_outlier_and_agrees_with_least_squares_without() -> None:
    drawn = exact("power")
    y = drawn.y.copy()
    y[3] += 2.0
    bent = Tasks.of(drawn.names, drawn.complexity, y)
    assert laws.huber(bent) == pytest.approx(2.5, abs=1e-3)
    assert laws.direct(bent).value != pytest.approx(2.5, abs=0.1)
    assert laws.huber(drawn) == pytest.approx(laws.direct(drawn).value, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_huber_is_least_absolute_deviations_by_a_linear_program_when_delta_is_small(seed: int) -> None:
    """Two routes to one exponent; with a wide delta it is least squares."""
    drawn = tasks(seed, scatter_sd=0.3)
    n = len(drawn.x)
    design = np.column_stack([np.ones(n), drawn.x])
    constraints = np.hstack([design, np.eye(n), -np.eye(n)])
    cost = np.concatenate([[0.0, 0.0], np.ones(2 * n)])
    bounds = [(None, None)] * 2 + [(0, None)] * (2 * n)
    exact = scipy.optimize.linprog(cost, A_eq=constraints, b_eq=drawn.y, bounds=bounds)
    assert laws.huber(drawn) == pytest.approx(exact.x[1], abs=0.02)
    assert laws.huber(drawn, delta=100.0) == pytest.approx(laws.direct(drawn).value, abs=1e-3)


def test_errors_in_variables_equal_demings_closed_form() -> None:
    drawn = tasks(2, part_sd=0.0, scatter_sd=0.0, x_sd=0.05, y_sd=0.15)
    drawn = Tasks.of(drawn.names, drawn.complexity, drawn.y, x_sd=0.02, y_sd=0.06)
    sxx, syy = np.var(drawn.x), np.var(drawn.y)
    sxy = np.cov(drawn.x, drawn.y, bias=True)[0, 1]
    found = laws.errors_in_variables(drawn)
    scatter = float(found.means.split("given and ")[1].split(" dex")[0])
    ratio = (0.06**2 + scatter**2) / 0.02**2
    deming = (syy - ratio * sxx + math.sqrt((syy - ratio * sxx) ** 2 + 4 * ratio * sxy**2)) / (2 * sxy)
    assert found.value == pytest.approx(deming, rel=0.005)


def test_errors_in_variables_lie_between_the_two_directions() -> None:
    for seed in range(5):
        drawn = tasks(seed, x_sd=0.05)
        low, middle, high = (f(drawn).value for f in (laws.direct, laws.errors_in_variables, laws.inverted))
        assert low < middle < high
    drawn = tasks(0)
    assert laws.errors_in_variables(drawn).value == pytest.approx(laws.direct(drawn).value, rel=1e-3)


def test_all_directions_are_named() -> None:
    names = [found.method for found in laws.directions(tasks(0, x_sd=0.03))]
    assert names == ["direct", "inverted", "errors in variables", "crossed effects"]


@pytest.mark.parametrize("x_sd", [0.0, 0.05])
def test_the_crossed_likelihood_equals_a_brute_force_normal_density(x_sd: float) -> None:
    drawn = tasks(3, x_sd=x_sd)
    crossed, slopes = Crossed(drawn), np.asarray([1.5, 3.0])
    found = crossed._likelihood(slopes)[0]
    shares = drawn.parts / drawn.parts.sum(axis=1, keepdims=True)
    expected = np.empty_like(found)
    for at in np.ndindex(found.shape):
        slope, scatter, spread = slopes[at[1]], laws._SCATTERS_DEX[at[2]], laws._PART_SDS_DEX[at[3]]
        x, blur = laws._shrunk(drawn.x, drawn.x_sd, drawn.x.mean(), crossed._true_variances()[at[0]])
        # A constant of very wide normal prior stands for the flat one.
        wide = 30.0
        covariance = np.diag(slope**2 * blur + scatter**2 + drawn.y_sd**2) + spread**2 * shares @ shares.T + wide**2
        expected[at] = scipy.stats.multivariate_normal.logpdf(drawn.y - slope * x, np.zeros(15), covariance)
    difference = found - expected
    np.testing.assert_allclose(difference, difference.flat[0], atol=1e-2)


def test_the_prediction_equals_conditioning_of_a_joint_normal() -> None:
    drawn = tasks(4)
    crossed, slopes = Crossed(drawn), np.asarray([2.9])
    parts = np.asarray([True, False, False, True])
    _, mean, variance = crossed._likelihood(slopes, (2.5, parts, 0.0))
    shares = np.vstack([drawn.parts / drawn.parts.sum(axis=1, keepdims=True), parts / 2])
    i, j, wide = 8, 4, 1e3
    noise = np.append(drawn.y_sd**2, 0.0) + laws._SCATTERS_DEX[i] ** 2
    covariance = np.diag(noise) + laws._PART_SDS_DEX[j] ** 2 * shares @ shares.T + wide**2
    solved = np.linalg.solve(covariance[:-1, :-1], covariance[:-1, -1])
    assert mean[0, 0, i, j] == pytest.approx(2.9 * 2.5 + solved @ (drawn.y - 2.9 * drawn.x), abs=1e-4)
    assert variance[0, 0, i, j] == pytest.approx(covariance[-1, -1] - solved @ covariance[:-1, -1], abs=1e-4)


def test_shared_operations_widen_the_interval_beyond_that_of_independent_points() -> None:
    slopes = np.random.default_rng(0)
    wider = 0
    for seed in slopes.integers(0, 10**6, 10):
        drawn = tasks(int(seed), part_sd=0.6, scatter_sd=0.02, exponent=0.5)
        crossed, direct = Crossed(drawn).exponent, laws.direct(drawn)
        assert None not in (crossed.low, crossed.high, direct.low, direct.high)
        wider += abs(crossed.value - 0.5) < abs(direct.value - 0.5)
    assert wider >= 6, "modelling the shared operations brings the exponent nearer to the truth"


def test_a_left_out_task_is_predicted_better_from_operations_seen_in_others() -> None:
    drawn = tasks(5, part_sd=0.4, scatter_sd=0.02)
    out = np.asarray([name == "MAX+SUM" for name in drawn.names])
    crossed = Crossed(drawn.take(~out))
    complexity, parts = float(drawn.complexity[out][0]), drawn.parts[out][0]
    middle, low, high = crossed.predict(complexity, parts)
    assert low < drawn.y[out][0] < high and low < middle < high
    unknown = crossed.predict(complexity, np.zeros(4, dtype=bool))
    measured = crossed.predict(complexity, parts, y_sd=0.3)
    assert high - low < measured[2] - measured[1]
    assert unknown[0] != middle


def test_the_measure_that_made_the_thresholds_predicts_better_than_a_noisy_copy() -> None:
    rng, drawn = np.random.default_rng(0), tasks(6)
    noisy = Tasks.of(drawn.names, drawn.complexity * 10 ** rng.normal(0, 0.3, 15), drawn.y)
    found = laws.better_predictor(drawn, noisy, rng, resamples=300)
    assert found.difference == pytest.approx(found.b - found.a)
    assert found.low > 0 and found.decided
    same = laws.better_predictor(drawn, Tasks.of(drawn.names, drawn.complexity * 2, drawn.y), rng, resamples=50)
    assert same.difference == pytest.approx(0, abs=1e-9) and not same.decided


def test_measures_of_different_tasks_are_not_compared() -> None:
    drawn = tasks()
    with pytest.raises(DataError, match="of the same tasks, in one order"):
        laws.better_predictor(drawn, drawn.take(np.arange(15) > 0), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("names", "complexity", "message"),
    [
        (["A", "B", "C"], [1, 2, 3], "at least four tasks"),
        (["A", "B", "C", "A"], [1, 2, 3, 4], "each once"),
        (["A", "B", "C", "D"], [1, 2, 3, 0], "complexities are positive"),
        (["A", "B", "C", "D"], [7, 7, 7, 7], "all tasks have complexity 7"),
    ],
)
def test_what_no_law_can_be_fitted_to_is_refused(names: list[str], complexity: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tasks.of(names, np.asarray(complexity, dtype=float), np.arange(len(names), dtype=float))


@pytest.mark.slow
@pytest.mark.parametrize("x_sd", [0.0, 0.05])
def test_a_simulated_exponent_falls_inside_its_interval_95_times_in_100(x_sd: float) -> None:
    rng, law, worlds = np.random.default_rng(0), Law(x_sd=x_sd), 1_000
    found = [Crossed(law.draw(rng)).exponent for _ in range(worlds)]
    hits = sum(e.low is not None and e.high is not None and e.low <= law.exponent <= e.high for e in found)
    assert hits / worlds == pytest.approx(0.95, abs=1.96 * math.sqrt(0.95 * 0.05 / worlds))
