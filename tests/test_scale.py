"""Ensembles at scale: one lookup and one update for all runs, early stops, memory known beforehand, parts that fit."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from kc_interp import train as training
from kc_interp.batches import BUCKET_WIDTH, CHUNK, IGNORE, SHORTEST, Batches, EnsembleBatches
from kc_interp.errors import SpecError
from kc_interp.model.device import _container_bytes, free_bytes
from kc_interp.scaling import schedule
from kc_interp.scaling.schedule import Job, parts_to_fit, states_of, unpack, work
from kc_interp.spec import TaskSpec, TrainSpec, to_plain
from kc_interp.tasks.task import Chains
from kc_interp.train import Ensemble, Progress, learning_rate, memory_bytes, train, train_budgets
from tests.test_study import tiny
from tests.test_train import HEAVY, small

ROOT = Path(__file__).parents[1]


# Batches: the definition written out for one run in numpy, against the lookup for all of them.


def by_definition(run: Batches, chains: Chains, step: int) -> tuple[np.ndarray, np.ndarray]:
    spec, chunk, offset = run.spec, *divmod(step, CHUNK)
    shared = np.random.default_rng([0, chunk]).random(CHUNK)[offset]
    own = np.random.default_rng([1, run.seed, chunk]).random((CHUNK, spec.batch_size))[offset]
    place = np.arange(run.ids.shape[1])
    real = place < chains.lengths[:, None]
    counted = real & (place >= chains.prompts[:, None]) if spec.loss == "completion" else real
    targets = np.where(counted, run.ids, IGNORE)
    if spec.batches == "stream":
        size = min(spec.crop, int(real.sum()) - 1)
        window = (own * (real.sum() - size)).astype(np.int64)[:, None] + np.arange(size)
        return run.ids[real][window], targets[real][window + 1]
    bucket = np.maximum(0, -((SHORTEST + 1 - chains.lengths) // BUCKET_WIDTH))
    chosen = np.searchsorted(np.cumsum(np.bincount(bucket)) / len(bucket), shared, side="right")
    rows = np.flatnonzero(bucket == chosen)
    rows = rows[(own * len(rows)).astype(np.int64)]
    width = min(SHORTEST + int(chosen) * BUCKET_WIDTH + 1, run.ids.shape[1])
    return run.ids[rows, : width - 1], targets[rows, 1:width]


def drawn(seed: int, longest: int, n: int = 300) -> Chains:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, longest + 1, n)
    symbols = rng.integers(1, 20, (n, longest)) * (np.arange(longest) < lengths[:, None])
    return Chains(symbols, lengths, lengths // 2, lengths - 2)


@pytest.mark.parametrize("modes", [("bucketed",), ("stream",), ("bucketed", "stream")])
def test_all_runs_read_at_once_what_each_reads_by_definition(modes: tuple[Any, ...]) -> None:
    """Of other lengths, hence widths, losses and seeds; what a narrower run lacks is padding that does not count."""
    chains = [drawn(seed, longest) for seed, longest in ((0, 48), (1, 48), (2, 23), (3, 61))]
    runs = [
        Batches(one.symbols, one.lengths, one.prompts, TrainSpec(batch_size=5, batches=mode, loss=loss, crop=crop), seed)
        for seed, one in enumerate(chains)
        for mode in modes
        for loss, crop in (("all", 40), ("completion", 128))
    ]  # fmt: skip
    together, widths = EnsembleBatches(runs), set()
    of = [chains[run.seed] for run in runs]
    for step in (0, 3, CHUNK - 1, CHUNK, 700, *range(10, 30)):
        tokens, targets = together[step]
        assert tokens.dtype == targets.dtype == torch.int64
        widths.add(tokens.shape[2])
        for index, (run, one) in enumerate(zip(runs, of, strict=True)):
            wanted = by_definition(run, one, step)
            width = wanted[0].shape[1]
            assert np.array_equal(tokens[index, :, :width], wanted[0]) and not tokens[index, :, width:].any()
            assert np.array_equal(targets[index, :, :width], wanted[1]) and (targets[index, :, width:] == IGNORE).all()
            assert np.array_equal(run[step].tokens, wanted[0]) and np.array_equal(run[step].targets, wanted[1])
    assert "stream" in modes or len(widths) > 3


def test_runs_with_the_same_chains_hold_them_once() -> None:
    specs = [small(train__lr=rate, train__loss=loss) for rate in (1e-3, 2e-3) for loss in ("all", "completion")]
    one, four, two = Ensemble(specs[:1]), Ensemble(specs), Ensemble([specs[0], small(seed=8)])
    held = [ensemble._batches._flat.numel() for ensemble in (one, four, two)]
    assert held[0] == held[1] and held[2] == pytest.approx(2 * held[0], rel=0.1)


def test_a_vocabulary_too_large_to_hold_is_refused() -> None:
    ids = np.full((1, 6), 9_000)
    with pytest.raises(SpecError, match="token 9000 is beyond the 8192"):
        Batches(ids, np.asarray([6]), np.asarray([3]), TrainSpec(), 0)


class Asked(TorchDispatchMode):
    """The operations made while it is entered, and whether one moves data between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names = {*getattr(self, "names", ()), func.overloadpacket.__name__}
        return func(*args, **(kwargs or {}))


def test_a_step_never_asks_the_device_for_a_number() -> None:
    """On CUDA each of these would wait for the device (there, experiments/bench/gpu.py asks torch itself)."""
    specs = [small(), small(train__freeze_digits=True, train__lr=1e-3, train__loss="completion")]
    specs.append(small(task=TaskSpec("listops", {"operations": ["SUM"], "modulus": 5, "depth": 1})))
    ensemble = Ensemble(specs)
    ensemble.step()  # sends the places of the first chunk of steps
    with Asked() as asked:
        for _ in range(10):
            ensemble.step()
    waiting = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "unique", "is_nonzero", "copy_"}
    assert not asked.names & waiting and "_fused_adamw_" in asked.names


# The optimiser.


def test_all_runs_are_updated_as_torch_updates_each_to_the_bit() -> None:
    """float32, rows of a length that no vector register divides, and settings of their own."""
    specs = [TrainSpec(), TrainSpec(), TrainSpec(lr=1e-3, weight_decay=0.3), TrainSpec(betas=(0.8, 0.9), steps=50)]
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(len(specs), 1_003, generator=generator)
    params = [row.clone() for row in flat]
    theirs = [
        torch.optim.AdamW([row], betas=spec.betas, weight_decay=spec.weight_decay, fused=True)
        for row, spec in zip(params, specs, strict=True)
    ]
    ours = training._AdamW(flat, specs)
    for step in range(30):
        gradients = torch.randn(flat.shape, generator=generator)
        for run, optimiser in enumerate(theirs):
            params[run].grad = gradients[run]
            optimiser.param_groups[0]["lr"] = learning_rate(specs[run], step)
            optimiser.step()
        ours.step(gradients, step)
    assert torch.equal(flat, torch.stack(params))
    for name in ("exp_avg", "exp_avg_sq"):
        kept = torch.stack([optimiser.state[row][name] for optimiser, row in zip(theirs, params, strict=True)])
        assert torch.equal(getattr(ours, name), kept)


def test_a_state_has_the_tensors_that_older_ones_have(tmp_path: Path) -> None:
    train([small(), small(seed=4)], state_path=tmp_path / "state")
    tensors = load_file(tmp_path / "state")
    assert {name: len(value) for name, value in tensors.items()} == dict.fromkeys(
        ("params", "exp_avg", "exp_avg_sq", "loss_sum"), 2
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "tf32"])
def test_precisions_of_cuda_are_refused_elsewhere(dtype: str) -> None:
    with pytest.raises(SpecError, match=f"dtype {dtype} needs a CUDA device"):
        Ensemble([small(train__dtype=dtype)])


# Early stops.


def test_a_run_stops_after_so_many_good_evaluations_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With everything counted as good, at the third evaluation: its weights are those of that step."""
    monkeypatch.setattr(training, "MASTERED", 0.0)
    specs = [small(train__stop_after=3), small(seed=4)]
    state = tmp_path / "state"
    stopped, other = train(specs, state_path=state)
    assert (stopped.training["steps"], other.training["steps"]) == (3, 40)
    assert [point["step"] for point in stopped.training["curve"]] == [1, 2, 3] and len(other.training["curve"]) == 40
    alone, whole = Ensemble([small()]), Ensemble([small(), small(seed=4)])
    for step in range(40):
        whole.step()
        if step < 3:
            alone.step()
    for name, value in alone.member_params(0).items():
        torch.testing.assert_close(stopped.params[name], value, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, other.params[name]) for name, value in whole.member_params(1).items())
    again = train(specs, state_path=state, resume=True)
    assert [one.training for one in again] == [stopped.training, other.training]


def test_an_ensemble_ends_with_its_last_run_and_goes_on_from_a_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "MASTERED", 0.0)
    specs = [small(train__stop_after=5, train__checkpoint_every=2), small(train__stop_after=20, seed=4)]
    specs = [dataclasses.replace(spec, train=dataclasses.replace(spec.train, checkpoint_every=2)) for spec in specs]
    seen: list[Progress] = []
    wanted = train(specs, on_progress=seen.append)
    assert seen[-1].step == 20 and [one.training["steps"] for one in wanted] == [5, 20]
    state = tmp_path / "state"
    half = Ensemble(specs)
    for _ in range(8):
        half.step()
        half.record_if_due()
    state.write_bytes(half.state())
    for one, other in zip(wanted, train(specs, state_path=state, resume=True), strict=True):
        assert one.training["curve"] == other.training["curve"]
        assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())


def test_an_early_stop_and_a_trunk_exclude_each_other(tmp_path: Path) -> None:
    spec = small(train__schedule="trunk", train__warmup=0.0, train__stop_after=2)
    with pytest.raises(SpecError, match="stop_after with several budgets on one trunk"):
        train_budgets([spec], [20, 40], tmp_path / "state")
    with pytest.raises(SpecError, match="stop_after is -1"):
        small(train__stop_after=-1)
    assert "stop_after" not in to_plain(small().train), "keys of runs made before it was there hold"


# Memory.

PEAK = """
import json, sys
from pathlib import Path
import torch
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.train import Ensemble, memory_bytes

def status(name):
    return 1024 * next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))

def specs(runs, n_train, width, batch, **changes):
    task = TaskSpec("listops", {"operations": ["MAX", "SUM"]})
    plan = TrainSpec(batch_size=batch, **changes)
    return [RunSpec(task, DataSpec(n_train=n_train), ModelSpec(d_model=width), plan, seed) for seed in range(runs)]

def work(ensemble):
    widths = [ensemble.batch(step)[0].shape[2] for step in range(250)]
    ensemble.done = widths.index(max(widths))
    ensemble.step()
    ensemble.step()
    ensemble.evaluate()

work(Ensemble(specs(1, 50, 8, 2)))
given = json.loads(sys.argv[1])
before = status("VmRSS")
ensemble = Ensemble(specs(**given))
Path("/proc/self/clear_refs").write_text("5")  # what drawing took is no part of it
work(ensemble)
print(json.dumps([status("VmHWM") - before, memory_bytes(specs(**given))]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process its peak memory")
@pytest.mark.parametrize(
    "given",
    [
        {"runs": 4, "n_train": 2_000, "width": 64, "batch": 64},
        {"runs": 8, "n_train": 500, "width": 128, "batch": 2},
        {"runs": 2, "n_train": 2_000, "width": 32, "batch": 128, "batches": "stream", "crop": 128},
    ],
    ids=["activations", "parameters", "stream"],
)
def test_memory_is_known_before_it_is_taken(given: dict[str, Any]) -> None:
    """Within 30 %, whether activations or parameters and moments are most of it."""
    found = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(given)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed is given back
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    peak, estimate = json.loads(found.stdout)
    assert estimate == pytest.approx(peak, rel=0.3), (peak / 2**20, estimate / 2**20)


def test_an_estimate_draws_nothing_and_grows_with_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "prepare", lambda *given: pytest.fail("a sample was drawn"))
    one, many = memory_bytes([small()]), memory_bytes([small(seed=seed) for seed in range(100)])
    assert 50 * one < many < 101 * one
    shared = memory_bytes([small(train__lr=1e-3 * (1 + run)) for run in range(100)])
    assert shared < many, "the same chains are held once"
    assert memory_bytes([small()], copies=2) > one


def test_free_memory_is_the_least_of_machine_and_container(tmp_path: Path) -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    for name, text in (
        ("memory.max", "1000"),
        ("memory.current", "700"),
        ("memory.stat", "anon 400\ninactive_file 200"),
    ):
        (tmp_path / name).write_text(text)
    assert _container_bytes(tmp_path) == [500]
    (tmp_path / "memory.max").write_text("max")
    assert _container_bytes(tmp_path) == [] == _container_bytes(tmp_path / "nothing")


def test_an_ensemble_is_split_into_equal_parts_only_as_far_as_memory_asks() -> None:
    specs = [small(seed=seed) for seed in range(7)]
    device = torch.device("cpu")
    need = memory_bytes(specs)
    assert parts_to_fit(specs, device, None) == parts_to_fit(specs, device, 2 * need) == [range(7)]
    parts = parts_to_fit(specs, device, need // 2)
    assert [run for part in parts for run in part] == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 < len(parts)
    assert len(parts_to_fit(specs, device, 2 * need, at_least=3)) == 3
    with pytest.raises(SpecError, match=r"a single run of d_model 16 with batches of 16 takes about .* GiB are free"):
        parts_to_fit(specs, device, 1_000)


STUDY = tiny(
    arms=[
        {"name": "sum", "operations": ["SUM"]},
        {"name": "curriculum", "operations": ["SUM"], "before": [{"operations": ["MAX", "SUM"], "steps": 20}]},
    ],
    seeds=4,
    grid={},
    base__train__steps=40,
    base__train__checkpoint_every=10,
)
BUDGETS = tiny(
    seeds=3,
    grid={"steps": [20, 40]},
    arms=[{"name": "sum", "operations": ["SUM"]}],
    base__train__schedule="trunk",
    base__train__warmup=5.0,
)


def half_of(job: Job, monkeypatch: pytest.MonkeyPatch, parts: int = 2) -> None:
    """So little memory that the job's ensemble is trained in parts."""
    copies = 2 if len(job.ensemble.lines[0]) > 1 else 1
    specs = [line[0].stages[0] for line in job.ensemble.lines]
    need = memory_bytes(specs[: -(-len(specs) // parts)], copies=copies)
    monkeypatch.setattr(schedule, "free_bytes", lambda device: int(1.05 * need / schedule.SHARE_OF_FREE))


def agree(whole: bytes, split: bytes) -> None:
    (facts, weights), (others, theirs) = unpack(whole), unpack(split)
    assert [run["key"] for run in facts["runs"]] == [
        run["key"] for run in others["runs"]
    ] and weights.keys() == theirs.keys()
    for one, other in zip(facts["runs"], others["runs"], strict=True):
        for point, its in zip(one["curve"], other["curve"], strict=True):
            assert its == pytest.approx(point, abs=1e-2) and its["loss_nats"] == pytest.approx(
                point["loss_nats"], abs=1e-4
            )
        mine, its = (tensors_of(group[one["key"]]) for group in (weights, theirs))
        for name, value in mine.items():
            torch.testing.assert_close(its[name], value, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("study", [STUDY, BUDGETS], ids=["stages", "budgets"])
def test_an_ensemble_in_parts_agrees_with_the_whole(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curves to 1e-4 nats, weights to 1e-3; float32 rounds sums over two runs otherwise than over four."""
    monkeypatch.setattr(training, "EVALUATIONS", 4)
    for ensemble in study.grouped(study.runs()):
        job = Job(ensemble, study.criterion, study.items, states=str(tmp_path))
        whole = work(dataclasses.replace(job, states=None))
        half_of(job, monkeypatch)
        steps: list[int] = []
        split = work(job, steps.append)
        agree(whole, split)
        assert steps == sorted(steps)
        assert any(".part-2-of-2" in path.name for path in states_of(tmp_path, ensemble))
        monkeypatch.setattr(schedule, "free_bytes", lambda device: None)


class _Stop(Exception):
    pass


def test_an_ensemble_in_parts_goes_on_where_it_was_killed_even_with_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = next(one for one in STUDY.grouped(STUDY.runs()) if one.runs[0].arm == "sum")
    job = Job(ensemble, STUDY.criterion, STUDY.items, states=str(tmp_path))
    half_of(job, monkeypatch)
    undisturbed = work(dataclasses.replace(job, states=None))

    def stop(step: int) -> None:
        if step == 30:  # the end of the first half's twenty, and a half of the second's
            raise _Stop

    with pytest.raises(_Stop):
        work(job, stop)
    monkeypatch.setattr(schedule, "free_bytes", lambda device: None)
    steps: list[int] = []
    resumed = work(job, steps.append)
    assert steps[0] >= 30, "the first part is not trained again"
    for key, weights in unpack(undisturbed)[1].items():
        mine, its = tensors_of(weights), tensors_of(unpack(resumed)[1][key])
        assert all(torch.equal(value, its[name]) for name, value in mine.items())


def test_a_run_too_large_for_the_machine_is_a_message_not_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    [ensemble, *_] = STUDY.grouped(STUDY.runs())
    monkeypatch.setattr(schedule, "free_bytes", lambda device: 2**10)
    with pytest.raises(SpecError, match="a single run of d_model 8 with batches of 16 takes about"):
        work(Job(ensemble, STUDY.criterion, STUDY.items))


# The benchmark of a card, here on the CPU.

BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {(*HEAVY, "beartype", "kc_probes")!r} else super().find_spec(name, path, target)

sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv[1:] = sys.argv[1].split()
runpy.run_path("experiments/bench/gpu.py", run_name="__main__")
"""
"""As on a machine that has a source tree and torch, numpy, einops, jaxtyping and safetensors."""


def test_the_benchmark_of_a_card_needs_no_more_than_torch_and_writes_as_it_goes(tmp_path: Path) -> None:
    options = (
        f"--out {tmp_path} --device cpu --widths 8 --runs 1 2 --batch 4 --square 64 --timed-steps 1 --rounds 1 --seeds 2 "
        "--transition-widths 4 8 --steps 4 --n-train 100 --accuracy-steps 3 --precision float32 bfloat16 --full "
        "--modes eager graph"
    )
    found = subprocess.run([sys.executable, "-c", BARE, options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["runs"] for row in told["throughput"] if row["precision"] == "float32"] == [1, 2]
    assert all(row["model_steps_per_second"] > 0 for row in told["throughput"] if row["precision"] == "float32")
    assert all(
        "bfloat16 needs a CUDA device" in row["failed"] for row in told["throughput"] if row["precision"] == "bfloat16"
    )
    assert told["transition_total"][0]["runs"] == 4 and told["transition_trained_total"][0]["seconds"] > 0
    assert [row["mode"] for row in told["modes"] if "failed" in row] == ["graph", "graph"]


def test_a_benchmark_without_time_left_says_so(tmp_path: Path) -> None:
    from experiments.bench.gpu import main

    assert main(["--out", str(tmp_path), "--device", "cpu", "--budget-seconds", "-1", "--precision", "float32"]) == 1
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["skipped"] for row in told["throughput"]} == {"the time was spent"} and told["machine"][0]["skipped"]
