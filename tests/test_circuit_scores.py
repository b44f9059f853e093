"""Scores of circuits on a model with two copies of one part, by hand, and against random circuits; agreement."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from kc_interp.circuits.agreement import agreement, auroc, sizes_at, spearman
from kc_interp.circuits.attribution import eap
from kc_interp.circuits.effects import Comparison, Edge, Effects, Metric, edge_logits
from kc_interp.circuits.replacement import mean, zero
from kc_interp.circuits.scores import (
    Curve,
    against_random,
    alive,
    completeness,
    curve,
    cut,
    faithfulness,
    minimality,
    random_circuits,
)
from kc_interp.circuits.search import by_score
from kc_interp.errors import ProbeError
from kc_interp.model import parameters
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import Streams, replaced
from kc_interp.spec import ModelSpec
from kc_interp.testing import known_answer
from tests.test_circuit_attribution import DEEP, SMALL, pair
from tests.test_interventions import runs

TWIN = ModelSpec(d_model=3, n_layers=1, n_heads=2, d_head=1, d_mlp=2, norm="none", act="relu")


def twins(batch: int = 6) -> Comparison:
    """Two heads write the same, and the MLP takes it once: min(h0 + h1, 1). Either head alone does all of it."""
    params = {name: torch.zeros(shape) for name, shape in parameters.shapes(TWIN, d_vocab=2, n_ctx=1).items()}
    params["embed.W_E"][1, 0] = 1  # the symbol 1
    params["blocks.0.attn.W_V"][:, 0, 0] = 1
    params["blocks.0.attn.W_O"][:, 0, 1] = 1
    params["blocks.0.mlp.W_in"][1] = 1
    params["blocks.0.mlp.b_in"][1] = -1
    params["blocks.0.mlp.W_out"][:, 2] = torch.tensor([1.0, -1.0])
    params["unembed.W_U"][2, 1] = 1
    stacked = parameters.stack([params])
    base, source = (Streams.of(stacked, TWIN, torch.full((batch, 1), symbol)) for symbol in (1, 0))
    answers = (torch.full((batch,), symbol) for symbol in (1, 0))
    return Comparison.of(base, source, Metric(*answers), np.random.default_rng(0), 100)


def edges(*names: str) -> list[Edge]:
    return [Graph.of(TWIN).edge(name) for name in names]


ONE = ("token->a0.h0<v>", "a0.h0->m0", "m0->logits")
OTHER = ("token->a0.h1<v>", "a0.h1->m0")


@pytest.mark.parametrize("kind", ["run", "mean", "zero"])
def test_the_whole_model_has_faithfulness_1_and_no_edge_0_whatever_cut_edges_carry(kind: str) -> None:
    """Zeros replace constants too when everything is replaced, but no circuit cuts these."""
    base, other = runs(DEEP, batch=8, dtype=torch.float64)
    source = {"run": other, "mean": mean(base), "zero": zero(base)}[kind]
    graph = base.graph
    emptied = replaced(base, source, torch.from_numpy(graph.mask(graph.varying))[None].to(base.logits))[0]
    one, two = torch.arange(8), torch.arange(8) + 5
    down = Metric(one, two)(emptied) < Metric(one, two)(base.logits)
    metric = Metric(torch.where(down, one, two), torch.where(down, two, one))
    comparison = Comparison(base, source, metric, np.full((2, 8), 1 / 8))
    left = faithfulness(comparison, [graph.varying, [], graph.varying[::2]])
    np.testing.assert_allclose(left.value[:2], (1, 0), atol=1e-9)
    by_hand = cut(comparison, [graph.varying[::2]])[0].mean() / (metric(emptied) - metric(base.logits)).mean().item()
    assert left.value[2] == pytest.approx(1 - by_hand)


def test_faithfulness_of_a_share_of_nothing_is_refused() -> None:
    comparison = pair(SMALL, batch=4)
    swapped = torch.arange(4) % 2 == 0
    metric = comparison.metric
    mixed = Metric(
        torch.where(swapped, metric.clean, metric.corrupted), torch.where(swapped, metric.corrupted, metric.clean)
    )
    with pytest.raises(ProbeError, match=r"cutting every edge .* includes 0\): .* take more pairs, another source"):
        faithfulness(dataclasses.replace(comparison, metric=mixed), [[]])


def test_the_whole_is_what_cutting_every_edge_does_whatever_a_source_says_of_constants() -> None:
    """Symbol 1 says 2, its place says -2. Zeros in all places change nothing, but no circuit cuts a place."""
    params = {name: torch.zeros(shape) for name, shape in parameters.shapes(TWIN, d_vocab=2, n_ctx=1).items()}
    params["embed.W_E"][1, 0], params["pos_embed.W_pos"][0, 0], params["unembed.W_U"][0, 1] = 2.0, -2.0, 1.0
    base = Streams.of(parameters.stack([params]), TWIN, torch.ones((4, 1), dtype=torch.long))
    metric = Metric(torch.ones(4, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    source = zero(base)
    assert torch.equal(metric(source.logits), metric(base.logits))
    comparison = Comparison.of(base, source, metric, np.random.default_rng(0), 20)
    np.testing.assert_allclose(comparison.whole, -2)
    np.testing.assert_allclose(comparison.edges(edges("token->logits")).value, 1)
    np.testing.assert_allclose(faithfulness(comparison, [edges("token->logits"), []]).value, (1, 0))


def test_an_edge_on_no_path_is_not_counted() -> None:
    graph = Graph.of(ModelSpec())
    path = [graph.edge(name) for name in ("token->a0.h1<v>", "a0.h1->m1", "m1->logits")]
    idle = [graph.edge(name) for name in ("a0.h2->a1.h0<q>", "m0->logits")]
    assert alive(graph, [*idle, *path]) == path
    assert alive(graph, path[:2]) == []


def test_a_circuit_without_the_second_copy_is_faithful_but_not_complete() -> None:
    comparison = twins()
    one, both = edges(*ONE), edges(*ONE, *OTHER)
    np.testing.assert_allclose(faithfulness(comparison, [one, both]).value, 1, atol=1e-6)
    found = completeness(comparison, one, np.random.default_rng(0))
    assert found.gap.value[found.worst] == pytest.approx(-1, abs=1e-6)
    assert (found.circuit.value[found.worst], found.model.value[found.worst]) == pytest.approx((0, 1), abs=1e-6)
    complete = completeness(comparison, both, np.random.default_rng(0))
    assert np.abs(complete.gap.value).max() < 1e-6
    assert {"sampled", "greedy", "edges of a0.h0"} <= set(found.how) | set(complete.how)


def test_the_greedy_set_finds_the_missing_copy_among_edges_that_do_nothing() -> None:
    comparison = twins()
    around = [edge for edge in comparison.base.graph.varying if edge not in edges("a0.h1->m0")]
    found = completeness(comparison, around, np.random.default_rng(0), samples=0, greedy=3)
    greedy = [index for index, how in enumerate(found.how) if how == "greedy"]
    sizes = [len(found.sets[index]) for index in greedy]
    assert sizes == sorted(sizes)
    assert np.abs(found.gap.value[greedy]).max() == pytest.approx(1, abs=1e-6)


def test_sets_are_judged_on_the_inputs_given_for_that() -> None:
    comparison, held = pair(DEEP, torch.float32, batch=6), pair(DEEP, torch.float32, batch=5)
    circuit = list(comparison.base.graph.varying[::2])
    seen: list[tuple[int, int]] = []
    kept = alive(comparison.base.graph, circuit)
    found = completeness(
        comparison, circuit, np.random.default_rng(0), samples=3, greedy=2, judged=held,
        progress=lambda *done: seen.append(done),
    )  # fmt: skip
    graph, gone = held.base.graph, set(found.sets[0])
    expected = faithfulness(held, [[e for e in kept if e not in gone], [e for e in graph.varying if e not in gone]])
    assert found.gap.value[0] == pytest.approx(expected.value[0] - expected.value[1], abs=1e-5)
    again = completeness(comparison, circuit, np.random.default_rng(0), samples=3, greedy=2)
    np.testing.assert_allclose(found.chosen_by, again.gap.value, atol=1e-6)
    assert found.worst == again.worst  # whatever the held-out inputs say
    assert seen == [(1, 2), (2, 2)]


def test_minimality_flags_an_edge_that_does_nothing_but_not_one_that_another_stands_in_for() -> None:
    comparison = twins()
    useless = edges("token->a0.h0<q>", "token->logits")
    circuit = [*edges(*ONE, *OTHER), *useless]
    for singles, samples in ((40, 0), (0, 30)):
        found = minimality(comparison, circuit, np.random.default_rng(0), singles=singles, samples=samples)
        assert set(found.superfluous()) == set(useless)
    found = minimality(comparison, circuit, np.random.default_rng(0))
    assert set(found.superfluous()) == set(useless)
    assert found.smallest == pytest.approx(0, abs=1e-6)
    copies = [index for index, edge in enumerate(found.edges) if edge in edges(*ONE[:2], *OTHER)]
    np.testing.assert_allclose(found.alone.value[copies], 0, atol=1e-6)
    np.testing.assert_allclose(found.most[copies], 1, atol=1e-6)
    minimal = minimality(comparison, edges(*ONE), np.random.default_rng(0))
    assert minimal.superfluous() == ()
    np.testing.assert_allclose(minimal.alone.value, 1, atol=1e-6)
    idle = edges("a0.h1->logits")
    spared = minimality(comparison, [*edges(*ONE), *idle], np.random.default_rng(0))
    assert spared.superfluous() == tuple(idle)
    assert (spared.spare().value, spared.spare().low, spared.spare().high) == (0.25, 0.25, 0.25)  # all inputs are alike


def test_a_circuit_without_a_path_has_nothing_to_take_away() -> None:
    for score in (completeness, minimality):
        with pytest.raises(ProbeError, match=r"no edge of this circuit lies on a path .* token->a0.h0<v>"):
            score(twins(), edges("a0.h0->m0"), np.random.default_rng(0))


def toy(faithfulness: list[float]) -> Curve:
    sizes = (0, 1, 2, 4)
    value = np.asarray(faithfulness, dtype=float)
    circuits = tuple(tuple((0, reader) for reader in range(size)) for size in sizes)
    return Curve(circuits, Effects(value, value, value), np.stack([value, value + 0.1], axis=1))


def test_areas_are_those_worked_out_by_hand() -> None:
    """Trapezoids over 0, 1/4, 1/2, 1 of the edges, between 0, .5, 1.2 and 1."""
    found = toy([0, 0.5, 1.2, 1])
    assert found.cpr().value == pytest.approx((0.5 / 2 + 1.7 / 2) / 4 + 2.2 / 4)
    assert found.cmd().value == pytest.approx((1.5 / 2 + 0.7 / 2) / 4 + 0.2 / 4)
    assert found.cpr().high == pytest.approx(found.cpr().value + 0.1, abs=0.01)
    assert toy([1, 1, 1, 1]).cmd().value == 0
    assert len(found.smallest(0.5)) == 1
    assert len(found.smallest(0.6)) == 2
    assert len(toy([0, 0.1, 0.2, 1 - 1e-9]).smallest(1.0)) == 4


def test_a_curve_is_of_living_edges_on_the_inputs_it_is_judged_on() -> None:
    comparison, held = pair(SMALL, batch=6), pair(SMALL, batch=5)
    graph = comparison.base.graph
    found = by_score(graph, comparison.edges().value)
    for judged in (comparison, held):
        judged_curve = curve(judged, [circuit[::-1] for circuit in found])
        assert judged_curve.circuits[0] == ()
        assert judged_curve.circuits[-1] == graph.varying
        assert list(judged_curve.sizes) == sorted({len(circuit) for circuit in found})
        again = faithfulness(judged, judged_curve.circuits)
        np.testing.assert_allclose(np.stack(judged_curve.faithfulness.all), np.stack(again.all), atol=1e-9)
        area = judged_curve.cpr()
        assert area.low <= area.value <= area.high


@pytest.mark.parametrize("spec", [SMALL, ModelSpec()], ids=["17 edges", "110 edges"])
def test_random_circuits_have_exactly_the_size_asked_for_and_no_idle_edge(spec: ModelSpec) -> None:
    graph = Graph.of(spec)
    everything = len(graph.varying)
    for size in (0, 1, 2, 3, 5, 12, everything - 1, everything):
        found = random_circuits(graph, size, 5, np.random.default_rng(size))
        assert all(len(circuit) == size and alive(graph, circuit) == circuit for circuit in found)
    assert len({tuple(circuit) for circuit in random_circuits(graph, 6, 30, np.random.default_rng(0))}) > 15
    with pytest.raises(ProbeError, match=rf"no circuit has {everything + 1} edges: this model has {everything}"):
        random_circuits(graph, everything + 1, 1, np.random.default_rng(0))


def test_a_known_circuit_keeps_more_than_random_ones_and_the_whole_model_no_more_than_itself() -> None:
    known = known_answer("decoy")
    pairs = known.pairs(12, np.random.default_rng(0))
    comparison = Comparison.of(*known.streams(pairs), Metric(*known.answers(pairs)), np.random.default_rng(1), 50)
    found = against_random(comparison, known.truth, np.random.default_rng(2), 19)
    assert found.own.value == pytest.approx(1, abs=1e-4)
    assert found.random.max() < 0.9  # half of the circuit, at best
    assert found.p == 1 / 20
    everything = against_random(twins(), twins().base.graph.varying, np.random.default_rng(0), 9)
    assert everything.p == 1


def test_ranks_and_areas_are_those_of_scipy_and_scikit_learn_column_by_column() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 6, (30, 4)).astype(float), rng.normal(size=(30, 4))
    truth = other > 0.3
    for column in range(4):
        expected = spearmanr(one[:, column], other[:, column]).statistic
        assert spearman(one, other)[column] == pytest.approx(expected)
        assert auroc(one, truth)[column] == pytest.approx(roc_auc_score(truth[:, column], one[:, column]))


def test_exact_effects_agree_with_themselves_their_negatives_in_size_and_nothing_without_variation() -> None:
    comparison = pair(DEEP, torch.float32, batch=6)
    graph = comparison.base.graph
    exact = comparison.moved(edge_logits(comparison.base, comparison.source, graph.varying))
    same, opposite = (agreement(comparison, sign * exact, exact) for sign in (1, -1))
    for found in (same, opposite):
        assert found.rank is not None and found.large is not None
        assert (found.rank.value, found.rank.low, found.large.value) == pytest.approx((1, 1, 1))
        assert found.circuit is None
    assert same.signed is not None and opposite.signed is not None
    assert (same.signed.value, opposite.signed.value) == pytest.approx((1, -1))
    approximated = agreement(
        comparison, eap(comparison), exact, circuit=graph.mask(graph.varying[:9])[tuple(np.transpose(graph.varying))]
    )
    assert approximated.rank is not None and approximated.circuit is not None
    assert 0.3 < approximated.rank.low <= approximated.rank.value < 1
    nothing = agreement(comparison, 0 * exact, exact, above=1e9, circuit=np.ones(len(exact), dtype=bool))
    assert (nothing.rank, nothing.signed, nothing.large, nothing.circuit) == (None, None, None, None)
    with pytest.raises(ProbeError, match=r"scores of 2 edges on 6 inputs, exact effects of 110 on 6, .* of 6 inputs"):
        agreement(comparison, exact[:2], exact)


def test_methods_are_compared_by_the_edges_they_need_for_as_much() -> None:
    comparison = twins()
    varying = list(comparison.base.graph.varying)
    one = edges(*ONE)
    wasteful = [one[:1], one[:2], varying]
    assert sizes_at(comparison, {"short": [one], "wasteful": wasteful}, 0.9) == {"short": 3, "wasteful": len(varying)}
