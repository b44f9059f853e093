"""The open view as one self-contained page: what the models made of the expression, the view's panels, provenance.

The page is made of the report's parts, as the gallery's is: its scripts and styles, its policy, one copy of each
library that a panel needs. It holds no model; what was computed for the view is all that it shows. Where a model shows
nothing, the page says why.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from kc_interp import evaluation
from kc_interp.assembly import versions
from kc_interp.explorer import words
from kc_interp.explorer.described import Described, described
from kc_interp.explorer.rows import Cell, Column, Row, messages, rows_of
from kc_interp.explorer.session import Side
from kc_interp.explorer.state import State
from kc_interp.explorer.thinking import Thinker
from kc_interp.report import blocks, bundles, printed
from kc_interp.report.views import provenance


@dataclass(frozen=True)
class Article:
    """One model's half; without a `half`, only the `fault` why there is nothing to see.

    `says` is what there is to say of the answer, `key` what stands under the symbols, `cuts` the interventions in words
    (with a fault those that could not be made).
    """

    name: str
    fault: str
    half: Described | None = None
    learned: bool | None = None
    says: tuple[str, ...] = ()
    key: str = ""
    cuts: tuple[str, ...] = ()


def render(state: State, sides: Sequence[Side], columns: Sequence[Column]) -> str:
    """The page as text, of what each model thinks and its column of the open view.

    Raises SpecError when a figure's data are not of its kind.
    """
    rows = [(row, [(cell, _block(row, cell)) for cell in row.cells]) for row in rows_of(columns)]
    drawn = {block.kind for _, cells in rows for _, block in cells if block is not None}
    libraries = _libraries(drawn)
    script = bundles.inline(bundles.asset("page.js"))
    names = [its.name for its in sides]
    looks = [its.look for its in sides if its.look is not None]
    view = words.VIEW_TITLES[state.view]
    return (
        _environment()
        .get_template("view.html.j2")
        .render(
            title=f"{view}: {state.question}",
            state=state,
            view=view,
            correct=looks[0].untouched.target if looks else "",
            articles=[_article(its) for its in sides],
            messages=[message for message in messages(columns) if message],
            rows=rows,
            known=[look.thinker.name for look in looks],
            facts=_facts([look.thinker for look in looks]),
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


def _libraries(drawn: set[str]) -> dict[str, str]:
    """What draws blocks of these kinds."""
    found = {"plotly": bundles.plotly()} if "plot" in drawn else {}
    if drawn & {"attention", "tokens"}:
        found["circuitsvis"] = bundles.circuitsvis()
    if "circuit" in drawn:
        found["circuit"] = bundles.inline(bundles.asset("circuit.js"))
    return found


def _block(row: Row, cell: Cell) -> blocks.Block | None:
    if cell.panel is None or cell.panel.figure is None:
        return None
    return blocks.block(f"c{row.index}-{cell.side}", cell.panel.figure, cell.side, row.limits)


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
        in_percent=words.percent,
        width=_width,
    )
    return environment


# The models


def _article(its: Side) -> Article:
    look = its.look
    if look is None:
        return Article(its.name, its.fault)
    half = described(look)
    return Article(
        its.name,
        its.fault,
        half,
        evaluation.learned(look.thinker.checkpoint.metrics, None),
        tuple(_says(half)),
        _key(half),
        tuple(words.cut(cut, _at(half, cut.position)) for cut in look.state.cuts_of(look.side)),
    )


def _key(half: Described) -> str:
    """What stands under the symbols."""
    says = [f"Under each symbol {'that the model wrote' if half.free else 'of the chain'} its probability in %"]
    if half.mistakes:
        says.append(
            "✗: the correct symbol, where another was written" if half.free else "✗: what the model prefers to it"
        )
    if any(symbol.was for symbol in half.written):
        says.append(
            "was: what the untouched model writes there; after it they read different texts"
            if half.free
            else "was: what the untouched model prefers there"
        )
    says.append("filled: the selected position; dashed: the symbol that it predicts")
    return f"{'; '.join(says)}."


def _at(half: Described, position: int | None) -> str:
    return half.symbols[position].text if position is not None and position < len(half.symbols) else ""


def _says(half: Described) -> Iterator[str]:
    """What there is to say of the answer besides itself."""
    if half.answer is None:
        yield "It writes no answer: its context is full, or its chain ends, before one."
        if half.touched and half.before is None:
            yield "Nor does the untouched model."
    if not half.right:
        yield f"Correct is {half.target}."
    if half.free:
        yield f"What it writes {'is' if half.exact else 'differs from'} the correct chain."
    else:
        yield f"It prefers another symbol than the correct one at {half.mistakes} of {len(half.written)} positions."
    if half.touched and (half.answer, half.before) != (None, None):
        same = half.before == half.answer
        yield (
            "The untouched model answers the same."
            if same
            else f"The untouched model's answer: {half.before or 'none'}."
        )


def _width(probability: float) -> float:
    """A bar's width in percent."""
    return round(100 * probability, 1) if math.isfinite(probability) else 0.0


# Where it comes from


def _facts(thinkers: Sequence[Thinker]) -> list[tuple[str, tuple[str, ...]]]:
    """What the checkpoints say of themselves, fact by fact: one value a model."""
    found = [_facts_of(thinker) for thinker in thinkers]
    return [(name, tuple(facts[name] for facts in found)) for name in (found[0] if found else ())]


def _facts_of(thinker: Thinker) -> Mapping[str, str]:
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
