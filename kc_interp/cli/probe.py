"""`kc-interp probe`: run the installed probes on checkpoints, and write `findings.json` and one `report.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli.compute import claim, prepare
from kc_interp.cli.console import Output, share, table
from kc_interp.cli.options import Device, Json, Models, NoOpen, PageFolder, Quiet, Seed, Skill, Threads, Verbose
from kc_interp.errors import SpecError

if TYPE_CHECKING:
    from kc_interp.assembly import Model
    from kc_interp.probe import Probe
    from kc_interp.report import Document

REPORT, FINDINGS = "report.html", "findings.json"


def probe(
    model: Models,
    compare: Annotated[
        list[Path] | None,
        typer.Option("--compare", metavar="CKPT", help="The other side; may be given several times (seeds)."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Only this probe; may be given several times.")
    ] = None,
    skill: Skill = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PROBE.KEY=VALUE", help="A probe's setting, e.g. activation-patching.pairs=32."),
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
    """Probe one model, or compare the models of two arms with the seed as the unit.

    kc-interp probe --model runs/sum-0 --model runs/sum-1 --compare runs/joint-0 --compare runs/joint-1
    """
    from kc_interp import assembly
    from kc_interp.checkpoint import load
    from kc_interp.finding import Finding

    output = Output(as_json, quiet, verbose)
    probes = chosen_probes(only or [], settings or [])
    where = prepare(device, threads)
    paths = [*model, *(compare or [])]
    models = assembly.named(paths, [load(path, device=where) for path in paths])
    assembly.skill_of(models, skill)
    folder = out or beside(model[0], "report")
    claim(folder, [])
    with output.progress("measuring accuracy", len(models)) as bar:
        for index, one in enumerate(models):
            bar(index, one.name)
            models[index] = assembly.measured(one)
    asked = assembly.skill_of(models, skill)
    findings: dict[str, tuple[Finding, ...]] = {}
    interrupted = False
    try:
        run(output, probes, models, asked, findings, seed)
    except KeyboardInterrupt:
        interrupted = True
    split = len(model)
    compared, notes = assembly.comparisons(models[:split], models[split:], findings, asked) if compare else ((), ())
    if interrupted:
        notes = (*notes, "This report is incomplete: probing was interrupted.")
    document = assembly.document(
        _title(models, split), models, findings, asked, compared=compared, notes=notes, provenance=command(seed)
    )
    page = write(folder, document)
    report(output, document, page, notes)
    if interrupted:
        raise KeyboardInterrupt
    output.page(page, no_open=no_open)


def chosen_probes(only: Sequence[str], settings: Sequence[str]) -> dict[str, Probe]:
    """The probes asked for (all that are installed by default) with their settings. Raises PluginError, SpecError."""
    from kc_interp import plugins
    from kc_interp.cli.train import toml_value

    names = list(dict.fromkeys(only)) or list(dict.fromkeys(plugin.name for plugin in plugins.installed("probes")))
    by_probe: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in settings:
        key, equals, value = text.partition("=")
        name, dot, setting = key.partition(".")
        if not (equals and dot):
            raise SpecError(f"--set {text}: expected PROBE.KEY=VALUE, e.g. activation-patching.pairs=32")
        plugins.find("probes", name)
        if name not in by_probe:
            raise SpecError(f"--set {text}: {name} is not among the probes to run ({', '.join(names)})")
        by_probe[name][setting] = toml_value(value)
    return {name: plugins.make_probe(name, given) for name, given in by_probe.items()}


def run(
    output: Output, probes: dict[str, Probe], models: Sequence[Model], skill: str | None, findings: Any, seed: int
) -> None:
    """Every probe on every model, with progress."""
    from kc_interp import assembly

    with output.progress("probing", len(probes) * len(models)) as bar:
        done = 0

        def show(probe: str, model: str) -> None:
            nonlocal done
            bar(done, f"{probe} on {model}")
            done += 1

        assembly.probe_models(probes, models, skill, findings, seed=seed, on_progress=show)


def beside(model: Path, name: str) -> Path:
    """Where a page goes if nobody says: in the model's folder."""
    return (model if model.is_dir() else model.parent) / name


def write(folder: Path, document: Document) -> Path:
    """Write the page and the numbers, each whole or not at all; the page's path."""
    from kc_interp.report import write_findings, write_report

    write_findings(folder / FINDINGS, document)
    return write_report(folder / REPORT, document)


def result(document: Document, page: Path) -> dict[str, Any]:
    """What --json prints: the numbers, and where both files are."""
    import json

    return {**json.loads(document.dumps()), "report": str(page), "findings_file": str(page.parent / FINDINGS)}


def report(output: Output, document: Document, page: Path, notes: Sequence[str]) -> None:
    """The result of probing on the terminal."""
    roster = document.roster
    failed = [f for findings in document.findings.values() for f in findings if f.status == "failed"]
    rows = [
        (
            one.name,
            one.arm,
            one.initialisation,
            str(one.seed),
            share({"value": one.accuracy, "low": one.low, "high": one.high}),
            {True: "learned", False: "not learned", None: "not measured"}[one.learned],
            str(sum(f.status != "failed" for f in document.findings.get(one.name, ()))),
        )
        for one in roster.models
    ]
    output.result(
        result(document, page),
        table(
            f"Which models learned {roster.skill}?",
            ("model", "trained on", "init", "seed", f"exact chain, {roster.skill}", "", "probes"),
            rows,
            caption=f"learned: at least {100 * roster.level:g} %; commonest answer {100 * (roster.chance or 0):.1f} %",
        ),
        *(f"{c.name}. {_summary(c)}" for c in document.comparisons),
        *(f"failed: {f.probe} on {f.subject}: {f.sentence}" for f in failed),
        *notes,
        f"report: {page}",
    )


def _summary(comparison: Any) -> str:
    from kc_interp.comparison import summary

    return summary(comparison)


def command(seed: int) -> dict[str, Any]:
    """What was typed, and the seed of the probes' sampling."""
    import shlex
    import sys

    return {"command": shlex.join(["kc-interp", *sys.argv[1:]]), "probe seed": seed}


def _title(models: Sequence[Model], split: int) -> str:
    if len(models) == 1:
        return f"{models[0].name}: what it learned, and how"
    arms = [" and ".join(dict.fromkeys(one.arm for one in side)) for side in (models[:split], models[split:]) if side]
    return " against ".join(arms)
