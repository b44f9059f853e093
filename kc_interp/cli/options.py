"""The options that commands share, and the settings of a task and a run as options.

A default in words is `show_default`, never "[default: …]" in the help: rich reads square brackets as mark-up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="More: -v notes, -vv debugging.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads.", show_default="torch's own choice")
]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what the output folder holds.")]
Models = Annotated[
    list[Path],
    typer.Option("--model", metavar="CKPT", help="A run folder or a .safetensors file; may be given several times."),
]
Skill = Annotated[
    str | None,
    typer.Option(
        "--skill", "--component", help="The part of the task to look at, e.g. SUM.", show_default="SUM, else the first"
    ),
]
PageFolder = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where the page goes.", show_default="beside the first model"),
]
Items = Annotated[int, typer.Option("--items", min=10, help="Test items a set.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="What is drawn at random.")]

Ops = Annotated[
    str | None,
    typer.Option("--ops", metavar="A,B,…", help="ListOps operations: MAX, MIN, MED, SUM, PROD, NADD."),
]
Modulus = Annotated[int | None, typer.Option("--modulus", help="Numbers are 0 … modulus-1 (2 to 100).")]
Depth = Annotated[int | None, typer.Option("--depth", help="Largest nesting.")]
MaxOperands = Annotated[int | None, typer.Option("--max-operands", help="Largest number of operands.")]
POperation = Annotated[float | None, typer.Option("--p-operation", help="Probability that an operand is nested.")]
MedianOf = Annotated[str | None, typer.Option("--median", metavar="upper|numpy", help="MED of an even count.")]
Shape = Annotated[str | None, typer.Option("--shape", metavar="paper|equals", help="How lines are separated.")]
Weights = Annotated[str | None, typer.Option("--weights", metavar="1,2,…", help="How often each operation is drawn.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. train.clip=0.5, data.holdout_pairs=3."),
]
