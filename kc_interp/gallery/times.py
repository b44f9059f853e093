"""Time to learn against size: the median with its interval, censored ones as arrows; Kaplan-Meier curves beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kc_interp.finding import Cell, Table
from kc_interp.gallery.cases import (
    INTERVAL,
    arm_of,
    basis,
    bound_words,
    by_arm,
    look_of,
    records_of,
    setting_of,
    skill_words,
    title_of,
    unlogged,
)
from kc_interp.gallery.drawing import (
    Drawing,
    Look,
    Multiples,
    Panel,
    Trace,
    columns_for,
    listed,
    log_axis,
    no_figure,
    sequential,
    share_axis,
    steps_axis,
    widths_legend,
)

if TYPE_CHECKING:
    from kc_interp.scaling.analysis import Analysis, Condition, Times
    from kc_interp.scaling.thresholds import Estimate

NAME = "time-to-learn"
_TOP = 1.6
"""Open intervals end in an arrow so many budgets high."""


def time_to_learn(analysis: Analysis) -> Drawing:
    """When runs learned, by width."""
    drawn = [one for one in by_arm(analysis.conditions) if one.times is not None]
    missing = [
        f"{one.label} ({', '.join(one.notes)})" for one in analysis.conditions if one.times is None and one.notes
    ]
    skill, level = skill_words(analysis), f"{analysis.study.criterion.level:.0%}".replace("%", "\u00a0%")
    shows = (
        f"Points: the step by which half of all runs of a size have reached {level} on {skill} for good, with its "
        "interval. An interval that ends in an arrow passes the budget: its lower end is a one-sided bound, and where "
        "there is no point, half of the runs had not learned by then. Learning lies between two checks of a run, and "
        "the fit knows it. The second choice shows the Kaplan–Meier estimate, which assumes no shape."
    )
    nothing = "No times to learn: the study has no runs yet."
    if analysis.runs:
        nothing = f"No times to learn: none of the {analysis.runs} runs has a learning curve of {skill}."
    panels = (_medians(drawn, analysis), _kaplan_meier(drawn, analysis)) if drawn else (no_figure(nothing),)
    return Drawing(
        NAME,
        f"Steps until a run learned {skill}, against size",
        shows,
        "The same median at every size, or medians that move with the budget, would mean that size does not decide how "
        "soon a run learns.",
        basis(analysis, records_of(drawn), f"{INTERVAL} of a log-normal with a share that never learns",
              "Kaplan–Meier: 95 % log-log interval, in the table"),
        panels,
        picks="Shown as",
        notes=(f"Not drawn: {listed(missing)}.",) if missing and drawn else (),
    )  # fmt: skip


def _times(condition: Condition) -> Times:
    assert condition.times is not None
    return condition.times


def _parameters(condition: Condition) -> dict[int, int]:
    return {record.d_model: record.parameters for record in condition.records}


def _medians(conditions: list[Condition], analysis: Analysis) -> Panel:
    look = look_of(analysis)
    cells = [(one, cell) for one in conditions for cell in _times(one).by_width.values()]
    sizes = [float(_parameters(one)[cell.d_model]) for one, cell in cells]
    ends = [x for _, cell in cells for x in unlogged(cell.survival.median) if isinstance(x, float)]
    budget = max(10**cell.survival.longest for _, cell in cells)
    made = Multiples(
        [title_of(one) for one in conditions],
        x=log_axis("", min(sizes), max(sizes)),
        y=log_axis("", max(min([*ends, budget]), budget / 1000), _TOP * budget),
        columns=columns_for(len(conditions), len({setting_of(one) for one in conditions})),
        x_title="parameters (log scale)",
        y_title="steps until half have learned; dashed: the longest budget",
    )
    for panel, condition in enumerate(conditions):
        made.line(panel, y=max(10**cell.survival.longest for cell in _times(condition).by_width.values()))
        colour = look.colour(setting_of(condition))
        made.add(panel, *_marks(condition, colour, look, _TOP * budget))
    return Panel(_table(conditions), made.figure(), choice="Median against size")


def _marks(condition: Condition, colour: str, look: Look, top: float) -> list[Trace]:
    """The line through medians, the medians, and their intervals; an open one runs to an arrow at the top."""
    sizes, arm = _parameters(condition), arm_of(condition)
    found = [(cell, float(sizes[cell.d_model]), cell.survival.median) for cell in _times(condition).by_width.values()]
    dots = [(cell, size, one) for cell, size, one in found if one.value is not None]
    spans: list[tuple[float | None, float | None]] = []
    for _, size, one in found:
        assert one.low is not None, "a median has at least a lower bound"
        spans += [(size, 10**one.low), (size, top if one.high is None else 10**one.high), (None, None)]
    bounds = [(cell, size, one) for cell, size, one in found if one.high is None]
    base: Trace = {"type": "scatter", "showlegend": False}
    return [
        {**base, "mode": "lines", "x": [size for _, size, _ in found], "y": [unlogged(one)[0] for *_, one in found],
         "line": {"color": colour, "width": 1, "dash": "dot"}, "hoverinfo": "skip"},
        {**base, "mode": "lines", "x": [x for x, _ in spans], "y": [y for _, y in spans],
         "line": {"color": colour, "width": 1.5}, "hoverinfo": "skip"},
        {**base, "mode": "markers", "x": [size for _, size, _ in bounds], "y": [top] * len(bounds),
         "marker": {"size": 8, "symbol": "triangle-up", "color": colour},
         "customdata": [[cell.d_model, cell.learned, cell.runs, unlogged(one)[1]] for cell, _, one in bounds],
         "hovertemplate": "d_model %{customdata[0]}: more than %{customdata[3]:,.0f} steps (one-sided 95 % bound)<br>"
                          "%{customdata[1]} of %{customdata[2]} learned<extra></extra>"},
        {**base, "mode": "markers", "x": [size for _, size, _ in dots], "y": [unlogged(one)[0] for *_, one in dots],
         "marker": {"size": look.size(arm), "symbol": look.symbol(arm), "color": colour,
                    "line": {"color": "#ffffff", "width": 1}},
         "text": [_said(cell.d_model, one) for cell, _, one in dots],
         "customdata": [[cell.learned, cell.runs] for cell, *_ in dots],
         "hovertemplate": "%{text}<br>%{customdata[0]} of %{customdata[1]} learned<extra></extra>"},
    ]  # fmt: skip


def _said(d_model: int, median: Estimate) -> str:
    value, low, high = unlogged(median)
    ends = "more" if high is None else f"{high:,.0f}"
    return f"d_model {d_model}: {value:,.0f} steps [{low:,.0f}, {ends}]"


def _table(conditions: list[Condition]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (arm_of(one), setting_of(one), cell.d_model, _parameters(one)[cell.d_model], cell.runs, cell.learned,
         round(10**cell.survival.longest), *unlogged(cell.survival.median), bound_words(cell.survival.median))
        for one in conditions
        for cell in _times(one).by_width.values()
    ]  # fmt: skip
    columns = ("arm", "setting", "d_model", "parameters", "runs", "learned", "longest budget", "median steps", "low",
               "high", "known as")  # fmt: skip
    return Table("Steps until half of the runs have learned", columns, tuple(rows))


def _kaplan_meier(conditions: list[Condition], analysis: Analysis) -> Panel:
    widths = sorted({width for one in conditions for width in _times(one).by_width})
    colour = dict(zip(widths, sequential(widths), strict=True))
    longest = max(10**cell.survival.longest for one in conditions for cell in _times(one).by_width.values())
    made = Multiples(
        [title_of(one) for one in conditions],
        x=steps_axis(longest),
        y=share_axis(),
        columns=columns_for(len(conditions), len({setting_of(one) for one in conditions})),
        x_title="training steps",
        y_title="share of runs that have learned",
        legend=True,
    )
    named: set[int] = set()
    rows: list[tuple[Cell, ...]] = []
    for panel, one in enumerate(conditions):
        for width, cell in reversed(_times(one).by_width.items()):
            km = cell.kaplan_meier
            # To the end of the budget also where all have learned and nothing happens any more.
            steps, share = [0.0, *km.steps.tolist(), 10**cell.survival.longest], [0.0, *km.learned.tolist()]
            share.append(share[-1])
            made.add(panel, {
                "type": "scatter", "mode": "lines", "x": steps, "y": share, "name": str(width), "opacity": 0.9,
                "line": {"shape": "hv", "color": colour[width], "width": 1.8}, "legendgroup": str(width),
                "legendrank": 1000 + width, "showlegend": width not in named,
                "hovertemplate": f"d_model {width}, step %{{x:,.0f}}: %{{y:.0%}} have learned<extra></extra>",
            })  # fmt: skip
            named.add(width)
        for width, cell in _times(one).by_width.items():
            km = cell.kaplan_meier
            for at in zip(km.steps.tolist(), km.learned.tolist(), km.low.tolist(), km.high.tolist(), strict=True):
                step, *shares = (x if math.isfinite(x) else None for x in at)
                rows.append((arm_of(one), setting_of(one), width, cell.runs, step, *shares))
    figure = made.figure(legend=widths_legend())
    columns = ("arm", "setting", "d_model", "runs", "step", "share that has learned", "low", "high")
    return Panel(Table("Kaplan–Meier estimate", columns, tuple(rows)), figure, choice="Kaplan–Meier curves")
