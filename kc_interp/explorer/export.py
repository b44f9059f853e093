"""The open view as one self-contained page: what the models made of the expression, the view's panels, provenance.

The page is made of the report's parts, as the gallery's is: its scripts and styles, its policy, one copy of each
library that a panel needs. It holds no model; what was computed for the view is all that it shows.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from kc_interp import evaluation, plots
from kc_interp.assembly import versions
from kc_interp.explorer import words
from kc_interp.explorer.state import State
from kc_interp.explorer.thinking import Thinker, Thought
from kc_interp.explorer.views.panel import Look, Panel, one_scale
from kc_interp.finding import Figure, Table
from kc_interp.report import blocks, bundles, printed
from kc_interp.report.views import provenance

TOP = 6
"""Next symbols that are shown."""
MOST_COLUMNS = 5
"""Columns of a table that half the page's width holds."""


@dataclass(frozen=True)
class Symbol:
    """One symbol of a chain. `percent` and `width` are of its probability, None where it was given.

    `instead` stands against a wrong symbol: the model's own choice, or in a free run the correct one; `was` is what
    the untouched model would have written, where that differs. `mark` is "chosen" or "predicted".
    """

    text: str
    position: int
    percent: str | None
    width: float
    instead: str
    was: str
    mark: str


@dataclass(frozen=True)
class Next:
    """The most probable next symbols: each with its percent, the width of its bar, whether it is the correct one."""

    heading: str
    kind: str
    rows: tuple[tuple[str, str, float, bool], ...]


@dataclass(frozen=True)
class Side:
    """One model's half: its chain line by line, its answer in words, what is cut in it, what comes next."""

    name: str
    learned: bool | None
    right: bool
    answer: str
    says: tuple[str, ...]
    lines: tuple[tuple[Symbol, ...], ...]
    key: str
    cuts: tuple[str, ...]
    following: tuple[Next, ...]
    at: int
    at_symbol: str


@dataclass(frozen=True)
class Cell:
    """One model's panel: a figure's block or a table; both None where this model has none."""

    name: str
    title: str
    block: blocks.Block | None
    table: Table | None
    note: str


@dataclass(frozen=True)
class Row:
    """The same panel of each model. `title` and `says` are empty where the models' differ: each cell has its own."""

    id: str
    title: str
    says: tuple[str, str]
    wide: bool
    cells: tuple[Cell, ...]


def render(state: State, sides: Sequence[tuple[Look, Sequence[Panel]]]) -> str:
    """The page as text, for each model its look and the panels of the open view.

    Raises SpecError when a figure's data are not of its kind.
    """
    rows = list(_rows(sides))
    drawn = {cell.block.kind for row in rows for cell in row.cells if cell.block is not None}
    libraries = {"plotly": bundles.plotly()} if "plot" in drawn else {}
    if drawn & {"attention", "tokens"}:
        libraries["circuitsvis"] = bundles.circuitsvis()
    if "circuit" in drawn:
        libraries["circuit"] = bundles.inline(bundles.asset("circuit.js"))
    script = bundles.inline(bundles.asset("page.js"))
    names = [look.thinker.name for look, _ in sides]
    view = words.VIEW_TITLES[state.view]
    return (
        _environment()
        .get_template("view.html.j2")
        .render(
            title=f"{view}: {state.question}",
            state=state,
            view=view,
            correct=sides[0][0].untouched.target if sides else "",
            sides=[_side(look) for look, _ in sides],
            rows=rows,
            facts=_facts([look.thinker for look, _ in sides]),
            command="kc-interp explore " + " ".join(f"--model {shlex.quote(f'PATH/{name}')}" for name in names),
            query=state.query(),
            provenance=list(provenance(versions())),
            page_state=Markup(
                bundles.island({"models": names, "left": (names or [""])[0], "right": (names[1:] or [""])[0]})
            ),
            policy=bundles.policy([*libraries.values(), script]),
            libraries={name: Markup(library) for name, library in libraries.items()},
            script=Markup(script),
            css=Markup(bundles.asset("page.css")),
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([
            jinja2.PackageLoader("kc_interp.explorer", "templates"),
            jinja2.PackageLoader("kc_interp.report", "templates"),
        ]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        number=printed.number,
        interval=printed.interval,
        percent=printed.percent,
        shown=printed.shown_cell,
        verdict=printed.verdict,
    )
    return environment


# What a model made of the expression


def _side(look: Look) -> Side:
    thought, thinker = look.thought, look.thinker
    lines: dict[int, list[Symbol]] = {}
    for position in range(len(thought.symbols)):
        lines.setdefault(thought.line[position], []).append(_symbol(look, position))
    return Side(
        name=thinker.name,
        learned=evaluation.learned(thinker.checkpoint.metrics, None),
        right=thought.answer == thought.target,
        answer=thought.answer or "",
        says=tuple(_answer(look)),
        lines=tuple(tuple(line) for line in lines.values()),
        key=_key(thought.free, [symbol for line in lines.values() for symbol in line]),
        cuts=tuple(words.cut(cut, _at(thought, cut.position)) for cut in look.state.cuts_of(look.side)),
        following=tuple(_following(look)),
        at=look.at,
        at_symbol=thought.symbols[look.at],
    )


def _key(free: bool, symbols: Sequence[Symbol]) -> str:
    """What stands under the symbols."""
    says = [f"Under each symbol {'that the model wrote' if free else 'of the chain'} its probability in %"]
    if any(symbol.instead for symbol in symbols):
        says.append("✗: the correct symbol, where another was written" if free else "✗: what the model prefers to it")
    if any(symbol.was for symbol in symbols):
        says.append(f"was: what the untouched model {'writes' if free else 'prefers'} there")
    says.append("filled: the selected position; dashed: the symbol that it predicts")
    return f"{'; '.join(says)}."


def _at(thought: Thought, position: int | None) -> str:
    return thought.symbols[position] if position is not None and position < len(thought.symbols) else ""


def _answer(look: Look) -> Iterator[str]:
    """What there is to say of the answer besides itself."""
    thought, before = look.thought, look.untouched
    if thought.answer is None:
        yield "It writes no answer: its context is full, or its chain ends, before one."
    if thought.answer != thought.target:
        yield f"Correct is {thought.target}."
    if thought.free:
        yield f"What it writes {'is' if thought.exact else 'differs from'} the correct chain."
    else:
        positions = range(thought.asked, len(thought.symbols))
        others = sum(bool(_instead(thought, position)) for position in positions)
        yield f"It prefers another symbol than the correct one at {others} of {len(positions)} positions."
    if look.touched:
        was = before.answer or "none"
        yield (
            "The untouched model answers the same."
            if was == thought.answer
            else f"The untouched model's answer: {was}."
        )


def _symbol(look: Look, position: int) -> Symbol:
    thought = look.thought
    written = position >= thought.asked
    percent, width = _bar(thought.probability(position)) if written else (None, 0.0)
    return Symbol(
        thought.symbols[position],
        position,
        percent,
        width,
        _instead(thought, position) if written else "",
        _was(look, position) if written else "",
        {look.at: "chosen", look.at + 1: "predicted"}.get(position, ""),
    )


def _bar(probability: float) -> tuple[str, float]:
    """A probability in percent, as written and as the width of a bar."""
    return words.percent(probability), round(100 * probability, 1) if math.isfinite(probability) else 0.0


def _instead(thought: Thought, position: int) -> str:
    if not thought.free:
        other = thought.choices[position - 1]
    else:
        other = thought.correct[position] if position < len(thought.correct) else "nothing"
    return other if other != thought.symbols[position] else ""


def _was(look: Look, position: int) -> str:
    thought, before = look.thought, look.untouched
    if not look.touched:
        return ""
    if thought.free:
        now, was = thought.symbols[position], before.symbols[position] if position < len(before.symbols) else "nothing"
    else:
        now, was = thought.choices[position - 1], before.choices[position - 1]
    return was if was != now else ""


def _following(look: Look) -> Iterator[Next]:
    """The most probable next symbols at the selected position, untouched first where something is cut."""
    thought, before = look.thought, look.untouched
    right = thought.correct[look.at + 1] if look.at + 1 < len(thought.correct) else ""

    def rows(its: Thought) -> tuple[tuple[str, str, float, bool], ...]:
        found = its.top(min(look.at, len(its.symbols) - 2), TOP)
        return tuple((symbol, *_bar(probability), symbol == right) for symbol, probability in found)

    yield Next("Untouched", "before", rows(before))
    if look.touched:
        yield Next("With the interventions", "after", rows(thought))


# The view's panels


def _rows(sides: Sequence[tuple[Look, Sequence[Panel]]]) -> Iterator[Row]:
    ids = (f"c{index}" for index in itertools.count())
    names = [look.thinker.name for look, _ in sides]
    for index, panels in enumerate(itertools.zip_longest(*(panels for _, panels in sides))):
        there = [panel for panel in panels if panel is not None and (panel.figure or panel.table or panel.note)]
        if not there:
            continue
        figures = [panel.figure for panel in there if panel.figure is not None]
        limits = one_scale(figures)
        titles = list(dict.fromkeys(filter(None, map(_title, there))))
        says = list(dict.fromkeys((figure.shows, figure.refuted_by) for figure in figures))
        cells = tuple(
            _cell(names[side], panel or Panel(), side, limits, ids, titled=len(titles) > 1, says=len(says) > 1)
            for side, panel in enumerate(panels)
        )
        yield Row(
            f"panel-{index + 1}",
            titles[0] if len(titles) == 1 else "",
            says[0] if len(says) == 1 else ("", ""),
            any(map(_is_wide, there)),
            cells,
        )


def _title(panel: Panel) -> str:
    return panel.figure.title if panel.figure is not None else panel.table.title if panel.table is not None else ""


def _is_wide(panel: Panel) -> bool:
    """Whether two of it side by side would be too narrow to read."""
    figure, table = panel.figure, panel.table
    return (figure is not None and blocks.needs_full_width(figure)) or (
        table is not None and len(table.columns) > MOST_COLUMNS
    )


def _cell(
    name: str,
    panel: Panel,
    side: int,
    limits: plots.Limits | None,
    ids: Iterator[str],
    *,
    titled: bool,
    says: bool,
) -> Cell:
    figure = panel.figure
    if figure is not None and not says:
        # Said once for all models, below them.
        figure = Figure(figure.kind, figure.title, "", "", figure.data)
    block = blocks.block(next(ids), figure, side, limits) if figure is not None else None
    return Cell(name, _title(panel) if titled else "", block, panel.table, panel.note)


# Where it comes from


def _facts(thinkers: Sequence[Thinker]) -> list[tuple[str, tuple[str, ...]]]:
    """What the checkpoints say of themselves, fact by fact: one value a model."""
    described = [_described(thinker) for thinker in thinkers]
    return [(name, tuple(facts[name] for facts in described)) for name in (described[0] if described else ())]


def _described(thinker: Thinker) -> Mapping[str, str]:
    checkpoint = thinker.checkpoint
    spec, model = checkpoint.spec, checkpoint.spec.model
    operations: Any = spec.task.settings.get("operations")
    steps = checkpoint.training.get("steps")
    tied = f", applied {model.repeat} times" if model.repeat > 1 else ""
    return {
        "trained on": " + ".join(map(str, operations)) if isinstance(operations, (list, tuple)) else spec.task.name,
        "learned (free-running, whole chain)": printed.verdict(evaluation.learned(checkpoint.metrics, None)),
        "d_model": str(model.d_model),
        "blocks": f"{model.n_layers}{tied}",
        "heads": f"{model.n_heads} of {model.head_size}",
        "MLP": f"{thinker.d_mlp} neurons, {model.act}",
        "norm": model.norm,
        "parameters": f"{checkpoint.parameter_count:,}",
        "positions": str(checkpoint.n_ctx),
        "initialisation": str(model.init),
        "seed": str(spec.seed),
        "steps": f"{steps:,}" if isinstance(steps, int) else printed.MISSING,
        "trained with": ", ".join(f"{key} {value}" for key, value in sorted(checkpoint.provenance.items()))
        or printed.MISSING,
    }
