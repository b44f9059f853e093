"""A model whose circuit is known: its weights, the inputs that it is known for, and the edges that do the work.

The truth of a pair of inputs is the set of edges that carry what differs between the two to the answer. So it depends
on the pair: when the twins differ in the first operand alone, no edge of the second operand is in it. An edge whose
writer is the same in both (positions, biases, a query from a fixed symbol) never is, however much the answer needs it;
nor is one that carries a difference which no later reader takes up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import ProbeError
from kc_interp.model.graph import Graph, edges_in_order
from kc_interp.model.interventions import Streams
from kc_interp.model.parameters import Parameters
from kc_interp.pairs import Pairs
from kc_interp.probe import Subject
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, to_plain
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains
from kc_interp.tokens import Tokens, lines

Edge = tuple[int, int]

DATA = DataSpec(test_fraction=0.5, holdout_pairs=0, holdout_triples=0)
"""Half of the questions count as test items: these tasks are small, and a constructed model was trained on none."""


@dataclass(frozen=True)
class KnownAnswer:
    """A model with its truth. `params` have no `run` axis, as those of a checkpoint.

    `items` are all chains of one template; their `answers` mark the symbol that the model is asked for, the final one
    unless it copies a line. `carries` names every edge of the circuit, each with the positions whose symbols it carries
    to the answer. `solves` says whether the model writes the whole chains of its task. `bound` marks a trained model:
    what it cannot do is known, so that its circuit lies within the truth, but need not fill it.
    """

    name: str
    says: str
    task: ListOps
    spec: ModelSpec
    params: Parameters
    items: Chains
    carries: Mapping[str, tuple[int, ...]]
    solves: bool = True
    bound: bool = False

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens.of(self.task)

    @property
    def graph(self) -> Graph:
        return Graph.of(self.spec)

    @property
    def query(self) -> int:
        """The position that predicts the answer."""
        return int(self.items.answers[0]) - 1

    @cached_property
    def truth(self) -> tuple[Edge, ...]:
        """The edges of the circuit when everything varies that can, in the order of computation."""
        return tuple(edges_in_order(map(self.graph.edge, self.carries)))

    def truth_for(self, differs: Collection[int]) -> tuple[Edge, ...]:
        """The edges of the circuit for inputs that differ at these positions alone."""
        names = [name for name, places in self.carries.items() if set(places) & set(differs)]
        return tuple(edges_in_order(map(self.graph.edge, names)))

    def checkpoint(self) -> Checkpoint:
        """The model as a checkpoint: it can be saved, evaluated, and opened in TransformerLens."""
        run = RunSpec(TaskSpec("listops", to_plain(self.task)), DATA, self.spec)
        return Checkpoint(run, self.params, provenance={"known answer": self.name})

    def subject(self, seed: int = 0) -> Subject:
        """The model as a probe sees it."""
        return Subject(self.name, self.checkpoint(), seed, learned=self.solves)

    def pairs(self, count: int, rng: np.random.Generator, *, changed: int | None = None) -> Pairs:
        """`count` items, each with another one of a different answer as its twin: the counterfactual set.

        Twins differ in whatever may vary or, with `changed`, in the symbol of the question at that position alone. No
        item comes twice while there are enough. Raises ProbeError when a change there never changes the answer.
        """
        rows: list[int] = []
        twins: list[int] = []
        for row in rng.permutation(len(self.items)):
            others = self._twins(int(row), changed)
            if len(others) and len(rows) < count:
                rows.append(int(row))
                twins.append(int(rng.choice(others)))
        if not rows:
            used = sorted(set().union(*self.carries.values()))
            raise ProbeError(
                f"{self.name}: changing position {changed} alone never changes the answer, which is worked out from "
                f"positions {', '.join(map(str, used))}"
            )
        repeated = np.resize(np.arange(len(rows)), count)
        clean, twin = (self.items.take(np.asarray(part)[repeated]) for part in (rows, twins))
        differs = np.flatnonzero((clean.symbols != twin.symbols).any(axis=0))
        line = lines(self.task, clean.take(slice(0, 1)))[0]
        return Pairs("resampled" if changed is None else "operand", clean, twin, tuple(differs.tolist()), line)

    def _twins(self, row: int, changed: int | None) -> Int[np.ndarray, " twin"]:
        """The items that may be the twin of this one."""
        answers = self.items.answer_symbols()
        fits = answers != answers[row]
        if changed is not None:
            question = self.items.symbols[:, : self.items.prompts[0]]
            same = question == question[row]
            same[:, changed : changed + 1] = True
            fits &= same.all(axis=1)
        return np.flatnonzero(fits)

    def ids(self, chains: Chains) -> Int[Tensor, "batch pos"]:
        """Items as tokens, up to the position that predicts the answer."""
        return torch.from_numpy(self.tokens.encode(chains.symbols[:, : self.query + 1]))

    def answers(self, pairs: Pairs) -> Int[Tensor, "two batch"]:
        """The tokens of the clean answers and of the twins'."""
        codes = np.stack([chains.answer_symbols() for chains in (pairs.clean, pairs.twin)])
        return torch.from_numpy(self.tokens.encode(codes))

    def streams(self, pairs: Pairs) -> tuple[Streams, Streams]:
        """What every writer writes on the clean inputs and on their twins."""
        params = self.checkpoint().stacked
        clean, twin = (Streams.of(params, self.spec, self.ids(chains)) for chains in (pairs.clean, pairs.twin))
        return clean, twin
