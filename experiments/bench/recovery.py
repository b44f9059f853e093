"""Do methods find circuits that are known? Every method on every known-answer model, and how far off it is.

    python experiments/bench/recovery.py [--pairs 64] [--trained] [--out FOLDER] [--json]

AUROC of each method's |score| for the edges of the true circuit, and the number of edges that searches keep that are
not in it, or miss that are. --trained adds the models that are trained with wires that cannot exist (some seconds
each). Exit status 1 unless exact effects have AUROC 1 on every constructed model; approximations are reported as they
are.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from common import add_output, delivered
from sklearn.metrics import roc_auc_score

from kc_interp.circuits.attribution import APPROXIMATIONS
from kc_interp.circuits.effects import Comparison, Edge, Metric
from kc_interp.circuits.scores import faithfulness
from kc_interp.circuits.search import acdc, greedy_backward, greedy_forward
from kc_interp.known_answers import CONSTRUCTED, TRAINED, KnownAnswer, known_answer


def judged(known: KnownAnswer, count: int) -> dict[str, object]:
    pairs = known.pairs(count, np.random.default_rng(0))
    base, source = known.streams(pairs)
    answers = known.answers(pairs)
    comparison = Comparison.of(base, source, Metric(answers[0], answers[1]), np.random.default_rng(1))
    truth = [edge in known.truth for edge in known.graph.varying]
    scores = {
        "exact": comparison.edges().value,
        **{name: comparison.effects(method(comparison, None)).value for name, method in APPROXIMATIONS.items()},
        "random": np.random.default_rng(2).normal(size=len(truth)),
    }

    def found(edges: list[Edge]) -> dict[str, object]:
        return {
            "edges": len(edges),
            "not in it": len(set(edges) - set(known.truth)),
            "missed": len(set(known.truth) - set(edges)),
            "faithfulness": float(faithfulness(comparison, [edges]).value[0]),
        }

    return {
        "model": known.name,
        "true edges": sum(truth),
        "edges": len(truth),
        "auroc": {name: float(roc_auc_score(truth, np.abs(values))) for name, values in scores.items()},
        "greedy backward, 99 %": found(greedy_backward(comparison, keep=0.99)[-1]),
        "greedy forward, 99 %": found(greedy_forward(comparison, keep=0.99)[-1]),
        "ACDC, 0.001": found(acdc(comparison, [1e-3])[0]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--trained", action="store_true")
    add_output(parser)
    chosen = parser.parse_args()
    rows = [judged(known_answer(name), chosen.pairs) for name in (*CONSTRUCTED, *(TRAINED if chosen.trained else ()))]
    document = {
        "protocol": f"{chosen.pairs} pairs of one template with different answers, noising, logit difference",
        "torch": torch.__version__,
        "results": rows,
    }
    if not delivered("recovery", document, chosen):
        print(document["protocol"])
        for row in rows:
            auroc = ", ".join(f"{name} {value:.2f}" for name, value in row["auroc"].items())  # type: ignore[attr-defined]
            print(f"{row['model']}: {row['true edges']} of {row['edges']} edges; AUROC {auroc}")
            for search in ("greedy backward, 99 %", "greedy forward, 99 %", "ACDC, 0.001"):
                print(f"    {search}: " + ", ".join(f"{name} {value:.3g}" for name, value in row[search].items()))  # type: ignore[attr-defined]
    return int(any(row["auroc"]["exact"] < 1 for row in rows if row["model"] in CONSTRUCTED))  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(main())
