"""Budgets on one trunk: each ends, to the bit, as its run trained alone, for the steps of one trunk and their cool-downs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kc_interp import train as training
from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import CheckpointError, SpecError
from kc_interp.records import Store
from kc_interp.scaling.schedule import Job, states_of, unpack, work
from kc_interp.scaling.study import Ensemble, Study
from kc_interp.scaling.sweep import rounds
from kc_interp.spec import TrainSpec
from kc_interp.train import Progress, branch_path, learning_rate, train, train_budgets, with_steps
from tests.test_study import tiny
from tests.test_sweep import Here, swept, values
from tests.test_train import small


@pytest.fixture(scope="module", autouse=True)
def _few_points_a_curve() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "EVALUATIONS", 4)
        yield


BUDGETS = (20, 40, 80)
SPECS = [
    small(
        train__schedule="trunk", train__warmup=5.0, train__steps=80, seed=seed, train__lr=lr, train__checkpoint_every=7
    )
    for seed, lr in ((3, 3e-3), (4, 1e-3))
]


@pytest.fixture(scope="module")
def alone() -> dict[int, list[Checkpoint]]:
    return {steps: train([with_steps(spec, steps) for spec in SPECS]) for steps in BUDGETS}


def same(found: dict[int, list[Checkpoint]], wanted: dict[int, list[Checkpoint]]) -> None:
    assert found.keys() == wanted.keys()
    for steps, ones in wanted.items():
        for one, other in zip(ones, found[steps], strict=True):
            assert one.spec == other.spec and one.training["curve"] == other.training["curve"]
            assert one.training["steps"] == other.training["steps"] == steps
            for name, value in one.params.items():
                assert torch.equal(value, other.params[name]), (steps, name)


class Counted:
    """How many updates are made while it is entered."""

    def __enter__(self) -> Counted:
        self.steps, self._patch = 0, pytest.MonkeyPatch()
        step = training.Ensemble.step

        def counted(ensemble: training.Ensemble) -> Any:
            self.steps += 1
            return step(ensemble)

        self._patch.setattr(training.Ensemble, "step", counted)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_every_branch_is_the_run_trained_alone_for_two_thirds_of_the_steps(
    alone: dict[int, list[Checkpoint]], tmp_path: Path
) -> None:
    seen: list[Progress] = []
    with Counted() as made:
        found = train_budgets(SPECS, BUDGETS, tmp_path / "state.safetensors", on_progress=seen.append)
    same(found, alone)
    assert made.steps == 64 + 4 + 8 + 16 == pytest.approx(4.6 * 20), "instead of 7 x 20"
    steps = [progress.step for progress in seen]
    assert steps == sorted(steps) and steps[-1] == made.steps == seen[-1].steps


@pytest.mark.parametrize("cooldown", [0.0, 1.0])
def test_a_cool_down_may_be_nothing_or_everything(cooldown: float, tmp_path: Path) -> None:
    specs = [small(train__schedule="trunk", train__warmup=0.0, train__steps=40, train__cooldown=cooldown)]
    with Counted() as made:
        found = train_budgets(specs, [20, 40], tmp_path / "state.safetensors")
    assert made.steps == (60 if cooldown else 40)
    same(found, {steps: train([with_steps(specs[0], steps)]) for steps in (20, 40)})


class _Stop(Exception):
    pass


def test_killed_anywhere_it_goes_on_to_the_same_end(alone: dict[int, list[Checkpoint]], tmp_path: Path) -> None:
    """After every report: in the trunk, at a branching point, in a branch; the steps of states kept are not made twice."""
    state = tmp_path / "state.safetensors"
    last, made = -1, 0

    def stop(progress: Progress) -> None:
        nonlocal last
        if progress.step > last:
            last = progress.step
            raise _Stop

    for _ in range(100):
        try:
            with Counted() as counted:
                found = train_budgets(SPECS, BUDGETS, state, on_progress=stop)
            made += counted.steps
            break
        except _Stop:
            made += counted.steps
    same(found, alone)
    assert last == 92 and 92 < made < 2.5 * 92
    with Counted() as counted:
        same(train_budgets(SPECS, BUDGETS, state), alone)
    assert counted.steps == 0


def test_a_branch_that_is_lost_after_the_trunk_has_gone_on_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train_budgets(SPECS[:1], (20, 40), state)
    branch_path(state, 20).unlink()
    with pytest.raises(CheckpointError, match="the trunk is at step 32; a budget of 20 branches at 16"):
        train_budgets(SPECS[:1], (20, 40), state)


def test_runs_without_a_common_trunk_are_refused(tmp_path: Path) -> None:
    for changes in ({"train__schedule": "onecycle"}, {"train__schedule": "trunk", "train__warmup": 0.1}):
        with pytest.raises(SpecError, match=r"only with schedule 'trunk' and a warm-up in steps .* e.g. warmup = 100"):
            train_budgets([small(**changes)], BUDGETS, tmp_path / "state")


def test_the_schedule_is_warm_up_constant_and_a_line_down() -> None:
    spec = TrainSpec(steps=1_000, lr=1e-2, final_lr=0.1, warmup=100, cooldown=0.25, schedule="trunk")
    rates = [learning_rate(spec, step) for step in range(1_001)]
    assert rates[0] == pytest.approx(1e-4) and rates[99] == pytest.approx(1e-2)
    assert set(rates[100:751]) == {1e-2}
    assert rates[875] == pytest.approx((1e-2 + 1e-3) / 2) and rates[1_000] == pytest.approx(1e-3)
    longer = dataclasses.replace(spec, steps=4_000)
    assert [learning_rate(longer, step) for step in range(751)] == rates[:751]
    assert learning_rate(dataclasses.replace(spec, warmup=0.1), 99) == pytest.approx(1e-2), "a share of the steps"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 1.5}, r"warmup is 1.5, .* both are fractions, .* \(from 1 on, warmup is a whole number of steps\)"),
        ({"warmup": float("nan")}, "warmup is nan"),
        ({"warmup": float("inf")}, "warmup is inf"),
        ({"warmup": -2.0}, "warmup is -2.0"),
        ({"cooldown": 1.5}, "cooldown is 1.5; it is a share of the steps"),
        (
            {"warmup": 90.0, "steps": 100},
            "a warm-up of 90 steps does not end before the cool-down of 100 steps begins, at st",
        ),
    ],
)
def test_schedules_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TrainSpec(**{"schedule": "trunk", **changes})


def trunk(**changes: Any) -> Study:
    """The tiny study with two budgets on a trunk."""
    return tiny(
        **{
            "base__train__schedule": "trunk",
            "base__train__warmup": 4,
            "grid": {"steps": [12, 24]},
            "seeds": 3,
            **changes,
        }
    )


STUDY = trunk(
    arms=[
        {"name": "sum", "operations": ["SUM"]},
        {"name": "curriculum", "operations": ["SUM"], "before": [{"operations": ["MAX"], "steps": 8}]},
    ],
    runs_per_ensemble=2,
)


def test_runs_that_differ_in_steps_alone_are_one_line_of_an_ensemble() -> None:
    study = trunk(runs_per_ensemble=4)
    ensembles = study.grouped(study.runs())
    assert [(len(one.lines), len(one.runs)) for one in ensembles] == [(4, 8), (2, 4)]
    for line in ensembles[0].lines:
        assert [run.spec.train.steps for run in line] == [12, 24] and len({(run.arm, run.seed) for run in line}) == 1
    one = ensembles[0]
    assert one.steps == 19 + 5 + 2
    single = Ensemble(tuple(line[1] for line in one.lines))
    assert single.steps == 24 and one.cost == pytest.approx(single.cost * 26 / 24)
    apart = trunk(base__train__schedule="constant", base__train__warmup=0.1)
    assert all(len(one.lines) == len(one.runs) for one in apart.grouped(apart.runs()))


def test_arms_that_start_from_another_have_trunks_of_their_own() -> None:
    """Their sources, and so their weights, differ by budget."""
    study = trunk(
        arms=[{"name": "max", "operations": ["MAX"]}, {"name": "b", "operations": ["SUM"], "start_from": "max"}]
    )
    assert [len(one.lines[0]) for one in study.grouped(study.runs())] == [2, 1, 1]


def test_a_share_as_warm_up_is_refused_where_budgets_are_to_share() -> None:
    with pytest.raises(
        SpecError, match=r"base.train.warmup is 0.05, a share of the steps, .* in steps, e.g. warmup = 100"
    ):
        trunk(base__train__warmup=0.05)
    trunk(base__train__warmup=0.05, grid={})


def by_key(answer: bytes) -> dict[str, Any]:
    return {one["key"]: (one["metrics"], one["curve"]) for one in unpack(answer)[0]["runs"]}


@pytest.mark.parametrize("index", [0, 2])
def test_a_job_gives_each_budget_what_it_would_have_given_alone(index: int) -> None:
    """Two routes: all budgets at once, and an ensemble of the same lines for each; also after an earlier stage."""
    ensemble = STUDY.grouped(STUDY.runs())[index]
    steps: list[int] = []
    with Counted() as made:
        answer = work(Job(ensemble, STUDY.criterion, 50), steps.append)
    assert made.steps == ensemble.steps == (26 if index == 0 else 34) and steps[-1] == ensemble.steps
    single: dict[str, Any] = {}
    weights = unpack(answer)[1]
    for budget in range(2):
        other = work(Job(Ensemble(tuple(line[budget] for line in ensemble.lines)), STUDY.criterion, 50))
        single |= by_key(other)
        for key, one in unpack(other)[1].items():
            assert params(one).keys() == params(weights[key]).keys()
            assert all(torch.equal(value, params(weights[key])[name]) for name, value in params(one).items())
    assert by_key(answer) == single


def params(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load as tensors_of

    return tensors_of(content)


def test_a_job_that_is_killed_goes_on_from_its_states(tmp_path: Path) -> None:
    ensemble = STUDY.grouped(STUDY.runs())[2]
    job = Job(ensemble, STUDY.criterion, 50, states=str(tmp_path))
    whole = work(dataclasses.replace(job, states=None))
    for moment in (8, 8 + 10, 8 + 12, 8 + 19 + 2, 8 + 26):

        def stop(step: int, moment: int = moment) -> None:
            if step >= moment:
                raise _Stop

        with pytest.raises(_Stop):
            work(job, stop)
    assert by_key(work(job)) == by_key(whole)
    states = states_of(tmp_path, ensemble)
    assert len(states) == 4, "of the first stage, the trunk and two branches"
    for damaged in states:
        damaged.write_bytes(b"damaged")
        assert by_key(work(job)) == by_key(whole)


def test_a_sweep_stores_every_budget_and_can_be_killed(tmp_path: Path) -> None:
    whole = swept(STUDY, tmp_path / "whole.sqlite")
    assert {record.key for record in whole} == {run.key for run in STUDY.runs()}
    assert {(r.arm, r.spec["train"]["steps"], r.seed) for r in whole} == {
        (arm, steps, seed) for arm in ("sum", "curriculum") for steps in (12, 24) for seed in range(3)
    }
    assert not list((tmp_path / "whole.files" / "states").iterdir())
    with pytest.raises(KeyboardInterrupt):
        swept(STUDY, tmp_path / "killed.sqlite", Here(1))
    assert values(swept(STUDY, tmp_path / "killed.sqlite")) == values(whole)
    with Store.open(tmp_path / "whole.sqlite") as store:
        assert len(store.records(STUDY.name)) == 12


def test_adaptive_budgets_share_where_the_same_run_is_asked_for_in_a_round() -> None:
    """Every number of steps has a search of its own; a width and seed that two of them ask for is one line."""
    study = trunk(
        grid={"d_model": [4, 8, 12], "steps": [12, 24]}, placement={"kind": "adaptive", "runs": 4, "batch": 4}
    )
    verdicts: dict[str, bool | None] = {}
    lines = 0
    for ensembles in rounds(study, verdicts):
        for one in ensembles:
            asked = {(r.arm, r.spec.model.d_model, r.seed, r.spec.train.steps) for r in one.runs}
            assert len({len(line) for line in one.lines}) == 1 and len(asked) == len(one.runs)
            lines += len(one.lines)
            verdicts |= {run.key: False for run in one.runs}
    assert len(verdicts) == 16 and lines < 16
