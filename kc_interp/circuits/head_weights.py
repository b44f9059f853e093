"""What a head's weights say by themselves: whom its queries prefer (QK), and what attending to a token adds (OV).

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits",
https://transformer-circuits.pub/2021/framework. A score is bilinear in what query and key read, LayerNorm included, so
that the score of two classes' *mean* readings is the mean score over all pairs of a query of one class and a key of the
other, drawn independently of each other: nothing is approximated but that independence. At block 0 what is read is a
token's embedding with its position's; at later blocks it also holds what blocks before wrote.

OV is the direct path alone: value, output, final LayerNorm with its scale as it is, unembedding. What later heads and
MLPs make of it does not count, nor does b_V, which is the same whatever is attended to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.circuits.attention import Queries
from kc_interp.model.forward import Sites, forward
from kc_interp.spec import ModelSpec


@dataclass(frozen=True)
class Readings:
    """What the heads of each block read, LayerNorm's gain and shift included, and the final LayerNorm's scale."""

    blocks: Float[np.ndarray, "block chain pos d_model"]
    scale: Float[np.ndarray, "chain pos"]

    @classmethod
    @torch.no_grad()
    def of(cls, params: Mapping[str, Tensor], spec: ModelSpec, ids: Int[Tensor, "1 chain pos"]) -> Readings:
        """Run the chains. Without LayerNorm the stream itself is read, and the scale is 1."""
        at = "ln1.hook_normalized" if spec.norm == "LN" else "hook_resid_pre"
        names = [f"blocks.{index}.{at}" for index in range(spec.depth)]
        sites = Sites(record={*names, "ln_final.hook_scale"})
        forward(params, spec, ids, sites=sites)
        found = []
        for index, name in enumerate(names):
            read, norm = sites.cache[name][0], f"blocks.{index % spec.n_layers}.ln1"
            found.append(read * params[norm + ".w"][0] + params[norm + ".b"][0] if spec.norm == "LN" else read)
        scale = sites.cache["ln_final.hook_scale"][0, ..., 0] if spec.norm == "LN" else torch.ones(ids.shape[1:])
        return cls(torch.stack(found).double().cpu().numpy(), scale.double().cpu().numpy())


@dataclass(frozen=True)
class Heads:
    """The weights of one block's heads."""

    w_q: Float[np.ndarray, "head d_model d_head"]
    b_q: Float[np.ndarray, "head d_head"]
    w_k: Float[np.ndarray, "head d_model d_head"]
    b_k: Float[np.ndarray, "head d_head"]
    w_v: Float[np.ndarray, "head d_model d_head"]
    w_o: Float[np.ndarray, "head d_head d_model"]

    @classmethod
    def of(cls, params: Mapping[str, Tensor], spec: ModelSpec, block: int) -> Heads:
        names = ("W_Q", "b_Q", "W_K", "b_K", "W_V", "W_O")
        prefix = f"blocks.{block % spec.n_layers}.attn."
        return cls(*(params[prefix + name][0].detach().double().cpu().numpy() for name in names))

    def scores(
        self, query: Float[np.ndarray, "*batch d_model"], keys: Float[np.ndarray, "*batch key d_model"]
    ) -> Float[np.ndarray, "*batch head key"]:
        """The attention score of a query with each key: before the softmax, divided by the root of d_head."""
        q = einsum(query, self.w_q, "... d_model, head d_model d_head -> ... head d_head") + self.b_q
        k = einsum(keys, self.w_k, "... key d_model, head d_model d_head -> ... key head d_head") + self.b_k
        return einsum(q, k, "... head d_head, ... key head d_head -> ... head key") / math.sqrt(self.b_q.shape[-1])

    def adds(
        self, tokens: Float[np.ndarray, "*batch token d_model"], unembedding: Float[np.ndarray, "d_model d_vocab"]
    ) -> Float[np.ndarray, "*batch head token d_vocab"]:
        """What full attention to each token adds to every logit by the direct path."""
        ov = einsum(self.w_v, self.w_o, "head d_model d_head, head d_head out -> head d_model out") @ unembedding
        return einsum(tokens, ov, "... token d_model, head d_model d_vocab -> ... head token d_vocab")


def unembedding(params: Mapping[str, Tensor], spec: ModelSpec, scale: float) -> Float[np.ndarray, "d_model d_vocab"]:
    """The unembedding with the final LayerNorm folded in: the mean taken off, its gain, and this scale."""
    weight = params["unembed.W_U"][0].detach().double().cpu().numpy()
    if spec.norm == "none":
        return weight
    weight = params["ln_final.w"][0].detach().double().cpu().numpy()[:, None] * weight
    return np.asarray((weight - weight.mean(axis=0)) / scale)


@dataclass(frozen=True)
class ByClass:
    """Readings of one block summed by class, for each query: its own, and those of its sources."""

    own: Float[np.ndarray, "query d_model"]
    sums: Float[np.ndarray, "query source d_model"]
    counts: Float[np.ndarray, "query source"]

    @classmethod
    def of(cls, readings: Float[np.ndarray, "chain pos d_model"], queries: Queries) -> ByClass:
        member = (queries.sources[:, None, :] == np.arange(len(queries.names))[:, None]).astype(np.float64)
        sums = member @ readings[queries.chain][:, : member.shape[2]]
        return cls(readings[queries.chain, queries.position], sums, member.sum(axis=2))

    def preferences(self, heads: Heads, weights: Float[np.ndarray, "resample query"]) -> Preferences:
        """With each query counted as often as each resample says."""
        counts = weights @ self.counts
        sums = einsum(weights, self.sums, "resample query, query source d_model -> resample source d_model")
        there = counts > 0
        keys = np.divide(sums, counts[..., None], out=np.zeros_like(sums), where=there[..., None])
        scores = heads.scores((weights @ self.own) / weights.sum(axis=1, keepdims=True), keys)
        return Preferences(scores, counts / counts.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Preferences:
    """Mean attention scores by head and class of source, and how often each class stands before the query."""

    scores: Float[np.ndarray, "resample head source"]
    often: Float[np.ndarray, "resample source"]

    @property
    def relative(self) -> Float[np.ndarray, "resample head source"]:
        """Scores less their mean over positions, which the softmax takes off; NaN for a class that never stands there.

        A class one above another gets e times the attention a position.
        """
        often = self.often[:, None]
        found = self.scores - (self.scores * often).sum(axis=-1, keepdims=True)
        return np.asarray(np.where(often > 0, found, np.nan))

    @property
    def spread(self) -> Float[np.ndarray, "resample head"]:
        """The standard deviation of the scores over positions, if all of one class scored alike."""
        return np.asarray(np.sqrt((np.nan_to_num(self.relative) ** 2 * self.often[:, None]).sum(axis=-1)))

    @property
    def shares(self) -> Float[np.ndarray, "resample head source"]:
        """The attention that each class would get if all of one class scored alike."""
        raised = self.often[:, None] * np.exp(self.scores - self.scores.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def rotation(size: int, rng: np.random.Generator) -> Float[np.ndarray, "size size"]:
    """An orthogonal matrix, uniform by Haar's measure (Mezzadri 2007, https://arxiv.org/abs/math-ph/0609050)."""
    found, upper = np.linalg.qr(rng.normal(size=(size, size)))
    return np.asarray(found * np.sign(np.diag(upper)))


def rotated(heads: Heads, rng: np.random.Generator) -> Heads:
    """Heads whose query and key weights have the same singular values, but look in random directions."""
    ask, answer = (rotation(heads.w_q.shape[1], rng) for _ in range(2))
    return Heads(ask @ heads.w_q, heads.b_q, answer @ heads.w_k, heads.b_k, heads.w_v, heads.w_o)


def token_means(
    readings: Float[np.ndarray, "chain pos d_model"],
    ids: Int[np.ndarray, "chain pos"],
    until: Int[np.ndarray, " chain"],
    tokens: Int[np.ndarray, " token"],
    weights: Float[np.ndarray, "resample chain"],
) -> Float[np.ndarray, "resample token d_model"]:
    """The mean reading where each token stands, up to the position `until` of each chain.

    NaN for a token that never stands there; a resample without a token has the mean of the first one, the sample.
    """
    before = np.arange(ids.shape[1]) <= until[:, None]
    member = ((ids[:, None, :] == tokens[:, None]) & before[:, None]).astype(np.float64)
    sums, counts = member @ readings, weights @ member.sum(axis=2)
    totals = einsum(weights, sums, "resample chain, chain token d_model -> resample token d_model")
    means = np.divide(totals, counts[..., None], out=np.full_like(totals, np.nan), where=counts[..., None] > 0)
    return np.asarray(np.where(np.isnan(means), means[:1], means))


def centred(added: Float[np.ndarray, "*batch token logit"]) -> Float[np.ndarray, "*batch token logit"]:
    """What a token adds beyond what any does, and to a logit beyond what it adds to all: both means taken off."""
    added = added - added.mean(axis=-2, keepdims=True)
    return np.asarray(added - added.mean(axis=-1, keepdims=True))


def copying(
    added: Float[np.ndarray, "*batch token token"], labels: Int[np.ndarray, " token"] | None = None
) -> Float[np.ndarray, "*batch"]:
    """The share of tokens that raise their own logit most, of these tokens' logits; NaN where nothing is added.

    `labels` says which logit counts as each token's own: shuffled for a control.
    """
    own = np.arange(added.shape[-1]) if labels is None else labels
    return np.asarray(np.where(_silent(added), np.nan, (added.argmax(axis=-1) == own).mean(axis=-1)))


def core(added: Float[np.ndarray, "*batch token token"]) -> Float[np.ndarray, "*batch less less"]:
    """The matrix without the direction in which all tokens are the same, which `centred` takes off."""
    size = added.shape[-1]
    basis = np.linalg.qr(np.concatenate([np.ones((size, 1)), np.eye(size)[:, : size - 1]], axis=1))[0][:, 1:]
    return np.asarray(basis.T @ added @ basis)


def positive_eigenvalues(inner: Float[np.ndarray, "*batch less less"]) -> Float[np.ndarray, "*batch"]:
    """The sum of the eigenvalues over the sum of their sizes (Elhage et al. 2021): 1 copies, -1 takes away.

    NaN where nothing is added.
    """
    found = np.linalg.eigvals(inner)
    size = np.abs(found).sum(axis=-1)
    there = ~_silent(inner) & (size > 0)
    return np.asarray(np.where(there, found.real.sum(axis=-1) / np.where(there, size, 1), np.nan))


def _silent(added: Float[np.ndarray, "*batch one other"]) -> np.ndarray:
    """Nothing but rounding: no logit differs by a millionth."""
    return np.asarray(np.abs(added).max(axis=(-2, -1)) < 1e-6)
