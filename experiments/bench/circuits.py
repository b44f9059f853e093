"""All exact edge effects against one hooked HookedTransformer forward an edge, in one run: equal, and how much sooner.

    python experiments/bench/circuits.py [--rounds 5] [--threads 2] [--out FOLDER] [--json]

The 110 edges of a two-layer, four-head model, for 1 and for 64 pairs of 26 tokens, interleaved; the figure is the
median of the rounds. Ours includes both plain runs, theirs both cached ones. Exit status 1 when a ratio misses its
target, all effects on 64 pairs take longer than 2 s, or logits differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from common import add_output, delivered

from kc_interp.circuits.effects import edge_logits
from kc_interp.model import parameters
from kc_interp.model.device import tune_for_training
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import Streams
from kc_interp.model.lens import hooked, replaced_by_hook
from kc_interp.spec import ModelSpec

TARGETS, SECONDS = {1: 12.0, 64: 4.0}, 2.0
D_VOCAB, LENGTH = 18, 26


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    add_output(parser)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    tune_for_training()
    generator = torch.Generator().manual_seed(0)
    spec = ModelSpec(d_model=48)
    graph = Graph.of(spec)
    params = parameters.initialise(spec, generator, d_vocab=D_VOCAB, n_ctx=60)
    model, stacked = hooked(params, spec), parameters.stack([params])
    for switch in (model.set_use_attn_result, model.set_use_split_qkv_input, model.set_use_hook_mlp_in):
        switch(True)
    results = []
    for pairs in TARGETS:
        base, source = (torch.randint(0, D_VOCAB, (pairs, LENGTH), generator=generator) for _ in range(2))

        def ours(base: torch.Tensor = base, source: torch.Tensor = source) -> torch.Tensor:
            return edge_logits(*(Streams.of(stacked, spec, tokens) for tokens in (base, source)), graph.varying)

        def theirs(base: torch.Tensor = base, source: torch.Tensor = source) -> torch.Tensor:
            with torch.no_grad():
                caches = [model.run_with_cache(tokens)[1] for tokens in (base, source)]
                return torch.stack([replaced_by_hook(model, base, *caches, graph.name(edge)) for edge in graph.varying])

        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        error = 0.0
        for _ in range(chosen.rounds + 1):
            found = []
            for name, run in (("ours", ours), ("theirs", theirs)):
                began = time.perf_counter()
                found.append(run())
                seconds[name].append(time.perf_counter() - began)
            error = max(error, (found[0] - found[1]).abs().max().item())
        median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
        results.append(
            {
                "pairs": pairs,
                "ratio": median["theirs"] / median["ours"],
                "seconds": median,
                "largest_difference": error,
                "missed": median["theirs"] / median["ours"] < TARGETS[pairs]
                or median["ours"] > SECONDS
                or error > 1e-5,
            }
        )
    document = {
        "protocol": f"two layers, four heads, {len(graph.varying)} edges, d_model 48, {LENGTH} tokens, float32, "
        f"{chosen.threads} threads, {chosen.rounds} rounds interleaved after one warm-up, medians",
        "torch": torch.__version__,
        "targets": {str(pairs): target for pairs, target in TARGETS.items()},
        "results": results,
    }
    if not delivered("circuits", document, chosen):
        print(document["protocol"])
        for row in results:
            took, error = row["seconds"]["ours"], row["largest_difference"]  # type: ignore[index]
            print(f"{row['pairs']} pairs: {row['ratio']:.1f} times, {took:.3f} s; difference {error:.1e}")
    return int(any(row["missed"] for row in results))


if __name__ == "__main__":
    sys.exit(main())
