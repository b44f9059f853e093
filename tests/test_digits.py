"""Controls of the digits' embeddings: taken from another arm, orthogonal or on a circle, and frozen to the bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kc_interp
from kc_interp import train as training
from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import CheckpointError, KCInterpError, SpecError
from kc_interp.records import Record, Store
from kc_interp.scaling.schedule import with_digits
from kc_interp.scaling.study import Run, Study, check
from kc_interp.scaling.sweep import rounds, total_runs
from kc_interp.spec import RunSpec
from kc_interp.train import Ensemble, digit_tokens, initial_parameters, train
from tests.test_study import tiny
from tests.test_sweep import Here, swept, values
from tests.test_train import small


@pytest.fixture(scope="module", autouse=True)
def _few_points_a_curve() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "EVALUATIONS", 3)
        yield


def rows(ensemble: Ensemble, run: int = 0) -> torch.Tensor:
    """The digits' embeddings of a member, by their symbols: not by the mask that training uses."""
    symbols = ensemble.members[run].tokens.symbols
    return ensemble.member_params(run)["embed.W_E"][[symbols.index(str(digit)) for digit in range(5)]]


def stepped(specs: list[RunSpec], steps: int = 10) -> Ensemble:
    ensemble = Ensemble(specs)
    for _ in range(steps):
        ensemble.step()
    return ensemble


def test_frozen_rows_keep_every_bit_and_all_others_learn() -> None:
    spec = small(train__freeze_digits=True, train__weight_decay=0.5)
    before, after = Ensemble([spec]), stepped([spec])
    assert torch.equal(rows(before), rows(after))
    first, last = before.member_params(0), after.member_params(0)
    digits = digit_tokens(after.members[0].tokens)
    others = [token for token in range(len(after.members[0].tokens)) if token not in digits]
    assert (first["embed.W_E"][others] != last["embed.W_E"][others]).any(1).all()
    for name, value in first.items():
        assert name.endswith("b_K") or not torch.equal(value, last[name]), name
    free = stepped([small(train__weight_decay=0.5)])
    assert (rows(free) != rows(before)).any(1).all()


def test_frozen_rows_have_no_part_in_the_gradients_norm() -> None:
    ensemble = Ensemble([small(train__freeze_digits=True), small()])
    gradients = ensemble.gradients(ensemble.losses(*ensemble.batch(0)))
    d_model = ensemble.model.d_model
    embedding = gradients[:, : gradients.new_tensor(ensemble.params["embed.W_E"].shape[1:]).prod().int()]
    frozen, free = embedding.view(2, -1, d_model)
    digits = digit_tokens(ensemble.members[0].tokens)
    assert not frozen[digits].any() and (free[digits] != 0).any(1).all()


def test_a_frozen_member_beside_a_free_one_is_each_of_them_alone() -> None:
    specs = [
        small(train__dtype="float64", train__freeze_digits=frozen, train__weight_decay=0.5) for frozen in (True, False)
    ]
    specs.append(small(train__dtype="float64", train__freeze_digits=True, model__digits="circle", seed=5))
    together = stepped(specs, 30)
    for run, spec in enumerate(specs):
        alone = stepped([spec], 30)
        for name, value in alone.member_params(0).items():
            torch.testing.assert_close(together.member_params(run)[name], value, atol=1e-9, rtol=1e-6)
    assert torch.equal(rows(together, 0), rows(Ensemble(specs), 0))
    assert torch.equal(rows(together, 2), rows(Ensemble(specs), 2))


def test_a_frozen_run_that_is_killed_ends_as_one_left_alone(tmp_path: Path) -> None:
    spec = small(train__freeze_digits=True)
    [whole] = train([spec])

    def stop(progress: training.Progress) -> None:
        if progress.step == 20:
            raise _Stop

    with pytest.raises(_Stop):
        train([spec], state_path=tmp_path / "state", on_progress=stop)
    [resumed] = train([spec], state_path=tmp_path / "state", resume=True)
    assert all(torch.equal(value, resumed.params[name]) for name, value in whole.params.items())


class _Stop(Exception):
    pass


@pytest.mark.parametrize("which", ["orthogonal", "circle"])
def test_digits_begin_orthogonal_or_on_a_circle_and_nothing_else_differs(which: str) -> None:
    made, plain = Ensemble([small(model__digits=which)]), Ensemble([small()])
    gram = rows(made) @ rows(made).T
    squared = made.model.init_std**2 * made.model.d_model
    angles = 2 * math.pi * (torch.arange(5)[:, None] - torch.arange(5)) / 5
    torch.testing.assert_close(gram, squared * (torch.eye(5) if which == "orthogonal" else torch.cos(angles)))
    digits = digit_tokens(made.members[0].tokens)
    for name, value in plain.member_params(0).items():
        other = made.member_params(0)[name]
        if name == "embed.W_E":
            value[digits] = other[digits]
        assert torch.equal(value, other)
    assert not torch.equal(rows(made), rows(Ensemble([small(model__digits=which, seed=4)])))


def test_too_narrow_a_model_for_its_digits_is_refused() -> None:
    spec = small(model__d_model=4, model__digits="orthogonal")
    with pytest.raises(SpecError, match="5 digits, orthogonal, take a d_model of at least 5; it is 4"):
        initial_parameters(spec, d_vocab=20, n_ctx=20)
    with pytest.raises(KCInterpError, match="arm 'a' at d_model 3: 4 digits, orthogonal, take a d_model of at least 4"):
        check(tiny(grid={"d_model": [3]}, arms=[{"name": "a", "operations": ["SUM"], "digits": "orthogonal"}]))


ARMS: list[dict[str, Any]] = [
    {"name": "own", "operations": ["SUM"]},
    {"name": "given", "operations": ["SUM"], "digits_from": "max", "freeze_digits": True},
    {"name": "begun", "operations": ["SUM"], "digits_from": "max", "steps": 1},
    {"name": "random", "operations": ["SUM"], "freeze_digits": True},
    {"name": "circle", "operations": ["SUM"], "digits": "circle", "freeze_digits": True},
    {"name": "staged", "operations": ["SUM"], "digits_from": "max", "freeze_digits": True,
     "before": [{"operations": ["MAX", "SUM"], "steps": 6}]},
    {"name": "max", "operations": ["MAX"]},
]  # fmt: skip
STUDY = tiny(arms=ARMS, seeds=1, grid={}, base__train__steps=12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "records.sqlite"
    swept(STUDY, path)
    return path


def opened(path: Path) -> dict[str, tuple[Record, Checkpoint]]:
    with Store.open(path) as store:
        return {r.arm: (r, kc_interp.load(store.weights_path(r) or "")) for r in store.records(STUDY.name)}


def digits_of(one: Checkpoint) -> torch.Tensor:
    return one.params["embed.W_E"][[one.tokens.symbols.index(str(digit)) for digit in range(4)]]


def test_transplanted_digits_are_the_sources_and_stay_so_when_frozen(whole: Path) -> None:
    found = opened(whole)
    assert len(found) == len(ARMS)
    source = digits_of(found["max"][1])
    assert torch.equal(digits_of(found["given"][1]), source)
    assert torch.equal(digits_of(found["staged"][1]), source)
    assert not torch.equal(digits_of(found["begun"][1]), source)
    record, one = found["given"]
    assert record.start == "digits:" + found["max"][0].key and record.spec["train"]["freeze_digits"]
    fresh = Ensemble([one.spec]).member_params(0)
    assert not torch.equal(one.params["unembed.W_U"], found["max"][1].params["unembed.W_U"])
    assert not torch.equal(digits_of(found["given"][1]), fresh["embed.W_E"][digit_tokens(one.tokens)])
    random = Ensemble([found["random"][1].spec]).member_params(0)["embed.W_E"][digit_tokens(one.tokens)]
    assert torch.equal(digits_of(found["random"][1]), random)


def test_only_the_digits_are_transplanted() -> None:
    """Everything else, the unembedding too, begins as the run's own seed has it."""
    runs = {run.arm: run for run in STUDY.runs()}
    [source] = train([runs["max"].spec])
    ensemble = Ensemble([runs["given"].spec])
    fresh, tokens = ensemble.member_params(0), ensemble.members[0].tokens
    made = with_digits(source, fresh, tokens=tokens)
    digits = digit_tokens(tokens)
    for name, value in fresh.items():
        if name == "embed.W_E":
            assert torch.equal(made[name][digits], digits_of(source))
            value[digits] = made[name][digits]
        assert torch.equal(made[name], value)
    other = tiny(arms=[{"name": "max", "operations": ["MAX"]}], base__task__settings={"depth": 1, "modulus": 3}, grid={},
                 base__data__holdout_pairs=0, base__data__holdout_triples=0, criterion__component=None)  # fmt: skip
    [narrow] = train([other.runs()[0].spec])
    with pytest.raises(
        CheckpointError, match="embeddings of 0 1 2 3 at d_model 8 are to be those of a model that has 0 1 2 at"
    ):
        with_digits(narrow, fresh, tokens=tokens)


def test_a_killed_sweep_of_transplants_ends_as_one_left_alone(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with pytest.raises(KeyboardInterrupt):
        swept(STUDY, path, Here(1))
    with Store.open(whole) as store:
        assert values(swept(STUDY, path)) == values(store.records(STUDY.name, curves=True))
        lines = store.export(STUDY.name)
    with Store.open(tmp_path / "imported.sqlite", write=True) as store:
        assert store.import_lines(lines) == len(ARMS)


def test_members_with_and_without_frozen_digits_share_an_ensemble() -> None:
    kinds = [{run.arm for run in one.runs} for one in STUDY.grouped(STUDY.runs())]
    assert {"own", "random", "circle", "max"} in kinds


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "two sources": (
        [{"name": "a", "digits_from": "b", "start_from": "b"}, {"name": "b"}],
        "arm 'a': give one of 'start_from', 'digits_from' and 'digits'",
    ),
    "a source and a shape": (
        [{"name": "a", "digits_from": "b", "digits": "circle"}, {"name": "b"}],
        "arm 'a': give one of 'start_from', 'digits_from' and 'digits'",
    ),
    "an unknown source": ([{"name": "a", "digits_from": "max"}], "arm 'a' starts from 'max'; known: a"),
    "itself": ([{"name": "a", "digits_from": "a"}], "arm 'a' starts from itself: a <- a"),
    "an unknown shape": ([{"name": "a", "digits": "cirle"}], "study.arms.digits is 'cirle'; expected "),
    "unplaced on a grid": (
        [{"name": "a", "digits_from": "b"}, {"name": "b", "placed": False}],
        "arm 'b' has placed = false, which is for arms that adaptive placement trains only where others start from them",
    ),
}


@pytest.mark.parametrize(("arms", "message"), REFUSED.values(), ids=list(REFUSED))
def test_arms_that_do_not_fit_are_refused_by_name(arms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        tiny(arms=arms)
    assert message in str(refused.value)


def test_digits_that_the_source_lacks_are_found_before_anything_starts() -> None:
    arms = [
        {"name": "a", "operations": ["SUM"], "digits_from": "b"},
        {"name": "b", "operations": ["SUM"], "settings": {"modulus": 3}},
    ]
    with pytest.raises(SpecError, match="arm 'a': 'b' has no digits 3"):
        check(tiny(arms=arms))


def adaptive(**changes: Any) -> Study:
    arms = [
        {"name": "sum", "operations": ["SUM"]},
        {"name": "given", "operations": ["SUM"], "digits_from": "max"},
        {"name": "then", "operations": ["SUM"], "start_from": "sum"},
        {"name": "max", "operations": ["MAX"], "placed": False},
    ]
    return tiny(**{
        "arms": arms, "grid": {"d_model": [4, 8, 12]}, "base__train__steps": 6, "runs_per_ensemble": 4,
        "placement": {"kind": "adaptive", "runs": 3, "batch": 2}, **changes,
    })  # fmt: skip


def test_adaptively_a_source_is_made_where_it_is_needed_and_once() -> None:
    study = adaptive()
    verdicts: dict[str, bool | None] = {}
    asked: list[Run] = []
    for ensembles in rounds(study, verdicts):
        runs = [run for ensemble in ensembles for run in ensemble.runs]
        asked += runs
        verdicts |= {run.key: run.spec.model.d_model > 8 for run in runs}
        assert all(run.source is None or run.source in verdicts for run in runs)
    by_arm = {
        name: [(r.spec.model.d_model, r.seed) for r in asked if r.arm == name]
        for name in ("sum", "given", "then", "max")
    }
    assert len(asked) == len(verdicts) <= total_runs(study) == 3 + 2 * 3 + 2 * 3
    assert by_arm["given"] == by_arm["max"] and len(by_arm["given"]) == len(by_arm["then"]) == 3
    assert set(by_arm["sum"]) >= set(by_arm["then"])


def test_an_adaptive_sweep_with_sources_can_be_killed(tmp_path: Path) -> None:
    study = adaptive(placement={"kind": "adaptive", "runs": 2, "batch": 1})
    found = swept(study, tmp_path / "whole.sqlite")
    assert {record.arm for record in found} == {"sum", "given", "then", "max"}
    for most in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            swept(study, tmp_path / "killed.sqlite", Here(most))
    assert values(swept(study, tmp_path / "killed.sqlite")) == values(found)


def test_a_source_that_lacks_the_component_is_to_be_unplaced() -> None:
    study = adaptive()
    check(study)
    placed = dataclasses.replace(study, arms=tuple(dataclasses.replace(arm, placed=True) for arm in study.arms))
    with pytest.raises(
        SpecError, match=r"arm 'max' does not train on SUM, .*; where others only start from it, set placed = f"
    ):
        check(placed)
    with pytest.raises(
        SpecError, match="arm 'sum' has placed = false, which is for arms that adaptive placement trains"
    ):
        adaptive(arms=[{"name": "sum", "placed": False}])
