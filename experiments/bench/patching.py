"""Activation patching against `transformer_lens.patching`, in one run: the same effects, to 1e-5, and how much sooner.

    python experiments/bench/patching.py [--rounds 5] [--threads 2] [--out FOLDER] [--json]

One sweep is every layer and position of the residual stream, attention output, MLP output and each head's output of a
two-layer, four-head model, for 1 and for 64 pairs of 26 tokens, interleaved; the figure is the median of the rounds.
Ours includes both plain runs. Exit status 1 when a ratio misses its target or the effects differ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable

import torch
import transformer_lens.patching as lens_patching
from common import add_output, delivered

from kc_interp.model import parameters
from kc_interp.model.device import tune_for_training
from kc_interp.model.lens import hooked
from kc_interp.model.patch import Run, Site, patch
from kc_interp.spec import ModelSpec

TARGETS = {1: 12.0, 64: 4.0}
D_VOCAB, LENGTH, ANSWER = 18, 26, 5
THEIRS: dict[Site, Callable[..., torch.Tensor]] = {
    "resid_pre": lens_patching.get_act_patch_resid_pre,
    "attn_out": lens_patching.get_act_patch_attn_out,
    "mlp_out": lens_patching.get_act_patch_mlp_out,
    "z": lens_patching.get_act_patch_attn_head_out_by_pos,
}


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
    params = parameters.initialise(spec, generator, d_vocab=D_VOCAB, n_ctx=60)
    model, stacked = hooked(params, spec), parameters.stack([params])
    results = []
    for pairs in TARGETS:
        base, source = (torch.randint(0, D_VOCAB, (pairs, LENGTH), generator=generator) for _ in range(2))

        def ours(site: Site, base: torch.Tensor = base, source: torch.Tensor = source) -> torch.Tensor:
            logits = patch(Run.of(stacked, spec, base), Run.of(stacked, spec, source), site)
            effect = logits[..., ANSWER].mean(-1)
            return effect.transpose(1, 2) if site == "z" else effect[:, 0]

        def theirs(site: Site, base: torch.Tensor = base, source: torch.Tensor = source) -> torch.Tensor:
            with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
                _, cache = model.run_with_cache(source)
                return THEIRS[site](model, base, cache, lambda logits: logits[:, -1, ANSWER].mean())

        seconds: dict[tuple[str, Site], list[float]] = {}
        error = 0.0
        for _ in range(chosen.rounds + 1):
            for site in THEIRS:
                found = []
                for name, run in (("ours", ours), ("theirs", theirs)):
                    began = time.perf_counter()
                    found.append(run(site))
                    seconds.setdefault((name, site), []).append(time.perf_counter() - began)
                error = max(error, (found[0] - found[1]).abs().max().item())
        median = {key: statistics.median(values[1:]) for key, values in seconds.items()}
        total = {name: sum(value for (who, _), value in median.items() if who == name) for name in ("ours", "theirs")}
        results.append(
            {
                "pairs": pairs,
                "ratio": total["theirs"] / total["ours"],
                "ratio_by_site": {site: median["theirs", site] / median["ours", site] for site in THEIRS},
                "seconds": total,
                "largest_difference": error,
            }
        )
    document = {
        "protocol": f"two layers, four heads, d_model 48, {LENGTH} tokens, float32, {chosen.threads} threads, "
        f"{chosen.rounds} rounds interleaved after one warm-up, medians",
        "torch": torch.__version__,
        "targets": {str(pairs): target for pairs, target in TARGETS.items()},
        "results": results,
    }
    if not delivered("patching", document, chosen):
        print(document["protocol"])
        for row in results:
            sites = ", ".join(f"{site} {value:.1f}" for site, value in row["ratio_by_site"].items())  # type: ignore[attr-defined]
            print(
                f"{row['pairs']} pairs: {row['ratio']:.1f} times ({sites}); difference {row['largest_difference']:.1e}"
            )
    return int(
        any(row["ratio"] < TARGETS[row["pairs"]] or row["largest_difference"] > 1e-5 for row in results)  # type: ignore[operator,index]
    )


if __name__ == "__main__":
    sys.exit(main())
