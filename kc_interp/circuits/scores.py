"""How good a circuit is: faithful, complete, minimal, and better than a random one of its size.

A circuit is a set of edges that are kept, as this run computes them; every other edge that varies carries the source's
writing. `noising` is always a comparison whose base is the clean run. All scores are in shares of what all edges
together are worth, (m(C) − m(∅)) / (m(M) − m(∅)) for a circuit C of the model M, a ratio of means over inputs with a
95 % interval over them; m is the logit difference.

*Faithfulness*, *completeness* and *minimality* are those of Wang et al. 2023 (https://arxiv.org/abs/2211.00593), the
areas *CPR* and *CMD* those of Mueller et al. 2025 (https://arxiv.org/abs/2504.13151). An interval speaks of these
inputs; a circuit that was searched for on them is judged on others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from kc_interp.circuits.effects import Comparison, Edge, Effects, Progress
from kc_interp.circuits.toggling import toggled
from kc_interp.errors import ProbeError
from kc_interp.model.graph import Graph, edges_in_order
from kc_interp.model.interventions import replaced

IDLE = 0.01
"""An edge that never changes faithfulness by as much is superfluous."""


@dataclass(frozen=True)
class Estimate:
    """One number with its 95 % interval over inputs (bootstrap percentiles).

    Resampling adds noise to what is near 0, which lowers every resample's rank correlation or raises its distance from
    1; where that moves the interval past the value, it is widened to hold it.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: Float[np.ndarray, " resample"]) -> Estimate:
        low, high = np.quantile(resampled, [0.025, 0.975])
        return cls(float(value), min(float(value), float(low)), max(float(value), float(high)))


def alive(graph: Graph, circuit: Iterable[Edge]) -> list[Edge]:
    """A circuit's edges on a path from the symbols to the logits, in order; the others change nothing, nor count."""
    kept = edges_in_order(circuit)
    return [edge for edge, needed in zip(kept, graph.connected(kept), strict=True) if needed]


def cut(noising: Comparison, circuits: Sequence[Sequence[Edge]]) -> Float[np.ndarray, "circuit batch"]:
    """How far the logit difference moves when every edge outside a circuit is cut, for each circuit and input."""
    graph = noising.base.graph
    masks = np.stack([graph.mask(graph.varying) & ~graph.mask(circuit) for circuit in circuits])
    logits = replaced(noising.base, noising.source, torch.from_numpy(masks).to(noising.base.logits))
    return noising.moved(logits)


def worth(noising: Comparison) -> Float[np.ndarray, " batch"]:
    """How far the logit difference moves when all edges that vary are cut: what scores are shares of.

    Raises ProbeError when its interval includes 0.
    """
    return noising.checked().whole


def shares(
    noising: Comparison, moved: Float[np.ndarray, "item batch"], whole: Float[np.ndarray, " batch"]
) -> tuple[Float[np.ndarray, " item"], Float[np.ndarray, "item resample"]]:
    """Ratios of means over inputs, and over each resample of them."""
    return moved.mean(1) / whole.mean(), (moved @ noising.weights.T) / (noising.weights @ whole)


def faithfulness(noising: Comparison, circuits: Sequence[Sequence[Edge]]) -> Effects:
    """Of each circuit: 1 for the whole model, 0 for no edge, more than 1 when what is cut worked against the answer.

    Raises ProbeError as `worth` does.
    """
    return _left(noising, cut(noising, circuits), worth(noising))


def _left(noising: Comparison, moved: Float[np.ndarray, "item batch"], whole: Float[np.ndarray, " batch"]) -> Effects:
    lost, resampled = shares(noising, moved, whole)
    return _effects(1 - lost, 1 - resampled)


def _effects(value: Float[np.ndarray, " item"], resampled: Float[np.ndarray, "item resample"]) -> Effects:
    return Effects(value, *np.quantile(resampled, [0.025, 0.975], axis=1))


@dataclass(frozen=True)
class Curve:
    """Circuits from the empty one to the whole model, by their number of edges, with what each keeps."""

    circuits: tuple[tuple[Edge, ...], ...]
    faithfulness: Effects
    resampled: Float[np.ndarray, "circuit resample"]

    @property
    def sizes(self) -> Int[np.ndarray, " circuit"]:
        return np.asarray([len(circuit) for circuit in self.circuits])

    def smallest(self, keep: float) -> tuple[Edge, ...]:
        """The circuit of fewest edges that keeps at least this share; the whole model does."""
        return self.circuits[int(np.argmax(self.faithfulness.value >= min(keep, self.faithfulness.value[-1])))]

    def cpr(self) -> Estimate:
        """Circuit performance ratio: the area under the curve over the share of edges; over 1 by overshooting."""
        return self._area(self.faithfulness.value, self.resampled)

    def cmd(self) -> Estimate:
        """Circuit-model distance: the area between the curve and 1, over the share of edges; 0 is best."""
        return self._area(np.abs(1 - self.faithfulness.value), np.abs(1 - self.resampled))

    def _area(self, value: Float[np.ndarray, " circuit"], resampled: Float[np.ndarray, "circuit resample"]) -> Estimate:
        """By trapezoids between the sizes there are: a published grid of percentages rounds to the same few edges."""
        share = self.sizes / self.sizes[-1]
        return Estimate.of(float(np.trapezoid(value, share)), np.trapezoid(resampled, share, axis=0))


def curve(noising: Comparison, circuits: Iterable[Sequence[Edge]]) -> Curve:
    """The faithfulness of circuits by size, the empty one and the whole model added, edges on no path dropped.

    Circuits that were searched for on other inputs are judged on these. Raises ProbeError as `worth` does.
    """
    graph = noising.base.graph
    pruned = {tuple(alive(graph, circuit)) for circuit in (*circuits, (), graph.varying)}
    ordered = tuple(sorted(pruned, key=lambda circuit: (len(circuit), circuit)))
    lost, resampled = shares(noising, cut(noising, ordered), worth(noising))
    return Curve(ordered, _effects(1 - lost, 1 - resampled), 1 - resampled)


@dataclass(frozen=True)
class Completeness:
    """What a circuit does without some of its edges, against what the model does without them.

    `sets` are the edges taken away, K, and `how` says how each was chosen. `gap` is F(C∖K) − F(M∖K): of a circuit that
    misses nothing, near 0 for every K; far below 0 where the model has a second way that the circuit lacks. `chosen_by`
    is the same on the inputs that the sets were chosen on. By that the worst is told: told by the gap itself, it would
    be the largest of many, and its interval too far from 0.
    """

    sets: tuple[tuple[Edge, ...], ...]
    how: tuple[str, ...]
    circuit: Effects
    model: Effects
    gap: Effects
    chosen_by: Float[np.ndarray, " set"]

    @property
    def worst(self) -> int:
        """The set with the largest gap on the inputs that sets were chosen on."""
        return int(np.argmax(np.abs(self.chosen_by)))


def completeness(
    noising: Comparison,
    circuit: Sequence[Edge],
    rng: np.random.Generator,
    *,
    samples: int = 20,
    greedy: int = 10,
    judged: Comparison | None = None,
    progress: Progress | None = None,
) -> Completeness:
    """Over random subsets of the circuit, the edges into and out of each node, and greedily grown sets.

    The greedy set starts empty and takes, `greedy` times, the edge that widens the gap most, of all edges, exactly;
    every set on its way is judged. Sets are chosen on `noising` and judged on `judged` (on `noising` if not given).
    Raises ProbeError when the circuit has no edge, and as `worth` does.
    """
    kept = _needed(noising, circuit)
    chosen: dict[tuple[Edge, ...], str] = {}
    for size in rng.integers(1, len(kept) + 1, samples):
        rows = np.sort(rng.choice(len(kept), size, replace=False))
        chosen.setdefault(tuple(kept[row] for row in rows), "sampled")
    graph = noising.base.graph
    for node, name in enumerate(graph.writers):
        touching = tuple(edge for edge in kept if edge[0] == node or graph.node_of(edge[1]) == node)
        if touching:
            chosen.setdefault(touching, f"edges of {name}")
    for grown in _widening(noising, kept, greedy, progress):
        chosen.setdefault(grown, "greedy")
    sets = tuple(chosen)
    rest = [[edge for edge in edges if edge not in set(gone)] for edges in (kept, graph.varying) for gone in sets]
    of_circuit, of_model = np.split(cut(noising, rest), 2)
    chosen_by = shares(noising, of_model - of_circuit, worth(noising))[0]
    if judged is not None:
        of_circuit, of_model = np.split(cut(judged, rest), 2)
    judged = judged or noising
    whole = worth(judged)
    return Completeness(
        sets,
        tuple(chosen.values()),
        circuit=_left(judged, of_circuit, whole),
        model=_left(judged, of_model, whole),
        gap=_effects(*shares(judged, of_model - of_circuit, whole)),
        chosen_by=chosen_by,
    )


def _widening(
    noising: Comparison, kept: Sequence[Edge], steps: int, progress: Progress | None
) -> Iterable[tuple[Edge, ...]]:
    """Sets of edges, each with one edge more, chosen so that circuit and model differ most without it."""
    base, source, gone = noising.base, noising.source, set[Edge]()
    for step in range(min(steps, len(kept))):
        left = [edge for edge in kept if edge not in gone]
        of_circuit, of_model = (
            noising.moved(toggled(base, source, [edge for edge in edges if edge not in gone], left)).mean(1)
            for edges in (kept, base.graph.varying)
        )
        gone.add(left[int(np.argmax(np.abs(of_circuit - of_model)))])
        if progress is not None:
            progress(step + 1, min(steps, len(kept)))
        yield tuple(edges_in_order(gone))


@dataclass(frozen=True)
class Minimality:
    """For each edge of a circuit, what its removal costs: alone, and at most when others are removed as well.

    `alone` is F(C) − F(C∖e), negative when the circuit keeps more without the edge. `most` is the largest
    |F(C∖K) − F(C∖K∖e)| over the sets K that were tried, the empty one among them: large for an edge that another one
    stands in for. `resampled` is the same on resamples of the inputs.
    """

    edges: tuple[Edge, ...]
    alone: Effects
    most: Float[np.ndarray, " edge"]
    resampled: Float[np.ndarray, "edge resample"]

    @property
    def smallest(self) -> float:
        """The least that any edge does; the larger, the more minimal the circuit."""
        return float(self.most.min())

    def superfluous(self, below: float = IDLE) -> tuple[Edge, ...]:
        """The edges that changed nothing of this size, alone or with others gone."""
        return tuple(edge for edge, most in zip(self.edges, self.most, strict=True) if most < below)

    def spare(self, below: float = IDLE) -> Estimate:
        """The share of edges that are superfluous. More sets may find a use for an edge: never more than this."""
        return Estimate.of((self.most < below).mean(), (self.resampled < below).mean(axis=0))


def minimality(
    noising: Comparison,
    circuit: Sequence[Edge],
    rng: np.random.Generator,
    *,
    singles: int = 40,
    samples: int = 20,
    progress: Progress | None = None,
) -> Minimality:
    """Of every edge, against single other edges removed (at most `singles`, drawn at random) and `samples` random sets.

    Edges on no path change nothing, so they are superfluous. Raises ProbeError when the circuit has no edge at all, and
    as `worth` does.
    """
    _needed(noising, circuit)
    edges = edges_in_order(circuit)
    others = [{edges[row]} for row in rng.permutation(len(edges))[:singles]]
    sizes = rng.integers(1, max(2, len(edges)), samples)
    others += [{edges[row] for row in rng.choice(len(edges), size, replace=False)} for size in sizes]
    rest = [[edge for edge in edges if edge not in gone] for gone in (set[Edge](), *others)]
    whole, before = worth(noising), cut(noising, rest)
    place = {edge: index for index, edge in enumerate(edges)}
    alone, most = np.zeros((len(edges), before.shape[1])), np.zeros(len(edges))
    resampled = np.zeros((len(edges), len(noising.weights)))
    for index, left in enumerate(rest):
        if left:
            after = noising.moved(toggled(noising.base, noising.source, left, left))
            rows = [place[edge] for edge in left]
            if index == 0:
                alone = after - before[0]
            change, changes = shares(noising, after - before[index], whole)
            most[rows] = np.maximum(most[rows], np.abs(change))
            resampled[rows] = np.maximum(resampled[rows], np.abs(changes))
        if progress is not None:
            progress(index + 1, len(rest))
    return Minimality(tuple(edges), _effects(*shares(noising, alone, whole)), most, resampled)


def _needed(noising: Comparison, circuit: Sequence[Edge]) -> list[Edge]:
    kept = alive(noising.base.graph, circuit)
    if not kept:
        raise ProbeError(
            "no edge of this circuit lies on a path from the symbols to the logits: there is nothing to take away; "
            "give the edges of a whole path, such as token->a0.h0<v>, a0.h0->logits"
        )
    return kept


@dataclass(frozen=True)
class Control:
    """A circuit's faithfulness beside that of random circuits of as many edges.

    `p` is how often a random one, the circuit itself counted among them, keeps at least as much.
    """

    own: Estimate
    random: Float[np.ndarray, " circuit"]
    p: float


def against_random(noising: Comparison, circuit: Sequence[Edge], rng: np.random.Generator, count: int = 100) -> Control:
    """Judge a circuit on inputs that it was not searched for on: else it was chosen, and the random ones were not.

    Raises ProbeError as `worth` does.
    """
    kept = alive(noising.base.graph, circuit)
    drawn = random_circuits(noising.base.graph, len(kept), count, rng)
    lost, resampled = shares(noising, cut(noising, [kept, *drawn]), worth(noising))
    own, random = 1 - lost[0], 1 - lost[1:]
    # A random circuit that is this one, by another order of sums, keeps as much.
    as_good = int((random >= own - 1e-6).sum())
    return Control(Estimate.of(own, 1 - resampled[0]), random, (1 + as_good) / (1 + count))


def random_circuits(graph: Graph, size: int, count: int, rng: np.random.Generator) -> list[list[Edge]]:
    """Random circuits of exactly `size` edges, each of them on a path from the symbols to the logits.

    A circuit grows by random walks back from the logits, as long as they fit, and by single edges between its nodes
    where none does. Raises ProbeError when the model has fewer edges.
    """
    everything = alive(graph, graph.varying)
    if not 0 <= size <= len(everything):
        raise ProbeError(f"no circuit has {size} edges: this model has {len(everything)} that vary")
    into: dict[int, list[Edge]] = {}
    for edge in everything:
        into.setdefault(edge[1], []).append(edge)
    found: list[list[Edge]] = []
    while len(found) < count:
        kept: set[Edge] = set()
        while len(kept) < size:
            walks = (kept | _walk(graph, into, rng) for _ in range(20))
            fitting = next((grown for grown in walks if len(kept) < len(grown) <= size), None)
            if fitting is None:
                between = [
                    edge for edge in everything if edge not in kept and len(alive(graph, {*kept, edge})) > len(kept)
                ]
                fitting = kept | {between[int(rng.integers(len(between)))]} if between else set()
            kept = fitting
        found.append(edges_in_order(kept))
    return found


def _walk(graph: Graph, into: Mapping[int, Sequence[Edge]], rng: np.random.Generator) -> set[Edge]:
    """A random path, from the logits back to the token embedding: at each reader any writer that varies."""
    path: set[Edge] = set()
    readers: tuple[int, ...] = (len(graph.readers) - 1,)
    while readers:
        edges = into[int(rng.choice(readers))]
        path.add(edge := edges[int(rng.integers(len(edges)))])
        readers = graph.readers_of(edge[0])
    return path
