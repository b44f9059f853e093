"""Operand structure: shares of toys worked out by hand, and known-answer models read as what they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kc_interp.circuits.effects import Metric
from kc_interp.circuits.reading import direct_attribution, explained, interactions, logit_lens, multisets
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Finding
from kc_interp.known_answers.constructed import flat_table_sum
from kc_interp.model import parameters
from kc_interp.model.forward import forward
from kc_interp.model.interventions import Streams
from kc_interp.spec import ModelSpec
from kc_interp.steps import all_steps
from kc_interp.testing import known_answer
from kc_probes.operand_structure import OperandStructure, relabelled_sums
from tests.test_forward import SHAPES, parameters_of, random_tokens

GRID = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
SHUFFLED = np.random.default_rng(0).permutation(len(GRID))
RNG = np.random.default_rng(1)


@pytest.fixture(params=SHAPES, ids=list(SHAPES))
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return SHAPES[request.param]


def test_a_sum_of_operands_has_main_effects_alone_and_a_product_of_two_an_interaction_of_that_pair() -> None:
    a, b, c = (GRID[SHUFFLED] - 1.5).T
    found = interactions(np.stack([a + 2 * b, c], axis=1), GRID[SHUFFLED])
    assert found is not None
    np.testing.assert_allclose(found.order, (1, 0, 0), atol=1e-12)
    found = interactions((a * b)[:, None], GRID[SHUFFLED])
    assert found is not None
    np.testing.assert_allclose(found.order, (0, 1, 0), atol=1e-12)
    assert found.pairs == pytest.approx({(0, 1): 1, (0, 2): 0, (1, 2): 0})
    found = interactions((a * b * c)[:, None], GRID[SHUFFLED])
    assert found is not None
    np.testing.assert_allclose(found.order, (0, 0, 1), atol=1e-12)


def test_orders_sum_to_one_and_a_constant_has_none() -> None:
    found = interactions(RNG.normal(size=(64, 5)), GRID)
    assert found is not None
    assert sum(found.order) == pytest.approx(1)
    assert interactions(np.ones((64, 2)), GRID) is None


def test_a_table_with_a_missing_or_doubled_combination_is_refused() -> None:
    with pytest.raises(ProbeError, match="63 inputs are not each combination of 4 x 4 x 4 operands once"):
        interactions(np.zeros((63, 1)), GRID[:-1])
    doubled = GRID.copy()
    doubled[0] = doubled[1]
    with pytest.raises(ProbeError, match="once"):
        interactions(np.zeros((64, 1)), doubled)


def test_explained_is_one_for_a_function_of_the_group_and_zero_on_average_for_noise() -> None:
    groups = GRID.sum(axis=1)
    assert explained(np.sin(groups)[:, None], groups) == pytest.approx(1)
    noise = [explained(RNG.normal(size=(64, 1)), groups) for _ in range(400)]
    assert np.mean([share for share in noise if share is not None]) == pytest.approx(0, abs=0.02)
    assert explained(RNG.normal(size=(64, 1)), np.arange(64)) is None


def test_multisets_do_not_know_the_order() -> None:
    groups = multisets(np.asarray([[1, 2, 3], [3, 2, 1], [1, 1, 3], [3, 1, 1]]))
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_direct_attributions_sum_to_the_logit_difference(spec: ModelSpec) -> None:
    params = parameters.stack([parameters_of(spec, seed=3, dtype=torch.float64)])
    streams = Streams.of(params, spec, random_tokens(4, 6))
    metric = Metric(torch.full((4,), 2), torch.arange(4) + 5)
    constant = params["unembed.b_U"][0]
    if spec.norm == "LN":
        constant = constant + params["ln_final.b"][0] @ params["unembed.W_U"][0]
    torch.testing.assert_close(
        direct_attribution(streams, metric).sum(0), metric(streams.logits) - metric(constant.expand(4, -1))
    )


def test_the_last_stage_of_the_lens_is_the_model(spec: ModelSpec) -> None:
    params = parameters.stack([parameters_of(spec, seed=3)])
    tokens = random_tokens(4, 6)
    answers = torch.arange(4)
    read = logit_lens(Streams.of(params, spec, tokens), answers)
    expected = forward(params, spec, tokens[None])[0, :, -1].softmax(-1)[torch.arange(4), answers]
    assert read.shape == (spec.depth + 1, 4)
    torch.testing.assert_close(read[-1], expected, atol=1e-5, rtol=1e-5)


def read(name: str) -> Finding:
    return OperandStructure().run(known_answer(name).subject())


def value(finding: Finding, key: str) -> float:
    found = finding[key].value
    assert found is not None
    return found


def test_the_neurons_of_a_constructed_adder_are_ordered_by_number_and_those_of_a_table_are_not() -> None:
    adder, table = read("arithmetic_sum"), read("flat_table_sum")
    for finding in (adder, table):
        assert finding["steps.right"].value == 1
        assert value(finding, "attn0.order1") == pytest.approx(1, abs=0.02)  # operands enter one by one …
        assert value(finding, "mlp0.order1") < 0.95  # … and meet in the MLP
    assert value(adder, "mlp0.number") > 0.95
    number = table["mlp0.number"]
    assert number.value is not None
    assert number.control is not None
    assert number.value < 0.2
    assert number.value - number.control < 0.05


def test_modulo_five_features_of_the_sum_lie_beyond_the_control() -> None:
    """The frequencies of the sum mod 5: values x -> u x + v keep them, a sixth of all that five digits can have."""
    steps = all_steps(known_answer("flat_table_sum").subject(), "SUM")
    assert len(steps.digits) == 5
    turns = 2 * np.pi * np.arange(1, 3) * steps.operands.sum(axis=1)[:, None] / 5
    features = np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
    sums = relabelled_sums(steps, 200, np.random.default_rng(0))
    control = [share for groups in sums if (share := explained(features, groups)) is not None]
    assert explained(features, steps.operands.sum(axis=1)) == pytest.approx(1)
    assert max(control) < 0.9


def test_fewer_than_four_digits_have_no_control_of_number_and_it_is_said_why() -> None:
    finding = OperandStructure().run(flat_table_sum(3).subject())
    number = finding["mlp0.number"]
    assert number.value is not None
    assert (number.control, number.control_says) == (None, "")
    assert "other values of 3 digits all keep their arithmetic" in number.note
    assert finding["mlp0.answer"].control == 0
    assert "nothing to compare it with" in finding.sentence


def test_a_model_that_does_not_vary_says_so_and_claims_nothing() -> None:
    known = known_answer("arithmetic_sum")
    silent = dataclasses.replace(
        known, params={name: torch.zeros_like(weight) for name, weight in known.params.items()}, solves=False
    )
    finding = OperandStructure().run(silent.subject())
    assert finding.status == "unlearned"
    assert finding["mlp0.number"].value is None
    assert finding["mlp0.number"].note == "nothing varies here"


def test_a_task_without_all_single_steps_is_refused_with_what_would_work() -> None:
    known = known_answer("max_by_attention")
    mixture = dataclasses.replace(known, task=dataclasses.replace(known.task, operations=("MAX", "SUM")))
    with pytest.raises(ProbeError, match=r"a mixture of operations needs `component`"):
        all_steps(mixture.subject(), "MED")


def test_too_few_relabellings_are_refused() -> None:
    with pytest.raises(SpecError, match="at least 20"):
        OperandStructure(relabellings=3)
