"""What a removed edge carries instead: zeros, the mean, another input's writing, or the constants that cost least.

Where the inputs of a run share one template (the class of every token), a mean or another input's writing at a position
is that of the same place of the same kind of chain. Where they do not (several shapes of nesting in one set), the same
class of position stands in for it: `mean_by_class`, `resampled_by_class`. Constants, the position embedding and the
biases, then stay: those are never cut. Zero is outside of what later parts ever saw, and the mean of
embeddings is no token; that is why a circuit is found by resampling first and the others are shown beside it (Zhang and
Nanda 2024, https://arxiv.org/abs/2309.16042). *Optimal* constants remove what an edge says of the input and cost as
little as any constants can (Li and Janson 2024, https://arxiv.org/abs/2409.09951).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError
from kc_interp.model.graph import POSITION
from kc_interp.model.interventions import Streams, mixing, run


def zero(base: Streams) -> Streams:
    """Nothing was written, by the position embedding and the biases neither."""
    return base.writing(torch.zeros_like(base.written), torch.zeros_like(base.bias))


def mean(base: Streams) -> Streams:
    """Every writer's mean over the inputs, at each position."""
    return base.writing(base.written.mean(1, keepdim=True).expand_as(base.written).contiguous())


def mean_by_class(base: Streams, classes: Int[np.ndarray, "batch pos"]) -> Streams:
    """Every writer's mean over all inputs and positions of the same class: for inputs of several templates."""
    index = torch.from_numpy(np.unique(classes, return_inverse=True)[1].reshape(-1)).to(base.written.device)
    flat = base.written.flatten(1, 2)
    sums = flat.new_zeros((len(flat), int(index.max()) + 1, flat.shape[2])).index_add_(1, index, flat)
    means = sums / torch.bincount(index).to(flat)[:, None]
    return _writing(base, means[:, index].view_as(base.written))


def resampled_by_class(
    base: Streams,
    other: Streams,
    classes: Int[np.ndarray, "batch pos"],
    others: Int[np.ndarray, "batch pos"],
    rng: np.random.Generator,
) -> Streams:
    """Each input gets the writing of its partner in `other`, at a position of the same class: the same one if it fits.

    Where the partner has no position of that class, any other input's is drawn; where no input has one, the base's own
    stays. With one template this is the partner's whole writing.
    """
    donor, at = (np.asarray(index, dtype=np.int64) for index in np.indices(classes.shape))
    kept = np.zeros(classes.shape, dtype=bool)
    for row, place in np.argwhere(classes != others).tolist():
        fits = np.flatnonzero(others[row] == classes[row, place])
        if len(fits):
            at[row, place] = rng.choice(fits)
        elif len(anywhere := np.argwhere(others == classes[row, place])):
            donor[row, place], at[row, place] = anywhere[rng.integers(len(anywhere))]
        else:
            kept[row, place] = True
    index = [torch.from_numpy(one).to(base.written.device) for one in (donor, at)]
    own = torch.from_numpy(kept).to(base.written.device)[:, :, None]
    return _writing(base, torch.where(own, base.written, other.written[:, index[0], index[1]]))


def _writing(base: Streams, written: Float[Tensor, "writer batch pos d_model"]) -> Streams:
    """This was written, the position embedding as in the base: it belongs to the place, not to its class."""
    written = written.clone()
    written[POSITION] = base.written[POSITION]
    return base.writing(written)


def resampled(base: Streams, rng: np.random.Generator) -> Streams:
    """Each input gets the whole writing of another one, no input its own. Raises ProbeError with fewer than two."""
    count = base.written.shape[1]
    if count < 2:
        raise ProbeError("to resample, at least 2 inputs of one template are needed")
    order = rng.permutation(count)
    other = np.empty(count, dtype=np.int64)
    other[order] = np.roll(order, 1)  # one cycle through all: nobody stays
    return base.writing(base.written[:, torch.from_numpy(other)])


def optimal(
    base: Streams,
    mask: Float[Tensor, "writer reader"],
    answers: Int[Tensor, " batch"],
    *,
    steps: int = 100,
    lr: float = 0.05,
) -> Streams:
    """The constants, one for each replaced writer and position, with which the answers' loss is least.

    Adam from the means, the lowest loss of all steps; what no edge of `mask` takes keeps its mean. Fitted on these
    inputs: judge it on others.
    """
    start = mean(base)
    taken = mask.bool().any(1)
    constants = start.written[taken, :1].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([constants], lr=lr * float(start.written[taken].std()))
    first = base.written[None, : base.graph.head(0)]
    best, lowest = constants.detach().clone(), float("inf")
    for _ in range(steps + 1):
        written = start.written.clone()
        written[taken] = constants.expand(-1, base.written.shape[1], -1, -1)
        source = Streams(base.params, base.spec, written, base.bias, base.logits)
        loss = F.cross_entropy(run(base.params, base.spec, first, mix=mixing(base, source, mask[None]))[1][0], answers)
        if loss.item() < lowest:
            lowest, best = loss.item(), constants.detach().clone()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    written = start.written.clone()
    written[taken] = best.expand(-1, base.written.shape[1], -1, -1)
    return base.writing(written)
