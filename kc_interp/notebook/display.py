"""What is displayed as HTML and, for a terminal, as a few lines of text.

Nothing here imports a model: of a checkpoint only its settings, its task and what it says of itself are read.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2

from kc_interp import plots
from kc_interp.errors import KCInterpError
from kc_interp.finding import Cell, Figure, Finding, Number, Table, to_plain
from kc_interp.notebook import charts, circuit
from kc_interp.notebook.described import UNMEASURED, Described, described
from kc_interp.notebook.svg import Picture, legible
from kc_interp.report import printed

if TYPE_CHECKING:
    from kc_interp.checkpoint import Checkpoint

    Shown = Finding | Figure | Table | Number | Checkpoint

FIRST_NUMBERS = 8
MOST_CELLS = 1_500
"""A table's further rows are left out, so that a notebook's file stays small: some 40 bytes a cell."""

_SHORT_TABLE = 12
_NUMBERS = re.compile(r"[\d\s.,%–−\[\]-]+")
_KINDS = {
    "heatmap": "Heatmap", "bars": "Bar chart", "lines": "Line chart", "scatter": "Scatter plot",
    "attention": "Attention patterns", "tokens": "Coloured tokens", "circuit": "Circuit graph",
}  # fmt: skip


def bundle(shown: Shown) -> dict[str, str]:
    """The display of one object by MIME type, as Jupyter asks for it (`_repr_mimebundle_`)."""
    return {"text/plain": legible(_plain(shown)), "text/html": html(shown)}


def html(shown: Shown) -> str:
    """The display as HTML. The same object gives the same text."""
    macro, given = _laid_out(shown)
    return legible(getattr(_templates(), macro)(given)).strip() + "\n"


def _laid_out(shown: Shown) -> tuple[str, Any]:
    """The macro that shows it, and what it is given."""
    if isinstance(shown, Finding):
        return "finding", _finding(shown)
    if isinstance(shown, Figure):
        return "figure", drawn(shown)
    if isinstance(shown, Table):
        return "whole_table", _Cut.of(shown)
    if isinstance(shown, Number):
        return "numbers", [(printed.headings([shown])[0], shown)]
    return "checkpoint", _checkpoint(described(shown))


@dataclass(frozen=True)
class _Cut:
    """A table without the rows that would make a notebook's file large."""

    table: Table
    numeric: tuple[bool, ...]
    left_out: int

    @classmethod
    def of(cls, table: Table) -> _Cut:
        rows = table.rows[: max(1, MOST_CELLS // max(len(table.columns), 1))]
        numeric = tuple(all(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns)))
        return cls(Table(table.title, table.columns, rows, table.note), numeric, len(table.rows) - len(rows))

    @property
    def is_short(self) -> bool:
        return len(self.table.rows) <= _SHORT_TABLE


def _is_number(cell: Cell) -> bool:
    """Whether a cell is one, or words that stand in a column like one: a share in percent, an interval."""
    return not isinstance(cell, str) or _NUMBERS.fullmatch(cell) is not None


@dataclass(frozen=True)
class _Drawn:
    """A figure with its picture (None where there is none, with the reason in `says`) and its numbers."""

    figure: Figure
    picture: str | None
    width: int
    alt: str
    says: str
    numbers: _Cut | None


def drawn(figure: Figure) -> _Drawn:
    """A figure as it is shown. Data that do not fit its kind give words in place of a picture, never an exception."""
    figure = dataclasses.replace(figure, data=to_plain(figure.data))
    says, numbers = "", None
    picture: Picture | None = None
    try:
        if figure.kind == "circuit":
            picture, says = circuit.draw(figure)
        elif figure.kind != "switches":
            picture = charts.draw(figure.kind, figure.data)
            heads = len(figure.data["heads"]) if figure.kind == "attention" else 0
            says = f"The first {charts.MOST_HEADS} of {heads} heads." if heads > charts.MOST_HEADS else ""
        numbers = _Cut.of(_single_heads(figure) if figure.kind == "switches" else plots.table_of(figure))
    except (KCInterpError, KeyError, ValueError, TypeError, IndexError) as error:
        picture, says = None, f"No picture: the data do not fit the kind {figure.kind!r} ({error})."
    alt = f"{_KINDS.get(figure.kind, figure.kind)}: {figure.title}. Its numbers are in the table below."
    uri, width = (picture.uri, round(picture.width)) if picture else (None, 0)
    return _Drawn(figure, uri, width, alt, says, numbers)


def _single_heads(figure: Figure) -> Table:
    """The answers of a `switches` figure with no head and with each single head off: a picture has no switches."""
    heads = [str(head) for head in figure.data["heads"]]
    masks = ["0", *(str(1 << index) for index in range(len(heads)))]
    rows = []
    for example in figure.data["examples"]:
        answers = [plots.ranked(example["answers"][mask])[0] if mask in example["answers"] else None for mask in masks]
        cells = [f"{answer[0]}\u00a0({_shown_cell(answer[1])})" if answer else None for answer in answers]
        rows.append((" ".join(map(str, example["tokens"])), str(example["target"]), *cells))
    every = sum(len(example["answers"]) for example in figure.data["examples"])
    note = f"The most probable answer and its probability. All {every} answers: kc_interp.plots.table_of(figure)."
    return Table(figure.title, ("example", "target", "no head off", *heads), tuple(rows), note)


def _finding(finding: Finding) -> dict[str, Any]:
    rows = list(zip(printed.headings(finding.numbers), finding.numbers, strict=True))
    return {
        "finding": finding,
        "first": rows[:FIRST_NUMBERS],
        "rest": rows[FIRST_NUMBERS:],
        "tables": [_Cut.of(table) for table in finding.tables],
        "figures": [drawn(figure) for figure in finding.figures],
    }


def _checkpoint(facts: Described) -> dict[str, Any]:
    return {
        "facts": facts,
        "unmeasured": UNMEASURED,
        "measured": _Cut.of(facts.measured) if facts.measured else None,
        "curve": drawn(facts.curve) if facts.curve else None,
    }


@functools.cache
def _templates() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kc_interp.notebook", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=printed.number, shown=_shown_cell)
    return environment.get_template("display.html.j2").module


def _shown_cell(cell: Any) -> str:
    words = printed.shown_cell(to_plain(cell))
    return words if isinstance(cell, str) else words.replace("-", printed.MINUS)


def _plain(shown: Shown) -> str:
    """A few lines for a terminal; a dataclass's own text would spell out every number of every figure."""
    if isinstance(shown, Finding):
        lines = [f"{shown.title} ({shown.probe} on {shown.subject}: {shown.status})", shown.sentence]
        lines += [_line(number) for number in shown.numbers[:FIRST_NUMBERS]]
        more = len(shown.numbers) - FIRST_NUMBERS
        lines += [f"  and {more} more numbers"] if more > 0 else []
        return "\n".join([*lines, f"  {len(shown.tables)} tables, {len(shown.figures)} figures"])
    if isinstance(shown, Number):
        return _line(shown).strip()
    if isinstance(shown, Figure):
        return f"{shown.title} ({shown.kind})\n  shows: {shown.shows}\n  refuted by: {shown.refuted_by}"
    if isinstance(shown, Table):
        return f"{shown.title} ({len(shown.rows)} rows: {', '.join(map(str, shown.columns))})"
    facts = described(shown)
    return "\n".join([facts.title, *(f"  {name}: {value}" for name, value in facts.rows)])


def _line(number: Number) -> str:
    bounds = None in (number.low, number.high)
    interval = "" if bounds else f" [{_shown_cell(number.low)}, {_shown_cell(number.high)}]"
    return f"  {number.title}: {_shown_cell(number.value)}{interval}"
