"""`kc-interp compare-circuits`: circuits of several models, of the operations of one, and of one run over training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kc_interp.cli import probe
from kc_interp.cli.compute import claim, prepare
from kc_interp.cli.console import Output, numbers, table
from kc_interp.cli.options import Device, Json, NoOpen, PageFolder, Quiet, Seed, Skill, Threads, Verbose
from kc_interp.errors import SpecError

if TYPE_CHECKING:
    from kc_interp.assembly import Model
    from kc_interp.checkpoint import Checkpoint
    from kc_interp.finding import Finding, Table
    from kc_interp.overlap.measured import Asked
    from kc_interp.probe import Subject


def compare_circuits(
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", metavar="CKPT", help="A run folder or a .safetensors file; several: one side's seeds."),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option("--compare", metavar="CKPT", help="The other side; may be given several times (seeds)."),
    ] = None,
    over_training: Annotated[
        Path | None,
        typer.Option("--over-training", metavar="RUN", help="A run's folder: its circuit at every checkpoint."),
    ] = None,
    component: Skill = None,
    pairs: Annotated[int, typer.Option("--pairs", min=4, help="Pairs of chains on each half of the inputs.")] = 32,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Reductions a chain has.")] = 1,
    keep: Annotated[float, typer.Option("--keep", help="Share of the logit difference a circuit keeps.")] = 0.9,
    shuffles: Annotated[int, typer.Option("--shuffles", min=1, help="Shuffled circuits, for the null.")] = 199,
    transplants: Annotated[
        bool, typer.Option("--transplants/--no-transplants", help="Whether parts are exchanged between models.")
    ] = True,
    out: PageFolder = None,
    seed: Seed = 0,
    no_open: NoOpen = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Compare the circuits of models: heads matched by role, parts transplanted, operations of one model, training.

    kc-interp compare-circuits --model runs/sum-0 --model runs/sum-1 --compare runs/joint-0 --compare runs/joint-1

    kc-interp compare-circuits --over-training runs/sum-0
    """
    from kc_interp import assembly
    from kc_interp.checkpoint import load
    from kc_interp.overlap.history import checkpoints
    from kc_interp.overlap.measured import Asked
    from kc_interp.probe import Subject

    output = Output(as_json, quiet, verbose)
    one_side, other_side = model or [], compare or []
    if other_side and not one_side:
        raise SpecError("--compare names the other side; give the first with --model")
    if not (one_side or over_training):
        raise SpecError("give --model CKPT once or more, or --over-training RUN")
    where = prepare(device, threads)
    along = checkpoints(over_training, device=where) if over_training is not None else []
    paths = [*one_side, *other_side]
    if over_training is not None and over_training.resolve() not in [path.resolve() for path in paths]:
        paths.append(over_training)
    models = assembly.named(paths, [load(path, device=where) for path in paths])
    skill = assembly.skill_of(models, component)
    asked = Asked(skill, pairs, steps, keep, shuffles)
    if over_training is None and len(paths) == 1:
        _check_operations(models[0], asked)
    folder = out or probe.beside(paths[0], "compared")
    claim(folder, [])
    models = [assembly.measured(one) for one in models]
    subjects = [Subject(one.name, one.checkpoint, seed, one.learned(skill)) for one in models]
    findings: dict[str, tuple[Finding, ...]] = {one.name: () for one in models}
    sides = len(one_side), len(other_side)
    for found in _found(output, subjects[: sum(sides)], sides, asked, transplants):
        findings[found.subject] += (found,)
    if over_training is not None:
        own = subjects[[path.resolve() for path in paths].index(over_training.resolve())]
        findings[own.name] += (_over_training(output, along, own, asked),)
    shown = [found for one in models for found in findings[one.name]]
    document = assembly.document(
        _title(models, sides), models, findings, skill, notes=_notes(subjects, sides), provenance=probe.command(seed)
    )
    page = probe.write(folder, document)
    output.result(probe.result(document, page), *(part for found in shown for part in _shown(found)), f"page: {page}")
    output.page(page, no_open=no_open)


def _check_operations(model: Model, asked: Asked) -> None:
    """Raises SpecError when one model alone has nothing to compare: its operations are, in single steps."""
    if len(model.checkpoint.task.components()) < 2:
        raise SpecError(
            "nothing to compare: one model of one operation; give another --model, --compare or --over-training"
        )
    if asked.steps != 1:
        raise SpecError(
            f"nothing to compare: the operations of one model are compared in single steps, not in {asked.steps}; "
            "leave --steps out, or give another --model, --compare or --over-training"
        )


def _found(
    output: Output, subjects: Sequence[Subject], sides: tuple[int, int], asked: Asked, transplants: bool
) -> Iterator[Finding]:
    """Models against each other, then the operations of each that has several."""
    from kc_interp.circuits.shared import shared
    from kc_interp.overlap.measured import between, measure, operation
    from kc_interp.overlap.operations_finding import shared_finding
    from kc_interp.overlap.pairs_finding import overlap_finding

    with output.progress("finding circuits", len(subjects)) as bar:
        models = []
        for index, subject in enumerate(subjects):
            bar(index, subject.name)
            models.append(measure(subject, asked))
    indices = [(one, other) for one in range(len(models)) for other in range(one + 1, len(models))]
    if indices:
        compared = {}
        with output.progress("comparing circuits", len(indices)) as bar:
            for index, (one, other) in enumerate(indices):
                bar(index, f"{models[one].name} and {models[other].name}")
                compared[one, other] = between(models[one], models[other], asked)
        yield overlap_finding(models, sides[0], compared, asked)
        if transplants:
            yield from _transplants(output, subjects, compared, asked)
    for subject, own in zip(subjects, models, strict=True):
        parts = list(subject.task.components())
        if len(parts) > 1 and asked.steps == 1:
            with output.progress(f"operations of {subject.name}", len(parts)) as bar:
                operations = {}
                for index, part in enumerate(parts):
                    bar(index, part)
                    operations[part] = operation(own if part == asked.component else measure(subject, asked, part))
            found = shared(operations, subject.rng("operations: random edges"))
            sizes = {name: len(one.circuit) for name, one in operations.items()}
            yield shared_finding(subject.name, found, sizes, asked, subject.learned)


def _transplants(output: Output, subjects: Sequence[Subject], compared: Any, asked: Asked) -> Iterator[Finding]:
    """Every model into every other, through stitches; directly where two began from the same weights."""
    from kc_interp.overlap.measured import Runs, directly, share_an_ancestor, through_stitches
    from kc_interp.overlap.transplant_finding import transplant_finding

    names = [subject.name for subject in subjects]
    runs = [Runs.of(subject, asked) for subject in subjects]
    stitched, directs = {}, {}
    with output.progress("transplanting", len(compared)) as bar:
        for index, ((one, other), found) in enumerate(compared.items()):
            bar(index, f"{names[one]} and {names[other]}")
            stitched[one, other] = through_stitches(runs[one], runs[other], found.matching)
            stitched[other, one] = through_stitches(runs[other], runs[one], found.inverse)
            if share_an_ancestor(subjects[one], subjects[other]):
                directs[one, other] = directly(runs[one], runs[other])
                directs[other, one] = directly(runs[other], runs[one])
    yield transplant_finding(names, stitched, stitched=True, asked=asked)
    if directs:
        yield transplant_finding(names, directs, stitched=False, asked=asked)


def _over_training(output: Output, run: Sequence[tuple[int, Checkpoint]], subject: Subject, asked: Asked) -> Finding:
    from kc_interp.overlap.history import history
    from kc_interp.overlap.training_finding import history_finding

    with output.progress("circuits over training", len(run)) as bar:
        found = history(subject.name, run, asked, seed=subject.seed, on_progress=lambda done, _: bar(done))
    return history_finding(found, subject.name, asked, subject.learned)


def _title(models: Sequence[Model], sides: tuple[int, int]) -> str:
    first, second = sides
    arms = [" and ".join(dict.fromkeys(one.arm for one in some))
            for some in (models[:first], models[first : first + second]) if some]  # fmt: skip
    return f"Circuits: {' against '.join(arms) or models[0].name}"


def _notes(subjects: Sequence[Subject], sides: tuple[int, int]) -> tuple[str, ...]:
    """What a reader must know of the sides."""
    notes = []
    for setting in ("d_model", "init", "act", "norm"):
        values = {str(getattr(one.checkpoint.spec.model, setting)) for one in subjects}
        if len(values) > 1:
            notes.append(f"The models differ in {setting} ({', '.join(sorted(values))}).")
    unlearned = [one.name for one in subjects if one.learned is False]
    if unlearned:
        notes.append(f"Not learned, and compared like the others: {', '.join(unlearned)}.")
    if all(sides):
        first = [one.name for one in subjects[: sides[0]]]
        notes.append(f"First side: {', '.join(first)}; second side: the other {sides[1]}.")
    return tuple(notes)


def _shown(finding: Finding) -> list[Any]:
    """What the terminal shows of a finding: its sentence and its numbers; a run's checkpoints besides."""
    controls = dict.fromkeys(n.control_says for n in finding.numbers if n.control_says)
    measured = table(
        f"{finding.subject}: {finding.title}",
        ("", "value", "95 % interval", "control"),
        numbers(finding.numbers, controls=False),
        caption=f"control: {'; '.join(controls)}" if controls else "",
    )
    along = finding.tables if finding.probe == "circuit-over-training" else ()
    return [finding.sentence, measured, *map(_along, along)]


def _along(one: Table) -> Any:
    """The checkpoints of a run, without the effects of the parts."""
    shown = ("step", "exact chains", "answers right", "edges", "shared with the last", "random matchings")
    columns = [one.columns.index(name) for name in shown]
    rows = [
        tuple("" if row[index] is None else f"{row[index]:.3g}" if isinstance(row[index], float) else str(row[index])
              for index in columns)
        for row in one.rows
    ]  # fmt: skip
    return table(one.title, shown, rows)
