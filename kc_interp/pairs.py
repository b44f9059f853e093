"""Pairs of chains whose answers differ: the inputs of patching. Drawn, or given by a person.

The chains of a set share the class of every token, line by line (one *template*), so that a position means the same in
every pair. Those of `draw` differ from their twins in one symbol of the question and in what follows from it; those of
`resample` in whatever may differ; those of `given` in what their author chose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kc_interp.errors import ExpressionError, ProbeError
from kc_interp.probe import Subject
from kc_interp.tasks.task import Chains, Task
from kc_interp.tokens import lines, position_classes

Within = Literal["template", "position class"]
"""What the chains of a set share: the class of every position, or their length and the place of the answer alone."""

PLACES = ("operands", "operation", "brackets", "separator", "query", "rest")
"""Classes of positions, of the line that the answer is worked out from; `rest` is everything before that line."""

_DRAWN_A_PAIR = 120
_FEWEST = 4


@dataclass(frozen=True)
class Pairs:
    """Clean chains and their twins, of one template: equal lengths, equal classes, different at the same positions.

    `line` is the line that each position is in, 0 for the question. `within` says what they share; where that is the
    class of positions alone, chains are equally long, and `line` is that of the first.
    """

    kind: str
    clean: Chains
    twin: Chains
    differs: tuple[int, ...]
    line: Int[np.ndarray, " pos"]
    within: Within = "template"

    def __len__(self) -> int:
        return len(self.clean)

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

    def positions(self, task: Task) -> Mapping[str, tuple[int, ...]]:
        """The positions up to the query by class (`PLACES`), none of a class that this template does not have."""
        names: dict[str, str] = {"digit": "operands", "operation": "operation", "open": "brackets", "close": "brackets"}
        labels = position_classes(task, self.clean.take(slice(0, 1)))[0]
        found: dict[str, list[int]] = {name: [] for name in PLACES}
        for place in range(self.query):
            name = {**names, "separator": "separator", "equals": "separator"}.get(labels[place], "rest")
            found[name if self.line[place] == self.last_line else "rest"].append(place)
        found["query"].append(self.query)
        return {name: tuple(places) for name, places in found.items()}

    def classes(self, task: Task) -> tuple[Int[np.ndarray, "batch pos"], Int[np.ndarray, "batch pos"]]:
        """The class of every position up to the query and its line, as one number; of clean chains and of twins."""
        both = Chains.concatenate([self.clean, self.twin], end=task.classes.index("end"))
        labels = np.unique(position_classes(task, both).astype(str), return_inverse=True)[1].reshape(both.symbols.shape)
        classes = (labels + (labels.max() + 1) * lines(task, both))[:, : self.query + 1]
        return classes[: len(self)], classes[len(self) :]

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


def resample(
    subject: Subject,
    count: int,
    *,
    purpose: str,
    component: str | None,
    steps: int,
    sets: int = 1,
    within: Within = "template",
) -> list[Pairs]:
    """`sets` sets of up to `count` different chains of one template, each chain with another of a different answer.

    No chain is in two sets, neither as it is nor as a twin. Everything that may vary within the template does: all
    operands at once, not one of them. Of `component` alone where the task has it; of one step from all of the task's
    single steps, of more from its distribution, and not from the test items only: of few steps these are too few. The
    template is the one with most different chains; `within` the class of positions, chains share their length and the
    place of the answer alone. Raises ProbeError when a set would have fewer than four pairs.
    """
    task, rng = subject.task.components().get(component or "", subject.task), subject.rng(f"{purpose}: resampled")
    sampled = task.atoms() if steps == 1 else task.sample(0, rng)
    if not len(sampled):
        sampled = task.sample(drawn_from(sets * count), rng)
        sampled = sampled.take(np.unique(sampled.symbols, axis=0, return_index=True)[1])
    sampled = sampled.take(rng.permutation(len(sampled)))
    of_one_kind = {"template": _of_one_template, "position class": _of_one_length}[within]
    drawn = of_one_kind(task, sampled, steps)
    parts = np.array_split(np.arange(len(drawn)), sets)
    found = [_resampled(task, drawn.take(part), count, within, rng) for part in parts]
    fewest = min(map(len, found))
    if fewest < _FEWEST:
        alike = {"template": "template", "position class": "length"}[within]
        raise ProbeError(
            f"{subject.name}: {fewest} pairs a set of one {alike} with different answers among {len(sampled)} "
            f"different items; at least {_FEWEST} are needed; change `steps`"
        )
    return found


def _resampled(task: Task, drawn: Chains, count: int, within: Within, rng: np.random.Generator) -> Pairs:
    """Up to `count` of these chains, each with another of them as its twin."""
    answers = drawn.answer_symbols()
    rows, twins = [], []
    for row, answer in enumerate(answers[:count]):
        if len(others := np.flatnonzero(answers != answer)):
            rows.append(row)
            twins.append(int(rng.choice(others)))
    clean, twin = (drawn.take(np.asarray(some, dtype=np.int64)) for some in (rows, twins))
    return _paired(task, "resampled", clean, twin, within)


def _paired(task: Task, kind: str, clean: Chains, twin: Chains, within: Within = "template") -> Pairs:
    """Chains of one length with their twins."""
    differs = tuple(np.flatnonzero((clean.symbols != twin.symbols).any(axis=0)).tolist())
    first = clean.take(slice(0, 1))
    line = lines(task, first)[0] if len(first) else np.zeros(0, dtype=np.int64)
    return Pairs(kind, clean, twin, differs, line, within)


def given(subject: Subject, texts: Sequence[tuple[str, str]]) -> Pairs:
    """Pairs of questions as a person types them, clean and twin: `("[SUM 1 2]", "[SUM 4 2]")`.

    All of them must have one template. Raises ProbeError, with the pair and the first symbol at fault, where a text
    does not parse, holds what the model has no token for, is too long for it, has another template, or both have the
    same answer.
    """
    if not texts:
        raise ProbeError("no pair is given; give at least one, clean and twin, such as '[SUM 1 2]' and '[SUM 4 2]'")
    task = subject.task
    read = [
        [_read(subject, text, f"pair {number}, {which}") for text, which in zip(pair, ("clean", "twin"), strict=True)]
        for number, pair in enumerate(texts, start=1)
    ]
    for number, pair in enumerate(read, start=1):
        for chain, which, model, of in (
            (pair[0], "clean", read[0][0], "the clean chain of pair 1"),
            (pair[1], "twin", pair[0], "its clean chain"),
        ):
            if (difference := _unlike(task, chain, model)) is not None:
                place, own, other = difference
                raise ProbeError(
                    f"pair {number}, {which} {task.format(chain)[0]!r}: symbol {place + 1} is {own}, in {of} "
                    f"{task.format(model)[0]!r} it is {other}; all need one shape: change digits for digits and "
                    "operations for operations alone"
                )
        clean, twin = pair
        if clean.answer_symbols()[0] == twin.answer_symbols()[0]:
            answer = task.symbols[clean.answer_symbols()[0]]
            differs = np.flatnonzero((clean.symbols != twin.symbols).any(axis=0))
            where = f"they differ first at symbol {differs[0] + 1}" if len(differs) else "they are the same"
            raise ProbeError(
                f"pair {number}: {task.format(clean)[0]!r} and {task.format(twin)[0]!r} have the same answer, {answer} "
                f"({where}); effects are on the difference between two answers: change an operand that decides it"
            )
    end = task.classes.index("end")
    clean, twin = (Chains.concatenate([pair[side] for pair in read], end=end) for side in (0, 1))
    return _paired(task, "given", clean, twin)


def _read(subject: Subject, text: str, where: str) -> Chains:
    """One question worked out, that the model can be shown."""
    task, tokens = subject.task, subject.tokens
    try:
        chain = task.parse(text)
    except ExpressionError as error:
        raise ProbeError(f"{where} {text!r}: {error}") from None
    unknown = ~np.isin(chain.symbols[0], np.asarray(tokens.codes))
    if unknown.any():
        place = int(unknown.argmax())
        symbol = task.symbols[chain.symbols[0, place]]
        raise ProbeError(
            f"{where} {task.format(chain)[0]!r}: symbol {place + 1} is {symbol!r}, which this model has no token for; "
            f"it knows {' '.join(tokens.symbols)}"
        )
    room, needed = subject.checkpoint.n_ctx, int(chain.answers[0])
    if needed > room:
        raise ProbeError(
            f"{where} {text!r}: {needed} symbols lead to its answer, this model reads up to {room}; give a shorter one"
        )
    return chain


def _unlike(task: Task, one: Chains, other: Chains) -> tuple[int, str, str] | None:
    """The first position where two chains differ in class or line, and what stands there in each; None if nowhere."""
    both = Chains.concatenate([one, other], end=task.classes.index("end"))
    labels, line = position_classes(task, both), lines(task, both)
    differs = (labels[0] != labels[1]) | (line[0] != line[1])
    if not differs.any():
        return None
    place = int(differs.argmax())
    own, others = (
        "nothing more" if labels[row, place] == "padding"
        else f"{task.symbols[both.symbols[row, place]]!r} ({labels[row, place]})"
        for row in (0, 1)
    )  # fmt: skip
    return place, own, others


def _of_one_template(task: Task, drawn: Chains, steps: int) -> Chains:
    """Those of `steps` reductions (or as many as there are) that share their most frequent template."""
    drawn = _of_steps(task, drawn, steps)
    kinds = np.asarray([sorted(set(task.classes)).index(name) for name in task.classes])[drawn.symbols]
    return _most_frequent(drawn, kinds)


def _of_one_length(task: Task, drawn: Chains, steps: int) -> Chains:
    """Those of `steps` reductions that share their length and the places of question and answer."""
    drawn = _of_steps(task, drawn, steps)
    return _most_frequent(drawn, np.stack([drawn.lengths, drawn.answers], axis=1))


def _of_steps(task: Task, drawn: Chains, steps: int) -> Chains:
    reductions = (task.orbits(drawn) >= 0).sum(axis=1)
    return drawn.take(np.flatnonzero(reductions == min(steps, int(reductions.max(initial=0)))))


def _most_frequent(drawn: Chains, kinds: Int[np.ndarray, "example fact"]) -> Chains:
    """The chains that are alike in all facts, of the most frequent sort."""
    if not len(drawn):
        return drawn
    most = np.asarray(Counter(map(tuple, kinds)).most_common(1)[0][0])
    return drawn.take(np.flatnonzero((kinds == most).all(axis=1)))
