"""`kc-interp circuit`: exact effects of every edge, the smallest circuit, and its scores; the `circuit` probe alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli import probe
from kc_interp.cli.compute import claim, prepare
from kc_interp.cli.console import Output, table
from kc_interp.cli.options import Device, Json, Models, NoOpen, Quiet, Seed, Threads, Verbose
from kc_interp.errors import ProbeError

if TYPE_CHECKING:
    from kc_interp.finding import Finding, Table


def circuit(
    model: Models,
    component: Annotated[
        str | None, typer.Option("--component", help="The part of the task to look at  [default: SUM, else the first]")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=4, help="Pairs of chains to search on; as many to judge.")] = 64,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Reductions a chain has.")] = 1,
    keep: Annotated[float, typer.Option("--keep", help="Share of the logit difference the circuit keeps.")] = 0.9,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the page goes  [default: beside the first model]"),
    ] = None,
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
    """
    from kc_interp import assembly, plugins
    from kc_interp.checkpoint import load

    output = Output(as_json, quiet, verbose)
    where = prepare(device, threads)
    models = assembly.named(model, [load(path, device=where) for path in model])
    skill = assembly.skill_of(models, component)
    settings = {"component": skill, "pairs": pairs, "steps": steps, "keep": keep}
    probes = {"circuit": plugins.make_probe("circuit", settings)}
    folder = out or (model[0] if model[0].is_dir() else model[0].parent) / "circuit"
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
    shown = [part for one in found for part in _shown(one)]
    result = {**json.loads(document.dumps()), "report": str(page), "findings_file": str(page.parent / probe.FINDINGS)}
    output.result(result, *shown, f"page: {page}")
    output.page(page, no_open=no_open)


def _shown(finding: Finding) -> list[Any]:
    """One model's circuit on the terminal: what was found, its scores, its largest edges."""
    scores = table(
        f"{finding.subject}: scores",
        ("", "value", "95 % interval", "control"),
        [
            (n.title, _number(n.value), "" if n.low is None else f"{_number(n.low)} to {_number(n.high)}", _control(n))
            for n in finding.numbers
        ],
    )
    return [finding.sentence, *([scores] if finding.status != "failed" else []), *map(_as_shown, finding.tables[:1])]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _control(number: Any) -> str:
    return "" if number.control is None else f"{_number(number.control)} ({number.control_says})"


def _as_shown(one: Table) -> Any:
    rows = [tuple(_number(cell) if isinstance(cell, float) else str(cell or "") for cell in row) for row in one.rows]
    return table(one.title, one.columns, rows)
