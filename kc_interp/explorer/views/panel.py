"""What a view is given, and what it gives back: a figure or table, and what a click on it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from kc_interp import plots
from kc_interp.explorer.state import Cut, State
from kc_interp.explorer.thinking import Thinker, Thought
from kc_interp.finding import Figure, Table


@dataclass(frozen=True)
class Look:
    """One model's side of the page: `side` is 0 or 1. `untouched` is the same thought without cuts.

    With a `fault`, the state's cuts could not be made, for that reason: the thought is the untouched one.
    """

    state: State
    side: int
    thinker: Thinker
    thought: Thought
    untouched: Thought
    fault: str = ""

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The interventions under which the model thinks: the state's, if they could be made."""
        return () if self.fault else self.state.cuts_of(self.side)

    @property
    def touched(self) -> bool:
        """Whether anything is cut in this model."""
        return bool(self.cuts)

    @property
    def is_comparable(self) -> bool:
        """Whether the untouched model read the same up to the selected position; else its numbers there are of another
        text."""
        return self.thought.symbols[: self.at + 1] == self.untouched.symbols[: self.at + 1]

    @property
    def at(self) -> int:
        """The position that all views point to: the chosen one, else the one that predicts the answer."""
        last = len(self.thought.symbols) - 2
        return self.thought.query if self.state.at is None else min(self.state.at, last)


@dataclass(frozen=True)
class Panel:
    """A figure or a table of a view, with one line of `note` and a `hint` on what a click does (both may be empty).

    A click on a heatmap's cell says part `rows[y]` and position `columns[x]` (one of the two may be empty); `does` says
    whether that points all views there ("point") or cuts the part at the position ("cut"). `actions` has one for each
    row of a table (None: none), as `State.act` takes them, with its button's text: ("Cut", {"do": "cut", …}).
    """

    figure: Figure | None = None
    table: Table | None = None
    note: str = ""
    hint: str = ""
    does: Literal["", "point", "cut"] = ""
    rows: tuple[str, ...] = ()
    columns: tuple[int, ...] = ()
    actions: tuple[tuple[str, Mapping[str, Any]] | None, ...] = ()


Draw = Callable[[Look], Iterable[Panel]]
"""A view. Raises KCInterpError, with a message for the page, where it has nothing to show."""


def labels(thought: Thought) -> tuple[str, ...]:
    """What the model read, position by position, as axis labels (the last symbol is never read, and left out)."""
    return thought.symbols[:-1]


def cells(values: Float[np.ndarray, "*shape"], digits: int = 4) -> list[Any]:
    """An array as a figure's nested lists, rounded; None where a number is not finite."""
    rounded = np.round(np.asarray(values, dtype=np.float64), digits) + 0.0  # no minus zero
    plain = rounded.astype(object)
    plain[~np.isfinite(rounded)] = None
    return plain.tolist()


def one_scale(figures: Sequence[Figure]) -> plots.Limits | None:
    """The limits that one figure of two models shares; None where they measure in different units, or not at all."""
    kinds = {(figure.kind, figure.data.get("z_title"), figure.data.get("y_title")) for figure in figures}
    return plots.limits_of(figures) if len(kinds) == 1 else None
