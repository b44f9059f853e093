"""Approximations of effects: derivatives of the exact ones, their integrals, and where they are exact."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kc_interp.circuits.attribution import (
    APPROXIMATIONS,
    attribution_patching,
    eap,
    eap_ig_activations,
    eap_ig_inputs,
)
from kc_interp.circuits.effects import Comparison, Metric, edge_logits, node_logits
from kc_interp.circuits.replacement import mean, zero
from kc_interp.errors import ProbeError
from kc_interp.model import parameters
from kc_interp.model.forward import Sites, forward
from kc_interp.model.graph import CONSTANTS
from kc_interp.model.interventions import Streams, replaced
from kc_interp.spec import ModelSpec
from tests.test_forward import D_VOCAB, SHAPES, parameters_of, random_tokens
from tests.test_interventions import masks, runs

DEEP, FLAT, SMALL = (SHAPES[name] for name in ("two layers, four heads", "no LayerNorm", "its own head and MLP size"))


def compared(base: Streams, source: Streams, resamples: int = 100) -> Comparison:
    """With answers for which cutting every edge moves every input's logit difference down."""
    one = torch.arange(len(base.logits)) % D_VOCAB
    other = (one + 5) % D_VOCAB
    metric = Metric(one, other)
    emptied = replaced(base, source, masks(base.graph, list(base.graph.varying)).to(base.logits))[0]
    down = metric(emptied) < metric(base.logits)
    metric = Metric(torch.where(down, one, other), torch.where(down, other, one))
    return Comparison.of(base, source, metric, np.random.default_rng(0), resamples)


def pair(spec: ModelSpec, dtype: torch.dtype = torch.float64, batch: int = 3, pos: int = 5) -> Comparison:
    return compared(*runs(spec, batch=batch, pos=pos, dtype=dtype))


@pytest.mark.parametrize("spec", [DEEP, FLAT, SMALL], ids=["deep", "no LayerNorm", "small"])
def test_eap_is_the_slope_of_the_exact_replacement_where_nothing_is_replaced_yet(spec: ModelSpec) -> None:
    comparison = pair(spec)
    graph = comparison.base.graph
    little = 1e-5 * masks(graph, *([edge] for edge in graph.varying)).double()
    up, down = (comparison.moved(replaced(comparison.base, comparison.source, sign * little)) for sign in (1, -1))
    np.testing.assert_allclose(eap(comparison), (up - down) / 2e-5, atol=1e-7, rtol=1e-5)


def test_eap_is_exact_where_everything_after_the_reader_is_linear() -> None:
    """Into the unembedding without LayerNorm, for constants that are set to zero too."""
    base, other = runs(FLAT, dtype=torch.float64)
    for source in (other, zero(base)):
        comparison = compared(base, source)
        into = [edge for edge in base.graph.edges if edge[1] == len(base.graph.readers) - 1]
        exact = comparison.moved(edge_logits(base, source, into))
        for approximation in (eap, eap_ig_activations):
            np.testing.assert_allclose(approximation(comparison, into), exact, atol=1e-10)
    constant = [base.graph.writers[writer] in CONSTANTS for writer, _ in into]
    assert (np.abs(exact[constant]).max(axis=1) > 1e-3).all()


def linear() -> Comparison:
    """No LayerNorm, attention that looks everywhere alike, and neurons that are always on."""
    params = parameters_of(FLAT, seed=5, dtype=torch.float64)
    for block in range(FLAT.depth):
        params[f"blocks.{block}.attn.W_Q"].zero_()
        params[f"blocks.{block}.attn.b_Q"].zero_()
        params[f"blocks.{block}.mlp.b_in"].fill_((30.0, 3e3)[block])
    stacked = parameters.stack([params])
    return compared(*(Streams.of(stacked, FLAT, random_tokens(3, 5, seed=seed)) for seed in (1, 2)))


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_in_a_linear_model_every_approximation_is_exact_for_every_edge(name: str) -> None:
    comparison = linear()
    graph = comparison.base.graph
    exact = comparison.moved(edge_logits(comparison.base, comparison.source, graph.varying))
    approximated = APPROXIMATIONS[name](comparison, None)
    np.testing.assert_allclose(approximated, exact, atol=1e-8)
    shares, whole = comparison.effects(approximated), comparison.edges()
    np.testing.assert_allclose(np.stack(shares.all), np.stack(whole.all), atol=1e-8)
    token = [edge[0] == 0 for edge in graph.varying]
    np.testing.assert_allclose(shares.value[token].sum(), 1, atol=1e-9)


def test_integrated_over_inputs_the_token_embeddings_edges_add_up_to_the_whole() -> None:
    """Completeness of integrated gradients (Sundararajan et al. 2017), for every input; the error falls with m."""
    comparison = pair(DEEP)
    into = [edge for edge in comparison.base.graph.varying if edge[0] == 0]
    errors = [
        np.abs(eap_ig_inputs(comparison, into, steps=steps).sum(0) - comparison.whole).max() for steps in (4, 16, 64)
    ]
    assert errors[2] < 0.05 * np.abs(comparison.whole).mean()
    assert errors[2] < errors[1] / 3 < errors[0] / 9
    assert np.abs(eap(comparison, into).sum(0) - comparison.whole).max() > 5 * errors[2]


def test_integrated_over_activations_a_nodes_edges_add_up_to_its_exact_effect() -> None:
    comparison = pair(DEEP)
    base, graph = comparison.base, comparison.base.graph
    writers = [0, graph.head(0, 1), graph.head(0, 4), graph.head(1, 2), graph.head(1, 4)]
    edges = [edge for edge in graph.varying if edge[0] in writers]
    exact = comparison.moved(node_logits(base, comparison.source, writers))
    scores = eap_ig_activations(comparison, edges, steps=30)
    summed = np.stack([scores[[edge[0] == writer for edge in edges]].sum(0) for writer in writers])
    np.testing.assert_allclose(summed, exact, atol=0.04 * np.abs(exact).max())
    by_gradient = attribution_patching(comparison, writers)
    assert np.abs(by_gradient - exact).max() > 5 * np.abs(summed - exact).max()


def test_attribution_patching_is_what_backpropagation_through_the_ordinary_forward_gives() -> None:
    comparison = pair(DEEP)
    base, graph = comparison.base, comparison.base.graph
    tokens = random_tokens(3, 5, seed=1)
    names = [f"blocks.{block}.{site}" for block in range(2) for site in ("attn.hook_z", "hook_mlp_out")]
    sites = Sites(record=names)
    params = {name: value.requires_grad_() for name, value in base.params.items()}
    logits = forward(params, DEEP, tokens[None], sites=sites)[0, :, -1]
    gradients = torch.autograd.grad(comparison.metric(logits).sum(), [sites.cache[name] for name in names])
    other = Sites(record=names)
    forward(params, DEEP, random_tokens(3, 5, seed=2)[None], sites=other)
    expected = []
    for name, gradient in zip(names, gradients, strict=True):
        product = ((other.cache[name] - sites.cache[name]) * gradient)[0].sum((1, -1)).detach()
        expected += list(product.T) if name.endswith("hook_z") else [product]
    for value in params.values():
        value.requires_grad_(False)
    nodes = [graph.head(block, head) for block in range(2) for head in range(5)]
    np.testing.assert_allclose(attribution_patching(comparison, nodes), np.stack(expected), atol=1e-10)
    assert len(attribution_patching(comparison)) == len(graph.writers)


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_edges_are_scored_as_they_are_asked_for_and_do_not_touch_each_other(name: str) -> None:
    comparison = pair(SMALL)
    graph = comparison.base.graph
    some = [graph.varying[index] for index in (11, 2, 7)]
    approximation = APPROXIMATIONS[name]
    np.testing.assert_allclose(approximation(comparison, some), approximation(comparison, None)[[11, 2, 7]], atol=1e-12)
    alone = Comparison.of(
        comparison.base.take(torch.tensor([1])),
        comparison.source.take(torch.tensor([1])),
        comparison.metric.take(torch.tensor([1])),
        np.random.default_rng(0),
    )
    np.testing.assert_allclose(approximation(alone, None)[:, 0], approximation(comparison, None)[:, 1], atol=1e-12)


def test_one_step_of_integration_is_eap_and_none_is_refused() -> None:
    comparison = pair(SMALL)
    for integrated in (eap_ig_inputs, eap_ig_activations):
        np.testing.assert_allclose(integrated(comparison, steps=1), eap(comparison), atol=1e-12)
        with pytest.raises(ProbeError, match=r"0 steps of integration; at least 1 is needed"):
            integrated(comparison, steps=0)


def test_a_source_that_is_no_run_is_refused_where_inputs_are_integrated_over_and_scored_elsewhere() -> None:
    base, _ = runs(DEEP, batch=5)
    for source in (mean(base), zero(base)):
        comparison = compared(base, source)
        with pytest.raises(ProbeError, match=r"no input makes the model write .* EAP, or EAP-IG \(activations\)"):
            eap_ig_inputs(comparison)
        for approximation in (eap, eap_ig_activations):
            assert np.isfinite(approximation(comparison)).all()


def test_runs_of_other_shapes_and_a_whole_of_nothing_are_refused() -> None:
    comparison = pair(SMALL)
    longer = Streams.of(comparison.base.params, SMALL, random_tokens(3, 6, seed=2))
    other = dataclasses.replace(comparison, source=longer)
    same = dataclasses.replace(comparison, source=comparison.base)
    for approximation in (attribution_patching, eap, eap_ig_inputs, eap_ig_activations):
        with pytest.raises(ProbeError, match=r"\(7, 3, 5, 10\) and \(7, 3, 6, 10\).* one template"):
            approximation(other)
        with pytest.raises(ProbeError, match="includes 0"):
            approximation(same)
