"""Edge and node interventions: the forward pass in which any reader may see another run's writers, many at once.

The residual stream that a reader sees is a sum over the writers before it. An intervention replaces, for one reader
alone, what some of them wrote in this run by what they wrote in another: the reader's LayerNorm and everything after
it is computed anew, in the same pass as all other replaced edges (path patching, Goldowsky-Dill et al. 2023, with any
set of edges). A node is replaced by replacing all the edges that leave it. Every set of edges is a variant along the
leading `run` axis, so that hundreds are computed together.

Only what can change is computed: a variant starts at the first block with a replaced edge, and the last block's
queries, its MLP and the unembedding are computed at the answer's position alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.model.forward import LAYER_NORM_EPS, Sites
from kc_interp.model.graph import BIAS, Graph
from kc_interp.spec import ModelSpec

Mix = Callable[[int, int, Tensor, Tensor], Tensor]
"""(first reader, number of readers, stream, written) -> what these readers see.

`stream` is `run batch pos d_model`, the sum of `written` (`run writer batch pos d_model`); the result is
`run reader batch pos d_model`. All these readers read from the same writers.
"""

_FLOATS_A_CALL = 6_000_000


@dataclass(frozen=True)
class Streams:
    """What every writer wrote in one run of equally long inputs, up to the position that predicts the answer.

    `written` holds the biases' place as zeros: what the bias node has written depends on how far the stream has come,
    and stands in `bias`, by stage: 2 b before block b's attention, 2 b + 1 before its MLP, 2 depth before the
    unembedding. As a *source* of replacements only these two are used; `logits` are those of the answer.
    """

    params: Mapping[str, Tensor]
    spec: ModelSpec
    written: Float[Tensor, "writer batch pos d_model"]
    bias: Float[Tensor, "stage d_model"]
    logits: Float[Tensor, "batch d_vocab"]

    @classmethod
    @torch.no_grad()
    def of(cls, params: Mapping[str, Tensor], spec: ModelSpec, tokens: Int[Tensor, "batch pos"]) -> Streams:
        """Run `tokens`, whose last position is the one that predicts the answer. `params` has a run axis of one."""
        written, logits = run(params, spec, embedded(params, spec, tokens)[None], answer_only=False)
        return cls(params, spec, written[0], biases(params, spec), logits[0])

    @property
    def graph(self) -> Graph:
        return Graph.of(self.spec)

    @property
    def positions(self) -> int:
        return self.written.shape[2]

    def take(self, rows: Tensor) -> Streams:
        """The inputs at these rows (indices or a mask)."""
        return Streams(self.params, self.spec, self.written[:, rows], self.bias, self.logits[rows])

    def writing(
        self, written: Float[Tensor, "writer batch pos d_model"], bias: Float[Tensor, "stage d_model"] | None = None
    ) -> Streams:
        """A source that wrote this instead; its logits are what the unembedding makes of the sum."""
        bias = self.bias if bias is None else bias
        seen = _normalised(self.params, self.spec, written[:, :, -1].sum(0) + bias[-1], "ln_final")
        logits = seen @ self.params["unembed.W_U"][0] + self.params["unembed.b_U"][0]
        return Streams(self.params, self.spec, written, bias, logits)


def embedded(
    params: Mapping[str, Tensor], spec: ModelSpec, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "writer batch pos d_model"]:
    """What the first three writers write: token embedding, position embedding and, in the biases' place, nothing."""
    token = F.embedding(tokens, params["embed.W_E"][0])
    position = params["pos_embed.W_pos"][0, : tokens.shape[1]].expand_as(token)
    return torch.stack([token, position, torch.zeros_like(token)])


def biases(params: Mapping[str, Tensor], spec: ModelSpec) -> Float[Tensor, "stage d_model"]:
    """What the attention output biases have added to the stream by each stage (see `Streams`)."""
    total = torch.zeros_like(params["blocks.0.attn.b_O"][0])
    stages = [total]
    for block in range(spec.depth):
        total = total + params[f"blocks.{block % spec.n_layers}.attn.b_O"][0]
        stages += [total, total]
    return torch.stack(stages)


def run(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    written: Float[Tensor, "run writer batch pos d_model"],
    *,
    mix: Mix | None = None,
    answer_only: bool = True,
) -> tuple[Float[Tensor, "run writer_out batch pos_out d_model"], Float[Tensor, "run batch d_vocab"]]:
    """Everything that is written, and the answer's logits, when the writers of earlier blocks wrote `written`.

    The number of writers given says at which block to begin. With `answer_only` the last block's queries are those
    of the last position only, and what is returned as written is what was written there. Differentiable.
    """
    written, stream = _through(params, spec, written, mix, Sites(), answer_only=answer_only)
    last = slice(-1, None)
    return written, _read_out(params, spec, stream[..., last, :], written[..., last, :], mix)[:, :, 0]


def run_everywhere(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    written: Float[Tensor, "run writer batch pos d_model"],
    *,
    mix: Mix | None = None,
    sites: Sites | None = None,
) -> tuple[Float[Tensor, "run writer_out batch pos d_model"], Float[Tensor, "run batch pos d_vocab"]]:
    """As `run`, with the logits at every position, to follow a whole chain.

    `sites` records or edits `blocks.{b}.attn.hook_pattern` and `blocks.{b}.mlp.hook_post` (as `forward` names and
    shapes them); no other site passes here.
    """
    written, stream = _through(params, spec, written, mix, sites or Sites(), answer_only=False)
    return written, _read_out(params, spec, stream, written, mix)


def _through(
    params: Mapping[str, Tensor], spec: ModelSpec, written: Tensor, mix: Mix | None, sites: Sites, *, answer_only: bool
) -> tuple[Float[Tensor, "run writer_out batch pos_out d_model"], Float[Tensor, "run batch pos_out d_model"]]:
    """All that is written up to the last block, and its sum with the biases."""
    graph, bias = Graph.of(spec), biases(params, spec)
    first, over = divmod(written.shape[1] - graph.head(0), spec.n_heads + 1)
    if over:
        raise ValueError(f"{written.shape[1]} writers do not end with a block")
    stream = written.sum(1) + bias[2 * first]
    last = slice(-1, None)
    for block in range(first, spec.depth):
        only = answer_only and block == spec.depth - 1
        heads = _heads(params, spec, block, stream, written, last if only else slice(None), mix, sites)
        if only:
            written, stream = written[..., last, :], stream[..., last, :]
        written = torch.cat([written, heads], dim=1)
        stream = stream + heads.sum(1) + params[f"blocks.{block % spec.n_layers}.attn.b_O"][0]
        out = _mlp(params, spec, block, stream, written, mix, sites)
        written = torch.cat([written, out[:, None]], dim=1)
        stream = stream + out
    return written, stream


def _read_out(
    params: Mapping[str, Tensor], spec: ModelSpec, stream: Tensor, written: Tensor, mix: Mix | None
) -> Float[Tensor, "run batch pos d_vocab"]:
    seen = _seen(mix, Graph.of(spec).reader(spec.depth), 1, stream, written)[:, 0]
    return _normalised(params, spec, seen, "ln_final") @ params["unembed.W_U"][0] + params["unembed.b_U"][0]


def replaced(
    base: Streams, source: Streams, mask: Float[Tensor, "run writer reader *pos"]
) -> Float[Tensor, "run batch d_vocab"]:
    """The answer's logits of `base` when the edges in `mask` carry what `source`'s writers wrote; one set a run.

    `mask` is 1 where an edge is replaced, 0 where it carries what is written in this run (recomputed, not that of
    `base`), or anything between; with a last axis it says so for each position. All edges replaced: the logits of
    `source`. No gradient; variants are packed as memory allows.
    """
    starts = first_blocks(base.graph, mask)
    logits = torch.empty((len(mask), *base.logits.shape), dtype=base.logits.dtype, device=base.logits.device)
    with torch.no_grad():
        for start in starts.unique().tolist():
            variants = (starts == start).nonzero()[:, 0]
            for chunk in variants.split(_variants_a_call(base, start)):
                written = base.written[None, : base.graph.head(min(start, base.spec.depth))]
                written = written.expand(len(chunk), -1, -1, -1, -1)
                logits[chunk] = run(base.params, base.spec, written, mix=mixing(base, source, mask[chunk]))[1]
    return logits


def mixing(base: Streams, source: Streams, mask: Float[Tensor, "run writer reader *pos"]) -> Mix:
    """The mix by a mask: each reader's stream plus, over replaced edges, the source's writing minus this run's."""
    graph, own = base.graph, biases(base.params, base.spec)

    def mix(reader: int, count: int, stream: Tensor, written: Tensor) -> Tensor:
        before, places = written.shape[1], written.shape[3]
        here = mask[:, :before, reader : reader + count]
        change = source.written[:before, :, -places:] - written
        block = graph.block(reader)
        stage = 2 * block + int(block < base.spec.depth and reader == graph.reader(block, 3))
        change[:, BIAS] = source.bias[stage] - own[stage]
        if here.dim() == 4:
            here = here[..., -places:]
            moved = einsum(here, change, "run writer reader pos, run writer batch pos d -> run reader batch pos d")
        else:
            moved = (here.mT @ change.flatten(2)).unflatten(2, change.shape[2:])
        return stream[:, None] + moved

    return mix


def first_blocks(graph: Graph, mask: Float[Tensor, "run writer reader *pos"]) -> Int[Tensor, " run"]:
    """The first block with a replaced edge, for each run; `depth` where only the unembedding's or none is."""
    touched = mask.flatten(3).any(-1).any(1) if mask.dim() == 4 else mask.bool().any(1)
    block = torch.tensor([graph.block(reader) for reader in range(len(graph.readers))], device=mask.device)
    return torch.where(touched, block, graph.depth).amin(-1)


def _variants_a_call(base: Streams, start: int) -> int:
    """How many variants fit one call: what attention's readers see is the largest thing held."""
    _, batch, positions, width = base.written.shape
    readers = 3 * base.spec.n_heads if start < base.spec.depth else 1
    return max(1, _FLOATS_A_CALL // ((readers + len(base.graph.writers)) * batch * positions * width))


def _seen(mix: Mix | None, reader: int, count: int, stream: Tensor, written: Tensor) -> Tensor:
    """What `count` readers see; without a mix they all see one stream, and the reader axis is 1."""
    return stream[:, None] if mix is None else mix(reader, count, stream, written)


def _normalised(
    params: Mapping[str, Tensor], spec: ModelSpec, resid: Float[Tensor, "*any d_model"], norm: str
) -> Float[Tensor, "*any d_model"]:
    if spec.norm == "none":
        return resid
    return F.layer_norm(resid, resid.shape[-1:], params[norm + ".w"][0], params[norm + ".b"][0], LAYER_NORM_EPS)


def _heads(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    block: int,
    stream: Float[Tensor, "run batch pos d_model"],
    written: Float[Tensor, "run writer batch pos d_model"],
    queries: slice,
    mix: Mix | None,
    sites: Sites,
) -> Float[Tensor, "run head batch query d_model"]:
    """What each head of a block writes, without the output bias."""
    weights, reader = f"blocks.{block % spec.n_layers}.", Graph.of(spec).reader(block)
    q = projected(
        params, spec, weights, "Q", _seen(mix, reader, spec.n_heads, stream[..., queries, :], written[..., queries, :])
    )
    seen = _seen(mix, reader + spec.n_heads, 2 * spec.n_heads, stream, written)
    keys, values = (seen, seen) if mix is None else seen.split(spec.n_heads, dim=1)
    k, v = projected(params, spec, weights, "K", keys), projected(params, spec, weights, "V", values)
    name = f"blocks.{block}.attn.hook_pattern"
    z = attended(q, k, v) if not sites.wants(name) else sites(name, pattern(q, k).transpose(1, 2)).transpose(1, 2) @ v
    return z @ params[weights + "attn.W_O"][0][:, None]


def attended(
    q: Float[Tensor, "*some query d_head"], k: Float[Tensor, "*some pos d_head"], v: Float[Tensor, "*some pos d_head"]
) -> Float[Tensor, "*some query d_head"]:
    """Causal attention of the last `query` positions over all: each head's z."""
    return pattern(q, k) @ v


def pattern(
    q: Float[Tensor, "*some query d_head"], k: Float[Tensor, "*some pos d_head"]
) -> Float[Tensor, "*some query pos"]:
    """How much each of the last `query` positions attends to each position up to its own."""
    future = torch.full((q.shape[-2], k.shape[-2]), -math.inf, dtype=q.dtype, device=q.device)
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT + future.triu(k.shape[-2] - q.shape[-2] + 1)
    return scores.softmax(-1)


def projected(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    weights: str,
    part: str,
    seen: Float[Tensor, "run reader batch pos d_model"],
) -> Float[Tensor, "run head batch pos d_head"]:
    """Queries, keys or values of every head, each from what it sees (reader 1: all from the same)."""
    weight, bias = params[weights + f"attn.W_{part}"][0], params[weights + f"attn.b_{part}"][0]
    resid = _normalised(params, spec, seen, weights + "ln1")
    return resid @ weight[:, None] + bias[:, None, None]


def _mlp(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    block: int,
    stream: Float[Tensor, "run batch pos d_model"],
    written: Float[Tensor, "run writer batch pos d_model"],
    mix: Mix | None,
    sites: Sites,
) -> Float[Tensor, "run batch pos d_model"]:
    """What a block's MLP writes."""
    weights = f"blocks.{block % spec.n_layers}."
    seen = _seen(mix, Graph.of(spec).reader(block, 3), 1, stream, written)[:, 0]
    pre = F.linear(_normalised(params, spec, seen, weights + "ln2"), params[weights + "mlp.W_in"][0].mT)
    pre = pre + params[weights + "mlp.b_in"][0]
    post = sites(f"blocks.{block}.mlp.hook_post", F.relu(pre) if spec.act == "relu" else F.gelu(pre))
    return F.linear(post, params[weights + "mlp.W_out"][0].mT, params[weights + "mlp.b_out"][0])
