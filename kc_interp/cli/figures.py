"""`kc-interp figures`: the gallery of a study from its records alone, as one page and, where asked, as still images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kc_interp.cli.compute import claim
from kc_interp.cli.console import Output, table
from kc_interp.cli.options import Json, NoOpen, Quiet, Verbose
from kc_interp.cli.records import find
from kc_interp.cli.sweep import STORE_NAME

if TYPE_CHECKING:
    from kc_interp.gallery import Drawing
    from kc_interp.scaling.analysis import Analysis
    from kc_interp.scaling.law_report import LawReport

PAGE = "index.html"


def figures(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="Whose records to draw.")],
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="FILE", help="The records.", show_default=f"{STORE_NAME} beside the study"),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            metavar="FILE.jsonl",
            help="JSON lines in place of a store.",
            show_default="beside the study, where no store is",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where they go.", show_default="figures/ beside the study"),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Only this figure; may be given several times.")
    ] = None,
    svg: Annotated[bool, typer.Option("--svg", help="Also each figure as SVG for print (extra 'figures').")] = False,
    png: Annotated[bool, typer.Option("--png", help="Also each figure as PNG, 300 dpi (extra 'figures').")] = False,
    no_open: NoOpen = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Draw a study: learning curves, thresholds, times, laws, synergy, findings, from its records alone.

    Nothing is trained. A study that is not finished is drawn as far as it is, and labelled so.
    """
    from kc_interp import gallery
    from kc_interp.files import write_atomically
    from kc_interp.gallery.cases import runs_words
    from kc_interp.gallery.curves import NAME as CURVES
    from kc_interp.gallery.findings import NAME as FINDINGS
    from kc_interp.gallery.laws import NAME as LAWS
    from kc_interp.gallery.stills import write_stills
    from kc_interp.gallery.times import NAME as TIMES
    from kc_interp.scaling import study as studies
    from kc_interp.scaling.analysis import analyse
    from kc_interp.scaling.law_report import laws

    output = Output(as_json, quiet, verbose)
    names = gallery.chosen(only or ())
    asked = studies.load(study)
    found = find(asked, study, store, records, curves=CURVES in names or TIMES in names, findings=FINDINGS in names)
    folder = out if out is not None else study.parent / "figures"
    claim(folder, [])
    with output.progress("fitting", 100) as bar:
        bar(0, "thresholds and times")
        analysis = analyse(asked, found.records)
        reports: tuple[LawReport, ...] = ()
        if LAWS in names:
            reports = laws(analysis, on_progress=lambda share, says: bar(100 * share, says))
        bar(100, "drawing")
        drawings = gallery.figures(analysis, reports, names)
    files = [write_atomically(folder / PAGE, gallery.render(analysis, drawings, found.notes))]
    formats = [kind for kind, wanted in (("svg", svg), ("png", png)) if wanted]
    if formats:
        label = "" if analysis.complete else runs_words(analysis)
        with output.progress("still images", None):
            files += write_stills(drawings, folder, formats, label=label)
    for note in found.notes:
        output.note(note)
    _say(output, analysis, drawings, files, runs_words(analysis))
    output.page(files[0], no_open=no_open)


def _say(output: Output, analysis: Analysis, drawings: Sequence[Drawing], files: Sequence[Path], runs: str) -> None:
    """The files, and what each figure holds or why it is empty."""
    output.result(
        {
            "study": analysis.study.name,
            "runs": analysis.runs,
            "asked": analysis.asked,
            "complete": analysis.complete,
            "page": str(files[0]),
            "files": [str(file) for file in files],
            "figures": [
                {"name": one.name, "title": one.title, "plots": len(one.plots), "reason": _reason(one) or None}
                for one in drawings
            ],
        },
        table(
            f"{analysis.study.name}: {runs}",
            ("figure", "plots", "why not"),
            [(one.name, str(len(one.plots)), _reason(one)) for one in drawings],
        ),
        *(f"{'page' if file.name == PAGE else 'figure'}: {file}" for file in files),
    )


def _reason(drawing: Drawing) -> str:
    return " ".join(panel.reason for panel in drawing.panels if panel.reason)
