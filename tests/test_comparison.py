"""Arms are compared over seeds, what has not learned is left out and said to be, and nothing is claimed without seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats

from kc_interp.comparison import (
    Arm,
    Comparison,
    Roster,
    compare,
    describe,
    permutation_p,
    summary,
    t_interval,
    welch_interval,
)
from kc_interp.errors import SpecError
from kc_interp.finding import Finding, Number
from tests.sample_findings import facts


def arm(name: str, values: Sequence[float | None], unlearned: Sequence[int] = (), key: str = "x") -> Arm:
    findings = [
        Finding("p", f"{name} {i}", "P", "s", "unlearned" if i in unlearned else "ok",
                (Number(key, "Score", value, control=0.1),))
        for i, value in enumerate(values)
    ]  # fmt: skip
    return Arm.of(name, findings)


def test_intervals_equal_scipys() -> None:
    a, b = [0.2, 0.5, 0.9, 0.4], [0.8, 1.1, 0.7]
    expected = scipy.stats.t.interval(0.95, 3, loc=np.mean(a), scale=scipy.stats.sem(a))
    np.testing.assert_allclose(t_interval(a), expected)
    welch = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(welch_interval(a, b), (welch.low, welch.high))


def test_the_welch_interval_covers_a_true_difference_at_its_stated_rate() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        low, high = welch_interval(rng.normal(0, 1, 4).tolist(), rng.normal(1, 2, 5).tolist()) or (0.0, 0.0)
        covered += low <= 1 <= high
    assert 0.92 <= covered / 600 <= 0.98


def test_the_permutation_p_value_equals_scipys_exact_test() -> None:
    a, b = [0.1, 0.4, 0.2, 0.35], [0.5, 0.3, 0.9, 0.8]
    exact = scipy.stats.permutation_test(
        (a, b), lambda x, y: abs(np.mean(x) - np.mean(y)), n_resamples=np.inf, alternative="greater"
    )
    assert permutation_p(a, b)[0] == pytest.approx(exact.pvalue)


def test_ties_count_as_extreme_so_equal_arms_have_p_one() -> None:
    assert permutation_p([0.3] * 4, [0.3] * 4) == (1.0, "")


@pytest.mark.parametrize(
    ("m", "n", "possible"), [(2, 2, False), (3, 3, False), (4, 4, True), (3, 4, True), (1, 9, False)]
)
def test_a_p_value_is_given_only_where_it_could_fall_below_five_percent(m: int, n: int, possible: bool) -> None:
    p, why = permutation_p(list(range(m)), list(range(100, 100 + n)))
    assert (p is not None and p < 0.05) if possible else p is None
    assert possible or why.startswith(f"with {m} and {n} seeds no p-value can fall below")


def test_too_many_assignments_are_refused_with_a_reason() -> None:
    p, why = permutation_p(list(range(12)), list(range(12)))
    assert p is None and "too many to enumerate" in why


def test_two_single_checkpoints_are_called_these_two_checkpoints_only() -> None:
    (difference,) = compare(arm("A", [0.2]), arm("B", [0.9]))
    assert (difference.value, difference.low, difference.p) == (pytest.approx(0.7), None, None)
    assert "these two checkpoints only" in describe(difference)
    assert "higher" not in describe(difference)


def test_one_checkpoint_on_one_side_gives_no_interval_either() -> None:
    (difference,) = compare(arm("A", [0.2]), arm("B", [0.9, 0.8]))
    assert difference.low is None and difference.note == "these 3 checkpoints only"


def test_seeds_that_do_not_vary_at_all_get_no_interval_and_the_reason() -> None:
    (difference,) = compare(arm("A", [1.0, 1.0]), arm("B", [1.0, 1.0]))
    assert difference.low is None and "do not differ at all" in difference.note


def test_models_that_have_not_learned_are_shown_but_not_averaged() -> None:
    a, b = arm("A", [0.2, 0.4, 9.0], unlearned=[2]), arm("B", [0.5, 0.7])
    (difference,) = compare(a, b)
    assert difference.a.mean == pytest.approx(0.3) and difference.a.n == 2
    assert [(seed.value, seed.counted, seed.learned) for seed in difference.a.seeds][2] == (9.0, False, False)
    assert "A: 1 of 3 models did not learn the task and is shown below but not averaged." in summary(
        Comparison("c", a, b)
    )
    (with_all,) = compare(a, b, learned_only=False)
    assert with_all.a.mean == pytest.approx(3.2)


def test_an_arm_in_which_nothing_learned_is_not_compared() -> None:
    (difference,) = compare(arm("A", [0.2, 0.4], unlearned=[0, 1]), arm("B", [0.5, 0.7]))
    assert difference.value is None and difference.note == "nothing to average in A"
    assert describe(difference) == "Score: not compared, nothing to average in A."


def test_the_callers_verdict_overrides_the_status_of_the_findings() -> None:
    a = arm("A", [0.2, 0.4], unlearned=[0])
    assert a.unlearned == ("A 0",)
    assert Arm("A", a.findings, {"A 0": True, "A 1": False}).unlearned == ("A 1",)


def test_a_value_that_was_not_measured_is_missing_and_never_zero() -> None:
    (difference,) = compare(arm("A", [None, 0.4, float("nan")]), arm("B", [0.5, 0.7]))
    assert difference.a.n == 1 and difference.a.mean == pytest.approx(0.4)
    assert [seed.value for seed in difference.a.seeds] == [None, 0.4, None]


def test_numbers_of_one_arm_only_are_counted_and_not_compared() -> None:
    comparison = Comparison("c", arm("A", [0.1, 0.2], key="x"), arm("B", [0.1, 0.2], key="y"))
    assert comparison.differences == () and comparison.one_sided == 2
    assert "no number in common" in summary(comparison)


def test_a_model_on_both_sides_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="'A 0' stands on both sides"):
        compare(arm("A", [0.1]), arm("A", [0.1]))


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([0.1, 0.11, 0.12], [0.9, 0.91, 0.92], "higher in B than in A"),
        ([0.9, 0.91, 0.92], [0.1, 0.11, 0.12], "lower in B than in A"),
        ([0.1, 0.5, 0.9], [0.2, 0.5, 0.9], "includes 0: no difference is shown"),
    ],
)
def test_the_sentence_follows_the_interval_and_swapping_arms_swaps_the_word(a: list, b: list, says: str) -> None:
    (difference,) = compare(arm("A", a), arm("B", b))
    assert says in describe(difference)
    assert f"{difference.value:+.3g}".replace("-", "\u2212") in describe(difference)


def test_the_summary_counts_what_chance_alone_would_give() -> None:
    numbers = {
        name: [
            Finding("p", f"{name} {seed}", "P", "s", numbers=tuple(Number(f"k{i}", "K", base + i + seed / 100) for i in range(40)))
            for seed in range(3)
        ]
        for name, base in (("A", 0.0), ("B", 5.0))
    }  # fmt: skip
    says = summary(Comparison("c", Arm.of("A", numbers["A"]), Arm.of("B", numbers["B"])))
    assert "Of 40 numbers with a 95 % interval over seeds, 40 are higher and 0 are lower in B than in A" in says
    assert "about 2.0 of 40 intervals would exclude 0 by chance" in says


def test_the_roster_groups_by_arm_and_initialisation_and_refuses_equal_names() -> None:
    models = [facts(a, i, s) for a, i, s in itertools.product(("A", "B"), ("wide", "narrow"), (0, 1))]
    roster = Roster(tuple(models), "SUM", "strict.", 0.9)
    assert roster.arms == ("A", "B") and roster.initialisations == ("wide", "narrow")
    assert [m.seed for m in roster.cell("B", "wide")] == [0, 1]
    with pytest.raises(SpecError, match="give each model its own name"):
        Roster((models[0], models[0]), "SUM", "strict.", 0.9)
