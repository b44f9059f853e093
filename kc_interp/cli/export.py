"""`kc-interp export`: a checkpoint as a file that another tool opens, and the Python that opens it there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kc_interp.cli.compute import claim_file
from kc_interp.cli.console import Output
from kc_interp.cli.options import Json, Quiet, Verbose
from kc_interp.errors import SpecError


def export(
    model: Annotated[Path, typer.Option("--model", metavar="CKPT", help="A run folder or a .safetensors file.")],
    to: Annotated[
        str, typer.Option("--to", metavar="transformer-lens-4|transformer-lens-3", help="The tool that is to open it.")
    ] = "transformer-lens-4",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where it goes; else beside the model, named after the tool."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Write a model for another tool, with the same logits there, and print the Python that opens it.

    kc-interp export --model runs/sum --to transformer-lens-4 > open_it.py
    """
    from kc_interp.checkpoint import FILE_NAME, load
    from kc_interp.export import Export, format_of

    output = Output(as_json, quiet, verbose)
    format_of(to)
    checkpoint = load(model)
    source = model / FILE_NAME if model.is_dir() else model
    # Not `step_….safetensors`: those are a run's own, which `train --force` removes.
    path = out or source.with_name(f"{to}.safetensors" if source.name == FILE_NAME else f"{to}.{source.name}")
    if path.resolve() == source.resolve():
        raise SpecError(f"{path}: that is the model itself; choose another --out")
    claim_file(path, force=force)
    made = Export.of(checkpoint, to)
    made.save(path)
    for note in made.about["notes"]:
        output.note(f"note: {note}")
    python = made.python(path)
    output.result(
        {
            "file": str(path),
            "to": to,
            "config": made.about["config"],
            "symbols": made.about["symbols"],
            "tensors": {name: list(value.shape) for name, value in made.state.items()},
            "notes": made.about["notes"],
            "python": python,
        },
        python,
    )
