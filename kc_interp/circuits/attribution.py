"""Approximations of edge effects from gradients, by their authors' names; to be judged by the exact effects.

*EAP*, edge attribution patching (Syed, Rager and Conmy 2023, https://arxiv.org/abs/2310.10348): what the source's
writer writes more, times the gradient of the metric at the reader's input. Exact where everything after the reader is
linear, and blind where a gradient vanishes, as behind saturated attention. *EAP-IG* (Hanna, Pezzelle and Belinkov 2024,
https://arxiv.org/abs/2403.17806): the gradient is the mean over inputs on the straight line between the two runs'
embeddings. *Attribution patching* of nodes (Nanda 2023) is the same at the node's output.
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from kc_interp.circuits.effects import Comparison, Edge, Effects
from kc_interp.errors import ProbeError
from kc_interp.model.interventions import run


def eap(comparison: Comparison) -> Effects:
    """EAP's score of every edge that varies, as a share of the whole difference: the unit of the exact effects."""
    return _scores(comparison, (0.0,))


def eap_ig(comparison: Comparison, steps: int = 5) -> Effects:
    """EAP-IG (inputs): gradients at k / steps of the way from the source's to the base's embeddings, k = 1 … steps.

    With one step it is EAP. Raises ProbeError for less.
    """
    if steps < 1:
        raise ProbeError(f"EAP-IG with {steps} steps; at least 1 is needed, its authors take 5")
    return _scores(comparison, tuple(1 - step / steps for step in range(1, steps + 1)))


def attribution_patching(comparison: Comparison) -> tuple[Effects, list[int]]:
    """Attribution patching's score of every node that varies, and the nodes: the sum over the edges that leave it."""
    graph = comparison.base.graph
    nodes = sorted({writer for writer, _ in graph.varying})
    moved = _moved(comparison, (0.0,))
    place = {writer: index for index, writer in enumerate(nodes)}
    total = moved.new_zeros(len(nodes), moved.shape[1])
    total.index_add_(0, torch.tensor([place[writer] for writer, _ in graph.varying]), moved)
    return comparison.effects(total.double().numpy()), nodes


def _scores(comparison: Comparison, towards: tuple[float, ...]) -> Effects:
    return comparison.effects(_moved(comparison, towards).double().numpy())


def _moved(comparison: Comparison, towards: tuple[float, ...]) -> Float[Tensor, "edge batch"]:
    """What each edge is said to move the metric by, for every input: difference times mean gradient."""
    base, source, edges = comparison.base, comparison.source, comparison.base.graph.varying
    change = source.written - base.written
    total = base.written.new_zeros(len(edges), base.written.shape[1])
    for share in towards:
        gradients = _gradients(comparison, share)
        total += torch.stack([_product(change, gradients, edge) for edge in edges])
    return (total / len(towards)).cpu()


def _product(change: Float[Tensor, "writer batch pos d"], gradients: dict[int, Tensor], edge: Edge) -> Tensor:
    gradient = gradients[edge[1]]
    return einsum(change[edge[0], :, -gradient.shape[1] :], gradient, "batch pos d_model, batch pos d_model -> batch")


def _gradients(comparison: Comparison, share: float) -> dict[int, Float[Tensor, "batch pos d_model"]]:
    """The metric's gradient at every reader's input, when the embeddings are `share` of the way to the source's."""
    base, source = comparison.base, comparison.source
    first = base.graph.head(0)
    written = torch.lerp(base.written[:first], source.written[:first], share)
    leaves: dict[int, Tensor] = {}

    def listen(reader: int, count: int, stream: Tensor, written: Tensor) -> Tensor:
        seen = stream[:, None].expand(-1, count, -1, -1, -1)
        leaf = torch.zeros_like(seen).requires_grad_(True)
        leaves[reader] = leaf
        return seen + leaf

    with torch.enable_grad():
        _, logits = run(base.params, base.spec, written[None], mix=listen)
        comparison.metric(logits).sum().backward()
    return {
        reader + index: leaf.grad[0, index]
        for reader, leaf in leaves.items()
        if leaf.grad is not None
        for index in range(leaf.shape[1])
    }


__all__ = ["attribution_patching", "eap", "eap_ig"]
