"""`kc-interp complexity`: every measure of the complexity of sets of operations, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli.compute import prepare
from kc_interp.cli.console import Output, table
from kc_interp.cli.data import listops
from kc_interp.cli.options import Json, MaxOperands, Modulus, Quiet, Threads, Verbose

if TYPE_CHECKING:
    from rich.table import Table

    from kc_interp.cli.console import Bar
    from kc_interp.complexity import Measure
    from kc_interp.tasks.listops import ListOps

DEFAULT_OPS = "MAX,MIN,MED,SUM"

_PARTS = {"joint": "joint", "sum": "sum of singles", "saving": "saved by joining"}


def complexity(
    ops: Annotated[
        list[str] | None,
        typer.Option("--ops", metavar="A,B,…", help="A set of operations; may be given several times."),
    ] = None,
    all_subsets: Annotated[
        bool, typer.Option("--all-subsets", help="Every subset of all the operations given.")
    ] = False,
    modulus: Modulus = None,
    max_operands: MaxOperands = None,
    families: Annotated[
        str, typer.Option("--families", metavar="A,B,…", help="Of code, data, algebra.")
    ] = "code,data,algebra",
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants",
            metavar="A,B,…",
            help="Of the programs: numeric, symbolic, loop-free, table-folded, table.",
            show_default="all",
        ),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", help="Examples a compressed sample.")] = 1_000,
    seeds: Annotated[int, typer.Option("--seeds", help="Samples, for the intervals of data measures.")] = 5,
    prequential: Annotated[
        bool,
        typer.Option(
            "--prequential",
            help="Also the prequential description length: a small transformer learns each task (minutes each).",
        ),
    ] = False,
    programs: Annotated[
        Path | None, typer.Option("--programs", metavar="DIR", help="Write the programs that were measured there.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Complexity of the code, the data and the algebra of sets of operations; joint programs beside single ones."""
    from kc_interp.complexity import FAMILIES, measures

    output = Output(as_json, quiet, verbose)
    tasks = [
        listops(ops=names, modulus=modulus, max_operands=max_operands)
        for names in subsets(ops or [DEFAULT_OPS], every=all_subsets)
    ]
    asked = _words(families)
    wanted = None if variants is None else _words(variants)
    if prequential:
        prepare("cpu", threads)
    found: dict[str, list[Measure]] = {}
    with output.progress("measuring", len(tasks)) as bar:
        for done, task in enumerate(tasks):
            taken = measures(task, families=asked, variants=wanted, examples=examples, seeds=seeds)
            if prequential:
                taken.append(_prequential(task, seeds, _from(bar, done, _name(task))))
            found[_name(task)] = taken
            bar(done + 1, _name(task))
    written = [] if programs is None else _write(tasks, wanted, programs)
    shown = [
        _table(
            f"Complexity of {family}", {name: [m for m in all_ if m.family == family] for name, all_ in found.items()}
        )
        for family in FAMILIES
        if any(measure.family == family for measure in next(iter(found.values())))
    ]
    notes = sorted(
        {f"{m.title.partition(',')[0]}: {m.note}" for all_ in found.values() for m in all_ if m.value is None}
    )
    output.result(
        {
            "modulus": tasks[0].modulus,
            "max_operands": tasks[0].max_operands,
            "measures": [_described(measure) for measure in next(iter(found.values()))],
            "values": {name: {m.key: _valued(m) for m in all_} for name, all_ in found.items()},
            "largest_single": {key: names for key, names in _largest(found).items() if names},
            "programs": written,
        },
        *shown,
        *notes,
        *([f"{len(written)} programs written to {programs}"] if programs else []),
    )


def _from(bar: Bar, done: int, name: str) -> Callable[[float], None]:
    """Moves the bar on by the share of one task."""
    return lambda share: bar(done + share, name)


def _prequential(task: ListOps, seeds: int, on_progress: Callable[[float], None]) -> Measure:
    from kc_interp.scaling.prequential import Learner, measure
    from kc_interp.spec import TaskSpec, to_plain

    return measure(TaskSpec("listops", to_plain(task)), Learner(seeds=seeds), on_progress=on_progress)


def subsets(ops: Sequence[str], *, every: bool) -> list[str]:
    """The sets of operations to measure, each once; `every`: all subsets of what is named, small ones first.

    >>> subsets(["MAX,SUM"], every=True)
    ['MAX', 'SUM', 'MAX,SUM']
    """
    sets = [_words(names) for names in ops]
    if every:
        named = list(dict.fromkeys(name.upper() for names in sets for name in names))
        sets = [list(chosen) for size in range(1, len(named) + 1) for chosen in itertools.combinations(named, size)]
    return list(dict.fromkeys(",".join(names) for names in sets))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _name(task: ListOps) -> str:
    return "+".join(task.operations)


def _described(measure: Measure) -> dict[str, str]:
    return {name: getattr(measure, name) for name in ("key", "title", "unit", "family", "part", "definition")}


def _valued(measure: Measure) -> dict[str, Any]:
    facts = {name: getattr(measure, name) for name in ("low", "high", "note")}
    return {"value": measure.value, **{name: fact for name, fact in facts.items() if fact not in (None, "")}}


def _largest(found: dict[str, list[Measure]]) -> dict[str, list[str]]:
    """By key, the single operations of the largest value and those whose interval meets that one's; none if all do."""
    singles = {name: measures for name, measures in found.items() if "+" not in name}
    largest = {}
    for index, measure in enumerate(next(iter(found.values()))):
        known = {name: m[index] for name, m in singles.items() if m[index].value is not None}
        highs = {name: m.value if m.high is None else m.high for name, m in known.items()}
        first = max(known.values(), key=lambda m: m.value or 0.0, default=measure)
        floor = first.value if first.low is None else first.low
        top = [name for name, high in highs.items() if (high or 0.0) >= (floor or 0.0)]
        largest[measure.key] = top if len(top) < len(known) else []
    return largest


def _table(title: str, found: dict[str, list[Measure]]) -> Table:
    joined = any("+" in name for name in found)
    largest = _largest(found)
    ranked = sum("+" not in name for name in found) > 1
    rows = []
    for index, first in enumerate(next(iter(found.values()))):
        if first.part != "joint" and first.family == "code" and not joined:
            continue
        cells = [_cell(measures[index]) for measures in found.values()]
        last = ["=".join(largest[first.key]) if first.part == "joint" else ""] if ranked else []
        rows.append([first.title, _PARTS[first.part], first.unit, *cells, *last])
        if first.low is not None:
            halves = [_half(measures[index]) for measures in found.values()]
            rows.append(["", "± (95 %)", first.unit, *halves, *([""] if ranked else [])])
    caption = "+: more than this. Of data, ± is half an interval over samples, and a largest is named beyond it."
    # One operation a line, or fifteen columns would not fit side by side.
    columns = [
        "measure",
        "",
        "unit",
        *(name.replace("+", "\n") for name in found),
        *(["largest\nsingle"] if ranked else []),
    ]
    return table(title, columns, rows, caption=caption)


def _cell(measure: Measure) -> str:
    if measure.value is None:
        return ""
    if measure.note == "more than":
        return f"{measure.value / 1000:,.0f}k+"
    digits = {"bits/answer": 3, "bits/example": 2}.get(measure.unit, 0)
    return f"{measure.value:,.{digits}f}"


def _half(measure: Measure) -> str:
    return "" if measure.value is None or measure.low is None else f"{measure.value - measure.low:.2f}"


def _write(tasks: Sequence[ListOps], variants: Sequence[str] | None, folder: Path) -> list[str]:
    """The programs, readable and minified, one file each; their paths."""
    from kc_interp.complexity import code
    from kc_interp.files import write_atomically

    written = []
    for task, variant in itertools.product(tasks, variants or code.VARIANTS):
        if code.unavailable(task, variant, task.operations) is None:
            made = code.program(task, variant)
            for kind, text in (("py", made.source), ("min.py", made.minified)):
                written.append(str(write_atomically(folder / f"{'+'.join(made.operations)}.{variant}.{kind}", text)))
    return written
