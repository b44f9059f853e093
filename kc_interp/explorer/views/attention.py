"""Attention: where every head looks, the chosen head in full, and what the cuts change about it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from kc_interp.explorer.thinking import Thought
from kc_interp.explorer.views.panel import Look, Panel, cells, labels
from kc_interp.finding import Figure

MOST_HEADS = 16
"""At once in the widget: more take seconds to draw."""

_MOVED = (
    "Attention says where a head looks, not what it does with it: if cutting the head leaves the answer as it is, what "
    "it looks at does not decide the answer."
)


def panels(look: Look) -> Iterator[Panel]:
    """All heads, all heads at one position, one head, and the difference that the cuts make at that position."""
    names = heads_of(look)
    chosen, why = _chosen(look, names)
    yield _all_heads(look, names, chosen)
    yield _at_position(look, names)
    yield _one_head(look, names, chosen, why)
    if look.touched:
        yield _change(look, names)


def heads_of(look: Look) -> tuple[str, ...]:
    """Every head's name, block by block: the rows of `_flat`."""
    graph = look.thinker.graph
    return tuple(f"a{block}.h{head}" for block in range(graph.depth) for head in range(graph.n_heads))


def _flat(thought: Thought) -> Float[np.ndarray, "head pos pos"]:
    return thought.patterns.reshape(-1, *thought.patterns.shape[2:])


def _place(look: Look) -> str:
    return f"position {look.at} ({look.thought.symbols[look.at]})"


def _chosen(look: Look, names: tuple[str, ...]) -> tuple[int, str]:
    """The index of the head to show in full, and why it is this one. Cuts do not change the choice."""
    if look.state.part in names:
        return names.index(look.state.part), ""
    at = min(look.at, len(look.untouched.symbols) - 2)
    earlier = np.nan_to_num(_flat(look.untouched)[:, at, : max(at, 1)])
    index = int(earlier.max(1).argmax())
    return index, f"Shown because no other head, untouched, looks as much at one earlier position from position {at}."


def _all_heads(look: Look, names: tuple[str, ...], chosen: int) -> Panel:
    start = chosen // MOST_HEADS * MOST_HEADS
    some = slice(start, start + MOST_HEADS)
    note = ""
    if len(names) > MOST_HEADS:
        note = (
            f"{names[some][0]} to {names[some][-1]}, of {len(names)} heads; choose a head as the part to see those "
            "around it."
        )
    return Panel(
        Figure(
            kind="attention",
            title="Attention of every head",
            shows="How much each position (row) reads from itself and each earlier one (column), head by head. The "
            "shares of a row sum to 1.",
            refuted_by=_MOVED,
            data={
                "tokens": list(labels(look.thought)),
                "heads": list(names[some]),
                "patterns": cells(_flat(look.thought)[some]),
            },
        ),
        note=note,
    )


def _at_position(look: Look, names: tuple[str, ...]) -> Panel:
    columns = labels(look.thought)
    return Panel(
        Figure(
            kind="heatmap",
            title=f"Where every head looks from {_place(look)}",
            shows=f"The share of its attention that each head gives to each position when it writes at {_place(look)}. "
            "Later positions are never seen: 0.",
            refuted_by=_MOVED,
            data={
                "x": list(columns),
                "y": list(names),
                "z": cells(_flat(look.thought)[:, look.at]),
                "zmid": None,
                "x_title": "read from",
                "y_title": "head",
                "z_title": "share of attention",
            },
        ),
        hint="A click on a cell chooses its head and points all views to its position.",
        does="point",
        rows=names,
        columns=tuple(range(len(columns))),
    )


def _one_head(look: Look, names: tuple[str, ...], chosen: int, why: str) -> Panel:
    columns, name = labels(look.thought), names[chosen]
    pattern = _flat(look.thought)[chosen].astype(np.float64)
    seen = np.where(np.tri(len(columns), dtype=bool), pattern, np.nan)
    return Panel(
        Figure(
            kind="heatmap",
            title=f"Attention of {name}, all positions",
            shows=f"How much each position (row) reads from itself and each earlier one (column) in head {name}. "
            "Blank: later positions, which are never seen.",
            refuted_by=_MOVED,
            data={
                "x": list(columns),
                "y": list(columns),
                "z": cells(seen),
                "zmid": None,
                "x_title": "read from",
                "y_title": "reading position",
                "z_title": "share of attention",
            },
        ),
        note=why,
        hint="A click points all views to the position that is read from.",
        does="point",
        rows=(name,) * len(columns),
        columns=tuple(range(len(columns))),
    )


def _change(look: Look, names: tuple[str, ...]) -> Panel:
    at, columns = look.at, labels(look.thought)
    if not look.is_comparable:
        return Panel(
            note=f"Under the cuts the model wrote other symbols before {_place(look)}, so its attention there is not "
            "set against that of the untouched model. Point to an earlier position, or let it read the correct chain."
        )
    change = np.zeros((len(names), len(columns)))
    change[:, : at + 1] = _flat(look.thought)[:, at, : at + 1] - _flat(look.untouched)[:, at, : at + 1]
    return Panel(
        Figure(
            kind="heatmap",
            title=f"What the cuts change in it: attention from {_place(look)}",
            shows="The share of attention under the cuts minus that of the untouched model. Above 0: the head looks "
            "there more than before.",
            refuted_by="A head that looks elsewhere need not matter: if cutting it in the untouched model leaves the "
            "answer as it is, the cuts do not act through it.",
            data={
                "x": list(columns),
                "y": list(names),
                "z": cells(change),
                "zmid": 0.0,
                "x_title": "read from",
                "y_title": "head",
                "z_title": "change of the share of attention",
            },
        ),
        does="point",
        rows=names,
        columns=tuple(range(len(columns))),
    )
