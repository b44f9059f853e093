"""`kc-interp eval`: accuracy of checkpoints under every definition, by group, and on single steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.table import Table

from kc_interp.cli.compute import prepare
from kc_interp.cli.console import Output, share, table
from kc_interp.cli.options import Device, Items, Json, Models, Quiet, Seed, Threads, Verbose


def evaluate(
    model: Models,
    items: Items = 1_000,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Accuracy under every definition, by operation, depth, length and arity, and over the exhaustive atomic table."""
    from kc_interp import assembly, evaluation
    from kc_interp.checkpoint import load

    output = Output(as_json, quiet, verbose)
    where = prepare(device, threads)
    models = assembly.named(model, [load(path, device=where) for path in model])
    found: dict[str, Any] = {}
    shown: list[Table | str] = []
    with output.progress("evaluating", len(models)) as bar:
        for index, one in enumerate(models):
            metrics = evaluation.evaluate(one.checkpoint, items=items, seed=seed, on_progress=partial(bar, index))
            found[one.name] = metrics
            shown += tables(one.name, metrics)
    output.result({"models": found}, *shown)


def tables(name: str, metrics: Mapping[str, Any]) -> list[Table | str]:
    """The result of one evaluation for people."""
    from kc_interp.metrics import DEFINITIONS

    sets = metrics["sets"]
    asked = [key for key in sets if key.startswith("test")]
    asked = asked[1:] if len(asked) == 2 else asked  # one component: the mixture is the same again
    rows = []
    for key, definition in DEFINITIONS.items():
        cells = [sets[s]["metrics"].get(key) for s in asked]
        if any(cells):
            texts = [("" if c is None else _shown(key, c)) for c in cells]
            rows.append((definition.title, definition.mode, *texts))
    rows.append(("Chance", "commonest answer", *(f"{100 * sets[s]['chance']:.1f} %" for s in asked)))
    steps = [key for key in sets if not key.startswith("test")]
    verdict = ", ".join(f"{part}: {'learned' if yes else 'not learned'}" for part, yes in metrics["learned"].items())
    by = [
        (group, label, share(cell), f"{100 * cell['chance']:.1f} %", str(cell["n"]))
        for group, cells in sets["test"]["by"].items()
        for label, cell in cells.items()
    ]
    return [
        table(f"{name}: unseen questions", ("metric", "mode", *asked), rows, caption="[95 % interval over items]"),
        table(
            f"{name}: single steps and held-out steps",
            ("items", "exact chain", "answer, teacher-forced", "chance", "n"),
            [
                (
                    key,
                    share(sets[key]["metrics"]["exact"]),
                    share(sets[key]["metrics"]["answer"]),
                    f"{100 * sets[key]['chance']:.1f} %",
                    str(sets[key]["n"]),
                )
                for key in steps
            ],
        ),
        table(f"{name}: exact chain by group", ("by", "", "exact chain", "chance", "n"), by),
        f"{verdict} (learned from {100 * metrics['level']:g} % on: {metrics['criterion']})",
    ]


def _shown(key: str, cell: Mapping[str, Any]) -> str:
    if key.endswith(("_nats", "_brier")):
        return f"{cell['value']:.3f}" + (f" [{cell['low']:.3f}, {cell['high']:.3f}]" if "low" in cell else "")
    return share(cell)
