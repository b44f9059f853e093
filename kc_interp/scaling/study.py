"""A study as data: which runs a `study.toml` asks for, under which keys, and which of them are trained together.

    name = "sum-transition"
    preset = "quick"                        # where [base] starts from
    seeds = 8                               # or a list
    probes = ["embedding-geometry"]         # on every finished model
    constant_examples_of = "SUM"            # n_train counts SUM examples, whatever the mixture

    [base.train]
    steps = 8000

    [grid]                                  # every combination
    d_model = [16, 24, 32, 48]
    init = ["narrow", "wide"]
    shape = [[2, 1], [1, 5]]                # n_layers, repeat: two blocks, and one tied five times

    [[learning_rates]]                      # the last one that fits holds; or [tuning], which finds them
    init = "narrow"
    lr = 1e-3

    [[arms]]
    name = "sum"
    operations = ["SUM"]

    [[arms]]
    name = "joint"
    operations = ["MAX", "MED", "SUM"]

    [[arms]]
    name = "curriculum"                     # MAX+MED for 2,000 steps, then SUM for as many as the grid says
    operations = ["SUM"]
    before = [{ operations = ["MAX", "MED"], steps = 2000 }]

    [criterion]
    component = "SUM"

Everything that decides a result is here: the members of an ensemble follow from the study alone, never from who trains
them or when.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kc_interp.errors import DataError, KCInterpError, SpecError, did_you_mean
from kc_interp.presets import PRESETS
from kc_interp.records import Record, canonical, digest, run_key
from kc_interp.scaling import tuning as tuning_stage
from kc_interp.scaling.factors import Grid, point_words, task_settings
from kc_interp.scaling.tuning import TUNING as TUNING
from kc_interp.scaling.tuning import LearningRate, Tuning
from kc_interp.scaling.tuning import TunedRate as TunedRate
from kc_interp.spec import LATER, RunSpec, TaskSpec, from_plain, to_plain

CHECKED_ITEMS = 64
"""How many items of every mixture are drawn before anything starts, to see that there are some."""


@dataclass(frozen=True)
class Mixture:
    """What a stage trains on: `operations` and `weights` are the task's settings of these names, `settings` the rest.

    None: as in the study's base.
    """

    operations: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None

    def task(self, base: TaskSpec, extra: Mapping[str, Any]) -> TaskSpec:
        """The task of the base with this mixture. Weights belong to operations, and go with them."""
        chosen = {**base.settings, **self.settings, **extra}
        if self.operations is not None:
            chosen = {**{k: v for k, v in chosen.items() if k != "weights"}, "operations": list(self.operations)}
        if self.weights is not None:
            chosen["weights"] = list(self.weights)
        return TaskSpec(base.name, chosen)


@dataclass(frozen=True)
class Arm(Mixture):
    """A named side of the comparison, alike in everything but what it trains on.

    `before`: mixtures to train on first, each for its own `steps`; the arm's own `steps` (None: the grid's) come last.
    `start_from`: another arm, whose finished weights of the same grid point and seed this one begins with.

    Controls of what digits look like: their rows of the token embedding begin as those of the arm `digits_from` ended
    (same grid point and seed), or as `digits` says (see `ModelSpec`), and `freeze_digits` leaves them so.
    `placed` False: an arm that adaptive placement trains only where others start from it.
    """

    name: str = ""
    before: tuple[Mixture, ...] = ()
    start_from: str | None = None
    digits_from: str | None = field(default=None, metadata=LATER)
    digits: Literal["orthogonal", "circle"] | None = field(default=None, metadata=LATER)
    freeze_digits: bool = field(default=False, metadata=LATER)
    placed: bool = field(default=True, metadata=LATER)

    @property
    def source(self) -> str | None:
        """The arm whose weights this one needs."""
        return self.start_from if self.start_from is not None else self.digits_from


@dataclass(frozen=True)
class Criterion:
    """When a run has succeeded: `metric` on the set "`items`: `component`" is at least `level`.

    `items`: test (unseen questions of the component alone) or atoms (every single step of it). `component` None: the
    whole mixture.
    """

    component: str | None = None
    level: float = 0.9
    items: Literal["test", "atoms"] = "test"
    metric: Literal["exact", "answer"] = "exact"

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1:
            raise SpecError(f"criterion.level is {self.level}; a share lies between 0 and 1")

    @property
    def set_name(self) -> str:
        """The name of its items among the sets of an evaluation."""
        if self.component is None:
            return "test" if self.items == "test" else "atoms: mixture"
        return f"{self.items}: {self.component}"

    def verdict(self, metrics: Mapping[str, Any]) -> bool | None:
        """Whether these metrics reach the level; None when this set was not measured."""
        measured = metrics.get("sets", {}).get(self.set_name)
        return None if measured is None else bool(measured[self.metric]["value"] >= self.level)

    def answer_nats(self, metrics: Mapping[str, Any]) -> float | None:
        """Mean NLL of the answer on its items (a task without this component: on its mixture); None when diverged."""
        sets = metrics["sets"]
        return sets.get(self.set_name, sets["test"])["answer_nats"]["value"]


@dataclass(frozen=True)
class Placement:
    """Where runs go: every seed at every point of the grid, or adaptively.

    Adaptive (`kc_interp.scaling.placement`): for each arm and each setting of the other factors `runs` runs, `batch` at
    a time, each at the width of the grid that says most about the threshold, judged by all batches before it; fewer
    when the threshold's 95 % interval is narrower than `width_dex`. Its seeds count from 0 within each width.
    """

    kind: Literal["grid", "adaptive"] = "grid"
    runs: int = 48
    batch: int = 8
    width_dex: float | None = None

    def __post_init__(self) -> None:
        if self.runs < 1 or self.batch < 1:
            raise SpecError(f"placement has runs {self.runs} and batch {self.batch}; both must be at least 1")


_DIGITS = "digits:"


@dataclass(frozen=True)
class Run:
    """One run that a study asks for: `stages` are trained in order, the last one is the run itself.

    `point` are the factors that led to it; `start` is the key of the run whose weights it begins with, after "digits:"
    where it takes only the digits' embeddings from it.
    """

    arm: str
    point: Mapping[str, Any]
    seed: int
    stages: tuple[RunSpec, ...]
    start: str | None = None
    level: int = 0

    @property
    def spec(self) -> RunSpec:
        return self.stages[-1]

    @property
    def source(self) -> str | None:
        """The key of the run whose weights it needs."""
        return None if self.start is None else self.start.removeprefix(_DIGITS)

    @property
    def takes_digits(self) -> bool:
        return self.start is not None and self.start.startswith(_DIGITS)

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides this run alone."""
        plain = [to_plain(stage) for stage in self.stages]
        return run_key(plain[-1], plain[:-1], self.start)

    @cached_property
    def line(self) -> str:
        """What names the trunk of this run: the same for runs that differ only in how long they go on from it.

        Without a trunk to share it is the run's own key.
        """
        if not self.spec.train.shares_trunk:
            return self.key
        *before, last = [to_plain(stage) for stage in self.stages]
        return run_key({**last, "train": {**last["train"], "steps": None}}, before, self.start)

    @cached_property
    def kind(self) -> str:
        """What the members of an ensemble have in common; an arm that starts from another comes after it."""
        stages = [
            [
                to_plain(dataclasses.replace(stage.model, init="wide", scale_residual=True, n_ctx=None, digits=None)),
                [stage.train.steps, stage.train.batch_size, stage.train.dtype],
            ]
            for stage in self.stages
        ]
        return canonical([self.level, stages])


@dataclass(frozen=True)
class Ensemble:
    """Runs that are trained together: the unit of work, and of what is stored.

    What is trained at once are its `lines`, all for the same numbers of steps.
    """

    runs: tuple[Run, ...]

    @cached_property
    def lines(self) -> list[list[Run]]:
        """The runs that have a trunk in common, by number of steps."""
        return _lines(self.runs)

    @cached_property
    def key(self) -> str:
        """The hash of its members: who is in it, and in which order."""
        return digest(canonical([run.key for run in self.runs]).encode())

    @property
    def steps(self) -> int:
        """Training steps of all stages; of the last one the trunk, once, and every budget's own."""
        before = sum(stage.train.steps for stage in self.runs[0].stages[:-1])
        last = [run.spec.train for run in self.lines[0]]
        return before + max(one.trunk_steps for one in last) + sum(one.steps - one.trunk_steps for one in last)

    @property
    def cost(self) -> float:
        """How long it takes, in a unit of its own: multiplications, and what every step costs besides."""
        model = self.runs[0].spec.model
        return self.steps * len(self.lines) * model.depth * model.d_model * (model.d_model + 100)


@dataclass(frozen=True)
class Study:
    """Everything a study asks for. Constructing one checks its settings; `check` also tries its tasks and sizes.

    `seeds`: a list, or how many (from 0 on). `constant_examples_of`: `base.data.n_train` counts the examples of this
    operation, and an arm in which it has the share s trains on n_train / s examples. `items`: test items a set.
    `probes` run on every finished model, learned or not. `keep_weights`: beside the store.
    """

    name: str
    arms: tuple[Arm, ...]
    title: str = ""
    base: RunSpec = field(default_factory=RunSpec)
    grid: Grid = field(default_factory=Grid)
    learning_rates: tuple[LearningRate, ...] = ()
    tuning: Tuning | None = field(default=None, metadata=LATER)
    seeds: int | tuple[int, ...] = 1
    criterion: Criterion = field(default_factory=Criterion)
    placement: Placement = field(default_factory=Placement)
    runs_per_ensemble: int = 16
    constant_examples_of: str | None = None
    items: int = 1_000
    probes: tuple[str, ...] = ()
    keep_weights: bool = True

    def __post_init__(self) -> None:
        self._require_names()
        for name in ("runs_per_ensemble", "items"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; it must be at least 1")
        kept, trained = self.constant_examples_of, {name for arm in self.arms for name in self._operations(arm)}
        if kept is not None and kept not in trained:
            raise SpecError(f"constant_examples_of is {kept!r}, on which no arm trains{did_you_mean(kept, trained)}")
        if self.base.seed:
            raise SpecError("base.seed is set; a study lists its seeds in 'seeds'")
        if not self.seed_list or min(self.seed_list) < 0 or len(set(self.seed_list)) < len(self.seed_list):
            raise SpecError(f"seeds is {self.seeds}; give how many, or a list of different numbers from 0 on")
        tuning_stage.require_sound(self)
        train = self.base.train
        if train.schedule == "trunk" and len(self.grid.steps) > 1 and not train.shares_trunk:
            raise SpecError(
                f"base.train.warmup is {train.warmup}, a share of the steps, so that the budgets of grid.steps have no "
                "trunk in common; give it in steps, e.g. warmup = 100"
            )
        starting = {arm.source: arm.name for arm in self.arms if arm.source is not None}
        if starting and not self.keep_weights:
            name = next(iter(starting.values()))
            raise SpecError(f"the arm {name!r} starts from another's weights; set keep_weights to true")
        if self.placement.kind == "adaptive" and len(self.grid.d_model) < 2:
            raise SpecError("adaptive placement chooses among the widths of grid.d_model; give two or more")
        for arm in self.arms:
            if not arm.placed and (self.placement.kind == "grid" or arm.name not in starting):
                raise SpecError(
                    f"arm {arm.name!r} has placed = false, which is for arms that adaptive placement trains only where "
                    "others start from them"
                )

    def _require_names(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or not all(names):
            raise SpecError("a study needs [[arms]], each with a name")
        if not self.name or "/" in self.name:
            raise SpecError(f"the study's name is {self.name!r}; give it one without slashes")
        for arm in self.arms:
            if arm.name.startswith(TUNING):
                raise SpecError(f"an arm is named {arm.name!r}; names with {TUNING!r} are those of tuning runs")
            if names.count(arm.name) > 1:
                raise SpecError(f"two arms are named {arm.name!r}")
            if sum(option is not None for option in (arm.start_from, arm.digits_from, arm.digits)) > 1:
                raise SpecError(f"arm {arm.name!r}: give one of 'start_from', 'digits_from' and 'digits'")
            if arm.source is not None and arm.source not in names:
                raise SpecError(f"arm {arm.name!r} starts from {arm.source!r}{did_you_mean(arm.source, names)}")
            if any(stage.steps is None for stage in arm.before):
                raise SpecError(f"arm {arm.name!r}: every stage in 'before' needs its number of steps")
            chain = [arm]
            while (start := chain[-1].source) is not None:
                chain.append(next(other for other in self.arms if other.name == start))
                if chain[-1] in chain[:-1]:
                    raise SpecError(f"arm {arm.name!r} starts from itself: {' <- '.join(a.name for a in chain)}")

    @property
    def seed_list(self) -> tuple[int, ...]:
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the study's results, as plain data: everything but its title."""
        return {key: value for key, value in to_plain(self).items() if key != "title"}

    def run(self, arm: Arm, point: Mapping[str, Any], seed: int) -> Run:
        """The run of an arm at a point of the grid. Raises SpecError on a size that is impossible."""
        return self.with_sources(arm, point, seed)[-1]

    def with_sources(self, arm: Arm, point: Mapping[str, Any], seed: int) -> list[Run]:
        """The run of an arm at a point of the grid, after those whose weights it needs, directly or not."""
        stages = tuple(_with_digits(self._spec(stage, point, seed), arm) for stage in (*arm.before, arm))
        if arm.source is None:
            return [Run(arm.name, point, seed, stages)]
        sources = self.with_sources(next(one for one in self.arms if one.name == arm.source), point, seed)
        start = (_DIGITS if arm.digits_from is not None else "") + sources[-1].key
        return [*sources, Run(arm.name, point, seed, stages, start, sources[-1].level + 1)]

    def _spec(self, mixture: Mixture, point: Mapping[str, Any], seed: int) -> RunSpec:
        base = self.base
        shape = {"n_layers": point["shape"][0], "repeat": point["shape"][1]} if "shape" in point else {}
        named = {name: point[name] for name in ("d_model", "init", "n_heads") if name in point}
        try:
            model = dataclasses.replace(base.model, **named, **shape)
            lr = next((rate.lr for rate in reversed(self.learning_rates) if rate.fits(model)), base.train.lr)
            steps = mixture.steps if mixture.steps is not None else point.get("steps", base.train.steps)
            train = dataclasses.replace(base.train, lr=lr, steps=steps)
            task = mixture.task(base.task, task_settings(point))
            data = dataclasses.replace(
                base.data,
                n_train=round(base.data.n_train / self._share(task)),
                vocabulary=point.get("vocabulary", base.data.vocabulary),
            )
        except SpecError as error:
            raise SpecError(f"at {point_words(point)}: {error}") from error
        return RunSpec(task, data, model, train, seed)

    def _operations(self, arm: Arm) -> list[str]:
        return list(arm.task(self.base.task, {}).settings.get("operations", ()))

    def _share(self, task: TaskSpec) -> float:
        """The share of the operation that is kept constant; 1 where it is not part of the mixture."""
        operations = list(task.settings.get("operations", ()))
        if self.constant_examples_of not in operations:
            return 1.0
        weights = task.settings.get("weights") or [1.0] * len(operations)
        return float(weights[operations.index(self.constant_examples_of)] / sum(weights))

    def conditions(self) -> list[tuple[Arm, dict[str, Any]]]:
        """Every arm under every setting of the factors other than the width: each has a threshold of its own."""
        points = list(self.grid.without(["d_model"]).points())
        return [(arm, point) for arm in self.arms for point in points]

    def runs(self) -> list[Run]:
        """Every run of a study on a grid, seeds outermost: what is done first shows all arms and sizes.

        Raises SpecError when two of them are the same, or their learning rates are still to be found.
        """
        if self.tuning is not None:
            raise SpecError(
                f"the learning rates of {self.name!r} are found by [tuning]; its runs are those of study.tuned(records)"
            )
        found = [
            self.run(arm, point, seed) for seed in self.seed_list for point in self.grid.points() for arm in self.arms
        ]
        self._require_different(found)
        return found

    def with_rates(self, rates: Sequence[LearningRate]) -> Study:
        """The same study with these learning rates, and nothing left to tune."""
        return dataclasses.replace(self, tuning=None, learning_rates=tuple(rates))

    def tuning_runs(self) -> list[Run]:
        """The runs that find the learning rates; none where nothing is tuned."""
        return [run for trial in tuning_stage.trials(self) for runs in trial.runs.values() for run in runs]

    def rates(self, records: Iterable[Record]) -> list[TunedRate]:
        """What tuning has found so far, from the study's records alone."""
        return tuning_stage.rates(self, records)

    def tuned(self, records: Iterable[Record]) -> Study:
        """The study with the learning rates that its tuning found, and nothing left to tune: a function of records.

        Raises DataError while tuning runs are missing.
        """
        return self if self.tuning is None else tuning_stage.tuned(self, records)

    @staticmethod
    def _require_different(runs: Sequence[Run]) -> None:
        by_key: dict[str, Run] = {}
        for run in runs:
            other = by_key.setdefault(run.key, run)
            if other is not run:
                raise SpecError(
                    f"{other.arm!r} at {point_words(other.point)} and {run.arm!r} at {point_words(run.point)} are the "
                    "same run; leave one out"
                )

    def grouped(self, runs: Sequence[Run]) -> list[Ensemble]:
        """Runs of one kind in ensembles of at most `runs_per_ensemble`, in order; sources of weights first.

        Runs that differ only in their number of steps and share a trunk are one of these, whatever their number.
        """
        by_kind: dict[tuple[str, ...], list[list[Run]]] = {}
        for line in _lines(runs):
            by_kind.setdefault(tuple(run.kind for run in line), []).append(line)
        size = self.runs_per_ensemble
        groups = [same[low : low + size] for same in by_kind.values() for low in range(0, len(same), size)]
        groups.sort(key=lambda group: group[0][0].level)
        return [Ensemble(tuple(run for line in group for run in line)) for group in groups]


def _with_digits(spec: RunSpec, arm: Arm) -> RunSpec:
    """The run with what its arm says of digits; else as the base has it."""
    model, train = spec.model, spec.train
    if arm.digits is not None:
        model = dataclasses.replace(model, digits=arm.digits)
    if arm.freeze_digits:
        train = dataclasses.replace(train, freeze_digits=True)
    return dataclasses.replace(spec, model=model, train=train)


def _lines(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that have a trunk in common, by number of steps."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.line, []).append(run)
    return [sorted(line, key=lambda run: run.spec.train.steps) for line in found.values()]


def load(path: Path) -> Study:
    """A study from its TOML file. Raises SpecError with the path, the key at fault and the nearest known one."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; expected a study (TOML)") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: a folder; expected a study (TOML), such as {path / 'study.toml'}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not TOML ({error})") from error
    try:
        preset = data.pop("preset", None)
        if preset is not None:
            if preset not in PRESETS:
                raise SpecError(f"preset is {preset!r}{did_you_mean(str(preset), PRESETS)}")
            data["base"] = _merged(to_plain(PRESETS[preset]), data.get("base", {}))
        for required in ("name", "arms"):
            if required not in data:
                raise SpecError(f"{required!r} is missing")
        return from_plain(Study, data, where="study")
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _merged(under: Mapping[str, Any], over: Any) -> Any:
    if not isinstance(over, Mapping):
        return over
    both = under.keys() & over.keys()
    nested = {key: _merged(under[key], over[key]) for key in both if isinstance(under[key], Mapping)}
    return {**under, **over, **nested}


def check(study: Study) -> None:
    """Try everything that could fail later: tasks, samples, hold-outs, sizes, contexts, the criterion, probes.

    Raises SpecError, DataError or PluginError that says where in the study it is.
    """
    from kc_interp import plugins
    from kc_interp.checkpoint import context_length

    for probe in study.probes:
        plugins.make_probe(probe)
    widths = study.grid.d_model or (study.base.model.d_model,)
    tried: set[str] = set()
    for arm, point in study.conditions():
        for width in widths:
            *sources, run = study.with_sources(arm, {**point, "d_model": width}, study.seed_list[0])
            if arm.digits_from is not None and (absent := _digits(run.stages[0]) - _digits(sources[-1].spec)):
                raise SpecError(f"arm {arm.name!r}: {arm.digits_from!r} has no digits {' '.join(sorted(absent))}")
            for stage in run.stages:
                if (mark := canonical([to_plain(part) for part in (stage.task, stage.data, stage.model)])) in tried:
                    continue
                tried.add(mark)
                try:
                    task = plugins.make_task(stage.task)
                    context_length(stage, task)
                    _require_digits(stage)
                    sampled = canonical([to_plain(stage.task), to_plain(stage.data)])
                    if sampled not in tried:
                        _require_items(stage, task)
                        tried.add(sampled)
                except KCInterpError as error:
                    raise type(error)(f"arm {arm.name!r} at {point_words(run.point)}: {error}") from error
    _check_criterion(study)
    own = dataclasses.replace(study, tuning=None).runs() if study.placement.kind == "grid" else []
    study._require_different([*study.tuning_runs(), *own])


def _digits(spec: RunSpec) -> set[str]:
    from kc_interp import plugins
    from kc_interp.tokens import Tokens
    from kc_interp.train import digit_tokens

    tokens = Tokens.of(plugins.make_task(spec.task), spec.data.vocabulary)
    return {tokens.symbols[token] for token in digit_tokens(tokens)}


def _require_digits(spec: RunSpec) -> None:
    """There are digits where something is said of them, and dimensions enough for what is said."""
    from kc_interp.train import digit_embeddings

    if spec.model.digits is None and not spec.train.freeze_digits:
        return
    if not (found := _digits(spec)):
        raise SpecError(f"the task {spec.task.name!r} has no digits to freeze or to embed")
    if spec.model.digits is not None:
        digit_embeddings(spec, len(found))


def _require_items(spec: RunSpec, task: Any) -> None:
    """Draw a few items to train on and to be tested on."""
    import numpy as np

    from kc_interp.data import Split
    from kc_interp.tokens import Tokens

    Tokens.of(task, spec.data.vocabulary)
    split = Split.of(task, spec.data)
    count = min(CHECKED_ITEMS, spec.data.n_train)
    for part in {"": task, **task.components()}.values():
        if not len(split.draw(part, count, np.random.default_rng(0), test=True)):
            raise DataError("no test items")
    split.draw(task, count, np.random.default_rng(0), test=False)


def _check_criterion(study: Study) -> None:
    """The component is part of some arm's task, of every arm's when runs are placed by it."""
    from kc_interp import plugins

    component = study.criterion.component
    if component is None:
        return
    parts = {arm.name: plugins.make_task(arm.task(study.base.task, {})).components() for arm in study.arms}
    known = {name for components in parts.values() for name in components}
    if component not in known:
        raise SpecError(
            f"criterion.component is {component!r}, of which no arm's task consists{did_you_mean(component, known)}"
        )
    lacking = [arm.name for arm in study.arms if arm.placed and component not in parts[arm.name]]
    if lacking and study.placement.kind == "adaptive":
        raise SpecError(
            f"arm {lacking[0]!r} does not train on {component}, by which adaptive placement is to judge it; where "
            "others only start from it, set placed = false"
        )
