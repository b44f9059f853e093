"""Circuits compared: heads are matched by what they do, and overlap is judged against nulls matched alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from kc_interp.circuits.effects import Comparison, Metric
from kc_interp.circuits.matching import (
    Matching,
    Null,
    Profile,
    compared,
    heads_of,
    match,
    matchings,
    overlap,
    overlaps,
    renamed,
    shuffled,
)
from kc_interp.errors import ProbeError
from kc_interp.known_answers import KnownAnswer
from kc_interp.known_answers.constructed import lookup_sum
from kc_interp.known_answers.masked import masked_sum
from kc_interp.model.interventions import Streams
from kc_interp.spec import ModelSpec
from kc_interp.testing import known_answer, small_subject

Half = tuple[Profile, Profile]


def halves(known: KnownAnswer, params: Mapping[str, Tensor] | None = None, count: int = 32) -> Half:
    """A model's profiles on two sets of pairs."""
    changed = known if params is None else dataclasses.replace(known, params=dict(params))
    first, second = (profile_of(changed, seed, count) for seed in (0, 1))
    return first, second


def profile_of(known: KnownAnswer, seed: int, count: int) -> Profile:
    pairs = known.pairs(count, np.random.default_rng(seed))
    base, source = known.streams(pairs)
    answers = known.answers(pairs)
    noising = Comparison.of(base, source, Metric(answers[0], answers[1]), np.random.default_rng(2), 50)
    return Profile.of(noising, keep=0.99)


def permuted(params: Mapping[str, Tensor], orders: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The same function, its heads in another order: head h of block b is now what head orders[b][h] was."""
    found = dict(params)
    for block, order in enumerate(orders):
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
            key = f"blocks.{block}.attn.{name}"
            found[key] = params[key][list(order)]
    return found


@pytest.fixture(scope="module")
def decoy() -> KnownAnswer:
    return known_answer("decoy")


@pytest.fixture(scope="module")
def original(decoy: KnownAnswer) -> Half:
    return halves(decoy)


def test_a_model_with_its_heads_in_another_order_is_recognised(decoy: KnownAnswer, original: Half) -> None:
    orders = ((2, 0, 3, 1), (1, 3, 0, 2))
    found = compared(original, halves(decoy, permuted(decoy.params, orders)), np.random.default_rng(0), shuffles=19)
    assert found.overlap.jaccard == 1
    assert found.overlap.weighted == pytest.approx(1, abs=1e-6)
    carrying = [(0, 1), (0, 2)]  # the two heads of the circuit; what the others are matched to changes nothing
    assert [found.matching[block][head] for block, head in carrying] == [
        orders[block].index(head) for block, head in carrying
    ]
    assert found.exact
    # Two of four heads matter, in one block: 2 of its 12 ordered choices of two heads keep the pair, 1 the order.
    assert found.random["weighted"].p == pytest.approx(1 / 12)
    assert found.random["weighted"].mean is not None
    assert found.random["weighted"].mean < 0.7
    assert found.shuffled["weighted"].p is not None
    assert found.shuffled["weighted"].p < 0.5


def test_a_trained_model_with_its_heads_in_another_order_beats_every_other_matching() -> None:
    """Every head of a trained model does something of its own: one matching of all is right."""
    subject = small_subject(steps=30)
    spec, params = subject.checkpoint.spec.model, subject.checkpoint.params
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, len(subject.tokens), (2, 2, 12, 7)))
    answers = torch.stack([torch.zeros(12, dtype=torch.int64), torch.ones(12, dtype=torch.int64)])

    def both(weights: Mapping[str, Tensor]) -> Half:
        made = []
        for clean, twin in ids:
            runs = [Streams.of({name: value[None] for name, value in weights.items()}, spec, x) for x in (clean, twin)]
            made.append(Comparison(runs[0], runs[1], Metric(answers[0], answers[1]), np.full((20, 12), 1 / 12)))
        first, second = (Profile(spec, _effects(one), np.abs(_effects(one)) > 0.02, heads_of(one)) for one in made)
        return first, second

    orders = ((1, 0), (1, 0))
    found = compared(both(params), both(permuted(params, orders)), np.random.default_rng(0), shuffles=20)
    assert found.matching == orders
    assert found.overlap.jaccard == 1
    assert found.overlap.weighted == pytest.approx(1, abs=1e-4)
    assert found.random["weighted"].p == pytest.approx(1 / 4)
    assert found.random["weighted"].draws == 4


def _effects(noising: Comparison) -> np.ndarray:
    effects = np.zeros(noising.base.graph.visible.shape)
    effects[tuple(np.transpose(noising.base.graph.varying))] = noising.edges().value
    return effects


def test_a_decoy_and_its_core_have_one_circuit(decoy: KnownAnswer, original: Half) -> None:
    """The core: the same model without the parts that look busy."""
    core = {name: value.clone() for name, value in decoy.params.items()}
    for block, heads in enumerate(((0, 3), (0, 1, 2, 3))):
        core[f"blocks.{block}.attn.W_O"][list(heads)] = 0
    core["blocks.1.mlp.W_out"].zero_()
    found = compared(
        original, halves(decoy, permuted(core, ((3, 2, 1, 0), (0, 1, 2, 3)))), np.random.default_rng(0), shuffles=1
    )
    assert found.overlap.jaccard == 1
    assert found.overlap.weighted == pytest.approx(1, abs=1e-6)


def test_two_algorithms_share_what_both_need() -> None:
    """SUM of two modulo 5: two heads that fetch an operand each, against one head that fetches both."""
    two, one = lookup_sum(5), masked_sum()
    assert (two.spec.n_layers, two.spec.n_heads, two.query) == (one.spec.n_layers, one.spec.n_heads, one.query)
    first, second = halves(two, count=16), halves(one, count=16)
    found = compared(first, second, np.random.default_rng(0), shuffles=1)
    assert found.overlap.jaccard == pytest.approx(3 / 5)  # one head's two edges are in one of them alone
    every, _ = matchings(two.spec, np.random.default_rng(0))
    assert max(other.jaccard for other in overlaps(first[1], second[1], every)) == found.overlap.jaccard
    assert found.overlap.weighted < 0.9


def test_models_of_other_shapes_are_refused(original: Half) -> None:
    narrower = dataclasses.replace(original[0], spec=dataclasses.replace(original[0].spec, n_heads=2))
    with pytest.raises(ProbeError, match=r"n_heads is 4 in one model and 2 in the other; compare models of one shape"):
        match(original[0], narrower)


def test_overlap_of_small_circuits_is_counted_by_hand() -> None:
    spec = ModelSpec(8, 1, 2)
    shape = (3 + 3, 2 * 3 + 1 + 1)
    none = {"attends": np.zeros((1, 2, 1))}

    def made(edges: Mapping[tuple[int, int], float]) -> Profile:
        effects = np.zeros(shape)
        for edge, value in edges.items():
            effects[edge] = value
        return Profile(spec, effects, effects > 0.3, none)

    graph = made({}).graph
    value, into_mlp, out = graph.edge("token->a0.h0<v>"), graph.edge("a0.h0->m0"), graph.edge("m0->logits")
    one = made({value: 0.5, into_mlp: 0.5, out: 1.0})
    swapped = made({graph.edge("token->a0.h1<v>"): 0.4, graph.edge("a0.h1->m0"): 0.5, out: -1.0})
    as_they_are, exchanged = overlap(one, swapped), overlap(one, swapped, ((1, 0),))
    assert as_they_are.jaccard == 0
    assert as_they_are.weighted == 0  # opposite signs share nothing
    assert exchanged.jaccard == pytest.approx(2 / 3)  # the last edge is kept in one alone: its effect is below 0
    assert exchanged.weighted == pytest.approx((0.4 + 0.5) / (0.5 + 0.5 + 1.0))
    index = renamed(graph, ((1, 0),))
    assert index[value] == np.ravel_multi_index(graph.edge("token->a0.h1<v>"), shape)
    assert index[out] == np.ravel_multi_index(out, shape)


def test_matchings_are_all_where_they_are_few() -> None:
    rng = np.random.default_rng(0)
    every, exact = matchings(ModelSpec(8, 2, 4), rng)
    assert exact
    assert len(set(every)) == len(every) == math.factorial(4) ** 2
    tied, exact = matchings(ModelSpec(8, 1, 2, repeat=3), rng)
    assert exact
    assert tied == [((0, 1),) * 3, ((1, 0),) * 3]
    many, exact = matchings(ModelSpec(8, 4, 4), rng)
    assert not exact
    assert all(sorted(heads) == [0, 1, 2, 3] for matching in many[:5] for heads in matching)


def test_shuffled_circuits_keep_every_kind_of_edge_and_lose_the_heads(original: Half) -> None:
    graph = original[0].graph
    first, second = shuffled(original, np.random.default_rng(0))
    values = graph.reader(0, 2)
    for own, other in zip(original, (first, second), strict=True):
        np.testing.assert_allclose(np.sort(own.effects, axis=None), np.sort(other.effects, axis=None))
        assert own.edges == other.edges
        np.testing.assert_allclose(
            np.sort(own.effects[0, values : values + 4]), np.sort(other.effects[0, values : values + 4])
        )
        assert own.effects[graph.edge("m0->logits")] == other.effects[graph.edge("m0->logits")]
    moved = [np.argwhere(own.kept != other.kept) for own, other in zip(original, (first, second), strict=True)]
    np.testing.assert_array_equal(*moved)  # one exchange for both halves
    assert any((shuffled(original, np.random.default_rng(seed))[0].kept != original[0].kept).any() for seed in range(4))


def test_circuits_with_shuffled_heads_are_no_more_alike_than_shuffled_ones(original: Half) -> None:
    """The null against itself: for models whose heads were shuffled, p is not small more often than it should be."""
    below = 0
    for seed in range(8):
        first, second = shuffled(original, np.random.default_rng(seed))
        found = compared(original, (first, second), np.random.default_rng(100 + seed), shuffles=9)
        p = found.shuffled["weighted"].p
        assert p is not None
        below += p <= 0.1
    assert below <= 4


def test_matching_refuses_other_inputs(original: Half) -> None:
    shorter = dataclasses.replace(
        original[0], heads={**original[0].heads, "attends": original[0].heads["attends"][..., :-1]}
    )
    with pytest.raises(ProbeError, match="give both the same inputs"):
        match(original[0], shorter)


def test_a_null_counts_what_it_draws() -> None:
    null = Null.of(0.5, [0.1, 0.5, 0.9, None])
    assert (null.mean, null.high, null.p, null.draws) == (0.5, pytest.approx(0.86), 3 / 4, 3)
    assert Null.of(0.5, [0.1, 0.5, 0.9], exact=True).p == pytest.approx(2 / 3)
    assert Null.of(None, [0.1]).p is None


def test_the_identity_is_the_matching_of_a_model_with_itself(original: Half) -> None:
    matching: Matching = match(original[0], original[0])
    assert matching == ((0, 1, 2, 3),) * 2 or overlap(original[1], original[1], matching).jaccard == 1
