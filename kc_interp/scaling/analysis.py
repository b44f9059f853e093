"""What the records of a study say: thresholds, times to learn, contrasts between arms and settings, the capacity bound.

A *condition* is an arm under one setting of the factors other than the width; it has one threshold. Its runs are found
by what their settings say, not by their keys, so that a learning rate chosen later moves no run to another condition.
Verdicts are read from the metrics under the study's criterion as it is now. The unit is the run (a seed at a size).

Laws over the conditions of a setting stand in `law_report`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from kc_interp.errors import KCInterpError
from kc_interp.finding import to_plain
from kc_interp.records import Record, canonical
from kc_interp.scaling import thresholds
from kc_interp.scaling.accuracy_curves import AccuracyCurve, fit_accuracy
from kc_interp.scaling.factors import TASK_FACTORS, task_settings
from kc_interp.scaling.study import TUNING, Arm, Criterion, Study
from kc_interp.scaling.survival import KaplanMeier, Survival, fit_times, kaplan_meier
from kc_interp.scaling.sweep import total_runs
from kc_interp.scaling.thresholds import Capacity, Estimate, Posterior, Threshold
from kc_interp.spec import ModelSpec, TaskSpec, from_plain

Axis = Literal["parameters", "non-embedding"]
AXES: tuple[Axis, ...] = ("parameters", "non-embedding")
"""All trainable parameters; and those without the token and position tables and the unembedding."""


@dataclass(frozen=True, eq=False)
class Skill:
    """Which runs can do something (`criterion`), and at what size that becomes likely, on both axes of size.

    `learned` is parallel to the condition's records; None: the run's task lacks the skill. Without any verdict there
    is no posterior, and `note` says why.
    """

    criterion: Criterion
    learned: tuple[bool | None, ...]
    posteriors: Mapping[Axis, Posterior] = field(default_factory=dict)
    thresholds: Mapping[Axis, Threshold] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def runs(self) -> int:
        """How many runs have a verdict."""
        return sum(verdict is not None for verdict in self.learned)

    @cached_property
    def successes(self) -> int:
        return sum(verdict is True for verdict in self.learned)


@dataclass(frozen=True, eq=False)
class Cell:
    """The times to learn of one condition at one width, in steps (the survival's own times are log10 steps)."""

    d_model: int
    survival: Survival
    kaplan_meier: KaplanMeier

    @property
    def runs(self) -> int:
        return self.survival.runs

    @property
    def learned(self) -> int:
        return self.survival.learned


@dataclass(frozen=True, eq=False)
class Times:
    """When each run learned: the first point of its learning curve from which on every point is at or above the level.

    A point's accuracy is the strict teacher-forced one (exact chain) on the criterion's component, whatever metric the
    criterion itself reads, on the few hundred items of the curve; so a verdict at the end of training may differ. A run
    whose last point is below is censored at that point. `since` is the last point below the level (0: none), so that
    learning lies between `since` and `steps`. Stages before the arm's own count into the steps, and their points are
    below where they do not train on the component; weights taken over from another arm start at step 0. `budget` is how
    long each run was. `unread` runs have no curve.
    """

    d_model: Int[np.ndarray, " run"]
    steps: Float[np.ndarray, " run"]
    learned: Bool[np.ndarray, " run"]
    since: Float[np.ndarray, " run"]
    budget: Float[np.ndarray, " run"]
    unread: int = 0

    @cached_property
    def by_width(self) -> dict[int, Cell]:
        """Every width with runs, ascending."""
        return {width: self._cell(width) for width in sorted(set(self.d_model.tolist()))}

    def _cell(self, width: int) -> Cell:
        here = self.d_model == width
        steps, learned, since = self.steps[here], self.learned[here], self.since[here]
        with warnings.catch_warnings():
            # scipy warns of what `KaplanMeier` says: where all or none have learned an end of the interval is nan.
            warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
            product_limit = kaplan_meier(steps, learned)
        survival = fit_times(steps, learned, since, budget_steps=float(self.budget[here].max()))
        return Cell(width, survival, product_limit)


@dataclass(frozen=True, eq=False)
class Condition:
    """An arm at one setting (`point`) of the factors other than the width, with its runs by width and seed.

    `skill` is the study's criterion; `atoms` the same level of exact single steps of its component. `accuracy` rises
    from the majority answer's score; of exact chains that is a floor from above. `notes` say what is missing and why.
    """

    arm: Arm
    point: Mapping[str, Any]
    label: str
    operations: tuple[str, ...]
    task: TaskSpec
    records: tuple[Record, ...]
    sizes: Mapping[Axis, Float[np.ndarray, " run"]]
    skill: Skill
    atoms: Skill
    accuracy: AccuracyCurve | None = None
    times: Times | None = None
    notes: tuple[str, ...] = ()

    @property
    def setting(self) -> str:
        """The factors in words: "narrow, mod 10"."""
        return setting_words(self.point)

    @property
    def posterior(self) -> Posterior | None:
        """Of the criterion, in all parameters; None without a run that it can be asked of."""
        return self.skill.posteriors.get("parameters")

    @property
    def threshold(self) -> Threshold | None:
        return self.skill.thresholds.get("parameters")


@dataclass(frozen=True)
class Contrast:
    """Two conditions that differ in one respect. `dex` is log10 threshold of `of` less that of `against`.

    `kind`: "synergy" (an arm with further operations against the component alone), "control" (against another arm of
    the component alone, or one of the same operations that differs in settings, weights, data or schedule), "factor"
    (one arm at two levels of `factor`), "interaction" (by how much an arm's "synergy" contrast differs between two
    levels of `factor`). Negative `dex`: `of` needs fewer parameters, or is helped more.
    """

    kind: Literal["synergy", "control", "factor", "interaction"]
    of: str
    against: str
    setting: str
    axis: Axis
    dex: Estimate
    factor: str | None = None

    @property
    def synergy(self) -> Estimate:
        """log10 threshold of `against` less that of `of`: positive, training as `of` does helps."""
        flipped: dict[Any, Any] = {"above": "below", "below": "above"}
        dex = self.dex
        value, low, high = (None if x is None else 0.0 - x for x in (dex.value, dex.high, dex.low))
        return Estimate(value, low, high, flipped.get(dex.censored, dex.censored), dex.note)

    @property
    def excludes_zero(self) -> bool:
        """Whether the 95 % interval, or the one-sided bound, leaves 0 out."""
        return (self.dex.low is not None and self.dex.low > 0) or (self.dex.high is not None and self.dex.high < 0)


@dataclass(frozen=True)
class Bound:
    """The capacity bound over the conditions of one `setting` (shape, modulus, vocabulary and the task's settings)."""

    setting: str
    conditions: tuple[str, ...]
    capacity: Capacity


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that a study's records say without a law.

    `runs` of `asked` were there (adaptively `asked` is the most there may be); `tuning` records were set aside, and
    `strangers` are those that belong to no condition of the study, in words.
    """

    study: Study
    conditions: tuple[Condition, ...]
    contrasts: tuple[Contrast, ...]
    bounds: tuple[Bound, ...]
    runs: int
    asked: int
    complete: bool
    tuning: int = 0
    strangers: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[Mapping[str, Any], ...]:
        """Every setting of the factors other than the width, once."""
        return tuple({canonical(one.point): one.point for one in self.conditions}.values())

    def at(self, point: Mapping[str, Any]) -> tuple[Condition, ...]:
        """The conditions of one setting, in the order of the study's arms."""
        return tuple(one for one in self.conditions if canonical(one.point) == canonical(point))


def analyse(study: Study, records: Sequence[Record]) -> Analysis:
    """The analysis of these records of a study, complete or not; learning curves only where records hold theirs."""
    ours = [record for record in records if record.study == study.name and not record.arm.startswith(TUNING)]
    tuning = sum(record.study == study.name for record in records) - len(ours)
    # An arm's own steps stand in its runs' settings, whatever the grid says.
    asked_for = [
        ((arm.name, *({**point, "steps": arm.steps} if arm.steps and "steps" in point else point).values()), arm, point)
        for arm, point in study.conditions()
    ]
    placed: dict[tuple[Any, ...], list[Record]] = {mark: [] for mark, _, _ in asked_for}
    varied = list(asked_for[0][2])
    strangers: dict[str, int] = {}
    for record in sorted(ours, key=lambda one: (one.d_model, one.seed, one.key)):
        point = _point_of(record.spec, varied)
        try:
            placed[record.arm, *point.values()].append(record)
        except KeyError:
            what = f"arm {record.arm!r} at {setting_words(point) or 'the base settings'}"
            strangers[what] = strangers.get(what, 0) + 1
    sizes = {mark: _sizes(same) for mark, same in placed.items()}
    spans = {axis: _span(np.concatenate([size[axis] for size in sizes.values()])) for axis in AXES}
    conditions = tuple(
        _condition(study, arm, point, placed[mark], sizes[mark], spans) for mark, arm, point in asked_for
    )
    runs = sum(map(len, placed.values()))
    asked = total_runs(dataclasses.replace(study, tuning=None))
    return Analysis(
        study,
        conditions,
        tuple(_contrasts(study, conditions)),
        tuple(_bounds(conditions)),
        runs,
        asked,
        runs >= asked if study.placement.kind == "grid" else all(_settled(study, one) for one in conditions),
        tuning,
        tuple(
            f"{count} run{'s' * (count > 1)} of {what}, which the study does not ask for"
            for what, count in sorted(strangers.items())
        ),
    )


# Conditions


def skills(criterion: Criterion) -> tuple[Criterion, Criterion]:
    """What is asked of every run: the study's criterion, and the same level of exact single steps of its component."""
    return criterion, dataclasses.replace(criterion, items="atoms", metric="exact")


def _condition(
    study: Study,
    arm: Arm,
    point: Mapping[str, Any],
    records: Sequence[Record],
    sizes: Mapping[Axis, Float[np.ndarray, " run"]],
    spans: Mapping[Axis, tuple[float, float] | None],
) -> Condition:
    task = arm.task(study.base.task, task_settings(point))
    operations = operations_of(task)
    criterion, atoms = skills(study.criterion)
    times = _times(records, operations, criterion)
    notes = []
    if records and times is None:
        lacks = criterion.component is not None and criterion.component not in operations
        notes.append(f"it does not train on {criterion.component}" if lacks else "no learning curve was read")
    elif times is not None and times.unread:
        notes.append(f"{times.unread} runs have no learning curve")
    return Condition(
        arm,
        point,
        ", ".join(filter(None, (arm_label(study, arm), setting_words(point)))),
        operations,
        task,
        tuple(records),
        sizes,
        _skill(criterion, records, sizes, spans),
        _skill(atoms, records, sizes, spans),
        _accuracy(criterion, records, sizes["parameters"], spans["parameters"]),
        times,
        tuple(notes),
    )


def _skill(
    criterion: Criterion,
    records: Sequence[Record],
    sizes: Mapping[Axis, Float[np.ndarray, " run"]],
    spans: Mapping[Axis, tuple[float, float] | None],
) -> Skill:
    learned = tuple(criterion.verdict(record.metrics) for record in records)
    known = np.asarray([verdict is not None for verdict in learned], dtype=bool)
    if not known.any():
        note = f"none of its runs was measured on {criterion.set_name!r}" if records else "no runs yet"
        return Skill(criterion, learned, note=note)
    yes = np.asarray([verdict is True for verdict in learned], dtype=bool)[known]
    posteriors = {axis: thresholds.fit(sizes[axis][known], yes, span=spans[axis]) for axis in AXES}
    return Skill(criterion, learned, posteriors, {axis: one.summary(axis) for axis, one in posteriors.items()})


def _accuracy(
    criterion: Criterion,
    records: Sequence[Record],
    sizes: Float[np.ndarray, " run"],
    span: tuple[float, float] | None,
) -> AccuracyCurve | None:
    """Of the criterion's own metric and items. Chance is the mean over runs: the items are alike, or nearly."""
    name = criterion.set_name
    measured = [record.metrics.get("sets", {}).get(name) for record in records]
    kept = np.asarray([found is not None for found in measured], dtype=bool)
    if not kept.any():
        return None
    values = np.asarray([found[criterion.metric]["value"] for found in measured if found is not None], dtype=float)
    chance = float(np.mean([found["chance"] for found in measured if found is not None]))
    # A set whose items all have one answer would leave no room between chance and 1.
    return fit_accuracy(sizes[kept], values, chance, span=span) if chance < 1 else None


def _times(records: Sequence[Record], operations: Sequence[str], criterion: Criterion) -> Times | None:
    if criterion.component is not None and criterion.component not in operations:
        return None
    read = [record for record in records if record.curve]
    if not read:
        return None
    found = [time_to_learn(record, criterion) for record in read]
    return Times(
        np.asarray([record.d_model for record in read], dtype=int),
        np.asarray([steps for steps, _, _ in found], dtype=float),
        np.asarray([learned for _, learned, _ in found], dtype=bool),
        np.asarray([since for _, _, since in found], dtype=float),
        np.asarray([record.curve[-1]["step"] for record in read if record.curve], dtype=float),
        len(records) - len(read),
    )


def time_to_learn(record: Record, criterion: Criterion) -> tuple[int, bool, int]:
    """Steps until a run learned or stopped, which of the two, and its last check below the level (see `Times`)."""
    assert record.curve, "only a run with a learning curve has a time to learn"
    tasks = [TaskSpec(**stage["task"]) for stage in (*record.stages, record.spec)]
    alone = [operations_of(task) == (criterion.component,) for task in tasks]
    below, first = 0, None
    for point in record.curve:
        stage = point.get("stage", len(tasks) - 1)
        # A task of one operation has its accuracy under "mixture" alone.
        name = "mixture" if criterion.component is None or alone[stage] else criterion.component
        value = point.get(name)
        if value is None or value < criterion.level:
            below, first = point["step"], None
        elif first is None:
            first = point["step"]
    return (record.curve[-1]["step"], False, below) if first is None else (first, True, below)


def operations_of(task: TaskSpec) -> tuple[str, ...]:
    """The operations of a task, or its components where it has other parts; () where it has none."""
    from kc_interp import plugins

    if "operations" in task.settings:
        return tuple(task.settings["operations"])
    try:
        return tuple(plugins.make_task(task).components())
    except KCInterpError:  # its package is not installed here; the numbers in the records stand without it
        return ()


def _sizes(records: Sequence[Record]) -> dict[Axis, Float[np.ndarray, " run"]]:
    """The sizes of runs on both axes."""
    inner = [_non_embedding(tuple(record.spec["model"].items())) for record in records]
    return {
        "parameters": np.asarray([record.parameters for record in records], dtype=float),
        "non-embedding": np.asarray(inner, dtype=float),
    }


@functools.lru_cache(maxsize=4096)
def _non_embedding(model: tuple[tuple[str, Any], ...]) -> int:
    """The parameters of a model that are no embedding: they depend neither on the vocabulary nor on the context."""
    from kc_interp.model import parameters

    spec = from_plain(ModelSpec, dict(model), where="a record's model")
    return parameters.count(spec, d_vocab=1, n_ctx=1, embedding=False)


def _span(sizes: Float[np.ndarray, " run"]) -> tuple[float, float] | None:
    """All conditions have the same prior: t is uniform over the sizes of the whole study."""
    return (float(sizes.min()), float(sizes.max())) if len(sizes) else None


def _settled(study: Study, condition: Condition) -> bool:
    """Whether adaptive placement asks for no further run of a condition."""
    if not condition.arm.placed:  # it has the runs that others start from, whose conditions are asked themselves
        return True
    if len(condition.records) >= study.placement.runs:
        return True
    threshold, wanted = condition.threshold, study.placement.width_dex
    if threshold is None or wanted is None or threshold.t.low is None or threshold.t.high is None:
        return False
    return threshold.t.high - threshold.t.low <= wanted


# What a run was, and what it is called


def _point_of(spec: Mapping[str, Any], varied: Sequence[str]) -> dict[str, Any]:
    """The levels of those factors that are varied, in this order, read from a run's settings."""
    model, settings = spec["model"], spec["task"]["settings"]
    values = {
        "init": model["init"],
        "shape": (model["n_layers"], model["repeat"]),
        "n_heads": model["n_heads"],
        "vocabulary": spec["data"]["vocabulary"],
        "steps": spec["train"]["steps"],
    }
    for name in TASK_FACTORS:
        level = settings.get(name)
        values[name] = tuple(level) if isinstance(level, list) else level
    return {name: values[name] for name in varied}


def arm_label(study: Study, arm: Arm) -> str:
    """What an arm trains on, "MAX+SUM"; its name where another arm trains on the same, or it has peculiarities."""
    operations = operations_of(arm.task(study.base.task, {}))
    plain_ones = {o.name: operations_of(o.task(study.base.task, {})) for o in study.arms if is_plain(o)}
    alike = [name for name, theirs in plain_ones.items() if set(theirs) == set(operations)]
    return "+".join(operations) if operations and alike == [arm.name] else arm.name


def is_plain(arm: Arm) -> bool:
    """Whether an arm differs from the study's base in its operations alone."""
    return not (arm.before or arm.source or arm.settings or arm.weights or arm.steps or sets_digits(arm))


def sets_digits(arm: Arm) -> bool:
    """Whether an arm begins with digits of its own kind, or keeps them as they began."""
    return arm.digits_from is not None or arm.digits is not None or arm.freeze_digits


def setting_words(point: Mapping[str, Any]) -> str:
    """The factors of a setting in words.

    >>> setting_words({"init": "narrow", "shape": (1, 5), "modulus": 7})
    'narrow, 1 layer × 5, mod 7'
    """
    return ", ".join(factor_words(name, value) for name, value in point.items() if name != "d_model")


def factor_words(name: str, value: Any) -> str:
    """One level of a factor in words: "narrow", "init 0.1", "2 layers", "8,000 steps"."""
    if name == "shape":
        layers, repeat = value
        return f"{layers} layer{'s' * (layers > 1)}" + (f" × {repeat}" if repeat > 1 else "")
    if name == "lengths" and value is not None:
        shortest, longest = value
        return f"{shortest} to {longest} symbols"
    heads = "head" if value == 1 else "heads"
    said = {"modulus": f"mod {value}", "n_heads": f"{value} {heads}", "vocabulary": f"{value} tokens"}
    if name == "steps":
        return f"{value:,} steps"
    if name == "init":
        return value if isinstance(value, str) else f"init {value:g}"
    return said.get(name, f"{name} {value}")


# Contrasts


def _contrasts(study: Study, conditions: Sequence[Condition]) -> Iterator[Contrast]:
    by_point: dict[str, list[Condition]] = {}
    for condition in conditions:
        by_point.setdefault(canonical(condition.point), []).append(condition)
    for same in by_point.values():
        yield from _between_arms(study.criterion.component, same)
    yield from _between_settings(study, conditions)
    yield from _interactions(study, by_point)


def _between_arms(component: str | None, conditions: Sequence[Condition]) -> Iterator[Contrast]:
    """At one setting: every arm against the component alone, and against its controls."""
    singles = [one for one in conditions if one.operations == (component,)]
    for one in conditions:
        reference = _reference(one, singles)
        alike = [o for o in conditions if set(o.operations) == set(one.operations) and o is not one]
        if one in singles:
            controls = singles[: singles.index(one)]
        else:
            if reference is not None:
                yield from _contrast("synergy", one, reference)
            controls = [o for o in singles if o is not reference]
            controls += [o for o in alike if conditions.index(o) < conditions.index(one)]
        for control in controls:
            yield from _contrast("control", one, control)


def _reference(one: Condition, singles: Sequence[Condition]) -> Condition | None:
    """The component alone under the same further settings (a shuffled table, say), or else the first such arm."""
    plain_start = [o for o in singles if not (o.arm.before or o.arm.source or sets_digits(o.arm))]
    untouched = plain_start or list(singles)
    same = [o for o in untouched if _other_settings(o.task) == _other_settings(one.task)]
    return next(iter([o for o in same if is_plain(o.arm)] or same or untouched), None)


def _other_settings(task: TaskSpec) -> str:
    """Everything that decides a task but what is mixed: an arm with other such settings solves another task."""
    return canonical([task.name, {k: v for k, v in task.settings.items() if k not in ("operations", "weights")}])


def _between_settings(study: Study, conditions: Sequence[Condition]) -> Iterator[Contrast]:
    """Within each arm: every level of a factor against its first level, the other factors being equal."""
    for one, other in itertools.product(conditions, conditions):
        factor = _levels_apart(study, one, other)
        if factor is not None:
            yield from _contrast("factor", one, other, factor)


def _levels_apart(study: Study, one: Condition, other: Condition) -> str | None:
    """The one factor in which two conditions of an arm differ, `other` being at its first level."""
    if one.arm is not other.arm:
        return None
    differing = [name for name in one.point if one.point[name] != other.point[name]]
    at_first = len(differing) == 1 and other.point[differing[0]] == getattr(study.grid, differing[0])[0]
    return differing[0] if at_first else None


def _interactions(study: Study, by_point: Mapping[str, Sequence[Condition]]) -> Iterator[Contrast]:
    """Whether an arm helps more at one level of a factor than at the first."""
    component = study.criterion.component
    helped: list[tuple[Condition, Condition]] = []
    for same in by_point.values():
        singles = [one for one in same if one.operations == (component,)]
        pairs = [(one, _reference(one, singles)) for one in same if one not in singles]
        helped += [(one, reference) for one, reference in pairs if reference is not None]
    for (one, against), (other, its) in itertools.product(helped, helped):
        factor = _levels_apart(study, one, other)
        if factor is None:
            continue
        for axis in AXES:
            found = [x.skill.posteriors.get(axis) for x in (its, other, against, one)]
            if None not in found:
                c, d, a, b = found
                dex = thresholds.interaction(a, b, c, d)  # type: ignore[arg-type]
                yield Contrast("interaction", one.label, other.label, "", axis, dex, factor)


def _contrast(
    kind: Literal["synergy", "control", "factor"], of: Condition, against: Condition, factor: str | None = None
) -> Iterator[Contrast]:
    """On both axes; nothing where one of the two has no posterior."""
    shared = setting_words({k: v for k, v in of.point.items() if k != factor})
    for axis in AXES:
        a, b = against.skill.posteriors.get(axis), of.skill.posteriors.get(axis)
        if a is not None and b is not None:
            yield Contrast(kind, of.label, against.label, shared, axis, thresholds.difference(a, b), factor)


# The capacity bound


def _bounds(conditions: Sequence[Condition]) -> Iterator[Bound]:
    """One bound for all conditions that solve the same task with models of one kind."""
    groups: dict[str, list[Condition]] = {}
    for one in conditions:
        kind = _kind(one)
        groups.setdefault(canonical([kind, _other_settings(one.task)]), []).append(one)
    for same in groups.values():
        runs = [
            (size, verdict, one.label)
            for one in same
            for size, verdict in zip(one.sizes["parameters"].tolist(), one.skill.learned, strict=True)
            if verdict is not None
        ]
        if not runs:
            continue
        sizes, solved, labels = zip(*runs, strict=True)
        posteriors = {one.label: one.posterior for one in same if one.posterior is not None}
        found = thresholds.capacity(np.asarray(sizes), np.asarray(solved, dtype=bool), list(labels), posteriors)
        yield Bound(setting_words(_kind(same[0])), tuple(one.label for one in same), found)


def _kind(one: Condition) -> dict[str, Any]:
    """The factors by which models differ in kind, or the task in difficulty: no bound is shared between them."""
    return {name: value for name, value in one.point.items() if name in ("shape", "vocabulary", *TASK_FACTORS)}


# As plain data


def plain(analysis: Analysis) -> dict[str, Any]:
    """An analysis as plain data: sizes are log10 of a number of parameters, times log10 steps, differences dex."""
    study = analysis.study
    return to_plain(
        {
            "study": study.name,
            "criterion": {**dataclasses.asdict(study.criterion), "set": study.criterion.set_name},
            "runs": analysis.runs,
            "asked": analysis.asked,
            "complete": analysis.complete,
            "tuning_runs": analysis.tuning,
            "strangers": analysis.strangers,
            "conditions": [_plain_condition(one) for one in analysis.conditions],
            "contrasts": [
                {**dataclasses.asdict(one), "synergy": one.synergy, "excludes_zero": one.excludes_zero}
                for one in analysis.contrasts
            ],
            "capacity": [
                {"setting": one.setting, "conditions": one.conditions, **vars(one.capacity)} for one in analysis.bounds
            ],
        }
    )


def _plain_condition(one: Condition) -> dict[str, Any]:
    return {
        "label": one.label,
        "arm": one.arm.name,
        "point": one.point,
        "operations": one.operations,
        "task": one.task,
        "runs": len(one.records),
        "judged": one.skill.runs,
        "learned": one.skill.successes,
        "thresholds": one.skill.thresholds,
        "atoms": one.atoms.thresholds,
        "accuracy": None
        if one.accuracy is None
        else {"chance": one.accuracy.chance, "t": one.accuracy.t, "at": one.accuracy.sizes()},
        "times": [] if one.times is None else [_plain_cell(cell) for cell in one.times.by_width.values()],
        "notes": [*filter(None, (one.skill.note, one.atoms.note and f"atoms: {one.atoms.note}")), *one.notes],
    }


def _plain_cell(cell: Cell) -> dict[str, Any]:
    return {
        "d_model": cell.d_model,
        "runs": cell.runs,
        "learned": cell.learned,
        "longest_steps": round(10**cell.survival.longest),
        "median": cell.survival.median,
        "kaplan_meier": cell.kaplan_meier,
    }
