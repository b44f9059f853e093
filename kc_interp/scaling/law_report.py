"""Which measure of a task's complexity predicts its threshold, and by which law? Over the conditions of one setting.

A point is an arm that differs from the others in its operations alone and whose threshold is known on both sides. What
is left out is listed: a censored threshold is no point, and since it is the hardest (or easiest) tasks that are
censored, a law over the rest speaks of thresholds within the sizes tried. Of many measures one predicts best by luck:
the intervals on differences between measures are not corrected for choosing the best first.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from kc_interp import plugins
from kc_interp.complexity.measure import FAMILIES, PREQUENTIAL, Measure, measures
from kc_interp.errors import KCInterpError, SpecError, did_you_mean
from kc_interp.finding import to_plain
from kc_interp.records import canonical
from kc_interp.scaling.analysis import Analysis, Axis, Condition, sets_digits, setting_words
from kc_interp.scaling.laws import (
    Better,
    Crossed,
    Exponent,
    FormFit,
    Tasks,
    better_predictor,
    compare_forms,
    directions,
    huber,
    influence,
    left_out_part_errors,
)
from kc_interp.scaling.thresholds import LEVEL, Estimate
from kc_interp.spec import TaskSpec
from kc_interp.tasks.listops import ListOps

LEAST_TASKS = 4
"""A law needs so many: with three, one that is left out is predicted by a line through two points."""

DEFAULT_MEASURES = (
    "code.*.deflate.joint",
    "code.numeric.ast.joint",
    "data.*.deflate",
    "algebra.entropy.*",
    "algebra.memorise",
    "algebra.monoid",
    "algebra.prefixes.joint",
)
"""Of every family and variant one; patterns as in file names."""

_MEASURED = ("operations", "weights", "modulus", "median", "depth", "max_operands", "p_operation", "shape", "lengths")
"""The settings of a task that the measures know; one with others (a shuffled table, say) is another task to them."""


Trained = Callable[[TaskSpec, Callable[[float], None]], Measure]
"""Takes the prequential measure of a task, reporting the share done."""


@dataclass(frozen=True)
class Complexity:
    """The measures of a task by key; none of them, and the reason, where it cannot be measured."""

    measures: Mapping[str, Measure] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Prediction:
    """A task's threshold (log10 parameters) predicted from all the others by the power law with crossed effects.

    `low` and `high` are the 95 % interval of what would be measured. `error_dex` is measured less predicted.
    """

    task: str
    measured: float
    predicted: float
    low: float
    high: float

    @property
    def error_dex(self) -> float:
        return self.measured - self.predicted

    @property
    def inside(self) -> bool:
        return self.low <= self.measured <= self.high


@dataclass(frozen=True, eq=False)
class Law:
    """What one measure says of the thresholds of one setting; without `tasks` there is none, and `note` says why.

    `forms` are compared by AICc, best first; `exponents` in both directions, by ODR and with crossed effects (the one
    to quote); `huber` is the exponent by Huber's loss, which a few tasks cannot decide; `influence` is the change of
    the direct exponent without each task; `left_out_operations` the error in dex on all tasks with an operation of the
    power law fitted without them. `missing` tasks have a threshold, but no value of this measure.
    """

    key: str
    title: str
    unit: str
    family: str
    part: str
    tasks: Tasks | None = None
    forms: tuple[FormFit, ...] = ()
    exponents: tuple[Exponent, ...] = ()
    huber: float | None = None
    influence: Mapping[str, float] = field(default_factory=dict)
    left_out_operations: Mapping[str, float | None] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def error_dex(self) -> float | None:
        """Root mean square error of tasks left out one at a time, by the power law."""
        return next((fit.left_out_task for fit in self.forms if fit.form == "power"), None)

    @property
    def exponent(self) -> Exponent | None:
        """The exponent to quote: with crossed effects."""
        return next((found for found in self.exponents if found.method == "crossed effects"), None)


@dataclass(frozen=True)
class Comparison:
    """A measure against the best one, on the tasks that have both. Above 0: `measure` errs more than `best`."""

    best: str
    measure: str
    tasks: int
    difference_dex: Better


@dataclass(frozen=True, eq=False)
class LawReport:
    """The laws of one setting: the points by task (log10 sizes), what was left out and why, a law a measure.

    `best` has the least error on tasks left out, among measures that have a value for every point.
    """

    point: Mapping[str, Any]
    axis: Axis
    thresholds: Mapping[str, Estimate]
    left_out: Mapping[str, str]
    laws: tuple[Law, ...] = ()
    best: str | None = None
    comparisons: tuple[Comparison, ...] = ()
    note: str = ""

    @property
    def setting(self) -> str:
        return setting_words(self.point)


def complexities(analysis: Analysis, families: Sequence[str] = FAMILIES) -> dict[str, Complexity]:
    """The complexity of every condition's task, by the condition's label; a third of a second each, alike ones once."""
    cache: dict[str, Complexity] = {}
    found = {}
    for condition in analysis.conditions:
        mark = canonical([condition.task.name, dict(condition.task.settings)])
        if mark not in cache:
            cache[mark] = complexity_of(condition.task, families)
        found[condition.label] = cache[mark]
    return found


def complexity_of(spec: TaskSpec, families: Sequence[str] = FAMILIES) -> Complexity:
    """The measures of one task. A setting that they do not know would be passed over in silence: that is refused."""
    try:
        task = plugins.make_task(spec)
    except KCInterpError as error:
        return Complexity(note=str(error))
    if not isinstance(task, ListOps):
        return Complexity(note=f"the measures are of ListOps; this task is {spec.name!r}")
    usual = ListOps()
    unknown = [
        name
        for name in spec.settings
        if name not in _MEASURED and getattr(task, name, None) != getattr(usual, name, None)
    ]
    if unknown:
        return Complexity(note=f"the measures know no {', '.join(unknown)}, which this task sets")
    try:
        return Complexity({measure.key: measure for measure in measures(task, families=families)})
    except KCInterpError as error:
        return Complexity(note=str(error))


def laws(
    analysis: Analysis,
    keys: Sequence[str] = DEFAULT_MEASURES,
    *,
    axis: Axis = "parameters",
    measured: Mapping[str, Complexity] | None = None,
    trained: Trained | None = None,
    on_progress: Callable[[float, str], None] = lambda share, says: None,
) -> tuple[LawReport, ...]:
    """The laws of every setting of the factors other than the width.

    `keys` name measures or match several ("code.*.joint"); `measured` are `complexities` that are there already.
    `trained` takes the prequential measure too, of those tasks alone that are points of a law (`prequential.Kept`).
    Raises SpecError for a key that matches no measure.
    """
    _require_known(keys, trains=trained is not None)
    if trained is not None:
        keys = (*keys, PREQUENTIAL)
    reports, settings = [], analysis.settings
    for index, point in enumerate(settings):
        points, left_out = _points(analysis.at(point), axis)
        thresholds = {name: one.skill.thresholds[axis].t for name, one in points.items()}
        if len(points) < LEAST_TASKS:
            tasks = f"{len(points)} task{'s' * (len(points) != 1)} with a threshold"
            note = f"{tasks}; a law needs at least {LEAST_TASKS}"
            reports.append(LawReport(point, axis, thresholds, left_out, note=note))
            continue
        if measured is None:
            measured = complexities(analysis, _families(keys))
        of_points = {name: measured[one.label] for name, one in points.items()}

        def show(share: float, says: str, before: int = index) -> None:
            on_progress((before + share) / len(settings), says)

        if trained is not None:
            of_points = _with_prequential(of_points, points, trained, lambda share, says: show(0.9 * share, says))
        chosen = _chosen(keys, of_points.values())
        if not chosen:
            why = next(
                (one.note for one in of_points.values() if one.note), f"no measure of theirs is {', '.join(keys)}"
            )
            note = f"none of these tasks can be measured: {why}"
            reports.append(LawReport(point, axis, thresholds, left_out, note=note))
            continue
        found = []
        for number, measure in enumerate(chosen):
            done = number / len(chosen)
            show(done if trained is None else 0.9 + 0.1 * done, measure.key)
            found.append(_law(measure, points, of_points, axis))
        best, comparisons = _compared(found)
        reports.append(LawReport(point, axis, thresholds, left_out, tuple(found), best, comparisons))
    return tuple(reports)


def _with_prequential(
    found: Mapping[str, Complexity],
    points: Mapping[str, Condition],
    trained: Trained,
    on_progress: Callable[[float, str], None],
) -> dict[str, Complexity]:
    """The complexities with one more measure; where it cannot be taken, the reason is their note."""
    more = {}
    for number, (name, one) in enumerate(points.items()):

        def show(share: float, says: str = f"learning {name}", before: int = number) -> None:
            on_progress((before + share) / len(points), says)

        show(0.0)
        try:
            measure = trained(one.task, show)
        except KCInterpError as error:
            more[name] = Complexity(found[name].measures, str(error))
        else:
            more[name] = Complexity({**found[name].measures, PREQUENTIAL: measure}, found[name].note)
    return more


def _require_known(keys: Sequence[str], *, trains: bool) -> None:
    """Refuse an unknown key also where no law can be fitted. Entropies by arity depend on the task: asked of it."""
    if tuple(keys) == DEFAULT_MEASURES:
        return
    if PREQUENTIAL in keys and not trains:
        raise SpecError(f"{PREQUENTIAL} is measured by training; ask for it with --prequential")
    known = [measure.key for measure in measures(ListOps())] + [PREQUENTIAL] * trains
    for key in keys:
        if not fnmatch.filter(known, key) and not key.startswith(("algebra.entropy.", "algebra.memorise.")):
            raise SpecError(f"no measure {key!r}{did_you_mean(key, known)}")


def _families(keys: Sequence[str]) -> list[str]:
    """The families that patterns can match, so that no others are measured."""
    return [family for family in FAMILIES if any(fnmatch.fnmatchcase(family, key.split(".")[0]) for key in keys)] or [
        *FAMILIES
    ]


def _chosen(keys: Sequence[str], found: Iterable[Complexity]) -> list[Measure]:
    """The measures that the keys name, as some task has them, in the order of the keys."""
    known = {key: measure for one in found for key, measure in one.measures.items()}
    matching = dict.fromkeys(name for key in keys for name in fnmatch.filter(known, key))
    return [known[name] for name in matching]


def _points(conditions: Sequence[Condition], axis: Axis) -> tuple[dict[str, Condition], dict[str, str]]:
    """The conditions that a law can hold as points, by their operations, and the others with the reason."""
    points: dict[str, Condition] = {}
    left_out = {}
    # Where two arms have the same operations, the one without peculiarities stands for them.
    for one in sorted(conditions, key=lambda each: each.arm.weights is not None or each.arm.steps is not None):
        name = "+".join(sorted(one.operations))
        threshold = one.skill.thresholds.get(axis)
        if one.arm.before or one.arm.start_from is not None:
            left_out[one.label] = "it began with other training, which its task does not show"
        elif sets_digits(one.arm):
            left_out[one.label] = "its digits are set from outside, which its task does not show"
        elif one.arm.settings:
            left_out[one.label] = f"it differs in more than its operations: {', '.join(one.arm.settings)}"
        elif not one.operations:
            left_out[one.label] = "its task has no operations to tell tasks apart by"
        elif threshold is None:
            left_out[one.label] = one.skill.note
        elif threshold.t.censored is not None or threshold.t.value is None:
            left_out[one.label] = threshold.t.says(axis)
        elif name in points:
            left_out[one.label] = f"it has the same operations as {points[name].label}"
        else:
            points[name] = one
    return points, left_out


def _law(measure: Measure, points: Mapping[str, Condition], measured: Mapping[str, Complexity], axis: Axis) -> Law:
    described = (measure.key, measure.title, measure.unit, measure.family, measure.part)
    values: dict[str, Measure] = {}
    missing = {}
    for name in points:
        value = measured[name].measures.get(measure.key)
        if value is None or value.value is None:
            missing[name] = measured[name].note or (value.note if value is not None else "") or "not measured"
        elif value.note == "more than":
            missing[name] = f"only a bound: more than {value.value:,.0f} {value.unit}"
        elif value.value <= 0:
            missing[name] = f"its value is {value.value:g}, which has no logarithm"
        else:
            values[name] = value
    if len(values) < LEAST_TASKS:
        note = f"{len(values)} of {len(points)} tasks have a value of this measure; a law needs at least {LEAST_TASKS}"
        return Law(*described, missing=missing, note=note)
    complexity = np.asarray([one.value for one in values.values()], dtype=float)
    if _constant_without_one(complexity):
        note = "all tasks, or all but one, have the same complexity; it cannot predict one that is left out"
        return Law(*described, missing=missing, note=note)
    posteriors = [points[name].skill.posteriors[axis] for name in values]
    thresholds = [points[name].skill.thresholds[axis].t.value for name in values]
    tasks = Tasks.of(
        tuple(values),
        complexity,
        np.asarray(thresholds, dtype=float),
        x_sd=np.asarray([_spread_dex(one) for one in values.values()]),
        y_sd=np.asarray([posterior.t_sd for posterior in posteriors]),
    )
    return Law(
        *described,
        tasks,
        compare_forms(tasks),
        directions(tasks),
        huber(tasks),
        influence(tasks),
        left_out_part_errors(tasks, "power"),
        tuple(_predictions(tasks)),
        missing,
    )


def _constant_without_one(complexity: Float[np.ndarray, " task"]) -> bool:
    """Whether the tasks that remain without one of them can all have one complexity, but for rounding."""
    return int(np.unique(np.log10(complexity).round(9), return_counts=True)[1].max()) >= len(complexity) - 1


def _spread_dex(measure: Measure) -> float:
    """The standard error of log10 of a measure that was estimated from samples; 0 of one that is exact."""
    if measure.low is None or measure.high is None or not measure.value:
        return 0.0
    half = (measure.high - measure.low) / 2 / float(norm.ppf((1 + LEVEL) / 2))
    return half / measure.value / math.log(10)


def _predictions(tasks: Tasks) -> Iterator[Prediction]:
    for index, name in enumerate(tasks.names):
        rest = Crossed(tasks.take(_all_but(index, len(tasks.names))))
        middle, low, high = rest.predict(
            float(tasks.complexity[index]), tasks.parts[index], float(tasks.x_sd[index]), float(tasks.y_sd[index])
        )
        yield Prediction(name, float(tasks.y[index]), middle, low, high)


def _all_but(index: int, count: int) -> Bool[np.ndarray, " task"]:
    return np.arange(count) != index


def _compared(found: Sequence[Law]) -> tuple[str | None, tuple[Comparison, ...]]:
    """The best measure, and each other one against it on the tasks that have both."""
    fitted = [(law, law.tasks, law.error_dex) for law in found if law.tasks is not None]
    full = [(error, law.key, tasks) for law, tasks, error in fitted if not law.missing and error is not None]
    if not full:
        return None, ()
    _, best, of_best = min(full, key=lambda one: one[0])
    comparisons = []
    for law, tasks, _ in fitted:
        if law.key == best:
            continue
        ours, theirs = (_common(one, other) for one, other in ((of_best, tasks), (tasks, of_best)))
        if _constant_without_one(ours.complexity) or _constant_without_one(theirs.complexity):
            continue  # on the few tasks that they share, one of the two predicts nothing
        better = better_predictor(ours, theirs, np.random.default_rng(0))
        comparisons.append(Comparison(best, law.key, len(ours.names), better))
    return best, tuple(comparisons)


def _common(tasks: Tasks, other: Tasks) -> Tasks:
    """The tasks that another measure has as well."""
    return tasks.take(np.asarray([name in other.names for name in tasks.names], dtype=bool))


def plain(report: LawReport) -> dict[str, Any]:
    """A report as plain data."""
    return to_plain(
        {
            "setting": report.setting,
            "point": report.point,
            "axis": report.axis,
            "thresholds": report.thresholds,
            "left_out": report.left_out,
            "note": report.note,
            "best": report.best,
            "comparisons": [
                {
                    "best": one.best,
                    "measure": one.measure,
                    "tasks": one.tasks,
                    "difference_dex": one.difference_dex.difference,
                    "low": one.difference_dex.low,
                    "high": one.difference_dex.high,
                    "decided": one.difference_dex.decided,
                }
                for one in report.comparisons
            ],
            "laws": [_plain_law(law) for law in report.laws],
        }
    )


def _plain_law(law: Law) -> dict[str, Any]:
    named = ("key", "title", "unit", "family", "part", "note", "missing", "influence", "left_out_operations")
    return {
        **{name: getattr(law, name) for name in named},
        "points": None if law.tasks is None else _points_of(law.tasks),
        "range_dex": None if law.tasks is None else law.tasks.range_dex,
        "forms": law.forms,
        "exponents": law.exponents,
        "huber_exponent": law.huber,
        "predictions": [{**vars(one), "error_dex": one.error_dex, "inside": one.inside} for one in law.predictions],
    }


def _points_of(tasks: Tasks) -> list[dict[str, Any]]:
    columns = (tasks.names, tasks.complexity.tolist(), tasks.y.tolist(), tasks.x_sd.tolist(), tasks.y_sd.tolist())
    names = ("task", "complexity", "threshold", "complexity_sd_dex", "threshold_sd_dex")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
