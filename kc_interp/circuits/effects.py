"""Exact causal effects: what the answer becomes when one edge, one node or one pair of edges is replaced.

Effects are those of activation patching along single edges: one forward pass for each edge, exact and not attributed.
Single edges are computed cheaply, with the same result as `kc_interp.model.interventions.replaced`: readers of one
block that see the same replaced writer see the same stream, so it is normalised and projected once for all heads, and
only the head whose input changed is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError
from kc_interp.model.forward import blocks, mlp, unembed
from kc_interp.model.graph import BIAS, edges_in_order
from kc_interp.model.interventions import Streams, attended, biases, projected, replaced

Edge = tuple[int, int]
Progress = Callable[[int, int], None]
"""Called with how many of how many interventions are done."""

_TOKENS_A_CALL = 16_384


@dataclass(frozen=True)
class Metric:
    """The logit difference between the clean answer and the corrupted one, for each pair of inputs.

    `clean` and `corrupted` are the token ids of the two answers; they differ for every pair.
    """

    clean: Int[Tensor, " batch"]
    corrupted: Int[Tensor, " batch"]

    def __call__(self, logits: Float[Tensor, "*some batch d_vocab"]) -> Float[Tensor, "*some batch"]:
        right, wrong = (
            logits.gather(-1, ids[:, None].expand(*logits.shape[:-1], 1))[..., 0]
            for ids in (self.clean, self.corrupted)
        )
        return right - wrong

    def take(self, rows: Tensor) -> Metric:
        """For the inputs at these rows."""
        return Metric(self.clean[rows], self.corrupted[rows])


@torch.no_grad()
def edge_logits(base: Streams, source: Streams, edges: Sequence[Edge]) -> Float[Tensor, "edge batch d_vocab"]:
    """The answer's logits when each edge in turn, and no other, carries what `source`'s writer wrote."""
    _fit(base, source)
    graph, spec, params = base.graph, base.spec, base.params
    place = {edge: index for index, edge in enumerate(edges)}
    logits = torch.empty((len(edges), *base.logits.shape), dtype=base.logits.dtype, device=base.logits.device)
    by_block: dict[tuple[int, bool], list[Edge]] = {}
    for writer, reader in place:
        block = graph.block(reader)
        by_block.setdefault((block, reader == graph.reader(block, 3)), []).append((writer, reader))
    for (block, is_mlp), group in by_block.items():
        if block == spec.depth:
            seen = _entering(base, block, after_attention=False)[:, -1:] + _changes(base, source, group, 2 * block, 1)
            answers = unembed(params, spec, seen)[:, :, 0]
        else:
            changed = _after_mlp(base, source, group, block) if is_mlp else _after_heads(base, source, group, block)
            answers = torch.cat([_onwards(base, block, part) for part in changed])
        logits[[place[edge] for edge in group]] = answers
    return logits


@torch.no_grad()
def node_logits(base: Streams, source: Streams, writers: Sequence[int]) -> Float[Tensor, "writer batch d_vocab"]:
    """The answer's logits when all edges that leave a node carry what it wrote in `source`; each node in turn."""
    graph = base.graph
    masks = [graph.mask([edge for edge in graph.edges if edge[0] == writer]) for writer in writers]
    return replaced(base, source, torch.from_numpy(np.stack(masks)).to(base.logits))


def pair_logits(
    base: Streams, source: Streams, pairs: Sequence[tuple[Edge, Edge]], progress: Progress | None = None
) -> Iterator[Float[Tensor, "pair batch d_vocab"]]:
    """The answer's logits when both edges of a pair are replaced at once, in chunks of pairs, in order."""
    size = 512
    for start in range(0, len(pairs), size):
        some = pairs[start : start + size]
        masks = torch.from_numpy(np.stack([base.graph.mask(pair) for pair in some])).to(base.logits)
        yield replaced(base, source, masks)
        if progress is not None:
            progress(start + len(some), len(pairs))


@dataclass(frozen=True)
class Effects:
    """Effects as shares of the whole difference between two runs, a ratio of means over pairs of inputs.

    1 means that the intervention alone turns the one run's logit difference into the other's; `low` and `high` bound
    the 95 % interval over pairs (bootstrap).
    """

    value: Float[np.ndarray, " item"]
    low: Float[np.ndarray, " item"]
    high: Float[np.ndarray, " item"]

    @property
    def all(self) -> tuple[Float[np.ndarray, " item"], Float[np.ndarray, " item"], Float[np.ndarray, " item"]]:
        """Value, low, high."""
        return self.value, self.low, self.high


@dataclass(frozen=True)
class Comparison:
    """A base run, the run its activations are replaced from, the answers, and what cutting everything does.

    Noising: the base is clean, the source corrupted. Denoising: the reverse. Effects and scores of circuits are shares
    of one *whole*: how far the logit difference moves when every edge that varies is replaced. Edges of constants are
    kept, as in every circuit; where the source is a run, or a mean, that leads to the source's own logit difference.
    """

    base: Streams
    source: Streams
    metric: Metric
    weights: Float[np.ndarray, "resample batch"]

    @classmethod
    def of(
        cls, base: Streams, source: Streams, metric: Metric, rng: np.random.Generator, resamples: int = 500
    ) -> Comparison:
        """Raises ProbeError when cutting everything may change nothing: effects cannot be shares of that."""
        _fit(base, source)
        count = len(base.logits)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count
        return cls(base, source, metric, weights).checked()

    def checked(self) -> Comparison:
        """Itself. Raises ProbeError as `of` does."""
        whole = self.whole
        if not np.isfinite(whole).all():
            raise ProbeError("the model's logits are not finite; did its training diverge?")
        low, high = np.quantile(self.weights @ whole, [0.025, 0.975])
        if low <= 0 <= high:
            raise ProbeError(
                f"cutting every edge changes the logit difference by {whole.mean():.3g} (95 % interval {low:.3g} to "
                f"{high:.3g}, which includes 0): effects and faithfulness cannot be shares of it; take more pairs, "
                "another source, or a model that tells the two inputs apart"
            )
        return self

    @cached_property
    def untouched(self) -> Float[np.ndarray, " batch"]:
        """The logit difference of the base run."""
        return _array(self.metric(self.base.logits))

    @cached_property
    def whole(self) -> Float[np.ndarray, " batch"]:
        """How far the logit difference moves when every edge that varies is replaced."""
        graph = self.base.graph
        mask = torch.from_numpy(graph.mask(graph.varying))[None].to(self.base.logits)
        return self.moved(replaced(self.base, self.source, mask))[0]

    def moved(self, logits: Float[Tensor, "item batch d_vocab"]) -> Float[np.ndarray, "item batch"]:
        """How far each intervention moves the logit difference, for every pair."""
        return _array(self.metric(logits)) - self.untouched

    def effects(self, moved: Float[np.ndarray, "item batch"]) -> Effects:
        """Shares of the whole, with intervals over pairs."""
        whole = self.whole
        resampled = (moved @ self.weights.T) / (self.weights @ whole)
        low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
        return Effects(moved.mean(1) / whole.mean(), low, high)

    def edges(self, edges: Sequence[Edge] | None = None) -> Effects:
        """The exact effect of each edge; by default of every edge that varies."""
        chosen = self.base.graph.varying if edges is None else edges
        return self.effects(self.moved(edge_logits(self.base, self.source, chosen)))

    def nodes(self, writers: Sequence[int]) -> Effects:
        """The exact effect of each node."""
        return self.effects(self.moved(node_logits(self.base, self.source, writers)))

    def at(self, sets: Sequence[tuple[Sequence[Edge], Sequence[int]]]) -> Effects:
        """The exact effect of each set of edges where their readers look at these positions alone, other ones kept."""
        graph = self.base.graph
        masks = np.zeros((len(sets), len(graph.writers), len(graph.readers), self.base.positions), dtype=bool)
        for mask, (edges, places) in zip(masks, sets, strict=True):
            mask[:, :, list(places)] = graph.mask(edges)[:, :, None]
        logits = replaced(self.base, self.source, torch.from_numpy(masks).to(self.base.logits))
        return self.effects(self.moved(logits))

    def interactions(self, pairs: Sequence[tuple[Edge, Edge]], progress: Progress | None = None) -> Interactions:
        """The exact joint effect of each pair of edges, and how far it is from the sum of the two alone."""
        moved = [self.moved(logits) for logits in pair_logits(self.base, self.source, pairs, progress)]
        joint = np.concatenate([np.zeros((0, len(self.whole))), *moved])
        edges = edges_in_order({edge for pair in pairs for edge in pair})
        alone = dict(zip(edges, self.moved(edge_logits(self.base, self.source, edges)), strict=True))
        apart = np.asarray([alone[one] + alone[other] for one, other in pairs]).reshape(joint.shape)
        return Interactions(tuple(pairs), self.effects(joint), self.effects(joint - apart))


@dataclass(frozen=True)
class Interactions:
    """Of pairs of edges: their joint effects, and what is `beyond` the sum of the two edges' own.

    Above 0 where each stands in for the other, so that only both together cost the answer; below 0 where either alone
    already costs what both do, as two edges of one path.
    """

    pairs: tuple[tuple[Edge, Edge], ...]
    joint: Effects
    beyond: Effects


def _array(values: Float[Tensor, "*some batch"]) -> Float[np.ndarray, "*some batch"]:
    return values.double().cpu().numpy()


def _fit(base: Streams, source: Streams) -> None:
    if base.written.shape != source.written.shape:
        raise ProbeError(
            f"the runs have different shapes: {_shape(base)} against {_shape(source)}; replace between runs of one "
            "model on inputs of one template"
        )


def _shape(streams: Streams) -> str:
    writers, batch, positions, width = streams.written.shape
    return f"{batch} inputs of {positions} tokens, {writers} writers of width {width}"


def _entering(base: Streams, block: int, *, after_attention: bool) -> Float[Tensor, "batch pos d_model"]:
    """The stream that enters a block's attention, or its MLP."""
    before = base.graph.head(block, base.spec.n_heads if after_attention else 0)
    return base.written[:before].sum(0) + biases(base.params, base.spec)[2 * block + int(after_attention)]


def _changes(
    base: Streams, source: Streams, edges: Sequence[Edge], stage: int, last: int | None = None
) -> Float[Tensor, "edge batch pos d_model"]:
    """What each edge's reader sees more than before, at the `last` positions."""
    own = biases(base.params, base.spec)[stage]
    where = slice(None) if last is None else slice(-last, None)
    return torch.stack(
        [
            (source.bias[stage] - own).expand_as(base.written[0, :, where])
            if writer == BIAS
            else source.written[writer, :, where] - base.written[writer, :, where]
            for writer, _ in edges
        ]
    )


def _after_mlp(base: Streams, source: Streams, edges: Sequence[Edge], block: int) -> Iterator[Tensor]:
    """The stream that leaves a block when its MLP sees one writer replaced: `edge batch pos d_model`, in parts."""
    stream = _entering(base, block, after_attention=True)
    for some in _parts(base, edges):
        seen = stream + _changes(base, source, some, 2 * block + 1)
        yield mlp(base.params, base.spec, seen, block) - seen + stream


def _after_heads(base: Streams, source: Streams, edges: Sequence[Edge], block: int) -> Iterator[Tensor]:
    """The stream that leaves a block when one input of one head sees one writer replaced, in parts, in order."""
    spec, graph, params = base.spec, base.graph, base.params
    weights = f"blocks.{block % spec.n_layers}."
    stream, mid = (_entering(base, block, after_attention=after) for after in (False, True))
    writers = sorted({writer for writer, _ in edges})
    queries = slice(-1, None) if block == spec.depth - 1 else slice(None)
    seen = torch.cat([stream[None], stream + _changes(base, source, [(w, 0) for w in writers], 2 * block)])[:, None]
    q = projected(params, spec, weights, "Q", seen[..., queries, :])
    k, v = (projected(params, spec, weights, part, seen) for part in "KV")
    of = {writer: index + 1 for index, writer in enumerate(writers)}
    w_o = params[weights + "attn.W_O"][0]
    for some in _parts(base, edges):
        offsets = [reader - graph.reader(block) for _, reader in some]
        head = torch.tensor([offset % spec.n_heads for offset in offsets])
        part = torch.tensor([offset // spec.n_heads for offset in offsets])
        new = torch.tensor([of[writer] for writer, _ in some])
        zs = attended(*(x[torch.where(part == index, new, 0), head] for index, x in enumerate((q, k, v))))
        out = einsum(zs, w_o[head], "edge batch pos d_head, edge d_head d_model -> edge batch pos d_model")
        old = base.written[[graph.head(block, int(index)) for index in head]][..., queries, :]
        changed = mid[..., queries, :] + out - old
        yield mlp(params, spec, changed, block)


def _parts(base: Streams, edges: Sequence[Edge]) -> Iterator[Sequence[Edge]]:
    size = max(1, _TOKENS_A_CALL // (base.written.shape[1] * base.positions))
    for start in range(0, len(edges), size):
        yield edges[start : start + size]


def _onwards(
    base: Streams, block: int, after: Float[Tensor, "edge batch pos d_model"]
) -> Float[Tensor, "edge batch d"]:
    """The answer's logits from the stream that left `block`."""
    edge = len(after)
    flat = rearrange(after, "edge batch pos d_model -> 1 (edge batch) pos d_model")
    resid = blocks(base.params, base.spec, flat, first=block + 1, answer_only=True)
    logits = unembed(base.params, base.spec, resid[:, :, -1:])
    return rearrange(logits, "1 (edge batch) 1 d_vocab -> edge batch d_vocab", edge=edge)
