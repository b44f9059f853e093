"""Success against size: the share of runs that learned at each width, and the posterior curve behind the threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kc_interp.finding import Cell, Table
from kc_interp.gallery.cases import (
    INTERVAL,
    arm_of,
    basis,
    by_arm,
    criterion_words,
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
    escape,
    listed,
    log_axis,
    no_figure,
    see_through,
    share_axis,
)
from kc_interp.statistics import wilson

if TYPE_CHECKING:
    from kc_interp.scaling.analysis import Analysis, Condition

NAME = "success"
_POINTS = 48


@dataclass(frozen=True)
class Share:
    """How many runs of one size learned, with the Wilson interval of their share."""

    d_model: int
    parameters: int
    runs: int
    learned: int

    @property
    def value(self) -> float:
        return self.learned / self.runs

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.learned, self.runs)


def shares(condition: Condition) -> list[Share]:
    """The share that learned at every size of a condition; runs without a verdict do not count."""
    verdicts = zip(condition.records, condition.skill.learned, strict=True)
    counts = Counter((record.parameters, record.d_model, learned) for record, learned in verdicts)
    sizes = sorted({(size, width) for size, width, learned in counts if learned is not None})
    return [
        Share(width, size, counts[size, width, True] + counts[size, width, False], counts[size, width, True])
        for size, width in sizes
    ]


def success(analysis: Analysis) -> Drawing:
    """Share of runs that learned, and the fitted curve with its band and threshold."""
    drawn = [one for one in by_arm(analysis.conditions) if one.posterior is not None]
    missing = [f"{one.label} ({one.skill.note})" for one in analysis.conditions if one.posterior is None]
    shows = (
        f"Points: the share of runs of each size that learned {skill_words(analysis)} ({criterion_words(analysis)}). "
        "Curve: the posterior median of the probability that a run succeeds, with its 95 % band. The tinted "
        "strip and the line in it are the threshold, the size at which half of the runs that would ever succeed do; "
        "a strip that runs to the edge is a one-sided bound."
    ).replace("95 %", "95\u00a0%")
    nothing = "No success curves: the study has no runs yet."
    if analysis.runs:
        nothing = f"No success curves: none of the {analysis.runs} runs was measured on {skill_words(analysis)}."
    return Drawing(
        NAME,
        f"Share of runs that learned {skill_words(analysis)} against size, with the fitted success curves",
        shows,
        "Points far outside the band, or shares that fall again with size, would mean that no single threshold "
        "describes the arm.",
        basis(
            analysis, records_of(drawn), "error bars: 95 % Wilson interval of a share", f"band and strip: {INTERVAL}"
        ),
        (_panel(analysis, drawn) if drawn else no_figure(nothing),),
        notes=(f"Not drawn: {listed(missing)}.",) if missing and drawn else (),
    )


def _panel(analysis: Analysis, conditions: list[Condition]) -> Panel:
    look = look_of(analysis)
    sizes = [share.parameters for one in conditions for share in shares(one)]
    low, high = float(min(sizes)), float(max(sizes))
    made = Multiples(
        [title_of(one) for one in conditions],
        x=log_axis("", low, high),
        y=share_axis(),
        columns=columns_for(len(conditions), len({setting_of(one) for one in conditions})),
        x_title="parameters (log scale)",
        y_title="share of runs that learned; upper right: how many, of all sizes",
        asides=[f"{one.skill.successes} of {one.skill.runs}" for one in conditions],
    )
    at = np.geomspace(low, high, _POINTS) if high > low else np.asarray([low])
    for panel, condition in enumerate(conditions):
        colour = look.colour(setting_of(condition))
        assert condition.posterior is not None and condition.threshold is not None
        t = condition.threshold.t
        value, start, end = (None if x is None else 10**x for x in (t.value, t.low, t.high))
        if t.censored != "both":
            made.band(panel, start, end, colour)
        if value is not None:
            made.add(panel, _rule(value, colour))
        made.add(panel, *_curve(condition, at, colour), _points(condition, look, colour))
    return Panel(_table(conditions, analysis), made.figure())


def _rule(size: float, colour: str) -> Trace:
    """The threshold as a line from edge to edge: a trace, since shapes lie below the grid or above the points."""
    return {
        "type": "scatter", "mode": "lines", "showlegend": False, "x": [size, size], "y": [-1, 2],
        "line": {"color": colour, "width": 1.5}, "hovertemplate": "threshold: %{x:,.0f} parameters<extra></extra>",
    }  # fmt: skip


def _curve(condition: Condition, sizes: np.ndarray, colour: str) -> Iterator[Trace]:
    """The band, and the median with the numbers in its hover."""
    assert condition.posterior is not None
    curve = condition.posterior.curve(sizes)
    x, (middle, low, high) = sizes.tolist(), curve.T.tolist()
    quiet: dict[str, Any] = {"type": "scatter", "mode": "lines", "showlegend": False}
    yield {
        **quiet, "x": [*x, *reversed(x)], "y": [*high, *reversed(low)], "fill": "toself", "hoverinfo": "skip",
        "fillcolor": see_through(colour, 0.22), "line": {"width": 0},
    }  # fmt: skip
    yield {
        **quiet, "x": x, "y": middle, "line": {"color": colour, "width": 2},
        "customdata": [list(ends) for ends in zip(low, high, strict=True)],
        "hovertemplate": "%{x:,.0f} parameters: %{y:.0%} [%{customdata[0]:.0%}, %{customdata[1]:.0%}]<extra></extra>",
    }  # fmt: skip


def _points(condition: Condition, look: Look, colour: str) -> Trace:
    arm = arm_of(condition)
    found = shares(condition)
    ends = [one.interval for one in found]
    return {
        "type": "scatter", "mode": "markers", "showlegend": False, "name": escape(condition.label),
        "x": [one.parameters for one in found], "y": [one.value for one in found],
        "customdata": [[one.d_model, one.learned, one.runs] for one in found],
        "marker": {
            "size": look.size(arm), "symbol": look.symbol(arm), "color": colour,
            "line": {"color": "#ffffff", "width": 1},
        },
        "error_y": {
            "type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 0,
            "array": [max(high - one.value, 0) for one, (_, high) in zip(found, ends, strict=True)],
            "arrayminus": [max(one.value - low, 0) for one, (low, _) in zip(found, ends, strict=True)],
        },
        "hovertemplate": "d_model %{customdata[0]}, %{x:,} parameters<br>%{customdata[1]} of %{customdata[2]} learned"
                         "<extra></extra>",
    }  # fmt: skip


def _table(conditions: list[Condition], analysis: Analysis) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in conditions:
        assert one.posterior is not None and one.threshold is not None
        found = shares(one)
        fitted = one.posterior.curve(np.asarray([share.parameters for share in found], dtype=float)).tolist()
        for share, curve in zip(found, fitted, strict=True):
            rows.append((
                arm_of(one), setting_of(one), share.d_model, share.parameters, share.runs, share.learned, share.value,
                *share.interval, *curve, *unlogged(one.threshold.t),
            ))  # fmt: skip
    columns = (
        "arm", "setting", "d_model", "parameters", "runs", "learned", "share", "low", "high", "fitted", "fitted low",
        "fitted high", "threshold", "threshold low", "threshold high",
    )  # fmt: skip
    return Table(f"Runs that learned {skill_words(analysis)}, by size", columns, tuple(rows))
