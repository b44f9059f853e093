"""A view's panels as the page shows them: figures drawn as in the report, both models on one scale, and their tables.

A figure travels as the report's own block: JSON that `assets/explore.js` draws when it scrolls into view.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from kc_interp import plots
from kc_interp.errors import KCInterpError
from kc_interp.explorer.elements import alert, button, option, tag
from kc_interp.explorer.session import Side
from kc_interp.explorer.state import State, View
from kc_interp.explorer.views import attention, circuit, embedding, lens, neurons, parts, patching
from kc_interp.explorer.views.panel import Draw, Look, Panel, one_scale
from kc_interp.finding import Figure, Table
from kc_interp.report import blocks
from kc_interp.report.printed import shown_cell

_DRAW: dict[View, Draw] = {
    "attention": attention.panels,
    "circuit": circuit.panels,
    "patching": patching.panels,
    "lens": lens.panels,
    "embedding": embedding.panels,
    "parts": parts.panels,
    "neurons": neurons.panels,
}


def panels_of(view: View, look: Look) -> list[Panel]:
    """What a view shows of one model. Raises KCInterpError where it has nothing to show."""
    return list(_DRAW[view](look))


def shown(state: State, sides: Sequence[Side]) -> Markup:
    """The open view, row by row: the same panel of each model side by side, on one scale."""
    columns: list[list[Panel]] = []
    messages: list[str] = []
    for its in sides:
        found, message = [], ""
        if its.look is not None:
            try:
                found = panels_of(state.view, its.look)
            except KCInterpError as error:
                message = str(error)
        columns.append(found)
        messages.append(message)
    rows: list[Markup] = []
    if not any(its.look for its in sides):
        rows.append(tag("p", "There is nothing to show: no model reads the expression.", class_="small"))
    if any(messages):
        alike = len(set(messages)) == 1
        said = (
            [alert(messages[0])]
            if alike
            else [
                tag("div", alert(f"{its.name}: {message}") if message else None, class_="cell")
                for its, message in zip(sides, messages, strict=True)
            ]
        )
        rows.append(tag("div", said, class_="grid single" if alike else "grid"))
    for index, panels in enumerate(itertools.zip_longest(*columns)):
        rows.append(_row(state, index, panels, [its.name for its in sides]))
    return tag(
        "div",
        rows,
        class_="view",
        id=f"view-{state.view}",
        data_part_chosen=state.part,
        data_view=state.view,
    )


def _row(state: State, index: int, panels: Sequence[Panel | None], names: Sequence[str]) -> Markup:
    figures = [panel.figure for panel in panels if panel is not None and panel.figure is not None]
    limits = one_scale(figures)
    wide = any(map(blocks.needs_full_width, figures)) or any(
        panel is not None and panel.table is not None and len(panel.table.columns) > 6 for panel in panels
    )
    says = {(figure.shows, figure.refuted_by) for figure in figures}
    titles = {_title(panel) for panel in panels if panel is not None}
    one_title = len(titles) == 1
    cells = [
        _cell(state, index, side, panel, names[side], limits, titled=not one_title, says=len(says) > 1)
        for side, panel in enumerate(panels)
    ]
    kind = "grid single" if len(panels) == 1 else "grid wide" if wide else "grid"
    return tag(
        "div",
        [
            *([tag("h3", title, class_="title")] if one_title and (title := titles.pop()) else []),
            tag("div", cells, class_=kind),
            *([_says(*says.pop())] if len(says) == 1 else []),
        ],
        class_="panel-row",
    )


def _title(panel: Panel) -> str:
    return panel.figure.title if panel.figure is not None else panel.table.title if panel.table is not None else ""


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


def _cell(
    state: State,
    index: int,
    side: int,
    panel: Panel | None,
    name: str,
    limits: plots.Limits | None,
    *,
    titled: bool,
    says: bool,
) -> Markup:
    if panel is None:
        return tag("div", class_="cell")
    inside: list[Any] = [tag("p", name, class_="who")]
    if titled and _title(panel):
        inside.append(tag("h3", _title(panel), class_="title"))
    if panel.figure is not None:
        inside += _figure(state, index, side, panel, panel.figure, name, limits)
        if says:
            inside.append(_says(panel.figure.shows, panel.figure.refuted_by))
    if panel.table is not None:
        inside.append(_table(panel, panel.table, name))
    if panel.note or panel.hint:
        inside.append(tag("p", f"{panel.note} {panel.hint}".strip(), class_="small"))
    return tag("div", inside, class_="cell panel", data_panel=str(index), data_side=str(side))


def _figure(
    state: State, index: int, side: int, panel: Panel, figure: Figure, name: str, limits: plots.Limits | None
) -> list[Markup]:
    id = f"{state.view}-{index}-{side}"
    block = blocks.block(id, figure, side, limits)
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
