"""Settings: frozen dataclasses, read from TOML or from a checkpoint's metadata; an unknown key is refused by name.

A `RunSpec` says everything that decides one trained model. Constructors store and check settings and do nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from kc_interp.errors import SpecError, did_you_mean

Initialisation = Literal["narrow", "wide", "hooked"]

LATER: Mapping[str, Any] = types.MappingProxyType({"later": True})
"""Marks a setting younger than stored records: at its default it is left out of plain data, so that their keys hold."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


def _positive(value: float) -> bool:
    return 0 < value < math.inf


@dataclass(frozen=True)
class TaskSpec:
    """A task by its installed name, with its settings."""

    name: str = "listops"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSpec:
    """The sample and the hold-outs.

    `split_seed` decides what is held out and what is a test item: shared by all arms, independent of a run's own seed,
    which draws the training sample. `test_fraction` of all questions, chosen by hash, are never trained on.
    """

    n_train: int = 60_000
    test_fraction: float = 0.05
    holdout_pairs: int = 2
    holdout_triples: int = 10
    split_seed: int = 0
    vocabulary: Literal["used", "all"] = "used"

    def __post_init__(self) -> None:
        _require(self.n_train >= 1, f"n_train is {self.n_train}; at least 1 example is needed to train on")
        _require(0 < self.test_fraction < 1, f"test_fraction is {self.test_fraction}; it must lie between 0 and 1")
        _require(min(self.holdout_pairs, self.holdout_triples) >= 0, "a number of held-out orbits cannot be negative")
        _require(self.split_seed >= 0, f"split_seed is {self.split_seed}; it cannot be negative")


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a transformer, in TransformerLens's names.

    A stack of `n_layers` blocks is applied `repeat` times (n_layers 1, repeat 5: one tied block, as in the paper).
    `n_ctx` None: the task's longest chain. `init` is the standard deviation of every weight matrix: narrow 0.02
    (the paper's), wide 1/sqrt(d_model), hooked 0.8/sqrt(d_model) (HookedTransformer's default), or a number;
    `scale_residual` divides it by sqrt(2 * n_layers * repeat) for the projections into the residual stream.
    `qkv_bias` False freezes the q, k and v biases at zero (they then do not count as parameters).
    `digits`: the token embeddings of the digits begin as all others do (None), orthogonal to each other, or evenly on a
    circle in their order; their lengths are the others' either way.
    """

    d_model: int = 48
    n_layers: int = 2
    n_heads: int = 4
    repeat: int = 1
    d_head: int | None = None
    d_mlp: int | None = None
    act: Literal["relu", "gelu"] = "gelu"
    norm: Literal["LN", "none"] = "LN"
    n_ctx: int | None = None
    qkv_bias: bool = True
    init: Initialisation | float = "wide"
    scale_residual: bool = True
    digits: Literal["orthogonal", "circle"] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "n_heads", "repeat", "d_head", "d_mlp", "n_ctx"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} is {value}; it must be at least 1")
        _require(
            self.d_head is not None or self.d_model % self.n_heads == 0,
            f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}; choose a multiple, or set d_head",
        )
        _require(
            isinstance(self.init, str) or _positive(self.init), f"init is {self.init}; a standard deviation is above 0"
        )

    @property
    def head_size(self) -> int:
        return self.d_head if self.d_head is not None else self.d_model // self.n_heads

    @property
    def mlp_size(self) -> int:
        return self.d_mlp if self.d_mlp is not None else 4 * self.d_model

    @property
    def depth(self) -> int:
        """The number of blocks a token passes through: layers times repetitions."""
        return self.n_layers * self.repeat

    @property
    def init_std(self) -> float:
        named = {"narrow": 0.02, "wide": 1 / math.sqrt(self.d_model), "hooked": 0.8 / math.sqrt(self.d_model)}
        return named[self.init] if isinstance(self.init, str) else float(self.init)


@dataclass(frozen=True)
class TrainSpec:
    """How a model is trained: AdamW throughout.

    `schedule`: onecycle (linear warm-up over `warmup` of the steps, cosine to `lr * final_lr`), exponential (decay to
    `lr * final_lr`), constant after the warm-up, or trunk: constant, then over the last `cooldown` of the steps
    linearly to `lr * final_lr`. A trunk's `warmup` of 1 and more is a number of steps: runs that differ in their steps
    alone then have all but the cool-down in common (`kc_interp.train.train_budgets`).
    `loss`: on every token (as the paper) or on the completion only.
    `batches`: bucketed by length, or `stream` (random crops of `crop` tokens of one stream, as the paper).
    `freeze_digits`: the token embeddings of the digits stay as they begin (they count as parameters all the same).
    `stop_after`: a run ends once so many evaluations in a row find it right on 99.9 % of its mixture (0: never).
    `dtype`: tf32 and bfloat16 are for CUDA, and of the matrix products only: parameters stay float32.
    """

    steps: int = 8_000
    batch_size: int = 64
    lr: float = 3e-3
    final_lr: float = 0.01
    schedule: Literal["onecycle", "exponential", "constant", "trunk"] = "onecycle"
    warmup: float = 0.05
    cooldown: float = field(default=0.2, metadata=LATER)
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    loss: Literal["all", "completion"] = "all"
    batches: Literal["bucketed", "stream"] = "bucketed"
    crop: int = 128
    dtype: Literal["float32", "tf32", "bfloat16", "float64"] = "float32"
    checkpoint_every: int = 1_000
    freeze_digits: bool = field(default=False, metadata=LATER)
    stop_after: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "crop", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        _require(self.stop_after >= 0, f"stop_after is {self.stop_after}; it is a number of evaluations, 0 for never")
        _require(
            _positive(self.lr) and _positive(self.clip), f"lr is {self.lr}, clip is {self.clip}; both must be above 0"
        )
        _require(0 <= self.weight_decay < math.inf, f"weight_decay is {self.weight_decay}; it cannot be negative")
        _require(all(0 <= beta < 1 for beta in self.betas), f"betas are {self.betas}; each must lie in [0, 1)")
        counted = self.schedule == "trunk" and self.warmup >= 1 and self.warmup % 1 == 0
        _require(
            (0 <= self.warmup <= 1 or counted) and 0 < self.final_lr <= 1,
            f"warmup is {self.warmup}, final_lr is {self.final_lr}; both are fractions, final_lr above 0"
            + (" (from 1 on, warmup is a whole number of steps)" if self.schedule == "trunk" else ""),
        )
        _require(0 <= self.cooldown <= 1, f"cooldown is {self.cooldown}; it is a share of the steps")
        _require(
            self.schedule != "trunk" or self.warmup_steps <= self.trunk_steps,
            f"a warm-up of {self.warmup_steps} steps does not end before the cool-down of {self.steps} steps begins, "
            f"at step {self.trunk_steps}; lower warmup or cooldown, or raise steps",
        )

    @property
    def warmup_steps(self) -> int:
        counted = self.schedule == "trunk" and self.warmup >= 1
        return round(self.warmup if counted else self.warmup * self.steps)

    @property
    def trunk_steps(self) -> int:
        """The steps that a run with more steps, but otherwise the same, makes alike; none but with schedule trunk."""
        return self.steps - round(self.cooldown * self.steps) if self.schedule == "trunk" else 0

    @property
    def shares_trunk(self) -> bool:
        """Whether more steps leave the trunk as it is: its warm-up does not depend on them."""
        return self.schedule == "trunk" and not 0 < self.warmup < 1


@dataclass(frozen=True)
class RunSpec:
    """One run: task, data, model, training and the seed of initialisation, training sample and order."""

    task: TaskSpec = field(default_factory=TaskSpec)
    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"seed is {self.seed}; it cannot be negative")


Settings = TypeVar("Settings")


def to_plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain data (dicts, lists, numbers, strings): what TOML and JSON hold."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            held = {f: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {
                f.name: plain(item) for f, item in held.items() if not ("later" in f.metadata and item == f.default)
            }
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(settings)


def from_plain(cls: type[Settings], data: object, *, where: str = "settings") -> Settings:
    """A settings dataclass from plain data, a table. Raises SpecError on an unknown key or a value of the wrong kind.

    >>> from_plain(ModelSpec, {"n_head": 4})
    Traceback (most recent call last):
    kc_interp.errors.SpecError: settings: unknown key 'n_head'; did you mean 'n_heads'?
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"{where}: expected a table of settings, found {data!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}")
    return cls(**{key: _coerce(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, or a SpecError that names the place and what would fit."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where=where)
    if origin in (typing.Union, types.UnionType):
        tables = [option for option in options if dataclasses.is_dataclass(option)]
        if len(tables) == 1 and isinstance(value, Mapping):
            return _coerce(tables[0], value, where)  # its message says what is wrong inside
        for option in options:
            try:
                return _coerce(option, value, where)
            except SpecError:
                continue
    elif origin is Literal:
        if value in options:
            return value
        names = [str(option) for option in options]
        raise SpecError(f"{where} is {value!r}{did_you_mean(str(value), names)}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        if options[-1] is Ellipsis:
            return tuple(_coerce(options[0], item, where) for item in value)
        if len(value) == len(options):
            return tuple(_coerce(option, item, where) for option, item in zip(options, value, strict=True))
    elif hint is type(None) and value is None:
        return None
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint is Any or _is_of(value, origin or hint):
        return value
    raise SpecError(f"{where} is {value!r}; expected {_named(hint)}")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether `value` is one of a class; True is no whole number."""
    return isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _named(hint: Any) -> str:
    """An annotation in words: `'narrow', 'wide' or a number`."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_named(option) for option in options)
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(repr, options))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_named(options[0])}"
    return _KINDS.get(hint, getattr(hint, "__name__", str(hint)))


_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "none"}
