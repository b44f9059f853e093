"""Searches for small circuits, by exact interventions. Each gives circuits by size, to be scored by `scores.curve`.

A circuit is a set of kept edges; all others that vary carry the source's writing. Edges on no path from the symbols to
the logits are dropped from every circuit, for nothing. (That is exact when the source is a run of the model; when it
is a mean or zeros, a part that no symbol reaches is then replaced too, and what `scores` measures is the circuit so
pruned.)

*Backward* needs no path to begin with and never misses that two parts stand in for each other, but takes a round for
each edge; *forward* ends early and so is for small circuits; *ACDC* decides on each edge once; *by score* is as good as
the scores. No search is sure to find the smallest circuit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kc_interp.circuits.effects import Comparison, Edge, Progress
from kc_interp.circuits.scores import alive, curve, cut, worth
from kc_interp.circuits.toggling import toggled
from kc_interp.errors import ProbeError
from kc_interp.model.graph import TOKEN, Graph, edges_in_order
from kc_interp.model.interventions import replaced

Circuits = list[list[Edge]]
Aim = Literal["largest", "closest"]
"""Which faithfulness a greedy search prefers: the largest (for CPR), or that closest to 1, the model's (for CMD)."""

_NO_GAIN = 1e-4
"""Of faithfulness, an edge: less is no reason to prefer an ear."""

_TOLERANCE = 0.002
"""Of `smallest`: what a round that takes several edges at once may cost."""


def by_score(
    graph: Graph,
    scores: Float[np.ndarray, " edge"],
    *,
    sizes: Sequence[int] | None = None,
    signed: bool = False,
) -> Circuits:
    """The k edges of largest |score| (with `signed` of largest score), for each k; scores in the order of `varying`.

    By default every k; some of these edges may lie on no path, so that a circuit has fewer than k.
    """
    varying = graph.varying
    if scores.shape != (len(varying),):
        raise ProbeError(f"{len(scores)} scores for {len(varying)} edges; give one for each edge of `graph.varying`")
    order = np.argsort(-(scores if signed else np.abs(scores)), kind="stable")
    chosen = range(len(varying) + 1) if sizes is None else sizes
    return [alive(graph, [varying[index] for index in order[:size]]) for size in chosen]


def acdc(
    noising: Comparison,
    thresholds: Sequence[float],
    *,
    metric: Literal["KL", "logit difference"] = "KL",
    progress: Progress | None = None,
) -> Circuits:
    """ACDC (Conmy et al. 2023, https://arxiv.org/abs/2304.14997): one circuit for each threshold, in their order.

    From the logits to the first block, each reader's edges (the latest writer first) are removed if that raises the
    distance from the model by less than the threshold; what lowers it goes too, as in the paper's algorithm. The
    distance is the mean KL divergence of the answer's distribution from the model's, in nats (the paper's choice), or
    the share of the logit difference that is lost.

    All thresholds go through the edges together, and equal circuits are run once. An edge whose reader has nothing left
    that reads it is removed unmeasured.
    """
    base, graph = noising.base, noising.base.graph
    whole = worth(noising).mean()
    before = base.logits.double().log_softmax(-1)

    def distances(logits: Float[Tensor, "circuit batch d_vocab"]) -> Float[np.ndarray, " circuit"]:
        if metric == "logit difference":
            return noising.moved(logits).mean(1) / whole
        after = logits.double().log_softmax(-1)
        return (before.exp() * (before - after)).sum(-1).mean(-1).cpu().numpy()

    varying = graph.mask(graph.varying)
    kept = np.stack([varying] * len(thresholds))
    limits, distance = np.asarray(thresholds, dtype=float), np.zeros(len(thresholds))
    order = sorted(graph.varying, key=lambda edge: (-edge[1], -edge[0]))
    for index, (writer, reader) in enumerate(order):
        node = graph.node_of(reader)
        read = np.ones(len(kept), dtype=bool) if node is None else kept[:, node].any(axis=1)
        trial = kept.copy()
        trial[:, writer, reader] = False
        kept[~read, writer, reader] = False
        if read.any():
            unique, place = np.unique(trial[read], axis=0, return_inverse=True)
            masks = torch.from_numpy(varying & ~unique).to(base.logits)
            found = distances(replaced(base, noising.source, masks))[place.reshape(-1)]
            gone = np.flatnonzero(read)[found - distance[read] < limits[read]]
            distance[gone] = found[found - distance[read] < limits[read]]
            kept[gone, writer, reader] = False
        if progress is not None:
            progress(index + 1, len(order))
    return [alive(graph, [edge for edge in graph.varying if mask[edge]]) for mask in kept]


def greedy_backward(
    noising: Comparison,
    *,
    aim: Aim = "largest",
    tolerance: float = 0.0,
    keep: float | None = None,
    progress: Progress | None = None,
) -> Circuits:
    """From the whole model to nothing: in every round the edge goes without which most is kept. Largest circuit first.

    Every candidate is measured exactly, on all inputs, in every round. With `tolerance`, a round takes 2, 4, 8 … of its
    cheapest edges at once, as many as together cost no more than this share of the logit difference, measured exactly
    too: fewer rounds, for models of several hundred edges. With `keep` it ends before the first that keeps less.
    """
    graph, whole = noising.base.graph, worth(noising).mean()
    kept = alive(graph, graph.varying)
    now, found = 1.0, [kept]
    while kept:
        left = 1 - noising.moved(toggled(noising.base, noising.source, kept, kept)).mean(1) / whole
        order = [kept[index] for index in np.argsort(_cost(left, aim), kind="stable")]
        now, kept = _without(noising, kept, order, now, whole, aim, tolerance)
        if keep is not None and now < keep:
            break
        found.append(kept)
        if progress is not None:
            progress(len(found[0]) - len(kept), len(found[0]))
    return found


def smallest(noising: Comparison, keep: float) -> tuple[tuple[Edge, ...], Circuits]:
    """The smallest circuit that keeps this share, and all circuits of the search backward that found it.

    Every round stays as close to the whole model as it can, and may take several edges that together cost no more than
    0.2 % of the logit difference. Raises ProbeError as `worth` does.
    """
    found = greedy_backward(noising, aim="closest", tolerance=_TOLERANCE)
    return curve(noising, found).smallest(keep), found


def _without(
    noising: Comparison,
    kept: Sequence[Edge],
    order: Sequence[Edge],
    now: float,
    whole: float,
    aim: Aim,
    tolerance: float,
) -> tuple[float, list[Edge]]:
    """What is kept, and by which circuit, without the first edge of `order`, or as many as the tolerance allows."""
    graph = noising.base.graph
    counts = [1]
    while tolerance > 0 and counts[-1] * 2 < len(kept):
        counts.append(counts[-1] * 2)
    gone = [set(order[:count]) for count in counts]
    circuits = [alive(graph, [edge for edge in kept if edge not in some]) for some in gone]
    left = 1 - cut(noising, circuits).mean(1) / whole
    cheap = np.flatnonzero(_cost(left, aim) - _cost(np.asarray(now), aim) <= tolerance)
    best = int(cheap[-1]) if len(cheap) else 0
    return float(left[best]), circuits[best]


def _cost(left: np.ndarray, aim: Aim) -> np.ndarray:
    return np.asarray(np.abs(1 - left) if aim == "closest" else -left)


def greedy_forward(
    noising: Comparison,
    *,
    aim: Aim = "largest",
    keep: float = 0.95,
    width: int = 64,
    progress: Progress | None = None,
) -> Circuits:
    """From nothing to a circuit that keeps at least `keep`, smallest first: the whole model in the worst case.

    One edge does nothing before it completes a path, so what is added is an *ear* (as in Whitney's decomposition of
    graphs, 1932, https://doi.org/10.2307/2371086): a path from a part that the symbols reach already, through parts
    that are new, to a reader that matters already; at first, from the token embedding to the logits. Once parts are in,
    most ears are single edges. Each round adds the ear with the largest gain an edge, by exact measurement; where none
    gains anything (two may do so only together), the one whose weakest edge has the largest exact effect of its own. Of
    ears of several edges the `width` best in that respect are measured.
    """
    base, source, graph = noising.base, noising.source, noising.base.graph
    whole = worth(noising).mean()
    effect = dict(zip(graph.varying, np.abs(noising.edges().value).tolist(), strict=True))
    everything = alive(graph, graph.varying)
    kept: list[Edge] = []
    found, now = [kept], 0.0
    while len(kept) < len(everything) and _cost(np.asarray(now), aim) > _cost(np.asarray(keep), aim):
        ears = sorted(_ears(graph, kept, effect, width), key=len)
        single = [ear[0] for ear in ears if len(ear) == 1]
        longer = [ear for ear in ears if len(ear) > 1]
        moved = [noising.moved(toggled(base, source, kept, single))] if single else []
        moved += [cut(noising, [[*kept, *ear] for ear in longer])] if longer else []
        left = 1 - np.concatenate(moved).mean(1) / whole
        gains = (_cost(np.asarray(now), aim) - _cost(left, aim)) / [len(ear) for ear in ears]
        best = int(np.argmax(gains))
        if gains[best] < _NO_GAIN:
            best = int(np.argmax([min(effect[edge] for edge in ear) for ear in ears]))
        kept, now = edges_in_order([*kept, *ears[best]]), float(left[best])
        found.append(kept)
        if progress is not None:
            progress(len(kept), len(everything))
    return found


def _ears(graph: Graph, circuit: Sequence[Edge], effect: dict[Edge, float], width: int) -> Iterator[list[Edge]]:
    """Paths that may be added: every single edge, and of longer ones those `width` whose weakest edge is strongest.

    Paths are laid from their end, and after each edge only the `width` best are led further.
    """
    into: dict[int, list[Edge]] = {}
    for edge in graph.varying:
        into.setdefault(edge[1], []).append(edge)
    nodes = {TOKEN, *(writer for writer, _ in circuit)}
    needed = {len(graph.readers) - 1, *(reader for node in nodes for reader in graph.readers_of(node))}
    inside = set(circuit)
    yield from ([edge] for reader in sorted(needed) for edge in into[reader] if edge[0] in nodes and edge not in inside)
    complete: list[tuple[float, list[Edge]]] = []
    partial = [(effect[edge], [edge]) for reader in sorted(needed) for edge in into[reader] if edge[0] not in nodes]
    while partial:
        further = [
            (min(weakest, effect[edge]), [edge, *path])
            for weakest, path in sorted(partial, key=lambda item: -item[0])[:width]
            for reader in graph.readers_of(path[0][0])
            for edge in into[reader]
        ]
        complete += [item for item in further if item[1][0][0] in nodes]
        partial = [item for item in further if item[1][0][0] not in nodes]
    yield from (path for _, path in sorted(complete, key=lambda item: -item[0])[:width])
