"""Head weights: scores and logits of hand-made heads, two routes to each, and weights told from what a model does."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch

from kc_interp.circuits import head_weights as read
from kc_interp.circuits.attention import Queries
from kc_interp.errors import SpecError
from kc_interp.finding import Finding
from kc_interp.model.forward import Sites, forward
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec
from kc_interp.testing import check_probe, known_answer, small_subject
from kc_probes.head_weights import HeadWeights, _only
from tests.test_attention_attribution import random_subject
from tests.test_forward import SHAPES

FEW = HeadWeights(chains=16, resamples=40, draws=100)


@cache
def found(name: str) -> Finding:
    return FEW.run(known_answer(name).subject())


def value(finding: Finding, key: str) -> float:
    number = finding[key].value
    assert number is not None
    return number


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Random, with LayerNorm and biases: two blocks of two heads."""
    return random_subject(seed=4, d_model=16, n_layers=2, n_heads=2)


@pytest.mark.parametrize("block", [0, 1])
def test_the_score_of_mean_readings_is_the_mean_score_over_all_pairs(subject: Subject, block: int) -> None:
    """The other route: TransformerLens's queries and keys of every position, averaged by class after the product."""
    chains = subject.items(12, "a test")
    ids, spec = subject.ids(chains), subject.checkpoint.spec.model
    every = Queries.of(subject.task, chains)
    answer = _only(every, every.kinds["answer"])
    readings = read.Readings.of(subject.params, spec, ids)
    heads = read.Heads.of(subject.params, spec, block)
    preferences = read.ByClass.of(readings.blocks[block], answer).preferences(heads, np.ones((1, len(chains))))

    sites = Sites(record={f"blocks.{block}.attn.hook_{part}" for part in "qk"})
    with torch.no_grad():
        forward(subject.params, spec, ids, sites=sites)
    q, k = (sites.cache[f"blocks.{block}.attn.hook_{part}"][0].double().numpy() for part in "qk")
    queries = q[answer.chain, answer.position]
    for source in range(len(answer.names)):
        chain, place = np.nonzero(answer.sources == source)
        keys = k[chain, place]
        assert len(keys) == round(preferences.often[0, source] * (answer.sources >= 0).sum())
        pairs = np.einsum("ahd,bhd->habd", queries, keys).sum(-1).mean((1, 2)) / math.sqrt(spec.head_size)
        if len(keys):
            np.testing.assert_allclose(preferences.scores[0, :, source], pairs, atol=1e-4)


@pytest.mark.parametrize("norm", ["LN", "none"])
def test_what_a_head_adds_is_what_the_logits_gain_when_nothing_follows(norm: str) -> None:
    """With the MLP silent and LayerNorm's scale held, moving a head's attention moves the logits by just so much."""
    shape = next(shape for shape in SHAPES.values() if shape.norm == norm)
    spec = dataclasses.replace(shape, n_layers=1, repeat=1)
    subject = random_subject(seed=7, **{f.name: getattr(spec, f.name) for f in dataclasses.fields(ModelSpec)})
    ids = subject.ids(subject.items(3, "a test"))[:, :, :6]

    def logits(places: int, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        def looks(pattern: torch.Tensor) -> torch.Tensor:
            pattern = pattern.clone()
            pattern[:, :, 0, -1] = torch.eye(6)[places]
            return pattern

        edits = {"blocks.0.attn.hook_pattern": looks, "blocks.0.hook_mlp_out": torch.zeros_like}
        if scale is not None:
            edits["ln_final.hook_scale"] = lambda _: scale
        sites = Sites(record={"ln_final.hook_scale"}, edits=edits)
        with torch.no_grad():
            run = forward(subject.params, spec, ids, sites=sites)
        return run[0, :, -1], sites.cache.get("ln_final.hook_scale", torch.ones(1))

    first, scale = logits(1)
    moved = (logits(3, scale if norm == "LN" else None)[0] - first).double().numpy()
    readings = read.Readings.of(subject.params, spec, ids)
    heads = read.Heads.of(subject.params, spec, 0)
    for chain in range(3):
        own = float(scale[0, chain, -1, 0]) if norm == "LN" else 1.0
        added = heads.adds(readings.blocks[0, chain], read.unembedding(subject.params, spec, own))[0]
        np.testing.assert_allclose(added[3] - added[1], moved[chain], atol=1e-4)


def test_token_means_are_plain_means_up_to_the_query_and_survive_a_resample_without_the_token() -> None:
    readings = np.arange(8.0).reshape(2, 4, 1)
    ids = np.asarray([[5, 6, 5, 5], [6, 6, 7, 7]])
    means = read.token_means(
        readings, ids, np.asarray([2, 1]), np.asarray([5, 6, 7]), np.asarray([[1.0, 1.0], [0.0, 2.0]])
    )
    np.testing.assert_allclose(means[:, 0, 0], [1, 1])  # 0 and 2; the second resample has no 5
    np.testing.assert_allclose(means[:, 1, 0], [10 / 3, 4.5])
    assert np.isnan(means[:, 2]).all()  # 7 stands behind the query alone


def test_copying_and_eigenvalues_of_matrices_known_by_heart() -> None:
    one = np.eye(4)
    shift = np.roll(one, 1, axis=1)  # a cycle: eigenvalues 1, i, -1, -i
    added = read.centred(np.stack([one, -one, shift, np.ones((4, 4))]))
    np.testing.assert_allclose(read.copying(added), [1, 0, 0, np.nan])
    np.testing.assert_allclose(read.positive_eigenvalues(read.core(added)), [1, -1, -1 / 3, np.nan], atol=1e-12)
    assert read.copying(added[2], np.asarray([1, 2, 3, 0])) == 1


def test_a_constant_of_the_head_neither_copies_nor_hides_copying() -> None:
    added = np.eye(4) + 100 * np.asarray([1.0, 0, 0, 0])
    assert read.copying(read.centred(added)) == 1


def test_random_directions_keep_the_singular_values(subject: Subject) -> None:
    heads = read.Heads.of(subject.params, subject.checkpoint.spec.model, 0)
    other = read.rotated(heads, np.random.default_rng(0))
    for before, after in ((heads.w_q, other.w_q), (heads.w_k, other.w_k)):
        assert np.abs(before - after).max() > 0.01
        np.testing.assert_allclose(np.linalg.svd(before)[1], np.linalg.svd(after)[1], atol=1e-9)
    turn = read.rotation(5, np.random.default_rng(1))
    np.testing.assert_allclose(turn @ turn.T, np.eye(5), atol=1e-12)


def test_a_head_that_attends_to_the_largest_copies_it_and_the_answer_needs_it() -> None:
    finding = found("max_by_attention")
    assert value(finding, "block0.ov.copying") == 1
    assert value(finding, "block0.ov.eigenvalues") == pytest.approx(1)
    assert value(finding, "block0.qk.attended") == pytest.approx(1)
    assert value(finding, "block0.qk.predicted") == pytest.approx(1)
    # Cut from its operands the model has the same logit for each of its 15 symbols.
    for key in ("block0.qk.cut", "block0.ov.cut"):
        assert value(finding, key) == pytest.approx(math.log(15), abs=1e-3)
        assert finding[key].control == pytest.approx(0, abs=1e-6)
    assert "prefer operands most" in finding.sentence


def test_a_head_that_looks_for_a_place_prefers_the_class_that_stands_there() -> None:
    """A score of 30 for one of two operands, 0 elsewhere: 15 on average for the class, which holds two of six places."""
    finding = found("lookup_sum")
    assert value(finding, "block0.qk.spread") == pytest.approx(15 * math.sqrt(2 / 9), rel=1e-5)
    rows = {(row[1], row[3]): row for row in finding.tables[0].rows if row[2] == "the answer"}
    for head in (0, 1):
        assert rows[head, "operands"][4] == pytest.approx(10)
        assert rows[head, "brackets"][4] == pytest.approx(-5)
    assert finding["block0.ov.copying"].value is None  # it writes for the MLP, not for the logits
    assert "by the direct path" in finding["block0.ov.copying"].note


def test_a_head_without_preferences_is_said_to_have_none() -> None:
    known = known_answer("lookup_sum")
    params = dict(known.params)
    params["blocks.0.attn.W_Q"] = torch.zeros_like(params["blocks.0.attn.W_Q"])
    finding = FEW.run(dataclasses.replace(known, params=params, solves=False).subject())
    assert finding.status == "unlearned"
    assert finding["block0.qk.spread"].value == pytest.approx(0, abs=1e-9)
    assert finding["block0.qk.cut"].value is None
    assert "no head prefers any class" in finding["block0.qk.cut"].note


def test_a_head_that_copies_but_is_not_looked_at_costs_nothing() -> None:
    """Weights alone would call it the copying head; the cut says that the answer does not come through it."""
    known = known_answer("max_by_attention")
    params = {name: own.clone() for name, own in known.params.items()}
    params["blocks.0.attn.W_K"] *= 0
    params["blocks.0.attn.W_K"][:, known.tokens.symbols.index("="), :] = 30.0
    finding = FEW.run(dataclasses.replace(known, params=params, solves=False).subject())
    assert value(finding, "block0.ov.copying") == 1
    assert value(finding, "block0.ov.cut") == pytest.approx(0, abs=1e-6)


def test_it_keeps_its_promises_and_its_keys_depend_on_depth_alone(subject: Subject) -> None:
    small = check_probe(FEW, small_subject(steps=5))
    assert {number.key for number in small.numbers} == {number.key for number in FEW.run(subject).numbers}
    assert len({number.key for number in found("max_by_attention").numbers}) * 2 == len(small.numbers)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"chains": 1}, "at least 2"), ({"resamples": 1}, "at least 2"), ({"draws": 99}, "at least 100")],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, int], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        HeadWeights(**settings)
