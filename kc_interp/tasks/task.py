"""What a task is: symbols with classes, worked examples ("chains") drawn by a seed, and what evaluation needs.

A task speaks in *symbol codes*, indices into its own full alphabet, which do not depend on the subset of operations in
use: the same expression has the same codes in every arm of a comparison. `kc_interp.tokens` maps codes to a model's
tokens.

A chain is one sequence: the question, then what the model must write, up to the end symbol. It is a function of its
question, so that "wrote the whole chain" is a measure of success. In ListOps:

    [SUM 1 [MAX 4 3]] > [SUM 1 4] = 5 <end>
    question------->  completion--------->
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

SymbolClass = Literal["digit", "operation", "open", "close", "separator", "equals", "end", "other"]


@dataclass(frozen=True)
class Chains:
    """A batch of worked examples in symbol codes, padded on the right with the end symbol.

    `lengths` counts the end symbol; `prompts` is the index of the first symbol that the model must write (the separator
    after the question); `answers` is the index of the one symbol that is the final answer.
    """

    symbols: Int[np.ndarray, "example pos"]
    lengths: Int[np.ndarray, " example"]
    prompts: Int[np.ndarray, " example"]
    answers: Int[np.ndarray, " example"]

    def __len__(self) -> int:
        return len(self.symbols)

    def take(self, index: np.ndarray | slice) -> Chains:
        """The examples at `index` (integers, booleans or a slice), cut to the longest of them."""
        lengths = self.lengths[index]
        width = int(lengths.max(initial=1))
        return Chains(self.symbols[index][:, :width], lengths, self.prompts[index], self.answers[index])

    @staticmethod
    def concatenate(parts: Sequence[Chains], *, end: int) -> Chains:
        """All examples of `parts` in order; shorter rows are padded with the code `end`."""
        width = max(part.symbols.shape[1] for part in parts)
        padded = [
            np.pad(part.symbols, ((0, 0), (0, width - part.symbols.shape[1])), constant_values=end) for part in parts
        ]
        return Chains(
            np.concatenate(padded),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.prompts for part in parts]),
            np.concatenate([part.answers for part in parts]),
        )

    def answer_symbols(self) -> Int[np.ndarray, " example"]:
        """The code of each final answer."""
        return self.symbols[np.arange(len(self)), self.answers]


@runtime_checkable
class Task(Protocol):
    """The contract at the plug-in boundary. `kc_interp.testing.check_task` tests an implementation against it.

    A task is a frozen dataclass whose fields are its settings (plain TOML values), so that a checkpoint can name it.
    """

    @property
    def symbols(self) -> tuple[str, ...]:
        """The full alphabet; the code of a symbol is its index. Exactly one symbol has the class "end"."""

    @property
    def classes(self) -> tuple[SymbolClass, ...]:
        """The class of each symbol, parallel to `symbols`."""

    @property
    def used(self) -> Bool[np.ndarray, " symbol"]:
        """Which symbols can occur in this task's chains."""

    @property
    def max_length(self) -> int:
        """The length of the longest possible chain, the end symbol included: the least context of a model."""

    def sample(self, count: int, rng: np.random.Generator) -> Chains:
        """`count` chains from the task's own distribution."""

    def redraw(self, chains: Chains, rng: np.random.Generator) -> Chains:
        """Fresh contents in the same strata (lengths, shape), so that rejection keeps the distribution of lengths."""

    def components(self) -> Mapping[str, Task]:
        """Parts of the task that arms of a comparison can share, by name ({"SUM": SUM alone, …}); {} if it has none."""

    def groups(self, chains: Chains) -> Mapping[str, np.ndarray]:
        """Facts to break accuracy down by: name -> one label per example ("operation", "depth", "steps", "arity")."""

    def atoms(self) -> Chains:
        """Every single step of the task as a chain (ListOps: 1,100 reductions per operation); may be empty."""

    def orbits(self, chains: Chains) -> Int[np.ndarray, "example step"]:
        """The orbit of each step of each chain, -1 where a chain has no further step.

        An orbit joins the steps that a symmetry of the task maps onto each other (ListOps: an operation with its
        operands as a multiset), so that holding one out leaves no permuted twin behind.
        """

    def choose_orbits(self, pairs: int, triples: int, seed: int) -> Int[np.ndarray, " orbit"]:
        """Orbits to hold out: `pairs` pairs together with every larger step that contains one, and `triples` triples.

        Drawn per operation and independently of which operations are in use. May be empty.
        """

    @property
    def counterfactuals(self) -> tuple[str, ...]:
        """The kinds of change that `counterfactual` offers ("operand", "operation"); () if none."""

    def counterfactual(self, chains: Chains, kind: str, rng: np.random.Generator) -> Chains:
        """For each chain a twin whose question differs in one symbol of the given kind and whose answer differs.

        The twin has the same symbol classes at every position. Later lines are recomputed, so they may differ too. A
        chain that no such change alters is its own twin.
        """

    def parse(self, text: str) -> Chains:
        """One question, as a person types it, as a chain of one example. Raises ExpressionError.

        The question's symbols with spaces between are always read.
        """

    def format(self, chains: Chains) -> list[str]:
        """Each chain as a person reads it."""


Accept = Callable[[Chains], Bool[np.ndarray, " example"]]
