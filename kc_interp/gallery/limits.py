"""Thresholds: one row an arm, a dot and interval a setting, an arrow where an end is open, and the capacity bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from kc_interp.finding import Cell, Table
from kc_interp.gallery.cases import (
    INTERVAL,
    arm_of,
    basis,
    bound_words,
    look_of,
    records_of,
    setting_of,
    skill_words,
    unlogged,
)
from kc_interp.gallery.drawing import (
    INK,
    PALE,
    Drawing,
    Look,
    Panel,
    Trace,
    axis,
    escape,
    layout,
    listed,
    log_axis,
    no_figure,
    note,
    shortened,
)

if TYPE_CHECKING:
    from kc_interp.scaling.analysis import Analysis, Condition
    from kc_interp.scaling.thresholds import Threshold

NAME = "thresholds"
_SPREAD = 0.62
"""The part of a row that its settings share."""


def thresholds(analysis: Analysis) -> Drawing:
    """The size at which each arm becomes likely to learn, at each setting."""
    drawn = [one for one in analysis.conditions if one.threshold is not None]
    missing = [f"{one.label} ({one.skill.note})" for one in analysis.conditions if one.threshold is None]
    shows = (
        f"The size at which half of the runs that would ever learn {skill_words(analysis)} do, with its interval. An "
        "arrow instead of an end is a one-sided 95 % bound: no size beyond it was tried, so nothing is said of it. The "
        "dotted line is the capacity bound: the smallest size at which any run at all, of any arm, learned. What lies "
        "right of it is lost in training, not for want of room."
    ).replace("95 %", "95\u00a0%")
    nothing = "No thresholds: the study has no runs yet."
    if analysis.runs:
        nothing = f"No thresholds: none of the {analysis.runs} runs was measured on {skill_words(analysis)}."
    return Drawing(
        NAME,
        f"Thresholds: how many parameters each arm needs to learn {skill_words(analysis)}",
        shows,
        "Differences between arms that are near 0 with narrow intervals at every setting (the figure of synergy) would "
        "refute that what is trained on decides the size needed; intervals that overlap here do not. A threshold that "
        "moves with the initialisation alone speaks of optimisation.",
        basis(analysis, records_of(drawn), INTERVAL),
        (_panel(drawn, analysis) if drawn else no_figure(nothing),),
        notes=(f"Not drawn: {listed(missing)}.",) if missing and drawn else (),
    )


def _threshold(condition: Condition) -> Threshold:
    assert condition.threshold is not None
    return condition.threshold


def _panel(conditions: list[Condition], analysis: Analysis) -> Panel:
    look = look_of(analysis)
    arms = [arm for arm in look.arms if arm in {arm_of(one) for one in conditions}]
    sizes = [end for one in conditions for end in (10 ** _threshold(one).smallest, 10 ** _threshold(one).largest)]
    x = log_axis("parameters (log scale)", min(sizes), max(sizes))
    traces = [trace for setting in look.settings for trace in _setting(conditions, arms, setting, look, x["range"])]
    bounds = list(_bounds(conditions, arms, analysis, look))
    row_px = max(26, 15 * len(look.settings) + 8)
    settings = len(look.settings) > 1
    top = 34 if settings or bounds else 12
    height = top + row_px * len(arms) + 56
    # Rows by number: an arm's name may be a number, which plotly would take for a place.
    y = axis(
        tickmode="array", tickvals=list(range(len(arms))), ticktext=[escape(shortened(arm, 26)) for arm in arms],
        range=[len(arms) - 0.5, -0.5], showgrid=False, automargin=True, ticks="",
    )  # fmt: skip
    rules: list[dict[str, Any]] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": row + 0.5, "y1": row + 0.5,
         "layer": "below", "line": {"color": "#e3e7ec", "width": 1}}
        for row in range(len(arms) - 1)
    ]  # fmt: skip
    lost = [
        note("not located: too few runs to tell", xref="x domain", x=0.01, xanchor="left", yref="y",
             y=_place(one, arms, look), font={"size": 12, "color": PALE})
        for one in conditions
        if _threshold(one).t.censored == "both"
    ]  # fmt: skip
    figure = go.Figure({
        "data": [*bounds, *traces],
        "layout": layout(
            height, xaxis=x, yaxis=y, shapes=rules, annotations=lost, showlegend=settings or bool(bounds),
            margin={"l": 12, "r": 20, "t": top, "b": 56},
        ),
    })  # fmt: skip
    return Panel(_table(conditions), figure)


def _place(condition: Condition, arms: list[str], look: Look) -> float:
    """Where in its arm's row a condition stands."""
    return arms.index(arm_of(condition)) + _offset(look.settings.index(setting_of(condition)), len(look.settings))


def _offset(index: int, count: int) -> float:
    return _SPREAD * ((index + 0.5) / count - 0.5)


def _setting(conditions: list[Condition], arms: list[str], setting: str, look: Look, ends: list[float]) -> list[Trace]:
    """Interval lines, dots and arrows of one setting. An arrow stands at the edge to which its line runs."""
    here = [one for one in conditions if setting_of(one) == setting and _threshold(one).t.censored != "both"]
    colour = look.colour(setting)
    inside = 0.006 * (ends[1] - ends[0])  # plotly hides marks that rounding puts past the edge
    left, right = 10 ** (ends[0] + inside), 10 ** (ends[1] - inside)
    spans: list[tuple[float | None, float | None]] = []
    arrows: list[tuple[float, float, str]] = []
    stops: list[tuple[float, float]] = []
    for one in here:
        place, (_, low, high) = _place(one, arms, look), unlogged(_threshold(one).t)
        start, end = (left if low is None else float(low)), (right if high is None else float(high))
        spans += [(start, place), (end, place), (None, None)]
        if high is None:
            arrows.append((right, place, "triangle-right"))
            stops.append((start, place))
        if low is None:
            arrows.append((left, place, "triangle-left"))
            stops.append((end, place))
    dots = [(one, float(v)) for one in here if (v := unlogged(_threshold(one).t)[0]) is not None]
    base: Trace = {"type": "scatter", "name": escape(setting), "legendgroup": setting, "showlegend": False}
    marker = {"color": colour, "line": {"width": 2, "color": colour}}
    return [
        {**base, "mode": "lines", "x": [x for x, _ in spans], "y": [y for _, y in spans], "hoverinfo": "skip",
         "line": {"color": colour, "width": 2}},
        {**base, "mode": "markers", "x": [x for x, _ in stops], "y": [y for _, y in stops], "hoverinfo": "skip",
         "marker": {"symbol": "line-ns-open", "size": 9, **marker}},
        {**base, "mode": "markers", "x": [x for x, *_ in arrows], "y": [y for _, y, _ in arrows], "hoverinfo": "skip",
         "cliponaxis": False, "marker": {"symbol": [symbol for *_, symbol in arrows], "size": 9, "color": colour}},
        {**base, "mode": "markers", "x": [value for _, value in dots],
         "y": [_place(one, arms, look) for one, _ in dots],
         "marker": {"symbol": [look.symbol(arm_of(one)) for one, _ in dots],
                    "size": [look.size(arm_of(one)) for one, _ in dots], "color": colour, "opacity": 1,
                    "line": {"width": 1, "color": "#ffffff"}},
         "text": [f"{escape(one.label)}: {escape(_threshold(one).t.says())}" for one, _ in dots],
         "hovertemplate": "%{text}<extra></extra>"},
        # The legend shows the setting's colour, whatever the arm's symbol.
        {**base, "mode": "lines+markers", "x": [None], "y": [None], "showlegend": len(look.settings) > 1,
         "line": {"color": colour, "width": 2}, "marker": {"symbol": "circle", "size": 9, "color": colour}},
    ]  # fmt: skip


def _bounds(conditions: list[Condition], arms: list[str], analysis: Analysis, look: Look) -> list[Trace]:
    """The capacity bounds, each beside the conditions that it holds for."""
    found: list[Trace] = []
    half = 0.5 / max(len(look.settings), 1)
    for bound in analysis.bounds:
        size = bound.capacity.size
        if size is None:
            continue
        places = [_place(one, arms, look) for one in conditions if one.label in bound.conditions]
        whole = len(places) == len(conditions)
        spans = [(-0.5, len(arms) - 0.5)] if whole else [(place - half, place + half) for place in places]
        name = f"capacity bound{f' ({bound.setting})' if bound.setting else ''}: {size:,.0f} parameters"
        # Tasks and kinds of model have bounds of their own; one line of the legend stands for all of them.
        found.append({
            "type": "scatter", "mode": "lines", "showlegend": not found, "legendgroup": "bound",
            "name": escape(name) if whole else "capacity bound of the row",
            "line": {"color": INK, "width": 1.5, "dash": "dot"},
            "x": [x for _ in spans for x in (size, size, None)], "y": [y for span in spans for y in (*span, None)],
            "hovertemplate": escape(f"{name}, by {bound.capacity.arm}") + "<extra></extra>",
        })  # fmt: skip
    return found


def _table(conditions: list[Condition]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in conditions:
        found = _threshold(one)
        at = [unlogged(found.at[share])[0] for share in sorted(found.at)]
        rows.append((
            arm_of(one), setting_of(one), found.runs, found.learned, *unlogged(found.t), bound_words(found.t), *at,
            found.slope_dex.value, found.lapse.value,
        ))  # fmt: skip
    columns = ("arm", "setting", "runs", "learned", "threshold", "low", "high", "known as", "10 % at", "50 % at",
               "90 % at", "slope (dex)", "lapse")  # fmt: skip
    return Table("Thresholds in parameters", columns, tuple(rows))
