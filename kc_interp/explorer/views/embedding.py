"""How a model's digits lie to each other: in its embedding, its unembedding, and in the stream after each block.

Everything is seen from the mean of the digits, as in the probe embedding-geometry; whether an order or a circle is
more than chance gives, that probe tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kc_interp.errors import ProbeError
from kc_interp.explorer.thinking import Thinker
from kc_interp.explorer.views.panel import Look, Panel, cells
from kc_interp.explorer.views.sample import digit_tokens, sample
from kc_interp.finding import Figure

FEWEST = 3

_OF_WEIGHTS = "Of the weights alone: neither the expression nor any intervention enters."


@dataclass(frozen=True)
class _Place:
    """One set of points: where, and by what they were measured."""

    name: str
    points: Float[np.ndarray, "digit d_model"]
    note: str


def panels(look: Look) -> Iterator[Panel]:
    """For every place the two main components and the cosines. Raises ProbeError when there are too few digits."""
    yield from look.thinker.kept(("embedding",), lambda: tuple(_panels(look.thinker)))


def _panels(thinker: Thinker) -> Iterator[Panel]:
    tokens = digit_tokens(thinker)
    labels = [thinker.checkpoint.tokens.symbols[token] for token in tokens]
    if len(tokens) < FEWEST:
        raise ProbeError(
            f"{thinker.name} has {len(tokens)} digits in its vocabulary; at least {FEWEST} are needed to see how they "
            "lie to each other"
        )
    for place in _places(thinker, tokens):
        yield Panel(figure=_components(place, labels), note=place.note)
        yield Panel(figure=_cosines(place, labels), note=place.note)


def _places(thinker: Thinker, tokens: list[int]) -> Iterator[_Place]:
    params = thinker.checkpoint.params
    yield _Place("the embedding", params["embed.W_E"][tokens].double().cpu().numpy(), _OF_WEIGHTS)
    yield _Place("the unembedding", params["unembed.W_U"].mT[tokens].double().cpu().numpy(), _OF_WEIGHTS)
    drawn = sample(thinker)
    note = (
        f"Mean over {len(drawn.chains)} questions drawn from the task by a fixed seed, untouched: neither the "
        "expression above nor any intervention enters."
    )
    for block, points in enumerate(drawn.digits):
        if np.isfinite(points).all():
            yield _Place(f"the stream after block {block}, where a question shows them", points, note)


def principal(
    points: Float[np.ndarray, "digit d_model"],
) -> tuple[Float[np.ndarray, "digit component"], Float[np.ndarray, " component"]]:
    """The points at their first two principal components, and the share of the variance of each.

    The first is turned so that it rises with the digits, the second so that its largest coordinate is above 0.
    """
    left, singular, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    found = np.pad(left * singular, ((0, 0), (0, 2)))[:, :2]
    shares = np.pad(singular**2 / (float((singular**2).sum()) or 1.0), (0, 2))[:2]
    rising = np.arange(len(points)) - (len(points) - 1) / 2
    largest = found[np.abs(found[:, 1]).argmax(), 1]
    return found * np.where([rising @ found[:, 0] < 0, largest < 0], -1.0, 1.0), shares


def cosines(points: Float[np.ndarray, "digit d_model"]) -> Float[np.ndarray, "digit digit"]:
    """The cosine between each two digits as seen from their mean; 0 to all for one that is the mean."""
    from_mean = points - points.mean(0)
    sizes = np.linalg.norm(from_mean, axis=1, keepdims=True)
    unit = np.divide(from_mean, sizes, out=np.zeros_like(from_mean), where=sizes > 0)
    return np.asarray(unit @ unit.T)


def _components(place: _Place, labels: list[str]) -> Figure:
    found, shares = principal(place.points)
    return Figure(
        "scatter",
        f"The digits' two main directions in {place.name}",
        shows="Each digit at its first two principal components, joined in the order of the digits. The components are "
        "this model's own: those of two models are not the same directions.",
        refuted_by="A small share of the variance in the two components, or as clear a picture before training.",
        data={
            "points": [
                {"x": float(x), "y": float(y), "label": label} for (x, y), label in zip(found, labels, strict=True)
            ],
            "x_title": f"component 1 ({shares[0]:.0%} of variance)",
            "y_title": f"component 2 ({shares[1]:.0%} of variance)",
            "path": True,
        },
    )


def _cosines(place: _Place, labels: list[str]) -> Figure:
    return Figure(
        "heatmap",
        f"Cosine between digits in {place.name}",
        shows="How alike the directions of two digits are, seen from the mean of all digits: 1 the same, −1 opposite.",
        refuted_by="A pattern as clear after the digits' labels are shuffled; the probe embedding-geometry tests that.",
        data={
            "x": labels, "y": labels, "z": cells(cosines(place.points)), "zmid": 0,
            "x_title": "digit", "y_title": "digit", "z_title": "cosine",
        },
    )  # fmt: skip
