"""Attention and feed-forward in one expression: how much each writes, and what the answer loses without it.

Norms say how much is written, the causal numbers whether it is needed; the definitions are those of the probe
attention-mlp, for one chain: x is the stream that enters a block, a what its attention writes (with its bias), m what
its MLP writes. ‖a‖/‖x‖ and ‖m‖/‖x + a‖ compare what is written with what is read; the centred ratio is
‖a − ā‖/‖m − m̄‖ over the positions that predict what is written after the question, so that what is the same everywhere
does not count. Over positions ‖·‖ is the root mean square.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from kc_interp.errors import KCInterpError
from kc_interp.explorer import words
from kc_interp.explorer.state import Cut
from kc_interp.explorer.thinking import Thinker, Thought
from kc_interp.explorer.views.panel import Look, Panel, cells
from kc_interp.finding import Cell, Figure, Table
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import biases

_NO_VARIANCE = 1e-12
"""Below this share of the mean square a variance is the rounding of a constant."""


@dataclass(frozen=True)
class Written:
    """The stream before each block's attention, and what its attention and its MLP write."""

    before: Float[np.ndarray, "layer pos d_model"]
    attention: Float[np.ndarray, "layer pos d_model"]
    mlp: Float[np.ndarray, "layer pos d_model"]

    @classmethod
    @torch.no_grad()
    def of(cls, thinker: Thinker, thought: Thought) -> Written:
        graph, written = thinker.graph, thought.written.double()
        own = biases(thinker.params, thinker.checkpoint.spec.model).double()
        blocks = range(graph.depth)
        parts = (
            [written[: graph.head(block)].sum(0) + own[2 * block] for block in blocks],
            [
                written[graph.head(block) : graph.head(block, graph.n_heads)].sum(0)
                + own[2 * block + 1]
                - own[2 * block]
                for block in blocks
            ],
            [written[graph.head(block, graph.n_heads)] for block in blocks],
        )
        return cls(*(torch.stack(part).cpu().numpy() for part in parts))

    def against_stream(self, positions: Sequence[int]) -> tuple[list[float | None], list[float | None]]:
        """‖a‖/‖x‖ and ‖m‖/‖x + a‖ of each block over these positions; None where the stream is 0."""
        pairs = ((self.attention, self.before), (self.mlp, self.before + self.attention))
        first, second = (
            [_over(_norm(part[positions]), _norm(stream[positions])) for part, stream in zip(*pair, strict=True)]
            for pair in pairs
        )
        return first, second

    def spread(self, positions: Sequence[int]) -> tuple[list[float], list[float]]:
        """‖a − ā‖ and ‖m − m̄‖ of each block over these positions."""
        first, second = ([_spread(part[positions]) for part in parts] for parts in (self.attention, self.mlp))
        return first, second


def _norm(x: Float[np.ndarray, "pos d_model"]) -> float:
    return float(np.sqrt((x**2).sum(-1).mean()))


def _spread(x: Float[np.ndarray, "pos d_model"]) -> float:
    spread, whole = _norm(x - x.mean(0)), _norm(x)
    return spread if spread**2 > _NO_VARIANCE * whole**2 else 0.0


def _over(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def panels(look: Look) -> Iterator[Panel]:
    """What is written beside what is read, at the chosen position and over the chain; then what each part is worth."""
    thought, touched, comparable = look.thought, look.touched, look.is_comparable
    chain = list(range(thought.asked - 1, len(thought.symbols) - 1))
    before = list(range(look.untouched.asked - 1, len(look.untouched.symbols) - 1))
    note = "What a cut keeps from its readers still counts as written, and in the stream as read." if touched else ""
    sides = [("", Written.of(look.thinker, thought), chain, look.at)]
    if touched:
        sides.append((", untouched", Written.of(look.thinker, look.untouched), before, look.at))
    symbol = thought.symbols[look.at]
    yield Panel(
        figure=_norms(
            f"What attention and feed-forward write, against the stream they read: position {look.at} ({symbol})",
            [(name, written.against_stream([at])) for name, written, _, at in (sides if comparable else sides[:1])],
        ),
        note=note if comparable else f"{note} The untouched model had read other symbols here, so it is left out.",
    )
    yield Panel(
        figure=_norms(
            "What attention and feed-forward write, against the stream they read: over the chain",
            [(name, written.against_stream(positions)) for name, written, positions, _ in sides],
        ),
        note=f"Root mean square over the {len(chain)} positions that predict what is written after the question.",
    )
    yield Panel(table=_centred([(name, written.spread(positions)) for name, written, positions, _ in sides]), note=note)
    yield from _causal(look)


def _norms(title: str, sides: Sequence[tuple[str, tuple[list[float | None], list[float | None]]]]) -> Figure:
    series = [
        {"name": f"{part}{name}", "y": values}
        for name, both in sides
        for part, values in zip(("attention", "MLP"), both, strict=True)
    ]
    return Figure(
        "bars",
        title,
        shows="For each block the norm of what attention writes over that of the stream it reads, and the same of the "
        "MLP, whose stream includes what attention has just written.",
        refuted_by="No rise of the loss below where the part is cut: a large bar is then written and not read.",
        data={
            "x": [f"block {block}" for block in range(len(sides[0][1][0]))],
            "series": series,
            "x_title": "block",
            "y_title": "‖written‖ / ‖stream read‖ (no unit)",
        },
    )


def _centred(sides: Sequence[tuple[str, tuple[list[float], list[float]]]]) -> Table:
    def column(both: tuple[list[float], list[float]]) -> list[tuple[Cell, ...]]:
        rows: list[tuple[Cell, ...]] = [(a, m, _over(a, m)) for a, m in zip(*both, strict=True)]
        whole = [float(np.sqrt(np.square(part).sum())) for part in both]
        return [*rows, (whole[0], whole[1], _over(whole[0], whole[1]))]

    columns = [column(both) for _, both in sides]
    names = [*(f"block {block}" for block in range(len(columns[0]) - 1)), "all blocks"]
    return Table(
        "Centred ‖attention‖/‖MLP‖ over the chain",
        (
            "block",
            *(f"{what}{name}" for name, _ in sides for what in ("‖attention − mean‖", "‖MLP − mean‖", "ratio")),
        ),
        tuple((name, *(cell for rows in columns for cell in rows[index])) for index, name in enumerate(names)),
        "Over the positions that predict what is written after the question, what is the same at all of them left out. "
        "Over all blocks the squares are summed. Above 1: attention writes more that varies.",
    )


def parts_of(graph: Graph) -> list[str]:
    """What is cut, one at a time: all heads of a block, each head, its MLP."""
    named = []
    for block in range(graph.depth):
        heads = [f"a{block}.h{head}" for head in range(graph.n_heads)]
        named += [f"a{block}", *(heads if graph.n_heads > 1 else []), f"m{block}"]
    return named


def _causal(look: Look) -> Iterator[Panel]:
    state, thinker = look.state, look.thinker
    names = parts_of(thinker.graph)
    cuts = look.cuts
    others = [Cut(look.side, state.how, name) for name in names]
    own: dict[str, Any] = {"twin": state.twin, "seed": state.seed}
    try:
        base = thinker.think(state.question, cuts, **own)
        key = ("parts", state.question, tuple(map(str, cuts)), state.how, state.twin, state.seed)
        found = thinker.kept(key, lambda: thinker.without(state.question, cuts, others, **own))
    except KCInterpError as error:
        yield Panel(note=f"What each part is worth is not shown: {error}")
        return
    target = base.vocabulary.index(base.target)
    before = base.probabilities[base.query, target]
    tiny = np.finfo(float).tiny
    rises = np.log(max(before, tiny)) - np.log(np.maximum(found[:, target], tiny))
    beside = " beside the interventions above" if cuts else ""
    title = f"Rise of the answer's loss when a part carries {words.INSTEAD[state.how]}"
    yield Panel(
        figure=Figure(
            "bars",
            title,
            shows=f"By how many nats the loss of the correct answer ({base.target}) rises when one part is cut"
            f"{beside}, at all positions, with the correct chain before the answer given: a0 is all heads of block 0, "
            "a0.h1 one of them, m0 the MLP.",
            refuted_by="A different order of the bars for other expressions of the same shape, or when a part carries "
            "something else that is as unlike. Only attention moves information between positions, so that all of it "
            "is needed by any model that solves the task.",
            data={
                "x": [f"{name} (all)" if re.fullmatch(r"a\d+", name) else name for name in names],
                "series": [{"name": "rise of the loss", "y": cells(rises)}],
                "x_title": "part cut",
                "y_title": "rise of the answer's loss, nats",
            },
        ),
        note="The rises are no parts of a sum: parts stand in for each other.",
    )
    rows = tuple(
        (name, words.part(name), float(rise), float(before - row[target]), base.vocabulary[int(row.argmax())])
        for name, rise, row in zip(names, rises, found, strict=True)
    )
    yield Panel(
        table=Table(
            f"The answer when a part carries {words.INSTEAD[state.how]}",
            ("part", "in words", "rise of the loss, nats", "fall of the answer's probability", "most probable answer"),
            rows,
            f"Correct: {base.target}, with a probability of {words.percent(before)} % before. At the position that "
            "predicts the answer, the correct chain given.",
        ),
        actions=tuple(("Cut", {"do": "cut", "what": name, "position": None}) for name in names),
    )
