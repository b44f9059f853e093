"""`kc-interp demo`: the main job in one go, from nothing to a report about eight models just trained."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kc_interp.cli import probe as probing
from kc_interp.cli.compute import claim, prepare
from kc_interp.cli.console import Bar, Output
from kc_interp.cli.options import Device, Json, NoOpen, Quiet, Threads, Verbose


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where models and report go.")] = Path("demo"),
    d_model: Annotated[int | None, typer.Option("--d-model", help="Width of all eight models.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps of all eight models.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Train anew, whatever the folder holds.")] = False,
    no_open: NoOpen = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Train SUM alone and MAX+MED+SUM from two initialisations, two seeds each; probe them; write one report.

    Some minutes on two CPU cores. Interrupted, the same command goes on where it stopped.
    """
    from kc_interp import assembly, evaluation
    from kc_interp import demo as design
    from kc_interp.checkpoint import FILE_NAME
    from kc_interp.finding import Finding
    from kc_interp.train import STATE_NAME, Progress, train

    output = Output(as_json, quiet, verbose)
    specs = design.specs(d_model or design.D_MODEL, steps or design.STEPS)
    owned = [STATE_NAME, f"*/{FILE_NAME}", "*/checkpoints/step_*.safetensors"]
    claim(out, owned, force=force, resume=not force)
    where = prepare(device, threads)
    began = time.perf_counter()
    output.note(
        f"Training {len(specs)} models of width {d_model or design.D_MODEL} for {steps or design.STEPS:,} steps as one "
        f"ensemble: {{SUM alone, MAX+MED+SUM}} × {{narrow, wide initialisation}} × seeds {design.SEEDS}."
    )
    with output.progress("training", steps or design.STEPS) as bar:

        def show(progress: Progress) -> None:
            accuracy = progress.accuracy or []
            exact = "exact " + " ".join(f"{value:.0%}" for value in accuracy) if accuracy else ""
            bar(progress.step, f"{exact} {progress.examples_per_second:,.0f} chains/s")

        trained = train(
            list(specs.values()),
            folders=[out / name for name in specs],
            state_path=out / STATE_NAME,
            device=where,
            resume=True,
            on_progress=show,
        )
    after_training = time.perf_counter()
    models = []
    with output.progress("measuring", len(specs)) as bar:
        for index, (name, one) in enumerate(zip(specs, trained, strict=True)):
            metrics = evaluation.evaluate(one, on_progress=partial(_show_part, bar, index, name))
            found = one.with_metrics(metrics)
            found.save(out / name / FILE_NAME)
            models.append(assembly.Model(name, found))
    skill = assembly.skill_of(models)
    findings: dict[str, tuple[Finding, ...]] = {}
    after_measuring = time.perf_counter()
    interrupted = False
    try:
        probing.run(output, probing.chosen_probes([], []), models, skill, findings, seed=0)
    except KeyboardInterrupt:
        interrupted = True
    alone = [model for model in models if model.arm.endswith("alone")]
    jointly = [model for model in models if model not in alone]
    compared, notes = assembly.comparisons(alone, jointly, findings, skill)
    seconds = {
        "training": after_training - began,
        "measuring": after_measuring - after_training,
        "probing": time.perf_counter() - after_measuring,
    }
    document = assembly.document(
        f"{skill} alone and jointly: who learned it, and how",
        models,
        findings,
        skill,
        compared=compared,
        notes=(
            *notes,
            f"Models that did not learn {skill} were probed too: they are marked, and left out of every mean.",
            "Two seeds an arm are few: intervals over seeds are wide, and what one size and one number of steps show "
            "need not hold at another.",
            *(["This report is incomplete: probing was interrupted."] if interrupted else []),
        ),
        provenance={**probing.command(0), "seconds": {name: round(value, 1) for name, value in seconds.items()}},
    )
    page = probing.write(out, document)
    probing.report(output, document, page, notes)
    if interrupted:
        raise KeyboardInterrupt
    output.note("took " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))
    shown = " ".join(f"--model {out / name}" for name in design.SHOWN)
    output.note(f"ask two of them yourself: kc-interp explore {shown}")
    output.page(page, no_open=no_open)


def _show_part(bar: Bar, index: int, name: str, part: str) -> None:
    bar(index, f"{name}, {part}")
