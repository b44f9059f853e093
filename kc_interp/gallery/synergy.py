"""The signed synergy matrix: how much smaller a model may be, or must be larger, that trains on more than one task."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import plotly.graph_objects as go
from plotly.colors import get_colorscale

from kc_interp.finding import Cell, Table
from kc_interp.gallery.cases import BASE, INTERVAL, basis, look_of, records_of, skill_words
from kc_interp.gallery.drawing import INK, Drawing, Panel, axis, escape, layout, no_figure, shortened

if TYPE_CHECKING:
    from kc_interp.scaling.analysis import Analysis, Contrast
    from kc_interp.scaling.thresholds import Estimate

NAME = "synergy"
_LEAST_DEX = 0.3
"""The colour scale reaches at least so far: a factor of two must not look like the largest effect possible."""

_MUTED = 0.28
_MINUS = "\u2212"


def synergy(analysis: Analysis) -> Drawing:
    """log10 of the component's threshold alone less that of every other arm."""
    skill = skill_words(analysis)
    found = [one for one in analysis.contrasts if one.kind == "synergy" and one.axis == "parameters"]
    labels = {label for one in found for label in (one.of, one.against)}
    resting = [one for one in analysis.conditions if one.label in labels]
    return Drawing(
        NAME,
        f"Synergy: what training on more than {skill} alone does to the size needed",
        f"Each cell: log10 of the threshold of {skill} alone less that of the arm, in dex, with its interval. Above 0 "
        "(blue) the arm needs fewer parameters than the component alone (+0.30 is half of them), below 0 (red) more. "
        "Where the interval includes 0 the cell is pale: its sign is not known. > and < are one-sided bounds, where a "
        "threshold lies outside the sizes tried.",
        "Red cells for joint arms, or values near 0 with narrow intervals, would refute that joint training makes "
        "learning possible at a smaller size (pale cells with wide ones say nothing); blue cells for arms with a "
        "scrambled auxiliary task would mean that what it teaches is not the reason.",
        basis(analysis, records_of(resting), INTERVAL + " of a difference of two thresholds"),
        (_panel(found, analysis) if found else no_figure(_nothing(analysis)),),
        width_mm=_width_mm(found),
    )


def _width_mm(found: list[Contrast]) -> Literal[89, 180]:
    """One printed column where the cells' intervals and the arms' names fit into it."""
    small = len({one.setting for one in found}) <= 2 and all(len(_arm(one)) <= 16 for one in found)
    return 89 if small else 180


def _nothing(analysis: Analysis) -> str:
    component = analysis.study.criterion.component
    if component is None:
        return "No synergy: the study's criterion names no component that could be trained alone."
    if not analysis.runs:
        return "No synergy: the study has no runs yet."
    alone = [one for one in analysis.conditions if one.operations == (component,)]
    if not alone:
        return f"No synergy: no arm trains on {component} alone, with which others could be compared."
    others = [one for one in analysis.conditions if one.threshold is not None and one not in alone]
    if not others:
        return f"No synergy: no other arm has runs that were measured on {component}."
    return f"No synergy: {component} alone has no runs yet at a setting at which another arm has."


def _arm(contrast: Contrast) -> str:
    return contrast.of.removesuffix(f", {contrast.setting}") if contrast.setting else contrast.of


def _middle(estimate: Estimate) -> float | None:
    """What a cell's colour says: the value, or the bound where that is all there is."""
    if estimate.value is not None or estimate.censored is None:
        return estimate.value
    return {"above": estimate.low, "below": estimate.high, "both": None}[estimate.censored]


def _panel(found: list[Contrast], analysis: Analysis) -> Panel:
    look = look_of(analysis)
    arms = [arm for arm in look.arms if arm in {_arm(one) for one in found}]
    settings = [name for name in look.settings if name in {one.setting or BASE for one in found}]
    by_cell = {(_arm(one), one.setting or BASE): one for one in found}
    values = [abs(value) for one in found if (value := _middle(one.synergy)) is not None]
    reach = max([*values, _LEAST_DEX])
    scale = [[place, colour] for place, colour in _trimmed(1.0)]
    pale = [[place, colour] for place, colour in _trimmed(_MUTED)]
    traces = []
    for decided in (True, False):
        cells = [[by_cell.get((arm, setting)) for setting in settings] for arm in arms]
        kept = [[one if one is not None and one.excludes_zero == decided else None for one in row] for row in cells]
        traces.append({
            "type": "heatmap", "x": list(range(len(settings))), "y": list(range(len(arms))),
            "z": [[None if one is None else _colour_value(one) for one in row] for row in kept],
            "text": [["" if one is None else _written(one, bold=decided) for one in row] for row in kept],
            "texttemplate": "%{text}", "textfont": {"size": 12, "color": INK},
            "zmin": -reach, "zmax": reach, "colorscale": scale if decided else pale, "xgap": 2, "ygap": 2,
            "hoverongaps": False, "showscale": decided,
            "hovertext": [["" if one is None else _hover(one) for one in row] for row in kept],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "colorbar": {
                "orientation": "h", "thickness": 9, "lenmode": "pixels", "len": 170, "nticks": 5, "x": 1, "xpad": 0,
                "xanchor": "right", "y": 0, "yanchor": "top", "ypad": 10, "tickfont": {"size": 12},
                "title": {"text": "dex; above 0: fewer parameters", "side": "bottom", "font": {"size": 12}},
            },
        })  # fmt: skip
    if not any(one.excludes_zero for one in found):
        traces[1]["showscale"] = True
    flat: dict[str, Any] = {"showgrid": False, "ticks": "", "showline": False, "tickmode": "array"}
    figure = go.Figure({
        "data": traces,
        "layout": layout(
            100 + 44 * len(arms),
            margin={"l": 12, "r": 12, "t": 30, "b": 12},
            xaxis=axis(**flat, tickvals=list(range(len(settings))), side="top", tickangle=0,
                       range=[-0.5, len(settings) - 0.5],
                       ticktext=[escape(shortened(name, max(60 // len(settings), 10))) for name in settings]),
            yaxis=axis(**flat, tickvals=list(range(len(arms))), range=[len(arms) - 0.5, -0.5], automargin=True,
                       ticktext=[escape(shortened(arm, 22)) for arm in arms]),
        ),
    })  # fmt: skip
    return Panel(_table(found), figure)


def _colour_value(contrast: Contrast) -> float:
    """A cell that is not located has no side: it is white, not blank."""
    return _middle(contrast.synergy) or 0.0


def _trimmed(strength: float) -> list[tuple[float, str]]:
    """RdBu without its dark ends, on which no text is legible, faded towards white to a strength."""
    places = []
    for place, colour in get_colorscale("RdBu")[2:-2]:
        parts = [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        faded = [round(255 + strength * (part - 255)) for part in parts]
        places.append((place, f"rgb({faded[0]},{faded[1]},{faded[2]})"))
    low, high = places[0][0], places[-1][0]
    return [((place - low) / (high - low), colour) for place, colour in places]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", _MINUS)


def _written(contrast: Contrast, *, bold: bool) -> str:
    """The value and, below it, the interval, or the bound."""
    one = contrast.synergy
    if one.value is not None and one.low is not None and one.high is not None:
        value, below = _signed(one.value), f"<br>[{_signed(one.low)}, {_signed(one.high)}]"
    elif one.low is not None:
        value, below = f"&gt; {_signed(one.low)}", ""
    elif one.high is not None:
        value, below = f"&lt; {_signed(one.high)}", ""
    else:
        return "not located"
    return (f"<b>{value}</b>" if bold else value) + below


def _hover(contrast: Contrast) -> str:
    one = contrast.synergy
    said = f"{contrast.of} against {contrast.against}"
    if one.value is not None:
        factor = 10**one.value
        said += f": needs {1 / factor:.2g} of its parameters" if math.isfinite(factor) else ""
    return escape(
        said + ("" if contrast.excludes_zero else "; the sign is not known") + (f" ({one.note})" if one.note else "")
    )


def _table(found: list[Contrast]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        estimate = one.synergy
        rows.append((
            _arm(one), one.setting or BASE, one.against, estimate.value, estimate.low, estimate.high,
            "yes" if one.excludes_zero else "no", estimate.note,
        ))  # fmt: skip
    columns = ("arm", "setting", "against", "synergy (dex)", "low", "high", "excludes 0", "note")
    return Table("Synergy: log10 threshold of the component alone less that of the arm", columns, tuple(rows))
