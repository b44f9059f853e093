"""What the circuit probe measures: exact effects, the circuit found on some pairs, and how it does on others.

Two sets of pairs are compared: *searched*, on which everything is found, and *held*, on which what is chosen is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float

from kc_interp.circuits import replacement
from kc_interp.circuits.agreement import Agreement, agreement, sizes_at
from kc_interp.circuits.attribution import Approximation, eap, eap_ig_inputs
from kc_interp.circuits.effects import Comparison, Edge, Effects, Interactions, Metric, edge_logits
from kc_interp.circuits.scores import (
    Completeness,
    Control,
    Curve,
    Minimality,
    against_random,
    completeness,
    curve,
    faithfulness,
    minimality,
    random_circuits,
)
from kc_interp.circuits.search import acdc, by_score, smallest
from kc_interp.errors import ProbeError
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import Streams, replaced
from kc_interp.pairs import Pairs
from kc_interp.probe import Subject

GREEDY, EXACT = "greedy backward", "largest exact effect first"
APPROXIMATIONS: Mapping[str, Approximation] = {"EAP": eap, "EAP-IG": eap_ig_inputs}

_ACDC = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
_MOST = 24
"""Of the circuit's edges those of largest effect are paired and looked at by position."""

_SHOWN = 20
_TAKEN = 5
"""So many single other edges, and so many sets, are taken away when the use of an edge is looked for."""

_RANDOM = 2


@dataclass(frozen=True)
class Ways:
    """One set of pairs, compared both ways: noising has the clean chains as its base, denoising their twins."""

    pairs: Pairs
    noising: Comparison
    denoising: Comparison

    @classmethod
    def of(cls, subject: Subject, pairs: Pairs, resamples: int) -> Ways:
        """Raises ProbeError when the model does not tell the twins apart."""
        spec, answers = subject.checkpoint.spec.model, pairs.answers(subject)
        runs = [Streams.of(subject.params, spec, ids) for ids in pairs.ids(subject)]
        sources, rng = runs[::-1], subject.rng("circuit: resamples")
        if pairs.within == "position class":
            own, others = pairs.classes(subject.task)
            sources = [
                replacement.resampled_by_class(runs[0], runs[1], own, others, rng),
                replacement.resampled_by_class(runs[1], runs[0], others, own, rng),
            ]
        metric = Metric(answers[0], answers[1])
        noising, denoising = (
            Comparison.of(base, source, metric, rng, resamples) for base, source in zip(runs, sources, strict=True)
        )
        return cls(pairs, noising, denoising)

    @property
    def graph(self) -> Graph:
        return self.noising.base.graph


@dataclass(frozen=True)
class Measured:
    """What was found on the searched pairs, and how it does on the held ones.

    `moved`: how far each edge alone moves the logit difference, for every searched pair. `approximations` and their
    `agreement` with the exact effects: in words why, where there is none. `curves`: each method's circuits by size, on
    held pairs; `needed`: how many edges its smallest one has that keeps enough of the searched ones. `places`: the
    effect of all edges into one block at one class of positions; `acts`: of one edge at one class, on held pairs.
    `idle`: the share of idle edges in random circuits of as many. `instead`: the circuit's faithfulness by what the cut
    edges carry. `without`: the edges that the user named, alone and all at once, on the searched pairs.
    """

    searched: Ways
    held: Ways
    kept: Sequence[Edge]
    moved: Float[np.ndarray, "edge batch"]
    noising: Effects
    denoising: Effects
    approximations: Mapping[str, Effects | str]
    agreement: Mapping[str, Agreement]
    curves: Mapping[str, Curve]
    needed: Mapping[str, int]
    nodes: Effects
    parts: Effects
    places: Mapping[tuple[str, int], tuple[float, float, float]]
    acts: Sequence[tuple[Edge, str, tuple[float, float, float]]]
    interactions: Interactions
    control: Control
    complete: Completeness
    minimal: Minimality
    idle: float
    instead: Mapping[str, tuple[float, float, float] | str]
    without: tuple[Sequence[Edge], Effects] | None

    @property
    def graph(self) -> Graph:
        return self.searched.graph


def measure(
    subject: Subject, searched: Ways, held: Ways, *, keep: float, circuits: int, without: Sequence[Edge]
) -> Measured:
    """Search on one set of pairs, judge on the other. Raises ProbeError where faithfulness has no meaning there."""
    graph, noising = searched.graph, searched.noising
    moved = noising.moved(edge_logits(noising.base, noising.source, graph.varying))
    exact = noising.effects(moved)
    kept, backward = smallest(noising, keep)
    scores = {name: _approximated(noising, method) for name, method in APPROXIMATIONS.items()}
    scored = {name: values for name, values in scores.items() if not isinstance(values, str)}
    approximations = {name: noising.effects(values) for name, values in scored.items()}
    found = {GREEDY: backward, "ACDC": acdc(noising, _ACDC, metric="logit difference")}
    found |= {name: by_score(graph, effects.value) for name, effects in {EXACT: exact, **approximations}.items()}
    within = np.asarray([edge in set(kept) for edge in graph.varying])
    parts = [[edge for edge in graph.varying if edge[0] in writers] for writers in groups(graph).values()]
    masks = torch.from_numpy(np.stack([graph.mask(part) for part in parts])).to(noising.base.logits)
    largest = [edge for edge in strongest(graph, exact) if edge in set(kept)][:_MOST]
    rng = subject.rng("circuit: scores")
    return Measured(
        searched,
        held,
        kept,
        moved=moved,
        noising=exact,
        denoising=searched.denoising.edges(),
        approximations={
            name: values if isinstance(values, str) else approximations[name] for name, values in scores.items()
        },
        agreement={name: agreement(noising, values, moved, circuit=within) for name, values in scored.items()},
        curves={name: curve(held.noising, circuits) for name, circuits in found.items()},
        needed=sizes_at(noising, found, keep),
        nodes=noising.nodes(range(len(graph.writers))),
        parts=noising.effects(noising.moved(replaced(noising.base, noising.source, masks))),
        places=_places(subject, searched),
        acts=_acts(subject, searched, held, largest),
        interactions=_interactions(noising, held.noising, largest),
        control=against_random(held.noising, kept, rng, circuits),
        complete=completeness(noising, kept, rng, greedy=5, judged=held.noising),
        minimal=minimality(held.noising, kept, rng, singles=_TAKEN, samples=_TAKEN),
        idle=_idle(held.noising, len(kept), rng),
        instead=_instead(subject, held, kept),
        without=_without(noising, without),
    )


def groups(graph: Graph) -> dict[str, list[int]]:
    """What is compared between models: the token embedding, and each block's heads together and MLP."""
    found = {"token": [0]}
    for block in range(graph.depth):
        found[f"attn{block}"] = [graph.head(block, head) for head in range(graph.n_heads)]
        found[f"mlp{block}"] = [graph.head(block, graph.n_heads)]
    return found


def strongest(graph: Graph, effects: Effects) -> list[Edge]:
    """The edges that vary, by the size of their effect."""
    return [graph.varying[index] for index in np.argsort(-np.abs(effects.value), kind="stable")]


def estimates(effects: Effects) -> list[tuple[float, float, float]]:
    """Value, low and high of each."""
    return [(float(value), float(low), float(high)) for value, low, high in zip(*effects.all, strict=True)]


def _approximated(noising: Comparison, method: Approximation) -> Float[np.ndarray, "edge batch"] | str:
    try:
        return method(noising, None)
    except ProbeError as refusal:
        return str(refusal)


def _places(subject: Subject, ways: Ways) -> dict[tuple[str, int], tuple[float, float, float]]:
    """All edges into one block at once, where its readers look at one class of positions that is there."""
    if ways.pairs.within != "template":
        return {}
    graph, sets = ways.graph, {}
    for name, places in ways.pairs.positions(subject.task).items():
        for block in range(graph.depth):
            if places:
                sets[name, block] = [edge for edge in graph.varying if graph.block(edge[1]) == block], places
    return dict(zip(sets, estimates(ways.noising.at(list(sets.values()))), strict=True))


def _acts(
    subject: Subject, searched: Ways, held: Ways, edges: Sequence[Edge]
) -> list[tuple[Edge, str, tuple[float, float, float]]]:
    """Where single edges act: chosen by their size on the searched pairs, measured on the held ones."""
    if searched.pairs.within != "template":
        return []
    places = {name: some for name, some in searched.pairs.positions(subject.task).items() if some}
    sets = [(edge, name) for edge in edges for name in places]
    size = np.abs(searched.noising.at([((edge,), places[name]) for edge, name in sets]).value)
    chosen = [sets[index] for index in np.argsort(-size, kind="stable")[:_SHOWN]]
    found = held.noising.at([((edge,), places[name]) for edge, name in chosen])
    return [(edge, name, one) for (edge, name), one in zip(chosen, estimates(found), strict=True)]


def _interactions(searched: Comparison, held: Comparison, edges: Sequence[Edge]) -> Interactions:
    """Of all pairs of these edges those with the largest interaction on the searched pairs, measured on the held."""
    pairs = list(combinations(edges, 2))
    size = np.abs(searched.interactions(pairs).beyond.value)
    return held.interactions([pairs[index] for index in np.argsort(-size, kind="stable")[:_SHOWN]])


def _idle(held: Comparison, size: int, rng: np.random.Generator) -> float:
    drawn = random_circuits(held.base.graph, size, _RANDOM, rng)
    found = [minimality(held, circuit, rng, singles=_TAKEN, samples=_TAKEN) for circuit in drawn]
    return float(np.mean([one.spare().value for one in found]))


def _instead(subject: Subject, held: Ways, kept: Sequence[Edge]) -> dict[str, tuple[float, float, float] | str]:
    """The circuit's faithfulness when cut edges carry something else; a refusal in words where there is no share."""
    base, metric = held.noising.base, held.noising.metric
    mean = replacement.mean(base)
    if held.pairs.within == "position class":
        mean = replacement.mean_by_class(base, held.pairs.classes(subject.task)[0])
    found: dict[str, tuple[float, float, float] | str] = {}
    for name, source in {"mean": mean, "zero": replacement.zero(base)}.items():
        try:
            other = faithfulness(Comparison(base, source, metric, held.noising.weights), [kept])
        except ProbeError as refusal:
            found[name] = str(refusal)
            continue
        found[name] = estimates(other)[0]
    return found


def _without(noising: Comparison, edges: Sequence[Edge]) -> tuple[Sequence[Edge], Effects] | None:
    """Each of these edges cut alone, and last all of them at once."""
    everywhere = range(noising.base.positions)
    sets = [*([edge] for edge in edges), edges]
    return (edges, noising.at([(some, everywhere) for some in sets])) if edges else None
