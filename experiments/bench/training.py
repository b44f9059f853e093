"""Training throughput against TransformerLens 3.9, in one run.

    python experiments/bench/training.py [--widths 32 64] [--heads 4] [--rounds 5] [--threads 2] [--out FOLDER]
        [--json]

Four ways to train the same model on the same chains, interleaved round by round; the figure of each is the median:
  ours, one model            kc_interp.train.Ensemble of one
  ours, ensemble of eight    the same, per member
  transformer_lens.train     its own loop as it ships: a DataLoader over chains padded to the context
  HookedTransformer, bucketed  a plain loop over HookedTransformer given our length-bucketed batches
All take AdamW with the same settings, clip at 1.0, batch 64, float32. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import add_output, delivered

from kc_interp.batches import IGNORE
from kc_interp.model.device import tune_for_training
from kc_interp.model.lens import hooked
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec
from kc_interp.train import Ensemble

TARGETS = {"one model": 6.0, "ensemble member": 10.0}
MEMBERS, BATCH, STEPS = 8, 64, 20


def spec(width: int, heads: int, seed: int) -> RunSpec:
    """The bench's run: MAX+MED+SUM at nesting 2, two layers."""
    return RunSpec(
        TaskSpec("listops", {"operations": ["MAX", "MED", "SUM"]}),
        DataSpec(n_train=20_000),
        ModelSpec(d_model=width, n_heads=heads),
        TrainSpec(steps=10_000, batch_size=BATCH),
        seed,
    )


class Padded(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Chains padded to the context, as transformer_lens.train takes them."""

    def __init__(self, ids: np.ndarray, n_ctx: int, end: int) -> None:
        width = np.pad(ids, ((0, 0), (0, n_ctx - ids.shape[1])), constant_values=end)
        self.tokens = torch.from_numpy(width.astype(np.int64))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"tokens": self.tokens[index]}


def contestants(width: int, heads: int) -> dict[str, Callable[[], float]]:
    """Each trains STEPS steps and returns chains per second and model."""
    from transformer_lens.train import HookedTransformerTrainConfig
    from transformer_lens.train import train as lens_train

    one, eight = Ensemble([spec(width, heads, 0)]), Ensemble([spec(width, heads, seed) for seed in range(MEMBERS)])
    member = one.members[0]
    settings = member.spec.train
    padded = Padded(member.batches.ids, member.n_ctx, member.tokens.end)
    shipped = hooked(one.member_params(0), member.spec.model)
    bucketed = hooked(one.member_params(0), member.spec.model)
    optimiser = torch.optim.AdamW(bucketed.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    config = HookedTransformerTrainConfig(
        num_epochs=1,
        batch_size=BATCH,
        lr=settings.lr,
        optimizer_name="AdamW",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        max_steps=STEPS - 1,
        print_every=None,
        device="cpu",
    )

    def ours(ensemble: Ensemble) -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            ensemble.step()
        return STEPS * BATCH * len(ensemble.members) / (time.perf_counter() - began)

    def theirs() -> float:
        began = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            lens_train(shipped, config, padded)
        return STEPS * BATCH / (time.perf_counter() - began)

    position = 0

    def theirs_bucketed() -> float:
        nonlocal position
        began = time.perf_counter()
        for _ in range(STEPS):
            batch = member.batches[position]
            position += 1
            logits = bucketed(torch.from_numpy(batch.tokens))
            loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten(), ignore_index=IGNORE)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bucketed.parameters(), settings.clip)
            optimiser.step()
            optimiser.zero_grad()
        return STEPS * BATCH / (time.perf_counter() - began)

    return {
        "ours, one model": lambda: ours(one),
        "ours, ensemble of eight": lambda: ours(eight),
        "transformer_lens.train": theirs,
        "HookedTransformer, bucketed": theirs_bucketed,
    }


def measure(width: int, heads: int, rounds: int) -> dict[str, Any]:
    """Median chains per second of each contestant, and the ratios."""
    runs = contestants(width, heads)
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(run())
    median = {name: statistics.median(values) for name, values in rates.items()}
    shipped, bucketed = median["transformer_lens.train"], median["HookedTransformer, bucketed"]
    # An ensemble's rate counts the chains of all members; per member in the time eight single runs would take.
    return {
        "d_model": width,
        "chains_per_second": {name: round(value) for name, value in median.items()},
        "ratio to transformer_lens.train": {
            "one model": median["ours, one model"] / shipped,
            "ensemble member": median["ours, ensemble of eight"] / shipped,
        },
        "ratio to HookedTransformer on our batches": {
            "one model": median["ours, one model"] / bucketed,
            "ensemble member": median["ours, ensemble of eight"] / bucketed,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    add_output(parser)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    tune_for_training()
    results = [measure(width, chosen.heads, chosen.rounds) for width in chosen.widths]
    document = {
        "protocol": f"MAX+MED+SUM, nesting 2, batch {BATCH}, {STEPS} steps a round, medians of {chosen.rounds} rounds "
        f"interleaved, float32, {chosen.threads} threads, two layers, heads: {chosen.heads}; transformer_lens "
        "pads to the context",
        "torch": torch.__version__,
        "targets": TARGETS,
        "results": results,
    }
    if not delivered("training", document, chosen):
        print(document["protocol"])
        for result in results:
            print(f"d_model {result['d_model']}: {result['chains_per_second']} chains/s")
            for name in ("ratio to transformer_lens.train", "ratio to HookedTransformer on our batches"):
                print(f"  {name}: " + ", ".join(f"{key} {value:.1f}" for key, value in result[name].items()))
    missed = any(
        result["ratio to transformer_lens.train"][name] < target
        for result in results
        for name, target in TARGETS.items()
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
