"""Does an approximation of effects say what the exact effects say? Ranks, AUROC, and edges needed for as much.

Scores and exact effects come as what they say for every input (`edge batch`, as `Comparison.moved` and
`kc_interp.circuits.attribution` give them), so that every number has an interval over inputs: both are computed anew on
the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from kc_interp.circuits.effects import Comparison, Edge
from kc_interp.circuits.scores import IDLE, Estimate, curve
from kc_interp.errors import ProbeError


@dataclass(frozen=True)
class Agreement:
    """Of scores with the exact effects of the same edges, each None where it is not defined.

    `rank` and `signed`: Spearman's correlation of sizes, and of values with their signs; None when all are equal.
    `large` and `circuit`: AUROC of the score's size, for the edges whose exact effect is large, and for those of a
    known circuit; None when these are all edges or none, and when no circuit was given.
    """

    rank: Estimate | None
    signed: Estimate | None
    large: Estimate | None
    circuit: Estimate | None


def agreement(
    comparison: Comparison,
    scores: Float[np.ndarray, "scored input"],
    exact: Float[np.ndarray, "edge batch"],
    *,
    circuit: Bool[np.ndarray, " edge"] | None = None,
    above: float = IDLE,
) -> Agreement:
    """Compare scores with exact effects; large is an effect of at least `above` of the whole.

    Raises ProbeError when the two are not of as many edges, or not of the comparison's inputs.
    """
    inputs = len(comparison.whole)
    if scores.shape != exact.shape or scores.shape[1] != inputs:
        raise ProbeError(
            f"scores of {scores.shape[0]} edges on {scores.shape[1]} inputs, exact effects of {exact.shape[0]} on "
            f"{exact.shape[1]}, a comparison of {inputs} inputs; give both for the same edges and for its inputs"
        )
    weights = np.concatenate([np.full((1, inputs), 1 / inputs), comparison.weights])
    scored, true = (moved @ weights.T / (weights @ comparison.whole) for moved in (scores, exact))
    found = None if circuit is None else np.broadcast_to(circuit[:, None], scored.shape)
    return Agreement(
        rank=_estimate(spearman(np.abs(scored), np.abs(true))),
        signed=_estimate(spearman(scored, true)),
        large=_estimate(auroc(np.abs(scored), np.abs(true) >= above)),
        circuit=None if found is None else _estimate(auroc(np.abs(scored), found)),
    )


def spearman(
    one: Float[np.ndarray, " edge *resample"], other: Float[np.ndarray, " edge *resample"]
) -> Float[np.ndarray, "*resample"]:
    """The rank correlation over edges, ties at their mean rank; nan where all are tied."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=0) for values in (one, other)]
    centred = [rank - rank.mean(axis=0) for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(axis=0) * (centred[1] ** 2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        return (centred[0] * centred[1]).sum(axis=0) / scale


def auroc(
    scores: Float[np.ndarray, " edge *resample"], truth: Bool[np.ndarray, " edge *resample"]
) -> Float[np.ndarray, "*resample"]:
    """How often an edge of the truth has a higher score than one that is not, ties half; nan without either kind."""
    from scipy.stats import rankdata

    inside, outside = truth.sum(axis=0), (~truth).sum(axis=0)
    above = (rankdata(scores, axis=0) * truth).sum(axis=0) - inside * (inside + 1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(above / (inside * outside))


def _estimate(values: Float[np.ndarray, " resample"]) -> Estimate | None:
    """The first is the value itself; None when it, or what a resample gives, is not defined."""
    return Estimate.of(values[0], values[1:]) if np.isfinite(values).all() else None


def sizes_at(judged: Comparison, found: Mapping[str, Iterable[Sequence[Edge]]], keep: float = 0.9) -> dict[str, int]:
    """How many edges each method's smallest circuit has that keeps `keep` on these inputs: fewer is better.

    The whole model is every method's last resort. Raises ProbeError as `scores.worth` does.
    """
    return {name: len(curve(judged, circuits).smallest(keep)) for name, circuits in found.items()}
