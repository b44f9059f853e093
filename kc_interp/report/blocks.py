"""A figure of a finding as the page's script draws it: a JSON island, its numbers as a table, and the room it needs."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kc_interp import circuit_figure, plots
from kc_interp.errors import SpecError
from kc_interp.finding import Figure, Table, to_plain
from kc_interp.report import bundles
from kc_interp.report.printed import shown_cell

_PLOTLY_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]]}
_HALF_WIDTH_PX = 420
"""What half the page's column leaves for labels and cells on a screen 1280 wide."""
_CIRCUIT_COLUMN_PX = 68
_CIRCUIT_BLOCK_PX = 132


@dataclass(frozen=True)
class Block:
    """One drawable thing of the page: `kind` tells the page's script what the JSON in `island` is."""

    id: str
    kind: str
    title: str
    shows: str
    refuted_by: str
    island: Markup
    height: int
    note: str = ""


def block(id: str, figure: Figure, arm: int, limits: plots.Limits | None) -> Block:
    """A finding's figure, whichever kind it is. Raises SpecError when its data are not of its kind."""
    try:
        table = plots.table_of(figure)
        if figure.kind in plots.DRAWN:
            plain = to_plain(plots.draw(figure, arm=arm, limits=limits).to_plotly_json())
            kind, height, note = "plot", plain["layout"]["height"], ""
            content = {"plot": {**_brief(plain, 5), "config": _PLOTLY_CONFIG}}
        else:
            widget, height, note = _widget(figure)
            kind, content = figure.kind, {"widget": _brief(to_plain(widget), 3)}
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise SpecError(f"figure {figure.title!r}: its data do not fit the kind {figure.kind!r} ({error!r})") from None
    numbers = table_island(table)
    if kind in ("attention", "switches", "circuit") and not note:
        del numbers["rows"]  # the page's script makes them of the widget's own data; twice would be a megabyte
    island = Markup(bundles.island({**content, "table": numbers}))
    return Block(id, kind, figure.title, figure.shows, figure.refuted_by, island, height, note)


def needs_full_width(figure: Figure) -> bool:
    """Whether two of it side by side would squeeze its labels: columns under 14 px, or tokens that do not fit."""
    data = figure.data
    if figure.kind == "heatmap":
        return 14 * len(data["x"]) + 7 * max((len(str(label)) for label in data["y"]), default=0) > _HALF_WIDTH_PX
    if figure.kind == "bars":
        return 22 * len(data["x"]) * len(data["series"]) > _HALF_WIDTH_PX
    if figure.kind == "circuit":
        return _CIRCUIT_COLUMN_PX * (data["n_heads"] + 1) > _HALF_WIDTH_PX
    return figure.kind == "attention" and 14 * len(data["tokens"]) > _HALF_WIDTH_PX


def circuit_height(depth: int, wide: bool) -> int:
    """The room of a circuit: what steers it, its graph, and the details, which half the width has below the graph."""
    return (260 if wide else 587) + _CIRCUIT_BLOCK_PX * depth


def table_island(table: Table) -> dict[str, Any]:
    """A table as the page's script fills it in: cells as printed."""
    numeric = [
        all(isinstance(row[i], (int, float)) or row[i] is None for row in table.rows) for i in range(len(table.columns))
    ]
    return {
        "columns": list(table.columns),
        "numeric": numeric,
        "rows": [[shown_cell(cell) for cell in row] for row in table.rows],
        "title": table.title,
    }


def _brief(value: Any, digits: int) -> Any:
    """Plain data with so many significant digits, as a drawing needs; `findings.json` holds the numbers unrounded.

    The effects of a circuit stay as they are: the page subtracts one model's from another's.
    """
    if isinstance(value, Mapping):
        return {key: item if key == "effect" else _brief(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_brief(item, digits) for item in value]
    return (float(f"{value:.{digits}g}") or 0) if isinstance(value, float) else value


def _widget(figure: Figure) -> tuple[dict[str, Any], int, str]:
    """What a widget of the page is given, the height it usually takes, and a note where it shows less than the data.

    The height is kept free, so that nothing moves under a reader when the widget is drawn.

    CircuitsVis's ColoredTokens takes tokens as HTML, so they are escaped here; its AttentionHeads takes them as text.
    """
    data = figure.data
    if figure.kind == "attention":
        heads, kept = len(data["heads"]), min(len(data["heads"]), bundles.MOST_HEADS)
        note = f"The first {kept} of {heads} heads; the table has all." if kept < heads else ""
        tokens = [str(token) for token in data["tokens"]]
        names = [str(head) for head in data["heads"][:kept]]
        return {"tokens": tokens, "attention": data["patterns"][:kept], "attentionHeadNames": names}, 800, note
    if figure.kind == "tokens":
        return {"tokens": [html.escape(str(t)) + " " for t in data["tokens"]], "values": list(data["values"])}, 30, ""
    if figure.kind == "circuit":
        return circuit_figure.widget(to_plain(data)), circuit_height(data["depth"], needs_full_width(figure)), ""
    examples = [
        {
            "tokens": [str(token) for token in example["tokens"]],
            "target": str(example["target"]),
            "answers": {mask: plots.ranked(answer) for mask, answer in example["answers"].items()},
        }
        for example in data["examples"]
    ]
    return {"heads": [str(head) for head in data["heads"]], "examples": examples}, 370, ""
