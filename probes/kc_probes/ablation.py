"""A sample of chains run once with its activations kept, and run again with some of them changed: what ablations share.

Every measure is chain by chain, so that intervals can pair a chain with itself. Positions are classed by their token
(digit, operation, …); the answer, the position that predicts it and padding are classes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.circuits import head_weights
from kc_interp.circuits.attention import percentile_interval
from kc_interp.errors import SpecError
from kc_interp.model.forward import Edit, Sites, blocks, embed, unembed
from kc_interp.probe import Subject
from kc_interp.spec import ModelSpec
from kc_interp.tasks.task import Chains
from kc_interp.tokens import position_classes

_CHAINS_A_CALL = 64


@dataclass(frozen=True)
class Chunk:
    """Chains of similar length. `kinds` numbers the class of every input position, `writes` marks those that predict.

    `queries` are the positions that predict the answers. `ids` holds one column more: the last symbol is only a target.
    """

    ids: Int[Tensor, "1 batch symbol"]
    kinds: Int[Tensor, "batch pos"]
    writes: Bool[Tensor, "batch pos"]
    queries: Int[Tensor, " batch"]

    def marks(self, *, answer: bool) -> Float[Tensor, "batch pos"]:
        """1 at the measured positions, 0 elsewhere."""
        return (F.one_hot(self.queries, self.writes.shape[1]) if answer else self.writes).double()


@dataclass(frozen=True)
class Sample:
    """Chains in a model's tokens, short ones first, a chunk at a time so that little is spent on padding."""

    chains: Chains
    chunks: tuple[Chunk, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, subject: Subject, chains: Chains) -> Sample:
        """Raises DataError when the model's vocabulary lacks a symbol."""
        chains = chains.take(np.argsort(chains.lengths, kind="stable"))
        labels = position_classes(subject.task, chains)
        labels[np.arange(len(chains)), chains.answers - 1] = "answer query"
        classes, kinds = np.unique(labels.astype(str), return_inverse=True)
        kinds = kinds.reshape(labels.shape)
        chunks = []
        for low in range(0, len(chains), _CHAINS_A_CALL):
            part = chains.take(slice(low, low + _CHAINS_A_CALL))
            ids = subject.ids(part)
            place = np.arange(ids.shape[2] - 1)
            writes = (place >= part.prompts[:, None] - 1) & (place < part.lengths[:, None] - 1)
            held = kinds[low : low + _CHAINS_A_CALL, : len(place)]
            chunks.append(Chunk(ids, *(torch.from_numpy(a).to(ids.device) for a in (held, writes, part.answers - 1))))
        return cls(chains, tuple(chunks), tuple(classes.tolist()))

    def __len__(self) -> int:
        return len(self.chains)

    @property
    def written(self) -> Float[np.ndarray, " chain"]:
        """How many symbols of each chain the model writes."""
        return (self.chains.lengths - self.chains.prompts).astype(float)

    def bootstrap(self, count: int, rng: np.random.Generator) -> Float[np.ndarray, "weighting chain"]:
        """Weightings of the chains: the sample itself first, then `count` resamples of it."""
        return bootstrap(len(self), count, rng)


def bootstrap(n: int, count: int, rng: np.random.Generator) -> Float[np.ndarray, "weighting chain"]:
    """Weightings of n chains: the sample itself first, then `count` resamples of it."""
    return np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float)])


def draw(subject: Subject, component: str | None, count: int, purpose: str) -> tuple[Sample, str]:
    """Test items of a component if the task has it, else of the whole mixture; and which it was, in words."""
    component = subject.component(component)
    return Sample.of(subject, subject.items(count, purpose, component)), component or "the whole mixture"


@dataclass(frozen=True)
class Scores:
    """One teacher-forced pass, chain by chain: the NLL summed over what is written, and of the answer; what is right.

    `exact`: every symbol to be written is the most probable one. `answer`: the answer is.
    """

    chain_nats: Float[np.ndarray, " chain"]
    answer_nats: Float[np.ndarray, " chain"]
    exact: Bool[np.ndarray, " chain"]
    answer: Bool[np.ndarray, " chain"]

    @classmethod
    def of(cls, logits: Sequence[Tensor], chunks: Sequence[Chunk]) -> Scores:
        """From the logits (1 batch pos d_vocab) of every chunk."""
        parts: list[tuple[Tensor, ...]] = []
        for chunk, predicted in zip(chunks, logits, strict=True):
            targets, query = chunk.ids[0, :, 1:], chunk.queries[:, None]
            nats = -predicted[0].double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
            right = predicted[0].argmax(-1) == targets
            written = torch.where(chunk.writes, nats, 0).sum(1)
            parts.append(
                (written, nats.gather(1, query)[:, 0], (right | ~chunk.writes).all(1), right.gather(1, query)[:, 0])
            )
        return cls(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Intact:
    """A model's own run of a sample: every chunk's recorded activations by hook name, and its scores."""

    params: Mapping[str, Tensor]
    spec: ModelSpec
    sample: Sample
    caches: tuple[Mapping[str, Tensor], ...]
    scores: Scores

    @classmethod
    @torch.no_grad()
    def of(cls, params: Mapping[str, Tensor], spec: ModelSpec, sample: Sample, sites: Collection[str]) -> Intact:
        """Run the sample and record `sites` (names within a block) of every block."""
        names = {f"blocks.{index}.{site}" for index in range(spec.depth) for site in (*sites, "hook_resid_pre")}
        caches, logits = [], []
        for chunk in sample.chunks:
            kept = Sites(record=names)
            resid = blocks(params, spec, embed(params, chunk.ids[:, :, :-1]), sites=kept)
            logits.append(unembed(params, spec, resid))
            caches.append(kept.cache)
        return cls(params, spec, sample, tuple(caches), Scores.of(logits, sample.chunks))

    def at(self, chunk: int, index: int, site: str) -> Tensor:
        """The activation of block `index` in one chunk, `batch pos …`."""
        return self.caches[chunk][f"blocks.{index}.{site}"][0]

    @torch.no_grad()
    def changed(self, edits: Callable[[int], Mapping[str, Edit]], *, first: int = 0) -> Scores:
        """The scores when the edits of each chunk (by its number) apply; none may act before block `first`."""
        logits = []
        for number in range(len(self.caches)):
            resid = self.at(number, first, "hook_resid_pre")[None]
            resid = blocks(self.params, self.spec, resid, first=first, sites=Sites(edits=edits(number)))
            logits.append(unembed(self.params, self.spec, resid))
        return Scores.of(logits, self.sample.chunks)

    def class_means(self, index: int, site: str) -> Float[Tensor, "kind width"]:
        """The mean of an activation over all positions of each class; what follows the position axis is laid flat."""
        values = torch.cat([self.at(c, index, site).flatten(0, 1).flatten(1) for c in range(len(self.caches))])
        kinds = torch.cat([chunk.kinds.flatten() for chunk in self.sample.chunks])
        member = F.one_hot(kinds, len(self.sample.classes)).double()
        sums = einsum(member, values.double(), "position kind, position width -> kind width")
        return (sums / member.sum(0).clamp(min=1)[:, None]).to(values.dtype)


def rotation(size: int, rng: np.random.Generator, like: Tensor) -> Float[Tensor, "d_model d_model"]:
    """A random orthogonal matrix, uniform (Haar), on the device and in the dtype of `like`."""
    return torch.from_numpy(head_weights.rotation(size, rng)).to(like)


def interval(values: Float[np.ndarray, " weighting"]) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of what follows the first value; none where that or most resamples have no value."""
    return percentile_interval(values[1:]) if np.isfinite(values[0]) else (None, None)


def require_enough(chains: int, resamples: int) -> None:
    """Raises SpecError when there are too few for an interval."""
    if min(chains, resamples) < 2:
        raise SpecError(
            f"chains is {chains} and resamples {resamples}; each must be at least 2 for there to be an interval"
        )
