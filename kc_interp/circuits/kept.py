"""Circuits as sets of kept edges: how much of the answer they keep, and a greedy search for a small one.

A circuit keeps its edges as this run computes them; every other edge that varies carries the source's writing.
*Faithfulness* (Wang et al. 2022, https://arxiv.org/abs/2211.00593) is the share of the logit difference that is left,
(m(C) − m(∅)) / (m(M) − m(∅)): 1 for the whole model, 0 for no edge at all, more than 1 when what was cut worked
against the answer. A ratio of means over inputs, with an interval over them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kc_interp.circuits.effects import Comparison, Edge, Effects, Progress
from kc_interp.model.graph import Graph, edges_in_order
from kc_interp.model.interventions import replaced


def faithfulness(noising: Comparison, circuits: Sequence[Sequence[Edge]]) -> Effects:
    """Of each circuit; `noising` has the clean run as its base."""
    graph = noising.base.graph
    cut = np.stack([graph.mask(graph.varying) & ~graph.mask(kept) for kept in circuits])
    lost = noising.effects(
        noising.moved(replaced(noising.base, noising.source, torch.from_numpy(cut).to(noising.base.logits)))
    )
    return Effects(1 - lost.value, 1 - lost.high, 1 - lost.low)


def alive(graph: Graph, circuit: Sequence[Edge]) -> list[Edge]:
    """The circuit without the edges that lie on no path from the symbols to the logits: they change nothing."""
    kept = edges_in_order(circuit)
    return [edge for edge, needed in zip(kept, graph.connected(kept), strict=True) if needed]


def greedy_backward(noising: Comparison, keep: float, progress: Progress | None = None) -> list[Edge]:
    """A small circuit with at least `keep` of the logit difference, edges removed from the whole model, cheapest first.

    In each round the exact cost of removing each remaining edge is measured, and as large a share of the cheapest goes
    at once as leaves the circuit faithful enough: half of them, else a quarter, … else one. It ends when the cheapest
    single edge is too dear: no one edge can be spared, though two together might.
    """
    graph = noising.base.graph
    kept = alive(graph, graph.varying)
    while len(kept) > 1:
        left = faithfulness(noising, [[e for e in kept if e != edge] for edge in kept]).value
        cheapest = [kept[index] for index in np.argsort(-left, kind="stable")]
        count = max(1, len(kept) // 2)
        while count:
            gone = set(cheapest[:count])
            smaller = alive(graph, [edge for edge in kept if edge not in gone])
            if smaller and faithfulness(noising, [smaller]).value[0] >= keep:
                break
            count //= 2
        else:
            return kept
        kept = smaller
        if progress is not None:
            progress(len(graph.varying) - len(kept), len(graph.varying))
    return kept


def acdc(noising: Comparison, threshold: float) -> list[Edge]:
    """ACDC (Conmy et al. 2023, https://arxiv.org/abs/2304.14997): from the logits down, each edge once, is it needed?

    An edge is removed for good when that lowers faithfulness by less than `threshold`, given what was removed before.
    The readers of a node that no kept edge leads on from are passed over. Its authors judge by KL divergence or by the
    task's own metric; here it is the logit difference.
    """
    graph = noising.base.graph
    kept = set(graph.varying)
    left = 1.0
    for reader in reversed(range(len(graph.readers))):
        node = graph.node_of(reader)
        if node is not None and not any(writer == node for writer, _ in kept):
            kept -= {edge for edge in kept if edge[1] == reader}
            continue
        for edge in sorted((edge for edge in kept if edge[1] == reader), reverse=True):
            without = float(faithfulness(noising, [sorted(kept - {edge})]).value[0])
            if left - without < threshold:
                kept.remove(edge)
                left = without
    return alive(graph, sorted(kept))


def best_first(noising: Comparison, scores: np.ndarray, sizes: Sequence[int]) -> list[list[Edge]]:
    """The circuits of the edges with the largest |score|, by number of edges; scores in the order of `varying`."""
    graph = noising.base.graph
    order = np.argsort(-np.abs(scores), kind="stable")
    return [edges_in_order([graph.varying[index] for index in order[:size]]) for size in sizes]


def random_circuits(graph: Graph, size: int, count: int, rng: np.random.Generator) -> list[list[Edge]]:
    """Random circuits of `size` edges, every one of them on a path from the symbols to the logits.

    Each grows from random paths until it has as many edges, so that a circuit of the size of a path is a path.
    """
    found: list[list[Edge]] = []
    into: dict[int, list[Edge]] = {}
    for writer, reader in graph.varying:
        into.setdefault(reader, []).append((writer, reader))
    last = len(graph.readers) - 1
    while len(found) < count:
        kept: set[Edge] = set()
        for _ in range(100 * size):
            path: list[Edge] = []
            reader = last
            while True:
                edge = into[reader][int(rng.integers(len(into[reader])))]
                path.append(edge)
                own = graph.readers_of(edge[0])
                if not own:
                    break
                reader = own[int(rng.integers(len(own)))]
            if len(kept | set(path)) <= size:
                kept |= set(path)
            if len(kept) == size:
                break
        found.append(edges_in_order(kept))
    return found
