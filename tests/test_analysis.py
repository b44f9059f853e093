"""An analysis finds what was put into simulated records, says what it leaves out, and never claims a censored number."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kc_interp.errors import SpecError
from kc_interp.model import parameters
from kc_interp.records import Record
from kc_interp.scaling import analysis as analyses
from kc_interp.scaling import law_report
from kc_interp.scaling.analysis import AXES, Analysis, Condition, Contrast, analyse, time_to_learn
from kc_interp.scaling.simulation import CHANCE, LEVEL, OPERATIONS, Times, World
from kc_interp.scaling.study import Arm, Criterion, Study
from kc_interp.scaling.sweep import parameter_count
from kc_interp.scaling.thresholds import Posterior
from kc_interp.spec import ModelSpec, TaskSpec, from_plain, to_plain

WIDTHS = [8, 12, 16, 24, 32, 48, 64, 96, 128]
SUBSETS = ["+".join(c) for k in range(1, 5) for c in itertools.combinations(OPERATIONS, k)]
WITH_SUM = [name for name in SUBSETS if "SUM" in name]
BUDGET = 8_000

Truth = Callable[[Arm, Mapping[str, Any]], float]
"""A condition's planted threshold, log10 parameters."""


def arms(*names: str) -> list[dict[str, Any]]:
    return [{"name": name.lower().replace("+", "-"), "operations": name.split("+")} for name in names]


def study(**changes: Any) -> Study:
    """Two arms at two initialisations; `changes` replace its settings."""
    data: dict[str, Any] = {
        "name": "simulated",
        "seeds": 6,
        "grid": {"d_model": WIDTHS, "init": ["narrow", "wide"]},
        "arms": arms("SUM", "MAX+SUM"),
        "criterion": {"component": "SUM", "level": LEVEL},
    }
    return from_plain(Study, {**data, **changes})


def measured(accuracy: float, name: str) -> dict[str, Any]:
    """What an evaluation would say of one skill: both of its sets."""
    found = {"n": 100, "chance": CHANCE, "exact": {"value": accuracy}, "answer": {"value": accuracy}}
    return {"sets": {name: found, "atoms: SUM": found}, "items": 100}


def curve(learned_at: float, name: str, every: int = 200, budget: int = BUDGET) -> tuple[dict[str, Any], ...]:
    steps = range(every, budget + 1, every)
    return tuple({"step": step, "loss_nats": 1.0, name: 0.97 if step >= learned_at else 0.12} for step in steps)


def simulated(asked: Study, truth: Truth, seed: int = 0, slope: float = 0.08, lapse: float = 0.0) -> list[Record]:
    """Records of every run of a study, each condition a world of its own. No model is trained."""
    rng = np.random.default_rng(seed)
    records = []
    for arm, point in asked.conditions():
        for width in asked.grid.d_model:
            runs = [asked.run(arm, {**point, "d_model": width}, each) for each in asked.seed_list]
            size = parameter_count(runs[0])
            scores = World(truth(arm, point), slope, lapse).accuracies(np.full(len(runs), float(size)), rng)
            for run, score in zip(runs, scores.tolist(), strict=True):
                name = "mixture" if len(arm.operations or ()) == 1 else asked.criterion.component or "mixture"
                at = float(rng.uniform(500, 7_500)) if score >= LEVEL else math.inf
                records.append(
                    Record(
                        key=run.key,
                        study=asked.name,
                        arm=arm.name,
                        seed=run.seed,
                        ensemble="e",
                        member=len(records),
                        d_model=width,
                        parameters=size,
                        spec=to_plain(run.spec),
                        learned=score >= LEVEL,
                        stages=tuple(to_plain(stage) for stage in run.stages[:-1]),
                        start=run.start,
                        metrics=measured(score, asked.criterion.set_name),
                        curve=curve(at, name),
                    )
                )
    return records


def synergy_of(size: float) -> Truth:
    """SUM alone at 10^4.8 from the narrow and 10^4.5 from the wide initialisation; together `size` dex below."""

    def truth(arm: Arm, point: Mapping[str, Any]) -> float:
        alone = 4.8 if point.get("init") == "narrow" else 4.5
        return alone - size * (len(arm.operations or ()) > 1)

    return truth


def simple(truth: Truth | None = None, **changes: Any) -> Analysis:
    """An analysis of simulated records; together half a dex smaller where no truth is given."""
    asked = study(**changes)
    return analyse(asked, simulated(asked, truth or synergy_of(0.5)))


def one_of(found: Analysis, kind: str, axis: str = "parameters", **facts: str) -> Contrast:
    [contrast] = [
        one
        for one in found.contrasts
        if (one.kind, one.axis) == (kind, axis) and all(getattr(one, name) == value for name, value in facts.items())
    ]
    return contrast


def posterior_of(condition: Condition) -> Posterior:
    assert condition.posterior is not None
    return condition.posterior


# Conditions and thresholds


def test_planted_thresholds_lie_within_their_intervals() -> None:
    """Sixteen conditions: fewer than 13 inside would happen once in 200 analyses whose intervals are right."""
    asked = study(arms=arms(*WITH_SUM))
    truths = {c.label: 4.9 - 0.1 * len(c.operations) - 0.2 * (c.point["init"] == "wide") for c in analyse(asked, []).conditions}  # fmt: skip
    found = analyse(
        asked,
        simulated(asked, lambda arm, point: 4.9 - 0.1 * len(arm.operations or ()) - 0.2 * (point["init"] == "wide")),
    )
    inside = 0
    for one in found.conditions:
        assert one.threshold is not None
        t = one.threshold.t
        assert t.low is not None and t.high is not None
        inside += t.low <= truths[one.label] <= t.high
    assert len(found.conditions) == 16 and inside >= 13


def test_a_condition_has_its_runs_by_width_and_seed_and_a_label_for_people() -> None:
    found = simple()
    assert [one.label for one in found.conditions] == ["SUM, narrow", "SUM, wide", "MAX+SUM, narrow", "MAX+SUM, wide"]
    for one in found.conditions:
        assert [(r.d_model, r.seed) for r in one.records] == list(itertools.product(WIDTHS, range(6)))
        assert {r.spec["model"]["init"] for r in one.records} == {one.point["init"]}
    assert (found.runs, found.asked, found.complete) == (216, 216, True)


def test_sizes_without_embeddings_are_all_parameters_less_the_tables() -> None:
    one = simple().conditions[2]
    for record, size, rest in zip(one.records, *(one.sizes[axis].tolist() for axis in AXES), strict=True):
        model = from_plain(ModelSpec, record.spec["model"])
        shapes = parameters.shapes(model, d_vocab=17, n_ctx=60)  # end, two brackets, >, =, two operations, ten digits
        tables = sum(math.prod(s) for name, s in shapes.items() if name.startswith(("embed", "pos_embed", "unembed")))
        assert size == record.parameters and rest == size - tables


def test_both_axes_tell_the_same_runs() -> None:
    one = simple().conditions[0]
    assert set(one.skill.thresholds) == set(AXES)
    total, rest = (one.skill.thresholds[axis] for axis in AXES)
    assert (total.runs, total.learned) == (rest.runs, rest.learned) == (54, one.skill.successes)
    assert rest.t.value is not None and total.t.value is not None and rest.t.value < total.t.value


def test_the_accuracy_curve_starts_at_the_chance_in_the_records() -> None:
    one = simple().conditions[0]
    assert one.accuracy is not None and one.accuracy.chance == pytest.approx(CHANCE)
    assert one.accuracy.t.value == pytest.approx(4.8, abs=0.25)


def test_the_atoms_have_a_threshold_of_their_own() -> None:
    asked = study()
    records = simulated(asked, synergy_of(0.5))
    easy = {"n": 100, "chance": CHANCE, "exact": {"value": 1.0}}
    changed = [dataclasses.replace(r, metrics={"sets": {**r.metrics["sets"], "atoms: SUM": easy}}) for r in records]
    [one, *_] = analyse(asked, changed).conditions
    assert one.atoms.criterion == Criterion("SUM", LEVEL, "atoms", "exact")
    assert one.atoms.successes == 54 > one.skill.successes
    assert one.atoms.thresholds["parameters"].t.censored == "below"


def test_verdicts_follow_the_criterion_as_it_is_now() -> None:
    asked = study()
    records = simulated(asked, synergy_of(0.5))
    lenient = dataclasses.replace(asked, criterion=Criterion("SUM", 0.01))
    assert [one.skill.successes for one in analyse(lenient, records).conditions] == [54] * 4


def test_runs_are_placed_by_their_settings_and_strangers_are_named() -> None:
    asked = study(grid={"d_model": [8, 16], "init": ["narrow"], "shape": [[2, 1], [1, 5]]})
    records = simulated(asked, synergy_of(0.5))
    tuned = [dataclasses.replace(r, spec={**r.spec, "train": {**r.spec["train"], "lr": 0.1}}) for r in records]
    assert analyses.plain(analyse(asked, tuned)) == analyses.plain(analyse(asked, records))
    hooked = {**records[0].spec, "model": {**records[0].spec["model"], "init": "hooked"}}
    odd = [dataclasses.replace(records[0], spec=hooked), dataclasses.replace(records[1], arm="gone")]
    found = analyse(asked, [*records[2:], *odd, dataclasses.replace(records[0], study="another")])
    assert found.runs == len(records) - 2 and not found.complete
    assert found.strangers == (
        "1 run of arm 'gone' at 2 layers, narrow, which the study does not ask for",
        "1 run of arm 'sum' at 2 layers, hooked, which the study does not ask for",
    )


def test_runs_are_placed_by_the_length_of_their_questions() -> None:
    found = simple(grid={"d_model": [16, 64], "lengths": [[4, 8], [9, 14]]})
    assert found.complete and not found.strangers and all(len(one.records) == 12 for one in found.conditions)
    assert [one.setting for one in found.conditions[:2]] == ["4 to 8 symbols", "9 to 14 symbols"]
    assert found.conditions[1].task.settings["lengths"] == [9, 14]
    assert [bound.setting for bound in found.bounds] == ["4 to 8 symbols", "9 to 14 symbols"]


def test_runs_that_chose_a_learning_rate_are_never_part_of_it() -> None:
    asked = study()
    records = simulated(asked, synergy_of(0.5))
    tuning = [dataclasses.replace(r, arm=f"tuning: {r.arm}", key=f"t{r.key}") for r in records[:20]]
    plain, mixed = (analyses.plain(analyse(asked, each)) for each in (records, [*tuning, *records]))
    assert (plain.pop("tuning_runs"), mixed.pop("tuning_runs")) == (0, 20)
    assert plain == mixed
    only = analyse(asked, tuning)
    assert (only.runs, only.asked, only.strangers) == (0, 216, ())


def test_an_analysis_of_nothing_says_so() -> None:
    found = analyse(study(), [])
    assert (found.runs, found.contrasts, found.bounds) == (0, (), ())
    assert {one.skill.note for one in found.conditions} == {"no runs yet"}
    json.dumps(analyses.plain(found), allow_nan=False)


def test_an_arm_without_the_skill_has_no_threshold_and_says_why() -> None:
    asked = study(arms=arms("SUM", "MAX"))
    records = [
        dataclasses.replace(r, metrics={"sets": {}}) if r.arm == "max" else r for r in simulated(asked, synergy_of(0))
    ]
    one = analyse(asked, records).conditions[2]
    assert one.threshold is None and one.times is None
    assert one.skill.note == "none of its runs was measured on 'test: SUM'"
    assert one.notes == ("it does not train on SUM",)


def test_an_adaptive_study_is_complete_when_every_condition_is_settled() -> None:
    asked = study(placement={"kind": "adaptive", "runs": 54}, grid={"d_model": WIDTHS})
    records = simulated(asked, synergy_of(0.5))
    assert analyse(asked, records).complete and not analyse(asked, records[1:]).complete
    narrow = dataclasses.replace(asked, placement=dataclasses.replace(asked.placement, runs=99, width_dex=0.6))
    assert analyse(narrow, records).complete
    assert not analyse(dataclasses.replace(narrow, placement=dataclasses.replace(narrow.placement, width_dex=0.01)), records).complete  # fmt: skip


# Censored


def test_a_study_in_which_no_run_learned_gives_bounds_and_no_number() -> None:
    found = simple(lambda arm, point: 9.0)
    for one in found.conditions:
        assert one.threshold is not None
        t = one.threshold.t
        assert (t.value, t.high, t.censored) == (None, None, "above") and t.low is not None
        assert t.low > math.log10(one.sizes["parameters"].max()) - 0.1
    assert {(one.dex.censored, one.excludes_zero) for one in found.contrasts} == {("both", False)}
    [bound] = found.bounds
    assert (bound.capacity.size, bound.capacity.note) == (None, "none of 216 runs solves it")
    json.dumps(analyses.plain(found), allow_nan=False)
    reports = law_report.laws(found)
    assert [one.note for one in reports] == ["0 tasks with a threshold; a law needs at least 4"] * 2
    assert reports[0].left_out["SUM, narrow"].startswith("censored: above")


def test_a_study_in_which_every_run_learned_gives_bounds_from_above() -> None:
    for one in simple(lambda arm, point: 1.0).conditions:
        assert one.threshold is not None
        t = one.threshold.t
        assert (t.value, t.low, t.censored) == (None, None, "below") and t.high is not None


def test_one_censored_arm_gives_a_one_sided_synergy() -> None:
    """SUM alone is never learned, so together it helps by at least as much as the sizes tell."""
    found = simple(lambda arm, point: 9.0 if arm.name == "sum" else 4.3)
    contrast = one_of(found, "synergy", of="MAX+SUM, wide")
    assert (contrast.synergy.censored, contrast.synergy.value, contrast.synergy.high) == ("above", None, None)
    assert contrast.synergy.low is not None and contrast.synergy.low > 0 and contrast.excludes_zero
    assert (contrast.dex.censored, contrast.dex.high) == ("below", -contrast.synergy.low)


# Contrasts and capacity


@pytest.mark.parametrize("planted", [0.6, -0.4])
def test_the_sign_of_a_synergy_is_that_of_what_was_planted(planted: float) -> None:
    found = simple(synergy_of(planted))
    for init in ("narrow", "wide"):
        contrast = one_of(found, "synergy", of=f"MAX+SUM, {init}", against=f"SUM, {init}")
        synergy = contrast.synergy
        assert synergy.low is not None and synergy.high is not None and synergy.value is not None
        assert synergy.low <= planted <= synergy.high and contrast.excludes_zero
        assert synergy.value == -(contrast.dex.value or 0) and math.copysign(1, synergy.value) == math.copysign(1, planted)  # fmt: skip


def test_a_synergy_of_nothing_covers_zero() -> None:
    found = simple(synergy_of(0.0))
    assert not any(one.excludes_zero for one in found.contrasts if one.kind == "synergy")


def test_a_factor_is_a_contrast_within_an_arm() -> None:
    contrast = one_of(simple(), "factor", of="SUM, wide")
    assert (contrast.against, contrast.factor, contrast.setting) == ("SUM, narrow", "init", "")
    assert contrast.dex.low is not None and contrast.dex.high is not None
    assert contrast.dex.low <= -0.3 <= contrast.dex.high


def test_an_interaction_says_by_how_much_an_arm_helps_more_at_a_level() -> None:
    helps = {"narrow": 0.7, "wide": 0.1}
    found = simple(lambda arm, point: 4.8 - helps[point["init"]] * (len(arm.operations or ()) > 1))
    contrast = one_of(found, "interaction", of="MAX+SUM, wide", against="MAX+SUM, narrow")
    assert contrast.factor == "init" and contrast.synergy.low is not None and contrast.synergy.high is not None
    assert contrast.synergy.low <= 0.1 - 0.7 <= contrast.synergy.high < 0 and contrast.excludes_zero


def test_each_level_of_a_factor_is_held_against_the_first_alone() -> None:
    found = simple(lambda arm, point: 4.5, grid={"d_model": [16, 64], "init": ["narrow", "wide", "hooked"], "n_heads": [1, 2]})  # fmt: skip
    factors = [(one.of, one.against, one.setting) for one in found.contrasts if one.kind == "factor" and one.axis == "parameters"]  # fmt: skip
    assert ("SUM, 1 head, hooked", "SUM, 1 head, narrow", "1 head") in factors
    assert ("SUM, 2 heads, narrow", "SUM, 1 head, narrow", "narrow") in factors
    assert len(factors) == 2 * (2 * 2 + 3)


def test_controls_are_arms_of_the_same_operations_and_other_arms_of_the_component_alone() -> None:
    more = [
        {"name": "later", "operations": ["SUM"], "before": [{"operations": ["MAX"], "steps": 100}]},
        {"name": "seldom", "operations": ["MAX", "SUM"], "weights": [9.0, 1.0]},
    ]
    found = simple(arms=[*arms("SUM", "MAX+SUM"), *more], grid={"d_model": WIDTHS})
    assert [one.label for one in found.conditions] == ["SUM", "MAX+SUM", "later", "seldom"]
    pairs = {kind: [(o.of, o.against) for o in found.contrasts if o.kind == kind and o.axis == "parameters"] for kind in ("synergy", "control")}  # fmt: skip
    assert pairs["synergy"] == [("MAX+SUM", "SUM"), ("seldom", "SUM")]
    assert pairs["control"] == [("MAX+SUM", "later"), ("later", "SUM"), ("seldom", "later"), ("seldom", "MAX+SUM")]


def test_an_arm_is_held_against_the_component_alone_under_its_own_settings() -> None:
    deep = [
        {"name": "deep-sum", "operations": ["SUM"], "settings": {"depth": 1}},
        {"name": "deep-joint", "operations": ["MAX", "SUM"], "settings": {"depth": 1}},
    ]
    found = simple(arms=[*arms("SUM", "MAX+SUM"), *deep], grid={"d_model": WIDTHS})
    synergies = [(one.of, one.against) for one in found.contrasts if one.kind == "synergy" and one.axis == "parameters"]
    assert synergies == [("MAX+SUM", "SUM"), ("deep-joint", "deep-sum")]


def test_an_arm_whose_digits_are_set_is_a_control_and_never_the_reference() -> None:
    circle = {"name": "circle", "operations": ["SUM"], "digits": "circle"}
    found = simple(arms=[circle, *arms("SUM", "MAX+SUM")], grid={"d_model": WIDTHS})
    assert [one.label for one in found.conditions] == ["circle", "SUM", "MAX+SUM"]
    pairs = [(one.kind, one.of, one.against) for one in found.contrasts if one.axis == "parameters"]
    assert ("synergy", "MAX+SUM", "SUM") in pairs and ("control", "SUM", "circle") in pairs
    frozen = {"name": "frozen", "operations": ["MIN", "SUM"], "freeze_digits": True}
    [one] = law_report.laws(simple(arms=[circle, *arms("SUM", "MAX+SUM"), frozen], grid={"d_model": WIDTHS}))
    assert list(one.thresholds) == ["SUM", "MAX+SUM"]
    assert set(one.left_out) == {"circle", "frozen"} and "digits are set from outside" in one.left_out["frozen"]


def test_runs_of_an_arm_with_steps_of_its_own_are_not_strangers_under_the_grids() -> None:
    short = {"name": "short", "operations": ["SUM"], "steps": 500}
    found = simple(arms=[*arms("SUM"), short], grid={"d_model": WIDTHS, "steps": [BUDGET]})
    assert not found.strangers and found.complete
    assert [len(one.records) for one in found.conditions] == [6 * len(WIDTHS)] * 2
    assert {record.spec["train"]["steps"] for record in found.conditions[1].records} == {500}


def test_the_capacity_bound_is_the_smallest_run_that_learned_in_any_arm() -> None:
    found = simple()
    [bound] = found.bounds
    sizes = [r.parameters for one in found.conditions for r in one.records if r.learned]
    assert bound.capacity.size == min(sizes)
    assert set(bound.capacity.distances_dex) == {one.label for one in found.conditions}
    t, distance = posterior_of(found.conditions[0]).t, bound.capacity.distances_dex["SUM, narrow"]
    assert distance.value is not None and t.value is not None
    assert distance.value == pytest.approx(t.value - math.log10(min(sizes)))


def test_models_of_another_kind_and_other_tasks_have_bounds_of_their_own() -> None:
    more = {"name": "shallow", "operations": ["SUM"], "settings": {"depth": 1}}
    grid = {"d_model": [16, 64], "init": ["narrow", "wide"], "shape": [[2, 1], [1, 5]], "modulus": [7, 10]}
    found = simple(arms=[*arms("SUM", "MAX+SUM"), more], grid=grid)
    assert len(found.bounds) == 2 * 2 * 2
    first, *_ = found.bounds
    assert first.setting == "mod 7, 2 layers"
    assert first.conditions == tuple(
        f"{a}, mod 7, 2 layers, {i}" for a in ("SUM", "MAX+SUM") for i in ("narrow", "wide")
    )


# Times to learn


def record_with(points: Sequence[Mapping[str, Any]], operations: Sequence[str] = ("SUM",), before: Sequence[Sequence[str]] = ()) -> Record:  # fmt: skip
    def spec(names: Sequence[str]) -> dict[str, Any]:
        return {"task": {"name": "listops", "settings": {"operations": list(names)}}}

    return Record(
        key="", study="simulated", arm="a", seed=0, ensemble="", member=0, d_model=8, parameters=1,
        spec=spec(operations), stages=tuple(map(spec, before)), metrics={}, curve=tuple(points),
    )  # fmt: skip


def points(name: str, *values: float | None) -> list[dict[str, Any]]:
    return [{"step": 100 * (i + 1), **({} if value is None else {name: value})} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.1, 0.95, 0.99), (200, True, 100)),
        ((0.95, 0.95, 0.99), (100, True, 0)),
        ((0.1, 0.95, 0.2, 0.9, 1.0), (400, True, 300)),  # a dip: it did not stay
        ((0.1, 0.95, 0.89), (300, False, 300)),
        ((0.1, 0.1, 0.1), (300, False, 300)),
    ],
)
def test_a_run_has_learned_from_the_point_on_which_it_stays(values: tuple[float, ...], expected: tuple[int, bool, int]) -> None:  # fmt: skip
    criterion = Criterion("SUM", 0.9)
    assert time_to_learn(record_with(points("mixture", *values)), criterion) == expected
    assert time_to_learn(record_with(points("SUM", *values), ["MAX", "SUM"]), criterion) == expected


def test_the_accuracy_of_other_operations_is_not_taken_for_the_components() -> None:
    """A curriculum is at once perfect on MAX, under "mixture", before it has met SUM."""
    first = [{**p, "stage": 0} for p in points("mixture", 1.0, 1.0)]
    second = [{"step": 300, "stage": 1, "mixture": 0.2}, {"step": 400, "stage": 1, "mixture": 0.97}]
    assert time_to_learn(record_with([*first, *second], ["SUM"], [["MAX"]]), Criterion("SUM", 0.9)) == (400, True, 300)


def test_without_a_component_the_mixture_counts() -> None:
    record = record_with([{"step": 100, "mixture": 0.95, "SUM": 0.1}], ["MAX", "SUM"])
    assert time_to_learn(record, Criterion(None, 0.9)) == (100, True, 0)


def test_planted_times_are_found_at_each_width() -> None:
    asked = study(seeds=80, grid={"d_model": [16, 64]}, arms=arms("SUM"))
    rng = np.random.default_rng(1)
    truth = {16: Times(3.6, 0.1, 0.5), 64: Times(3.3, 0.1, 0.05)}
    drawn = {width: iter(times.draw(80, BUDGET, rng)[0].tolist()) for width, times in truth.items()}
    records = [
        dataclasses.replace(r, curve=curve(at if (at := next(drawn[r.d_model])) < BUDGET else math.inf, "mixture"))
        for r in simulated(asked, lambda arm, point: 4.0)
    ]
    [one] = analyse(asked, records).conditions
    assert one.times is not None and list(one.times.by_width) == [16, 64]
    late, early = one.times.by_width[16], one.times.by_width[64]
    assert (late.runs, early.runs) == (80, 80) and late.learned < early.learned
    median = early.survival.median
    expected = 3.3 + 0.1 * 0.066  # the 52.6 % quantile of those who ever learn
    assert median.low is not None and median.high is not None and median.low <= expected <= median.high
    steps, share = early.kaplan_meier.steps, early.kaplan_meier.learned
    after = int(np.searchsorted(steps, 10**expected))
    assert share[after - 1] - 0.1 <= 0.5 <= share[after] + 0.1
    assert late.survival.quantile(0.9).censored == "above"


def test_the_budget_of_runs_that_all_learned_early_is_how_long_they_were() -> None:
    asked = study(seeds=20, grid={"d_model": [16]}, arms=arms("SUM"))
    records = [dataclasses.replace(r, curve=curve(600, "mixture")) for r in simulated(asked, lambda arm, point: 4.0)]
    [one] = analyse(asked, records).conditions
    assert one.times is not None
    cell = one.times.by_width[16]
    assert cell.learned == 20 and cell.survival.longest == pytest.approx(math.log10(BUDGET))
    assert cell.survival.median.censored is None and cell.survival.by(BUDGET).value is not None


def test_runs_without_a_curve_are_counted_and_not_guessed() -> None:
    asked = study()
    records = [dataclasses.replace(r, curve=None) if r.seed else r for r in simulated(asked, synergy_of(0.5))]
    one = analyse(asked, records).conditions[0]
    assert one.times is not None and (len(one.times.steps), one.times.unread) == (9, 45)
    assert one.notes == ("45 runs have no learning curve",)
    bare = analyse(asked, [dataclasses.replace(r, curve=None) for r in records]).conditions[0]
    assert bare.times is None and bare.notes == ("no learning curve was read",)


# Laws


KEY = "code.numeric.deflate.joint"
KEYS = (KEY, "code.symbolic.ast.joint")


def code_size(operations: Sequence[str]) -> float:
    found = law_report.complexity_of(TaskSpec(settings={"operations": list(operations)}), ["code"])
    value = found.measures[KEY].value
    assert value is not None
    return value


@pytest.fixture(scope="module")
def lawful() -> Analysis:
    """All fifteen subsets, judged by their own mixture, their thresholds a power law of the size of their code."""
    asked = study(arms=arms(*SUBSETS), criterion={"level": LEVEL}, grid={"d_model": WIDTHS}, seeds=8)
    return analyse(asked, simulated(asked, lambda arm, point: 4.4 + 1.5 * (math.log10(code_size(arm.operations or ())) - 2.2), slope=0.05))  # fmt: skip


@pytest.fixture(scope="module")
def report(lawful: Analysis) -> law_report.LawReport:
    [found] = law_report.laws(lawful, KEYS)
    return found


def test_a_planted_exponent_lies_within_the_interval_that_is_quoted(report: law_report.LawReport) -> None:
    law = report.laws[0]
    assert law.key == KEY and law.tasks is not None and len(law.tasks.names) == 15
    assert law.exponent is not None and law.exponent.low is not None and law.exponent.high is not None
    assert law.exponent.low <= 1.5 <= law.exponent.high and law.exponent.low > 0
    assert [one.method for one in law.exponents] == ["direct", "inverted", "errors in variables", "crossed effects"]
    assert {one.range_dex for one in law.exponents} == {law.tasks.range_dex}
    assert law.forms[0].form != "constant" and set(law.influence) == set(law.tasks.names)
    assert set(law.left_out_operations) == set(OPERATIONS)


def test_every_task_is_predicted_from_the_others_with_its_error(report: law_report.LawReport) -> None:
    predictions = report.laws[0].predictions
    assert [one.task for one in predictions] == list(report.thresholds)
    assert sum(one.inside for one in predictions) >= 12
    for one in predictions:
        assert one.error_dex == pytest.approx((report.thresholds[one.task].value or 0) - one.predicted)
        assert one.low < one.predicted < one.high


def test_measures_are_compared_with_the_one_of_least_error_with_an_interval(report: law_report.LawReport) -> None:
    errors = {law.key: law.error_dex for law in report.laws}
    assert report.best == min(errors, key=lambda key: errors[key] or 9)
    [other] = report.comparisons
    gap = other.difference_dex
    assert (other.best, other.tasks) == (report.best, 15) and other.measure != report.best
    assert (
        gap.difference == pytest.approx((errors[other.measure] or 0) - (errors[other.best] or 0))
        and gap.difference >= 0
    )
    assert gap.low <= gap.difference <= gap.high


def test_a_report_is_plain_data(report: law_report.LawReport) -> None:
    data = json.loads(json.dumps(law_report.plain(report), allow_nan=False))
    assert data["best"] == report.best and len(data["laws"][0]["points"]) == 15
    assert data["laws"][0]["range_dex"] == pytest.approx(data["laws"][0]["exponents"][0]["range_dex"])


def test_a_censored_threshold_is_no_point_and_is_listed() -> None:
    asked = study(arms=arms(*WITH_SUM), grid={"d_model": WIDTHS})
    hard = ("SUM", "MAX+SUM")
    found = analyse(asked, simulated(asked, lambda arm, point: 9.0 if "+".join(arm.operations or ()) in hard else 4.3))
    [one] = law_report.laws(found, [KEY])
    assert set(one.left_out) == set(hard) and all(why.startswith("censored: above") for why in one.left_out.values())
    assert len(one.thresholds) == 6 and one.laws[0].tasks is not None


def test_with_three_tasks_it_says_so_in_words() -> None:
    found = simple(arms=arms("SUM", "MAX+SUM", "MED+SUM"))
    notes = [one.note for one in law_report.laws(found)]
    assert notes == ["3 tasks with a threshold; a law needs at least 4"] * 2


def test_an_arm_with_peculiarities_is_no_point_of_a_law() -> None:
    more = [
        {"name": "later", "operations": ["MIN"], "before": [{"operations": ["MAX", "SUM"], "steps": 100}]},
        {"name": "shallow", "operations": ["MIN", "SUM"], "settings": {"depth": 1}},
        {"name": "seldom", "operations": ["SUM", "MAX"], "weights": [1.0, 9.0]},
    ]
    found = simple(arms=[*arms("SUM", "MAX+SUM", "MED+SUM"), *more], grid={"d_model": WIDTHS})
    [one] = law_report.laws(found)
    assert list(one.thresholds) == ["SUM", "MAX+SUM", "MED+SUM"]
    assert one.left_out == {
        "later": "it began with other training, which its task does not show",
        "shallow": "it differs in more than its operations: depth",
        "seldom": "it has the same operations as MAX+SUM",
    }


def test_a_measure_that_is_only_bounded_or_constant_gives_no_law() -> None:
    asked = study(arms=arms(*WITH_SUM), grid={"d_model": WIDTHS})
    found = analyse(asked, simulated(asked, lambda arm, point: 4.3))
    monoid, entropy = law_report.laws(found, ["algebra.monoid", "algebra.entropy.2"])[0].laws
    assert monoid.tasks is None and "MAX+SUM" in monoid.missing
    assert monoid.missing["MAX+SUM"] == "only a bound: more than 300,000 maps"
    assert monoid.note == "1 of 8 tasks have a value of this measure; a law needs at least 4"
    assert entropy.tasks is not None
    easy = [arm for arm in SUBSETS if "SUM" not in arm]
    asked = study(arms=arms(*easy), criterion={"level": LEVEL}, grid={"d_model": WIDTHS})
    found = analyse(asked, simulated(asked, lambda arm, point: 4.3))
    [law] = law_report.laws(found, ["algebra.entropy.2"])[0].laws
    assert "it cannot predict one that is left out" in law.note


def test_patterns_name_measures_and_an_unknown_one_is_refused(lawful: Analysis) -> None:
    with pytest.raises(SpecError, match=r"no measure 'algebra.monoyd'; did you mean 'algebra.monoid'\?"):
        law_report.laws(lawful, ["algebra.monoyd"])
    with pytest.raises(SpecError, match="no measure 'cod"):
        law_report.laws(analyse(study(), []), ["cod.*"])


def test_a_task_that_the_measures_do_not_know_is_skipped_with_a_reason() -> None:
    found = law_report.complexity_of(TaskSpec("nothing"))
    assert not found.measures and "no task 'nothing' is installed" in found.note
    assert law_report.complexity_of(TaskSpec(settings={"modulus": 1})).note.startswith("modulus is 1")


def test_a_setting_that_the_measures_would_pass_over_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table shuffled by a setting that the programs do not know must not get the size of the unshuffled one."""
    monkeypatch.setattr(law_report, "_MEASURED", tuple(n for n in law_report._MEASURED if n != "modulus"))
    assert law_report.complexity_of(TaskSpec(settings={"modulus": 10}), ["algebra"]).measures
    found = law_report.complexity_of(TaskSpec(settings={"modulus": 7}), ["algebra"])
    assert not found.measures and found.note == "the measures know no modulus, which this task sets"


def test_complexities_are_by_condition_and_measured_once_a_task() -> None:
    found = analyse(study(), [])
    by_label = law_report.complexities(found, ["algebra"])
    assert set(by_label) == {one.label for one in found.conditions}
    assert by_label["SUM, narrow"] is by_label["SUM, wide"] and by_label["SUM, wide"] is not by_label["MAX+SUM, wide"]
