"""Reading what a circuit computes: what each part adds to the answer, and how operands stand in it.

*Direct logit attribution* (Elhage et al. 2021, https://transformer-circuits.pub/2021/framework) and the *logit lens*
(nostalgebraist 2020) read parts as if nothing came after them. The operands' part in an activation is a functional
analysis of variance over all inputs of a template: what each operand does alone, what pairs of operands do beyond that,
and triples beyond pairs. What reads the operands independently of each other has main effects alone; where they first
interact, they meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.circuits.effects import Metric
from kc_interp.errors import ProbeError
from kc_interp.model.forward import LAYER_NORM_EPS, unembed
from kc_interp.model.graph import BIAS
from kc_interp.model.interventions import Streams, biases


@torch.no_grad()
def direct_attribution(streams: Streams, metric: Metric) -> Float[Tensor, "writer batch"]:
    """What each writer adds to the logit difference at the answer, with the final LayerNorm's scale held as it is.

    The rows sum to the logit difference up to the unembedding's bias (and LayerNorm's), which no writer adds.
    """
    written = streams.written[:, :, -1].clone()
    written[BIAS] = biases(streams.params, streams.spec)[-1]
    if streams.spec.norm == "LN":
        total = written.sum(0)
        centred = total - total.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + LAYER_NORM_EPS).sqrt()
        written = (written - written.mean(-1, keepdim=True)) / scale * streams.params["ln_final.w"][0]
    return metric(written @ streams.params["unembed.W_U"][0])


@torch.no_grad()
def logit_lens(streams: Streams, answers: Int[Tensor, " batch"]) -> Float[Tensor, "stage batch"]:
    """The probability of the answer when the stream before each block, and after the last, is unembedded."""
    graph, spec = streams.graph, streams.spec
    own = biases(streams.params, spec)
    stages = [streams.written[: graph.head(block), :, -1:].sum(0) + own[2 * block] for block in range(spec.depth + 1)]
    read = unembed(streams.params, spec, torch.stack(stages))[:, :, 0].softmax(-1)
    return read.gather(-1, answers.expand(len(read), -1)[..., None])[..., 0]


@dataclass(frozen=True)
class Interactions:
    """Shares of an activation's variance by how many operands act together: `order[i]` is for i + 1; they sum to 1."""

    order: tuple[float, ...]
    pairs: Mapping[tuple[int, int], float]
    """Of the second order, the share of each pair of operands."""


def interactions(
    activations: Float[np.ndarray, "example feature"], operands: Int[np.ndarray, "example operand"]
) -> Interactions | None:
    """Functional analysis of variance over every combination of operands; None when the activation does not vary.

    Raises ProbeError unless every combination of the operands' values is there exactly once.
    """
    values = [np.unique(column) for column in operands.T]
    sizes = tuple(len(column) for column in values)
    where = np.stack([np.searchsorted(column, own) for column, own in zip(values, operands.T, strict=True)])
    flat = np.ravel_multi_index(tuple(where), sizes)
    if len(flat) != np.prod(sizes) or len(np.unique(flat)) != len(flat):
        raise ProbeError(
            f"{len(flat)} inputs are not each combination of {' x '.join(map(str, sizes))} operands once; an analysis "
            "of variance needs all of them"
        )
    grid = np.empty((int(np.prod(sizes)), activations.shape[1]))
    grid[flat] = activations - activations.mean(axis=0)
    grid = grid.reshape(*sizes, -1)
    whole = float((grid**2).mean(axis=tuple(range(len(sizes)))).sum())
    if whole <= 1e-12:
        return None
    parts: dict[tuple[int, ...], np.ndarray] = {}
    order, pairs = [], {}
    for count in range(1, len(sizes) + 1):
        total = 0.0
        for some in combinations(range(len(sizes)), count):
            others = tuple(axis for axis in range(len(sizes)) if axis not in some)
            own = grid.mean(axis=others, keepdims=True)
            part = own - sum(parts[fewer] for size in range(1, count) for fewer in combinations(some, size))
            parts[some] = part
            share = float((part**2).mean(axis=tuple(range(len(sizes)))).sum()) / whole
            total += share
            if count == 2:
                pairs[some[0], some[1]] = share
        order.append(total)
    return Interactions(tuple(order), pairs)


def explained(activations: Float[np.ndarray, "example feature"], groups: Int[np.ndarray, " example"]) -> float | None:
    """The share of the activations' variance between groups, less what as many groups at random would take.

    1: inputs of one group look alike; 0: no more alike than any; adjusted as R² is (below 0 by chance). None when
    nothing varies, or every group has one member.
    """
    centred = activations - activations.mean(axis=0)
    whole = float((centred**2).sum())
    _, group = np.unique(groups, return_inverse=True)
    count, n = int(group.max()) + 1, len(group)
    if whole <= 1e-12 * n or count >= n:
        return None
    sizes = np.bincount(group)
    sums = np.add.reduceat(centred[np.argsort(group, kind="stable")], np.cumsum(sizes) - sizes)
    between = float((sums**2 / sizes[:, None]).sum())
    return 1 - (whole - between) / (n - count) / (whole / (n - 1))


def multisets(operands: Int[np.ndarray, "example operand"]) -> Int[np.ndarray, " example"]:
    """The same number for inputs whose operands are the same in another order."""
    return np.unique(np.sort(operands, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
