"""A document arranged as the page's templates want it: who learned, arm against arm, probe by probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from kc_interp import plots
from kc_interp.comparison import LEVEL, Comparison, Difference, ModelFacts, Roster, describe, summary
from kc_interp.errors import SpecError
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.report import bundles, seeds
from kc_interp.report.blocks import Block, block, circuit_height, needs_full_width, table_island
from kc_interp.report.document import Document
from kc_interp.report.printed import MISSING, Heading, headings, slug

_Titled = TypeVar("_Titled", Figure, Table)
_OPEN_FIGURES = 2
_SHORT_TABLE = 12
_WIDE_TABLE = 4


@dataclass(frozen=True)
class Tally:
    """How many of the evaluated models of one arm with one initialisation learned, and each model's mark."""

    arm: str
    colour: int
    learned: int
    of: int
    unknown: int
    models: tuple[tuple[ModelFacts, Markup], ...]


@dataclass(frozen=True)
class NumberRow:
    """One number of a probe for all models that have it."""

    heading: Heading
    values: Mapping[str, Number]


@dataclass(frozen=True)
class Row:
    """The same figure or table of several models; `shared` holds a figure's texts when all models share them.

    `wide` sets the models below one another instead of side by side. `difference_height` keeps room for the difference
    of two models' circuits; None in other rows.
    """

    anchor: str
    title: str
    cells: Mapping[str, Block | Table]
    shared: tuple[str, str] | None
    wide: bool
    open: bool
    difference_height: int | None = None


@dataclass(frozen=True)
class ProbeView:
    """One probe's section: what each model's finding says, its numbers, and its figures and tables row by row."""

    name: str
    anchor: str
    title: str
    findings: Mapping[str, Finding | None]
    numbers: tuple[NumberRow, ...]
    rows: tuple[Row, ...]
    failed: int


@dataclass(frozen=True)
class DifferenceRow:
    """One number of a comparison with every seed drawn."""

    heading: Heading
    difference: Difference
    strip: seeds.Strip | None


@dataclass(frozen=True)
class ProbeDifferences:
    """One probe's part of a comparison: how many intervals lie where, and the rows; `seeds` is every value as JSON."""

    id: str
    title: str
    headline: str
    rows: tuple[DifferenceRow, ...]
    seeds: Markup
    reasons: tuple[str, ...]
    higher: int
    lower: int
    judged: int
    measured: int

    @property
    def by_chance(self) -> float:
        return LEVEL * self.judged


@dataclass(frozen=True)
class ComparisonView:
    """One comparison's section; `pair` is a model of each arm to be shown in the probes."""

    name: str
    anchor: str
    summary: str
    comparison: Comparison
    pair: tuple[str, str]
    probes: tuple[ProbeDifferences, ...]


def tallies(roster: Roster) -> dict[str, list[Tally]]:
    """k of n for each arm by initialisation: only evaluated models count towards n."""

    def tally(arm: str, initialisation: str) -> Tally:
        models, colour = roster.cell(arm, initialisation), roster.arms.index(arm)
        evaluated = [model for model in models if model.learned is not None]
        marks = [(m, seeds.accuracy(m, arm=colour, level=roster.level, chance=roster.chance)) for m in models]
        learned = sum(bool(model.learned) for model in evaluated)
        return Tally(arm, colour, learned, len(evaluated), len(models) - len(evaluated), tuple(marks))

    return {
        initialisation: [tally(arm, initialisation) for arm in roster.arms if roster.cell(arm, initialisation)]
        for initialisation in roster.initialisations
    }


def probe_view(name: str, title: str, document: Document, ids: Iterator[str]) -> ProbeView:
    """One probe's section."""
    models = [model for model in document.roster.models if model.name in document.findings]
    findings = {model.name: document.finding(name, model.name) for model in models}
    anchor = f"probe-{slug(name)}"
    figures = _by_title((model, figure) for model, f in findings.items() if f for figure in f.figures)
    tables = _by_title((model, table) for model, f in findings.items() if f for table in f.tables)
    rows = [
        _figure_row(f"{anchor}-{1 + index}", title, having, document.roster, ids, first=index < _OPEN_FIGURES)
        for index, (title, having) in enumerate(figures.items())
    ]
    for index, (table_title, having_tables) in enumerate(tables.items()):
        wide = max(len(table.columns) for table in having_tables.values()) > _WIDE_TABLE
        short = max(len(table.rows) for table in having_tables.values()) <= _SHORT_TABLE
        anchored = f"{anchor}-{1 + len(figures) + index}"
        rows.append(Row(anchored, table_title, having_tables, None, wide, open=short and index == 0))
    failed = sum(finding is not None and finding.status == "failed" for finding in findings.values())
    return ProbeView(name, anchor, title, findings, tuple(_number_rows(findings)), tuple(rows), failed)


def _by_title(items: Iterable[tuple[str, _Titled]]) -> dict[str, dict[str, _Titled]]:
    found: dict[str, dict[str, _Titled]] = {}
    for model, item in items:
        found.setdefault(item.title, {})[model] = item
    return found


def _number_rows(findings: Mapping[str, Finding | None]) -> Iterator[NumberRow]:
    by_key: dict[str, dict[str, Number]] = {}
    for model, finding in findings.items():
        for number in finding.numbers if finding else ():
            by_key.setdefault(number.key, {})[model] = number
    likes = [next(iter(values.values())) for values in by_key.values()]
    for heading, values in zip(headings(likes), by_key.values(), strict=True):
        yield NumberRow(heading, values)


def _figure_row(
    anchor: str, title: str, having: Mapping[str, Figure], roster: Roster, ids: Iterator[str], *, first: bool
) -> Row:
    figures = list(having.values())
    limits = _limits(figures)
    blocks = {
        model: block(next(ids), figure, roster.arms.index(roster[model].arm), limits)
        for model, figure in having.items()
    }
    texts = {(figure.shows, figure.refuted_by) for figure in figures}
    shared = texts.pop() if len(texts) == 1 else None
    # What answers to the reader's own clicks is worth more than one more picture.
    open = first or any(figure.kind in ("switches", "circuit") for figure in figures)
    depths = [figure.data["depth"] for figure in figures if figure.kind == "circuit"]
    height = circuit_height(max(depths), wide=True) if len(depths) > 1 else None
    return Row(anchor, title, blocks, shared, any(needs_full_width(figure) for figure in figures), open, height)


def _limits(figures: Sequence[Figure]) -> plots.Limits | None:
    """One scale for one figure of several models, when it is a chart with a value axis."""
    kinds = {figure.kind for figure in figures}
    if kinds <= {"heatmap", "bars", "lines"} and len(kinds) == 1:
        try:
            return plots.limits_of(figures)
        except (KeyError, TypeError) as error:
            raise SpecError(f"figure {figures[0].title!r}: its data do not fit its kind ({error!r})") from None
    return None


def comparison_view(index: int, comparison: Comparison, document: Document) -> ComparisonView:
    """One comparison's section."""
    by_probe: dict[str, list[Difference]] = {}
    for difference in comparison.differences:
        by_probe.setdefault(difference.probe, []).append(difference)
    anchor, titles, arms = f"comparison-{index + 1}", document.probes, document.roster.arms
    colours = [
        arms.index(arm.name) if arm.name in arms else side for side, arm in enumerate((comparison.a, comparison.b))
    ]
    parts = tuple(
        _probe_differences(f"{anchor}-{slug(probe)}", titles.get(probe, probe), differences, (colours[0], colours[1]))
        for probe, differences in by_probe.items()
    )
    pair = [
        next((model for model in arm.models if model not in arm.unlearned), arm.models[0] if arm.models else "")
        for arm in (comparison.a, comparison.b)
    ]
    return ComparisonView(comparison.name, anchor, summary(comparison), comparison, (pair[0], pair[1]), parts)


def _probe_differences(
    id: str, title: str, differences: Sequence[Difference], colours: tuple[int, int]
) -> ProbeDifferences:
    rows = tuple(
        DifferenceRow(heading, difference, seeds.strip(difference, colours))
        for heading, difference in zip(headings(differences), differences, strict=True)
    )
    decided = [d.value or 0.0 for d in differences if d.decided]
    reasons = dict.fromkeys(f"No p-value: {d.p_note}." for d in differences if d.p_note and d.p_note != d.note)
    every_seed = table_island(_seeds_table(differences))
    return ProbeDifferences(
        id, title, describe(differences[0]), rows, Markup(bundles.island({"table": every_seed})), tuple(reasons),
        sum(value > 0 for value in decided), sum(value < 0 for value in decided),
        sum(d.low is not None for d in differences), sum(d.value is not None for d in differences),
    )  # fmt: skip


def _seeds_table(differences: Sequence[Difference]) -> Table:
    rows = tuple(
        (d.title, side.arm, seed.model, seed.value, "yes" if seed.counted else "no", seed.note)
        for d in differences
        for side in (d.a, d.b)
        for seed in side.seeds
    )
    return Table("Every seed", ("number", "arm", "model", "value", "counted in the mean", "note"), rows)


def first_state(document: Document, comparisons: Sequence[ComparisonView]) -> dict[str, Any]:
    """What the page shows until its reader chooses.

    A model of each arm of the first comparison in which both have one that learned (or as nearly so as there is);
    without comparisons, the first two models.
    """
    names = [model.name for model in document.roster.models if model.name in document.findings]

    def working(view: ComparisonView) -> int:
        arms = zip(view.pair, (view.comparison.a, view.comparison.b), strict=True)
        return sum(bool(name) and name not in arm.unlearned for name, arm in arms)

    best = max(comparisons, key=working, default=None)
    pair = [name for name in best.pair if name] if best else []
    pair = pair if len(pair) == 2 else names[:2]
    return {"models": names, "left": pair[0] if pair else "", "right": pair[1] if len(pair) > 1 else ""}


def provenance(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as lines, by the order of their names: ("versions · torch", "2.13.0")."""
    for key, value in sorted(facts.items()):
        if isinstance(value, Mapping):
            yield from provenance(value, f"{prefix}{key} · ")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", MISSING if value is None else str(value)
