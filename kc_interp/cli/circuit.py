"""`kc-interp circuit`: exact effects of every edge, the smallest circuit, and its scores; the `circuit` probe alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli import probe
from kc_interp.cli.compute import claim, prepare
from kc_interp.cli.console import Output, number, numbers, table
from kc_interp.cli.options import Device, Json, Models, NoOpen, PageFolder, Quiet, Seed, Skill, Threads, Verbose
from kc_interp.errors import ProbeError, SpecError

if TYPE_CHECKING:
    from kc_interp.finding import Finding, Table


def circuit(
    model: Models,
    skill: Skill = None,
    pairs: Annotated[int, typer.Option("--pairs", min=4, help="Pairs of chains to search on; as many to judge.")] = 64,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Reductions a chain has.")] = 1,
    keep: Annotated[float, typer.Option("--keep", help="Share of the logit difference the circuit keeps.")] = 0.9,
    within: Annotated[
        str,
        typer.Option(
            "--within",
            metavar="template|class",
            help="A cut edge carries another chain's writing: at one place of one template, or at one class of place.",
        ),
    ] = "template",
    clean: Annotated[
        list[str] | None,
        typer.Option("--clean", metavar="QUESTION", help="Your own pair, with --twin; may be given several times."),
    ] = None,
    twin: Annotated[
        list[str] | None,
        typer.Option("--twin", metavar="QUESTION", help="The same question with another answer, for each --clean."),
    ] = None,
    pairs_file: Annotated[
        Path | None,
        typer.Option("--pairs-file", metavar="TSV", help="Your own pairs: one a line, clean and twin, a tab between."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="EDGE", help="Also cut this edge, e.g. 'a0.h1->m0'; several together."),
    ] = None,
    out: PageFolder = None,
    seed: Seed = 0,
    no_open: NoOpen = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Find the circuit of each model: every edge's exact effect, the smallest circuit, its scores, and a graph of it.

    kc-interp circuit --model runs/sum --model runs/joint

    kc-interp circuit --model runs/sum --clean "[SUM 1 2]" --twin "[SUM 4 2]" --without "a0.h1->m0"
    """
    from kc_interp import assembly, plugins
    from kc_interp.checkpoint import load

    output = Output(as_json, quiet, verbose)
    own = own_pairs(clean or [], twin or [], pairs_file)
    where = prepare(device, threads)
    models = assembly.named(model, [load(path, device=where) for path in model])
    skill = assembly.skill_of(models, skill)
    settings = {
        "component": skill,
        "pairs": pairs,
        "steps": steps,
        "keep": keep,
        "within": "position class" if within == "class" else within,
        "given": own,
        "without": without or [],
    }
    probes = {"circuit": plugins.make_probe("circuit", settings)}
    folder = out or probe.beside(model[0], "circuit")
    claim(folder, [])
    models = [assembly.measured(one) for one in models]
    findings: dict[str, tuple[Finding, ...]] = {}
    probe.run(output, probes, models, skill, findings, seed)
    found = [of for one in models for of in findings[one.name]]
    if all(one.status == "failed" for one in found):
        raise ProbeError("; ".join(dict.fromkeys(one.sentence for one in found)))
    title = " and ".join(one.name for one in models) + ": circuits"
    document = assembly.document(title, models, findings, skill, provenance=probe.command(seed))
    page = probe.write(folder, document)
    shown = [part for one in found for part in _shown(one, 2 if without else 1)]
    output.result(probe.result(document, page), *shown, f"page: {page}")
    output.page(page, no_open=no_open)


def own_pairs(clean: Sequence[str], twin: Sequence[str], file: Path | None) -> list[tuple[str, str]]:
    """The pairs of the options, then those of the file. Raises SpecError on one without its other half."""
    if len(clean) != len(twin):
        raise SpecError(f"{len(clean)} --clean for {len(twin)} --twin; give one --twin for each --clean")
    found = list(zip(clean, twin, strict=True))
    for row, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file else [], start=1):
        cells = line.split("\t")
        if line.strip() and len(cells) != 2:
            raise SpecError(
                f"{file}, line {row}: found {len(cells)} columns; a line is a clean question, a tab, and its twin"
            )
        if line.strip():
            found.append((cells[0], cells[1]))
    if file and not found:
        raise SpecError(f"{file}: holds no pair; a line is a clean question, a tab, and its twin")
    return found


def _shown(finding: Finding, tables: int) -> list[Any]:
    """One model's circuit on the terminal: what was found, its scores, its largest edges, and those asked for."""
    scores = table(
        f"{finding.subject}: scores",
        ("", "value", "95 % interval", "control"),
        numbers(finding.numbers, controls=True),
    )
    scored = [scores] if finding.status != "failed" else []
    return [finding.sentence, *scored, *map(_as_shown, finding.tables[:tables])]


def _as_shown(one: Table) -> Any:
    rows = [tuple(number(cell) if isinstance(cell, float) else str(cell or "") for cell in row) for row in one.rows]
    return table(one.title, one.columns, rows)
