"""Approximations of effects by gradients, by their authors' names: to be judged by the exact ones, not relied on.

Each says how far an edge (or node) would move the logit difference if it carried the source's writing, for every input:
the array that `Comparison.moved` gives of an exact intervention, so that `comparison.effects` makes shares of the whole
of it, signed, with intervals over inputs. What differs is where the gradient is taken:

- *attribution patching*, AtP (Nanda 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching;
  Kramár et al. 2024, https://arxiv.org/abs/2403.00745): for nodes, at the base run;
- *EAP* (Syed, Rager and Conmy 2023, https://arxiv.org/abs/2310.10348): for edges, at the base run;
- *EAP-IG, inputs* (Hanna, Pezzelle and Belinkov 2024, https://arxiv.org/abs/2403.17806): the mean over runs on
  embeddings between source and base;
- *EAP-IG, activations* (Marks et al. 2024, https://arxiv.org/abs/2403.19647; so called by Mueller et al. 2025,
  https://arxiv.org/abs/2504.13151): the mean over runs in which the edge's writer alone writes something in between.

A gradient is ∂(logit difference)/∂(what the edge's reader sees, before its LayerNorm), and what it is multiplied by is
the writer's source writing less its base writing. Both integrals have m steps, k/m of the way from the source to the
base for k = 1 … m: the base is among them, the source is not (as printed by Hanna et al.; their code for edges takes
k = 0 … m - 1). Marks' integral is over one component; the benchmark's code moves all heads of a block at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from kc_interp.circuits.effects import Comparison, Edge
from kc_interp.errors import ProbeError
from kc_interp.model.graph import BIAS, indices
from kc_interp.model.interventions import biases, mixing, run

STEPS = 5

Approximation = Callable[[Comparison, Sequence[Edge] | None], Float[np.ndarray, "edge batch"]]


def attribution_patching(
    comparison: Comparison, writers: Sequence[int] | None = None
) -> Float[np.ndarray, "writer batch"]:
    """AtP of nodes (by default of all): the difference of a node's output times its gradient.

    A node's gradient is the sum over the readers after it, so this is the sum of EAP over the edges that leave it.
    """
    _refuse_unequal(comparison)
    graph = comparison.base.graph
    chosen = range(len(graph.writers)) if writers is None else writers
    scores = _products(comparison, _gradients(comparison, _none(comparison)))
    visible = torch.from_numpy(graph.visible).to(scores)
    return (
        einsum(scores, visible, "writer reader batch, writer reader -> writer batch")[list(chosen)]
        .double()
        .cpu()
        .numpy()
    )


def eap(comparison: Comparison, edges: Sequence[Edge] | None = None) -> Float[np.ndarray, "edge batch"]:
    """EAP of edges (by default of all that vary), with one backward pass."""
    _refuse_unequal(comparison)
    return _of_edges(comparison, _products(comparison, _gradients(comparison, _none(comparison))), edges)


def eap_ig_inputs(
    comparison: Comparison, edges: Sequence[Edge] | None = None, *, steps: int = STEPS
) -> Float[np.ndarray, "edge batch"]:
    """EAP-IG over inputs, with `steps` backward passes.

    Raises ProbeError when the source is no run of the model (a mean, zeros): there are no inputs to go to.
    """
    _refuse_unequal(comparison)
    _refuse_no_run(comparison)
    total = torch.zeros(())
    for weight in _weights(steps):
        mask = _none(comparison)
        mask[: BIAS + 1] = weight
        total = total + _gradients(comparison, mask) / steps
    return _of_edges(comparison, _products(comparison, total), edges)


def eap_ig_activations(
    comparison: Comparison, edges: Sequence[Edge] | None = None, *, steps: int = STEPS
) -> Float[np.ndarray, "edge batch"]:
    """EAP-IG over activations, with `steps` backward passes for every writer, each from the writer's block on."""
    _refuse_unequal(comparison)
    graph = comparison.base.graph
    chosen = graph.varying if edges is None else edges
    scores = torch.zeros(len(graph.writers), len(graph.readers), len(comparison.base.logits)).to(
        comparison.base.written
    )
    for writer in sorted({writer for writer, _ in chosen}):
        total = torch.zeros(())
        for weight in _weights(steps):
            mask = _none(comparison)
            mask[writer] = weight
            first = max(0, (writer - graph.head(0)) // (graph.n_heads + 1))
            total = total + _gradients(comparison, mask, first) / steps
        scores[writer] = _products(comparison, total)[writer]
    return _of_edges(comparison, scores, chosen)


APPROXIMATIONS: Mapping[str, Approximation] = MappingProxyType(
    {"EAP": eap, "EAP-IG (inputs)": eap_ig_inputs, "EAP-IG (activations)": eap_ig_activations}
)
"""Of edges, by name; each with its defaults."""


def _weights(steps: int) -> list[float]:
    """The source's share at each step: the base alone is the last."""
    if steps < 1:
        raise ProbeError(f"{steps} steps of integration; at least 1 is needed, 5 are usual")
    return [1 - step / steps for step in range(1, steps + 1)]


def _none(comparison: Comparison) -> Float[Tensor, "writer reader"]:
    graph = comparison.base.graph
    return torch.zeros(len(graph.writers), len(graph.readers)).to(comparison.base.written)


def _gradients(
    comparison: Comparison, mask: Float[Tensor, "writer reader"], first: int = 0
) -> Float[Tensor, "reader batch pos d_model"]:
    """∂(logit difference)/∂(what each reader sees), for every input, while the edges in `mask` are replaced by so much.

    Only readers of block `first` and later are reached; of the others, and where no reader looks, it is 0. Inputs do
    not meet, so one backward pass of their sum serves all.
    """
    base = comparison.base
    leaves: dict[int, Tensor] = {}
    mixed = mixing(base, comparison.source, mask[None])

    def recorded(reader: int, count: int, stream: Tensor, written: Tensor) -> Tensor:
        seen = mixed(reader, count, stream, written)
        leaves[reader] = torch.zeros_like(seen, requires_grad=True)
        return seen + leaves[reader]

    with torch.enable_grad():
        logits = run(base.params, base.spec, base.written[None, : base.graph.head(first)], mix=recorded)[1]
        found = torch.autograd.grad(comparison.metric(logits).sum(), list(leaves.values()))
    gradients = base.written.new_zeros((len(base.graph.readers), *base.written.shape[1:]))
    for reader, gradient in zip(leaves, found, strict=True):
        gradients[reader : reader + gradient.shape[1], :, -gradient.shape[3] :] = gradient[0]
    return gradients


def _products(
    comparison: Comparison, gradients: Float[Tensor, "reader batch pos d_model"]
) -> Float[Tensor, "writer reader batch"]:
    """For every writer and reader the writer's difference times the reader's gradient, edge or not."""
    base, source = comparison.base, comparison.source
    change = source.written - base.written
    products = einsum(change, gradients, "writer batch pos d, reader batch pos d -> writer reader batch")
    graph = base.graph
    blocks = [(graph.block(reader), reader) for reader in range(len(graph.readers))]
    stages = [2 * block + int(block < graph.depth and reader == graph.reader(block, 3)) for block, reader in blocks]
    bias = (source.bias - biases(base.params, base.spec))[stages]
    products[BIAS] = einsum(bias, gradients, "reader d, reader batch pos d -> reader batch")
    return products


def _of_edges(
    comparison: Comparison, scores: Float[Tensor, "writer reader batch"], edges: Sequence[Edge] | None
) -> Float[np.ndarray, "edge batch"]:
    return scores.double().cpu().numpy()[indices(comparison.base.graph.varying if edges is None else edges)]


def _refuse_unequal(comparison: Comparison) -> None:
    base, source = (tuple(run.written.shape) for run in (comparison.base, comparison.source))
    if base != source:
        raise ProbeError(
            f"the runs' writings have the shapes {base} and {source} (writers, inputs, tokens, width): a difference of "
            "the two needs one shape; take both from inputs of one template"
        )
    comparison.checked()


def _refuse_no_run(comparison: Comparison) -> None:
    base, source = comparison.base, comparison.source
    with torch.no_grad():
        first = source.written[None, : base.graph.head(0)]
        logits = run(base.params, base.spec, first)[1][0]
    scale = source.logits.std() + base.logits.std()
    if not torch.allclose(logits, source.logits, rtol=1e-3, atol=1e-3 * float(scale)):
        raise ProbeError(
            "EAP-IG (inputs) goes from the source's inputs to the base's, and no input makes the model write what this "
            "source holds (a mean, zeros, or parts of several inputs); take another input's run as the source, or EAP, "
            "or EAP-IG (activations)"
        )
