"""Findings against size: every number that the probes found, by width, told apart by whether the run learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kc_interp.finding import Cell, Table
from kc_interp.gallery.cases import arm_of, basis, by_arm, look_of, setting_of, skill_words, title_of
from kc_interp.gallery.drawing import Drawing, Multiples, Panel, Trace, axis, columns_for, log_axis, no_figure
from kc_interp.plots import OKABE_ITO

if TYPE_CHECKING:
    from kc_interp.records import Record
    from kc_interp.scaling.analysis import Analysis, Condition

NAME = "findings"
MOST_NUMBERS = 8
"""So many numbers of each probe are drawn, in the order in which it gives them; a page of all would be slow."""

_LOOKS = {True: ("learned", OKABE_ITO[0], "circle"), False: ("not learned", OKABE_ITO[1], "x-thin-open"),
          None: ("not measured", "#59636e", "circle-open")}  # fmt: skip
_SIDE = {True: 1.012, False: 1 / 1.012, None: 1.0}
"""Runs that learned stand a little to the right, the others to the left, so that neither hides the other."""


@dataclass(frozen=True)
class Found:
    """One number of one run."""

    condition: Condition
    record: Record
    learned: bool | None
    number: Mapping[str, Any]


def findings(analysis: Analysis) -> Drawing:
    """Each probe's numbers against width."""
    by_probe = _collected(analysis)
    kept = [
        (probe, key, found)
        for probe, numbers in by_probe.items()
        for key, found in list(numbers.items())[:MOST_NUMBERS]
    ]
    left = {probe: len(numbers) - MOST_NUMBERS for probe, numbers in by_probe.items() if len(numbers) > MOST_NUMBERS}
    shows = (
        "Each mark is one run’s value of the chosen number: a disc where the run learned "
        f"{skill_words(analysis)}, a cross where it did not. The grey line is the mean of the number’s own control. A "
        "run that has not learned holds no working algorithm: its value is what the statistic gives without one."
    )
    notes = []
    if left:
        more = ", ".join(f"{count} more of {probe}" for probe, count in left.items())
        notes.append(f"The first {MOST_NUMBERS} numbers of each probe are drawn; the records hold {more}.")
    if failed := _failed(analysis):
        notes.append(failed)
    records = list(
        {f.record.key: f.record for numbers in by_probe.values() for fs in numbers.values() for f in fs}.values()
    )
    nothing = "No findings: the study has no runs yet."
    if analysis.runs:
        asked = ", ".join(analysis.study.probes)
        why = f"the probes it asks for ({asked}) left no number" if asked else "it asks for no probes"
        nothing = f"No findings: {why}. List some under 'probes' in the study, and its runs will be probed."
    panels = tuple(_panel(probe, found, analysis) for probe, _, found in kept)
    return Drawing(
        NAME,
        "What the probes found, against width",
        shows,
        "Runs that learned and runs that did not with the same values, or values no farther from the control than "
        "those of unlearned runs, would mean that the number tells nothing about how the task is solved.",
        basis(analysis, records, "single runs are drawn, so there is no interval"),
        panels or (no_figure(nothing),),
        picks="Number",
        notes=tuple(notes),
    )  # fmt: skip


def _collected(analysis: Analysis) -> dict[str, dict[str, list[Found]]]:
    """By probe and key: the numbers that have a value."""
    found: dict[str, dict[str, list[Found]]] = {}
    for condition in by_arm(analysis.conditions):
        for record, learned in zip(condition.records, condition.skill.learned, strict=True):
            for finding in record.findings:
                for number in finding.get("numbers", ()):
                    if number.get("value") is not None:
                        here = found.setdefault(finding["probe"], {}).setdefault(number["key"], [])
                        here.append(Found(condition, record, learned, number))
    return found


def _failed(analysis: Analysis) -> str:
    counts: dict[str, int] = {}
    for condition in analysis.conditions:
        for record in condition.records:
            for finding in record.findings:
                if finding.get("status") == "failed":
                    counts[finding["probe"]] = counts.get(finding["probe"], 0) + 1
    return " ".join(f"{probe} failed on {count} run{'' if count == 1 else 's'}." for probe, count in counts.items())


def _panel(probe: str, found: list[Found], analysis: Analysis) -> Panel:
    look = look_of(analysis)
    conditions = list({one.condition.label: one.condition for one in found}.values())
    widths = sorted({one.record.d_model for one in found})
    values = [float(one.number["value"]) for one in found]
    values += [float(one.number["control"]) for one in found if one.number.get("control") is not None]
    low, high = min(values), max(values)
    room = 0.08 * (high - low or abs(high) or 1.0)
    title = str(found[0].number["title"])
    ticks = {"tickvals": widths, "ticktext": [str(width) for width in widths]} if len(widths) <= 8 else {}
    made = Multiples(
        [title_of(one) for one in conditions],
        x={**log_axis("", widths[0], widths[-1]), **ticks},
        y=axis(range=[low - room, high + room], nticks=4),
        columns=columns_for(len(conditions), len(look.settings)),
        x_title="d_model (log scale)",
        y_title=title,
        legend=True,
    )
    named: set[bool | None] = set()
    for panel, condition in enumerate(conditions):
        here = [one for one in found if one.condition is condition]
        made.add(panel, *_control(here))
        for learned in (True, False, None):
            same = [one for one in here if one.learned is learned]
            if same:
                made.add(panel, _marks(same, learned, first=learned not in named))
                named.add(learned)
    figure = made.figure()
    means = f" Higher: {found[0].number['higher_means']}." if found[0].number.get("higher_means") else ""
    control = f" Control: {found[0].number['control_says']}." if found[0].number.get("control_says") else ""
    return Panel(_table(probe, title, found), figure, choice=f"{probe}: {title}", note=f"{means}{control}".strip())


def _control(found: list[Found]) -> Iterator[Trace]:
    """The mean control by width."""
    by_width: dict[int, list[float]] = {}
    for one in found:
        if one.number.get("control") is not None:
            by_width.setdefault(one.record.d_model, []).append(float(one.number["control"]))
    if by_width:
        widths = sorted(by_width)
        yield {
            "type": "scatter", "mode": "lines+markers", "x": widths, "showlegend": False,
            "y": [sum(by_width[width]) / len(by_width[width]) for width in widths],
            "line": {"color": "#9aa4ae", "width": 1.5, "dash": "dash"}, "marker": {"symbol": "line-ew-open", "size": 9},
            "hovertemplate": "mean control at d_model %{x}: %{y:.3g}<extra></extra>",
        }  # fmt: skip


def _marks(found: list[Found], learned: bool | None, *, first: bool) -> Trace:
    name, colour, symbol = _LOOKS[learned]
    return {
        "type": "scatter", "mode": "markers", "name": name, "legendgroup": name, "showlegend": first,
        "x": [one.record.d_model * _SIDE[learned] for one in found],
        "y": [float(one.number["value"]) for one in found],
        "customdata": [[one.record.seed, one.record.d_model] for one in found],
        "marker": {
            "color": colour, "symbol": symbol, "size": 7, "opacity": 0.85, "line": {"width": 0 if learned else 1.5},
        },
        "hovertemplate": f"d_model %{{customdata[1]}}, seed %{{customdata[0]}}, {name}: %{{y:.4g}}<extra></extra>",
    }  # fmt: skip


def _table(probe: str, title: str, found: list[Found]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (arm_of(one.condition), setting_of(one.condition), one.record.d_model, one.record.seed, _LOOKS[one.learned][0],
         float(one.number["value"]), one.number.get("low"), one.number.get("high"), one.number.get("control"))
        for one in found
    ]  # fmt: skip
    columns = ("arm", "setting", "d_model", "seed", "verdict", "value", "low", "high", "control")
    return Table(f"{probe}: {title}", columns, tuple(rows))
