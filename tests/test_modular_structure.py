"""Modular structure: a clock and a pizza made by hand, spectra derived on paper, known-answer models read as they are."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from kc_interp.circuits import modular
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Finding
from kc_interp.known_answers.constructed import flat_table_sum, one_reduction
from kc_interp.model.forward import forward
from kc_interp.probe import Subject
from kc_interp.spec import DataSpec
from kc_interp.steps import all_steps
from kc_interp.testing import check_probe, known_answer, small_subject
from kc_probes.modular_structure import ModularStructure, Residues

RNG = np.random.default_rng(3)


def grid(modulus: int, operands: int) -> np.ndarray:
    return np.asarray(list(product(range(modulus), repeat=operands)))


def every_character_of_the_sum(values: np.ndarray, modulus: int, operands: int) -> list[float]:
    """The same spectrum by the whole Fourier transform over Z_n^m: the powers at (k, …, k) and (-k, …, -k)."""
    axes = tuple(range(operands))
    powers = (np.abs(np.fft.fftn(values.reshape(*[modulus] * operands, -1), axes=axes)) ** 2).sum(axis=-1)
    whole = powers.sum() - powers[(0,) * operands]
    return [
        sum(powers[(sign * k,) * operands] for sign in ((1,) if 2 * k == modulus else (1, -1))) / whole
        for k in range(1, modulus // 2 + 1)
    ]


@pytest.mark.parametrize(("modulus", "operands"), [(5, 2), (6, 2), (4, 3), (5, 3)])
def test_the_spectrum_is_that_of_the_whole_fourier_transform(modulus: int, operands: int) -> None:
    values, own = RNG.normal(size=(modulus**operands, 3)) + 7, grid(modulus, operands)
    found = modular.sum_spectrum(values, own.sum(axis=1)[None], modulus)
    assert found is not None
    np.testing.assert_allclose(found[0], every_character_of_the_sum(values, modulus, operands), atol=1e-12)


def test_a_function_of_the_sum_has_all_of_its_variance_there_and_parity_counts_once() -> None:
    sums = grid(6, 2).sum(axis=1)
    cosine, parity = np.cos(2 * np.pi * sums / 6)[:, None], ((-1.0) ** sums)[:, None]
    shares = modular.sum_spectrum(np.concatenate([cosine * math.sqrt(2), parity], axis=1), sums[None], 6)
    assert shares is not None
    np.testing.assert_allclose(shares, [[0.5, 0, 0.5]], atol=1e-12)


def test_a_spectrum_of_nothing_is_none_and_of_a_part_of_the_table_refused() -> None:
    own = grid(5, 2)
    assert modular.sum_spectrum(np.full((25, 2), 1e6), own.sum(axis=1)[None], 5) is None
    with pytest.raises(ProbeError, match="every combination of operands once"):
        modular.sum_spectrum(np.ones((24, 1)), own[1:].sum(axis=1)[None], 5)


def test_relabellings_leave_out_those_that_keep_the_arithmetic() -> None:
    found = {tuple(own) for own in modular.relabellings(5, 2_000, np.random.default_rng(0)).tolist()}
    kept = {tuple((u * x + v) % 5 for x in range(5)) for u in range(1, 5) for v in range(5)}
    assert not found & kept
    assert len(found) == math.factorial(5) - 20
    with pytest.raises(ProbeError, match="3 digits have no relabelling that changes their arithmetic"):
        modular.relabellings(3, 10, np.random.default_rng(0))


def test_key_frequencies_are_the_fewest_that_hold_enough() -> None:
    assert modular.key_frequencies(np.asarray([0.1, 0.6, 0.02, 0.2]), 0.8) == (2, 4)
    assert modular.key_frequencies(np.asarray([0.25] * 4), 1.0) == (1, 2, 3, 4)


def clock_logits(modulus: int, k: int, own: np.ndarray) -> np.ndarray:
    """cos(2π k (a + b - c) / n) for every c."""
    return np.cos(2 * np.pi * k * (own.sum(axis=1)[:, None] - np.arange(modulus)) / modulus)


@pytest.mark.parametrize("modulus", [7, 10])
def test_the_logits_of_a_clock_are_split_exactly_at_its_frequency(modulus: int) -> None:
    own = grid(modulus, 2)
    sums, logits = own.sum(axis=1), 20 * clock_logits(modulus, 3, own)
    right, other = modular.parts(logits, sums, modulus, (3,)), modular.parts(logits, sums, modulus, (1,))
    assert right is not None
    assert other is not None
    np.testing.assert_allclose(right.restricted, logits, atol=1e-9)
    np.testing.assert_allclose(right.excluded, 0, atol=1e-9)  # the mean over all steps is 0 for every c
    np.testing.assert_allclose(other.excluded, logits, atol=1e-9)
    answers = sums % modulus
    assert modular.loss_nats(right.excluded, answers) == pytest.approx(math.log(modulus))
    assert modular.loss_nats(right.restricted, answers) < 0.1


def test_held_out_steps_are_split_by_themselves_and_too_few_are_not_split() -> None:
    """What a table knows of seen steps does not make held-out ones right."""
    own = grid(10, 2)
    sums = own.sum(axis=1)
    held = np.isin(np.arange(100), np.random.default_rng(1).permutation(100)[:40])
    logits = np.where(held[:, None], 0.0, 9 * np.eye(10)[sums % 10])
    every = modular.parts(logits, sums, 10, (1, 2, 3, 4, 5))
    alone = modular.parts(logits[held], sums[held], 10, (1, 2, 3, 4, 5))
    assert every is not None
    assert alone is not None
    assert modular.loss_nats(every.restricted[held], sums[held] % 10) < 0.2
    assert modular.loss_nats(alone.restricted, sums[held] % 10) == pytest.approx(math.log(10))
    assert modular.parts(logits[:19], sums[:19], 10, (1, 2, 3, 4, 5)) is None


@pytest.mark.parametrize("modulus", [7, 10])
def test_distance_irrelevance_is_one_for_a_clock_and_zero_for_a_pizza(modulus: int) -> None:
    """By hand: a clock's right logit, here with a bias of each answer, knows the sum alone; a pizza's the difference."""
    own = grid(modulus, 2)
    a, b = own.T
    bias = RNG.normal(size=modulus)
    clock = 1 + bias[(a + b) % modulus]
    pizza = np.abs(np.cos(np.pi * (a - b) / modulus))
    assert modular.distance_irrelevance(clock, own, modulus) == {(0, 1): pytest.approx(1)}
    assert modular.distance_irrelevance(pizza, own, modulus) == {(0, 1): pytest.approx(0, abs=1e-9)}
    assert modular.distance_irrelevance(np.ones(len(own)), own, modulus) == {(0, 1): None}


def test_for_an_odd_modulus_distance_irrelevance_is_the_published_definition() -> None:
    own, n = grid(7, 2), 7
    a, b = own.T
    correct = RNG.normal(size=49)
    table = np.full((n, n), np.nan)
    table[(a + b) % n, (a - b) % n] = correct
    expected = float(np.mean(table.std(axis=0)) / table.std())
    assert modular.distance_irrelevance(correct, own, n) == {(0, 1): pytest.approx(expected)}


def test_of_three_operands_the_third_is_fixed_and_the_pairs_are_told_apart() -> None:
    own = grid(5, 3)
    a, b, c = own.T
    found = modular.distance_irrelevance(np.cos(2 * np.pi * (a - b) / 5) + 3.0 * c, own, 5)
    assert found[0, 1] == pytest.approx(0, abs=1e-9)  # what the third adds is no spread
    assert found[0, 2] is not None
    assert found[0, 2] > 0.5
    assert modular.mean_of({(0, 1): None, (0, 2): 0.5, (1, 2): 0.25}) == 0.375


def rotations(modulus: int, k: int = 1) -> torch.Tensor:
    angles = 2 * math.pi * k * torch.arange(modulus, dtype=torch.float64) / modulus
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_gradient_symmetricity_of_a_clock_turns_with_the_difference_and_of_a_pizza_is_one() -> None:
    """A clock multiplies two rotations: its two gradients stand at the angle of a - b, so that their mean is 0."""
    n = 10
    points, own = rotations(n), torch.from_numpy(grid(n, 2))
    operands = points[own].requires_grad_()

    def gradients(logits: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [torch.autograd.grad(logits[:, c].sum(), operands, retain_graph=True)[0] for c in range(n)], dim=1
        )

    (ax, ay), (bx, by) = operands[:, 0].T, operands[:, 1].T
    product_of_both = torch.stack([ax * bx - ay * by, ax * by + ay * bx], dim=1)
    clock = modular.symmetricity(gradients(product_of_both @ points.T), points)[0, 1]
    turned = np.cos(2 * np.pi * (own[:, 0] - own[:, 1]).numpy() / n)
    np.testing.assert_allclose(clock, np.repeat(turned[:, None], n, axis=1), atol=1e-9)
    assert modular.mean_cosine(clock) == pytest.approx(0, abs=1e-9)
    pizza = operands.mean(dim=1).pow(2) @ points.T
    assert modular.mean_cosine(modular.symmetricity(gradients(pizza), points)[0, 1]) == pytest.approx(1)


def test_a_gradient_of_zero_has_no_cosine_and_directions_open_to_no_digit_do_not_count() -> None:
    digits = torch.eye(3)[:, :2] @ torch.tensor([[1.0, 0, 0], [0, 1, 0]])  # they differ in two of three coordinates
    gradients = torch.zeros(2, 1, 2, 3)
    gradients[0, 0] = torch.tensor([[1.0, 0, 5], [1, 0, -5]])
    found = modular.symmetricity(gradients, digits)[0, 1]
    np.testing.assert_allclose(found, [[1], [np.nan]])
    assert modular.mean_cosine(found) == pytest.approx(1)
    assert modular.mean_cosine(np.full(3, np.nan)) is None


def test_operand_gradients_are_those_of_the_logits() -> None:
    """Against finite differences of the embedding, one digit in one place."""
    known = known_answer("arithmetic_sum")
    subject = known.subject()
    residues = Residues.of(subject, all_steps(subject, "SUM"), 100)
    ids, digit = residues.ids[123:124], int(residues.digits[4])
    params = {name: value.double() for name, value in subject.params.items()}
    found = modular.operand_gradients(params, known.spec, ids, residues.places, [digit])
    token = ids[0, residues.places[1]]
    direction = torch.randn(known.spec.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = dict(params)
    # The digit in this place alone: 2 stands at no other one.
    assert (ids[0] == token).sum() == 1
    moved["embed.W_E"] = params["embed.W_E"].clone()
    moved["embed.W_E"][0, token] += 1e-6 * direction
    before, after = (forward(own, known.spec, ids[None])[0, 0, -1, digit] for own in (params, moved))
    assert float(found[0, 0, 1] @ direction) == pytest.approx(float(after - before) / 1e-6, rel=1e-3, abs=1e-3)


@cache
def read(name: str) -> Finding:
    return ModularStructure().run(known_answer(name).subject())


def value(finding: Finding, key: str) -> float:
    found = finding[key].value
    assert found is not None
    return found


def test_of_a_flat_table_the_logits_are_all_sum_and_the_neurons_are_white() -> None:
    """Modulus 5, three operands: 124 frequencies but 0, of which 4 are of the sum. An indicator has the same at each."""
    finding = read("flat_table_sum")
    assert value(finding, "logits.sum") == pytest.approx(1)
    assert value(finding, "logits.strongest") == pytest.approx(1 / 2)
    assert value(finding, "mlp0.sum") == pytest.approx(4 / 124)
    assert value(finding, "mlp0.pair-sum") == pytest.approx(3 * 4 / 124)
    assert value(finding, "mlp0.sum") == pytest.approx(finding["mlp0.sum"].control)  # digits by any other value
    assert finding["mlp0.parity"].value is None
    assert "an odd number" in finding["mlp0.parity"].note
    assert "MLP neurons of block 0: 3% of the variance depends on the sum mod n alone (no more than" in finding.sentence


def test_of_a_table_of_pairs_mod_10_parity_has_half_the_share_of_the_others() -> None:
    finding = read("lookup_sum")
    assert value(finding, "logits.strongest") == pytest.approx(2 / 9)
    assert value(finding, "logits.parity") == pytest.approx(1 / 9)
    assert value(finding, "mlp0.sum") == pytest.approx(9 / 99)
    assert finding["mlp0.pair-sum"].value is None
    assert finding["distance-irrelevance"].value is None
    # One coordinate a digit: the gradients of a table point along the two digits, of which one in ten are the same,
    # and two different ones, seen from the mean of all, have the cosine -1/9.
    assert value(finding, "gradient-symmetricity") == pytest.approx(1 / 10 - 9 / 10 / 9, abs=1e-6)


def test_a_composed_table_sums_pairs_first() -> None:
    """Block 0 sees pairs alone: of 24 frequencies 4 are of their sum. Block 1 sees that sum and the third: 4 of 24."""
    finding = read("composed_table_sum")
    assert value(finding, "mlp0.sum") == pytest.approx(0, abs=1e-9)
    assert value(finding, "mlp0.pair-sum") == pytest.approx(4 / 24)
    assert value(finding, "mlp1.sum") == pytest.approx(4 / 24)
    assert value(finding, "mlp1.pair-sum") == pytest.approx(4 / 24)
    control = finding["mlp1.sum"].control
    assert control is not None
    assert value(finding, "mlp1.sum") > 2 * control


def test_an_adder_has_the_spectrum_of_a_saw_tooth_and_one_function_of_its_operands() -> None:
    """The logits are a number read off: |Σ s e^{-2πiks/n}|² goes as 1 / sin²(πk/n), which sums to (n² - 1) / 3."""
    finding = read("arithmetic_sum")
    assert value(finding, "logits.sum") == pytest.approx(1)
    assert value(finding, "logits.strongest") == pytest.approx(6 / 99 / math.sin(math.pi / 10) ** 2)
    assert value(finding, "logits.parity") == pytest.approx(3 / 99)
    number = finding["mlp0.sum"]
    assert number.control is not None
    assert value(finding, "mlp0.sum") > 2 * number.control
    assert value(finding, "distance-irrelevance") == pytest.approx(1)
    assert value(finding, "gradient-symmetricity") == pytest.approx(1, abs=1e-4)
    assert value(finding, "excluded.seen") > 5 > value(finding, "restricted.seen")


def test_a_model_of_max_is_not_taken_for_a_sum() -> None:
    finding = read("max_by_attention")
    assert value(finding, "logits.sum") < 0.02
    assert finding["mlp0.sum"].value is None
    assert value(finding, "excluded.seen") < 0.01
    assert value(finding, "restricted.seen") > 1


def test_held_out_steps_have_losses_of_their_own() -> None:
    known = flat_table_sum(10)
    spec = dataclasses.replace(known.checkpoint().spec, data=DataSpec(holdout_pairs=2, holdout_triples=8))
    subject = Subject("table", dataclasses.replace(known.checkpoint(), spec=spec), learned=True)
    finding = ModularStructure().run(subject)
    seen, held = (finding[f"restricted.{which}"] for which in ("seen", "held-out"))
    assert seen.n is not None
    assert held.n is not None
    assert seen.n + held.n == 1_000
    assert held.n == subject.split.held_out(known.task, all_steps(subject, "SUM").chains).sum()
    assert value(finding, "restricted.held-out") < 0.1 < value(finding, "excluded.held-out")


def test_of_too_many_steps_gradients_are_taken_in_some_with_an_interval() -> None:
    number = ModularStructure(gradients=50).run(small_subject(steps=5))["gradient-symmetricity"]
    assert number.unit == "input"
    assert number.n == 50
    assert number.value is not None
    assert number.low is not None
    assert number.high is not None
    assert number.low <= number.value <= number.high


def test_it_keeps_its_promises_on_a_model_that_learned_nothing() -> None:
    finding = check_probe(ModularStructure(), dataclasses.replace(small_subject(steps=5), learned=False))
    assert finding.status == "unlearned"
    assert "nothing is claimed" in finding.sentence
    json.dumps(dataclasses.asdict(finding))


def test_what_is_no_residue_is_refused_with_what_is_needed() -> None:
    few = dataclasses.replace(known_answer("lookup_sum"), task=one_reduction("SUM", 3, 2)).subject()
    with pytest.raises(ProbeError, match="at least 4 are needed"):
        ModularStructure().run(few)
    subject = known_answer("lookup_sum").subject()
    steps = all_steps(subject, "SUM")

    class Letters:
        symbols = tuple(chr(ord("a") + int(s)) if s.isdigit() else s for s in subject.task.symbols)
        classes = subject.task.classes

    class Renamed(Subject):
        task = Letters()  # type: ignore[assignment]

    with pytest.raises(ProbeError, match="the digits a b c d e f g h i j are not the numbers 0 to 9"):
        Residues.of(Renamed(subject.name, subject.checkpoint), steps, 100)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"relabellings": 99}, "at least 100"), ({"hold": 0.0}, "above 0"), ({"gradients": 1}, "at least 2")],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        ModularStructure(**settings)
