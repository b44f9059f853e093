"""Training: an ensemble's member is the run alone, HookedTransformer trains to the same weights, a kill loses nothing."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kc_interp import checkpoint
from kc_interp.batches import IGNORE, Batches
from kc_interp.errors import CheckpointError, SpecError
from kc_interp.model.lens import hooked
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.tasks.task import Chains
from kc_interp.train import Ensemble, Progress, initial_parameters, learning_rate, train


def small(**changes: object) -> RunSpec:
    """A run that trains in a second: pairs and triples of digits below five, no nesting."""
    spec = RunSpec(
        TaskSpec("listops", {"operations": ["MAX", "SUM"], "modulus": 5, "depth": 1}),
        DataSpec(n_train=500, holdout_pairs=1, holdout_triples=2, test_fraction=0.2),
        ModelSpec(d_model=16, n_layers=2, n_heads=2),
        TrainSpec(steps=40, batch_size=16, checkpoint_every=10),
        seed=3,
    )
    for name, value in changes.items():
        part, _, key = name.partition("__")
        spec = dataclasses.replace(
            spec, **{part: dataclasses.replace(getattr(spec, part), **{key: value}) if key else value}
        )
    return spec


def test_fifty_steps_give_hookedtransformers_weights_in_float64() -> None:
    """Its own forward, torch's AdamW and clip_grad_norm_, the same batches."""
    for changes in (
        {},
        {"train__loss": "completion", "train__clip": 0.1, "model__act": "relu"},
        {"model__n_layers": 1, "model__repeat": 3, "model__norm": "none", "train__schedule": "exponential"},
    ):
        spec = small(train__steps=50, train__dtype="float64", **changes)
        ensemble = Ensemble([spec])
        member = ensemble.members[0]
        fresh = initial_parameters(spec, d_vocab=len(member.tokens), n_ctx=member.n_ctx)
        model = hooked({name: value.double() for name, value in fresh.items()}, spec.model)
        optimiser = torch.optim.AdamW(model.parameters(), lr=spec.train.lr, betas=spec.train.betas, weight_decay=0.01)
        for step in range(50):
            batch = member.batches[step]
            logits = model(torch.from_numpy(batch.tokens))
            loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten(), ignore_index=IGNORE)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec.train.clip)
            optimiser.param_groups[0]["lr"] = learning_rate(spec.train, step)
            optimiser.step()
            assert ensemble.step().item() == pytest.approx(loss.item(), rel=1e-9)
        reference = dict(model.named_parameters())
        for name, value in ensemble.member_params(0).items():
            torch.testing.assert_close(value, reference[name].detach(), atol=1e-9, rtol=1e-6)
            assert (value - fresh[name]).abs().max() > 0 or not value.any()


def test_frozen_biases_stay_zero() -> None:
    ensemble = Ensemble([small(model__qkv_bias=False)])
    for _ in range(5):
        ensemble.step()
    params = ensemble.member_params(0)
    assert not params["blocks.0.attn.b_Q"].any() and not params["blocks.1.attn.b_V"].any()
    assert params["blocks.0.attn.b_O"].any()


def test_a_member_of_a_mixed_ensemble_is_the_run_alone() -> None:
    """Other tasks (hence vocabularies), seeds, initialisations and rates beside it change it by rounding only."""
    specs = [
        small(train__dtype="float64"),
        small(train__dtype="float64", seed=4, model__init="narrow", train__clip=0.05),
        small(train__dtype="float64", task=TaskSpec("listops", {"operations": ["SUM"], "modulus": 5, "depth": 1})),
        small(train__dtype="float64", train__lr=1e-3, train__loss="completion", train__weight_decay=0.5),
    ]
    together = Ensemble(specs)
    for _ in range(30):
        together.step()
    for run, spec in enumerate(specs):
        alone = Ensemble([spec])
        for _ in range(30):
            alone.step()
        for name, value in alone.member_params(0).items():
            mine = together.member_params(run)[name]
            assert mine.shape == value.shape
            torch.testing.assert_close(mine, value, atol=1e-9, rtol=1e-6)


def test_runs_of_different_shape_are_refused_as_an_ensemble() -> None:
    with pytest.raises(SpecError, match="share model shape, steps, batch size and dtype"):
        Ensemble([small(), small(model__d_model=32)])


def test_training_lowers_the_loss_and_reports_it(tmp_path: Path) -> None:
    seen: list[Progress] = []
    [found] = train([small(train__steps=300)], folders=[tmp_path], on_progress=seen.append)
    curve = found.training["curve"]
    assert curve[-1]["loss_nats"] < curve[0]["loss_nats"] - 0.3
    assert seen[-1].step == 300 and seen[-1].accuracy is not None
    assert {"step", "loss_nats", "mixture", "MAX", "SUM"} == set(curve[-1])
    assert (tmp_path / "checkpoints" / "step_0000010.safetensors").exists()


class _Stop(Exception):
    pass


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(how: str, tmp_path: Path) -> None:
    spec = small()
    [whole] = train([spec])
    state = tmp_path / "state.safetensors"

    def stop(progress: Progress) -> None:
        if progress.step == 20:
            if how == "killed":
                raise _Stop
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises((_Stop, KeyboardInterrupt)):
        train([spec], folders=[tmp_path], state_path=state, on_progress=stop)
    assert not (tmp_path / checkpoint.FILE_NAME).exists()
    [resumed] = train([spec], folders=[tmp_path], state_path=state, resume=True)
    for name, value in whole.params.items():
        assert torch.equal(value, resumed.params[name]), name


def test_a_resumed_run_has_the_learning_curve_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """Also where the kill comes between two points of the curve, after a checkpoint in the middle of them."""
    specs = [small(train__steps=120, train__checkpoint_every=25, seed=seed) for seed in (3, 4)]
    whole = train(specs)
    state = tmp_path / "state.safetensors"

    def stop(progress: Progress) -> None:
        if progress.step == 60:
            raise _Stop

    with pytest.raises(_Stop):
        train(specs, state_path=state, on_progress=stop)
    seen: list[Progress] = []
    resumed = train(specs, state_path=state, resume=True, on_progress=seen.append)
    assert seen[0].accuracy is not None
    for before, after in zip(whole, resumed, strict=True):
        assert len(after.training["curve"]) == 40 and before.training["curve"] == after.training["curve"]
        assert all(torch.equal(value, after.params[name]) for name, value in before.params.items())


def test_resuming_a_finished_run_gives_it_again(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    [first] = train([small()], state_path=state)
    [again] = train([small()], state_path=state, resume=True)
    assert again.training == first.training
    assert all(torch.equal(value, again.params[name]) for name, value in first.params.items())


def test_the_state_file_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    sizes = []
    for steps in (80, 400):
        train([small(train__steps=steps, model__d_model=4)], state_path=tmp_path / str(steps))
        sizes.append((tmp_path / str(steps)).stat().st_size)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a whole safetensors file"),
        (lambda path: small_checkpoint().save(path), "a 'checkpoint' file, expected a 'train-state'"),
    ],
)
def test_a_state_that_is_none_is_refused_before_the_first_step(spoil: Any, message: str, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train([small()], state_path=state)
    spoil(state)
    with pytest.raises(CheckpointError, match=message):
        train([small()], state_path=state, resume=True, on_progress=lambda progress: pytest.fail("a step was made"))


def small_checkpoint() -> checkpoint.Checkpoint:
    return Ensemble([small()]).checkpoints()[0]


def test_a_run_that_diverges_is_saved_and_spoils_no_other(tmp_path: Path) -> None:
    """Its loss is missing, not a number; the member beside it is the run alone."""
    steps = {"train__steps": 40, "train__schedule": "constant"}
    specs = [small(**steps), small(**steps, train__lr=1e30, train__weight_decay=0.0, model__norm="LN")]
    together = train(specs, folders=[tmp_path / "0", tmp_path / "1"], state_path=tmp_path / "state")
    assert together[1].training["curve"][-1]["loss_nats"] is None
    assert checkpoint.load(tmp_path / "1").training == together[1].training
    [alone] = train(specs[:1])
    for name, value in alone.params.items():
        torch.testing.assert_close(together[0].params[name], value, atol=1e-4, rtol=1e-3)


def test_a_crop_with_nothing_to_learn_from_changes_nothing_to_nan() -> None:
    spec = small(train__batches="stream", train__crop=1, train__batch_size=1, train__loss="completion")
    ensemble = Ensemble([spec])
    losses = [float(ensemble.step()) for _ in range(40)]
    assert min(losses) == 0 < max(losses)
    assert all(value.isfinite().all() for value in ensemble.member_params(0).values())


def test_every_arm_is_judged_on_the_same_items_of_an_operation() -> None:
    """Whatever else is in its mixture, and whatever its seed."""
    first = Ensemble([small()]).members[0]
    other = Ensemble([small(task__settings={"operations": ["MIN", "SUM"], "modulus": 5, "depth": 1}, seed=8)]).members[
        0
    ]
    asked = [
        member.task.format(Chains(member.tokens.decode(items.ids.numpy()), *(part.numpy() for part in
        (items.lengths, items.prompts, items.answers))))
        for member in (first, other)
        for items in [member.tests["SUM"]]
    ]  # fmt: skip
    assert asked[0] == asked[1] and set(first.tests) == {"mixture", "MAX", "SUM"}


def test_evaluation_draws_nothing_from_training() -> None:
    """Evaluating at every step gives the weights of never evaluating."""
    watched, left_alone = Ensemble([small()]), Ensemble([small()])
    for _ in range(10):
        watched.step()
        watched.evaluate()
        left_alone.step()
    for name, value in left_alone.member_params(0).items():
        assert torch.equal(value, watched.member_params(0)[name])


def test_bfloat16_needs_a_device_that_has_it() -> None:
    with pytest.raises(SpecError, match="dtype bfloat16 needs a CUDA device that has it; use float32"):
        Ensemble([small(train__dtype="bfloat16")])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_bfloat16_learns_as_float32_does() -> None:
    specs = [small(train__steps=300, train__dtype=dtype) for dtype in ("float32", "bfloat16")]
    curves = [train([spec], device="cuda")[0].training["curve"] for spec in specs]
    assert curves[1][-1]["loss_nats"] == pytest.approx(curves[0][-1]["loss_nats"], abs=0.15)


def test_one_folder_for_each_run() -> None:
    with pytest.raises(SpecError, match="1 folders for 2 runs; give one for each"):
        train([small(), small(seed=1)], folders=[Path("a")])


HEAVY = ("scipy", "sklearn", "pandas", "plotly", "transformer_lens", "transformers", "typer", "rich", "matplotlib")


def test_the_training_path_imports_nothing_heavy() -> None:
    """On a bare GPU machine only torch, numpy, einops, jaxtyping and safetensors are there."""
    program = f"""
import sys
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TrainSpec
from kc_interp.train import train
spec = RunSpec(data=DataSpec(n_train=50), model=ModelSpec(d_model=8, n_heads=2), train=TrainSpec(steps=2, batch_size=4))
assert train([spec])[0].training["steps"] == 2
print(sorted({{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r})))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train([small()], state_path=state)
    with pytest.raises(CheckpointError, match="other settings"):
        train([small(train__lr=1e-3)], state_path=state, resume=True)


def test_the_same_run_twice_is_the_same_to_the_bit() -> None:
    first, second = train([small()]), train([small()])
    for name, value in first[0].params.items():
        assert torch.equal(value, second[0].params[name])


def test_schedules_have_their_stated_ends() -> None:
    one = TrainSpec(steps=1_000, lr=1e-2, final_lr=0.1, warmup=0.1, schedule="onecycle")
    assert learning_rate(one, 0) == pytest.approx(1e-4)
    assert learning_rate(one, 100) == pytest.approx(1e-2)
    assert learning_rate(one, 1_000) == pytest.approx(1e-3)
    paper = TrainSpec(steps=100_000, lr=5e-4, final_lr=0.04, warmup=0.0, schedule="exponential")
    assert learning_rate(paper, 0) == pytest.approx(5e-4)
    assert learning_rate(paper, 100_000) == pytest.approx(2e-5)


@pytest.mark.parametrize("mode", ["bucketed", "stream"])
def test_batches_are_a_function_of_seed_and_step(mode: str) -> None:
    spec = small(train__batches=mode, train__crop=32)
    member = Ensemble([spec]).members[0]
    again = Ensemble([spec]).members[0]
    other = Ensemble([dataclasses.replace(spec, seed=9)]).members[0]
    for step in (700, 3, 0):
        assert np.array_equal(member.batches[step].tokens, again.batches[step].tokens)
        assert np.array_equal(member.batches[step].targets, again.batches[step].targets)
    assert not np.array_equal(member.batches[3].tokens, other.batches[3].tokens)


def test_bucketed_targets_are_the_next_tokens_of_real_chains_only() -> None:
    member = Ensemble([small(train__loss="completion")]).members[0]
    batches: Batches = member.batches
    for step in range(5):
        batch = batches[step]
        counted = batch.targets != IGNORE
        assert (batch.targets[:, :-1][counted[:, :-1]] == batch.tokens[:, 1:][counted[:, :-1]]).all()
        assert (batch.targets[counted] == member.tokens.end).sum() == len(batch.tokens)
        equals = [member.tokens.symbols[t] for t in batch.targets[0][counted[0]]]
        assert equals[0] == "=" and equals[-1] == "<end>" and len(equals) == 3
