"""The command line. Every heavy import stands inside its command, so that `--help` answers at once.

Exit status: 0 done, 1 a user's mistake (one message, no traceback), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

import kc_interp
from kc_interp.cli import (
    circuit,
    complexity,
    data,
    evaluate,
    explore,
    export,
    figures,
    fit,
    listing,
    overlap,
    probe,
    sweep,
    train,
)
from kc_interp.cli import demo as demonstrate
from kc_interp.errors import KCInterpError

app = typer.Typer(
    name="kc-interp",
    help="How big must a small transformer be to learn a task, what decides that, and which algorithm did it learn?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demonstrate.demo)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("probe")(probe.probe)
app.command("circuit")(circuit.circuit)
app.command("compare-circuits")(overlap.compare_circuits)
app.command("explore")(explore.explore)
app.command("export")(export.export)
app.command("complexity")(complexity.complexity)
app.command("sweep")(sweep.sweep)
app.command("fit")(fit.fit)
app.command("figures")(figures.figures)
app.command("list")(listing.listing)
app.add_typer(data.app, name="data")


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"kc-interp {kc_interp.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of the console script and of `python -m kc_interp`."""
    # Threads that wait by spinning make training ten times slower as soon as another program wants a core, and gain
    # little on a quiet machine. torch's OpenMP reads this once, when it is imported; a user's own setting stands.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except KCInterpError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}; what was finished before is kept")


def _fail(message: str) -> None:
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": message}) + "\n")
    sys.stderr.write(f"kc-interp: {message}\n")
    sys.exit(1)
