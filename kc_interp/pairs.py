"""Pairs of chains that differ in one symbol of the question and in what follows from it: the inputs of patching.

The chains of a set share the class of every token, line by line (one *template*), and differ from their twins at the
same declared positions, so that a position means the same in every pair.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kc_interp.errors import ProbeError
from kc_interp.probe import Subject
from kc_interp.tasks.task import Chains, Task
from kc_interp.tokens import lines

_DRAWN_A_PAIR = 120
_FEWEST = 4


@dataclass(frozen=True)
class Pairs:
    """Clean chains and their twins, of one template: equal lengths, equal classes, different at the same positions.

    `line` is the line that each position is in, 0 for the question.
    """

    kind: str
    clean: Chains
    twin: Chains
    differs: tuple[int, ...]
    line: Int[np.ndarray, " pos"]

    def __len__(self) -> int:
        return len(self.clean)

    def take(self, rows: slice) -> Pairs:
        """These pairs."""
        return Pairs(self.kind, self.clean.take(rows), self.twin.take(rows), self.differs, self.line)

    @property
    def query(self) -> int:
        """The position whose next token is the answer."""
        return int(self.clean.answers[0]) - 1

    @property
    def last_line(self) -> int:
        """The line that the answer is worked out from: the one before the answer's own."""
        return max(int(self.line[self.query + 1]) - 1, 0)

    @property
    def places(self) -> dict[str, int | None]:
        """The positions that numbers are given for; None where the twins do not differ there."""
        question, last = (
            next((place for place in self.differs if self.line[place] == number), None)
            for number in (0, self.last_line)
        )
        return {"question": question, "last-line": last if self.last_line else None, "query": self.query}

    def ids(self, subject: Subject) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Clean and twin up to the query, as the model's tokens on its device."""
        return tuple(subject.ids(chains)[0, :, : self.query + 1] for chains in (self.clean, self.twin))  # type: ignore[return-value]

    def answers(self, subject: Subject) -> Int[Tensor, "two batch"]:
        """The clean answers and the twins', as the model's tokens."""
        codes = np.stack([chains.answer_symbols() for chains in (self.clean, self.twin)])
        return torch.from_numpy(subject.tokens.encode(codes)).to(subject.checkpoint.device)


def drawn_from(count: int) -> int:
    """How many test items are looked through for one set of `count` pairs."""
    return _DRAWN_A_PAIR * count


def draw(
    subject: Subject, kind: str, count: int, *, purpose: str, component: str | None, steps: int, sets: int = 1
) -> list[Pairs]:
    """Up to `sets` sets of `count` pairs of the most frequent template of `steps` reductions.

    The most frequent differing positions come first; no two sets change the same position of a later line: another
    operand of one bracket asks the same again. Of `component` alone where the task has it and it can change this
    `kind`; else of the whole mixture.
    """
    task = subject.task
    part = task.components().get(component) if component is not None else None
    source, component = (task, None) if part is None or kind not in part.counterfactuals else (part, component)
    drawn = _of_one_template(task, subject.items(drawn_from(count), f"{purpose}: {kind}", component), steps)
    twins = source.counterfactual(drawn, kind, subject.rng(f"{purpose}: {kind} twins"))
    places = [tuple(np.flatnonzero(row).tolist()) for row in drawn.symbols != twins.symbols]
    line = lines(task, drawn.take(slice(0, 1)))[0]
    found: dict[tuple[int, ...], Pairs] = {}
    for differs, often in Counter(places).most_common():
        later = tuple(place for place in differs if line[place] > 0 and place != drawn.answers[0]) or differs
        if often >= count and drawn.answers[0] in differs and later not in found:
            rows = np.asarray([row for row, place in enumerate(places) if place == differs])[:count]
            found[later] = Pairs(kind, drawn.take(rows), twins.take(rows), differs, line)
    return list(found.values())[:sets]


def resample(subject: Subject, count: int, *, purpose: str, component: str | None, steps: int) -> Pairs:
    """Up to `count` different chains of one template, each with another one of a different answer as its twin.

    Everything that may vary within the template does: all operands at once, not one of them. Of `component` alone where
    the task has it; of one step from all of the task's single steps, of more from its distribution, and not from the
    test items only: of few steps these are too few. The template is the one with most different chains. Raises
    ProbeError when fewer than four such pairs exist.
    """
    task, rng = subject.task.components().get(component or "", subject.task), subject.rng(f"{purpose}: resampled")
    sampled = task.atoms() if steps == 1 else task.sample(0, rng)
    if not len(sampled):
        sampled = task.sample(drawn_from(count), rng)
        sampled = sampled.take(np.unique(sampled.symbols, axis=0, return_index=True)[1])
    sampled = sampled.take(rng.permutation(len(sampled)))
    drawn = _of_one_template(task, sampled, steps)
    answers = drawn.answer_symbols()
    rows, twins = [], []
    for row, answer in enumerate(answers[:count]):
        if len(others := np.flatnonzero(answers != answer)):
            rows.append(row)
            twins.append(int(rng.choice(others)))
    if len(rows) < _FEWEST:
        raise ProbeError(
            f"{subject.name}: {len(rows)} pairs of one template with different answers among "
            f"{len(sampled)} different items; at least {_FEWEST} are needed; change `steps`"
        )
    clean, twin = drawn.take(np.asarray(rows)), drawn.take(np.asarray(twins))
    differs = tuple(np.flatnonzero((clean.symbols != twin.symbols).any(axis=0)).tolist())
    return Pairs("resampled", clean, twin, differs, lines(task, drawn.take(slice(0, 1)))[0])


def _of_one_template(task: Task, drawn: Chains, steps: int) -> Chains:
    """Those of `steps` reductions (or as many as there are) that share their most frequent template."""
    reductions = (task.orbits(drawn) >= 0).sum(axis=1)
    drawn = drawn.take(np.flatnonzero(reductions == min(steps, int(reductions.max()))))
    if not len(drawn):
        return drawn
    kinds = np.asarray([sorted(set(task.classes)).index(name) for name in task.classes])[drawn.symbols]
    template = np.asarray(Counter(map(tuple, kinds)).most_common(1)[0][0])
    return drawn.take(np.flatnonzero((kinds == template).all(axis=1)))
