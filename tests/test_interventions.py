"""Edge interventions: all replaced is the other run, one replaced is a hooked forward, and the two ways here agree."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from kc_interp.circuits.effects import Comparison, Metric, edge_logits, node_logits
from kc_interp.circuits.replacement import mean, mean_by_class, optimal, resampled, resampled_by_class, zero
from kc_interp.errors import ProbeError
from kc_interp.model import parameters
from kc_interp.model.graph import CONSTANTS, POSITION, Graph
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


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m1->m0", r"no edge 'm1->m0': m0 reads before m1 writes; it reads from token, position, bias, a0\.h0, .*h3$"),
        ("a9.h0->m1", r"'a9\.h0' is no writer; did you mean 'a\d\.h0'\?"),
        ("m0->a1.h2", r"'a1\.h2' is no reader; did you mean 'a1\.h2<.>'\?"),
        ("m0", r"no edge 'm0': an edge is named by its writer and its reader, as in 'token->a0\.h0<v>'"),
    ],
)
def test_an_edge_that_does_not_exist_is_refused_with_what_is_near(name: str, says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        Graph.of(ModelSpec()).edge(name)


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


def told_apart(base: Streams, source: Streams) -> Comparison:
    """With answers for which every input's logit difference falls from the base to the source."""
    one = torch.arange(len(base.logits)) % 6
    metric = Metric(one, one + 6)
    down = metric(source.logits) < metric(base.logits)
    metric = Metric(torch.where(down, one, one + 6), torch.where(down, one + 6, one))
    return Comparison.of(base, source, metric, np.random.default_rng(0))


def test_effects_are_shares_of_the_whole_with_an_interval_over_pairs() -> None:
    base, source = runs(SHAPES["two layers, four heads"], batch=16)
    comparison = told_apart(base, source)
    whole = comparison.nodes([0])
    np.testing.assert_allclose(whole.value, 1, atol=1e-5)
    np.testing.assert_allclose(whole.high - whole.low, 0, atol=1e-4)
    edges = comparison.edges()
    assert (edges.low <= edges.value).all()
    assert (edges.value <= edges.high).all()
    few = list(base.graph.varying[::20])
    pairs = list(combinations(few, 2))
    found = comparison.interactions(pairs)
    logits = torch.stack([replaced(base, source, masks(base.graph, list(pair)))[0] for pair in pairs])
    joint = comparison.effects(comparison.moved(logits))
    np.testing.assert_allclose(np.stack(found.joint.all), np.stack(joint.all), atol=1e-5)
    alone = dict(zip(few, comparison.edges(few).value, strict=True))
    apart = [alone[one] + alone[other] for one, other in pairs]
    np.testing.assert_allclose(found.beyond.value, joint.value - apart, atol=1e-5)
    assert comparison.interactions([]).joint.value.shape == (0,)


def test_effects_at_positions_are_those_of_a_mask_by_position_and_at_all_of_them_those_of_the_edge() -> None:
    comparison = told_apart(*runs(SHAPES["two layers, four heads"], batch=8))
    base, graph = comparison.base, comparison.base.graph
    into = graph.edge("token->a0.h1<v>"), graph.edge("a0.h2->m0")
    found = comparison.at([(into, range(base.positions)), (into[:1], [2, 4]), (into[:1], []), (into[1:], [6])])
    both, one = (
        masks(graph, list(into)),
        masks(graph, list(into[:1]))[..., None] * torch.eye(base.positions)[[2, 4]].sum(0),
    )
    expected = [comparison.moved(replaced(base, comparison.source, mask))[0].mean() for mask in (both, one)]
    np.testing.assert_allclose(found.value[:2], expected / comparison.whole.mean(), atol=1e-5)
    assert abs(found.value[2]) < 1e-6
    assert abs(found.value[3]) > 1e-4


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


def test_where_classes_stand_in_line_replacing_by_class_is_replacing_by_position(spec: ModelSpec) -> None:
    base, other = runs(spec, batch=5)
    places = np.tile(np.arange(base.positions), (5, 1))
    torch.testing.assert_close(mean_by_class(base, places).written, mean(base).written)
    found = resampled_by_class(base, other, places, places, np.random.default_rng(0))
    assert torch.equal(found.written, other.written)
    torch.testing.assert_close(found.logits, other.logits)


def test_where_templates_differ_every_position_gets_the_writing_of_its_class() -> None:
    """Three inputs of five positions; the last class of the second input is nobody's, one of the third its partner's not."""
    base, other = runs(SHAPES["two layers, four heads"], pos=5)
    own = np.asarray([[0, 1, 1, 2, 3], [0, 1, 2, 9, 3], [0, 2, 2, 1, 3]])
    others = np.asarray([[0, 2, 1, 1, 3], [0, 1, 2, 2, 3], [0, 1, 1, 1, 3]])
    found = resampled_by_class(base, other, own, others, np.random.default_rng(0)).written
    heads = slice(3, None)

    def donors(row: int, place: int) -> set[tuple[int, int]]:
        """Whose writing stands there."""
        return {
            (i, p) for i, p in np.ndindex(3, 5) if torch.equal(found[heads, row, place], other.written[heads, i, p])
        }

    assert donors(0, 0) == {(0, 0)}
    assert donors(0, 1) <= {(0, 2), (0, 3)} and donors(0, 1)
    assert donors(0, 3) == {(0, 1)}
    assert donors(2, 1) <= {(0, 1), (1, 2), (1, 3)} and donors(2, 1)
    assert torch.equal(found[:, 1, 3], base.written[:, 1, 3])
    assert torch.equal(found[POSITION], base.written[POSITION])
    means = mean_by_class(base, own).written
    torch.testing.assert_close(means[heads, 0, 3], base.written[heads][:, own == 2].mean(1))
    torch.testing.assert_close(means[heads, 2, 4], base.written[heads, :, 4].mean(1))
    assert torch.equal(means[POSITION], base.written[POSITION])


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
