"""The page: a document laid out for a reader, with everything it needs inside one file.

The first screen answers which models learned; comparisons follow, then each probe, then provenance. Charts are drawn
only when they scroll into view, from JSON islands; no text depends on which way the results came out.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup

from kc_interp import plots
from kc_interp.comparison import Comparison, Difference, ModelFacts, Roster, describe, summary
from kc_interp.errors import SpecError
from kc_interp.files import write_atomically
from kc_interp.finding import Cell, Figure, Finding, Table, to_plain
from kc_interp.report import bundles
from kc_interp.report.document import Document

_MISSING, _MINUS = "\u2013", "\u2212"
FIRST_NUMBERS = 8
FIRST_DIFFERENCES = 6
_STRIPS_A_CHART = 12
_PLOTLY_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]]}


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


@dataclass(frozen=True)
class Placed:
    """What one model has in one row of a probe's section."""

    model: str
    block: Block


@dataclass(frozen=True)
class Row:
    """The same figure of several models, set side by side; `shared` holds the texts when all models share them."""

    title: str
    shared: tuple[str, str] | None
    cells: tuple[Placed, ...]


@dataclass(frozen=True)
class ProbeView:
    """One probe's section: what each model's finding says, and its figures row by row."""

    name: str
    anchor: str
    title: str
    findings: tuple[tuple[ModelFacts, Finding | None], ...]
    rows: tuple[Row, ...]
    failed: int


@dataclass(frozen=True)
class ProbeDifferences:
    """One probe's part of a comparison; `charts` are strips of every seed, the first of `first` numbers alone."""

    probe: str
    title: str
    headline: str
    first: tuple[Difference, ...]
    rest: tuple[Difference, ...]
    chart: Block | None
    more_charts: tuple[Block, ...]
    reasons: tuple[str, ...]
    decided: int
    judged: int


@dataclass(frozen=True)
class ComparisonView:
    name: str
    anchor: str
    summary: str
    comparison: Comparison
    pair: tuple[str, str]
    probes: tuple[ProbeDifferences, ...]


def write_report(path: Path, document: Document) -> Path:
    """Write the page whole or not at all, and say where. Raises SpecError when a figure's data are not of its kind."""
    return write_atomically(Path(path), render(document))


def write_findings(path: Path, document: Document) -> Path:
    """Write `findings.json`: the numbers of the page, unrounded."""
    return write_atomically(Path(path), document.dumps())


def render(document: Document) -> str:
    """The page as text."""
    ids = (f"c{index}" for index in itertools.count())
    roster = {
        name: _chart(next(ids), plots.roster_plot(document.roster, name), _roster_table(document.roster, name), "")
        for name in document.roster.initialisations
    }
    comparisons = [_comparison_view(index, c, document, ids) for index, c in enumerate(document.comparisons)]
    probes = [_probe_view(name, title, document, ids) for name, title in document.probes.items()]
    shown = [*roster.values(), *_blocks(comparisons, probes)]
    widgets = any(block.kind in ("attention", "tokens") for block in shown)
    scripts = [bundles.plotly(), bundles.inline(bundles.asset("page.js"))]
    circuitsvis = bundles.circuitsvis() if widgets else None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kc_interp.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, interval=interval, shown=shown_cell, verdict=_verdict)
    return environment.get_template("page.html.j2").render(
        document=document,
        roster=document.roster,
        roster_charts=roster,
        tally=_tally(document.roster),
        comparisons=comparisons,
        probes=probes,
        provenance=list(_flat(document.provenance)),
        state=Markup(bundles.island(_state(document, comparisons))),
        policy=bundles.policy(scripts if circuitsvis is None else [*scripts, circuitsvis]),
        circuitsvis=None if circuitsvis is None else Markup(circuitsvis),
        scripts=[Markup(script) for script in scripts],
        css=Markup(bundles.asset("page.css")),
        first_numbers=FIRST_NUMBERS,
    )


def _blocks(comparisons: Sequence[ComparisonView], probes: Sequence[ProbeView]) -> Iterator[Block]:
    for view in comparisons:
        for part in view.probes:
            if part.chart is not None:
                yield part.chart
            yield from part.more_charts
    for probe in probes:
        for row in probe.rows:
            yield from (cell.block for cell in row.cells)


def shown_cell(value: Cell) -> str:
    """A cell as it is printed: three significant digits, and a dash for what was not measured.

    >>> [shown_cell(v) for v in (0.12345, 12345.6, 7, "a", 1.2e-5)]
    ['0.123', '12,346', '7', 'a', '1.2e-05']
    """
    if value is None:
        return _MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return _MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def number(value: Cell) -> Markup:
    """A number as printed, with its unrounded value beside it for machines; a dash when there is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Markup('<data value="{}">{}</data>').format(repr(value), shown_cell(value).replace("-", _MINUS))
    return Markup.escape(shown_cell(value))


def interval(low: float | None, high: float | None) -> Markup:
    """`[low, high]`, or nothing when a bound is missing."""
    if low is None or high is None:
        return Markup("")
    return Markup('<span class="ci">[{}, {}]</span>').format(number(low), number(high))


def _verdict(learned: bool | None) -> str:
    return {True: "learned", False: "not learned", None: "not evaluated"}[learned]


def _roster_table(roster: Roster, initialisation: str) -> Table:
    rows = [
        (m.name, m.arm, m.seed, _verdict(m.learned), m.accuracy, m.low, m.high, m.n)
        for m in roster.models
        if m.initialisation == initialisation
    ]
    columns = ("model", "arm", "seed", roster.skill, "accuracy", "low", "high", "test items")
    return Table(f"Accuracy on {roster.skill}, {initialisation} initialisation", columns, tuple(rows))


def _tally(roster: Roster) -> list[dict[str, Any]]:
    """k of n for each arm and initialisation: only evaluated models count towards n."""
    rows = []
    for arm in roster.arms:
        cells = []
        for initialisation in roster.initialisations:
            models = roster.cell(arm, initialisation)
            evaluated = [model for model in models if model.learned is not None]
            cells.append(
                {
                    "initialisation": initialisation,
                    "learned": sum(bool(model.learned) for model in evaluated),
                    "of": len(evaluated),
                    "unknown": len(models) - len(evaluated),
                }
            )
        rows.append({"arm": arm, "cells": cells})
    return rows


def _brief(value: Any) -> Any:
    """Plain data with five significant digits: what a chart needs; `findings.json` holds the numbers unrounded."""
    if isinstance(value, Mapping):
        return {key: _brief(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_brief(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _table_island(table: Table) -> dict[str, Any]:
    numeric = [
        all(isinstance(row[i], (int, float)) or row[i] is None for row in table.rows) for i in range(len(table.columns))
    ]
    return {
        "columns": list(table.columns),
        "numeric": numeric,
        "rows": [[shown_cell(cell) for cell in row] for row in table.rows],
        "title": table.title,
    }


def _chart(id: str, drawn: go.Figure, table: Table, shows: str, *, title: str = "", refuted_by: str = "") -> Block:
    plain = to_plain(drawn.to_plotly_json())
    content = {"plot": {**_brief(plain), "config": _PLOTLY_CONFIG}, "table": _table_island(table)}
    return Block(
        id, "plot", title or table.title, shows, refuted_by, Markup(bundles.island(content)), plain["layout"]["height"]
    )


def _block(id: str, figure: Figure, arm: int, limits: plots.Limits | None) -> Block:
    """A finding's figure, whichever kind it is."""
    try:
        table = plots.table_of(figure)
        if figure.kind in plots.DRAWN:
            drawn = plots.draw(figure, arm=arm, limits=limits)
            return _chart(id, drawn, table, figure.shows, title=figure.title, refuted_by=figure.refuted_by)
        widget, height, note = _widget(figure)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise SpecError(f"figure {figure.title!r}: its data do not fit the kind {figure.kind!r} ({error!r})") from None
    content = {"widget": _brief(to_plain(widget)), "table": _table_island(table)}
    return Block(
        id, figure.kind, figure.title, figure.shows, figure.refuted_by, Markup(bundles.island(content)), height, note
    )


def _widget(figure: Figure) -> tuple[dict[str, Any], int, str]:
    """What a widget of the page is given, its least height, and a note where it shows less than the data.

    CircuitsVis's ColoredTokens takes tokens as HTML, so they are escaped here; its AttentionHeads takes them as text.
    """
    data = figure.data
    if figure.kind == "attention":
        kept = min(len(data["heads"]), bundles.MOST_HEADS)
        note = (
            f"The first {kept} of {len(data['heads'])} heads; the table has all." if kept < len(data["heads"]) else ""
        )
        tokens = [str(token) for token in data["tokens"]]
        names = [str(head) for head in data["heads"][:kept]]
        return {"tokens": tokens, "attention": data["patterns"][:kept], "attentionHeadNames": names}, 460, note
    if figure.kind == "tokens":
        return {"tokens": [html.escape(str(t)) + " " for t in data["tokens"]], "values": list(data["values"])}, 60, ""
    examples = [
        {
            "tokens": [str(token) for token in example["tokens"]],
            "target": str(example["target"]),
            "answers": {mask: plots.ranked(answer) for mask, answer in example["answers"].items()},
        }
        for example in data["examples"]
    ]
    return {"heads": [str(head) for head in data["heads"]], "examples": examples}, 260, ""


def _probe_view(name: str, title: str, document: Document, ids: Iterator[str]) -> ProbeView:
    models = document.roster.models
    findings = [(model, document.finding(name, model.name)) for model in models if model.name in document.findings]
    titles = dict.fromkeys(figure.title for _, finding in findings if finding for figure in finding.figures)
    rows = []
    for figure_title in titles:
        having = [
            (model, figure)
            for model, finding in findings
            if finding
            for figure in finding.figures
            if figure.title == figure_title
        ]
        figures = [figure for _, figure in having]
        limits = _limits(figures)
        texts = {(figure.shows, figure.refuted_by) for figure in figures}
        rows.append(
            Row(
                figure_title,
                texts.pop() if len(texts) == 1 else None,
                tuple(
                    Placed(model.name, _block(next(ids), figure, _arm(document.roster, model), limits))
                    for model, figure in having
                ),
            )
        )
    failed = sum(finding is not None and finding.status == "failed" for _, finding in findings)
    return ProbeView(name, f"probe-{_slug(name)}", title, tuple(findings), tuple(rows), failed)


def _arm(roster: Roster, model: ModelFacts) -> int:
    return roster.arms.index(model.arm)


def _limits(figures: Sequence[Figure]) -> plots.Limits | None:
    """One scale for one figure of several models, when it is a chart with a value axis."""
    if {figure.kind for figure in figures} <= {"heatmap", "bars", "lines"} and len({f.kind for f in figures}) == 1:
        try:
            return plots.limits_of(figures)
        except (KeyError, TypeError) as error:
            raise SpecError(f"figure {figures[0].title!r}: its data do not fit its kind ({error!r})") from None
    return None


def _comparison_view(index: int, comparison: Comparison, document: Document, ids: Iterator[str]) -> ComparisonView:
    by_probe: dict[str, list[Difference]] = {}
    for difference in comparison.differences:
        by_probe.setdefault(difference.probe, []).append(difference)
    titles = document.probes
    parts = tuple(
        _probe_differences(probe, titles.get(probe, probe), differences, ids) for probe, differences in by_probe.items()
    )
    pair = tuple(
        next((model for model in arm.models if model not in arm.unlearned), arm.models[0] if arm.models else "")
        for arm in (comparison.a, comparison.b)
    )
    return ComparisonView(
        comparison.name, f"comparison-{index + 1}", summary(comparison), comparison, (pair[0], pair[1]), parts
    )


def _probe_differences(probe: str, title: str, differences: list[Difference], ids: Iterator[str]) -> ProbeDifferences:
    first, rest = differences[:FIRST_DIFFERENCES], differences[FIRST_DIFFERENCES:]
    measured = [d for d in rest if _has_values(d)]
    later = [measured[i : i + _STRIPS_A_CHART] for i in range(0, len(measured), _STRIPS_A_CHART)]
    start = [d for d in first if _has_values(d)]
    charts = [_strips(next(ids), part) for part in (start, *later) if part]
    reasons = dict.fromkeys(f"No p-value: {d.p_note}." for d in differences if d.p_note and d.p_note != d.note)
    return ProbeDifferences(
        probe, title, describe(differences[0]), tuple(first), tuple(rest),
        charts[0] if start else None, tuple(charts[1:] if start else charts), tuple(reasons),
        sum(d.decided for d in differences), sum(d.low is not None for d in differences),
    )  # fmt: skip


def _has_values(difference: Difference) -> bool:
    return any(seed.value is not None for side in (difference.a, difference.b) for seed in side.seeds)


def _strips(id: str, differences: Sequence[Difference]) -> Block:
    rows = tuple(
        (d.title, side.arm, seed.model, seed.value, "yes" if seed.counted else "no", seed.note)
        for d in differences
        for side in (d.a, d.b)
        for seed in side.seeds
    )
    table = Table("Every seed", ("number", "arm", "model", "value", "counted in the mean", "note"), rows)
    return _chart(
        id,
        plots.strips(differences),
        table,
        "Each mark is one trained model (a cross has not learned its task and is no part of the mean); the black line "
        "below the marks is the mean over seeds with its 95 % interval. A line that runs off its strip is longer than "
        "the strip. Every strip has its own scale.",
        refuted_by="A difference is not supported where the marks of the two arms mingle or the intervals are wide.",
    )


def _state(document: Document, comparisons: Sequence[ComparisonView]) -> dict[str, Any]:
    """What the page shows until its reader chooses.

    A model of each arm of the first comparison in which both have one that learned (or as nearly so as there is);
    without comparisons, the first two models.
    """
    names = [model.name for model in document.roster.models if model.name in document.findings]

    def working(view: ComparisonView) -> int:
        arms = zip(view.pair, (view.comparison.a, view.comparison.b), strict=True)
        return sum(bool(name) and name not in arm.unlearned for name, arm in arms)

    best = max(comparisons, key=working, default=None)
    pair = [name for name in best.pair if name] if best else []
    pair = pair if len(pair) == 2 else names[:2]
    return {"models": names, "left": pair[0] if pair else "", "right": pair[1] if len(pair) > 1 else ""}


def _flat(provenance: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested facts as lines: ("versions · torch", "2.13.0")."""
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} · ")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", _MISSING if value is None else str(value)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "probe"
