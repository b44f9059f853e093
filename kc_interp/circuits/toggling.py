"""One edge taken from a circuit, or put back: every edge in turn, exactly and cheaply.

The same as `kc_interp.model.interventions.replaced` with one mask an edge. The circuit runs once; an edge changes what
one reader sees, so only the head or MLP that reads it is run again, and the blocks after it as the circuit runs them. A
greedy search asks this question in every round, and a round costs about what `edge_logits` costs for the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from kc_interp.circuits.effects import Edge
from kc_interp.model.forward import LAYER_NORM_EPS, mlp, unembed
from kc_interp.model.graph import BIAS, Graph
from kc_interp.model.interventions import Streams, attended, biases, mixing, projected, run

_FLOATS_A_CALL = 6_000_000


@torch.no_grad()
def toggled(
    base: Streams, source: Streams, circuit: Sequence[Edge], edges: Sequence[Edge]
) -> Float[Tensor, "edge batch d_vocab"]:
    """The answer's logits when each edge in turn is taken from the circuit if it is in it, and put back if it is not.

    A circuit keeps its edges; every other edge that varies carries what `source`'s writer wrote. Edges of constants are
    kept, and can be toggled too.
    """
    ran = _Ran.of(base, source, circuit)
    graph = base.graph
    logits = torch.empty((len(edges), *base.logits.shape), dtype=base.logits.dtype, device=base.logits.device)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (_, reader) in enumerate(edges):
        block = graph.block(reader)
        groups.setdefault((block, min((reader - graph.reader(block)) // graph.n_heads, 3)), []).append(index)
    for (block, part), places in groups.items():
        size = max(1, _FLOATS_A_CALL // (len(graph.writers) * base.written[0].numel()))
        for start in range(0, len(places), size):
            chunk = places[start : start + size]
            some = [edges[index] for index in chunk]
            if block == graph.depth:
                logits[chunk] = unembed(base.params, base.spec, ran.changed(some))[:, :, 0]
            elif part == 3:
                logits[chunk] = ran.onwards(block, ran.mlp(block, ran.changed(some)))
            else:
                logits[chunk] = ran.after_heads(block, part, some)
    return logits


@dataclass(frozen=True)
class _Ran:
    """A circuit's run: what every reader saw, and what the writers before it had written when it looked."""

    base: Streams
    source: Streams
    cut: Float[Tensor, "1 writer reader"]
    seen: dict[int, Tensor]
    written: dict[int, Tensor]
    heads: dict[int, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Streams, source: Streams, circuit: Sequence[Edge]) -> _Ran:
        graph = base.graph
        cut = torch.from_numpy(graph.mask(graph.varying) & ~graph.mask(circuit)).to(base.written)[None]
        seen: dict[int, Tensor] = {}
        written: dict[int, Tensor] = {}
        mixed = mixing(base, source, cut)

        def recorded(reader: int, count: int, stream: Tensor, before: Tensor) -> Tensor:
            result = mixed(reader, count, stream, before)
            for offset in range(count):
                seen[reader + offset], written[reader + offset] = result[0, offset], before[0]
            return result

        run(base.params, base.spec, base.written[None, : graph.head(0)], mix=recorded)
        return cls(base, source, cut, seen, written)

    @property
    def graph(self) -> Graph:
        return self.base.graph

    def keeps(self, writer: int, reader: int) -> bool:
        return not bool(self.cut[0, writer, reader])

    def changed(self, edges: Sequence[Edge]) -> Float[Tensor, "edge batch pos d_model"]:
        """What each edge's reader sees when this edge is toggled."""
        return torch.stack(list(self._changed(edges)))

    def _changed(self, edges: Sequence[Edge]) -> Iterator[Float[Tensor, "batch pos d_model"]]:
        own = biases(self.base.params, self.base.spec)
        for writer, reader in edges:
            block = self.graph.block(reader)
            stage = 2 * block + int(block < self.graph.depth and reader == self.graph.reader(block, 3))
            wrote = self.written[reader][writer]
            change = self.source.written[writer, :, -wrote.shape[1] :] - wrote
            if writer == BIAS:
                change = self.source.bias[stage] - own[stage]
            yield self.seen[reader] + change if self.keeps(writer, reader) else self.seen[reader] - change

    def mlp(self, block: int, seen: Float[Tensor, "edge batch pos d_model"]) -> Float[Tensor, "edge batch pos d_model"]:
        """What a block's MLP writes when it sees this."""
        return mlp(self.base.params, self.base.spec, seen, block) - seen

    def after_heads(self, block: int, part: int, edges: Sequence[Edge]) -> Float[Tensor, "edge batch d_vocab"]:
        """The logits when one head's query, key or value input (part 0, 1, 2) is toggled."""
        spec, params, graph = self.base.spec, self.base.params, self.graph
        weights, letter = f"blocks.{block % spec.n_layers}.", "QKV"[part]
        head = torch.tensor([(reader - graph.reader(block)) % spec.n_heads for _, reader in edges])
        qkv = [whole[head] for whole in self._qkv(block)]
        weight, bias = params[weights + f"attn.W_{letter}"][0, head], params[weights + f"attn.b_{letter}"][0, head]
        seen = self._normalised(weights + "ln1", self.changed(edges))
        qkv[part] = einsum(seen, weight, "edge batch pos d, edge d d_head -> edge batch pos d_head")
        qkv[part] = qkv[part] + bias[:, None, None]
        w_o = params[weights + "attn.W_O"][0, head]
        out = einsum(attended(*qkv), w_o, "edge batch pos d_head, edge d_head d -> edge batch pos d")
        reader, writers = graph.reader(block, 3), [graph.head(block, int(one)) for one in head]
        kept = torch.tensor([self.keeps(writer, reader) for writer in writers]).to(out)
        change = out - self.written[reader][writers]
        return self.onwards(
            block, self.mlp(block, self.seen[reader] + kept[:, None, None, None] * change), writers, out
        )

    def _qkv(self, block: int) -> list[Float[Tensor, "head batch pos d_head"]]:
        """Queries, keys and values of a block's heads as the circuit has them."""
        if block not in self.heads:
            spec, weights = self.base.spec, f"blocks.{block % self.base.spec.n_layers}."
            readers = [[self.graph.reader(block, part, head) for head in range(spec.n_heads)] for part in range(3)]
            self.heads[block] = [
                projected(self.base.params, spec, weights, name, torch.stack([self.seen[one] for one in some])[None])[0]
                for name, some in zip("QKV", readers, strict=True)
            ]
        return self.heads[block]

    def onwards(
        self,
        block: int,
        mlp_out: Float[Tensor, "edge batch pos d_model"],
        heads: Sequence[int] = (),
        heads_out: Float[Tensor, "edge batch pos d_model"] | None = None,
    ) -> Float[Tensor, "edge batch d_vocab"]:
        """The logits when this block's MLP, and a head of it, write this instead; the rest as the circuit runs."""
        spec, graph = self.base.spec, self.graph
        after = self.written[graph.reader(block + 1, 1) if block + 1 < graph.depth else graph.reader(graph.depth)]
        written = after[None, : graph.head(block + 1)].repeat(len(mlp_out), 1, 1, 1, 1)
        written[:, graph.head(block, spec.n_heads)] = mlp_out
        if heads_out is not None:
            written[torch.arange(len(heads)), list(heads)] = heads_out
        return run(self.base.params, spec, written, mix=mixing(self.base, self.source, self.cut))[1]

    def _normalised(self, norm: str, seen: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        if self.base.spec.norm == "none":
            return seen
        gain, shift = (self.base.params[f"{norm}.{name}"][0] for name in "wb")
        return F.layer_norm(seen, seen.shape[-1:], gain, shift, LAYER_NORM_EPS)
