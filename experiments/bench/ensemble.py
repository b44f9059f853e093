"""What an ensemble gains on a CPU, and how near training comes to the rate of its own matrix products.

    python experiments/bench/ensemble.py [--widths 32 64 128] [--heads 4] [--batch 32] [--rounds 5] [--threads 2]
        [--out FOLDER] [--json]

For each width, interleaved round by round, medians over rounds:
  one at a time     kc_interp.train.Ensemble of one: model-steps a second
  eight together    an Ensemble of eight: model-steps a second, summed over its members
  products alone    torch.bmm over the shapes of every matrix product of the same steps of eight, forwards and
                    backwards, attention included, into memory that is there: a floor no code with these products passes
The share is the time of the products alone over the time of the steps: how much of the rate of torch.bmm training has.
The batch is that of the preset `quick`; smaller ones gain more from being together.
Exit status 1 when a target is missed: 1.4 times the throughput at d_model 32; a share of 60 % from d_model 64 on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import torch
from common import add_output, delivered

from kc_interp.model.device import tune_for_training
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.train import Ensemble

MEMBERS, STEPS = 8, 20
GAIN, GAIN_WIDTH = 1.4, 32
SHARE, SHARE_FROM = 0.6, 64

Product = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def spec(width: int, heads: int, batch: int, seed: int) -> RunSpec:
    """The bench's run: MAX+MED+SUM at nesting 2, two layers."""
    return RunSpec(
        TaskSpec("listops", {"operations": ["MAX", "MED", "SUM"]}),
        DataSpec(n_train=20_000),
        ModelSpec(d_model=width, n_heads=heads),
        TrainSpec(steps=10_000, batch_size=batch),
        seed,
    )


def shapes(model: ModelSpec, runs: int, batch: int, d_vocab: int, length: int) -> list[tuple[int, int, int, int]]:
    """Every matrix product of a step at one length as (batch, rows, inner, columns); flops are twice the product."""
    d, heads, size = model.d_model, model.n_heads, model.head_size
    rows, cells = batch * length, runs * batch * heads
    dense = [(d, 3 * heads * size), (heads * size, d), (d, model.mlp_size), (model.mlp_size, d)] * model.depth
    found = []
    for inner, columns in [*dense, (d, d_vocab)]:
        # The product, and the gradients of its input and of its weight.
        found += [(runs, rows, inner, columns), (runs, rows, columns, inner), (runs, inner, rows, columns)]
    # Scores and their two gradients; the weighted sum of values and its two.
    for _ in range(model.depth):
        found += [(cells, length, size, length)] * 2 + [(cells, length, length, size)] * 4
    return found


class Products:
    """The products of the steps that an ensemble is about to make."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.made: dict[tuple[int, int, int, int], Product] = {}

    def plan(self) -> tuple[list[list[tuple[int, int, int, int]]], int]:
        """The products of each of the next steps, and their floating-point operations."""
        ensemble = self.ensemble
        batch = ensemble.members[0].spec.train.batch_size
        d_vocab = ensemble.params["unembed.W_U"].shape[-1]
        lengths = [ensemble.batch(ensemble.done + step)[0].shape[2] for step in range(STEPS)]
        plan = [shapes(ensemble.model, len(ensemble.members), batch, d_vocab, length) for length in lengths]
        return plan, sum(2 * b * m * k * n for step in plan for b, m, k, n in step)

    def seconds(self, plan: list[list[tuple[int, int, int, int]]]) -> float:
        for b, m, k, n in {shape for step in plan for shape in step} - self.made.keys():
            self.made[b, m, k, n] = (torch.randn(b, m, k), torch.randn(b, k, n), torch.zeros(b, m, n))
        began = time.perf_counter()
        for step in plan:
            for shape in step:
                left, right, out = self.made[shape]
                torch.bmm(left, right, out=out)
        return time.perf_counter() - began


def steps(ensemble: Ensemble) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        ensemble.step()
    return time.perf_counter() - began


def measure(width: int, heads: int, batch: int, rounds: int) -> dict[str, Any]:
    """Medians over the rounds for one width."""
    one = Ensemble([spec(width, heads, batch, 0)])
    eight = Ensemble([spec(width, heads, batch, seed) for seed in range(MEMBERS)])
    products = Products(eight)
    rows = []
    for _ in range(rounds + 1):
        plan, flops = products.plan()
        alone, together = steps(one), steps(eight)
        floor = products.seconds(plan)
        rows.append((MEMBERS * alone / together, floor / together, flops / floor, flops / together, together / STEPS))
    gain, share, peak, reached, step = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    return {
        "d_model": width,
        "gain": gain,
        "share": share,
        "gflops_products_alone": peak / 1e9,
        "gflops_training": reached / 1e9,
        "ms_per_step_of_eight": 1000 * step,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    add_output(parser)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    tune_for_training()
    results = [measure(width, chosen.heads, chosen.batch, chosen.rounds) for width in chosen.widths]
    document = {
        "protocol": f"MAX+MED+SUM, nesting 2, batch {chosen.batch}, {STEPS} steps a round, medians of {chosen.rounds} "
        f"rounds after one to warm up, float32, {chosen.threads} threads, two layers, {chosen.heads} heads",
        "torch": torch.__version__,
        "targets": {f"gain at d_model {GAIN_WIDTH}": GAIN, f"share from d_model {SHARE_FROM}": SHARE},
        "results": results,
    }
    if not delivered("ensemble", document, chosen):
        print(document["protocol"])
        for row in results:
            print(
                f"d_model {row['d_model']:4}: eight together {row['gain']:.2f} times one at a time; "
                f"{100 * row['share']:.0f} % of the rate of its products alone "
                f"({row['gflops_training']:.0f} of {row['gflops_products_alone']:.0f} GFLOP/s)"
            )
    missed = any(
        (row["d_model"] == GAIN_WIDTH and row["gain"] < GAIN) or (row["d_model"] >= SHARE_FROM and row["share"] < SHARE)
        for row in results
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
