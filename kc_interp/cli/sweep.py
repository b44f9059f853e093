"""`kc-interp sweep`: what a study asks for and its store does not hold yet, on this machine or on a Ray cluster."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli.console import Output, table
from kc_interp.cli.options import Device, Json, Quiet, Threads, Verbose
from kc_interp.errors import KCInterpError, SpecError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from kc_interp.records import Record, Store
    from kc_interp.scaling.executors import Executor
    from kc_interp.scaling.study import Study, TunedRate
    from kc_interp.scaling.sweep import Update

STORE_NAME = "records.sqlite"
EXECUTORS = ("local", "ray")


def sweep(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="What to run.")],
    executor: Annotated[
        str, typer.Option("--executor", metavar="local|ray", help="Processes of this machine, or a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Ensembles at a time.", show_default="local 1, ray all")
    ] = None,
    address: Annotated[str, typer.Option("--address", help="Of the Ray cluster, as ray.init takes it.")] = "auto",
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="FILE", help="The records.", show_default=f"{STORE_NAME} beside the study"),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Say what is there and what is missing; run nothing.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE.jsonl|FILE.csv",
            help="Also write the records there.",
            show_default="when complete, beside the store",
        ),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Begin the study anew; its records so far are kept under another name.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Run a study: whatever it asks for and its store does not hold.

    Kill it at any moment: the same command goes on and ends with the same records. --threads are those of each worker.
    """
    from kc_interp.scaling import study as studies

    output = Output(as_json, quiet, verbose)
    if executor not in EXECUTORS:
        raise SpecError(f"--executor {executor}{did_you_mean(executor, EXECUTORS)}")
    if export is not None and export.suffix not in (".jsonl", ".csv"):
        raise SpecError(f"--export {export}: the name must end in .jsonl or .csv")
    asked = studies.load(study)
    path = store if store is not None else study.parent / STORE_NAME
    if status:
        _status(output, asked, path, export)
        return
    _run(output, asked, path, _executor(executor, workers, threads, address, device), new, export, device, executor)


def _run(
    output: Output,
    study: Study,
    path: Path,
    executor: Executor,
    new: bool,
    export: Path | None,
    device: str,
    kind: str,
) -> None:
    """Open the store, run what is missing, write the JSON lines, say what there is; fail when something is missing."""
    from kc_interp.records import Store, read_text
    from kc_interp.scaling import sweep as driver

    with Store.open(path, write=True) as store:
        committed = path.with_suffix(".jsonl")
        if store.is_empty() and committed.is_file():
            count = store.import_lines(read_text(committed), where=str(committed))
            output.note(f"{count} records read from {committed}")
        if new and (aside := store.set_aside(study.name)) is not None:
            output.note(f"begun anew; the records so far are kept as the study {aside!r}")
        try:
            with output.progress(study.name, 100) as bar:

                def show(update: Update) -> None:
                    bar(100 * update.share, _where(update))
                    for line in _results(study, update.last):
                        output.note(f"{_where(update)}: {line}")

                def tell(rates: Sequence[TunedRate]) -> None:
                    for rate in rates:
                        output.note(f"tuned: {rate}")

                done = driver.sweep(
                    study,
                    store,
                    executor,
                    device=device,
                    keep_states=kind == "local",
                    on_update=show,
                    on_tuned=tell,
                )
        except KeyboardInterrupt:
            output.note("interrupted; what was finished is stored, and the same command goes on")
            raise
        finally:
            executor.close()
        for failure in done.failures:
            output.note(f"failed: {failure}")
        written = _write(store, study, export, path, complete=not done.failures)
        rows = store.status(study.name)
    facts = {
        "made": done.made,
        "failures": done.failures,
        "wall_seconds": round(done.wall_seconds, 3),
        "driver_seconds": round(done.driver_seconds, 3),
    }
    if done.failures:
        count = sum(row["runs"] for row in rows)
        raise KCInterpError(
            f"{len(done.failures)} ensembles failed, the first: {done.failures[0]}; {count} of "
            f"{driver.total_runs(study)} runs are stored in {path}, and the same command tries the rest again"
        )
    _say(output, study, path, rows, done.rates, facts, written)


def _executor(name: str, workers: int | None, threads: int | None, address: str, device: str) -> Executor:
    from kc_interp.scaling import executors

    if name == "ray":
        return executors.Ray(address, workers=workers, threads=threads, gpus=float(device.startswith("cuda")))
    return executors.Local(workers or 1, threads)


def _where(update: Update) -> str:
    """`12/48 runs, about 3 min left`."""
    left = update.seconds_left
    time = "" if left is None else f", about {left:.0f} s left" if left < 100 else f", about {left / 60:.0f} min left"
    return f"{update.done}/{update.total} runs{time}"


def _results(study: Study, records: Sequence[Record]) -> list[str]:
    """What was stored last, by arm: `joint, d_model 16: exact on test: SUM 97 % 12 %`."""
    name, metric = study.criterion.set_name, study.criterion.metric
    found: dict[tuple[str, int], list[str]] = {}
    for record in records:
        measured = record.metrics["sets"].get(name)
        value = [] if measured is None else [f"{measured[metric]['value']:.0%}"]
        found.setdefault((record.arm, record.d_model), []).extend(value)
    return [
        f"{arm}, d_model {width}: " + (f"{metric} on {name} {' '.join(values)}" if values else "trained")
        for (arm, width), values in found.items()
    ]


def _status(output: Output, study: Study, path: Path, export: Path | None) -> None:
    """Say what a store holds of a study, also while a sweep writes to it; without one, the committed lines."""
    with contextlib.ExitStack() as opened:
        store = opened.enter_context(_readable(path, opened))
        written = _write(store, study, export, path, complete=False)
        rates = study.rates(store.records(study.name)) if study.tuning is not None else []
        _say(output, study, path, store.status(study.name), rates, {}, written)


def _readable(path: Path, opened: contextlib.ExitStack) -> Store:
    """The store; where there is none, one that is gone afterwards, of the JSON lines that are committed beside it."""
    from kc_interp.records import Store, read_text

    if path.exists():
        return Store.open(path)
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
    store = Store.open(folder / path.name, write=True)
    committed = path.with_suffix(".jsonl")
    if committed.is_file():
        store.import_lines(read_text(committed), where=str(committed))
    return store


def _write(store: Store, study: Study, export: Path | None, path: Path, *, complete: bool) -> Path | None:
    """The records as JSON lines or CSV, where asked; beside the store when the study is complete."""
    from kc_interp.files import write_atomically
    from kc_interp.records import to_csv

    written = None
    if complete:
        written = write_atomically(path.with_suffix(".jsonl"), store.export(study.name))
    if export is not None:
        csv = export.suffix == ".csv"
        written = write_atomically(export, to_csv(store.records(study.name)) if csv else store.export(study.name))
    return written


def _say(
    output: Output,
    study: Study,
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    rates: Sequence[TunedRate],
    facts: Mapping[str, Any],
    written: Path | None,
) -> None:
    """The state of a study: by arm and width the runs that are there, and how many learned; its tuned rates."""
    from kc_interp.scaling.sweep import total_runs

    done, total = sum(row["runs"] for row in rows), total_runs(study)
    output.result(
        {
            "study": study.name,
            "store": str(path),
            "runs": done,
            "asked": total,
            **facts,
            "arms": list(rows),
            **({"tuning": [_plain(rate) for rate in rates]} if rates else {}),
            "export": None if written is None else str(written),
        },
        _table(study, rows, done, total),
        *(f"tuned: {rate}" for rate in rates),
        *([f"records: {written}"] if written is not None else []),
    )


def _plain(rate: TunedRate) -> dict[str, Any]:
    tried = [{"lr": lr, "answer_nats": nats} for lr, nats in rate.nats.items()]
    return {**rate.setting, "d_model": rate.d_model, "lr": rate.lr, "missing": rate.missing, "tried": tried}


def _table(study: Study, rows: Sequence[Mapping[str, Any]], done: int, total: int) -> Table:
    criterion = study.criterion
    return table(
        f"{study.name}: {done:,} of {'at most ' if study.placement.kind == 'adaptive' else ''}{total:,} runs",
        ("arm", "d_model", "runs", "learned"),
        [(r["arm"], str(r["d_model"]), str(r["runs"]), f"{r['learned']}/{r['judged']}") for r in rows],
        caption=f"learned: {criterion.metric} on {criterion.set_name} at least {100 * criterion.level:g} %",
    )
