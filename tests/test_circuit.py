"""Circuits: constructed models' circuits are found exactly, and the probe says what it measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kc_interp.circuits.effects import Comparison, Metric, edge_logits
from kc_interp.circuits.scores import faithfulness
from kc_interp.circuits.search import acdc, greedy_backward
from kc_interp.errors import ProbeError, SpecError
from kc_interp.known_answers import CONSTRUCTED, KnownAnswer
from kc_interp.testing import known_answer
from kc_probes.circuit import Circuit


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
    kept = greedy_backward(comparison, keep=0.999)[-1]
    assert set(kept) <= set(known.truth)
    left = faithfulness(comparison, [kept, list(known.truth), list(known.graph.varying), []])
    assert left.value[0] >= 0.999
    np.testing.assert_allclose(left.value[1:], (1, 1, 0), atol=1e-4)
    smaller = [[edge for edge in kept if edge != one] for one in kept]
    assert (faithfulness(comparison, smaller).value < 0.999).all()  # none can be spared


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


@pytest.mark.parametrize("name", ["lookup_sum", "decoy", "composed_table_sum"])
def test_acdc_recovers_a_constructed_circuit_and_a_high_threshold_removes_everything(name: str) -> None:
    known = known_answer(name)
    comparison = compared(known)
    found, nothing = acdc(comparison, [1e-4, 10.0], metric="logit difference")
    assert set(found) <= set(known.truth)
    assert faithfulness(comparison, [found]).value[0] > 0.99
    assert nothing == []
