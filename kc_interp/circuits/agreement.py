"""How well an approximation agrees with the exact effects of the same edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from kc_interp.circuits.effects import Comparison
from kc_interp.circuits.kept import alive, best_first, faithfulness


@dataclass(frozen=True)
class Agreement:
    """`rank`: Spearman correlation of the sizes, |score| and |effect|. `auroc`: of |score| for the edges of a circuit.

    `size`: how many edges the smallest circuit of highest |score| has that is as faithful as asked; None where none is
    (nor where the search's sizes end before). `auroc` is None when the circuit holds all edges or none.
    """

    rank: float
    auroc: float | None
    size: int | None


def agreement(
    noising: Comparison,
    scores: Float[np.ndarray, " edge"],
    exact: Float[np.ndarray, " edge"],
    circuit: Bool[np.ndarray, " edge"],
    keep: float,
) -> Agreement:
    """Of scores with exact effects, both in the order of the edges that vary; `circuit` marks the edges to be found."""
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    sizes = np.abs(scores)
    rank = float(spearmanr(sizes, np.abs(exact)).statistic)
    auroc = float(roc_auc_score(circuit, sizes)) if 0 < circuit.sum() < len(circuit) else None
    return Agreement(rank, auroc, size_at(noising, scores, keep))


def size_at(noising: Comparison, scores: Float[np.ndarray, " edge"], keep: float) -> int | None:
    """The number of edges, idle ones not counted, of the smallest best-first circuit that keeps `keep`."""
    graph = noising.base.graph
    sizes: Sequence[int] = range(1, len(graph.varying) + 1)
    circuits = best_first(noising, scores, sizes)
    enough = np.flatnonzero(faithfulness(noising, circuits).value >= keep)
    return len(alive(graph, circuits[int(enough[0])])) if len(enough) else None
