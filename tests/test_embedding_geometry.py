"""Planted arrangements of digits are recovered, look-alikes are not, and chance is called chance at its stated rate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import dumps
from kc_interp.model import parameters
from kc_interp.spec import ModelSpec, RunSpec
from kc_interp.tasks.task import Chains
from kc_probes import number_geometry as geometry
from kc_probes.digit_means import DigitFit
from kc_probes.embedding_geometry import EmbeddingGeometry
from tests.toys import SampledSubject, fills_in

D_MODEL = 16


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def turned(planted: np.ndarray, d_model: int = 32, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """The planted columns along random orthogonal directions of a larger space, off centre, with noise in all of it."""
    generator = rng(seed)
    frame = np.linalg.qr(generator.standard_normal((d_model, planted.shape[1])))[0]
    scattered = noise * generator.standard_normal((len(planted), d_model))
    return planted @ frame.T + 5 * generator.standard_normal(d_model) + scattered


def circle(n: int, k: int) -> np.ndarray:
    angle = 2 * np.pi * k * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def line(n: int) -> np.ndarray:
    return np.arange(n, dtype=float)[:, None]


def judged(points: np.ndarray, seed: int = 0) -> geometry.Geometry:
    return geometry.geometry(points, rng(seed), permutations=1_000)


# The statistics


@pytest.mark.parametrize("n", [4, 7, 10, 26])
def test_the_spectrum_equals_projection_on_written_out_cosines_and_sines_and_sums_to_one(n: int) -> None:
    points = rng(n).standard_normal((n, 13))
    around = points - points.mean(axis=0)
    expected = []
    for k in range(1, n // 2 + 1):
        angle = 2 * np.pi * k * np.arange(n) / n
        waves = [np.cos(angle)] if 2 * k == n else [np.cos(angle), np.sin(angle)]
        expected.append(sum(((wave @ around) ** 2).sum() / (wave @ wave) for wave in waves) / (around**2).sum())
    np.testing.assert_allclose(geometry.spectrum(points), expected, atol=1e-12)
    assert geometry.spectrum(points).sum() == pytest.approx(1)


@pytest.mark.parametrize("n", [7, 10])
def test_order_and_circularity_equal_their_definitions_component_by_component(n: int) -> None:
    points = rng(n).standard_normal((n, 5))
    vectors = np.linalg.eigh(np.cov((points - points.mean(axis=0)).T))[1][:, ::-1]
    scores = (points - points.mean(axis=0)) @ vectors
    correlations = [abs(scipy.stats.spearmanr(column, np.arange(n)).statistic) for column in scores.T]
    assert float(geometry.order(points)) == pytest.approx(max(correlations))
    best = []
    for column in scores[:, :4].T:
        sizes = [abs((column * np.exp(2j * np.pi * k * np.arange(n) / n)).sum()) ** 2 for k in range(1, n // 2 + 1)]
        factors = [1 if 2 * k == n else 2 for k in range(1, n // 2 + 1)]
        best.append(max(f * s / (n * column @ column) for f, s in zip(factors, sizes, strict=True)))
    assert float(geometry.circularity(points)) == pytest.approx(np.mean(best))


def test_the_null_relabels_the_points_themselves() -> None:
    points = rng(1).standard_normal((10, 6))
    relabelled = np.stack([rng(seed).permutation(10) for seed in range(5)])
    orders, circularities, spectra = geometry._null(geometry.components(points), relabelled)
    np.testing.assert_allclose(orders, geometry.order(points[relabelled]), atol=1e-9)
    np.testing.assert_allclose(circularities, geometry.circularity(points[relabelled]), atol=1e-9)
    np.testing.assert_allclose(spectra, geometry.spectrum(points[relabelled]), atol=1e-9)


def test_many_sets_of_points_at_once_give_what_each_gives_alone() -> None:
    many = rng(2).standard_normal((6, 10, 8))
    for statistic in (geometry.spectrum, geometry.circularity, geometry.order, geometry.roundness):
        np.testing.assert_allclose(statistic(many), np.stack([statistic(points) for points in many]), atol=1e-12)
    np.testing.assert_allclose(geometry.wrap(many).value, [geometry.wrap(points).value for points in many])


def test_ten_random_points_have_the_circularity_and_order_that_make_a_null_necessary() -> None:
    points = rng(3).standard_normal((2_000, 10, 48))
    circularity, order = geometry.circularity(points), geometry.order(points)
    assert circularity.mean() == pytest.approx(0.478, abs=0.01)
    assert np.quantile(circularity, 0.95) == pytest.approx(0.593, abs=0.02)
    assert order.mean() == pytest.approx(0.63, abs=0.01)
    assert np.quantile(order, 0.95) == pytest.approx(0.82, abs=0.02)
    # With a factor of 2 also at k = n/2, as in the definition for odd moduli, parity's share would count twice.
    left = np.linalg.svd(geometry.centred(points), full_matrices=False)[0][..., :4]
    doubled = geometry.power(left) * np.where(np.arange(1, 6) == 5, 2, 1)[:, None]
    assert np.clip(doubled.max(axis=-2), 0, 1).mean() == pytest.approx(0.526, abs=0.01)


# Planted answers and their look-alikes


@pytest.mark.parametrize(("n", "k"), [(10, 1), (10, 3), (10, 4), (26, 5), (13, 2)])
def test_a_circle_is_recovered_with_its_frequency(n: int, k: int) -> None:
    exact = judged(turned(circle(n, k)))
    assert exact.frequencies[k - 1].value == pytest.approx(1)
    assert exact.circularity.value == pytest.approx(1)
    assert exact.roundness[k - 1] == pytest.approx(1)
    assert float(exact.wrap.gap) == pytest.approx(0, abs=1e-9)
    assert float(exact.wrap.ratio) == pytest.approx(1)
    assert exact.circles(0.05) == [k]
    assert judged(turned(circle(n, k), noise=0.03)).circles(0.05) == [k]


def test_two_circles_are_both_recovered() -> None:
    found = judged(turned(np.concatenate([circle(10, 1), circle(10, 3)], axis=1), noise=0.05))
    assert found.circles(0.05) == [1, 3]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_a_line_is_in_order_and_no_circle(noise: float) -> None:
    found = judged(turned(line(10), noise=noise, seed=4))
    assert found.order.value > 0.98 and found.order.p < 0.01
    assert not found.wrap.closes
    assert found.circles(0.05) == []
    if noise == 0:
        assert float(found.wrap.value) == pytest.approx(1)
        assert float(found.wrap.ratio) == pytest.approx(9)
        assert found.circularity.value == pytest.approx(0.635, abs=0.001)


def test_a_bent_line_looks_more_circular_than_chance_and_only_the_wrap_test_refuses_it() -> None:
    angle = np.pi * np.arange(10) / 9  # a half-circle
    found = judged(turned(np.stack([np.cos(angle), np.sin(angle)], axis=1)))
    assert found.circularity.value > 0.75 and found.circularity.p < 0.05
    assert found.above_null(0.05) == [1] and found.roundness[0] > geometry.ROUND_ENOUGH
    assert float(found.wrap.value) > 2 * geometry.WRAP_LIMIT
    assert found.circles(0.05) == []


@pytest.mark.parametrize("width", [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0])
def test_a_code_of_overlapping_places_is_no_circle(width: float) -> None:
    digits = np.arange(10)
    found = judged(turned(np.exp(-((digits[:, None] - digits) ** 2) / (2 * width**2))))
    assert found.above_null(0.05) == [1]
    assert found.circles(0.05) == []


def test_a_wave_to_and_fro_has_the_spectrum_of_a_circle_and_is_none() -> None:
    found = judged(turned(circle(10, 1)[:, :1], noise=0.02))
    assert found.above_null(0.05) == [1] and found.wrap.closes
    assert found.roundness[0] < 0.2
    assert found.circles(0.05) == []


def test_parity_is_the_last_frequency_of_an_even_number_and_no_circle() -> None:
    even_odd = np.where(np.arange(10) % 2, 1.0, -1.0)[:, None]
    found = judged(turned(even_odd, noise=0.05))
    assert found.parity is not None and found.parity == found.frequencies[4]
    assert found.parity.value > 0.7 and found.parity.p < 0.05
    assert found.above_null(0.05) == [5] and found.circles(0.05) == []
    assert judged(turned(line(9))).parity is None


def test_where_no_line_fits_the_wrap_value_is_missing_and_not_a_number_made_up() -> None:
    palindrome = np.minimum(np.arange(10), 9 - np.arange(10)).astype(float)[:, None]
    found = geometry.wrap(palindrome)
    assert np.isnan(found.value) and found.closes


# The null


def false_alarms(judge: Callable[[geometry.Geometry], bool], repeats: int = 400) -> int:
    generator = rng(5)
    found = (
        geometry.geometry(generator.standard_normal((10, 24)), generator, permutations=200) for _ in range(repeats)
    )
    return sum(judge(one) for one in found)


@pytest.mark.parametrize(
    "judge",
    [
        lambda found: found.order.p < 0.05,
        lambda found: found.circularity.p < 0.05,
        lambda found: bool(found.above_null(0.05)),
    ],
    ids=["order", "circularity", "any frequency"],
)
def test_random_points_are_called_arranged_in_about_one_of_twenty(judge: Callable[[geometry.Geometry], bool]) -> None:
    low, high = scipy.stats.binom.interval(0.999, 400, 0.05)
    assert low <= false_alarms(judge) <= high


def test_without_the_max_statistic_false_alarms_would_be_several_times_as_many() -> None:
    generator = rng(6)
    alarms = {"order": 0, "frequency": 0}
    for _ in range(200):
        points = generator.standard_normal((10, 24))
        relabelled = generator.permuted(np.tile(np.arange(10), (200, 1)), axis=1)
        spectra = geometry.spectrum(points[relabelled])
        alarms["frequency"] += bool(((spectra >= geometry.spectrum(points)).mean(axis=0) < 0.05).any())
        scores = geometry.components(points).coordinates
        alarms["order"] += any(scipy.stats.spearmanr(column, np.arange(10)).pvalue < 0.05 for column in scores.T)
    assert alarms["order"] > 40 and alarms["frequency"] > 25  # of 200, where a 5 % test has 10


def test_a_p_value_counts_the_observed_order_itself() -> None:
    assert judged(turned(line(10))).order.p >= 1 / 1_001
    assert geometry._p(10.0, np.zeros(99)) == pytest.approx(1 / 100)
    assert geometry._p(0.0, np.zeros(99)) == 1


# The mean representation of a digit


def test_the_mean_of_a_digit_is_free_of_the_positions_where_it_stood() -> None:
    generator = rng(7)
    digits = np.where(generator.random((300, 6)) < 0.3, -1, generator.integers(0, 10, (300, 6)))
    digits[:, 0] = np.minimum(digits[:, 0], 3)  # position 0 shows small digits only
    of_digit, of_position = generator.standard_normal((10, 5)), 10 * generator.standard_normal((6, 5))
    resid = np.where(digits[..., None] >= 0, of_digit[digits] + of_position, 99.0)
    weights = np.stack([np.ones(300), generator.multinomial(300, np.full(300, 1 / 300)).astype(float)])
    found = DigitFit.of(digits, weights, [str(d) for d in range(10)]).means(resid)
    np.testing.assert_allclose(found, np.stack([of_digit - of_digit.mean(axis=0)] * 2), atol=1e-6)


def test_a_weighting_counts_examples_as_if_they_were_repeated() -> None:
    generator = rng(8)
    digits = generator.integers(0, 5, (60, 3))
    resid = generator.standard_normal((60, 3, 4))
    names = list("01234")
    repeats = np.where(np.arange(60) < 30, 1, 2)
    weighted = DigitFit.of(digits, repeats[None].astype(float), names).means(resid)
    repeated = DigitFit.of(np.repeat(digits, repeats, axis=0), np.ones((1, repeats.sum())), names)
    np.testing.assert_allclose(weighted, repeated.means(np.repeat(resid, repeats, axis=0)), atol=1e-9)


def test_a_digit_that_no_question_shows_is_named() -> None:
    with pytest.raises(ProbeError, match=r"40 questions show no 3 4; raise `chains`"):
        DigitFit.of(rng().integers(0, 3, (40, 2)), np.ones((1, 40)), list("01234"))


def test_digits_that_cannot_be_told_from_their_positions_are_refused() -> None:
    digits = np.stack([rng(0).integers(0, 2, 50), rng(1).integers(2, 4, 50)], axis=1)
    with pytest.raises(ProbeError, match="never stand where others do"):
        DigitFit.of(digits, np.ones((1, 50)), list("0123"))


# The probe


@fills_in
@dataclass(frozen=True)
class Copying:
    """A task as the probe sees it: three digits, a separator, the first of them again, end."""

    symbols: tuple[str, ...]
    classes: tuple[Any, ...]

    @property
    def used(self) -> np.ndarray:
        return np.ones(len(self.symbols), dtype=bool)

    def sample(self, count: int, generator: np.random.Generator) -> Chains:
        first = self.classes.index("digit")
        shown = generator.integers(first, first + self.classes.count("digit"), (count, 3))
        ends = np.full((count, 1), self.classes.index("separator")), np.full((count, 1), self.classes.index("end"))
        symbols = np.concatenate([shown, ends[0], shown[:, :1], ends[1]], axis=1)
        return Chains(symbols, np.full(count, 6), np.full(count, 3), np.full(count, 4))


def subject(
    digits: list[str], planted: np.ndarray | None = None, *, learned: bool | None = True, seed: int = 0
) -> SampledSubject:
    """A random model of two blocks that reads these digits, listed backwards, at the planted rows of its embedding."""
    symbols = ("<end>", ">", *reversed(digits))
    task = Copying(symbols, ("end", "separator", *["digit"] * len(digits)))
    model = ModelSpec(d_model=D_MODEL, n_heads=2, n_layers=2)
    params = parameters.initialise(model, torch.Generator().manual_seed(99), d_vocab=len(symbols), n_ctx=6)
    if planted is not None:
        params["embed.W_E"][2:] = torch.from_numpy(planted[::-1].copy()).float()
    return SampledSubject("a model", Checkpoint(RunSpec(model=model), params), seed, learned, given=task)


TEN = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def planted_circle() -> Any:
    return EmbeddingGeometry(permutations=1_000).run(subject(TEN, 3 * turned(circle(10, 3), D_MODEL)))


def test_a_planted_circle_is_found_in_the_embedding_and_in_the_first_block(planted_circle: Any) -> None:
    assert "a circle that is round and closes: the embedding (frequency 3)" in planted_circle.sentence
    assert planted_circle["embed.fourier.k3"].value == pytest.approx(1, abs=1e-5)
    assert planted_circle["block0.fourier.k3"].value > planted_circle["block0.fourier.k3"].control
    unembedding = planted_circle["unembed.fourier.k3"]
    assert unembedding.value < unembedding.control
    assert planted_circle.status == "ok"


def test_a_planted_line_is_called_number_order_and_no_circle() -> None:
    found = EmbeddingGeometry(chains=64, permutations=1_000, resamples=20).run(subject(TEN, turned(line(10), D_MODEL)))
    assert "number order: the embedding" in found.sentence
    assert "closes: nowhere" in found.sentence
    assert found["embed.wrap"].value == pytest.approx(1, abs=1e-4)
    assert found["embed.order"].value == pytest.approx(1)


def test_every_place_has_the_same_keys_each_with_an_interval_or_exact_and_a_control(planted_circle: Any) -> None:
    keys = ["order", "parity", "circularity", "wrap", *(f"fourier.k{k}" for k in range(1, 6))]
    keys += ["variance.pc1", "variance.pc2"]
    places = ["embed", "unembed", "block0", "block1"]
    assert [number.key for number in planted_circle.numbers] == [f"{place}.{key}" for place in places for key in keys]
    for number in planted_circle.numbers:
        assert number.value is not None and number.control is not None and number.control_says and number.higher_means
        if number.key.startswith("block"):
            assert number.unit == "input" and number.n == 512
            assert number.low is not None and number.high is not None and number.low <= number.high
        else:
            assert number.unit == "exact" and number.low is None


def test_the_interval_of_a_mean_representation_narrows_with_more_questions() -> None:
    def width(chains: int) -> float:
        found = EmbeddingGeometry(chains=chains, permutations=1_000, resamples=100).run(subject(TEN))
        return sum(found[f"block1.fourier.k{k}"].high - found[f"block1.fourier.k{k}"].low for k in range(1, 6))

    assert width(2_000) < 0.5 * width(125)


def test_the_control_before_training_is_the_model_its_settings_begin_with(planted_circle: Any) -> None:
    spec = RunSpec(model=ModelSpec(d_model=D_MODEL, n_heads=2, n_layers=2))
    generator = torch.Generator().manual_seed(spec.seed)
    fresh = parameters.initialise(spec.model, generator, d_vocab=12, n_ctx=6)["embed.W_E"][2:].numpy()[::-1]
    rows = {(row[0], row[1]): row for row in planted_circle.tables[0].rows}
    column = planted_circle.tables[0].columns.index("before training")
    assert rows["the embedding", "circularity"][column] == pytest.approx(float(geometry.circularity(fresh)), abs=1e-6)
    assert planted_circle["embed.variance.pc1"].control == pytest.approx(geometry.variance_shares(fresh)[0], abs=1e-6)


def test_each_place_has_its_heatmap_scatter_and_spectrum_that_say_what_would_refute_them(planted_circle: Any) -> None:
    figures = planted_circle.figures
    assert [figure.kind for figure in figures] == ["heatmap", "scatter", "bars"] * 4
    assert all(figure.shows and figure.refuted_by for figure in figures)
    heatmap, scatter, bars = (figure.data for figure in figures[:3])
    assert heatmap["x"] == heatmap["y"] == TEN and np.diag(heatmap["z"]) == pytest.approx(1)
    assert [point["label"] for point in scatter["points"]] == TEN
    assert [len(series["y"]) for series in bars["series"]] == [5, 5, 5]
    json.loads(dumps({"findings": [planted_circle]}))


def test_the_same_subject_gives_the_same_finding() -> None:
    probe = EmbeddingGeometry(chains=50, permutations=1_000, resamples=10)
    assert probe.run(subject(TEN)) == probe.run(subject(TEN))


def test_an_odd_number_of_digits_has_no_parity_and_says_so() -> None:
    found = EmbeddingGeometry(chains=64, permutations=1_000, resamples=10).run(subject([str(d) for d in range(7)]))
    assert found["embed.parity"].value is None
    assert "7 digits, an odd number" in found["embed.parity"].note
    assert "parity: not defined for an odd number of digits (7)" in found.sentence
    assert found["block1.fourier.k3"].value is not None


def test_a_model_that_has_not_learned_is_named_as_such() -> None:
    probe = EmbeddingGeometry(chains=64, permutations=1_000, resamples=10)
    found = probe.run(subject(TEN, learned=False))
    assert found.status == "unlearned"
    assert found.sentence.startswith("This model has not learned its task, so nothing is claimed")


@pytest.mark.parametrize(
    ("digits", "message"),
    [
        ([], "no symbols of the class 'digit'"),
        (["0", "1", "2"], "3 digits .* at least 4 are needed"),
        (["0", "1", "2", "x"], "not all whole numbers"),
        (["0", "1", "2", "4", "5"], "do not count up by one"),
    ],
)
def test_a_task_without_digits_that_count_up_is_refused_with_the_reason(digits: list[str], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        EmbeddingGeometry().run(subject(digits))


def test_digits_that_are_one_point_are_refused() -> None:
    with pytest.raises(ProbeError, match="all digits are one point in the embedding"):
        EmbeddingGeometry().run(subject(TEN, np.ones((10, D_MODEL))))


def test_too_few_permutations_for_a_p_value_are_refused() -> None:
    with pytest.raises(SpecError, match="at least 1000 are needed"):
        EmbeddingGeometry(permutations=100)
