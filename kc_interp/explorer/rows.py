"""The open view row by row, as the page and an exported file both show it: the same panel of each model side by side.

Figures of one row share one scale where they measure the same; what their panels have in common is said once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kc_interp import plots
from kc_interp.errors import KCInterpError
from kc_interp.explorer.session import Side
from kc_interp.explorer.state import View
from kc_interp.explorer.views import attention, circuit, embedding, lens, neurons, parts, patching
from kc_interp.explorer.views.panel import Draw, Look, Panel, one_scale
from kc_interp.report import blocks

MOST_COLUMNS = 5
"""Columns of a table that half the page's width holds."""

_DRAW: dict[View, Draw] = {
    "attention": attention.panels,
    "circuit": circuit.panels,
    "patching": patching.panels,
    "lens": lens.panels,
    "embedding": embedding.panels,
    "parts": parts.panels,
    "neurons": neurons.panels,
}


@dataclass(frozen=True)
class Column:
    """What the view shows of one model; with a `message`, why it shows nothing."""

    name: str
    panels: tuple[Panel, ...] = ()
    message: str = ""


@dataclass(frozen=True)
class Cell:
    """One model's panel in a row (None: it has none there); `side` is 0 or 1.

    `title` is empty where the row says it. `says` is what the figure shows and what would refute it, where the row does
    not say that for all; None where it does or there is no figure.
    """

    name: str
    side: int
    panel: Panel | None
    title: str = ""
    says: tuple[str, str] | None = None


@dataclass(frozen=True)
class Row:
    """The same panel of each model. `wide`: two of it side by side would be too narrow to read."""

    index: int
    cells: tuple[Cell, ...]
    title: str
    says: tuple[str, str] | None
    wide: bool
    limits: plots.Limits | None


def panels_of(view: View, look: Look) -> list[Panel]:
    """What a view shows of one model. Raises KCInterpError where it has nothing to show."""
    return list(_DRAW[view](look))


def columns_of(view: View, sides: Sequence[Side]) -> list[Column]:
    """The view of every model; a model that did not read the expression has an empty column."""
    return [_column(view, its) for its in sides]


def _column(view: View, its: Side) -> Column:
    if its.look is None:
        return Column(its.name)
    try:
        return Column(its.name, tuple(panels_of(view, its.look)))
    except KCInterpError as error:
        return Column(its.name, message=str(error))


def messages(columns: Sequence[Column]) -> list[str]:
    """Why there is nothing to see, column by column ("": there is something); one message where it is the same."""
    said = [column.message for column in columns]
    if len(set(said)) == 1:
        return said[:1]
    return [message and f"{column.name}: {message}" for column, message in zip(columns, said, strict=True)]


def rows_of(columns: Sequence[Column]) -> Iterator[Row]:
    """The rows, but for those in which no model has anything."""
    for index, panels in enumerate(itertools.zip_longest(*(column.panels for column in columns))):
        there = [panel for panel in panels if panel is not None and (panel.figure or panel.table or panel.note)]
        if there:
            yield _row(index, panels, there, [column.name for column in columns])


def _row(index: int, panels: Sequence[Panel | None], there: Sequence[Panel], names: Sequence[str]) -> Row:
    figures = [panel.figure for panel in there if panel.figure is not None]
    titles = list(dict.fromkeys(filter(None, map(_title, there))))
    says = list(dict.fromkeys((figure.shows, figure.refuted_by) for figure in figures))
    cells = []
    for side, panel in enumerate(panels):
        figure = panel.figure if panel is not None else None
        own = (figure.shows, figure.refuted_by) if figure is not None and len(says) > 1 else None
        title = _title(panel) if panel is not None and len(titles) > 1 else ""
        cells.append(Cell(names[side], side, panel, title, own))
    return Row(
        index,
        tuple(cells),
        titles[0] if len(titles) == 1 else "",
        says[0] if len(says) == 1 else None,
        any(map(_is_wide, there)),
        one_scale(figures),
    )


def _title(panel: Panel) -> str:
    return panel.figure.title if panel.figure is not None else panel.table.title if panel.table is not None else ""


def _is_wide(panel: Panel) -> bool:
    figure, table = panel.figure, panel.table
    return (figure is not None and blocks.needs_full_width(figure)) or (
        table is not None and len(table.columns) > MOST_COLUMNS
    )
