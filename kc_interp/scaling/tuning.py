"""The learning rates of a study: given by hand, or found by a stage of runs that comes before all others.

What the stage finds is a function of the study and its records alone, so that a sweep that was killed and one that was
left alone go on with the same rates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kc_interp.errors import DataError, SpecError, did_you_mean
from kc_interp.records import Record
from kc_interp.scaling.factors import point_words
from kc_interp.spec import LATER, Initialisation, ModelSpec

if TYPE_CHECKING:
    from kc_interp.scaling.study import Arm, Run, Study

FACTORS = ("shape", "n_heads", "init")
"""The factors of which every setting has learning rates of its own."""

TUNING = "tuning: "
"""How the arms of runs that chose a learning rate begin; no arm of a study proper does."""


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of runs with this initialisation, shape, heads and one of these widths (None: any)."""

    lr: float
    init: Initialisation | float | None = None
    d_model: tuple[int, ...] | None = None
    shape: tuple[int, int] | None = field(default=None, metadata=LATER)
    n_heads: int | None = field(default=None, metadata=LATER)

    def fits(self, model: ModelSpec) -> bool:
        return (
            self.init in (None, model.init)
            and (self.d_model is None or model.d_model in self.d_model)
            and self.shape in (None, (model.n_layers, model.repeat))
            and self.n_heads in (None, model.n_heads)
        )


@dataclass(frozen=True)
class Tuning:
    """A first stage that finds the learning rate of every initialisation, shape, number of heads and width.

    Each of `lrs` is tried at each `d_model` (none given: all of the grid), with every one of the `arms` (all) and
    `seeds` (a list, or how many from 1000 on: never the study's own). The rate with the lowest mean answer NLL on the
    criterion's items, over arms and seeds, is that of all arms, so that arms are not compared by their rates. A width
    takes the rate of the nearest tried one in log. All other factors and (unless `steps` says otherwise) the steps are
    the first of the grid. Its runs are records of the study, of arms named "tuning: sum".
    """

    lrs: tuple[float, ...]
    d_model: tuple[int, ...] = ()
    arms: tuple[str, ...] = ()
    seeds: int | tuple[int, ...] = 1
    steps: int | None = None

    def __post_init__(self) -> None:
        if not self.lrs or len(set(self.lrs)) < len(self.lrs) or not all(0 < lr < math.inf for lr in self.lrs):
            raise SpecError(f"tuning.lrs is {list(self.lrs)}; give different learning rates above 0")
        for name, values in (("d_model", self.d_model), ("arms", self.arms)):
            if len(set(values)) < len(values):
                raise SpecError(f"tuning.{name} is {list(values)}; name each once")
        if not self.seed_list or min(self.seed_list) < 0 or len(set(self.seed_list)) < len(self.seed_list):
            raise SpecError(f"tuning.seeds is {self.seeds}; give how many, or a list of different numbers from 0 on")

    @property
    def seed_list(self) -> tuple[int, ...]:
        return tuple(range(1000, 1000 + self.seeds)) if isinstance(self.seeds, int) else self.seeds


@dataclass(frozen=True)
class TunedRate:
    """What tuning found at one width of one setting of the other factors.

    `nats`: mean answer NLL by rate over the runs that are stored, None where one of them has diverged (or none is).
    `lr`: the chosen rate, None while runs are `missing`.
    """

    setting: Mapping[str, Any]
    d_model: int
    nats: Mapping[float, float | None]
    lr: float | None
    missing: int = 0

    def __str__(self) -> str:
        chosen = f"{self.missing} runs missing" if self.lr is None else f"lr {self.lr:g}"
        tried = ", ".join(f"{lr:g}: {'-' if nats is None else f'{nats:.3g}'}" for lr, nats in self.nats.items())
        where = point_words({**self.setting, "d_model": self.d_model})
        return f"{where}: {chosen} (answer NLL in nats by rate: {tried})"


@dataclass(frozen=True)
class Trial:
    """The runs that compare the learning rates at one width of one setting of the tuned factors."""

    setting: Mapping[str, Any]
    d_model: int
    runs: Mapping[float, Sequence[Run]]


def require_sound(study: Study) -> None:
    """Refuse a tuning stage that does not fit its study. Raises SpecError."""
    if (tuning := study.tuning) is None:
        return
    if study.learning_rates:
        raise SpecError("a study has either [[learning_rates]] or [tuning], which finds them; leave one out")
    names = [arm.name for arm in study.arms]
    for name in tuning.arms:
        if name not in names:
            raise SpecError(f"tuning.arms: no arm is named {name!r}{did_you_mean(name, names)}")
    for arm in _arms(study, tuning):
        if tuning.arms and arm.source not in (None, *tuning.arms):
            raise SpecError(f"tuning.arms: {arm.name!r} needs {arm.source!r}, from which it starts, beside it")
    adaptive = study.placement.kind == "adaptive"
    own = range(study.placement.runs) if adaptive else study.seed_list
    if shared := sorted(set(own) & set(tuning.seed_list)):
        raise SpecError(f"tuning.seeds has {shared[0]}, a seed of the study's own runs; tune with other seeds")


def trials(study: Study) -> Iterator[Trial]:
    """What is tried at each setting of the tuned factors and each width; nothing where nothing is tuned."""
    if (tuning := study.tuning) is None:
        return
    first = next(study.grid.without([*FACTORS, "d_model"]).points())
    if tuning.steps is not None:
        first["steps"] = tuning.steps
    for setting in study.grid.only(FACTORS).points():
        for width in tuning.d_model or study.grid.d_model or (study.base.model.d_model,):
            point = {**first, **setting, "d_model": width}
            yield Trial(setting, width, {lr: _runs(study, tuning, lr, point) for lr in tuning.lrs})


def _arms(study: Study, tuning: Tuning) -> list[Arm]:
    return [arm for arm in study.arms if not tuning.arms or arm.name in tuning.arms]


def _runs(study: Study, tuning: Tuning, lr: float, point: Mapping[str, Any]) -> list[Run]:
    rated = study.with_rates([LearningRate(lr)])
    runs = [rated.run(arm, point, seed) for seed in tuning.seed_list for arm in _arms(study, tuning)]
    return [dataclasses.replace(run, arm=TUNING + run.arm) for run in runs]


def rates(study: Study, records: Iterable[Record]) -> list[TunedRate]:
    """What tuning has found so far, from the study's records alone. Of equal rates the smaller is chosen."""
    nats = {record.key: study.criterion.answer_nats(record.metrics) for record in records}
    found = []
    for trial in trials(study):
        means = {lr: _mean([nats[run.key] for run in runs if run.key in nats]) for lr, runs in trial.runs.items()}
        missing = sum(run.key not in nats for runs in trial.runs.values() for run in runs)
        best = min(means, key=lambda lr: (math.inf if (mean := means[lr]) is None else mean, lr))
        found.append(TunedRate(trial.setting, trial.d_model, means, None if missing else best, missing))
    return found


def tuned(study: Study, records: Iterable[Record]) -> Study:
    """The study with the learning rates that its tuning found. Raises DataError while tuning runs are missing."""
    found = rates(study, records)
    if missing := sum(rate.missing for rate in found):
        raise DataError(
            f"{missing} of the {len(study.tuning_runs())} runs that find the learning rates of {study.name!r} are "
            "missing; kc-interp sweep makes them"
        )
    tried = sorted({rate.d_model for rate in found})
    near: dict[int, list[int]] = {}
    for width in sorted({*(study.grid.d_model or (study.base.model.d_model,)), *tried}):
        near.setdefault(min(tried, key=lambda one: abs(math.log(one / width))), []).append(width)
    return study.with_rates(
        [
            LearningRate(rate.lr, **rate.setting, d_model=tuple(near[rate.d_model]))
            for rate in found
            if rate.lr is not None
        ]
    )


def _mean(nats: Sequence[float | None]) -> float | None:
    """None where there is nothing, or where a run has diverged."""
    finite = [value for value in nats if value is not None]
    return math.fsum(finite) / len(finite) if finite and len(finite) == len(nats) else None
