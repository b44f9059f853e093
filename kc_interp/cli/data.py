"""`kc-interp data`: count the universe of ListOps, look at samples, read and write public files, check for leaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli.console import Output, table
from kc_interp.cli.options import (
    Depth,
    Json,
    MaxOperands,
    MedianOf,
    Modulus,
    Ops,
    POperation,
    Quiet,
    Seed,
    Shape,
    Verbose,
    Weights,
)
from kc_interp.cli.train import numbers
from kc_interp.errors import SpecError

if TYPE_CHECKING:
    from kc_interp.spec import DataSpec
    from kc_interp.tasks.listops import ListOps

app = typer.Typer(help="ListOps data: counts, samples, public files, leak checks.", no_args_is_help=True)

Pairs = Annotated[int | None, typer.Option("--holdout-pairs", help="Held-out pairs per operation.")]
Triples = Annotated[int | None, typer.Option("--holdout-triples", help="Held-out triples per operation.")]
SplitSeed = Annotated[int | None, typer.Option("--split-seed", help="Which orbits and test items are held out.")]
Layout = Annotated[str, typer.Option("--layout", metavar="nangia-bowman|lra", help="Layout of the file to write.")]


def listops(**settings: Any) -> ListOps:
    """The task of the options given; defaults are ListOps's own. Raises SpecError."""
    from kc_interp import plugins
    from kc_interp.spec import TaskSpec

    ops, weights = settings.pop("ops", None), settings.pop("weights", None)
    if ops:
        settings["operations"] = ops.upper().split(",")
    if weights:
        settings["weights"] = numbers("--weights", weights)
    return plugins.make_task(TaskSpec("listops", {k: v for k, v in settings.items() if v is not None}))  # type: ignore[return-value]


def data_spec(pairs: int | None, triples: int | None, split_seed: int | None) -> DataSpec:
    """The split of the options given."""
    from kc_interp.spec import DataSpec, from_plain

    given = {"holdout_pairs": pairs, "holdout_triples": triples, "split_seed": split_seed}
    return from_plain(DataSpec, {key: value for key, value in given.items() if value is not None}, where="split")


@app.command("counts")
def counts(
    ops: Ops = None,
    modulus: Modulus = None,
    depth: Depth = None,
    max_operands: MaxOperands = None,
    n_train: Annotated[
        int, typer.Option("--n-train", help="Size of a training sample to measure coverage by.")
    ] = 60_000,
    pairs: Pairs = None,
    triples: Triples = None,
    split_seed: SplitSeed = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """How many questions there are, exactly; bits per answer; and what a training sample covers."""
    import numpy as np

    from kc_interp.data import Split
    from kc_interp.tasks import universe

    output = Output(as_json, quiet, verbose)
    task = listops(ops=ops, modulus=modulus, depth=depth, max_operands=max_operands)
    split = Split.of(task, data_spec(pairs, triples, split_seed))
    chains = split.draw(task, n_train, np.random.default_rng([2, seed]), test=False)
    seen = universe.coverage(task, chains)
    nestings = {
        d: universe.questions(d, operations=len(task.operations), max_operands=task.max_operands, modulus=task.modulus)
        for d in range(1, task.depth + 1)
    }
    arities = range(2, task.max_operands + 1)
    entropy = {arity: universe.table_entropy_bits(task, arity) for arity in arities if task.modulus**arity <= 10**5}
    _, held = split.split_atoms(task)
    held_names = list(task.groups(held)["operation"]) if len(held) else []
    rows = []
    for name, atoms in seen.atoms.items():
        bits = [f"{entropy[arity][name]:.3f}" if arity in entropy else "" for arity in arities]
        out = held_names.count(name)
        rows.append(
            (
                name,
                f"{atoms.total:,}",
                f"{out:,}",
                f"{atoms.seen:,}",
                f"{atoms.orbits_seen:,} of {atoms.orbits:,}",
                *bits,
            )
        )
    output.result(
        {
            "operations": list(task.operations),
            "questions": {str(d): count for d, count in nestings.items()},
            "max_length": task.max_length,
            "entropy_bits": {str(arity): values for arity, values in entropy.items()},
            "training": {
                "questions": seen.questions,
                "distinct": seen.distinct,
                "share_of_universe": seen.share,
                "mean_length": float(chains.lengths.mean()),
                "atoms": {name: vars(atoms) for name, atoms in seen.atoms.items()},
                "atoms_held_out": len(held),
            },
        },
        table(
            f"Questions of {', '.join(task.operations)} over {task.modulus} numbers, 2 to {task.max_operands} operands",
            ("nesting at most", "questions"),
            [(str(d), f"{count:,}" if count < 10**15 else f"{count:.2e}") for d, count in nestings.items()],
        ),
        table(
            "Single reductions",
            (
                "operation",
                "all",
                "held out",
                "seen in training",
                "orbits seen",
                *(f"bits/answer, {a}" for a in arities),
            ),
            rows,
        ),
        f"training sample of {seen.questions:,}: {seen.distinct:,} distinct questions, {seen.share:.2g} of the "
        f"universe; mean chain {chains.lengths.mean():.1f} symbols, longest possible {task.max_length}",
    )


@app.command("sample")
def sample(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 10,
    ops: Ops = None,
    weights: Weights = None,
    modulus: Modulus = None,
    depth: Depth = None,
    max_operands: MaxOperands = None,
    p_operation: POperation = None,
    median: MedianOf = None,
    shape: Shape = None,
    test: Annotated[bool, typer.Option("--test", help="Test items instead of training items.")] = False,
    held_out: Annotated[bool, typer.Option("--held-out", help="Items with a held-out step.")] = False,
    pairs: Pairs = None,
    triples: Triples = None,
    split_seed: SplitSeed = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write a TSV file instead.")] = None,
    layout: Layout = "nangia-bowman",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Chains as a model reads them; with --out, questions and answers in a public layout."""
    import numpy as np

    from kc_interp.data import Split
    from kc_interp.tasks import tsv

    output = Output(as_json, quiet, verbose)
    task = listops(
        ops=ops, weights=weights, modulus=modulus, depth=depth, max_operands=max_operands, p_operation=p_operation,
        median=median, shape=shape,
    )  # fmt: skip
    split = Split.of(task, data_spec(pairs, triples, split_seed))
    chains = split.draw(task, count, np.random.default_rng([2, seed]), test=test or held_out, held_out=held_out)
    if out is not None:
        tsv.write(out, tsv.from_chains(task, chains), _layout(layout))
        output.result({"file": str(out), "count": count, "layout": layout}, f"{count:,} questions written to {out}")
        return
    lines = task.format(chains)
    output.result({"chains": lines}, *lines)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A ListOps TSV file of either public layout.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it in --layout.")] = None,
    layout: Layout = "nangia-bowman",
    check: Annotated[
        str | None, typer.Option("--check", metavar="upper|numpy", help="Compare every label under this median.")
    ] = None,
    modulus: Modulus = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Read a public ListOps file: counts, nesting, labels; check or convert it."""
    from collections import Counter

    from kc_interp.tasks import expressions, tsv

    output = Output(as_json, quiet, verbose)
    if check not in (None, "upper", "numpy"):
        raise SpecError(f"--check {check}: expected upper or numpy")
    rows = list(tsv.read(file, modulus=modulus or 10, check=check))  # type: ignore[arg-type]
    depths = Counter(expressions.depth(row.expression) for row in rows)
    labels = Counter(row.label for row in rows)
    if out is not None:
        tsv.write(out, ((row.label, row.expression) for row in rows), _layout(layout))
    output.result(
        {
            "file": str(file),
            "rows": len(rows),
            "distinct": len({expressions.show(row.expression) for row in rows}),
            "nesting": {str(d): n for d, n in sorted(depths.items())},
            "labels": {str(label): n for label, n in sorted(labels.items())},
            "first": [expressions.show(row.expression) for row in rows[:3]],
            "labels_checked": check,
            "written": None if out is None else str(out),
        },
        table(
            f"{file}: {len(rows):,} rows", ("nesting", "rows"), [(str(d), f"{n:,}") for d, n in sorted(depths.items())]
        ),
        table("Labels", ("label", "rows"), [(str(label), f"{n:,}") for label, n in sorted(labels.items())]),
        *([f"every label is its expression's value ({check} median)"] if check else []),
        *([f"written to {out} ({layout})"] if out else []),
    )


@app.command("check")
def check(
    train: Annotated[
        Path | None, typer.Argument(help="A training file (TSV).", show_default="a sample by the options")
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", metavar="FILE", help="A test file to compare it with.")] = None,
    ops: Ops = None,
    modulus: Modulus = None,
    depth: Depth = None,
    max_operands: MaxOperands = None,
    median: MedianOf = None,
    pairs: Pairs = None,
    triples: Triples = None,
    split_seed: SplitSeed = None,
    n_train: Annotated[int, typer.Option("--n-train", help="Size of the sample when no file is given.")] = 60_000,
    own_split: Annotated[
        bool, typer.Option("--own-split", help="Hold the file to our split (hash and orbits), not only to --test.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Look for leaks: test questions in training, held-out steps in any line of a training chain."""
    import numpy as np

    from kc_interp.data import Split, check_leaks
    from kc_interp.tasks import tsv

    output = Output(as_json, quiet, verbose)
    task = listops(ops=ops, modulus=modulus, depth=depth, max_operands=max_operands, median=median)
    split = Split.of(task, data_spec(pairs, triples, split_seed))
    if train is None:
        if test is not None:
            raise SpecError("--test compares with a training file; name one")
        rng = np.random.default_rng([2, seed])
        chains = split.draw(task, n_train, rng, test=False)
        found = check_leaks(task, split, chains, split.draw(task, 2_000, rng, test=True))
    else:
        chains, _ = tsv.to_chains(task, tsv.read(train, modulus=task.modulus))
        asked = None if test is None else tsv.to_chains(task, tsv.read(test, modulus=task.modulus))[0]
        if asked is None and not own_split:
            raise SpecError("give a test file with --test, or --own-split to hold the file to our split")
        found = check_leaks(task, split if own_split else None, chains, asked)
    rows = [
        (name.replace("_", " "), "not checked" if value is None else f"{value:,}")
        for name, value in vars(found).items()
    ]
    output.result(
        {**vars(found), "faults": list(found.faults)}, table("Leak check", ("", "count"), rows), *found.faults
    )
    if not found.clean:
        raise typer.Exit(1)


def _layout(name: str) -> Any:
    if name not in ("nangia-bowman", "lra"):
        raise SpecError(f"--layout {name}: expected nangia-bowman or lra")
    return name
