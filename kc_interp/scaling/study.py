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

    [[learning_rates]]                      # the last one that fits holds
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
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kc_interp.errors import DataError, KCInterpError, SpecError, did_you_mean
from kc_interp.presets import PRESETS
from kc_interp.records import canonical, digest, run_key
from kc_interp.spec import Initialisation, ModelSpec, RunSpec, TaskSpec, from_plain, to_plain

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
    """

    name: str = ""
    before: tuple[Mixture, ...] = ()
    start_from: str | None = None


@dataclass(frozen=True)
class Grid:
    """The factors of the study; an empty one stays as in the base. `shape` is (n_layers, repeat)."""

    d_model: tuple[int, ...] = ()
    init: tuple[Initialisation | float, ...] = ()
    shape: tuple[tuple[int, int], ...] = ()
    n_heads: tuple[int, ...] = ()
    vocabulary: tuple[Literal["used", "all"], ...] = ()
    modulus: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of the factors that are varied; the width varies fastest."""
        varied = {f.name: getattr(self, f.name) for f in reversed(dataclasses.fields(self)) if getattr(self, f.name)}
        for values in itertools.product(*varied.values()):
            yield dict(zip(varied, values, strict=True))


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of runs with this initialisation and one of these widths (None: any)."""

    lr: float
    init: Initialisation | float | None = None
    d_model: tuple[int, ...] | None = None

    def fits(self, model: ModelSpec) -> bool:
        return self.init in (None, model.init) and (self.d_model is None or model.d_model in self.d_model)


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


@dataclass(frozen=True)
class Run:
    """One run that a study asks for: `stages` are trained in order, the last one is the run itself.

    `point` are the factors that led to it; `start` is the key of the run whose weights it begins with.
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

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides this run alone."""
        plain = [to_plain(stage) for stage in self.stages]
        return run_key(plain[-1], plain[:-1], self.start)

    @cached_property
    def kind(self) -> str:
        """What the members of an ensemble have in common; an arm that starts from another comes after it."""
        stages = [
            [
                to_plain(dataclasses.replace(stage.model, init="wide", scale_residual=True, n_ctx=None)),
                [stage.train.steps, stage.train.batch_size, stage.train.dtype],
            ]
            for stage in self.stages
        ]
        return canonical([self.level, stages])


@dataclass(frozen=True)
class Ensemble:
    """Runs that are trained together: the unit of work, and of what is stored."""

    runs: tuple[Run, ...]

    @cached_property
    def key(self) -> str:
        """The hash of its members: who is in it, and in which order."""
        return digest(canonical([run.key for run in self.runs]).encode())

    @property
    def steps(self) -> int:
        """Training steps of all stages."""
        return sum(stage.train.steps for stage in self.runs[0].stages)

    @property
    def cost(self) -> float:
        """How long it takes, in a unit of its own: multiplications, and what every step costs besides."""
        model = self.runs[0].spec.model
        return self.steps * len(self.runs) * model.depth * model.d_model * (model.d_model + 100)


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
        starting = [arm.name for arm in self.arms if arm.start_from is not None]
        if starting and not self.keep_weights:
            raise SpecError(f"the arm {starting[0]!r} starts from another's weights; set keep_weights to true")
        if self.placement.kind == "adaptive":
            if len(self.grid.d_model) < 2:
                raise SpecError("adaptive placement chooses among the widths of grid.d_model; give two or more")
            if starting:
                raise SpecError(
                    f"adaptive placement trains each arm at its own widths, so {starting[0]!r} may find no weights to "
                    "start from; use 'before' instead of 'start_from', or a grid"
                )

    def _require_names(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or not all(names):
            raise SpecError("a study needs [[arms]], each with a name")
        if not self.name or "/" in self.name:
            raise SpecError(f"the study's name is {self.name!r}; give it one without slashes")
        for arm in self.arms:
            if names.count(arm.name) > 1:
                raise SpecError(f"two arms are named {arm.name!r}")
            if arm.start_from is not None and arm.start_from not in names:
                raise SpecError(f"arm {arm.name!r} starts from {arm.start_from!r}{did_you_mean(arm.start_from, names)}")
            if any(stage.steps is None for stage in arm.before):
                raise SpecError(f"arm {arm.name!r}: every stage in 'before' needs its number of steps")
            chain = [arm]
            while (start := chain[-1].start_from) is not None:
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
        stages = tuple(self._spec(stage, point, seed) for stage in (*arm.before, arm))
        start, level = None, 0
        if arm.start_from is not None:
            source = self.run(next(a for a in self.arms if a.name == arm.start_from), point, seed)
            start, level = source.key, source.level + 1
        return Run(arm.name, point, seed, stages, start, level)

    def _spec(self, mixture: Mixture, point: Mapping[str, Any], seed: int) -> RunSpec:
        base = self.base
        shape = {"n_layers": point["shape"][0], "repeat": point["shape"][1]} if "shape" in point else {}
        named = {name: point[name] for name in ("d_model", "init", "n_heads") if name in point}
        try:
            model = dataclasses.replace(base.model, **named, **shape)
            lr = next((rate.lr for rate in reversed(self.learning_rates) if rate.fits(model)), base.train.lr)
            steps = mixture.steps if mixture.steps is not None else point.get("steps", base.train.steps)
            train = dataclasses.replace(base.train, lr=lr, steps=steps)
            task = mixture.task(base.task, {"modulus": point["modulus"]} if "modulus" in point else {})
            data = dataclasses.replace(
                base.data,
                n_train=round(base.data.n_train / self._share(task)),
                vocabulary=point.get("vocabulary", base.data.vocabulary),
            )
        except SpecError as error:
            raise SpecError(f"at {_words(point)}: {error}") from error
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
        points = [dict(p) for p in dataclasses.replace(self.grid, d_model=()).points()]
        return [(arm, point) for arm in self.arms for point in points]

    def runs(self) -> list[Run]:
        """Every run of a study on a grid, seeds outermost: what is done first shows all arms and sizes.

        Raises SpecError when two of them are the same.
        """
        found = [
            self.run(arm, point, seed) for seed in self.seed_list for point in self.grid.points() for arm in self.arms
        ]
        self._require_different(found)
        return found

    @staticmethod
    def _require_different(runs: Sequence[Run]) -> None:
        by_key: dict[str, Run] = {}
        for run in runs:
            other = by_key.setdefault(run.key, run)
            if other is not run:
                raise SpecError(
                    f"{other.arm!r} at {_words(other.point)} and {run.arm!r} at {_words(run.point)} are the same run; "
                    "leave one out"
                )

    def grouped(self, runs: Sequence[Run]) -> list[Ensemble]:
        """Runs of one kind in ensembles of at most `runs_per_ensemble`, in order; sources of weights first."""
        by_kind: dict[str, list[Run]] = {}
        for run in runs:
            by_kind.setdefault(run.kind, []).append(run)
        size = self.runs_per_ensemble
        groups = [same[low : low + size] for same in by_kind.values() for low in range(0, len(same), size)]
        return [Ensemble(tuple(group)) for group in sorted(groups, key=lambda group: group[0].level)]


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
            run = study.run(arm, {**point, "d_model": width}, study.seed_list[0])
            for stage in run.stages:
                if (mark := canonical([to_plain(part) for part in (stage.task, stage.data, stage.model)])) in tried:
                    continue
                tried.add(mark)
                try:
                    task = plugins.make_task(stage.task)
                    context_length(stage, task)
                    sampled = canonical([to_plain(stage.task), to_plain(stage.data)])
                    if sampled not in tried:
                        _require_items(stage, task)
                        tried.add(sampled)
                except KCInterpError as error:
                    raise type(error)(f"arm {arm.name!r} at {_words(run.point)}: {error}") from error
    _check_criterion(study)
    if study.placement.kind == "grid":
        study.runs()


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
    lacking = [name for name, components in parts.items() if component not in components]
    if lacking and study.placement.kind == "adaptive":
        raise SpecError(f"arm {lacking[0]!r} does not train on {component}, by which adaptive placement is to judge it")


def _words(point: Mapping[str, Any]) -> str:
    """A point of the grid in words: "d_model 16, init narrow"."""
    return ", ".join(f"{name} {value}" for name, value in point.items()) or "the base settings"
