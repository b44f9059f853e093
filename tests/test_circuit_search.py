"""Searches for circuits: toggling is replacing, greedy steps are the best ones, known circuits are found."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch

from kc_interp.circuits.effects import Comparison, Edge, Metric
from kc_interp.circuits.replacement import mean, zero
from kc_interp.circuits.scores import alive, curve, cut, faithfulness, worth
from kc_interp.circuits.search import acdc, by_score, greedy_backward, greedy_forward, smallest
from kc_interp.circuits.toggling import toggled
from kc_interp.errors import ProbeError
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import Streams, replaced
from kc_interp.spec import ModelSpec
from kc_interp.testing import known_answer
from tests.test_circuit_attribution import DEEP, SMALL, pair
from tests.test_forward import SHAPES
from tests.test_interventions import runs


@pytest.fixture(scope="module")
def small() -> Comparison:
    """One block of three heads: 17 edges."""
    return pair(SMALL, batch=6)


def known(name: str) -> tuple[Comparison, tuple[Edge, ...]]:
    model = known_answer(name)
    pairs = model.pairs(24, np.random.default_rng(0))
    answers = model.answers(pairs)
    metric = Metric(answers[0], answers[1])
    return Comparison.of(*model.streams(pairs), metric, np.random.default_rng(1), 100), model.truth


def kept_edges(graph: Graph, share: float = 0.5) -> list[Edge]:
    rng = np.random.default_rng(3)
    return [edge for edge in graph.varying if rng.random() < share]


def by_masks(base: Streams, source: Streams, circuit: list[Edge], edges: list[Edge]) -> torch.Tensor:
    """The long way: one mask for each toggled edge."""
    graph = base.graph
    cut_edges = set(graph.varying) - set(circuit)
    masks = np.stack([graph.mask(cut_edges ^ {edge}) for edge in edges])
    return replaced(base, source, torch.from_numpy(masks).to(base.logits))


@pytest.mark.parametrize("name", SHAPES)
def test_toggling_an_edge_is_replacing_with_a_mask_that_differs_in_it(name: str) -> None:
    base, source = runs(SHAPES[name], pos=5)
    circuit = kept_edges(base.graph)
    edges = list(base.graph.edges)
    found = toggled(base, source, circuit, edges)
    torch.testing.assert_close(found, by_masks(base, source, circuit, edges), atol=1e-5, rtol=1e-5)
    own = by_masks(base, source, circuit, [edges[0], edges[0]])[0]
    moved = (found - own).abs().amax((1, 2))
    inside = np.asarray([edge in circuit for edge in edges])
    assert moved[inside].max() > 1e-2
    assert moved[~inside].max() > 1e-2
    order = torch.randperm(len(edges), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(toggled(base, source, circuit, [edges[index] for index in order]), found[order])


def test_toggling_knows_sources_that_change_the_constants_too() -> None:
    base, _ = runs(DEEP, dtype=torch.float64)
    edges, circuit = list(base.graph.edges), kept_edges(base.graph)
    for source in (zero(base), mean(base)):
        found = toggled(base, source, circuit, edges)
        torch.testing.assert_close(found, by_masks(base, source, circuit, edges))


@pytest.mark.parametrize("aim", ["largest", "closest"])
def test_every_step_backward_removes_the_edge_that_brute_force_would(
    small: Comparison, aim: Literal["largest", "closest"]
) -> None:
    graph = small.base.graph
    found = greedy_backward(small, aim=aim)
    assert found[0] == list(graph.varying)
    assert found[-1] == []
    for larger, smaller in pairwise(found):
        candidates = [alive(graph, [edge for edge in larger if edge != gone]) for gone in larger]
        left = faithfulness(small, candidates).value
        best = left.max() if aim == "largest" else left[np.abs(1 - left).argmin()]
        assert faithfulness(small, [smaller]).value[0] == pytest.approx(best, abs=1e-6)
        assert smaller in candidates


def test_a_tolerance_takes_several_edges_in_a_round_and_none_dearer_than_it_says() -> None:
    comparison = pair(DEEP, torch.float32)
    found = greedy_backward(comparison, tolerance=0.05)
    assert len(found) < len(comparison.base.graph.varying) / 2
    left = faithfulness(comparison, found).value
    several = [index for index in range(len(found) - 1) if len(found[index]) - len(found[index + 1]) > 1]
    drops = left[:-1] - left[1:]
    assert several
    cheap = [index for index in several if drops[index] <= 0.05 + 1e-6]
    alone = [index for index in several if index not in cheap]  # one edge, whose removal cuts others off
    for index in alone:
        gone = set(found[index]) - set(found[index + 1])
        first = [alive(comparison.base.graph, [e for e in found[index] if e != edge]) for edge in gone]
        assert found[index + 1] in first
    assert cheap


def test_the_search_ends_before_the_first_circuit_that_keeps_too_little_and_reports_its_progress(
    small: Comparison,
) -> None:
    every = greedy_backward(small, aim="closest")
    left = faithfulness(small, every).value
    for keep in (0.95, *(left[1:-1] - 1e-6)):
        ends = greedy_backward(small, aim="closest", keep=keep)
        first = max(1, int(np.flatnonzero(left < keep)[0]))
        assert ends == every[:first]
    seen: list[tuple[int, int]] = []
    greedy_backward(small, progress=lambda done, of: seen.append((done, of)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {of for _, of in seen} == {len(small.base.graph.varying)}


def test_aiming_at_the_models_own_faithfulness_stays_closer_and_at_the_largest_goes_higher(small: Comparison) -> None:
    largest, closest = (curve(small, greedy_backward(small, aim=aim)) for aim in ("largest", "closest"))  # type: ignore[arg-type]
    assert largest.cpr().value > closest.cpr().value
    assert closest.cmd().value < largest.cmd().value


@pytest.mark.parametrize("name", ["lookup_sum", "composed_table_sum", "max_by_attention"])
def test_every_search_finds_a_known_circuit(name: str) -> None:
    comparison, truth = known(name)
    graph = comparison.base.graph
    expected = list(truth)
    assert curve(comparison, greedy_backward(comparison)).smallest(0.999) == truth
    assert greedy_forward(comparison, keep=0.999)[-1] == expected
    assert acdc(comparison, [1e-6]) == acdc(comparison, [1e-6], metric="logit difference") == [expected]
    scores = comparison.edges().value
    assert by_score(graph, scores, sizes=[len(truth)]) == [expected]


def plain_acdc(noising: Comparison, threshold: float, metric: str) -> list[Edge]:
    """The paper's algorithm as it is printed, one threshold and one run at a time."""
    base, graph = noising.base, noising.base.graph
    model = base.logits.softmax(-1)

    def distance(circuit: list[Edge]) -> float:
        if metric == "logit difference":
            return cut(noising, [circuit])[0].mean() / worth(noising).mean()
        mask = graph.mask(set(graph.varying) - set(circuit))[None]
        logits = replaced(base, noising.source, torch.from_numpy(mask).to(base.logits))[0]
        return float((model * (model.log() - logits.log_softmax(-1))).sum(-1).mean())

    kept = list(graph.varying)
    for reader in reversed(range(len(graph.readers))):
        for writer in reversed(range(len(graph.writers))):
            if (writer, reader) in kept:
                without = [edge for edge in kept if edge != (writer, reader)]
                if without and distance(without) - distance(kept) < threshold:
                    kept = without
    return alive(graph, kept)


@pytest.mark.parametrize("metric", ["KL", "logit difference"])
def test_acdc_at_several_thresholds_at_once_is_the_papers_algorithm_at_each(
    small: Comparison, metric: Literal["KL", "logit difference"]
) -> None:
    thresholds = [1e-3, 0.05, 0.5]
    found = acdc(small, thresholds, metric=metric)
    assert found == [plain_acdc(small, threshold, metric) for threshold in thresholds]
    assert len({len(circuit) for circuit in found}) > 1


def test_acdc_keeps_all_that_matters_at_a_threshold_of_nothing_and_nothing_at_any_price(small: Comparison) -> None:
    graph = small.base.graph
    seen: list[int] = []
    nothing, everything, free = acdc(small, [math.inf, -math.inf, 0.0], progress=lambda done, of: seen.append(done))
    assert nothing == []
    assert everything == list(graph.varying)
    assert seen == list(range(1, len(graph.varying) + 1))
    # Of the first reader looked at, every edge that moves the answer's distribution: any move is away from the model's.
    logits = len(graph.readers) - 1
    assert [edge for edge in free if edge[1] == logits] == [edge for edge in graph.varying if edge[1] == logits]


@pytest.mark.parametrize("spec", [DEEP, SMALL], ids=["deep", "small"])
def test_forward_adds_whole_paths_until_enough_is_kept(spec: ModelSpec) -> None:
    comparison = pair(spec, torch.float32)
    graph = comparison.base.graph
    seen: list[tuple[int, int]] = []
    found = greedy_forward(comparison, keep=0.7, width=16, progress=lambda *done: seen.append(done))
    assert found[0] == []
    for smaller, larger in pairwise(found):
        assert set(smaller) < set(larger)
        assert alive(graph, larger) == larger
    left = faithfulness(comparison, found).value
    assert left[-1] >= 0.7 > left[-2]
    assert seen[-1] == (len(found[-1]), len(graph.varying))


@pytest.mark.parametrize("batch", [4, 5, 9])
def test_the_first_path_forward_is_the_best_of_all_paths_by_gain_an_edge(batch: int) -> None:
    """Of 5 and of 9 inputs, a path of two edges keeps more than that."""
    comparison = pair(SMALL, batch=batch)
    graph = comparison.base.graph
    names = ["token->logits"], ["token->m0", "m0->logits"]
    paths = [
        *names,
        *([f"token->a0.h{h}<{p}>", f"a0.h{h}->logits"] for h in range(3) for p in "qkv"),
        *([f"token->a0.h{h}<{p}>", f"a0.h{h}->m0", "m0->logits"] for h in range(3) for p in "qkv"),
    ]
    circuits = [[graph.edge(name) for name in path] for path in paths]
    gains = faithfulness(comparison, circuits).value / [len(path) for path in paths]
    assert set(greedy_forward(comparison)[1]) == set(circuits[int(gains.argmax())])


def test_forward_gets_past_paths_that_are_worth_something_only_together() -> None:
    """A table of three operands: until the last of them is there, more of them is no better."""
    comparison, truth = known("flat_table_sum")
    assert greedy_forward(comparison, keep=0.999)[-1] == list(truth)


def test_by_score_takes_the_largest_and_leaves_what_is_on_no_path() -> None:
    graph = Graph.of(SMALL)
    scores = np.zeros(len(graph.varying))
    place = {graph.name(edge): index for index, edge in enumerate(graph.varying)}
    scores[place["token->a0.h1<v>"]], scores[place["a0.h1->logits"]], scores[place["m0->logits"]] = 0.3, 0.5, -0.9
    path = [graph.edge("token->a0.h1<v>"), graph.edge("a0.h1->logits")]
    assert by_score(graph, scores, sizes=[0, 1, 2, 3]) == [[], [], [], path]
    assert by_score(graph, scores, sizes=[2], signed=True) == [path]
    every = by_score(graph, scores)
    assert [len(every), every[-1]] == [len(graph.varying) + 1, list(graph.varying)]
    with pytest.raises(ProbeError, match=rf"3 scores for {len(graph.varying)} edges; give one for each edge"):
        by_score(graph, scores[:3])


def test_the_smallest_circuit_is_the_first_of_the_search_closest_to_the_model_that_keeps_enough(
    small: Comparison,
) -> None:
    kept, found = smallest(small, 0.9)
    assert found == greedy_backward(small, aim="closest", tolerance=0.002)
    enough = [circuit for circuit in found if faithfulness(small, [circuit]).value[0] >= 0.9]
    assert len(kept) == min(map(len, enough))
    assert list(kept) in enough
