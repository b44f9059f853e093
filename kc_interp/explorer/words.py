"""Views, interventions and probabilities in words, as the explorer and its files say them."""

from __future__ import annotations

import math
import re

from kc_interp.explorer.state import Cut, How, View

VIEW_TITLES: dict[View, str] = {
    "attention": "Attention",
    "circuit": "Circuit",
    "patching": "Patching",
    "lens": "Logit lens",
    "embedding": "Embedding",
    "parts": "Attention and MLP",
    "neurons": "Neurons",
}

INSTEAD: dict[How, str] = {
    "zero": "nothing",
    "mean": "its mean over questions of the same shape",
    "resample": "what it carries in another question of the same shape with another answer",
    "patch": "what it carries in the second expression",
}
"""What a cut part carries instead."""

PART_NAMES: dict[str, str] = {
    "a0.h1": "head 1 of block 0 (all are counted from 0)",
    "a0": "all heads of block 0",
    "m0": "the MLP of block 0",
    "m0.n17": "neuron 17 of that MLP",
    "resid1": "the residual stream that enters block 1",
    "a0.h1->m0": "the edge from that head to that MLP: only the MLP reads otherwise",
    "token->a1.h0<v>": "the edge from the token embedding to a head's value (<q> its query, <k> its key)",
}
"""How parts are named, by example."""

_FORMS = (
    (r"a(\d+)", "every head of block {0}"),
    (r"a(\d+)\.h(\d+)", "head {1} of block {0}"),
    (r"m(\d+)", "the MLP of block {0}"),
    (r"m(\d+)\.n(\d+)", "neuron {1} of block {0}"),
    (r"resid(\d+)", "the residual stream into block {0}"),
)
_PLAIN = {"token": "the token embedding", "position": "the position embedding", "bias": "the attention output bias"}
_READ = {"q": "query", "k": "key", "v": "value"}


def part(name: str) -> str:
    """A part in words; a name of another form as it is.

    >>> part("a0.h1"), part("m1"), part("m0.n17"), part("token->a0.h2<k>")
    ('head 1 of block 0', 'the MLP of block 1', 'neuron 17 of block 0', 'the edge token->a0.h2<k>')
    """
    if "->" in name:
        return f"the edge {name}"
    for form, says in _FORMS:
        if found := re.fullmatch(form, name):
            return says.format(*found.groups())
    return _PLAIN.get(name, name)


def cut(cut: Cut, symbol: str = "") -> str:
    """An intervention as a sentence; `symbol` is what stands at its position.

    >>> cut(Cut(0, "zero", "m1"))
    'The MLP of block 1 carries nothing.'
    >>> cut(Cut(0, "patch", "a0.h1", 12), "MAX")
    'Head 1 of block 0 carries what it carries in the second expression, at position 12 (MAX).'
    """
    says = f"{part(cut.what)} carries {INSTEAD[cut.how]}"
    at = "" if cut.position is None else f", at position {cut.position}" + (f" ({symbol})" if symbol else "")
    return f"{says[0].upper()}{says[1:]}{at}."


def percent(probability: float) -> str:
    """A probability in percent, short; 100 and 0 only where it is just that. A dash where there is none.

    >>> [percent(p) for p in (1.0, 0.9996, 0.995, 0.978, 0.032, 0.0004, 0.0, float("nan"))]
    ['100', '>99', '>99', '98', '3.2', '<0.1', '0', '–']
    """
    if not math.isfinite(probability):
        return "–"
    value = 100 * probability
    if value in (0, 100):
        return f"{value:.0f}"
    if value >= 99.5:
        return ">99"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.1 else "<0.1"
