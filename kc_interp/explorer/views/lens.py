"""The lens: what the model would answer at each stage if the stream were read out there, and who adds to it.

Logit lens (nostalgebraist 2020) and direct logit attribution (Elhage et al. 2021,
https://transformer-circuits.pub/2021/framework) of the thought under its cuts: both read what the unembedding reads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float

from kc_interp.explorer.thinking import Thinker, Thought
from kc_interp.explorer.views.panel import Look, Panel, cells
from kc_interp.finding import Figure
from kc_interp.model.forward import LAYER_NORM_EPS
from kc_interp.model.graph import BIAS

MOST_SERIES = 6
MOST_SYMBOLS = 8
MOST_WRITERS = 40

_READ_EARLY = (
    "The unembedding was trained to read the last stage alone: a symbol that it does not find at an earlier one may be "
    "there in another form. If cutting the blocks after a stage changes the answer, it was not settled at that stage."
)


def panels(look: Look) -> Iterator[Panel]:
    """Stage by position, then the top symbols and the writers' shares at the position that all views point to."""
    lens, stages = look.thinker.lens(look.thought), _stages(look.thinker)
    yield _by_position(look, lens, stages)
    yield _top(look, lens, stages)
    yield _writers(look)


def _stages(thinker: Thinker) -> list[str]:
    return [*(f"before block {block}" for block in range(thinker.graph.depth)), "after the last block"]


def _cut_note(look: Look) -> str:
    """How cuts show."""
    if not look.touched:
        return ""
    return "Under the cuts; what the unembedding reads of a cut part is cut at every stage."


def _by_position(look: Look, lens: Float[np.ndarray, "stage pos d_vocab"], stages: list[str]) -> Panel:
    thought = look.thought
    columns = range(thought.asked - 1, len(thought.symbols) - 1)
    following = [thought.symbols[place + 1] for place in columns]
    ids = [thought.vocabulary.index(symbol) for symbol in following]
    values = lens[:, list(columns)]
    top = [[thought.vocabulary[token] for token in row] for row in values.argmax(-1)]
    chain = "what the model wrote" if thought.free else "the correct chain"
    return Panel(
        Figure(
            kind="heatmap",
            title="Logit lens: when the next symbol can be read",
            shows=f"The probability of the symbol that comes next in {chain}, when the stream is read out at this "
            "stage. A column names its line, the symbol read and the symbol that comes next. A cell holds the most "
            "probable symbol where it is another one.",
            refuted_by=_READ_EARLY,
            data={
                "x": [
                    f"{thought.line[place + 1]}: {thought.symbols[place]} → {symbol}"
                    for place, symbol in zip(columns, following, strict=True)
                ],
                "y": stages,
                "z": cells(values[:, np.arange(len(ids)), ids]),
                "zmid": None,
                "text": [
                    ["" if symbol == other else other for symbol, other in zip(following, row, strict=True)]
                    for row in top
                ],
                "x_title": "line: symbol read → symbol that comes next",
                "y_title": "stage",
                "z_title": "probability of the next symbol",
            },
        ),
        note=_cut_note(look),
        hint="A click points all views to a position.",
        does="point",
        columns=tuple(columns),
    )


def _top(look: Look, lens: Float[np.ndarray, "stage pos d_vocab"], stages: list[str]) -> Panel:
    thought, at = look.thought, look.at
    here = lens[:, at]
    shown = np.unique(np.linspace(0, len(stages) - 1, min(len(stages), MOST_SERIES)).round().astype(int)).tolist()
    # From the last stage back, so that the model's own favourites come first.
    ranked = [np.argsort(-here[stage], kind="stable") for stage in reversed(shown)]
    chosen = [thought.vocabulary.index(thought.symbols[at + 1]), *ranked[0][:4].tolist()]
    chosen += [int(order[place]) for place in range(2) for order in ranked]
    tokens = list(dict.fromkeys(chosen))[:MOST_SYMBOLS]
    some = f"{len(shown)} of {len(stages)} stages." if len(shown) < len(stages) else ""
    return Panel(
        Figure(
            kind="bars",
            title=f"Logit lens at position {at} ({thought.symbols[at]}): the most probable symbols",
            shows=f"The probability of each symbol when the stream at position {at} is read out at each stage. First "
            f"{thought.symbols[at + 1]}, the symbol that comes next, then the most probable ones, stage by stage.",
            refuted_by=_READ_EARLY,
            data={
                "x": [thought.vocabulary[token] for token in tokens],
                "series": [{"name": stages[stage], "y": cells(here[stage][tokens])} for stage in shown],
                "x_title": "symbol",
                "y_title": "probability",
            },
        ),
        note=f"{_cut_note(look)} {some}".strip(),
    )


@torch.no_grad()
def added(thinker: Thinker, thought: Thought, position: int) -> Float[np.ndarray, " writer_and_constant"]:
    """What each writer adds to the logit of the symbol that comes next, minus what it adds to the mean logit.

    The final LayerNorm's scale is held as it is. The last entry is the constant part (LayerNorm's bias and the
    unembedding's); all sum to the logit minus the mean logit.
    """
    params, spec = thinker.params, thinker.checkpoint.spec.model
    read = thought.read[:, position].clone()
    read[BIAS] = thought.bias[-1, position]
    constant = torch.zeros_like(read[:1])
    if spec.norm == "LN":
        total = read.sum(0)
        scale = ((total - total.mean()).pow(2).mean() + LAYER_NORM_EPS).sqrt()
        read = (read - read.mean(-1, keepdim=True)) / scale * params["ln_final.w"][0]
        constant = params["ln_final.b"][:1]
    logits = torch.cat([read, constant]) @ params["unembed.W_U"][0]
    logits[-1] += params["unembed.b_U"][0]
    token = thought.vocabulary.index(thought.symbols[position + 1])
    return (logits[:, token] - logits.mean(-1)).double().cpu().numpy()


def _writers(look: Look) -> Panel:
    thought, at = look.thought, look.at
    values, names = added(look.thinker, thought, at), [*look.thinker.graph.writers, "constant"]
    shown = np.sort(np.argsort(-np.abs(np.nan_to_num(values)), kind="stable")[:MOST_WRITERS]).tolist()
    following = thought.symbols[at + 1]
    note = f"Together {values.sum():.2f}."
    if len(shown) < len(names):
        note += f" The {len(shown)} of {len(names)} that add or take most."
    return Panel(
        Figure(
            kind="bars",
            title=f"What each part adds to the next symbol at position {at} ({thought.symbols[at]})",
            shows=f"Direct logit attribution: what each part adds to the logit of {following}, the symbol that comes "
            "next, above what it adds to the mean logit. token and position are the embeddings, bias the heads' output "
            "biases, constant what the unembedding adds whatever it reads.",
            refuted_by="A part also acts through those that read it, which does not count here, and others may make up "
            "for it: if cutting the part changes the logit by another amount, its bar is not its effect.",
            data={
                "x": [names[index] for index in shown],
                "series": [{"name": following, "y": cells(values[shown])}],
                "x_title": "part",
                "y_title": "logits above the mean",
            },
        ),
        note=f"{_cut_note(look)} {note}".strip(),
    )
