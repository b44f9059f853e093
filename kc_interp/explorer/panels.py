"""A view's rows as the page shows them: figures drawn as in the report, tables with their buttons.

A figure travels as the report's own block: JSON that `assets/explore.js` draws when it scrolls into view.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from kc_interp.explorer.elements import alert, button, option, tag
from kc_interp.explorer.rows import Cell, Row, columns_of, messages, rows_of
from kc_interp.explorer.session import Side
from kc_interp.explorer.state import State
from kc_interp.explorer.views.panel import Panel
from kc_interp.finding import Figure, Table
from kc_interp.report import blocks
from kc_interp.report.printed import shown_cell


def shown(state: State, sides: Sequence[Side]) -> Markup:
    """The open view, row by row."""
    columns = columns_of(state.view, sides)
    inside: list[Markup] = []
    if not any(its.look for its in sides):
        inside.append(tag("p", "There is nothing to show: no model reads the expression.", class_="small"))
    said = messages(columns)
    if any(said):
        kind = "grid single" if len(said) == 1 else "grid"
        inside.append(tag("div", [tag("div", alert(it) if it else None, class_="cell") for it in said], class_=kind))
    inside += [_row(state, row) for row in rows_of(columns)]
    return tag(
        "div",
        inside,
        class_="view",
        id=f"view-{state.view}",
        data_part_chosen=state.part,
        data_view=state.view,
    )


def _row(state: State, row: Row) -> Markup:
    kind = "grid single" if len(row.cells) == 1 else "grid wide" if row.wide else "grid"
    return tag(
        "div",
        [
            *([tag("h3", row.title, class_="title")] if row.title else []),
            tag("div", [_cell(state, row, cell) for cell in row.cells], class_=kind),
            *([_says(*row.says)] if row.says is not None else []),
        ],
        class_="panel-row",
    )


def _says(shows: str, refuted_by: str) -> Markup:
    return tag(
        "details",
        [
            tag("summary", "What it shows, and what would refute it"),
            tag(
                "dl",
                [
                    tag("div", [tag("dt", "Shows"), tag("dd", shows)]),
                    tag("div", [tag("dt", "Refuted by"), tag("dd", refuted_by)]),
                ],
                class_="says",
            ),
        ],
    )


def _cell(state: State, row: Row, cell: Cell) -> Markup:
    panel = cell.panel
    if panel is None:
        return tag("div", class_="cell")
    inside: list[Any] = [tag("p", cell.name, class_="who")]
    if cell.title:
        inside.append(tag("h3", cell.title, class_="title"))
    if panel.figure is not None:
        inside += _figure(state, row, cell, panel, panel.figure)
    if cell.says is not None:
        inside.append(_says(*cell.says))
    if panel.table is not None:
        inside.append(_table(panel, panel.table, cell.name))
    if panel.note or panel.hint:
        inside.append(tag("p", f"{panel.note} {panel.hint}".strip(), class_="small"))
    return tag("div", inside, class_="cell panel", data_panel=str(row.index), data_side=str(cell.side))


def _figure(state: State, row: Row, cell: Cell, panel: Panel, figure: Figure) -> list[Markup]:
    id, name = f"{state.view}-{row.index}-{cell.side}", cell.name
    block = blocks.block(id, figure, cell.side, row.limits)
    data = {"data-kind": block.kind, "data-island": str(block.island), "data-name": f"{figure.title}, {name}"}
    if panel.does:
        data |= {
            "data-does": panel.does,
            "data-rows": json.dumps(panel.rows),
            "data-columns": json.dumps(panel.columns),
        }
        data["data-how"] = "patch" if _patches(state.view) else ""
    canvas = tag("div", class_="canvas", id=f"{id}-canvas", style=f"min-height:{block.height}px", **data)
    chart = tag(
        "figure",
        canvas,
        class_="chart",
        role="group",
        data_kind=block.kind,
        aria_label=f"{figure.title}, {name}",
    )
    numbers = tag(
        "details",
        [
            tag("summary", ["Numbers", tag("span", f": {figure.title}, {name}", class_="sr")]),
            tag("div", class_="scroll", tabindex="0", role="region", aria_label=f"Numbers: {figure.title}, {name}"),
        ],
        class_="numbers",
        data_of=f"{id}-canvas",
    )
    note = [tag("p", block.note, class_="small")] if block.note else []
    return [chart, *note, *_cells(panel, figure, name, id, state.view), numbers]


def _cells(panel: Panel, figure: Figure, name: str, id: str, view: str) -> list[Markup]:
    """What a click on a heatmap's cell does, for the keyboard: two selects and a button."""
    if not panel.does or figure.kind != "heatmap":
        return []
    data = figure.data
    fields = []
    if panel.rows:
        labels = [str(label) for label in data["y"]]
        fields.append(_choice(f"{id}-row", _short(data.get("y_title"), "part"), labels))
    if panel.columns:
        labels = [f"{position}: {label}" for position, label in zip(panel.columns, data["x"], strict=False)]
        fields.append(_choice(f"{id}-column", _short(data.get("x_title"), "position"), labels))
    does = "Point all views there" if panel.does == "point" else "Patch it there" if _patches(view) else "Cut it there"
    act = button(does, aria_label=f"{does}: {figure.title}, {name}", data_form="cell", data_of=f"{id}-canvas")
    return [tag("div", [*fields, act], class_="row-of cells")]


def _patches(view: str) -> bool:
    """Whether a cell is cut by patching, whatever else is chosen: the figure shows what that does."""
    return view == "patching"


def _short(title: str | None, otherwise: str) -> str:
    return title if title and len(title) <= 20 else otherwise


def _choice(id: str, label: str, labels: Sequence[str]) -> Markup:
    options = [option(text, str(index)) for index, text in enumerate(labels)]
    return tag("label", [tag("span", label), tag("select", options, id=id, disable_n_clicks=True)], class_="field")


def _table(panel: Panel, table: Table, name: str) -> Markup:
    island = blocks.table_island(table)
    numeric = island["numeric"]
    acting = any(panel.actions)
    head = [
        tag("th", column or "\u00a0", scope="col", class_="n" if numeric[i] else "")
        for i, column in enumerate(table.columns)
    ]
    if acting:
        head.append(tag("th", tag("span", "Action", class_="sr"), scope="col"))
    rows = []
    actions = [*panel.actions, *[None] * (len(table.rows) - len(panel.actions))] if acting else []
    for index, row in enumerate(table.rows):
        cells = [tag("td", shown_cell(cell), class_="n" if numeric[i] else "") for i, cell in enumerate(row)]
        if acting:
            action = actions[index]
            label = {} if action is None else {"aria_label": f"{action[0]}: {shown_cell(row[0])}, {name}"}
            cells.append(tag("td", button(action[0], action[1], **label) if action is not None else ""))
        rows.append(tag("tr", cells))
    note = [tag("p", table.note, class_="small")] if table.note else []
    return tag(
        "div",
        [
            tag(
                "div",
                tag(
                    "table",
                    [
                        tag("caption", f"{table.title}, {name}", class_="sr"),
                        tag("thead", tag("tr", head)),
                        tag("tbody", rows),
                    ],
                ),
                class_="scroll table",
                tabindex="0",
                role="region",
                aria_label=f"{table.title}, {name}",
            ),
            *note,
        ],
    )
