"""Circuits: constructed models' circuits are found exactly, and the probe says what it measured."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kc_interp.circuits.effects import Comparison, Metric, edge_logits
from kc_interp.circuits.scores import faithfulness
from kc_interp.circuits.search import acdc, greedy_backward
from kc_interp.errors import ProbeError, SpecError
from kc_interp.known_answers import CONSTRUCTED, KnownAnswer
from kc_interp.pairs import Pairs, Within, given, resample
from kc_interp.probe import Subject
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec
from kc_interp.testing import check_probe, known_answer
from kc_interp.train import Ensemble
from kc_probes.circuit import Circuit
from kc_probes.circuit_measured import Ways


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
    idle = finding["circuit.idle"]
    assert idle.value == 0
    assert idle.control is not None
    assert idle.control > 0.3  # most edges of a random circuit change nothing
    for name in ("eap", "eap-ig"):
        rank, area = finding[f"{name}.rank"], finding[f"{name}.auroc"]
        assert area.value == 1
        assert rank.low is not None and rank.value is not None and rank.high is not None
        assert rank.low <= rank.value <= rank.high
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


def untrained(seed: int, **task: Any) -> Subject:
    """A model of random weights, which tells some inputs apart by chance."""
    settings = {"operations": ["SUM"], "modulus": 3, "depth": 1, **task}
    model = ModelSpec(d_model=16, n_layers=1, n_heads=2)
    data = DataSpec(n_train=50, test_fraction=0.5, holdout_pairs=0, holdout_triples=0)
    ensemble = Ensemble([RunSpec(TaskSpec("listops", settings), data, model, seed=seed)])
    return Subject(f"seed {seed}", ensemble.checkpoints()[0], learned=False)


def quick(**settings: Any) -> Circuit:
    return Circuit(**{"pairs": 12, "random_circuits": 5, "resamples": 40, **settings})


def told_apart(subject: Subject, pairs: Pairs) -> bool:
    try:
        Ways.of(subject, pairs, 20)
    except ProbeError:
        return False
    return True


def test_held_out_pairs_that_the_model_does_not_tell_apart_are_a_reason_too() -> None:
    few = quick(pairs=4)
    subjects = (untrained(seed) for seed in range(40))
    subject, refused = next(
        (subject, searched)
        for subject in subjects
        for searched, held in [few._pairs(subject)]
        if told_apart(subject, searched) and not told_apart(subject, held)
    )
    finding = check_probe(few, subject)
    assert finding.status == "unlearned"
    assert all(number.value is None and "cutting every edge" in number.note for number in finding.numbers)
    assert len(refused) == finding["circuit.edges"].n


def test_an_approximation_that_a_source_does_not_support_is_a_reason_under_its_key() -> None:
    """Parts of several chains are what no input makes a model write."""
    mixed = quick(steps=2, within="position class", pairs=4)
    nested = (untrained(seed, depth=2, max_operands=2) for seed in range(40))
    subject = next(one for one in nested if all(told_apart(one, half) for half in mixed._pairs(one)))
    finding = mixed.run(subject)
    assert finding["circuit.edges"].value is not None
    assert finding["eap.rank"].value is not None
    for key in ("eap-ig.rank", "eap-ig.auroc"):
        assert finding[key].value is None
        assert "parts of several inputs" in finding[key].note
        assert "or EAP, or EAP-IG (activations)" in finding[key].note


@pytest.mark.parametrize(("name", "count", "found"), [("lookup_sum", 64, 50), ("masked_sum", 64, 12), ("decoy", 4, 4)])
def test_no_chain_is_in_both_halves_as_it_is_or_as_a_twin(name: str, count: int, found: int) -> None:
    subject = known_answer(name).subject()
    halves = resample(subject, count, purpose="t", component="SUM", steps=1, sets=2)
    rows = [{row.tobytes() for part in (half.clean, half.twin) for row in part.symbols} for half in halves]
    assert not rows[0] & rows[1]
    for half in halves:
        assert found <= len(half) <= max(count, found + 1)
        assert len({row.tobytes() for row in half.clean.symbols}) == len(half)
        assert (half.clean.answer_symbols() != half.twin.answer_symbols()).all()


def test_too_few_chains_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kc_interp.pairs._FEWEST", 1000)
    with pytest.raises(ProbeError, match=r"lookup_sum: 50 pairs a set .* at least 1000 are needed; change `steps`"):
        Circuit(pairs=64).run(known_answer("lookup_sum").subject())


def test_fewer_pairs_than_asked_for_are_said() -> None:
    finding = quick(pairs=64).run(known_answer("lookup_sum").subject())
    assert "50 pairs of chains like [SUM" in finding.sentence
    assert "64 a side were asked for, and there are no more such chains" in finding.sentence
    assert "at the same place of the same template" in finding.sentence


def test_chains_of_several_shapes_are_replaced_by_the_class_of_position_and_the_finding_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By choice, and where a template has too few chains. In sets of one shape the two are the same."""
    known = known_answer("lookup_sum")
    one, other = (quick(within=w).run(known.subject()) for w in get_args(Within))
    kept = [(number.key, number.value) for number in one.numbers if not number.key.startswith("at.")]
    assert kept == [(number.key, number.value) for number in other.numbers if not number.key.startswith("at.")]
    assert "at a position of the same class" in other.sentence and "class" in other.tables[-1].note
    assert other["at.operands.0"].value is None and "no one place" in other["at.operands.0"].note

    nested = untrained(0, depth=2, max_operands=2)
    template, mixed = (
        resample(nested, 8, purpose="t", component="SUM", steps=2, sets=2, within=w) for w in get_args(Within)
    )
    shapes = [{tuple(classes) for classes in half[0].classes(nested.task)[0]} for half in (template, mixed)]
    assert len(shapes[0]) == 1 < len(shapes[1])
    monkeypatch.setattr("kc_interp.pairs._of_one_template", lambda task, drawn, steps: drawn.take(slice(0, 3)))
    with pytest.raises(ProbeError, match="pairs a set of one template"):
        resample(nested, 8, purpose="t", component="SUM", steps=2)
    fallen = quick(steps=2)._pairs(nested)
    assert {half.within for half in fallen} == {"position class"}


def test_positions_have_the_classes_of_the_line_that_is_worked_on() -> None:
    subject = untrained(0, depth=2)
    pairs = given(subject, [("[SUM 1 [SUM 2 2]]", "[SUM 1 [SUM 2 1]]")])
    assert pairs.positions(subject.task) == {  # [ SUM 1 [ SUM 2 2 ] ] > [ SUM 1 1 ] = 2
        "operands": (12, 13),
        "operation": (11,),
        "brackets": (10, 14),
        "separator": (9,),
        "query": (15,),
        "rest": tuple(range(9)),
    }


def test_what_is_read_where_is_found_by_position() -> None:
    """Block 0 fetches one operand and looks the pair up; block 1 fetches the last operand, from its own place."""
    known = known_answer("composed_table_sum")
    finding = quick().run(known.subject())
    for key in ("at.operands.0", "at.operands.1", "at.query.0"):
        assert 0.1 < float(finding[key].value or 0) < 0.99
    assert finding["at.query.1"].value == pytest.approx(1, abs=1e-3)
    assert finding["at.operation.0"].value == pytest.approx(0, abs=1e-6)
    assert finding["at.brackets.1"].value == pytest.approx(0, abs=1e-6)
    assert finding["at.rest.0"].value is None
    acts = next(table for table in finding.tables if table.title.startswith("Where the circuit's edges act"))
    where = {(row[0], row[1]) for row in acts.rows if abs(float(row[2] or 0)) > 0.01}
    assert {place for edge, place in where if edge.startswith("token->")} == {"operands"}
    assert {place for edge, place in where if not edge.startswith("token->")} == {"query"}


def test_edges_of_one_path_overlap_and_stand_in_the_table_of_interactions() -> None:
    finding = quick(keep=0.99).run(known_answer("lookup_sum").subject())
    table = next(table for table in finding.tables if table.title.startswith("Pairs of the circuit's edges"))
    found = {frozenset(row[:2]): row[2:] for row in table.rows}
    joint, beyond, low, high = found[frozenset(("token->a0.h0<v>", "a0.h0->m0"))]
    assert beyond == pytest.approx(-float(joint or 0), abs=1e-3)  # either alone costs what both do
    assert float(low or 0) <= float(beyond or 0) <= float(high or 0) < 0


PAIR = ("[SUM 1 2]", "[SUM 4 2]")


def test_a_pair_that_is_given_is_measured_exactly_without_intervals() -> None:
    known = known_answer("lookup_sum")
    finding = quick(given=(PAIR,), without=("token->a0.h0<v>", "a0.h1->m0")).run(known.subject())
    assert finding["circuit.edges"].value == 3  # the second operand is the same
    assert {number.unit for number in finding.numbers} == {"exact"}
    assert all(number.low is None and number.high is None for number in finding.numbers)
    assert "1 given pair of chains like [SUM 1 2] = 3" in finding.sentence
    assert "95 % interval" not in finding.sentence and not any("low" in table.columns for table in finding.tables)
    methods = next(table for table in finding.tables if table.title.startswith("Methods"))
    assert not any("[" in str(cell) for row in methods.rows for cell in row)
    assert "Nothing is held out" in finding.sentence and "Intervals need at least 4 pairs" in finding.sentence
    asked = finding.tables[1]
    assert asked.columns == ("edge", "lost without it")
    assert [row[0] for row in asked.rows] == ["token->a0.h0<v>", "a0.h1->m0", "all of these at once"]
    np.testing.assert_allclose([float(row[1] or 0) for row in asked.rows], (1, 0, 1), atol=1e-3)
    assert [edge["effect"] for edge in finding.figures[0].data["edges"] if edge["low"] is not None] == []
    check_probe(quick(given=(PAIR,)), known.subject())


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ((PAIR, ("[SUM 1 2", "[SUM 4 2]")), r"pair 2, clean '\[SUM 1 2': at position 8: the text ends inside"),
        ((PAIR, ("[SUM 1 2]", "[MAX 1 2]")), r"pair 2, twin '\[MAX 1 2\] = 2': symbol 2 is 'MAX', which .* no token"),
        ((PAIR, ("[SUM 1 1 1]", "[SUM 1 1 2]")), r"pair 2, clean .* symbol 5 is '1' \(digit\), .* pair 1 .* '\]' \(close\)"),
        ((("[SUM 1 2]", "[SUM 1 1 2]"),), r"pair 1, twin .* symbol 5 is '2' \(digit\), in its clean chain .* '\]'"),
        ((("[SUM 1 2]", "[SUM 2 1]"),), r"pair 1: .* have the same answer, 3 \(they differ first at symbol 3\)"),
        ((PAIR[:1] * 2,), r"have the same answer, 3 \(they are the same\); .* change an operand"),
        ((("[SUM 1 1 1 1 1]", "[SUM 1 1 1 1 2]"),), r"9 symbols lead to its answer, this model reads up to 8; give a sh"),
    ],
)  # fmt: skip
def test_pairs_that_are_none_are_refused_with_the_symbol_at_fault(
    pairs: tuple[tuple[str, str], ...], says: str
) -> None:
    with pytest.raises(ProbeError, match=says):
        Circuit(given=pairs).run(known_answer("lookup_sum").subject())
    with pytest.raises(ProbeError, match="no pair is given"):
        given(known_answer("lookup_sum").subject(), [])


def test_an_edge_that_does_not_exist_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ProbeError, match=r"no edge 'a0\.h9->m0': 'a0\.h9' is no writer; did you mean"):
        Circuit(without=("a0.h9->m0",)).run(known_answer("lookup_sum").subject())


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
