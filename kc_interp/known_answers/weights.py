"""Writing a transformer's weights by hand: a residual stream of named coordinates, heads that move, neurons that test.

The stream begins as two one-hot vectors, the symbol and the position; every other stretch of it is empty until a head
or a neuron writes there. Without LayerNorm a component reads exactly the coordinates that it is told to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from kc_interp.model import parameters
from kc_interp.model.parameters import Parameters
from kc_interp.spec import ModelSpec
from kc_interp.tasks.listops import ListOps
from kc_interp.tokens import Tokens

SHARP = 30.0
"""Attention scores differ by this much: what should not be attended to gets less than 1e-12 of the weight."""

CONFIDENT = 12.0
"""The logit of the right symbol; the others have 0."""


@dataclass(frozen=True)
class Weights:
    """Parameters, all zero but the one-hot embeddings at first, with the coordinates of the stream by name."""

    spec: ModelSpec
    tokens: Tokens
    params: Parameters
    begins: Mapping[str, int]

    @classmethod
    def blank(
        cls,
        task: ListOps,
        stretches: Mapping[str, int],
        *,
        layers: int = 1,
        heads: int = 1,
        d_head: int = 1,
        d_mlp: int = 1,
    ) -> Weights:
        """For the symbols and positions of a task, with so many further coordinates of each name."""
        tokens = Tokens.of(task)
        sizes = {"token": len(tokens), "position": task.max_length, **stretches}
        begins = {name: sum(list(sizes.values())[:index]) for index, name in enumerate(sizes)}
        spec = ModelSpec(sum(sizes.values()), layers, heads, d_head=d_head, d_mlp=d_mlp, act="relu", norm="none")
        params = {
            name: torch.zeros(shape)
            for name, shape in parameters.shapes(spec, d_vocab=len(tokens), n_ctx=task.max_length).items()
        }
        params["embed.W_E"][:, : len(tokens)] = torch.eye(len(tokens))
        first = begins["position"]
        params["pos_embed.W_pos"][:, first : first + task.max_length] = torch.eye(task.max_length)
        return cls(spec, tokens, params, begins)

    def at(self, stretch: str, index: int = 0) -> int:
        """A coordinate of the stream."""
        return self.begins[stretch] + index

    def symbol(self, symbol: str) -> int:
        """The coordinate that is 1 where this symbol stands."""
        return self.at("token", self.tokens.symbols.index(symbol))

    def position(self, position: int) -> int:
        """The coordinate that is 1 at this position."""
        return self.at("position", position)

    def attend(self, block: int, head: int, scores: Mapping[int, Mapping[int, float]]) -> None:
        """Query coordinate -> key coordinate -> attention score. What no score is given for scores 0."""
        for channel, (query, keys) in enumerate(scores.items()):
            # Attention divides by the square root of d_head.
            self.params[f"blocks.{block}.attn.W_Q"][head, query, channel] = math.sqrt(self.spec.head_size)
            for key, score in keys.items():
                self.params[f"blocks.{block}.attn.W_K"][head, key, channel] = score

    def move(self, block: int, head: int, moved: Mapping[int, Mapping[int, float]]) -> None:
        """Coordinate written -> coordinate read -> factor: what a head writes of the positions that it attends to."""
        for channel, (written, reads) in enumerate(moved.items()):
            self.params[f"blocks.{block}.attn.W_O"][head, channel, written] = 1.0
            for read, factor in reads.items():
                self.params[f"blocks.{block}.attn.W_V"][head, read, channel] = factor

    def neuron(
        self, block: int, index: int, reads: Mapping[int, float], bias: float, writes: Mapping[int, float]
    ) -> None:
        """One ReLU unit: relu(sum of what it reads, by weight, + bias), added to what it writes, by weight."""
        for read, weight in reads.items():
            self.params[f"blocks.{block}.mlp.W_in"][read, index] = weight
        self.params[f"blocks.{block}.mlp.b_in"][index] = bias
        for written, weight in writes.items():
            self.params[f"blocks.{block}.mlp.W_out"][index, written] = weight

    def table(self, block: int, entries: Sequence[tuple[tuple[int, ...], int]], strength: float = 1.0) -> None:
        """One neuron an entry: when all of its coordinates are 1, the coordinate beside them becomes `strength`."""
        for index, (together, written) in enumerate(entries):
            self.neuron(block, index, dict.fromkeys(together, 1.0), 1.0 - len(together), {written: strength})

    def predict(self, coordinate: int, symbol: str, logit: float) -> None:
        """Each unit at this coordinate adds so much to the logit of a symbol."""
        self.params["unembed.W_U"][coordinate, self.tokens.symbols.index(symbol)] = logit

    def predict_digits(self, stretch: str, count: int, logit: float = 1.0) -> None:
        """A stretch holds the logits of the digits."""
        for digit in range(count):
            self.predict(self.at(stretch, digit), str(digit), logit)

    def close(self, digits: int, logit: float = 4 * CONFIDENT) -> None:
        """What a chain of one reduction holds beside its answer: `=` follows `]`, and the end the answer.

        By the direct path from token to logits, which carries nothing at the position that predicts the answer, where
        `=` always stands.
        """
        self.predict(self.symbol("]"), "=", logit)
        for digit in range(digits):
            self.predict(self.symbol(str(digit)), "<end>", logit)
