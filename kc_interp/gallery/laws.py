"""Threshold against complexity: every task a point, every candidate law a line with its weight, a measure at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from kc_interp.finding import Cell, Table
from kc_interp.gallery.cases import BASE, INTERVAL, basis, look_of, records_of, runs_words, setting_of
from kc_interp.gallery.drawing import (
    INK,
    PRINT_PX,
    Drawing,
    Panel,
    Trace,
    axis,
    escape,
    layout,
    legend,
    listed,
    log_axis,
    no_figure,
    shortened,
)
from kc_interp.gallery.labels import placed
from kc_interp.plots import OKABE_ITO
from kc_interp.report.printed import MINUS
from kc_interp.scaling.laws import FEW_TASKS

if TYPE_CHECKING:
    from kc_interp.scaling.analysis import Analysis
    from kc_interp.scaling.law_report import Law, LawReport
    from kc_interp.scaling.laws import FormFit, Tasks

NAME = "laws"
_POINTS = 60
HEIGHT_PX = 400
HALO = "0 0 3px #fff, 0 0 3px #fff, 0 0 3px #fff"
_FORMS = {"constant": ("#59636e", "dot"), "linear": (OKABE_ITO[3], "dash"), "power": (OKABE_ITO[2], "solid"),
          "exponential": (OKABE_ITO[4], "dashdot")}  # fmt: skip


def laws(analysis: Analysis, reports: Sequence[LawReport]) -> Drawing:
    """Thresholds against each measure of complexity, with the laws that were fitted."""
    fitted = [(report, law) for report in reports for law in _ranked(report) if law.tasks is not None]
    reasons = [f"{report.setting or BASE}: {reason}" for report in reports if (reason := _reason(report))]
    labels = {name for report in reports for name in report.thresholds}
    shows = (
        "Points: the threshold of each task (arms that differ in their operations alone) against a measure of its "
        "complexity, with its interval. Lines: four candidate laws fitted to the points. A law’s weight is the chance "
        "that it predicts best among the four (Akaike weight of AICc). Tasks share operations, so they are not "
        "independent: the weights make the winner look surer than it is."
    )
    left = {name: why for report in reports for name, why in report.left_out.items()}
    notes = [f"Left out: {listed([f'{name} ({why})' for name, why in left.items()], 8)}."] if left else []
    if fitted and reasons:
        notes.append(f"No law at {'; '.join(reasons)}.")
    nothing = "No law: the study has no runs yet."
    if analysis.runs:
        nothing = f"No law. {'; '.join(reasons) or 'No setting has thresholds'}."
    points = [one for one in analysis.conditions if one.threshold is not None] if labels else []
    panels = tuple(_panel(report, law, analysis, several=len(reports) > 1) for report, law in fitted)
    return Drawing(
        NAME,
        "Threshold against complexity of the task, with every candidate law",
        shows,
        "The constant law with most of the weight would mean that this measure says nothing of how large a model must "
        "be; a law that holds only through one point (see its influence in `kc-interp fit`) is none.",
        basis(analysis, records_of(points), f"thresholds: {INTERVAL}") if points else f"{runs_words(analysis)}.",
        panels or (no_figure(nothing),),
        picks="Complexity measure",
        notes=tuple(notes),
    )  # fmt: skip


def _ranked(report: LawReport) -> list[Law]:
    """The measure that predicts best first."""
    return sorted(report.laws, key=lambda law: (law.key != report.best, law.error_dex is None, law.error_dex or 0.0))


def _reason(report: LawReport) -> str:
    """Why a setting has no law at all."""
    if any(law.tasks is not None for law in report.laws):
        return ""
    return (
        report.note
        or "; ".join(dict.fromkeys(law.note for law in report.laws if law.note))
        or "no measure was asked for"
    )


def _tasks(law: Law) -> Tasks:
    assert law.tasks is not None
    return law.tasks


def _panel(report: LawReport, law: Law, analysis: Analysis, *, several: bool) -> Panel:
    tasks = _tasks(law)
    setting = report.setting or BASE
    look = look_of(analysis)
    colour = look.colour(setting) if setting in look.settings else OKABE_ITO[0]
    x = tasks.complexity.tolist()
    wide = max(x) / min(x) > 4
    at = np.geomspace(min(x), max(x), _POINTS) if wide else np.linspace(min(x), max(x), _POINTS)
    ends = [end for name in tasks.names for end in _interval(report, tasks, name)]
    title = f"{law.title}{f' ({law.unit})' if law.unit else ''}"
    lines = [_line(fit, tasks, at, rank) for rank, fit in enumerate(law.forms)]
    drawn = [*ends, *(value for line in lines for value in line["y"])]
    room = 0.06 * (max(x) - min(x))
    across = log_axis(title, min(x), max(x)) if wide else axis(title, range=[min(x) - room, max(x) + room])
    up = log_axis("threshold in parameters", min(drawn), max(drawn))
    symbols = [look.symbol(_arm(analysis, report, name)) for name in tasks.names]
    points = _points(report, tasks, colour, symbols) | _labels(report, tasks, across, up, lines)
    figure = go.Figure({
        # Dashes on top of whole lines: laws over a short range nearly coincide.
        "data": [*sorted(lines, key=lambda line: line["line"]["dash"] != "solid"), points],
        "layout": layout(
            HEIGHT_PX,
            xaxis=across,
            yaxis=up,
            margin={"l": 76, "r": 12, "t": 40, "b": 56},
            legend=legend(title={"text": "law, its weight", "font": {"size": 12}}),
            showlegend=True,
        ),
    })  # fmt: skip
    best = " (predicts best)" if law.key == report.best else ""
    return Panel(
        _points_table(report, tasks, law),
        figure,
        choice=f"{law.title}{best}" + (f" · {setting}" if several else ""),
        file=f"{law.key}.{setting}" if several else law.key,
        note=_note(law, setting),
        more=(_forms_table(law), *_comparison_table(report, law)),
    )


def _labels(
    report: LawReport, tasks: Tasks, across: Mapping[str, Any], up: Mapping[str, Any], lines: Sequence[Trace]
) -> dict[str, Any]:
    """The tasks' names beside their points, placed for the width in print, where room is least."""
    size = (PRINT_PX - 76.0 - 12.0, HEIGHT_PX - 40.0 - 56.0)

    def place(value: float, one: Mapping[str, Any], length: float) -> float:
        low, high = one["range"]
        return length * ((math.log10(value) if one.get("type") == "log" else value) - low) / (high - low)

    found = [_interval(report, tasks, name) for name in tasks.names]
    texts = [shortened(name, 22) for name in tasks.names]
    points = [
        (place(x, across, size[0]), place(value, up, size[1]))
        for x, (value, *_) in zip(tasks.complexity.tolist(), found, strict=True)
    ]
    bars = [(place(low, up, size[1]), place(high, up, size[1])) for _, low, high in found]
    run = [
        (place(x, across, size[0]), place(y, up, size[1]))
        for line in lines
        for x, y in zip(line["x"], line["y"], strict=True)
    ]
    return {"text": [escape(text) for text in texts], "textposition": placed(points, texts, size, bars, run)}


def _arm(analysis: Analysis, report: LawReport, name: str) -> str:
    """The arm whose operations a task is named after."""
    look = look_of(analysis)
    for one in analysis.conditions:
        if "+".join(sorted(one.operations)) == name and setting_of(one) == (report.setting or BASE):
            arm = one.label.removesuffix(f", {one.setting}") if one.setting else one.label
            return arm if arm in look.arms else look.arms[0]
    return look.arms[0]


def _interval(report: LawReport, tasks: Tasks, name: str) -> tuple[float, float, float]:
    """A task's threshold with its interval, in parameters."""
    value = 10 ** float(tasks.y[tasks.names.index(name)])
    found = report.thresholds.get(name)
    if found is None or found.low is None or found.high is None:
        return value, value, value
    return value, 10**found.low, 10**found.high


def predicted(fit: FormFit, complexity: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """The threshold (parameters) by a fitted law. The linear one is told by y at the two ends of the complexities."""
    c = fit.coefficients
    if fit.form == "constant":
        return np.full(len(complexity), 10 ** c[0])
    if fit.form == "linear":
        share = (complexity - ends[0]) / (ends[1] - ends[0])
        return np.asarray(np.maximum((1 - share) * 10 ** c[0] + share * 10 ** c[1], 1.0))
    return np.asarray(10 ** (c[0] + c[1] * (np.log10(complexity) if fit.form == "power" else complexity)))


def _line(fit: FormFit, tasks: Tasks, at: np.ndarray, rank: int) -> Trace:
    colour, dash = _FORMS[fit.form]
    ends = float(tasks.complexity.min()), float(tasks.complexity.max())
    name = f"{fit.form} {_weight(fit.weight)}"
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": at.tolist(), "y": predicted(fit, at, ends).tolist(),
        "legendrank": 1000 + rank,
        "line": {"color": colour, "dash": dash, "width": 2.5 if fit.weight >= 0.5 else 1.8},
        "hovertemplate": f"{name}: %{{y:,.0f}} parameters<extra></extra>",
    }  # fmt: skip


def _weight(weight: float) -> str:
    return "under 1 %" if weight < 0.01 else f"{100 * weight:.0f} %"


def _points(report: LawReport, tasks: Tasks, colour: str, symbols: list[str]) -> Trace:
    found = [_interval(report, tasks, name) for name in tasks.names]
    x = tasks.complexity.tolist()
    blur = [1.96 * float(sd) for sd in tasks.x_sd]
    across = {
        "type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 0,
        "array": [value * (10**sd - 1) for value, sd in zip(x, blur, strict=True)],
        "arrayminus": [value * (1 - 10**-sd) for value, sd in zip(x, blur, strict=True)],
    }  # fmt: skip
    return {
        "type": "scatter", "mode": "markers+text", "showlegend": False, "x": x, "y": [value for value, *_ in found],
        "textfont": {"size": 12, "color": INK, "shadow": HALO}, "cliponaxis": False,
        "marker": {"size": 9, "color": colour, "symbol": symbols, "line": {"color": "#ffffff", "width": 1}},
        "error_y": {"type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 0,
                    "array": [high - value for value, _, high in found],
                    "arrayminus": [value - low for value, low, _ in found]},
        **({"error_x": across} if any(blur) else {}),
        "customdata": [[escape(name), low, high] for name, (_, low, high) in zip(tasks.names, found, strict=True)],
        "hovertemplate": "%{customdata[0]}: complexity %{x:.4g}<br>%{y:,.0f} parameters "
                         "[%{customdata[1]:,.0f}, %{customdata[2]:,.0f}]<extra></extra>",
    }  # fmt: skip


def _note(law: Law, setting: str) -> str:
    """The exponent to quote, and what was left out of this measure."""
    said = [f"{setting}, {len(_tasks(law).names)} tasks over {_tasks(law).range_dex:.2f} dex of complexity."]
    exponent = law.exponent
    if exponent is not None:
        ends = " to ".join("unbounded" if end is None else f"{end:.2f}" for end in (exponent.low, exponent.high))
        said.append(
            f"Power law with crossed effects: exponent {exponent.value:.2f} (95\u00a0%: {ends}).".replace("-", MINUS)
        )
    if law.error_dex is not None:
        said.append(f"Tasks left out one at a time are missed by {law.error_dex:.2f} dex.")
    if len(_tasks(law).names) <= FEW_TASKS:
        said.append("With so few tasks AICc’s small-sample correction alone favours the constant law.")
    if law.missing:
        said.append(f"Without a value: {listed([f'{name} ({why})' for name, why in law.missing.items()])}.")
    return " ".join(said)


def _points_table(report: LawReport, tasks: Tasks, law: Law) -> Table:
    left_out = {one.task: one for one in law.predictions}
    rows: list[tuple[Cell, ...]] = []
    for name, complexity in zip(tasks.names, tasks.complexity.tolist(), strict=True):
        guess = left_out.get(name)
        rows.append((
            name, complexity, *_interval(report, tasks, name),
            *((None, None, None) if guess is None else (10**guess.predicted, 10**guess.low, 10**guess.high)),
            law.influence.get(name),
        ))  # fmt: skip
    complexity_of = f"complexity ({law.unit})" if law.unit else "complexity"
    columns = ("task", complexity_of, "threshold", "low", "high", "predicted from the others",
               "predicted low", "predicted high", "exponent changes without it")  # fmt: skip
    return Table(f"Thresholds against {law.title}", columns, tuple(rows))


def _forms_table(law: Law) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            f.form,
            f.weight,
            f.aicc if math.isfinite(f.aicc) else None,
            f.error,
            f.left_out_task,
            f.left_out_part,
            ", ".join(f"{c:.4g}" for c in f.coefficients),
        )
        for f in law.forms
    ]
    rows += [
        (f"exponent, {found.method}", None, None, None, None, None, _exponent_words(found.value, found.low, found.high))
        for found in law.exponents
    ]
    columns = ("law", "weight", "AICc", "error (dex)", "task left out (dex)", "operation left out (dex)",
               "coefficients, or exponent [95 %]")  # fmt: skip
    return Table(f"Laws of {law.title}", columns, tuple(rows))


def _exponent_words(value: float, low: float | None, high: float | None) -> str:
    ends = ", ".join("–" if end is None or not math.isfinite(end) else f"{end:.3g}" for end in (low, high))
    return f"{value:.3g} [{ends}]"


def _comparison_table(report: LawReport, law: Law) -> Iterator[Table]:
    """All measures of a setting by their error, under the one that predicts best."""
    if law.key != report.best:
        return
    titles = {one.key: one.title for one in report.laws}
    against = {one.measure: one for one in report.comparisons}
    rows: list[tuple[Cell, ...]] = []
    for one in _ranked(report):
        found = against.get(one.key)
        better = None if found is None else found.difference_dex
        rows.append((
            titles[one.key], None if one.tasks is None else len(one.tasks.names), one.error_dex,
            None if better is None else better.difference, None if better is None else better.low,
            None if better is None else better.high, one.note,
        ))  # fmt: skip
    columns = (
        "measure",
        "tasks",
        "error, task left out (dex)",
        "errs more than the best by (dex)",
        "low",
        "high",
        "note",
    )
    yield Table(f"Measures compared, {report.setting or BASE}", columns, tuple(rows))
