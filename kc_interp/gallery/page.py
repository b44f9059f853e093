"""The gallery as one self-contained page: the report's scripts, styles and policy, with one section a figure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from kc_interp.finding import Table
from kc_interp.gallery.cases import arm_of, criterion_words, records_of, runs_words, setting_of, skill_words
from kc_interp.gallery.drawing import Drawing, plain
from kc_interp.report import bundles
from kc_interp.report.blocks import Block, table_island
from kc_interp.report.views import provenance

if TYPE_CHECKING:
    from kc_interp.scaling.analysis import Analysis

CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]]}


@dataclass(frozen=True)
class Shown:
    """A panel as the template wants it: the figure with its first table, or the reason; and what stands beside it."""

    choice: str
    note: str
    reason: str
    block: Block | None
    more: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True)
class Section:
    """One figure of the page."""

    drawing: Drawing
    panels: tuple[Shown, ...]


def render(analysis: Analysis, drawings: Sequence[Drawing], notes: Sequence[str] = ()) -> str:
    """The page as text. `notes` are sentences for its end."""
    ids = (f"c{index}" for index in itertools.count())
    sections = [
        Section(one, tuple(_shown(panel_index, one, ids) for panel_index in range(len(one.panels)))) for one in drawings
    ]
    drawn = any(one.plots for one in drawings)
    libraries = {"plotly": bundles.plotly()} if drawn else {}
    script = bundles.inline(bundles.asset("page.js"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([
            jinja2.PackageLoader("kc_interp.gallery", "templates"),
            jinja2.PackageLoader("kc_interp.report", "templates"),
        ]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    # The report's macros name these filters; the gallery's figures need none of them.
    environment.filters.update(dict.fromkeys(("number", "interval", "percent", "shown", "verdict"), str))
    study = analysis.study
    return environment.get_template("gallery.html.j2").render(
        title=study.title or study.name,
        study=study,
        complete=analysis.complete,
        runs=runs_words(analysis),
        skill=skill_words(analysis),
        criterion=criterion_words(analysis),
        arms=list(dict.fromkeys(arm_of(one) for one in analysis.conditions)),
        settings=list(dict.fromkeys(setting_of(one) for one in analysis.conditions)),
        widths=sorted({record.d_model for record in records_of(analysis.conditions)}),
        sections=sections,
        notes=[*_notes(analysis), *notes],
        provenance=list(provenance(_made_by(analysis))),
        state=Markup(bundles.island({"models": [], "left": "", "right": ""})),
        policy=bundles.policy([*libraries.values(), script]),
        libraries={name: Markup(library) for name, library in libraries.items()},
        script=Markup(script),
        css=Markup(bundles.asset("page.css")),
    )


def _shown(index: int, drawing: Drawing, ids: Iterator[str]) -> Shown:
    panel = drawing.panels[index]
    plot = plain(panel.plot)
    if plot is None:
        return Shown(panel.choice, panel.note, panel.reason, None, ())
    content = {"plot": {**plot, "config": CONFIG}, "table": table_island(panel.table)}
    title = f"{drawing.title}: {panel.choice}" if panel.choice else drawing.title
    height = plot["layout"]["height"]
    block = Block(next(ids), "plot", title, "", "", Markup(bundles.island(content)), height)
    return Shown(panel.choice, panel.note, "", block, tuple(_table(table) for table in panel.more))


def _table(table: Table) -> tuple[str, Markup]:
    return table.title, Markup(bundles.island({"table": table_island(table)}))


def _notes(analysis: Analysis) -> Iterator[str]:
    """What was set aside."""
    if analysis.tuning:
        yield f"{analysis.tuning} runs that chose learning rates are part of no figure."
    yield from (f"Set aside: {one}." for one in analysis.strangers)


def _made_by(analysis: Analysis) -> Mapping[str, Any]:
    """What made the runs: every value that occurs, under its name."""
    pairs = {(name, str(value)) for one in records_of(analysis.conditions) for name, value in one.provenance.items()}
    found: dict[str, list[str]] = {}
    for name, value in sorted(pairs):
        if name not in ("members", "threads"):
            found.setdefault(name, []).append(value)
    return found
