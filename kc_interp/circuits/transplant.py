"""Transplants: a model runs with one part of it replaced by another model's, on the same input.

A part is a set of writers: the token embedding of some symbols, a head, all heads of a block, an MLP, or the whole
stream after a block. What the donor's part writes takes the place of the receiver's, at every position; everything
after it is the receiver's. If the answer survives, the donor's part says what the receiver's would have said, in a
language that the receiver reads.

*Directly*, for two models of one width whose coordinates mean the same: two checkpoints of one run, or runs that began
from one. Else through a *stitch*: an affine map from what the donor's part writes to what the receiver's writes, by
ridge regression over training inputs, all positions alike, judged on others (model stitching: Lenc and Vedaldi 2015,
https://arxiv.org/abs/1411.5908; Bansal et al. 2021, https://arxiv.org/abs/2106.07682).

A stitch can invent nothing but it can select: from a stream that still holds the question, it reads out whatever is
linear in it. Hence the controls. An *untrained donor*, stitched alike, shows what the stitch and the architecture give
without learning; the receiver's *own* part through a stitch what the fit itself loses; its *mean* what is kept with no
donor at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError
from kc_interp.model import parameters
from kc_interp.model.graph import BIAS, CONSTANTS, TOKEN, Graph
from kc_interp.model.interventions import Streams, biases, replaced
from kc_interp.spec import ModelSpec
from kc_interp.statistics import wilson


@dataclass(frozen=True)
class Part:
    """Writers that are replaced together, as every reader after them sees them.

    `after`: the first reader that comes after all of them. `constants`: whether the position embedding and the biases
    so far are among them, as in a whole stream.
    """

    name: str
    writers: tuple[int, ...]
    after: int
    constants: bool = False


def parts(graph: Graph, *, heads: bool = True) -> tuple[Part, ...]:
    """The token embedding, each head (if asked for), each block's heads together, its MLP, and the stream after it."""
    found = [Part("embedding", (TOKEN,), 0)]
    for block in range(graph.depth):
        own = tuple(graph.head(block, head) for head in range(graph.n_heads))
        mlp, after, last = graph.head(block, graph.n_heads), graph.reader(block, 3), graph.reader(block + 1)
        if heads and graph.n_heads > 1:
            found += [Part(graph.writers[writer], (writer,), after) for writer in own]
        found += [Part(f"heads of block {block}", own, after), Part(f"MLP of block {block}", (mlp,), last)]
        stream = tuple(writer for writer in range(mlp + 1) if graph.writers[writer] not in CONSTANTS)
        found.append(Part(f"stream after block {block}", stream, last, constants=True))
    return tuple(found)


def said(streams: Streams, part: Part) -> Float[Tensor, "batch pos d_model"]:
    """What a part writes, in sum. Of a stream, everything that the reader after it sees but later biases."""
    total = streams.written[list(part.writers)].sum(0)
    if part.constants:
        stage = 2 * streams.graph.block(part.after)
        total = total + streams.written[1] + streams.bias[stage]
    return total


def transplanted(
    receiver: Streams,
    part: Part,
    says: Sequence[Float[Tensor, "batch pos d_model"]],
    where: Bool[np.ndarray, "batch pos"] | None = None,
) -> Float[Tensor, "donor batch d_vocab"]:
    """The receiver's logits of the answer when its part says each of these instead, at the positions `where`."""
    graph, own = receiver.graph, biases(receiver.params, receiver.spec)
    replaceable = [*part.writers, *((1, BIAS) if part.constants else ())]
    edges = [(writer, reader) for writer, reader in graph.edges if writer in replaceable and reader >= part.after]
    mask = torch.from_numpy(graph.mask(edges)).to(receiver.logits)[None]
    shift = own - own[2 * graph.block(part.after)] if part.constants else own
    before = said(receiver, part)
    found = []
    for one in says:
        if one.shape != before.shape:
            raise ProbeError(
                f"{part.name}: the donor says {tuple(one.shape)}, the receiver {tuple(before.shape)} (inputs, "
                "positions, width); use a stitch between widths, and the same inputs"
            )
        if where is not None:
            one = torch.where(torch.from_numpy(where).to(one.device)[:, :, None], one, before)
        written = receiver.written.clone()
        written[replaceable] = 0.0
        written[part.writers[0]] = one
        source = Streams(receiver.params, receiver.spec, written, shift, receiver.logits)
        found.append(replaced(receiver, source, mask)[0])
    return torch.stack(found)


@dataclass(frozen=True)
class Stitch:
    """An affine map between what two models' parts write."""

    weight: Float[Tensor, "d_donor d_receiver"]
    mean: Float[Tensor, " d_donor"]
    shift: Float[Tensor, " d_receiver"]

    @classmethod
    def fit(
        cls,
        donor: Float[Tensor, "batch pos d_donor"],
        receiver: Float[Tensor, "batch pos d_receiver"],
        ridge: float = 1e-4,
    ) -> Stitch:
        """Least squares over all inputs and positions, in float64. `ridge`: a penalty in units of the mean variance."""
        x, y = (some.double().flatten(0, 1) for some in (donor, receiver))
        mean, shift = x.mean(0), y.mean(0)
        x, y = x - mean, y - shift
        gram = x.mT @ x
        penalty = ridge * float(gram.diagonal().mean()) + 1e-12
        weight = torch.linalg.solve(
            gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), x.mT @ y
        )
        return cls(weight.to(donor), mean.to(donor), shift.to(donor))

    def __call__(self, donor: Float[Tensor, "batch pos d_donor"]) -> Float[Tensor, "batch pos d_receiver"]:
        return (donor - self.mean) @ self.weight + self.shift


def untrained(params: Mapping[str, Tensor], spec: ModelSpec, generator: torch.Generator) -> parameters.Parameters:
    """Fresh weights of the same shapes, with a run axis of one (as `params`): a donor that has learned nothing."""
    d_vocab, n_ctx = params["embed.W_E"].shape[1], params["pos_embed.W_pos"].shape[1]
    fresh = parameters.stack([parameters.initialise(spec, generator, d_vocab=d_vocab, n_ctx=n_ctx)])
    return {name: value.to(params[name]) for name, value in fresh.items()}


@dataclass(frozen=True)
class Kept:
    """How many of the answers were right: of `n` inputs the share, with its 95 % interval (Wilson 1927)."""

    share: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, logits: Float[Tensor, "batch d_vocab"], answers: Int[Tensor, " batch"]) -> Kept:
        return cls.counted(int((logits.argmax(-1) == answers).sum()), len(answers))

    @classmethod
    def counted(cls, right: int, n: int) -> Kept:
        return cls(right / n, *wilson(right, n), n)


@dataclass(frozen=True)
class Transplant:
    """One part's transplant: accuracy of the receiver with the donor's, and with each control's.

    `explained`: the share of the variance of what the receiver's part writes that the stitched donor's has, on inputs
    that the stitch was not fitted on; None for a direct one. `untrained`: of each untrained donor.
    """

    part: Part
    whole: Kept
    donor: Kept
    own: Kept | None
    untrained: tuple[Kept, ...]
    mean: Kept
    explained: float | None


def direct(
    donor: Streams, receiver: Streams, some: Sequence[Part], answers: Int[Tensor, " batch"]
) -> tuple[Transplant, ...]:
    """Each part as the donor writes it. Raises ProbeError when the widths differ."""
    whole = Kept.of(receiver.logits, answers)
    found = []
    for part in some:
        own = said(receiver, part)
        logits = transplanted(receiver, part, [said(donor, part), own.mean(0, keepdim=True).expand_as(own)])
        with_donor, with_mean = (Kept.of(one, answers) for one in logits)
        found.append(Transplant(part, whole, with_donor, None, (), with_mean, None))
    return tuple(found)


def stitched(
    donor: tuple[Streams, Streams],
    receiver: tuple[Streams, Streams],
    random: Collection[tuple[Streams, Streams]],
    some: Sequence[tuple[Part, Part]],
    answers: Int[Tensor, " batch"],
    *,
    ridge: float = 1e-4,
) -> tuple[Transplant, ...]:
    """Each pair of parts, the donor's and the receiver's, through a stitch of its own.

    Every model by two runs, of the inputs that stitches are fitted on and of those that they are judged on, whose
    `answers` these are. `random` are untrained donors. Raises ProbeError when they ran other inputs.
    """
    whole = Kept.of(receiver[1].logits, answers)
    found = []
    for theirs, ours in some:
        target, own = (said(run, ours) for run in receiver)
        says = []
        for runs, part in ((donor, theirs), (receiver, ours), *((runs, theirs) for runs in random)):
            fitted, judged = (said(run, part) for run in runs)
            if fitted.shape[:2] != target.shape[:2]:
                raise ProbeError(
                    f"{part.name}: a stitch needs both models' runs of the same inputs, they have "
                    f"{tuple(fitted.shape[:2])} and {tuple(target.shape[:2])} inputs and positions"
                )
            says.append(Stitch.fit(fitted, target, ridge)(judged))
        mean = target.mean((0, 1)).expand_as(own)
        with_donor, with_own, *with_random, with_mean = (
            Kept.of(one, answers) for one in transplanted(receiver[1], ours, [*says, mean])
        )
        lost = (says[0] - own).pow(2).sum() / (own - own.flatten(0, 1).mean(0)).pow(2).sum().clamp(min=1e-12)
        found.append(Transplant(ours, whole, with_donor, with_own, tuple(with_random), with_mean, 1 - float(lost)))
    return tuple(found)
