"""The verdict: constructed models get the one that is true of them, and evidence worked out by hand its own."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kc_interp.circuits.verdict import (
    Evidence,
    Ordered,
    Rule,
    Site,
    _relabelled,
    evidence,
    grouped,
    judge,
    partitions,
    reduced,
)
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Finding
from kc_interp.known_answers import KnownAnswer, known_answer
from kc_interp.known_answers.constructed import arithmetic_sum, composed_table_sum, flat_table_sum
from kc_probes.verdict import VerdictProbe

ROOT = Path(__file__).parents[1]
GRID = np.asarray(list(itertools.product(range(6), repeat=3)))
SUMS = (np.arange(6)[:, None] + np.arange(6)) % 6
"""What two operands give: SUM modulo 6."""

ORDERED = Ordered(0.9, 0.1, 0.005)
UNORDERED = Ordered(0.1, 0.1, 0.5)
KNOWN = Evidence(
    right=0.9,
    enter=(1.0,),
    meets="mlp0",
    pair=0.3,
    handed=0.1,
    paired=UNORDERED,
    together=0.4,
    together_at="mlp0",
    number=UNORDERED,
    number_at="mlp0 (1+2+3)",
    read=ORDERED,
)


def of(activations: np.ndarray, written: np.ndarray | None = None, *, right: float = 1.0) -> Evidence:
    """The evidence of one MLP with these neurons, whose logits are those of SUM."""
    logits = np.eye(6)[GRID.sum(axis=1) % 6]
    attention = np.eye(6)[GRID].reshape(len(GRID), -1)
    parts = [
        Site("attn0", attention, attention),
        Site("mlp0", activations, activations if written is None else written),
    ]
    hits = np.arange(len(GRID)) < right * len(GRID)
    return evidence(parts, logits, hits, GRID, SUMS, np.random.default_rng(0))


def kind(known: KnownAnswer) -> str:
    finding = VerdictProbe().run(known.subject())
    declared = [kind for kind in ("table", "pairs", "number", "neither") if finding[f"verdict.{kind}"].value == 1.0]
    assert len(declared) == 1
    return declared[0]


@pytest.mark.parametrize(
    ("known", "true"),
    [
        (known_answer("lookup_sum"), "table"),
        (flat_table_sum(6), "table"),
        (composed_table_sum(6), "pairs"),
        (arithmetic_sum(10), "number"),
        (known_answer("decoy"), "table"),
        (known_answer("max_by_attention"), "neither"),
        (known_answer("copy_line"), "neither"),
    ],
    ids=["lookup", "flat", "composed", "arithmetic", "decoy", "attention", "copy"],
)
def test_a_constructed_model_gets_its_verdict(known: KnownAnswer, true: str) -> None:
    assert kind(known) == true


def test_a_neuron_for_every_triple_is_a_table_and_neurons_of_the_sum_are_number() -> None:
    table = of(np.eye(len(GRID)))
    assert table.enter[0] == pytest.approx(1.0)
    assert (table.meets, table.together_at) == ("mlp0", "mlp0")
    assert table.number.index == pytest.approx(0, abs=0.01)
    assert judge(table).kind == "flat table"
    hinges = of(np.maximum(GRID.sum(axis=1)[:, None] - np.arange(1, 15), 0.0))
    assert hinges.number.share == pytest.approx(1)
    assert hinges.number.p <= 0.01
    assert judge(hinges).kind == "structured by number"


def test_neurons_for_pairs_that_hand_on_their_result_are_pairs_composed() -> None:
    pairs = np.eye(36)[GRID[:, 0] * 6 + GRID[:, 1]]
    result = np.eye(6)[(GRID[:, 0] + GRID[:, 1]) % 6]
    composed = of(pairs, result)
    assert composed.pair == pytest.approx(1)
    assert composed.handed == pytest.approx(1)
    assert judge(composed).kind == "table of pairs composed"
    assert "not as its result" in judge(of(pairs, pairs)).why


def test_a_pair_added_up_by_number_is_number_although_the_third_operand_comes_later() -> None:
    one_a_sum = np.eye(11)[GRID[:, :2].sum(axis=1)]
    added = of(one_a_sum, np.eye(6)[GRID[:, :2].sum(axis=1) % 6])
    assert added.paired is not None
    assert added.paired.p <= 0.01
    assert judge(added).kind == "structured by number"


def test_two_of_three_operands_added_are_seen_whatever_the_third_does() -> None:
    both = np.concatenate([GRID[:, [0]] + GRID[:, [2]] - 5, np.eye(6)[GRID[:, 1]] * 3], axis=1)
    found = of(np.maximum(both[:, :1] * both[:, 1:], 0))
    assert found.number_at == "mlp0 (1+3)"
    assert judge(found).kind == "structured by number"


@pytest.mark.parametrize(
    ("changed", "declared", "why"),
    [
        ({}, "flat table", "at once in mlp0"),
        ({"right": 0.79}, "neither", "answers 79% of the single steps rightly, 80% are asked"),
        ({"number": ORDERED}, "structured by number", "orders the neurons of mlp0"),
        ({"number": ORDERED, "read": UNORDERED}, "neither", "but not the answers"),
        ({"number": Ordered(0.9, 0.1, 0.02)}, "neither", "a little, more than a table's"),
        ({"number": Ordered(0.17, 0.1, 0.005)}, "neither", "a little, more than a table's"),
        ({"pair": 0.9, "handed": 0.9}, "table of pairs composed", "one pair of operands meets alone in mlp0"),
        ({"pair": 0.9, "handed": 0.9, "paired": ORDERED}, "structured by number", "that pair"),
        ({"pair": 0.9, "handed": 0.9, "number": ORDERED}, "table of pairs composed", "as its result"),
        ({"pair": 0.9}, "neither", "but not as its result"),
        ({"pair": 0.9, "paired": None}, "neither", "before any MLP"),
        ({"together": 0.05}, "neither", "all operands together make 5%"),
        ({"meets": None}, "neither", "meet nowhere"),
    ],
)
def test_each_part_of_the_evidence_can_decide(changed: dict[str, Any], declared: str, why: str) -> None:
    verdict = judge(dataclasses.replace(KNOWN, **changed))
    assert verdict.kind == declared
    assert why in verdict.why


@pytest.mark.slow
def test_a_random_model_has_a_p_of_any_size_although_the_best_of_two_mlps_and_four_sums_is_taken() -> None:
    rng = np.random.default_rng(1)
    logits = np.eye(6)[GRID.sum(axis=1) % 6]
    found = []
    for _ in range(60):
        own = [np.maximum(rng.normal(size=(6, 3, 8))[GRID, np.arange(3)].sum(axis=1), 0) for _ in range(2)]
        parts = [Site(f"mlp{block}", neurons, neurons) for block, neurons in enumerate(own)]
        found.append(evidence(parts, logits, np.ones(216, dtype=bool), GRID, SUMS, rng).number.p)
    # 99.9 % limits of Binomial(60, p); without taking the best of the random values too, nearly all would be small.
    assert sum(p <= 0.05 for p in found) <= 9
    assert 18 <= sum(p <= 0.5 for p in found) <= 42


def test_every_relabelling_groups_the_steps_in_a_way_of_its_own() -> None:
    five = np.asarray(list(itertools.product(range(5), repeat=3)))
    few = _relabelled(five, 199, np.random.default_rng(0))
    assert len(few) == 50
    assert len(_relabelled(GRID, 199, np.random.default_rng(0))) == 199
    finding = VerdictProbe().run(arithmetic_sum(5).subject())
    assert finding["verdict.number"].value == 0.0  # p cannot be below 1/51


def test_answers_to_steps_held_out_do_not_enter() -> None:
    logits = np.eye(6)[GRID.sum(axis=1) % 6]
    trained = np.arange(216) % 3 > 0
    neurons = np.eye(216)
    parts = [Site("mlp0", neurons, neurons)]
    wrong = np.where(trained[:, None], logits, 1 - logits)
    one, other = (
        evidence(parts, own, right, GRID, SUMS, np.random.default_rng(0), trained=trained)
        for own, right in ((logits, np.ones(216, dtype=bool)), (wrong, trained))
    )
    assert one == other
    assert one.right == 1.0


def test_shares_of_variance_survive_the_reduction_to_principal_components() -> None:
    rng = np.random.default_rng(2)
    wide = np.maximum(rng.normal(size=(6, 3, 50))[GRID, np.arange(3)].sum(axis=1), 0)
    kept = reduced(wide)
    assert kept.shape[1] < wide.shape[1]
    whole = ((wide - wide.mean(axis=0)) ** 2).sum()
    assert (kept**2).sum() / whole == pytest.approx(1, abs=0.003)
    assert reduced(np.ones((5, 3))).shape == (5, 1)


def test_groups_keep_the_operands_apart_that_are_not_added() -> None:
    assert partitions(3) == ((0, 1), (0, 2), (1, 2), (0, 1, 2))
    operands, values = np.asarray([[1, 2, 0], [2, 1, 0], [2, 1, 3], [0, 0, 3]]), np.arange(4)
    pair, every = (grouped(operands, values, added) for added in ((0, 1), (0, 1, 2)))
    assert pair[0] == pair[1] != pair[2]
    assert every.tolist() == [3, 3, 6, 3]


def test_an_untrained_model_is_neither_and_claims_nothing() -> None:
    known = arithmetic_sum(10)
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(weight.shape, generator=generator) for name, weight in known.params.items()}
    finding = VerdictProbe().run(dataclasses.replace(known, params=params, solves=False).subject())
    assert finding.status == "unlearned"
    assert finding["verdict.neither"].value == 1.0
    assert "rightly, 80% are asked" in finding.sentence


def test_held_out_steps_are_told_apart_by_pairs_and_triples() -> None:
    finding = _with_holdout(arithmetic_sum(10))
    triples, pairs = finding["verdict.held.triples"], finding["verdict.held.pairs"]
    assert (triples.value, pairs.value) == (1.0, 1.0)
    assert triples.n is not None
    assert triples.n >= 3
    assert pairs.n is not None
    assert pairs.n >= 27  # every triple that contains one of two pairs, in every order
    assert "held-out triples are known; 100%" in finding.sentence


def test_fewer_than_four_digits_have_no_other_order_to_compare_with() -> None:
    with pytest.raises(ProbeError, match="a verdict needs a modulus from 4 on"):
        VerdictProbe().run(arithmetic_sum(3).subject())


def test_a_p_that_the_relabellings_cannot_reach_is_refused() -> None:
    with pytest.raises(SpecError, match=r"the smallest p these can give is 0\.0909: raise relabellings"):
        VerdictProbe(relabellings=10)
    assert VerdictProbe().rule == Rule()


def _with_holdout(known: KnownAnswer) -> Finding:
    subject = known.subject()
    data = dataclasses.replace(subject.checkpoint.spec.data, holdout_pairs=2, holdout_triples=3)
    spec = dataclasses.replace(subject.checkpoint.spec, data=data)
    return VerdictProbe().run(
        dataclasses.replace(subject, checkpoint=dataclasses.replace(subject.checkpoint, spec=spec))
    )


def test_the_page_of_error_rates_is_what_its_models_say() -> None:
    done = subprocess.run(
        [sys.executable, "experiments/verdict/calibrate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr or "run experiments/verdict/calibrate.py"
