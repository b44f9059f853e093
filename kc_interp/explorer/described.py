"""One model's half in plain data, as the page and an exported file both show it: answer, chain, what comes next.

What the untouched model does stands beside it only where both read the same symbols before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kc_interp.explorer.views.panel import Look

TOP = 6
"""Next symbols that are shown."""


@dataclass(frozen=True)
class Symbol:
    """One symbol of a chain, and how probable it was before it was read: None where it was given, in the question.

    `instead` stands against a wrong symbol: the model's own choice, or in a free run the correct symbol ("nothing"
    beyond the correct chain's end). `was` is what the untouched model chooses here, where that differs: in a free run
    only at the first such symbol, since after it the two read different texts.
    """

    text: str
    position: int
    probability: float | None = None
    instead: str = ""
    was: str = ""
    mark: Literal["", "chosen", "predicted"] = ""


@dataclass(frozen=True)
class Next:
    """A next symbol with its probability now and, where there is something to compare, in the untouched model.

    In a free run none is the correct one: what would be correct after the model's own text is not known.
    """

    text: str
    now: float
    before: float | None
    is_correct: bool


@dataclass(frozen=True)
class Described:
    """One model's half. `answer` and `before` (the untouched model's) are None where there is none.

    `fault` is why the cuts that were asked for are not made, `apart` why the next symbols do not stand beside the
    untouched model's, `restored` from where on cut parts are whole again. `mistakes` counts the chain's symbols (of
    `written`) that have something `instead`.
    """

    name: str
    free: bool
    touched: bool
    fault: str
    answer: str | None
    target: str
    before: str | None
    exact: bool
    lines: tuple[tuple[Symbol, ...], ...]
    at: Symbol
    following: tuple[Next, ...]
    apart: str
    restored: str = ""

    @property
    def right(self) -> bool:
        """Whether the answer is correct."""
        return self.answer == self.target

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The whole chain, the question first."""
        return tuple(itertools.chain(*self.lines))

    @property
    def written(self) -> tuple[Symbol, ...]:
        """The chain without the question."""
        return tuple(symbol for symbol in self.symbols if symbol.probability is not None)

    @property
    def mistakes(self) -> int:
        return sum(bool(symbol.instead) for symbol in self.written)


def described(look: Look) -> Described:
    """What there is to say of one model."""
    thought = look.thought
    symbols = list(_chain(look))
    apart = ""
    if look.touched and not look.is_comparable:
        apart = "Not set beside the untouched model's: under the cuts it read other symbols before this position."
    return Described(
        name=look.thinker.name,
        free=thought.free,
        touched=look.touched,
        fault=look.fault,
        answer=thought.answer,
        target=thought.target,
        before=look.untouched.answer,
        exact=thought.exact,
        lines=tuple(
            tuple(line) for _, line in itertools.groupby(symbols, key=lambda symbol: thought.line[symbol.position])
        ),
        at=symbols[look.at],
        following=tuple(_following(look)),
        apart=apart,
        restored=""
        if thought.restored_from is None
        else f"From position {thought.restored_from} on, beyond the correct chain, cut parts are whole again: only of "
        "zero is it known there what to put in.",
    )


def _chain(look: Look) -> Iterator[Symbol]:
    thought, before = look.thought, look.untouched
    chosen, chosen_before = thought.choices, before.choices
    pairs = enumerate(zip(thought.symbols, before.symbols, strict=False))
    apart = next((position for position, (now, then) in pairs if now != then), None)
    for position, text in enumerate(thought.symbols):
        instead = was = ""
        if position >= thought.asked and thought.free:
            instead = thought.correct[position] if position < len(thought.correct) else "nothing"
            was = before.symbols[position] if position == apart and look.touched else ""
        elif position >= thought.asked:
            instead = chosen[position - 1]
            if look.touched and chosen_before[position - 1] != instead:
                was = chosen_before[position - 1]
        yield Symbol(
            text,
            position,
            thought.probability(position) if position >= thought.asked else None,
            instead if instead != text else "",
            was,
            "chosen" if position == look.at else "predicted" if position == look.at + 1 else "",
        )


def _following(look: Look) -> Iterator[Next]:
    """The most probable next symbols at the selected position: of both models, where they are compared."""
    thought, at = look.thought, look.at
    now = thought.probabilities[at]
    before = look.untouched.probabilities[at] if look.touched and look.is_comparable else None
    highest = now if before is None else np.fmax(now, before)
    top = np.argsort(-highest, kind="stable")[:TOP]
    right = "" if thought.free or at + 1 >= len(thought.correct) else thought.correct[at + 1]
    for token in sorted(top.tolist(), key=lambda token: -now[token]):
        text = thought.vocabulary[token]
        yield Next(text, float(now[token]), None if before is None else float(before[token]), text == right)
