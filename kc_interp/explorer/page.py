"""The page's parts, made of plain native elements from what the models think.

Controls say what they do in `data-act`, as JSON that `Explorer.act` takes; `assets/explore.js` sends it. Whatever else
a script or a test may want to find:

    #start                  the start page, while no model is shown
    #desk                   everything else
    #first #second          the models shown (selects)
    #question #twin         the two expressions (inputs), #ask the button; #question-fault #twin-fault what is wrong
    #example-0 …            examples; #depth #random a random question; #another another second expression
    #forced #free           teacher-forced, free-running
    .side[data-side="0"]    one model: .answer, .chain, .next, .cuts
    [data-position="7"]     a symbol of the chain, within a side; [aria-pressed=true] is the chosen one
    [data-part="a0.h1"]     a head or an MLP; [aria-pressed=true] is cut (mixed: in one model of two)
    #how #on #undo #reset   how and where a click cuts; #redraw another draw of what `resample` takes
    #what #where #cut #look any part at any position, cut or shown; #names what parts are called
    [data-restore]          takes one intervention back
    #said                   why the last action was refused (role=alert)
    #tab-<view>             the views; #view holds the open one, as .view#view-<name>; #shown says so (role=status)
    .panel[data-panel="0"][data-side="0"]    a figure or a table; .canvas[data-drawn] is drawn, .cells its form
    #export                 this view as a file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from kc_interp.explorer import words
from kc_interp.explorer.described import Described, Next, Symbol, described
from kc_interp.explorer.elements import alert, button, select, tag
from kc_interp.explorer.models import Models
from kc_interp.explorer.session import Side
from kc_interp.explorer.state import HOWS, State
from kc_interp.explorer.views.panel import Look

_HOW_SAYS = {
    "zero": "nothing (zero)",
    "mean": "the mean (mean)",
    "resample": "another question's (resample)",
    "patch": "the second's (patch)",
}
_HOW_MEANS = (
    "Instead of what it writes, a cut part carries: nothing; the mean of what it writes over questions of this shape; "
    "what it writes for one such question with another answer; what it writes for the second expression."
)


# The top of the page


def pickers(models: Models, state: State) -> list[Markup]:
    """Which models are shown."""
    if not state.models:
        return []
    names = {name: name for name in models.names}
    second = state.models[1] if len(state.models) > 1 else ""
    return [
        select("first", "Model", names, state.models[0], data_pick="first"),
        select("second", "beside", {"": "none", **names}, second, data_pick="second"),
    ]


def kept(state: State) -> list[Markup]:
    """What one takes along: the open view as a file."""
    return [tag("a", "Export this view", href=f"/export{state.query()}", id="export", class_="button")]


def questions(examples: Sequence[str], depths: Sequence[int], state: State) -> list[Markup]:
    """Examples, random questions, and which way the chain is read."""
    tries = [
        button(
            tag("code", example),
            {"do": "set", "question": example},
            id=f"example-{index}",
            aria_pressed=str(example == state.question).lower(),
        )
        for index, example in enumerate(examples)
    ]
    by_depth = select("depth", "depth", {str(depth): str(depth) for depth in depths}, str(depths[-1])) if depths else ""
    drawn = [button("Random", id="random", data_form="random"), by_depth]
    return [
        tag(
            "div",
            [tag("span", "Examples", class_="label"), *tries],
            class_="row-of",
            role="group",
            aria_label="Examples",
        ),
        tag("div", [item for item in drawn if item], class_="row-of"),
        modes(state),
    ]


def modes(state: State) -> Markup:
    """Teacher-forced or free-running."""
    kinds = (
        ("forced", False, "Teacher-forced", "Each symbol is predicted from the correct chain before it."),
        ("free", True, "Free-running", "The model reads what it wrote itself, so that an early mistake carries on."),
    )
    return tag(
        "div",
        [
            button(name, {"do": "set", "free": free}, id=id, aria_pressed=str(state.free == free).lower(), title=says)
            for id, free, name, says in kinds
        ],
        class_="switch",
        role="group",
        aria_label="How the chain is read",
    )


# One model's half


def side(state: State, its: Side, index: int) -> Markup:
    """The chain with its probabilities, what comes next, and what is cut."""
    head = tag("h2", its.name, class_="name")
    if its.look is None:
        inside = [head, alert(its.fault)]
    else:
        half = described(its.look)
        inside = [
            tag("div", [head, answer(half)], class_="headline"),
            *([alert(f"Shown untouched: {half.fault}")] if half.fault else []),
            chain(half),
            *([tag("p", half.restored, class_="small restored")] if half.restored else []),
            tag("div", [following(half), interventions(state, index, half.fault)], class_="below"),
        ]
    return tag("section", inside, class_=f"side arm arm{index}", data_side=str(index), aria_label=f"Model {its.name}")


def answer(half: Described) -> Markup:
    """The model's answer against the correct one, and against the untouched model's."""
    given = half.answer
    says: list[Any] = ["answers ", tag("strong", given) if given is not None else "nothing (its chain does not end)"]
    says += [
        tag("span", " ✓ correct", class_="right")
        if half.right
        else tag("span", f" ✗ correct is {half.target}", class_="wrong")
    ]
    if half.touched:
        same = "as untouched" if half.before == given else f"untouched: {half.before or 'nothing'}"
        says.append(tag("span", f" · {same}", class_="changed" if half.before != given else "soft"))
    if half.right and not half.exact:
        says.append(tag("span", " · not the whole chain", class_="soft"))
    return tag("p", says, class_="answer", role="status")


def chain(half: Described) -> Markup:
    """The question and the chain, line by line, every symbol a button that points all views to it."""
    mode = (
        "Free-running: it reads what it wrote itself." if half.free else "Teacher-forced: it reads the correct chain."
    )
    under = " Under each symbol: its probability in %."
    last = half.symbols[-1]
    lines = [
        tag(
            "div",
            [_symbol(half, symbol, is_last=symbol is last) for symbol in line],
            class_="line",
            role="group",
            aria_label=f"Line {n}" if n else "Question",
        )
        for n, line in enumerate(half.lines)
    ]
    return tag("div", [*lines, tag("p", mode + under, class_="small")], class_="chain")


def _symbol(half: Described, symbol: Symbol, *, is_last: bool) -> Markup:
    classes, notes, below = ["symbol"], [f"position {symbol.position}"], []
    if symbol.probability is not None:
        percent = words.percent(symbol.probability)
        below.append(tag("span", percent, class_="p", style=f"--p:{symbol.probability:.3f}"))
        notes.append(f"{percent} %")
    if symbol.instead:
        classes.append("wrong")
        below.append(tag("span", f"✗{symbol.instead}", class_="instead"))
        notes.append(f"wrong: {'correct is' if half.free else 'the model prefers'} {symbol.instead}")
    if symbol.was:
        classes.append("changed")
        if symbol.was not in (symbol.instead, symbol.text):  # there already
            below.append(tag("span", f"was {symbol.was}", class_="was"))
        notes.append(f"untouched: {symbol.was}")
    if symbol.mark == "predicted":
        classes.append("predicted")
        notes.append("predicted by the chosen position")
    what = [tag("span", symbol.text, class_="token"), *below]
    marks = {"data-position": str(symbol.position), "aria-label": f"{symbol.text}, {', '.join(notes)}"}
    if is_last:
        return tag("span", what, class_=" ".join([*classes, "last"]), role="img", **marks)
    return button(
        what,
        {"do": "set", "at": symbol.position},
        class_=" ".join(classes),
        aria_pressed=str(symbol.mark == "chosen").lower(),
        title=f"{symbol.text} · {', '.join(notes)}",
        **marks,
    )


def following(half: Described) -> Markup:
    """The most probable next symbols at the chosen position, untouched beside cut."""
    compared = half.touched and not half.apart
    title = [f"Next symbol after {half.at.position}: ", tag("code", half.at.text)]
    key = [tag("span", "untouched", class_="key whole"), tag("span", "cut", class_="key cut")] if compared else []
    rows = [_next(half, its) for its in half.following]
    note = [tag("p", half.apart, class_="small")] if half.apart else []
    return tag("div", [tag("h3", [*title, *key]), tag("ol", rows), *note], class_="next")


def _next(half: Described, its: Next) -> Markup:
    bars = [_bar(its.now, "cut" if half.touched else "whole")]
    numbers = f"{words.percent(its.now)} %"
    if its.before is not None:
        bars.insert(0, _bar(its.before, "whole"))
        numbers = f"{words.percent(its.before)} → {numbers}"
    return tag(
        "li",
        [
            tag("b", [its.text, tag("span", " ✓" if its.is_correct else "", class_="right")]),
            tag("span", bars, class_="bars", aria_hidden="true"),
            tag("span", numbers, class_="n"),
        ],
    )


def _bar(probability: float, kind: str) -> Markup:
    return tag("i", class_=kind, style=f"width:{100 * probability:.2f}%")


def interventions(state: State, index: int, fault: str = "") -> Markup:
    """What is cut in this model, or with a fault was to be cut, each with its button to restore it."""
    cuts = state.cuts_of(index)
    if not cuts:
        return tag("div", [tag("h3", "Nothing is cut"), tag("p", "Press a part above.", class_="small")], class_="cuts")
    rows = []
    for cut in cuts:
        place = "" if cut.position is None else f" at {cut.position}"
        name = f"{cut.what.replace('->', ' → ')}{place}"
        rows.append(
            tag(
                "li",
                [
                    tag("span", [tag("b", name), tag("span", f" {cut.how}", class_="soft")]),
                    button(
                        "Restore",
                        {"do": "restore", "cut": str(cut)},
                        aria_label=f"Restore {name} ({cut.how})",
                        data_restore=str(cut),
                    ),
                ],
            )
        )
    return tag("div", [tag("h3", f"{'Not made' if fault else 'Cut'}: {len(cuts)}"), tag("ul", rows)], class_="cuts")


# What cuts


def controls(state: State, sides: Sequence[Side]) -> list[Markup]:
    """Every head and MLP as a button, and whatever else can be cut as a form."""
    looks = [its.look for its in sides if its.look is not None]
    if not looks:
        return []
    both = len(state.models) > 1
    where = {"both": "both models", "0": state.models[0], "1": state.models[1]} if both else {}
    steer = [
        select(
            "how", "Cut parts carry", {how: _HOW_SAYS[how] for how in HOWS}, state.how, title=_HOW_MEANS, data_set="how"
        ),
        *([select("on", "in", where, state.on, data_set="on")] if both else []),
        button(
            "Another draw",
            {"do": "set", "seed": (state.seed + 1) % 1000},
            id="redraw",
            title="Take another question's writing",
            disabled=not _resampled(state),
        ),
        tag(
            "span",
            [
                button("Undo", {"do": "undo"}, id="undo", title="Ctrl+Z"),
                button("Reset", {"do": "reset"}, id="reset", disabled=not state.cuts),
            ],
            class_="row-of",
        ),
    ]
    return [
        tag("div", steer, class_="row-of steering"),
        tag(
            "div",
            _part_groups(state, looks),
            class_="row-of parts",
            role="group",
            aria_label="Parts; pressed means cut",
        ),
    ]


def _resampled(state: State) -> bool:
    return state.how == "resample" or any(cut.how == "resample" for cut in state.cuts)


def _part_groups(state: State, looks: Sequence[Look]) -> list[Markup]:
    depth = max(look.thinker.graph.depth for look in looks)
    heads = max(look.thinker.graph.n_heads for look in looks)
    groups = []
    for block in range(depth):
        names = [*(f"a{block}.h{head}" for head in range(heads)), f"m{block}"]
        buttons = [_part(state, looks, name) for name in names]
        groups.append(
            tag(
                "span",
                [tag("span", f"block {block}", class_="label"), *filter(None, buttons)],
                class_="row-of",
                role="group",
                aria_label=f"Block {block}",
            )
        )
    return groups


def _part(state: State, looks: Sequence[Look], name: str) -> Markup | None:
    having = [look.side for look in looks if name in look.thinker.graph.writers]
    if not having:
        return None
    cut = [model for model in having if any(c.what == name and c.position is None for c in state.cuts_of(model))]
    somewhere = any(c.what == name and c.position is not None for c in state.cuts)
    pressed = "true" if cut == having else "mixed" if cut else "false"
    only = "" if len(having) == len(looks) or not looks else f" (only {state.models[having[0]]})"
    in_one = f" {state.models[cut[0]]}" if pressed == "mixed" else ""
    kind = "MLP" if name.startswith("m") else "head"
    return button(
        [name, tag("span", "@", class_="at", title="cut at single positions") if somewhere else ""],
        {"do": "cut", "what": name},
        aria_pressed=pressed,
        title=f"{kind} {name}{only}" + (f": cut in{in_one}" if in_one else ""),
        data_part=name,
    )


def parts_of(looks: Sequence[Look]) -> list[str]:
    """Every part that can be cut by name, but for the neurons: there are too many."""
    found: dict[str, None] = {}
    for look in looks:
        graph = look.thinker.graph
        found.update(dict.fromkeys(name for name in graph.writers if name != "bias"))
        found.update(dict.fromkeys(f"a{block}" for block in range(graph.depth)))
        found.update(dict.fromkeys(f"resid{block}" for block in range(graph.depth)))
        found.update(dict.fromkeys(f"m{block}.n0" for block in range(graph.depth)))
        found.update(dict.fromkeys(map(graph.name, graph.varying)))
    return list(found)


def positions(looks: Sequence[Look]) -> dict[str, str]:
    """Where a part can be cut: at positions of the correct chain."""
    symbols = looks[0].thought.correct[:-1] if looks else ()
    return {"": "everywhere", **{str(position): f"{position}: {symbol}" for position, symbol in enumerate(symbols)}}


def tabs(state: State) -> list[Markup]:
    """The views, the open one marked."""
    return [
        button(
            title,
            {"do": "set", "view": view},
            id=f"tab-{view}",
            **({"aria-current": "true"} if view == state.view else {}),
        )
        for view, title in words.VIEW_TITLES.items()
    ]


# The start page


def start(models: Models, message: str = "") -> list[Markup]:
    """What was found, to choose from."""
    said = [alert(message)] if message else []
    if not models.names:
        how = "kc-interp train --ops SUM --out runs/sum\nkc-interp explore --model runs/sum"
        return [
            tag("h1", "No trained model was found here"),
            *said,
            tag("p", "Train one, or name one that lies elsewhere:"),
            tag("pre", how, class_="example"),
        ]
    facts = {name: offer.facts for name, offer in models.offers.items()}
    usable = [name for name in facts if "fault" not in facts[name]]
    return [
        tag("h1", "Which model?"),
        tag("p", f"{len(usable)} trained model{'' if len(usable) == 1 else 's'} found."),
        *said,
        _found(facts),
        *(_pair(usable) if len(usable) > 1 else []),
    ]


_COLUMNS = ("trained on", "d_model", "blocks", "heads", "initialisation", "seed", "positions", "learned")


def _found(facts: Mapping[str, Mapping[str, str]]) -> Markup:
    """The models as a table: what their headers say, and a button to open each."""
    titles = [name if name == "d_model" else name.capitalize() for name in ("model", *_COLUMNS)]
    heads: list[Any] = [*titles, tag("span", "Open", class_="sr")]
    head = tag("tr", [tag("th", title, scope="col") for title in heads])
    rows = [tag("tr", [tag("th", name, scope="row"), *_cells(name, its)]) for name, its in facts.items()]
    return tag(
        "div",
        tag("table", [tag("thead", head), tag("tbody", rows)], class_="found"),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label="Models found",
    )


def _cells(name: str, facts: Mapping[str, str]) -> list[Markup]:
    if "fault" in facts:
        return [tag("td", facts["fault"], colspan=len(_COLUMNS) + 1)]
    said = [tag("td", facts[column], class_="n" if facts[column].isdigit() else "") for column in _COLUMNS]
    return [*said, tag("td", button("Open", {"do": "set", "models": [name]}, aria_label=f"Open {name}"))]


def _pair(usable: Sequence[str]) -> list[Markup]:
    names = {name: name for name in usable}
    fields = [
        select("left", "Model", names, usable[0]),
        select("right", "beside", names, usable[1]),
        button("Open both", id="open", data_form="open"),
    ]
    return [tag("h2", "Two side by side"), tag("div", fields, class_="row-of")]


# What is wrong with an expression


def marked(text: str, position: int) -> tuple[str, str, str]:
    """A text before, at and after a character at fault, cut to what fits a line.

    >>> marked("[SUM 1 x]", 7)
    ('[SUM 1 ', 'x', ']')
    """
    before, at, after = text[:position], text[position : position + 1] or " ", text[position + 1 :]
    return before if len(before) <= 50 else "…" + before[-49:], at, after[:40]
