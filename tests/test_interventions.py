"""Edge interventions: all replaced is the other run, one replaced is a hooked forward, and the two ways here agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kc_interp.circuits.effects import Comparison, Metric, edge_logits, node_logits
from kc_interp.circuits.replacement import mean, optimal, resampled, zero
from kc_interp.errors import ProbeError
from kc_interp.model import parameters
from kc_interp.model.graph import CONSTANTS, Graph
from kc_interp.model.interventions import Streams, replaced
from kc_interp.model.lens import hooked, replaced_by_hook
from kc_interp.spec import ModelSpec
from tests.test_forward import SHAPES, parameters_of, random_tokens


@pytest.fixture(params=SHAPES, ids=list(SHAPES))
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return SHAPES[request.param]


def runs(spec: ModelSpec, batch: int = 3, pos: int = 7, dtype: torch.dtype = torch.float32) -> tuple[Streams, Streams]:
    params = parameters.stack([parameters_of(spec, seed=5, dtype=dtype)])
    return tuple(Streams.of(params, spec, random_tokens(batch, pos, seed=seed)) for seed in (1, 2))  # type: ignore[return-value]


def masks(graph: Graph, *sets: list[tuple[int, int]]) -> Tensor:
    return torch.from_numpy(np.stack([graph.mask(edges) for edges in sets])).float()


def test_a_model_of_two_layers_and_four_heads_has_110_edges_that_vary() -> None:
    graph = Graph.of(ModelSpec())
    assert (len(graph.readers), len(graph.writers) - len(CONSTANTS)) == (27, 11)
    assert len(graph.varying) == 110
    assert len(Graph.of(ModelSpec(n_layers=3)).varying) == 262


def test_names_of_edges_go_there_and_back(spec: ModelSpec) -> None:
    graph = Graph.of(spec)
    assert [graph.edge(graph.name(edge)) for edge in graph.edges] == list(graph.edges)


def test_an_edge_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(ProbeError, match=r"no edge 'm1->m0'.*did you mean"):
        Graph.of(ModelSpec()).edge("m1->m0")


def test_all_edges_replaced_is_the_other_run_and_none_is_this_one(spec: ModelSpec) -> None:
    base, source = runs(spec)
    graph = base.graph
    logits = replaced(base, source, masks(graph, list(graph.edges), [], list(graph.varying)))
    for found, expected in zip(logits, (source.logits, base.logits, source.logits), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_every_single_edge_is_the_same_by_both_ways(spec: ModelSpec) -> None:
    base, source = runs(spec)
    edges = base.graph.edges
    both = edge_logits(base, source, edges), replaced(base, source, masks(base.graph, *([edge] for edge in edges)))
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)
    assert (both[0] - base.logits).abs().amax((1, 2)).gt(1e-4).sum() >= len(base.graph.varying) * 0.9


def test_constants_carry_nothing_between_runs_of_equal_positions(spec: ModelSpec) -> None:
    base, source = runs(spec)
    graph = base.graph
    constant = [edge for edge in graph.edges if graph.writers[edge[0]] in CONSTANTS]
    logits = edge_logits(base, source, constant)
    torch.testing.assert_close(logits, base.logits.expand_as(logits), atol=1e-5, rtol=1e-5)
    zeroed = edge_logits(base, zero(base), constant)
    assert (zeroed - base.logits).abs().amax((1, 2)).gt(1e-4).any()


@pytest.mark.parametrize("name", ["two layers, four heads", "no LayerNorm"])
def test_every_edge_is_what_transformer_lens_gives_with_split_inputs(name: str) -> None:
    spec = SHAPES[name]
    params, tokens = parameters_of(spec, seed=5), [random_tokens(3, 7, seed=seed) for seed in (1, 2)]
    model = hooked(params, spec)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    caches = [model.run_with_cache(ids)[1] for ids in tokens]
    base, source = (Streams.of(parameters.stack([params]), spec, ids) for ids in tokens)
    graph = base.graph
    mine = edge_logits(base, source, graph.varying)
    for logits, edge in zip(mine, graph.varying, strict=True):
        expected = replaced_by_hook(model, tokens[0], *caches, graph.name(edge))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5, msg=lambda m, e=edge: graph.name(e) + m)


def test_a_node_is_replaced_by_all_the_edges_that_leave_it(spec: ModelSpec) -> None:
    """The last block's MLP is read by the unembedding alone; the token embedding alone decides a whole run."""
    base, source = runs(spec)
    graph = base.graph
    last = len(graph.writers) - 1
    torch.testing.assert_close(
        node_logits(base, source, [last])[0], edge_logits(base, source, [(last, len(graph.readers) - 1)])[0]
    )
    torch.testing.assert_close(node_logits(base, source, [0])[0], source.logits, atol=1e-5, rtol=1e-5)


def test_a_mask_by_position_replaces_there_alone(spec: ModelSpec) -> None:
    base, source = runs(spec)
    graph = base.graph
    everywhere = masks(graph, [graph.edges[0]], [graph.edges[-1]])
    by_position = everywhere[..., None].expand(-1, -1, -1, base.positions)
    torch.testing.assert_close(replaced(base, source, by_position), replaced(base, source, everywhere))
    nowhere = by_position.clone()
    nowhere[..., -1] = 0
    logits = replaced(base, source, nowhere)
    torch.testing.assert_close(logits[1], base.logits)  # the unembedding reads the answer's position alone
    mixed = Streams(base.params, spec, base.written.clone(), base.bias, base.logits)
    mixed.written[:, :, :-1] = source.written[:, :, :-1]
    torch.testing.assert_close(logits, replaced(base, mixed, everywhere), atol=1e-5, rtol=1e-5)


def test_effects_are_shares_of_the_whole_with_an_interval_over_pairs() -> None:
    base, source = runs(SHAPES["two layers, four heads"], batch=16)
    answers = torch.randint(0, 6, (16,), generator=torch.Generator().manual_seed(0)), torch.arange(16) % 6 + 6
    metric = Metric(*answers)
    flip = (metric(source.logits) - metric(base.logits)).sign()
    metric = Metric(
        torch.where(flip > 0, answers[0], answers[1]), torch.where(flip > 0, answers[1], answers[0])
    )  # so that the whole is far from 0
    comparison = Comparison.of(base, source, metric, np.random.default_rng(0))
    whole = comparison.nodes([0])
    np.testing.assert_allclose(whole.value, 1, atol=1e-5)
    np.testing.assert_allclose(whole.high - whole.low, 0, atol=1e-4)
    edges = comparison.edges()
    assert (edges.low <= edges.value).all()
    assert (edges.value <= edges.high).all()
    few = list(base.graph.varying[::20])
    pairs, joint = comparison.pairs(few)
    assert len(pairs) == len(joint.value) == len(few) * (len(few) - 1) // 2
    logits = torch.stack([replaced(base, source, masks(base.graph, list(pair)))[0] for pair in pairs])
    np.testing.assert_allclose(joint.value, comparison.effects(comparison.moved(logits)).value, atol=1e-5)


def everything(base: Streams, source: Streams) -> Tensor:
    return replaced(base, source, masks(base.graph, list(base.graph.edges)).to(base.written.dtype))[0]


def test_zero_mean_and_resampled_sources_have_the_logits_that_replacing_everything_gives(spec: ModelSpec) -> None:
    """In float64: LayerNorm of a stream of zeros magnifies rounding 300 times."""
    base, _ = runs(spec, batch=5, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for source in (zero(base), mean(base), resampled(base, rng)):
        torch.testing.assert_close(everything(base, source), source.logits)
    assert torch.equal(zero(base).logits, base.params["unembed.b_U"].expand(5, -1)) or spec.norm == "LN"
    assert mean(base).written.std(1).abs().max() < 1e-6
    moved = resampled(base, rng).logits
    assert all(any(torch.allclose(row, own) for own in base.logits) for row in moved)
    assert not torch.isclose(moved, base.logits).all(-1).any()


def test_optimal_constants_cost_less_than_the_mean_on_the_inputs_they_were_made_for() -> None:
    base, _ = runs(SHAPES["two layers, four heads"], batch=24)
    answers, graph = base.logits.argmax(-1), base.graph
    mask = masks(graph, [edge for edge in graph.edges if edge[0] == graph.head(0, 1)])

    def nll(source: Streams) -> float:
        return torch.nn.functional.cross_entropy(replaced(base, source, mask)[0], answers).item()

    found = optimal(base, mask[0], answers, steps=40)
    assert nll(found) < nll(mean(base))
    assert torch.equal(found.written[0], mean(base).written[0])  # what is not replaced is not fitted


def test_a_whole_that_may_be_nothing_is_refused() -> None:
    base, _ = runs(SHAPES["two layers, four heads"])
    metric = Metric(torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.long))
    with pytest.raises(ProbeError, match="includes 0"):
        Comparison.of(base, base, metric, np.random.default_rng(0))


def test_runs_of_other_shapes_are_refused() -> None:
    base, _ = runs(SHAPES["two layers, four heads"])
    other, _ = runs(SHAPES["two layers, four heads"], pos=8)
    with pytest.raises(ProbeError, match=r"3 inputs of 7 tokens.*3 inputs of 8 tokens"):
        edge_logits(base, other, base.graph.varying)
