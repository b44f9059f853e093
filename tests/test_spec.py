"""Settings: TOML in, dataclass out, plain data and back; what does not fit is refused by name."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kc_interp.errors import SpecError
from kc_interp.presets import PRESETS
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec, from_plain, to_plain

STUDY = """
seed = 7
[task]
name = "listops"
settings = { operations = ["MAX", "SUM"], depth = 3 }
[data]
n_train = 1000
vocabulary = "all"
[model]
d_model = 24
n_layers = 1
repeat = 5
init = 0.5
[train]
lr = 1
betas = [0.9, 0.99]
"""


def test_toml_becomes_settings_and_what_is_not_said_keeps_its_default() -> None:
    found = from_plain(RunSpec, tomllib.loads(STUDY))
    assert found == RunSpec(
        TaskSpec("listops", {"operations": ["MAX", "SUM"], "depth": 3}),
        DataSpec(n_train=1_000, vocabulary="all"),
        ModelSpec(d_model=24, n_layers=1, repeat=5, init=0.5),
        TrainSpec(lr=1.0, betas=(0.9, 0.99)),
        seed=7,
    )
    assert isinstance(found.train.lr, float) and found.model.depth == 5


@pytest.mark.parametrize("spec", [RunSpec(), *PRESETS.values()], ids=["default", *PRESETS])
def test_settings_survive_json(spec: RunSpec) -> None:
    assert from_plain(RunSpec, json.loads(json.dumps(to_plain(spec)))) == spec


@given(
    st.builds(
        ModelSpec,
        d_model=st.integers(1, 8).map(lambda k: 12 * k),
        n_heads=st.sampled_from([1, 2, 3, 4]),
        d_head=st.none() | st.integers(1, 64),
        n_ctx=st.none() | st.integers(1, 512),
        init=st.sampled_from(["narrow", "wide", "hooked"]) | st.floats(1e-3, 10),
        qkv_bias=st.booleans(),
    )
)
def test_any_model_survives_json(spec: ModelSpec) -> None:
    assert from_plain(ModelSpec, json.loads(json.dumps(to_plain(spec)))) == spec


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sed": 1}, "study.toml: unknown key 'sed'; did you mean 'seed'?"),
        ({"model": {"n_head": 4}}, "study.toml.model: unknown key 'n_head'; did you mean 'n_heads'?"),
        ({"data": {"x": 1}}, "study.toml.data: unknown key 'x'; known: holdout_pairs, holdout_triples, n_train, "),
        ({"model": {"d_model": "48"}}, "study.toml.model.d_model is '48'; expected a whole number"),
        ({"model": {"d_model": 48.0}}, "study.toml.model.d_model is 48.0; expected a whole number"),
        ({"model": {"d_model": True}}, "study.toml.model.d_model is True; expected a whole number"),
        ({"model": {"d_head": "x"}}, "study.toml.model.d_head is 'x'; expected a whole number or none"),
        ({"model": {"qkv_bias": 1}}, "study.toml.model.qkv_bias is 1; expected true or false"),
        ({"model": {"act": "gleu"}}, "study.toml.model.act is 'gleu'; did you mean 'gelu'?"),
        (
            {"model": {"init": "wild"}},
            "study.toml.model.init is 'wild'; expected 'narrow', 'wide', 'hooked' or a number",
        ),
        ({"train": {"lr": "fast"}}, "study.toml.train.lr is 'fast'; expected a number"),
        ({"train": {"lr": True}}, "study.toml.train.lr is True; expected a number"),
        ({"train": {"betas": [0.9]}}, "study.toml.train.betas is [0.9]; expected a list, each a number"),
        ({"train": {"betas": 0.9}}, "study.toml.train.betas is 0.9; expected a list, each a number"),
        ({"train": {"betas": [0.9, "x"]}}, "study.toml.train.betas is 'x'; expected a number"),
        ({"task": "listops"}, "study.toml.task: expected a table of settings, found 'listops'"),
        ({"task": {"settings": 3}}, "study.toml.task.settings is 3; expected Mapping"),
        ({"task": {"name": 3}}, "study.toml.task.name is 3; expected a string"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        from_plain(RunSpec, data, where="study.toml")
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSpec(d_model=10, n_heads=4), "d_model 10 is not divisible by n_heads 4; choose a multiple, or"),
        (lambda: ModelSpec(n_layers=0), "n_layers is 0; it must be at least 1"),
        (lambda: ModelSpec(d_head=0), "d_head is 0; it must be at least 1"),
        (lambda: ModelSpec(init=0.0), "init is 0.0; a standard deviation is above 0"),
        (lambda: ModelSpec(init=float("inf")), "init is inf"),
        (lambda: DataSpec(n_train=0), "n_train is 0; at least 1 example is needed"),
        (lambda: DataSpec(test_fraction=1.0), "test_fraction is 1.0; it must lie between 0 and 1"),
        (lambda: DataSpec(holdout_pairs=-1), "a number of held-out orbits cannot be negative"),
        (lambda: DataSpec(split_seed=-1), "split_seed is -1; it cannot be negative"),
        (lambda: RunSpec(seed=-1), "seed is -1; it cannot be negative"),
        (lambda: TrainSpec(steps=0), "steps is 0; it must be at least 1"),
        (lambda: TrainSpec(lr=0.0), "lr is 0.0, clip is 1.0; both must be above 0"),
        (lambda: TrainSpec(lr=float("nan")), "lr is nan"),
        (lambda: TrainSpec(clip=float("inf")), "clip is inf"),
        (lambda: TrainSpec(weight_decay=-0.1), "weight_decay is -0.1; it cannot be negative"),
        (lambda: TrainSpec(betas=(0.9, 1.0)), r"betas are \(0.9, 1.0\); each must lie in \[0, 1\)"),
        (lambda: TrainSpec(warmup=2.0), "warmup is 2.0, final_lr is 0.01; both are fractions"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_heads_need_not_divide_the_width_when_their_size_is_given() -> None:
    assert ModelSpec(d_model=10, n_heads=3, d_head=4).head_size == 4


@dataclass(frozen=True)
class Odd:
    """Settings as another package may have them."""

    names: tuple[str, ...] = ()
    table: dict[str, int] = field(default_factory=dict)
    anything: Any = None


def test_other_packages_settings_are_read_too() -> None:
    assert from_plain(Odd, {"names": ["a"], "table": {"b": 1}, "anything": [1]}) == Odd(("a",), {"b": 1}, [1])
    with pytest.raises(SpecError, match=r"settings.table is 3; expected dict"):
        from_plain(Odd, {"table": 3})
