"""Patching: what each part at each position moves of the answer when it carries the second expression's value there.

Exact, of the untouched model, teacher-forced; the same numbers as cutting the cell by "patch", all at once
(`kc_interp.model.patch`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float

from kc_interp.explorer.views.panel import Look, Panel, cells
from kc_interp.explorer.views.twins import Contrast, untouched_only
from kc_interp.finding import Figure
from kc_interp.model.patch import Run, Site, patch

MOST_HEADS = 32
"""In rows of their own; of more, those of one block, and of the other blocks all heads at once."""

_Row = tuple[str, Site, int, int]
"""The part as `State.act` cuts it, the site of `patch`, its block and head."""


def panels(look: Look) -> Iterator[Panel]:
    """The map of effects, and the two expressions. Raises ProbeError without a fitting pair."""
    found = Contrast.of(look)
    rows = _rows(look)
    key = ("patching", found.question, found.twin, tuple(name for name, *_ in rows))
    effects = look.thinker.kept(key, lambda: _effects(look, found, rows))
    yield Panel(
        _figure(look, found, rows, effects),
        note=" ".join(filter(None, (untouched_only(look), found.says, _left_out(look)))),
        hint="A click patches the cell, as the figure does.",
        does="cut",
        rows=tuple(name for name, *_ in rows),
        columns=tuple(range(effects.shape[1])),
    )
    yield from found.panels()


def _rows(look: Look) -> list[_Row]:
    """Every part from the first to the last that is computed."""
    graph, rows = look.thinker.graph, list[_Row]()
    own = _own_block(look)
    for block in range(graph.depth):
        rows.append((f"resid{block}", "resid_pre", block, 0))
        if own in (None, block):
            rows += [(f"a{block}.h{head}", "z", block, head) for head in range(graph.n_heads)]
        else:
            rows.append((f"a{block}", "attn_out", block, 0))
        rows.append((f"m{block}", "mlp_out", block, 0))
    return rows


def _own_block(look: Look) -> int | None:
    """The block whose heads have rows of their own; None: every block's."""
    graph, part = look.thinker.graph, look.state.part
    if graph.depth * graph.n_heads <= MOST_HEADS:
        return None
    return next((block for block in range(graph.depth) if _is_of(part, block)), 0)


def _is_of(part: str, block: int) -> bool:
    return part in (f"a{block}", f"m{block}", f"resid{block}") or part.startswith((f"a{block}.", f"m{block}."))


def _effects(look: Look, found: Contrast, rows: list[_Row]) -> Float[np.ndarray, "row pos"]:
    checkpoint = look.thinker.checkpoint
    runs = []
    for text in (found.question, found.twin):
        codes = look.thinker.read(text).symbols[:, : found.base.positions]
        ids = torch.from_numpy(np.asarray(checkpoint.tokens.encode(codes), dtype=np.int64)).to(checkpoint.device)
        runs.append(Run.of(look.thinker.params, checkpoint.spec.model, ids))
    base, source = runs
    patched = {site: found.metric(patch(base, source, site))[..., 0] for site in dict.fromkeys(row[1] for row in rows)}
    return found.effects(
        torch.stack([patched[site][block, head] for _, site, block, head in rows]).double().cpu().numpy()
    )


def _figure(look: Look, found: Contrast, rows: list[_Row], effects: Float[np.ndarray, "row pos"]) -> Figure:
    symbols = look.thinker.checkpoint.task.symbols
    own, others = (
        look.thinker.read(text).symbols[0, : effects.shape[1]].tolist() for text in (found.question, found.twin)
    )
    columns = [symbols[a] if a == b else f"{symbols[a]}/{symbols[b]}" for a, b in zip(own, others, strict=True)]
    return Figure(
        kind="heatmap",
        title="What moves the answer: each part at each position, patched",
        shows="How far the answer moves from the question's towards the second expression's when this part at this "
        "position carries what it carries in the second expression. resid: the whole stream that enters a block; a: a "
        "head; m: an MLP. 4/5: the expressions differ there.",
        refuted_by="It is one pair of expressions: another pair of the same shape in which other cells move the answer "
        "refutes a general reading. What a cell moves is what differs there, not all that the model computes.",
        data={
            "x": columns,
            "y": [name for name, *_ in rows],
            "z": cells(effects),
            "zmid": 0.0,
            "x_title": "position, up to the one that predicts the answer",
            "y_title": "part",
            "z_title": found.unit,
        },
    )


def _left_out(look: Look) -> str:
    own = _own_block(look)
    if own is None:
        return ""
    return f"Heads one by one of block {own}, at once of other blocks; choose a part of another block to see its heads."
