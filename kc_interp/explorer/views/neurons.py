"""Neurons by rank and by name: what each adds to the next symbol directly, what the answer loses without it.

Two scores, because they answer different questions. The *direct effect* is what a neuron's activation adds, through its
output weights and the final LayerNorm with its scale held as it is, to the logit of a symbol less the mean over all
symbols: exact for what the unembedding reads of it at this position, and blind to everything that later parts make of
it. The *rise of the loss* is the answer's, with the neuron cut at all positions and all that follows computed anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from kc_interp.errors import KCInterpError
from kc_interp.explorer import words
from kc_interp.explorer.state import Cut
from kc_interp.explorer.thinking import Thinker, Thought
from kc_interp.explorer.views.panel import Look, Panel, cells, labels
from kc_interp.explorer.views.sample import Sample, sample
from kc_interp.finding import Cell, Figure, Table
from kc_interp.model.forward import LAYER_NORM_EPS
from kc_interp.tasks.task import Chains, Task

TOP = 12
EXACT_MOST = 30_000_000
"""Neurons times positions times d_model: above it they are not cut one by one, which would take seconds."""

_NAME = re.compile(r"m(\d+)\.n(\d+)")


def panels(look: Look) -> Iterator[Panel]:
    """The chosen neuron, if one is; then the first by direct effect, and by what the answer loses without them."""
    rises, why_not = _rises(look)
    if found := _NAME.fullmatch(look.state.part):
        yield from _chosen(look, int(found[1]), int(found[2]), rises, why_not)
    yield _by_direct_effect(look)
    yield _by_rise(look, rises) if rises is not None else Panel(note=why_not)


def name_of(block: int, neuron: int) -> str:
    """A neuron as cuts and the page name it."""
    return f"m{block}.n{neuron}"


@torch.no_grad()
def direct_effects(thinker: Thinker, thought: Thought, position: int, symbol: str) -> Float[np.ndarray, "layer d_mlp"]:
    """What each neuron adds at a position to the logit of a symbol less the mean over symbols, the scale held.

    0 where the unembedding does not read what the neuron's MLP wrote, because an intervention keeps it from that.
    """
    spec, params, graph = thinker.checkpoint.spec.model, thinker.checkpoint.params, thinker.graph
    unembed = params["unembed.W_U"].double()
    direction = unembed[:, thought.vocabulary.index(symbol)] - unembed.mean(1)
    if spec.norm == "LN":
        stream = (thought.read[:, position].sum(0) + thought.bias[-1, position]).double()
        scale = ((stream - stream.mean()).pow(2).mean() + LAYER_NORM_EPS).sqrt()
        direction = direction * params["ln_final.w"].double() / scale
        direction = direction - direction.mean()  # what LayerNorm subtracts of each writing is its mean
    effects = []
    for block in range(graph.depth):
        writer = graph.head(block, graph.n_heads)
        read = bool((thought.read[writer, position] == thought.written[writer, position]).all())
        along = params[f"blocks.{block % spec.n_layers}.mlp.W_out"].double() @ direction
        effects.append(thought.neurons[block, position] * along.cpu().numpy() * read)
    return np.stack(effects)


def _rises(look: Look) -> tuple[Float[np.ndarray, "layer d_mlp d_vocab"] | None, str]:
    """The answer's distribution without each neuron; None with the reason where that cannot be had."""
    state, thinker = look.state, look.thinker
    shape = thinker.graph.depth, thinker.d_mlp
    length, width = len(look.thought.correct) - 2, thinker.checkpoint.spec.model.d_model
    if shape[0] * shape[1] * length * width > EXACT_MOST:
        return None, (
            f"{shape[0] * shape[1]:,} neurons on {length} positions are too many to cut one by one while you wait; "
            "choose one to cut it."
        )
    cuts = look.cuts
    others = [Cut(look.side, state.how, name_of(*place)) for place in np.ndindex(shape)]
    own: dict[str, Any] = {"twin": state.twin, "seed": state.seed}
    key = ("neurons", state.question, tuple(map(str, cuts)), state.how, state.twin, state.seed)
    try:
        found = thinker.kept(key, lambda: thinker.without(state.question, cuts, others, **own))
    except KCInterpError as error:
        return None, f"What the answer loses without each neuron is not shown: {error}"
    return found.reshape(*shape, -1), ""


def _usual(look: Look) -> Float[np.ndarray, "layer d_mlp"] | None:
    """Every neuron's mean at the position over questions of the same shape; None where there are none, or a free run
    is longer than they are."""
    try:
        found = look.thinker.usual(look.state.question)
    except KCInterpError:
        return None
    return found[:, look.at].double().cpu().numpy() if look.at < found.shape[1] else None


def _cell(values: np.ndarray | None, place: tuple[int, int]) -> Cell:
    return None if values is None else float(values[place]) + 0.0  # no minus zero


def _highest(scores: Float[np.ndarray, "layer d_mlp"]) -> list[tuple[int, int]]:
    """The places of the largest magnitudes, the first of equals first."""
    order = np.argsort(-np.abs(scores), axis=None, kind="stable")[:TOP]
    return [(int(place) // scores.shape[1], int(place) % scores.shape[1]) for place in order]


def _looks(look: Look, places: list[tuple[int, int]]) -> tuple[tuple[str, Mapping[str, Any]] | None, ...]:
    """A button for each neuron but the one that is being looked at."""
    names = [name_of(*place) for place in places]
    return tuple(None if name == look.state.part else ("Look", {"do": "set", "part": name}) for name in names)


def _by_direct_effect(look: Look) -> Panel:
    thought, at = look.thought, look.at
    symbol = thought.choices[at]
    effects, usual = direct_effects(look.thinker, thought, at, symbol), _usual(look)
    places = _highest(effects)
    rows = tuple(
        (name_of(*place), _cell(thought.neurons[:, at], place), _cell(usual, place), _cell(effects, place))
        for place in places
    )
    return Panel(
        table=Table(
            f"The {len(rows)} neurons with the largest direct effect on the next symbol at position {at}",
            ("neuron", "activation here", "mean, same shape", f"direct effect on {symbol}, logits"),
            rows,
            f"The model's choice after position {at} ({thought.symbols[at]}) is {symbol}. Direct effect: what the "
            f"neuron adds to the logit of {symbol} less the mean over all symbols, the final LayerNorm's scale held as "
            "it is; what later parts make of the neuron is not in it. Mean: over questions of the same shape.",
        ),
        actions=_looks(look, places),
    )


def _answers(look: Look) -> tuple[Thought, float]:
    """The teacher-forced thought under the interventions, and its probability of the correct answer."""
    state = look.state
    base = look.thinker.think(state.question, look.cuts, twin=state.twin, seed=state.seed)
    return base, float(base.probabilities[base.query, base.vocabulary.index(base.target)])


def _nats(before: float, after: np.ndarray) -> np.ndarray:
    return np.log(before) - np.log(np.maximum(after, np.finfo(float).tiny))


def _by_rise(look: Look, found: Float[np.ndarray, "layer d_mlp d_vocab"]) -> Panel:
    base, before = _answers(look)
    after = found[..., base.vocabulary.index(base.target)]
    rises = _nats(before, after)
    places = _highest(rises)
    rows = tuple(
        (
            name_of(*place),
            _cell(base.neurons[:, base.query], place),
            float(rises[place]),
            before - float(after[place]),
            base.vocabulary[int(found[place].argmax())],
        )
        for place in places
    )
    return Panel(
        table=Table(
            f"The {len(rows)} neurons whose cutting changes the answer's loss most, of {rises.size:,}",
            (
                "neuron",
                "activation at the answer",
                "rise of the loss, nats",
                "fall of the answer's probability",
                "most probable answer",
            ),
            rows,
            f"Each neuron alone carries {words.INSTEAD[look.state.how]}, at all positions, and all that follows is "
            f"computed anew; the correct chain before the answer is given. Correct: {base.target}, with a probability "
            f"of {words.percent(before)} % before. Below 0: the answer gains.",
        ),
        actions=_looks(look, places),
    )


def _chosen(
    look: Look, block: int, neuron: int, found: Float[np.ndarray, "layer d_mlp d_vocab"] | None, why_not: str
) -> Iterator[Panel]:
    """One neuron: its numbers, its activation over this chain, and the chains that move it most."""
    thinker, thought, name = look.thinker, look.thought, name_of(block, neuron)
    if block >= thinker.graph.depth or neuron >= thinker.d_mlp:
        yield Panel(
            note=f"{thinker.name} has no neuron {name}: blocks 0 to {thinker.graph.depth - 1}, neurons 0 to "
            f"{thinker.d_mlp - 1} in each."
        )
        if len(look.state.models) > 1:
            # The other model may have it: panels of two models stand in rows.
            yield from (Panel(), Panel())
        return
    at = look.at
    symbol = thought.choices[at]
    drawn = sample(thinker)
    rise = None
    if found is not None:
        base, before = _answers(look)
        rise = float(_nats(before, found[..., base.vocabulary.index(base.target)])[block, neuron])
    yield Panel(
        table=Table(
            f"Neuron {name}, at position {at} ({thought.symbols[at]})",
            (
                "neuron",
                "activation here",
                "mean, same shape",
                f"direct effect on {symbol}, logits",
                "rise of the answer's loss without it, nats",
                "active (above 0) in the sample",
            ),
            (
                (
                    name,
                    _cell(thought.neurons[:, at], (block, neuron)),
                    _cell(_usual(look), (block, neuron)),
                    _cell(direct_effects(thinker, thought, at, symbol), (block, neuron)),
                    rise,
                    f"{drawn.active[block, neuron]:.1%} of positions",
                ),
            ),
            f"Without it: it carries {words.INSTEAD[look.state.how]}, at all positions."
            if found is not None
            else why_not,
        ),
        actions=(("Cut", {"do": "cut", "what": name, "position": None}),),
    )
    yield Panel(
        figure=Figure(
            "tokens",
            f"Activation of neuron {name} at each position of this chain",
            shows="How active the neuron is where each symbol is read (no unit; as computed under the interventions).",
            refuted_by="A reading such as 'it marks this symbol' fails where the symbol stands and the neuron is "
            "silent, and where it is as active at another.",
            data={
                "tokens": list(labels(thought)),
                "values": cells(thought.neurons[block, :, neuron]),
            },
        )
    )
    yield Panel(table=_examples(thinker, drawn, block, neuron))


def _examples(thinker: Thinker, drawn: Sample, block: int, neuron: int) -> Table:
    task = thinker.checkpoint.task
    places = [
        (int(drawn.chain[best, block, neuron]), int(drawn.position[best, block, neuron]))
        for best in range(len(drawn.chain))
    ]
    return Table(
        f"The chains in which neuron {name_of(block, neuron)} is most active",
        ("chain, the position marked", "position", "activation"),
        tuple(
            (marked(task, drawn.chains, chain, position), position, float(drawn.activation[best, block, neuron]))
            for best, (chain, position) in enumerate(places)
        ),
        f"Of {len(drawn.chains)} chains drawn from the task by a fixed seed, untouched, the correct chain given; each "
        "chain at its most active position. The most active examples are not all that it answers to.",
    )


def marked(task: Task, chains: Chains, chain: int, position: int) -> str:
    """A chain in one line, without its end, with a position marked.

    Brackets stand close to what they hold, as in `[SUM 1 [MAX 4 3]] > [SUM 1 ‹4›] = 5`.
    """
    codes = chains.symbols[chain, : int(chains.lengths[chain]) - 1].tolist()
    text = ""
    for place, code in enumerate(codes):
        close = place == 0 or task.classes[code] == "close" or task.classes[codes[place - 1]] == "open"
        symbol = task.symbols[code]
        text += ("" if close else " ") + (f"‹{symbol}›" if place == position else symbol)
    return text
