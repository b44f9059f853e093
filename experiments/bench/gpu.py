"""What a card makes of ensembles: throughput by number of runs, its share of the card's ceiling, a transition's time.

    python experiments/bench/gpu.py --out FOLDER [--device cuda|cpu] [--widths 16 32 64] [--runs 1 4 16 64 256 1024]
        [--precision float32 tf32 bfloat16] [--budget-seconds 570] [--full]

Needs a source tree, torch, numpy, einops, jaxtyping and safetensors; nothing installed. FOLDER/gpu.json is written
anew after every measurement, so that a machine that is cut off loses one; nothing is begun once the budget is spent.
What fails (a precision that the device lacks, too little memory, no compiler) is written down with its reason.

  ceiling      torch.matmul at 4096 x 4096 x 4096, in each precision
  transition   data, steps, evaluations and checkpoints of 8 widths x 125 seeds x 8,000 steps, extrapolated from
               measured steps at each width; --full trains them
  throughput   model-steps a second at each number of runs, against the ensemble of one; share of the ceiling, and of
               torch.bmm at the shapes of the same steps; memory beside its estimate; whether a step waits for the card
  modes        the same update of one batch at the middle width: eager, torch.compile, a CUDA graph
  accuracy     loss of SUM after a few hundred steps in each precision, eight seeds, paired with float32

Exit status 1 when the extrapolated (or trained) transition takes more than ten minutes, or could not be measured.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a source tree is enough

from ensemble import shapes

from kc_interp.files import write_atomically
from kc_interp.model.device import free_bytes, torch_device, tune_for_training
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.train import EVALUATIONS, Ensemble, memory_bytes, train

TARGET_SECONDS = 600.0
TRANSITION_WIDTHS = (8, 12, 16, 24, 32, 40, 48, 64)
ACCURACY_SEEDS, LAST_STEPS = 8, 50
TOLERANCE_NATS = 0.01


class Results:
    """The measurements so far, in one file that is whole at any time."""

    def __init__(self, folder: Path, budget_seconds: float, facts: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.document = folder / "gpu.json", facts
        self._ends = time.monotonic() + budget_seconds

    def add(self, section: str, facts: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Measure and write down; a failure is a result, with its reason."""
        if time.monotonic() > self._ends:
            found = {"skipped": "the time was spent"}
        else:
            try:
                found = measure()
            except Exception as error:
                found = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.document.setdefault(section, []).append({**facts, **found})
        write_atomically(self.path, json.dumps(self.document, indent=1).encode())
        print(section, json.dumps({**facts, **found}), file=sys.stderr, flush=True)
        return found


class Bench:
    """The settings that all measurements share."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.device = torch_device(chosen.device)
        self.batch, self.steps, self.rounds, self.square = (
            chosen.batch,
            chosen.timed_steps,
            chosen.rounds,
            chosen.square,
        )
        self.cache: dict[Any, Any] = {}

    def specs(
        self, width: int, runs: int, precision: str, *, n_train: int = 2_000, steps: int = 8_000, sum_only: bool = False
    ) -> list[RunSpec]:
        """MAX+MED+SUM (or SUM) at nesting 2, two layers, four heads; a seed for each run."""
        task = TaskSpec("listops", {"operations": ["SUM"] if sum_only else ["MAX", "MED", "SUM"]})
        plan = TrainSpec(steps=steps, batch_size=self.batch, dtype=precision)  # type: ignore[arg-type]
        return [RunSpec(task, DataSpec(n_train=n_train), ModelSpec(d_model=width), plan, seed) for seed in range(runs)]

    def ensemble(self, specs: Sequence[RunSpec]) -> Ensemble:
        return Ensemble(specs, self.device, cache=self.cache)

    def seconds(self, work: Callable[[], object]) -> float:
        """The time of some work, up to the end of what it started on the device."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def median(self, work: Callable[[], object]) -> float:
        """The median over the rounds, after one to warm up."""
        return statistics.median([self.seconds(work) for _ in range(self.rounds + 1)][1:])

    def step_seconds(self, ensemble: Ensemble) -> float:
        """The time of one step: the median over rounds of the mean over the same first steps."""

        def work() -> None:
            ensemble.done = 0
            for _ in range(self.steps):
                ensemble.step()

        return self.median(work) / self.steps

    def operand(self, precision: str, *size: int) -> torch.Tensor:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        return torch.randn(*size, device=self.device).to(dtype)

    def ceiling(self, precision: str) -> dict[str, Any]:
        """The rate of one large product."""
        with products_in(precision):
            left, right = (self.operand(precision, self.square, self.square) for _ in range(2))
            out = torch.empty_like(left)
            took = self.median(lambda: [torch.matmul(left, right, out=out) for _ in range(5)]) / 5
        return {"tflops": 2 * self.square**3 / took / 1e12}

    def products_seconds(self, ensemble: Ensemble, precision: str) -> tuple[float, float]:
        """Seconds and floating-point operations a step of torch.bmm at the shapes of the timed steps' products."""
        d_vocab, runs = ensemble.params["unembed.W_U"].shape[-1], len(ensemble.members)
        asked: collections.Counter[tuple[int, int, int, int]] = collections.Counter()
        for step in range(self.steps):
            asked.update(shapes(ensemble.model, runs, self.batch, d_vocab, ensemble.batch(step)[0].shape[2]))
        seconds = flops = 0.0
        with products_in(precision):
            for (b, m, k, n), count in asked.items():
                left, right = self.operand(precision, b, m, k), self.operand(precision, b, k, n)
                out = torch.empty(b, m, n, device=self.device, dtype=left.dtype)
                seconds += count * self.median(lambda left=left, right=right, out=out: torch.bmm(left, right, out=out))  # type: ignore[misc]
                flops += count * 2.0 * b * m * k * n
        return seconds / self.steps, flops / self.steps

    def throughput(
        self, width: int, runs: int, precision: str, one: float | None, peak: float | None
    ) -> dict[str, Any]:
        specs = self.specs(width, runs, precision)
        estimate = memory_bytes(specs, self.device)
        if (free := free_bytes(self.device)) is not None and estimate > free:
            return {"failed": f"needs about {estimate / 2**30:.1f} GiB, {free / 2**30:.1f} are free"}
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        ensemble = self.ensemble(specs)
        took = self.step_seconds(ensemble)
        rate = runs / took
        found: dict[str, Any] = {
            "ms_per_step": 1e3 * took,
            "model_steps_per_second": rate,
            "estimated_gib": estimate / 2**30,
        }
        if cuda:
            found["allocated_gib"] = (torch.cuda.max_memory_allocated(self.device) - before) / 2**30
            found["waits_for_device"] = self.waits(ensemble)
        if one is not None:
            found["gain_over_one_at_a_time"] = rate / one
        products, flops = self.products_seconds(ensemble, precision)
        found |= {"tflops": flops / took / 1e12, "share_of_products": products / took}
        if peak is not None:
            found["share_of_ceiling"] = found["tflops"] / peak
        return found

    def waits(self, ensemble: Ensemble) -> str | bool:
        """Whether the host waits for the device in a step, by torch's own check; where, if it does."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            ensemble.step()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return False

    def modes(self, width: int, runs: int, precision: str, mode: str) -> dict[str, Any]:
        """Milliseconds of the same update of the same batch."""
        ensemble = self.ensemble(self.specs(width, runs, precision))
        batch = ensemble.batch(0)
        if mode == "eager":
            return {"ms_per_update": 1e3 * self.median(lambda: ensemble.update(*batch))}
        if mode == "compile":
            with mock.patch.object(ensemble, "losses", torch.compile(ensemble.losses)):
                first = self.seconds(lambda: ensemble.update(*batch))
                return {"ms_per_update": 1e3 * self.median(lambda: ensemble.update(*batch)), "compile_seconds": first}
        if self.device.type != "cuda":
            return {"failed": "CUDA graphs need a CUDA device"}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                ensemble.update(*batch)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            ensemble.update(*batch)
        return {"ms_per_update": 1e3 * self.median(graph.replay)}

    def accuracy(self, precision: str, steps: int, reference: list[float] | None) -> dict[str, Any]:
        """Each seed's mean loss over the last steps, and how it differs from the same seed's in float32."""
        ensemble = self.ensemble(self.specs(32, ACCURACY_SEEDS, precision, steps=steps, sum_only=True, n_train=20_000))
        losses = torch.stack([ensemble.step() for _ in range(steps)])[-LAST_STEPS:].mean(0).tolist()
        found: dict[str, Any] = {"loss_nats": losses, "mean_nats": statistics.mean(losses)}
        found["accuracy"] = statistics.mean(scores["mixture"] for scores in ensemble.evaluate())
        if reference is not None:
            gaps = [loss - other for loss, other in zip(losses, reference, strict=True)]
            gap, error = statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
            found |= {"worse_by_nats": gap, "standard_error": error, "suffers": gap > max(2 * error, TOLERANCE_NATS)}
        return found

    def transition(self, width: int, seeds: int, steps: int, n_train: int, precision: str) -> dict[str, Any]:
        """One width's part of a transition, extrapolated. Data that a width before it has drawn is not drawn again."""
        specs = self.specs(width, seeds, precision, n_train=n_train, steps=steps)
        made: list[Ensemble] = []
        prepared = self.seconds(lambda: made.append(self.ensemble(specs)))
        [ensemble] = made
        step = self.step_seconds(ensemble)
        ensemble.evaluate()
        evaluated, saved = self.seconds(ensemble.evaluate), self.seconds(ensemble.checkpoints)
        total = prepared + steps * step + min(EVALUATIONS, steps) * evaluated + saved
        parts = {"prepare_seconds": prepared, "ms_per_step": 1e3 * step, "evaluate_seconds": evaluated}
        return {**parts, "checkpoints_seconds": saved, "seconds": total}

    def trained(self, width: int, seeds: int, steps: int, n_train: int, precision: str) -> dict[str, Any]:
        """One width's part of a transition, trained. What it learned says that it was no idle run."""
        specs = self.specs(width, seeds, precision, n_train=n_train, steps=steps)
        made: list[float] = []

        def work() -> None:
            done = train(specs, device=self.device, cache=self.cache)
            made.extend(one.training["curve"][-1]["mixture"] for one in done)

        return {"seconds": self.seconds(work), "accuracy": statistics.mean(made)}


class products_in:
    """float32 products in tf32, or in full precision, while it is entered."""

    def __init__(self, precision: str) -> None:
        self._wanted = "high" if precision == "tf32" else "highest"

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self._wanted)

    def __exit__(self, *_: object) -> None:
        torch.set_float32_matmul_precision(self._before)


def described(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "memory_gib": (torch.cuda.get_device_properties(device).total_memory / 2**30) if cuda else None,
        "free_gib": free / 2**30 if (free := free_bytes(device)) is not None else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }


def whole_transition(results: Results, bench: Bench, chosen: argparse.Namespace, section: str) -> float | None:
    """The seconds of all widths in the best precision; None when a width is missing in each."""
    measure = bench.trained if section == "transition_trained" else bench.transition
    totals = []
    for precision in chosen.precision[:1] if section == "transition_trained" else chosen.precision:
        rows = []
        for width in chosen.transition_widths:
            arguments = (width, chosen.seeds, chosen.steps, chosen.n_train, precision)
            facts = {"d_model": width, "runs": chosen.seeds, "steps": chosen.steps, "precision": precision}
            rows.append(results.add(section, facts, lambda given=arguments: measure(*given)))  # type: ignore[misc]
        if all("seconds" in row for row in rows):
            totals.append(sum(row["seconds"] for row in rows))
            facts = {"precision": precision, "runs": chosen.seeds * len(rows), "target_seconds": TARGET_SECONDS}
            results.add(section + "_total", facts, lambda: {"seconds": totals[-1]})
    bench.cache.clear()
    return min(totals, default=None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--precision", nargs="+", default=["float32", "tf32", "bfloat16"])
    parser.add_argument("--budget-seconds", type=float, default=570.0)
    parser.add_argument("--full", action="store_true", help="train the whole transition, in the first precision")
    parser.add_argument("--modes", nargs="*", default=["eager", "graph", "compile"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--square", type=int, default=4096, help="side of the product that gives the ceiling")
    parser.add_argument("--timed-steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transition-widths", type=int, nargs="+", default=list(TRANSITION_WIDTHS))
    parser.add_argument("--seeds", type=int, default=125)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--n-train", type=int, default=60_000)
    parser.add_argument("--accuracy-steps", type=int, default=400)
    chosen = parser.parse_args(arguments)
    tune_for_training()
    bench = Bench(chosen)
    results = Results(chosen.out, chosen.budget_seconds, {"protocol": vars(chosen) | {"out": str(chosen.out)}})
    results.add("machine", {}, lambda: described(bench.device))

    peaks = {
        precision: results.add("ceiling", {"precision": precision}, lambda p=precision: bench.ceiling(p)).get("tflops")  # type: ignore[misc]
        for precision in chosen.precision
    }
    total = whole_transition(results, bench, chosen, "transition")
    if chosen.full:
        total = whole_transition(results, bench, chosen, "transition_trained")
    reference: list[float] | None = None
    for precision in chosen.precision:
        found = results.add(
            "accuracy",
            {"precision": precision, "steps": chosen.accuracy_steps},
            lambda p=precision, r=reference: bench.accuracy(p, chosen.accuracy_steps, r),  # type: ignore[misc]
        )
        reference = found.get("loss_nats") if precision == "float32" else reference
    for precision in chosen.precision:
        for width in chosen.widths:
            one: float | None = None
            for runs in sorted({1, *chosen.runs}):
                facts = {"d_model": width, "runs": runs, "precision": precision}
                given = (width, runs, precision, one, peaks[precision])
                found = results.add("throughput", facts, lambda given=given: bench.throughput(*given))  # type: ignore[misc]
                one = found.get("model_steps_per_second") if runs == 1 else one
    width, precision = sorted(chosen.widths)[len(chosen.widths) // 2], chosen.precision[0]
    for runs in sorted({min(chosen.runs), sorted(chosen.runs)[len(chosen.runs) // 2], max(chosen.runs)}):
        for mode in chosen.modes:
            facts = {"d_model": width, "runs": runs, "precision": precision, "mode": mode}
            results.add("modes", facts, lambda r=runs, m=mode: bench.modes(width, r, precision, m))  # type: ignore[misc]
    print(results.path)
    return int(total is None or total > TARGET_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
