"""What two operations of one model share: the edges of their circuits, and what cutting one's costs the other.

Both circuits are of the same model, so heads are what they are and nothing is matched. Overlap is set against random
circuits of as many edges as each has, each edge of them on a path from the symbols to the logits. *Cross-necessity*:
all edges of one operation's circuit are cut in the runs of the other, or those alone that the other's circuit lacks;
beside it, as many edges at random, and the operation's own circuit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from kc_interp.circuits.effects import Comparison, Edge
from kc_interp.circuits.matching import Null, Overlap, Profile, overlap
from kc_interp.circuits.scores import Estimate, random_circuits, shares, worth
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import replaced


@dataclass(frozen=True)
class Operation:
    """One operation in one model: two halves of inputs, the circuit of the first, judged on the second.

    `itself`: how much the circuits of the two halves overlap, which is the most that another operation's could.
    """

    profiles: tuple[Profile, Profile]
    judged: Comparison

    @property
    def circuit(self) -> list[Edge]:
        return [(int(writer), int(reader)) for writer, reader in np.argwhere(self.profiles[0].kept)]

    @property
    def itself(self) -> Overlap:
        return overlap(*self.profiles)


@dataclass(frozen=True)
class Cut:
    """What is lost of one operation's logit difference when edges are cut, in shares of it, with intervals over inputs.

    `all`: every edge of the other's circuit; `only`: those that its own circuit lacks (None: there are none). Beside
    each, the mean over as many random edges.
    """

    all: Estimate
    only: Estimate | None
    edges: int
    only_edges: int
    random: float
    only_random: float | None


@dataclass(frozen=True)
class Shared:
    """Of every two operations: the overlap of their circuits and its null, and of each the loss by cutting another's.

    `cuts[one, other]`: what `one` loses when the circuit of `other` is cut; (one, one) is its own.
    """

    overlaps: Mapping[tuple[str, str], tuple[Overlap, Null]]
    cuts: Mapping[tuple[str, str], Cut]


def shared(operations: Mapping[str, Operation], rng: np.random.Generator, *, draws: int = 100) -> Shared:
    """Raises ProbeError as `worth` does."""
    names = list(operations)
    overlaps = {
        (one, other): _overlap(operations[one], operations[other], rng, draws)
        for index, one in enumerate(names)
        for other in names[index + 1 :]
    }
    cuts = {(one, other): _cut(operations[one], operations[other], rng, draws) for one in names for other in names}
    return Shared(overlaps, cuts)


def _overlap(one: Operation, other: Operation, rng: np.random.Generator, draws: int) -> tuple[Overlap, Null]:
    """Of the circuits of the first halves; the null of their Jaccard index are random circuits of the same sizes."""
    graph = one.profiles[0].graph
    found = overlap(one.profiles[0], other.profiles[0])
    drawn = [random_circuits(graph, len(operation.circuit), draws, rng) for operation in (one, other)]
    null = [len({*a} & {*b}) / len({*a} | {*b}) if a or b else 1.0 for a, b in zip(*drawn, strict=True)]
    return found, Null.of(found.jaccard, null)


def _cut(one: Operation, other: Operation, rng: np.random.Generator, draws: int) -> Cut:
    graph, theirs = one.judged.base.graph, other.circuit
    own = set(one.circuit)
    only = [edge for edge in theirs if edge not in own]
    sets = [theirs, *([only] if only else [])]
    value, resampled = shares(one.judged, _without(one.judged, sets), worth(one.judged))
    estimates = [Estimate.of(lost, draw) for lost, draw in zip(value, resampled, strict=True)]
    random = [_at_random(one.judged, graph, len(edges), rng, draws) for edges in sets]
    return Cut(
        estimates[0],
        estimates[1] if only else None,
        len(theirs),
        len(only),
        random[0],
        random[1] if only else None,
    )


def _without(noising: Comparison, sets: list[list[Edge]]) -> Float[np.ndarray, "set batch"]:
    """How far the logit difference moves when these edges are cut, for each set and input."""
    masks = np.stack([noising.base.graph.mask(gone) for gone in sets])
    return noising.moved(replaced(noising.base, noising.source, torch.from_numpy(masks).to(noising.base.logits)))


def _at_random(noising: Comparison, graph: Graph, size: int, rng: np.random.Generator, draws: int) -> float:
    """What is lost on average without as many edges, drawn at random."""
    varying = graph.varying
    sets = [[varying[index] for index in rng.choice(len(varying), size, replace=False)] for _ in range(draws)]
    lost, _ = shares(noising, _without(noising, sets), worth(noising))
    return float(lost.mean())
