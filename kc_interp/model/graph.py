"""A transformer as a graph: who writes to the residual stream, who reads from it, and every edge between them.

Writers are the token embedding, the position embedding, the attention output biases (one constant node), each head and
each MLP. Readers are the query, key and value input of each head, each MLP and the unembedding. The residual stream is
the sum of what was written before, so each reader has one edge from every earlier writer, at every position. Blocks
that share their weights are unrolled: each recurrence has nodes of its own.

Names are those of the edge attribution literature (Syed et al. 2023; Hanna et al. 2024): `a0.h1` is head 1 of block 0,
`m0` its MLP, `a0.h1->a1.h2<k>` the edge into the key input of a later head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from kc_interp.errors import ProbeError, did_you_mean
from kc_interp.spec import ModelSpec

CONSTANTS = ("position", "bias")
"""Writers that write the same whatever the symbols are: chains of one template cannot differ there."""

_FIRST = ("token", *CONSTANTS)
TOKEN, POSITION, BIAS = range(3)


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they are computed; an edge is (writer, reader), by index into the two lists."""

    depth: int
    n_heads: int

    @classmethod
    def of(cls, spec: ModelSpec) -> Graph:
        return cls(spec.depth, spec.n_heads)

    @cached_property
    def writers(self) -> tuple[str, ...]:
        blocks = ([*(f"a{block}.h{head}" for head in range(self.n_heads)), f"m{block}"] for block in range(self.depth))
        return (*_FIRST, *(name for block in blocks for name in block))

    @cached_property
    def readers(self) -> tuple[str, ...]:
        blocks = (
            [*(f"a{block}.h{head}<{part}>" for part in "qkv" for head in range(self.n_heads)), f"m{block}"]
            for block in range(self.depth)
        )
        return (*(name for block in blocks for name in block), "logits")

    def head(self, block: int, head: int = 0) -> int:
        """The index of a head among the writers; the block's MLP is at `head` = n_heads."""
        return len(_FIRST) + block * (self.n_heads + 1) + head

    def reader(self, block: int, part: int = 0, head: int = 0) -> int:
        """The index of a reader: part 0, 1, 2 for q, k, v of a head, 3 for the block's MLP; block = depth: logits."""
        return block * (3 * self.n_heads + 1) + part * self.n_heads + head

    def block(self, reader: int) -> int:
        """The block of a reader; `depth` for the unembedding."""
        return reader // (3 * self.n_heads + 1)

    def before(self, reader: int) -> int:
        """How many writers come before this reader: it reads from writers 0 … this - 1."""
        block = self.block(reader)
        is_mlp = reader == self.reader(block, 3)
        return self.head(block, self.n_heads if is_mlp and block < self.depth else 0)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every edge, reader by reader in the order of computation."""
        return tuple((writer, reader) for reader in range(len(self.readers)) for writer in range(self.before(reader)))

    @cached_property
    def varying(self) -> tuple[tuple[int, int], ...]:
        """The edges whose writer depends on the symbols: 110 for two layers of four heads."""
        return tuple((w, r) for w, r in self.edges if self.writers[w] not in CONSTANTS)

    @cached_property
    def visible(self) -> Bool[np.ndarray, "writer reader"]:
        """Where there is an edge."""
        return self.mask(self.edges)

    def name(self, edge: tuple[int, int]) -> str:
        writer, reader = edge
        return f"{self.writers[writer]}->{self.readers[reader]}"

    def edge(self, name: str) -> tuple[int, int]:
        """The edge of this name. Raises ProbeError, saying which end is wrong and what is near, when there is none."""
        if name in self._named:
            return self._named[name]
        writer, arrow, reader = name.partition("->")
        why = "an edge is named by its writer and its reader, as in 'token->a0.h0<v>' or 'm0->logits'"
        if arrow and writer not in self.writers:
            why = f"{writer!r} is no writer{did_you_mean(writer, self.writers)}"
        elif arrow and reader not in self.readers:
            why = f"{reader!r} is no reader{did_you_mean(reader, self.readers)}"
        elif arrow:
            before = self.writers[: self.before(self.readers.index(reader))]
            why = f"{reader} reads before {writer} writes; it reads from {', '.join(before)}"
        raise ProbeError(f"this model has no edge {name!r}: {why}")

    @cached_property
    def _named(self) -> dict[str, tuple[int, int]]:
        return {self.name(edge): edge for edge in self.edges}

    def mask(self, edges: Iterable[tuple[int, int]]) -> Bool[np.ndarray, "writer reader"]:
        """True at the given edges."""
        mask = np.zeros((len(self.writers), len(self.readers)), dtype=bool)
        for writer, reader in edges:
            mask[writer, reader] = True
        return mask

    def node_of(self, reader: int) -> int | None:
        """The writer that this reader belongs to (the head of its q, the MLP); None for the unembedding."""
        block = self.block(reader)
        if block == self.depth:
            return None
        offset = reader - self.reader(block)
        return self.head(block, offset % self.n_heads if offset < 3 * self.n_heads else self.n_heads)

    def readers_of(self, writer: int) -> tuple[int, ...]:
        """The readers whose input decides what this writer writes; none for embeddings and biases."""
        return self._readers_of.get(writer, ())

    @cached_property
    def _readers_of(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for reader in range(len(self.readers)):
            node = self.node_of(reader)
            if node is not None:
                found[node] = (*found.get(node, ()), reader)
        return found

    def connected(self, edges: Sequence[tuple[int, int]]) -> Bool[np.ndarray, " edge"]:
        """Which of these edges lie on a path, made of these edges, from the token embedding to the logits.

        The others can change nothing that depends on the symbols: a circuit is counted without them.
        """
        reached = {TOKEN}
        for writer, reader in edges_in_order(edges):
            node = self.node_of(reader)
            if writer in reached and node is not None:
                reached.add(node)
        needed = {len(self.readers) - 1}
        for writer, reader in reversed(edges_in_order(edges)):
            if reader in needed:
                needed |= set(self.readers_of(writer))
        return np.asarray([writer in reached and reader in needed for writer, reader in edges], dtype=bool)


def edges_in_order(edges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In the order of computation: by reader, then writer."""
    return sorted(edges, key=lambda edge: (edge[1], edge[0]))


def indices(edges: Sequence[tuple[int, int]]) -> tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]:
    """Writers and readers of the edges as two index arrays."""
    array = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]
