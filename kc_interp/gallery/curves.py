"""Learning curves by size: every seed a line, one panel for each arm at each setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kc_interp.finding import Cell, Table
from kc_interp.gallery.cases import (
    arm_of,
    basis,
    by_arm,
    criterion_words,
    records_of,
    setting_of,
    skill_words,
    title_of,
)
from kc_interp.gallery.drawing import (
    Drawing,
    Multiples,
    Panel,
    Trace,
    columns_for,
    count,
    listed,
    no_figure,
    sequential,
    share_axis,
    steps_axis,
    widths_legend,
)

if TYPE_CHECKING:
    from kc_interp.records import Record
    from kc_interp.scaling.analysis import Analysis, Condition

NAME = "learning-curves"


def learning_curves(analysis: Analysis) -> Drawing:
    """Accuracy on the criterion's component against training steps, coloured by width."""
    skill = skill_words(analysis)
    drawn: list[Condition] = []
    missing: list[Condition] = []
    for condition in by_arm(analysis.conditions):
        (drawn if any(_points(condition, record) for record in condition.records) else missing).append(condition)
    shows = (
        f"Each thin line is one trained run (one seed): the share of questions of {skill} whose whole chain it gets "
        "exactly right (teacher-forced, on the few hundred items of the curve), against training steps. The dashed "
        "line is the level from which a run counts as learned. The verdict itself is taken at the end: "
        f"{criterion_words(analysis)}."
    )
    return Drawing(
        NAME,
        f"Learning curves: accuracy on {skill} against training steps, by width",
        shows,
        "Curves that rise gradually at every width, or seeds of one width that all rise alike, would speak against a "
        "plateau that a run either leaves or does not.",
        basis(analysis, records_of(drawn), "single runs are drawn, so there is no interval"),
        (_panel(analysis, drawn) if drawn else no_figure(_nothing(analysis)),),
        notes=(f"Not drawn: {listed([_why_not(one) for one in missing])}.",) if missing and drawn else (),
    )


def _nothing(analysis: Analysis) -> str:
    if not analysis.runs:
        return "No learning curves: the study has no runs yet."
    return f"No learning curves: none of the {analysis.runs} runs has a curve of {skill_words(analysis)}."


def _why_not(condition: Condition) -> str:
    return f"{condition.label} ({', '.join(condition.notes) or condition.skill.note or 'no curve'})"


def _panel(analysis: Analysis, conditions: list[Condition]) -> Panel:
    widths = sorted({record.d_model for one in conditions for record in one.records if _points(one, record)})
    colour = dict(zip(widths, sequential(widths), strict=True))
    longest = max(record.curve[-1]["step"] for one in conditions for record in one.records if record.curve)
    made = Multiples(
        [title_of(one) for one in conditions],
        x=steps_axis(longest),
        y=share_axis(),
        columns=columns_for(len(conditions), len({setting_of(one) for one in conditions})),
        x_title="training steps",
        y_title=f"questions of {skill_words(analysis)} answered exactly",
        legend=True,
    )
    named: set[int] = set()
    for panel, condition in enumerate(conditions):
        made.line(panel, y=analysis.study.criterion.level)
        if begins := _last_stage(condition):
            made.line(panel, x=begins, dash="dot")
            made.say(panel, "own stage begins", x=begins / longest, xanchor="left", xshift=2)
        # Small models last: they are fewer to learn, and their lines would lie under the others.
        for width in reversed(widths):
            runs = [record for record in condition.records if record.d_model == width and _points(condition, record)]
            if runs:
                made.add(panel, _lines(condition, runs, width, colour[width], first=width not in named))
                named.add(width)
    return Panel(_table(analysis, conditions), made.figure(legend=widths_legend()))


def _lines(condition: Condition, runs: list[Record], width: int, colour: str, *, first: bool) -> Trace:
    """All runs of one width in a panel as one trace, with gaps between runs: a thousand traces would be slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    seeds: list[int | None] = []
    for record in runs:
        points = _points(condition, record)
        x += [*points, None]
        y += [*points.values(), None]
        seeds += [*[record.seed] * len(points), None]
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "customdata": seeds, "connectgaps": False,
        "line": {"color": colour, "width": 1.3}, "opacity": 0.85, "name": str(width), "legendgroup": str(width),
        "showlegend": first, "legendrank": 1000 + width,
        "hovertemplate": f"d_model {width}, seed %{{customdata}}<br>step %{{x:,}}: %{{y:.1%}}<extra></extra>",
    }  # fmt: skip


def _points(condition: Condition, record: Record) -> dict[int, float]:
    """Accuracy on the criterion's component by step; nothing where the run's task lacks it."""
    component = condition.skill.criterion.component
    stages = [_operations(stage) for stage in record.stages] + [condition.operations]
    found = {}
    for point in record.curve or ():
        alone = stages[point.get("stage", len(stages) - 1)] == (component,)
        # A task of one operation has its accuracy under "mixture" alone.
        value = point.get("mixture" if component is None or alone else component)
        if value is not None:
            found[int(point["step"])] = float(value)
    return found


def _operations(stage: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(stage["task"]["settings"].get("operations", ()))


def _last_stage(condition: Condition) -> int | None:
    """The step after which the arm's own stage begins, where others come before it."""
    for record in condition.records:
        before = [point["step"] for point in record.curve or () if point.get("stage", 0) < len(record.stages)]
        if record.stages and before:
            return int(max(before))
    return None


def _table(analysis: Analysis, conditions: list[Condition]) -> Table:
    """One run a row, and a column for every step at which any was measured."""
    rows: list[tuple[Condition, Record, bool | None, dict[int, float]]] = [
        (one, record, verdict, points)
        for one in conditions
        for record, verdict in zip(one.records, one.skill.learned, strict=True)
        if (points := _points(one, record))
    ]
    steps = sorted({step for *_, points in rows for step in points})
    said = {True: "learned", False: "not learned", None: "not measured"}
    cells: list[tuple[Cell, ...]] = [
        (arm_of(one), setting_of(one), record.d_model, record.parameters, record.seed, said[verdict],
         *(points.get(step) for step in steps))
        for one, record, verdict, points in rows
    ]  # fmt: skip
    columns = ("arm", "setting", "d_model", "parameters", "seed", "verdict", *(f"step {count(step)}" for step in steps))
    return Table(f"Accuracy on {skill_words(analysis)} by step", columns, tuple(cells))
