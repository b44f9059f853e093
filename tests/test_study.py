"""A study is data: what it asks for, under which keys, in which ensembles, and what is refused before anything starts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kc_interp.errors import KCInterpError, SpecError
from kc_interp.scaling.study import Ensemble, Study, check, load
from kc_interp.scaling.sweep import parameter_count
from kc_interp.spec import from_plain, to_plain
from kc_interp.train import prepare

TINY: dict[str, Any] = {
    "name": "tiny",
    "base": {
        "task": {"settings": {"depth": 1, "modulus": 4}},
        "data": {"n_train": 300, "holdout_pairs": 1, "holdout_triples": 1, "test_fraction": 0.3},
        "model": {"d_model": 8, "n_layers": 1, "n_heads": 1},
        "train": {"steps": 30, "batch_size": 16, "checkpoint_every": 10},
    },
    "items": 50,
    "seeds": 2,
    "grid": {"d_model": [8, 12]},
    "arms": [{"name": "sum", "operations": ["SUM"]}, {"name": "joint", "operations": ["MAX", "SUM"]}],
    "criterion": {"component": "SUM"},
}


def tiny(**changes: Any) -> Study:
    """The tiny study with other settings; `base__train__steps=5` reaches inside."""
    data = to_plain(from_plain(Study, TINY))
    for name, value in changes.items():
        *path, last = name.split("__")
        table = data
        for part in path:
            table = table[part]
        table[last] = value
    return from_plain(Study, data, where="study")


EXAMPLE = """
name = "sum-transition"
preset = "quick"
seeds = [3, 5]
probes = ["embedding-geometry"]
constant_examples_of = "SUM"
[base.train]
steps = 100
lr = 3e-3
[base.data]
n_train = 1000
[grid]
d_model = [16, 24]
init = ["narrow", "wide", 0.1]
shape = [[2, 1], [1, 5]]
[[learning_rates]]
init = "narrow"
lr = 1e-3
[[learning_rates]]
init = "narrow"
d_model = [24]
lr = 5e-4
[[arms]]
name = "sum"
operations = ["SUM"]
[[arms]]
name = "joint"
operations = ["MAX", "SUM"]
weights = [3, 1]
[[arms]]
name = "curriculum"
operations = ["SUM"]
before = [{ operations = ["MAX", "MED"], steps = 40 }]
[criterion]
component = "SUM"
items = "atoms"
"""


def test_a_file_says_every_run(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(EXAMPLE)
    study = load(tmp_path / "study.toml")
    runs = study.runs()
    assert len(runs) == 2 * 2 * 3 * 2 * 3 and len({run.key for run in runs}) == len(runs)
    assert Counter(run.arm for run in runs) == {"sum": 24, "joint": 24, "curriculum": 24}
    assert {run.seed for run in runs} == {3, 5} == {run.spec.seed for run in runs}
    assert {(run.spec.model.n_layers, run.spec.model.repeat) for run in runs} == {(2, 1), (1, 5)}
    assert {run.spec.model.n_heads for run in runs} == {4}, "the preset's"
    rates = {(run.spec.model.init, run.spec.model.d_model): run.spec.train.lr for run in runs}
    assert rates == {
        ("narrow", 16): 1e-3, ("narrow", 24): 5e-4, ("wide", 16): 3e-3, ("wide", 24): 3e-3, (0.1, 16): 3e-3, (0.1, 24): 3e-3,
    }  # fmt: skip
    examples = {run.arm: [stage.data.n_train for stage in run.stages] for run in runs}
    assert examples == {"sum": [1000], "joint": [4000], "curriculum": [1000, 1000]}
    [first, last] = next(run for run in runs if run.arm == "curriculum").stages
    assert (first.task.settings["operations"], first.train.steps) == (["MAX", "MED"], 40)
    assert (last.task.settings["operations"], last.train.steps) == (["SUM"], 100)
    check(study)


def test_the_grid_varies_modulus_vocabulary_heads_and_steps() -> None:
    study = tiny(grid={"modulus": [4, 5], "vocabulary": ["used", "all"], "n_heads": [1, 2], "steps": [10, 20]})
    runs = study.runs()
    assert len(runs) == 2 * 16 * 2
    varied = {
        (s.task.settings["modulus"], s.data.vocabulary, s.model.n_heads, s.train.steps) for s in (r.spec for r in runs)
    }
    assert len(varied) == 16


def test_the_grid_varies_the_length_of_questions_and_every_stratum_has_models_of_one_size() -> None:
    study = tiny(grid={"d_model": [8], "lengths": [[5, 6], [9, 12]]}, base__task__settings__depth=2)
    check(study)
    runs = study.runs()
    assert len(runs) == 2 * 2 * 2
    assert Counter(tuple(run.spec.task.settings["lengths"]) for run in runs) == {(5, 6): 4, (9, 12): 4}
    assert [point for _, point in study.conditions()] == [{"lengths": (5, 6)}, {"lengths": (9, 12)}] * 2
    for run in runs:
        low, high = run.point["lengths"]
        read = prepare(run.spec).batches._prompts
        assert low <= read.min() and read.max() <= high
    sizes = {parameter_count(run) for run in runs if run.arm == "sum"}
    assert len(sizes) == 1, "thresholds of two strata are compared by size"


def test_a_study_without_strata_has_the_settings_it_had() -> None:
    assert "lengths" not in tiny().settings["grid"] and "lengths" not in tiny().runs()[0].spec.task.settings
    varied = tiny(grid={"lengths": [[5, 5]]})
    assert varied.settings["grid"]["lengths"] == [[5, 5]] and from_plain(Study, varied.settings) == varied


def test_an_arms_own_steps_and_settings_win_over_the_grids() -> None:
    arms = [{"name": "a", "operations": ["SUM"], "steps": 7, "settings": {"max_operands": 2}}, {"name": "b"}]
    runs = tiny(arms=arms, grid={"steps": [10]}, criterion__component=None).runs()
    assert {run.arm: run.spec.train.steps for run in runs} == {"a": 7, "b": 10}
    assert {run.arm: run.spec.task.settings.get("max_operands") for run in runs} == {"a": 2, "b": None}


def test_an_arm_that_starts_from_another_names_the_run_of_the_same_size_and_seed() -> None:
    study = tiny(
        arms=[{"name": "later", "operations": ["SUM"], "start_from": "max"}, {"name": "max", "operations": ["MAX"]}]
    )
    runs = study.runs()
    sources = {run.key: run for run in runs if run.arm == "max"}
    for run in runs:
        if run.arm == "later":
            source = sources[run.start]
            assert (source.seed, source.point) == (run.seed, run.point)
    order = [ensemble.runs[0].arm for ensemble in study.grouped(runs)]
    assert order == ["max", "max", "later", "later"]


def test_ensembles_have_members_of_one_kind_and_are_decided_by_the_study_alone() -> None:
    study = tiny(seeds=5, runs_per_ensemble=4, grid__steps=[30, 60])
    ensembles = study.grouped(study.runs())
    assert sum(len(one.runs) for one in ensembles) == len(study.runs()) == 40
    for one in ensembles:
        assert len(one.runs) <= 4
        assert len({(run.spec.model.d_model, run.spec.train.steps) for run in one.runs}) == 1
    again = tiny(seeds=5, runs_per_ensemble=4, grid__steps=[30, 60])
    assert [one.key for one in again.grouped(again.runs())] == [one.key for one in ensembles]
    titled = dataclasses.replace(study, title="another title")
    assert titled.settings == study.settings
    assert Ensemble(tuple(reversed(ensembles[0].runs))).key != ensembles[0].key


def test_members_may_differ_in_task_seed_and_initialisation() -> None:
    study = tiny(grid={"init": ["narrow", "wide"], "vocabulary": ["used", "all"]})
    assert len(study.grouped(study.runs())) == 1


@pytest.mark.parametrize(
    ("sets", "verdict"),
    [
        ({"atoms: SUM": {"exact": {"value": 0.8}}}, True),
        ({"atoms: SUM": {"exact": {"value": 0.79}}}, False),
        ({}, None),
    ],
)
def test_a_verdict_is_by_the_studys_own_criterion(sets: Any, verdict: bool | None) -> None:
    criterion = tiny(criterion={"component": "SUM", "items": "atoms", "level": 0.8}).criterion
    assert criterion.verdict({"sets": sets}) is verdict


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"seedz": 3}, "study: unknown key 'seedz'; did you mean 'seeds'?"),
    "deep inside": ({"base__model__n_head": 3}, "study.base.model: unknown key 'n_head'; did you mean 'n_heads'?"),
    "an unknown factor": ({"grid": {"d_modle": [8]}}, "study.grid: unknown key 'd_modle'; did you mean 'd_model'?"),
    "in an arm": (
        {"arms": [{"name": "a", "operation": ["SUM"]}]},
        "study.arms: unknown key 'operation'; did you mean 'operations'?",
    ),
    "no arm": ({"arms": []}, "a study needs [[arms]], each with a name"),
    "arms of one name": ({"arms": [{"name": "a"}, {"name": "a"}]}, "two arms are named 'a'"),
    "no seed": ({"seeds": 0}, "seeds is 0; give how many, or a list"),
    "a seed twice": ({"seeds": [1, 1]}, "give how many, or a list of different numbers from 0 on"),
    "a seed in the base": ({"base__seed": 2}, "base.seed is set; a study lists its seeds in 'seeds'"),
    "an impossible level": ({"criterion__level": 1.5}, "criterion.level is 1.5; a share lies between 0 and 1"),
    "no member": ({"runs_per_ensemble": 0}, "runs_per_ensemble is 0; it must be at least 1"),
    "an unknown start": (
        {"arms": [{"name": "max"}, {"name": "b", "start_from": "mx"}]},
        "arm 'b' starts from 'mx'; did you mean 'max'?",
    ),
    "a circle": (
        {"arms": [{"name": "a", "start_from": "b"}, {"name": "b", "start_from": "a"}]},
        "arm 'a' starts from itself: a <- b <- a",
    ),
    "weights thrown away": (
        {"arms": [{"name": "a"}, {"name": "b", "start_from": "a"}], "keep_weights": False},
        "the arm 'b' starts from another's weights; set keep_weights to true",
    ),
    "a stage without steps": ({"arms": [{"name": "a", "before": [{}]}]}, "every stage in 'before' needs its number of"),
    "adaptive without widths": (
        {"grid": {}, "placement__kind": "adaptive"},
        "adaptive placement chooses among the widths of grid.d_model; give two or more",
    ),
    "a constant of none": ({"constant_examples_of": "SUN"}, "'SUN', on which no arm trains; did you mean 'SUM'?"),
    "an empty training set": ({"base__data__n_train": 0}, "n_train is 0; at least 1 example is needed"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=list(REFUSED))
def test_settings_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        tiny(**changes)
    assert message in str(refused.value)


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a task not installed": ({"base__task__name": "listop"}, "no task 'listop' is installed; did you mean 'listops'?"),
    "an unknown operation": (
        {"arms": [{"name": "a", "operations": ["SUN"]}]},
        "arm 'a' at d_model 8: unknown operation 'SUN'; did you mean 'SUM'?",
    ),
    "a probe not installed": ({"probes": ["embeding-geometry"]}, "did you mean 'embedding-geometry'?"),
    "a size too small for its heads": (
        {"grid__n_heads": [1, 5]},
        "at n_heads 5, d_model 8: d_model 8 is not divisible by n_heads 5",
    ),
    "a context too short": ({"base__model__n_ctx": 3}, "n_ctx is 3, but the longest sequence of this task has"),
    "a hold-out that swallows the training set": (
        {"base__data__holdout_pairs": 9},
        "arm 'sum' at d_model 8: holding out 9 pairs leaves none to train on",
    ),
    "a modulus that is none": ({"grid__modulus": [1]}, "modulus is 1; it must lie between 2 and 100"),
    "a stratum that is none": (
        {"grid__lengths": [[9, 12]]}, "at lengths (9, 12), d_model 8: lengths is (9, 12); with depth 1 and max_operands 3 questions have 5 to 6",
    ),
    "an unknown component": ({"criterion__component": "SUN"}, "no arm's task consists; did you mean 'SUM'?"),
    "an arm that cannot be judged": (
        {"arms": [{"name": "a", "operations": ["SUM"]}, {"name": "b", "operations": ["MAX"]}], "placement__kind": "adaptive"},
        "arm 'b' does not train on SUM, by which adaptive placement is to judge it",
    ),
    "two arms that are one": (
        {"arms": [{"name": "a", "operations": ["SUM"]}, {"name": "b", "operations": ["SUM"]}]},
        "'a' at d_model 8 and 'b' at d_model 8 are the same run; leave one out",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE.values(), ids=list(IMPOSSIBLE))
def test_what_cannot_be_trained_is_refused_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    study = tiny(**changes)
    with pytest.raises(KCInterpError) as refused:
        check(study)
    assert message in str(refused.value)


FILES = {
    "no TOML": ("name = ", "not TOML ("),
    "no name": ("seeds = 2", "'name' is missing"),
    "an unknown preset": ('name = "a"\npreset = "quik"', "preset is 'quik'; did you mean 'quick'?"),
    "an unknown key": ('name = "a"\narms = [{name = "b"}]\n[gird]', "study: unknown key 'gird'; did you mean 'grid'?"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=list(FILES))
def test_a_file_is_refused_with_its_path(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file; expected a study"):
        load(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="a folder; expected a study"):
        load(tmp_path)
