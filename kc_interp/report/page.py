"""The page: a document laid out for a reader, with everything it needs inside one file.

The first screen answers which models learned; comparisons follow, then each probe, then provenance. Charts are drawn
only when they scroll into view, from JSON islands; no text depends on which way the results came out.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import jinja2
from markupsafe import Markup

from kc_interp.files import write_atomically
from kc_interp.report import bundles, printed
from kc_interp.report.blocks import Block
from kc_interp.report.document import Document
from kc_interp.report.views import comparison_view, first_state, probe_view, provenance, tallies

FIRST_NUMBERS = 8
FIRST_DIFFERENCES = 6


def write_report(path: Path, document: Document) -> Path:
    """Write the page whole or not at all, and say where. Raises SpecError when a figure's data are not of its kind."""
    return write_atomically(Path(path), render(document))


def write_findings(path: Path, document: Document) -> Path:
    """Write `findings.json`: the numbers of the page, unrounded."""
    return write_atomically(Path(path), document.dumps())


def render(document: Document) -> str:
    """The page as text."""
    ids = (f"c{index}" for index in itertools.count())
    comparisons = [
        comparison_view(index, comparison, document) for index, comparison in enumerate(document.comparisons)
    ]
    probes = [probe_view(name, title, document, ids) for name, title in document.probes.items()]
    items = [item for probe in probes for row in probe.rows for item in row.cells.values()]
    drawn = {item.kind for item in items if isinstance(item, Block)}
    libraries = {"plotly": bundles.plotly()} if "plot" in drawn else {}
    if drawn & {"attention", "tokens"}:
        libraries["circuitsvis"] = bundles.circuitsvis()
    if "circuit" in drawn:
        libraries["circuit"] = bundles.inline(bundles.asset("circuit.js"))
    script = bundles.inline(bundles.asset("page.js"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kc_interp.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=printed.number,
        interval=printed.interval,
        percent=printed.percent,
        shown=printed.shown_cell,
        verdict=printed.verdict,
    )
    return environment.get_template("page.html.j2").render(
        document=document,
        roster=document.roster,
        tallies=tallies(document.roster),
        comparisons=comparisons,
        probes=probes,
        provenance=list(provenance(document.provenance)),
        state=Markup(bundles.island(first_state(document, comparisons))),
        policy=bundles.policy([*libraries.values(), script]),
        libraries={name: Markup(library) for name, library in libraries.items()},
        script=Markup(script),
        css=Markup(bundles.asset("page.css")),
        first_numbers=FIRST_NUMBERS,
        first_differences=FIRST_DIFFERENCES,
    )
