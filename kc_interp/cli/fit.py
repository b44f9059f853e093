"""`kc-interp fit`: thresholds, contrasts, the capacity bound and laws of complexity, from the records of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kc_interp.cli.compute import prepare
from kc_interp.cli.console import Output, table
from kc_interp.cli.options import Json, Quiet, Threads, Verbose
from kc_interp.cli.records import find
from kc_interp.cli.sweep import STORE_NAME
from kc_interp.errors import SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from kc_interp.scaling.analysis import Analysis, Condition, Skill
    from kc_interp.scaling.law_report import Law, LawReport, Trained
    from kc_interp.scaling.laws import Exponent
    from kc_interp.scaling.study import Criterion
    from kc_interp.scaling.thresholds import Estimate

PREQUENTIAL_NAME = "prequential.json"


def fit(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study whose records are read.")],
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="FILE", help="The records.", show_default=f"{STORE_NAME} beside the study"),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            metavar="FILE.jsonl",
            help="Exported records in place of a store.",
            show_default="beside the store, where that is not there",
        ),
    ] = None,
    measures: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="KEY",
            help="A measure of complexity as `kc-interp complexity --json` names it, or a pattern "
            "(code.*.joint); may be given several times.",
            show_default="one of each kind",
        ),
    ] = None,
    prequential: Annotated[
        bool,
        typer.Option(
            "--prequential",
            help="Also the prequential description length of each task of a law, by training (minutes a task; "
            f"kept in {PREQUENTIAL_NAME} beside the study).",
        ),
    ] = False,
    with_laws: Annotated[
        bool, typer.Option("--laws/--no-laws", help="Laws of complexity take seconds a setting.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write the JSON object there.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """What a study's records say, complete or not: at what size its arms learn, and what decides that.

    Sizes are numbers of parameters, dex are differences of their log10, and the unit of every interval is the run.
    -v also shows times to learn at every width.
    """
    from kc_interp.scaling import study as studies

    output = Output(as_json, quiet, verbose)
    if prequential and not with_laws:
        raise SpecError("--prequential measures the tasks of laws, which --no-laws leaves out; give one of them")
    asked = studies.load(study)
    found = find(asked, study, store, records, findings=False)
    for note in found.notes:
        output.note(note)

    from kc_interp.files import write_atomically
    from kc_interp.records import canonical
    from kc_interp.scaling import analysis as analyses
    from kc_interp.scaling import law_report

    analysis = analyses.analyse(asked, found.records)
    if not analysis.runs:
        raise SpecError(
            f"{found.source}: none of its {len(found.records)} records belongs to a condition of {study}"
            + "".join(f"; {one}" for one in analysis.strangers[:3])
        )
    reports: tuple[LawReport, ...] = ()
    if prequential:
        prepare("cpu", threads)
    if with_laws:
        with output.progress("laws", 100) as bar:
            reports = law_report.laws(
                analysis,
                measures or law_report.DEFAULT_MEASURES,
                trained=_trained(study.with_name(PREQUENTIAL_NAME)) if prequential else None,
                on_progress=lambda share, says: bar(100 * share, says),
            )
    data = {
        "source": str(found.source),
        "changed": found.changed or None,
        **analyses.plain(analysis),
        "laws": [law_report.plain(report) for report in reports],
    }
    if out is not None:
        write_atomically(out, canonical(data) + "\n")
    output.result(
        data,
        *_head(analysis),
        *_conditions(analysis, widths=verbose > 0),
        *_contrasts(analysis),
        *_capacity(analysis),
        *(part for report in reports for part in _laws(report)),
        *([f"written: {out}"] if out is not None else []),
    )


def _trained(path: Path) -> Trained:
    from kc_interp.scaling.prequential import Kept

    return Kept(path)


# Tables


def _head(analysis: Analysis) -> Iterator[str]:
    most = "at most " if analysis.study.placement.kind == "adaptive" else ""
    state = "complete" if analysis.complete else "partial"
    yield f"{analysis.study.name}, {state}: {analysis.runs:,} of {most}{analysis.asked:,} runs"
    if analysis.tuning:
        yield f"{analysis.tuning:,} runs that chose a learning rate are not part of this"
    yield from (f"left out: {one}" for one in analysis.strangers)


def _conditions(analysis: Analysis, *, widths: bool) -> Iterator[Table]:
    yield table(
        "Thresholds: the size where half of the runs that ever can do learn, in parameters [95 %]",
        ("condition", "runs", "learned", "threshold"),
        [
            (one.label, str(one.skill.runs), str(one.skill.successes), size(_t(one.skill), one.skill.note))
            for one in analysis.conditions
        ],
        caption=f"{_criterion(analysis.study.criterion)}. < and > are one-sided 95 % bounds: the other end lies beyond "
        "the sizes that were tried.",
    )
    yield table(
        "Sizes in parameters at which this share of all runs learns",
        ("condition", "10 %", "50 %", "90 %"),
        [(one.label, *(size(estimate, interval=False) for estimate in _shares(one))) for one in analysis.conditions],
        caption="Intervals: --json.",
    )
    yield table(
        "Other thresholds, in parameters",
        ("condition", "without embeddings", "single steps"),
        [
            (
                one.label,
                size(_t(one.skill, "non-embedding"), interval=False),
                size(_t(one.atoms), interval=False),
            )
            for one in analysis.conditions
        ],
        caption="without embeddings: the threshold without the tables of tokens and positions and the unembedding. "
        "single steps: the threshold of the component's exact single steps, same level. Intervals: --json.",
    )
    yield _times(analysis.conditions, widths=widths)


def _t(skill: Skill, axis: Literal["parameters", "non-embedding"] = "parameters") -> Estimate | None:
    threshold = skill.thresholds.get(axis)
    return None if threshold is None else threshold.t


def _shares(one: Condition) -> list[Estimate | None]:
    return [None if one.threshold is None else one.threshold.at[share] for share in (0.1, 0.5, 0.9)]


def _times(conditions: Sequence[Condition], *, widths: bool) -> Table:
    """At the largest width of each condition, or at all."""
    rows = [
        (one.label, str(width), str(cell.runs), str(cell.learned), size(cell.survival.median))
        for one in conditions
        if one.times is not None
        for width, cell in list(one.times.by_width.items())[0 if widths else -1 :]
    ]
    return table(
        "Median steps to learn, of all runs " + ("by width" if widths else "at the largest width") + " [95 %]",
        ("condition", "d_model", "runs", "learned", "steps"),
        rows,
        caption="learned: at and above the level from a point of the learning curve on. > is a one-sided 95 % bound, "
        "at most the length of the runs.",
    )


def _contrasts(analysis: Analysis) -> Iterator[Table]:
    titles: dict[Literal["synergy", "control", "factor", "interaction"], str] = {
        "synergy": "Synergy: log10 threshold alone less together, in dex [95 %]",
        "control": "Against controls: log10 threshold of the control less that of the arm, in dex [95 %]",
        "factor": "Factors: log10 threshold at the first level less that at the other, in dex [95 %]",
        "interaction": "Interactions: by how much more an arm helps at a level than at the first one, in dex [95 %]",
    }
    for kind, title in titles.items():
        rows = [
            (one.of, one.against, dex(one.synergy), "yes" if one.excludes_zero else "no")
            for one in analysis.contrasts
            if one.kind == kind and one.axis == "parameters"
        ]
        if rows:
            yield table(
                title,
                ("arm", "against", "difference", "excludes 0"),
                rows,
                caption="Above 0: the arm helps more at its level. The runs of all four are the units."
                if kind == "interaction"
                else "Above 0: the first needs fewer parameters. The runs of both are the units.",
            )


def _capacity(analysis: Analysis) -> Iterator[Table | str]:
    for bound in analysis.bounds:
        found = bound.capacity
        where = f" ({bound.setting})" if bound.setting else ""
        if found.size is None:
            yield f"Capacity bound{where}: {found.note}"
            continue
        yield table(
            f"Capacity bound{where}: {found.size:,.0f} parameters, a run of {found.arm}",
            ("condition", "threshold above it, dex [95 %]"),
            [(label, dex(distance)) for label, distance in found.distances_dex.items()],
            caption="The smallest size at which any run succeeded, however it was trained: what is needed is no more.",
        )


def _laws(report: LawReport) -> Iterator[Table | str]:
    from kc_interp.scaling.laws import FEW_TASKS

    where = f" at {report.setting}" if report.setting else ""
    left = "; ".join(f"{name} ({why})" for name, why in report.left_out.items())
    yield f"Laws{where}: {len(report.thresholds)} tasks ({', '.join(report.thresholds) or 'none'})" + (
        f". Left out: {left}" if left else ""
    )
    if report.note:
        yield f"No law{where}: {report.note}."
        return
    fitted = [law for law in report.laws if law.tasks is not None]
    for law in report.laws:
        if law.tasks is None:
            yield f"{law.key}: no law; {law.note}"
        elif law.missing:
            without = "; ".join(f"{task} ({why})" for task, why in law.missing.items())
            yield f"{law.key}: without {without}"
    if not fitted:
        return
    fewest = min(len(law.predictions) for law in fitted)
    yield table(
        f"Laws of the threshold n by the measure K{where}: errors in dex (RMS; the tasks are the units)",
        ("measure", "lowest AICc", "constant", "power", "no operation"),
        [
            (
                _broken(law.key),
                f"{law.forms[0].form} ({law.forms[0].weight:.2f})",
                *(_number(_left_out(law, form)) for form in ("constant", "power")),
                _number(next(one.left_out_part for one in law.forms if one.form == "power")),
            )
            for law in fitted
        ],
        caption="constant, power: error on a task left out (constant: without K). no operation: of the power law, on "
        "all tasks with an operation, fitted without them. In brackets: the Akaike weight"
        + ("; with so few tasks AICc's correction alone favours the constant." if fewest <= FEW_TASKS else "."),
    )
    yield table(
        f"Exponent e of n ∝ K^e{where}",
        ("measure", "dex of K", "crossed effects [95 %]", "direct", "Huber", "ODR", "inverted"),
        [
            (
                _broken(law.key),
                f"{law.exponents[0].range_dex:.2f}",
                _exponent(law, "crossed effects", interval=True),
                _exponent(law, "direct"),
                "" if law.huber is None else f"{law.huber:.2f}",
                *(_exponent(law, name) for name in ("errors in variables", "inverted")),
            )
            for law in fitted
        ],
        caption="Quote crossed effects: the others count tasks that share operations as independent (intervals: "
        "--json). Huber: without the weight of outliers. inverted: from K regressed on n, the direct one over r². ODR: "
        "errors in variables. dex of K: range.",
    )
    if report.best is not None:
        yield from _best(report, where)


def _best(report: LawReport, where: str) -> Iterator[Table]:
    law = next(one for one in report.laws if one.key == report.best)
    yield table(
        f"Thresholds{where} predicted from the other tasks by {law.key}, the power law of least error, in parameters",
        ("task", "measured", "predicted [95 %]", "error, dex", "inside"),
        [
            (
                one.task,
                _count(one.measured),
                f"{_count(one.predicted)} [{_count(one.low)}, {_count(one.high)}]",
                f"{one.error_dex:+.2f}",
                "yes" if one.inside else "no",
            )
            for one in law.predictions
        ],
    )
    if report.comparisons:
        yield table(
            f"Error of each measure{where} less that of {law.key}, in dex [95 %]",
            ("measure", "tasks", "difference", "excludes 0"),
            [
                (
                    one.measure,
                    str(one.tasks),
                    f"{better.difference:+.3f} [{better.low:+.3f}, {better.high:+.3f}]",
                    "yes" if better.decided else "no",
                )
                for one in report.comparisons
                for better in [one.difference_dex]
            ],
            caption="Not corrected for choosing the best first.",
        )


# Cells


def size(estimate: Estimate | None, missing: str = "", *, interval: bool = True) -> str:
    """A size (log10) as a number: `12,300 [9,800, 15,400]`, or a one-sided bound, `> 12,300`."""
    if estimate is None:
        return missing
    return _cell(estimate, _count, interval=interval)


def dex(estimate: Estimate) -> str:
    """A difference: `+0.21 [+0.05, +0.37]`, or a one-sided bound."""
    return _cell(estimate, lambda value: f"{value:+.2f}", interval=True)


def _cell(estimate: Estimate, number: Callable[[float], str], *, interval: bool) -> str:
    value, low, high = estimate.value, estimate.low, estimate.high
    if low is not None and high is not None:
        if value is None:
            return f"[{number(low)}, {number(high)}]"
        return f"{number(value)} [{number(low)}, {number(high)}]" if interval else number(value)
    if low is None and high is None:
        return "not located"
    bound = f"> {number(low)}" if low is not None else f"< {number(high or 0.0)}"
    return f"{number(value)} ({bound})" if value is not None and interval else bound


def _count(log10: float) -> str:
    """A count to three digits."""
    return f"{float(f'{10**log10:.3g}'):,.0f}"


def _broken(key: str) -> str:
    """A long key on two lines, for a column that leaves room to others."""
    first, dot, rest = key.partition(".")
    second, more, last = rest.partition(".")
    return f"{first}{dot}{second}{more}\n{last}" if last else key


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _left_out(law: Law, form: str) -> float:
    return next(one.left_out_task for one in law.forms if one.form == form)


def _exponent(law: Law, method: str, *, interval: bool = False) -> str:
    found: Exponent = next(one for one in law.exponents if one.method == method)
    return f"{found.value:.2f}" + (f" [{found.low:.2f}, {found.high:.2f}]" if interval else "")


def _criterion(criterion: Criterion) -> str:
    return f"learned: {criterion.metric} on {criterion.set_name} at least {100 * criterion.level:g} %, a run is a seed"
