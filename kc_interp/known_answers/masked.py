"""Models trained with edges that cannot exist: what the circuit may use is known, how it does is found by training.

Each writer has stretches of the residual stream to itself, and a reader has weights only for the stretches of those
writers that it may read. Without LayerNorm that is exact, in the parameters themselves: every method sees an ordinary
model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from kc_interp import metrics
from kc_interp.errors import SpecError
from kc_interp.known_answers.answer import Edge, KnownAnswer
from kc_interp.known_answers.constructed import one_reduction, operand_places, single_reductions
from kc_interp.metrics import Items
from kc_interp.model import parameters
from kc_interp.model.forward import forward
from kc_interp.model.graph import BIAS, POSITION, TOKEN, Graph
from kc_interp.model.parameters import Parameters
from kc_interp.spec import ModelSpec
from kc_interp.tasks.listops import ListOps
from kc_interp.tokens import Tokens


@dataclass(frozen=True)
class Wiring:
    """What may read what. `edges` are those that may carry symbols; every reader also reads the position.

    `width` is how many coordinates each writer has to itself. The direct path from token to logits is always there: it
    tells `=` and the end from the symbol before them, and carries nothing where `=` stands.
    """

    edges: tuple[str, ...]
    layers: int = 1
    heads: int = 2
    width: int = 12
    d_head: int = 8
    d_mlp: int = 48

    @property
    def spec(self) -> ModelSpec:
        stretches = 2 + self.layers * (self.heads + 1)
        return ModelSpec(
            stretches * self.width,
            self.layers,
            self.heads,
            d_head=self.d_head,
            d_mlp=self.d_mlp,
            act="relu",
            norm="none",
            init=1 / math.sqrt(self.width),  # what a reader of one writer needs; narrower, deep wirings do not learn
            scale_residual=False,
        )

    @property
    def graph(self) -> Graph:
        return Graph.of(self.spec)

    @property
    def allowed(self) -> tuple[Edge, ...]:
        """Every edge that exists. Raises ProbeError on a name that is none."""
        graph = self.graph
        everywhere = [(POSITION, reader) for reader in range(len(graph.readers))]
        return (*map(graph.edge, self.edges), *everywhere, (TOKEN, len(graph.readers) - 1))

    def masks(self, *, d_vocab: int, n_ctx: int) -> dict[str, Tensor]:
        """For each parameter 1 where it may differ from 0."""
        spec, graph, allowed = self.spec, self.graph, self.allowed
        masks = {
            name: torch.ones(shape) for name, shape in parameters.shapes(spec, d_vocab=d_vocab, n_ctx=n_ctx).items()
        }

        def written(writers: Collection[int]) -> Float[Tensor, " d_model"]:
            """1 at the coordinates of these writers; the biases, which write nothing, have none."""
            own = torch.zeros(len(graph.writers), self.width)
            own[list(writers)] = 1.0
            return torch.cat([own[:BIAS], own[BIAS + 1 :]]).flatten()

        def seen(reader: int) -> Float[Tensor, "d_model 1"]:
            return written([writer for writer, reads in allowed if reads == reader])[:, None]

        masks["embed.W_E"] *= written([TOKEN])
        masks["pos_embed.W_pos"] *= written([POSITION])
        for block in range(spec.n_layers):
            prefix = f"blocks.{block}."
            for head in range(spec.n_heads):
                for part, name in enumerate("QKV"):
                    masks[prefix + f"attn.W_{name}"][head] *= seen(graph.reader(block, part, head))
                masks[prefix + "attn.W_O"][head] *= written([graph.head(block, head)])
            masks[prefix + "attn.b_O"] *= 0
            masks[prefix + "mlp.W_in"] *= seen(graph.reader(block, 3))
            for name in ("mlp.W_out", "mlp.b_out"):
                masks[prefix + name] *= written([graph.head(block, spec.n_heads)])
        masks["unembed.W_U"] *= seen(graph.reader(spec.n_layers))
        return masks


def masked_max(seed: int = 0) -> KnownAnswer:
    """MAX of two, 0 to 4, through one head, which alone reaches the logits; its keys may see the symbols."""
    wiring = Wiring(("token->a0.h0<k>", "token->a0.h0<v>", "a0.h0->logits"))
    return train("masked_max", one_reduction("MAX", 5, operands=2), wiring, torch.Generator().manual_seed(seed))


def masked_sum(seed: int = 0) -> KnownAnswer:
    """SUM modulo 5 of two through one head that finds its places by position, and the MLP."""
    wiring = Wiring(("token->a0.h1<v>", "a0.h1->m0", "m0->logits"))
    return train("masked_sum", one_reduction("SUM", 5, operands=2), wiring, torch.Generator().manual_seed(seed))


def masked_detour(seed: int = 0) -> KnownAnswer:
    """SUM modulo 5 of two, by a longer way: head, MLP, a second head, a second MLP."""
    edges = ("token->a0.h0<v>", "a0.h0->m0", "m0->a1.h1<v>", "a1.h1->m1", "m1->logits")
    task = one_reduction("SUM", 5, operands=2)
    return train("masked_detour", task, Wiring(edges, layers=2), torch.Generator().manual_seed(seed))


def train(
    name: str, task: ListOps, wiring: Wiring, generator: torch.Generator, *, steps: int = 2_000, lr: float = 3e-3
) -> KnownAnswer:
    """Train a wiring on every single reduction of a task until it writes each of them, with a probability of 0.9.

    Adam on the symbols to be written, the whole table a step. Raises ProbeError on an edge that does not exist,
    SpecError when the task has more than single reductions of one operation, when no operand can reach the answer, or
    when the table is not learned.
    """
    if task.depth > 1 or len(task.operations) > 1:
        raise SpecError(
            f"{name}: only single reductions of one operation are trained on, this task has {len(task.operations)} "
            f"operations and depth {task.depth}; give one operation and depth 1"
        )
    template = single_reductions(task, task.max_operands)
    query = int(template.answers[0]) - 1
    carries: dict[str, tuple[int, ...]] = {}
    for place in operand_places(task.max_operands):
        for edge in carried(wiring.graph, wiring.allowed, (place,), query):
            carries[wiring.graph.name(edge)] = (*carries.get(wiring.graph.name(edge), ()), place)
    if not carries:
        raise SpecError(
            f"{name}: no path of {', '.join(wiring.edges)} leads from an operand to the answer; add the edges of one, "
            "such as token->a0.h0<v>, a0.h0->logits"
        )
    params = _trained(name, task, wiring, generator, steps, lr)
    return KnownAnswer(
        name,
        "trained, with these edges alone to carry symbols",
        task,
        wiring.spec,
        params,
        template,
        carries,
        bound=True,
    )


def _trained(name: str, task: ListOps, wiring: Wiring, generator: torch.Generator, steps: int, lr: float) -> Parameters:
    spec, table, tokens = wiring.spec, task.atoms(), Tokens.of(task)
    items, shape = Items.of(table, tokens), {"d_vocab": len(tokens), "n_ctx": task.max_length}
    masks = wiring.masks(**shape)
    free = {
        key: (value * masks[key]).requires_grad_()
        for key, value in parameters.initialise(spec, generator, **shape).items()
    }
    optimiser = torch.optim.Adam(free.values(), lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    ids = torch.from_numpy(tokens.encode(table.symbols))
    place = np.arange(1, ids.shape[1])
    written = torch.from_numpy((place >= table.prompts[:, None]) & (place < table.lengths[:, None]))
    sure = torch.zeros(len(table))
    for step in range(1, steps + 1):
        masked = {key: (value * masks[key])[None] for key, value in free.items()}
        logits = forward(masked, spec, ids[None, :, :-1])[0]
        optimiser.zero_grad()
        F.cross_entropy(logits[written], ids[:, 1:][written]).backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            params = {key: value.detach() * masks[key] for key, value in free.items()}
            sure = metrics.forced(parameters.stack([params]), spec, [items]).exact_expected[0]
            if sure.min() >= 0.9:
                return params
    raise SpecError(
        f"{name}: after {steps} steps {int((sure >= 0.9).sum())} of {len(table)} chains are learned; raise steps or "
        "width, allow more edges, or take another seed"
    )


def carried(graph: Graph, edges: Collection[Edge], varies: Collection[int], query: int) -> tuple[Edge, ...]:
    """Which of these edges can carry to the answer what the symbols at the positions `varies` say.

    A bound by causality, position by position: an edge counts when, at one position, its writer may depend on those
    symbols and the answer at `query` on its reader. Weights do not enter.
    """
    reads: dict[int, list[int]] = {}
    for writer, reader in edges:
        reads.setdefault(reader, []).append(writer)
    places = frozenset(range(query + 1))
    depends = {TOKEN: frozenset(varies) & places}
    for node in range(graph.head(0), len(graph.writers)):
        parts = [_union(depends, reads.get(reader, [])) for reader in graph.readers_of(node)]
        moved = frozenset().union(*parts[1:])
        depends[node] = parts[0] | frozenset(place for place in places if moved and place >= min(moved))
    needed = {len(graph.readers) - 1: frozenset({query})}
    for node in reversed(range(graph.head(0), len(graph.writers))):
        readers = graph.readers_of(node)
        asked = frozenset().union(*(needed.get(reader, frozenset()) for reader in reads if node in reads[reader]))
        before = frozenset(place for place in places if asked and place <= max(asked))
        for part, reader in enumerate(readers):
            needed[reader] = asked if part == 0 else before
    return tuple(
        (writer, reader)
        for writer, reader in edges
        if depends.get(writer, frozenset()) & needed.get(reader, frozenset())
    )


def _union(depends: Mapping[int, frozenset[int]], writers: Collection[int]) -> frozenset[int]:
    return frozenset().union(*(depends.get(writer, frozenset()) for writer in writers))
