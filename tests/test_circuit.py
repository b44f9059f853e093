"""Circuits: constructed models' circuits are found exactly, and the probe says what it measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kc_interp.circuits.agreement import agreement
from kc_interp.circuits.attribution import attribution_patching, eap, eap_ig
from kc_interp.circuits.effects import Comparison, Metric, edge_logits
from kc_interp.circuits.kept import acdc, alive, best_first, faithfulness, greedy_backward, random_circuits
from kc_interp.errors import ProbeError, SpecError
from kc_interp.known_answers import CONSTRUCTED, KnownAnswer
from kc_interp.model import parameters
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import Streams, replaced
from kc_interp.spec import ModelSpec
from kc_interp.testing import known_answer
from kc_probes.circuit import Circuit
from tests.test_forward import SHAPES, parameters_of, random_tokens


def compared(known: KnownAnswer, count: int = 48) -> Comparison:
    pairs = known.pairs(count, np.random.default_rng(0))
    base, source = known.streams(pairs)
    answers = known.answers(pairs)
    return Comparison.of(base, source, Metric(answers[0], answers[1]), np.random.default_rng(1))


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_exact_effects_separate_a_constructed_circuit_from_all_other_edges(name: str) -> None:
    """By the largest effect on any pair, since effects of opposite signs may cancel in the mean."""
    known = known_answer(name)
    comparison = compared(known)
    graph = known.graph
    effects = np.abs(comparison.moved(edge_logits(comparison.base, comparison.source, graph.varying))).max(axis=1)
    truth = [edge in known.truth for edge in graph.varying]
    assert any(truth)
    assert not all(truth)
    assert roc_auc_score(truth, effects) == 1


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_greedy_search_ends_inside_a_constructed_circuit_and_keeps_the_answer(name: str) -> None:
    known = known_answer(name)
    comparison = compared(known)
    kept = greedy_backward(comparison, 0.999)
    assert set(kept) <= set(known.truth)
    left = faithfulness(comparison, [kept, list(known.truth), list(known.graph.varying), []])
    assert left.value[0] >= 0.999
    np.testing.assert_allclose(left.value[1:], (1, 1, 0), atol=1e-4)
    smaller = [[edge for edge in kept if edge != one] for one in kept]
    assert (faithfulness(comparison, smaller).value < 0.999).all()  # none can be spared


def test_the_edges_of_largest_effect_come_first() -> None:
    comparison = compared(known_answer("lookup_sum"))
    varying = comparison.base.graph.varying
    scores = np.linspace(-1, 0.5, len(varying))
    first, second = best_first(comparison, scores, [1, 2])
    assert first == [varying[0]]
    assert set(second) == {varying[0], varying[1]}


def test_random_circuits_have_the_size_asked_for_and_no_idle_edge() -> None:
    graph = Graph.of(ModelSpec())
    found = random_circuits(graph, 12, 20, np.random.default_rng(0))
    assert {len(circuit) for circuit in found} == {12}
    assert all(len(alive(graph, circuit)) == 12 for circuit in found)
    assert len({tuple(circuit) for circuit in found}) == 20


def test_an_edge_on_no_path_is_not_counted() -> None:
    graph = Graph.of(ModelSpec())
    path = [graph.edge(name) for name in ("token->a0.h1<v>", "a0.h1->m1", "m1->logits")]
    idle = [graph.edge(name) for name in ("a0.h2->a1.h0<q>", "m0->logits")]
    assert alive(graph, [*path, *idle]) == path
    assert alive(graph, path[:2]) == []


def test_the_probe_finds_the_constructed_circuit_and_judges_it_on_other_pairs() -> None:
    known = known_answer("lookup_sum")
    finding = Circuit(keep=0.99, random_circuits=20).run(known.subject())
    assert finding.status == "ok"
    data = finding.figures[0].data
    kept = {f"{edge['source']}->{edge['target']}" for edge in data["edges"] if edge["kept"]}
    assert kept == {known.graph.name(edge) for edge in known.truth}
    assert finding["circuit.edges"].value == len(known.truth)
    held = finding["circuit.faithfulness"]
    assert held.value == pytest.approx(1, abs=0.02)
    assert held.control is not None
    assert held.control < 1
    assert finding["circuit.idle"].value == 0
    assert finding["part.token"].value == pytest.approx(1, abs=1e-3)
    assert len(data["examples"][0]["moved"]) == len(data["edges"]) == len(known.graph.varying)


def test_a_model_that_does_not_tell_answers_apart_gets_a_reason_under_the_same_keys() -> None:
    known = known_answer("lookup_sum")
    silent = dataclasses.replace(
        known, params={name: torch.zeros_like(weight) for name, weight in known.params.items()}, solves=False
    )
    few = Circuit(random_circuits=10)
    finding = few.run(silent.subject())
    assert [number.key for number in finding.numbers] == [number.key for number in few.run(known.subject()).numbers]
    assert all(number.value is None and "includes 0" in number.note for number in finding.numbers)
    assert "No circuit" in finding.sentence
    assert finding.status == "unlearned"
    assert not finding.figures


def test_too_few_chains_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kc_interp.pairs._FEWEST", 1000)
    with pytest.raises(ProbeError, match=r"lookup_sum: 100 pairs .* at least 1000 are needed; change `steps`"):
        Circuit(pairs=64).run(known_answer("lookup_sum").subject())


@pytest.mark.parametrize("settings", [{"pairs": 2}, {"keep": 1.5}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        Circuit(**settings)  # type: ignore[arg-type]


def random_comparison(name: str, dtype: torch.dtype = torch.float64, batch: int = 12) -> Comparison:
    spec = SHAPES[name]
    params = parameters.stack([parameters_of(spec, seed=5, dtype=dtype)])
    base, source = (Streams.of(params, spec, random_tokens(batch, 6, seed=seed)) for seed in (1, 2))
    moved = source.logits - base.logits
    metric = Metric(moved.argmax(-1), moved.argmin(-1))  # the whole is far from 0
    return Comparison.of(base, source, metric, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["two layers, four heads", "two blocks, applied twice"])
def test_eap_is_the_derivative_of_replacing_an_edge(name: str) -> None:
    comparison = random_comparison(name)
    graph, step = comparison.base.graph, 1e-5
    masks = torch.from_numpy(np.stack([graph.mask([edge]) for edge in graph.varying])).double() * step
    moved = comparison.moved(replaced(comparison.base, comparison.source, masks)) / step
    np.testing.assert_allclose(eap(comparison).value, comparison.effects(moved).value, atol=1e-3)


def test_eap_is_exact_where_nothing_nonlinear_follows() -> None:
    comparison = random_comparison("no LayerNorm")
    graph = comparison.base.graph
    into_logits = [index for index, (_, reader) in enumerate(graph.varying) if reader == len(graph.readers) - 1]
    exact, approximate = comparison.edges().value, eap(comparison).value
    np.testing.assert_allclose(approximate[into_logits], exact[into_logits], atol=1e-6)
    assert np.abs(approximate - exact).max() > 0.01


def test_eap_ig_with_one_step_is_eap_and_with_more_it_is_not() -> None:
    comparison = random_comparison("two layers, four heads")
    np.testing.assert_allclose(eap_ig(comparison, 1).value, eap(comparison).value)
    assert np.abs(eap_ig(comparison).value - eap(comparison).value).max() > 1e-3
    with pytest.raises(ProbeError, match="at least 1 is needed"):
        eap_ig(comparison, 0)


def test_a_nodes_attribution_is_the_sum_over_the_edges_that_leave_it() -> None:
    comparison = random_comparison("two layers, four heads")
    found, nodes = attribution_patching(comparison)
    edges = eap(comparison).value
    for node, value in zip(nodes, found.value, strict=True):
        own = [edges[index] for index, (writer, _) in enumerate(comparison.base.graph.varying) if writer == node]
        assert value == pytest.approx(sum(own))


@pytest.mark.parametrize("name", ["lookup_sum", "decoy", "composed_table_sum"])
def test_acdc_recovers_a_constructed_circuit_and_a_high_threshold_removes_everything(name: str) -> None:
    known = known_answer(name)
    comparison = compared(known)
    found = acdc(comparison, 1e-4)
    assert set(found) <= set(known.truth)
    assert faithfulness(comparison, [found]).value[0] > 0.99
    assert acdc(comparison, 10.0) == []


def test_exact_effects_agree_with_themselves_and_scores_at_random_do_not() -> None:
    known = known_answer("decoy")
    comparison = compared(known)
    truth = np.asarray([edge in known.truth for edge in known.graph.varying])
    exact = comparison.edges().value
    same = agreement(comparison, exact, exact, truth, 0.9)
    assert same.rank == pytest.approx(1)
    assert same.auroc == 1
    assert same.size is not None
    assert same.size <= len(known.truth)
    other = agreement(comparison, np.random.default_rng(0).normal(size=len(exact)), exact, truth, 0.9)
    assert other.rank < 0.5
    assert other.size is None or other.size >= same.size
    assert agreement(comparison, exact, exact, np.ones_like(truth), 0.9).auroc is None
