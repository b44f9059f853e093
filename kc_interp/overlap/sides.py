"""Pairs of models within a side against pairs across: the mean of each, with seeds as the units.

Pairs share models, so they are not independent. Intervals are those of the delete-one-model jackknife of a U-statistic
(Arvesen 1969, https://doi.org/10.1214/aoms/1177697287), and the p-value that of exchanging the models' sides, as for
the energy statistic (Székely and Rizzo 2013, https://doi.org/10.1016/j.jspi.2013.03.018).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from kc_interp.comparison import LEVEL

_MOST = 200_000
"""More assignments of models to sides are not enumerated."""

_FEWEST = 3
"""A side of fewer models has no jackknife interval of its mean over pairs."""

_A, _B, _ACROSS, _DIFFERENCE = range(4)


@dataclass(frozen=True)
class Mean:
    """A mean over pairs of models with its 95 % interval over models; `note` says why something is None."""

    value: float | None
    low: float | None
    high: float | None
    models: int
    pairs: int
    note: str = ""


@dataclass(frozen=True)
class Contrast:
    """The mean of pairs within each side and across, and how much more alike models of one side are.

    `difference` is the mean of the two sides' means within, less the mean across. `p` is how many of all exchanges of
    sides give a difference as large, one-sided; None, with the reason, where it could not fall below .05.
    """

    within: tuple[Mean, Mean]
    across: Mean
    difference: Mean
    p: float | None
    p_note: str = ""


def contrast(values: Float[np.ndarray, "model model"], first: int) -> Contrast:
    """The first `first` models are one side, the others the other (there may be none). `values` is symmetric."""
    sides = (np.arange(len(values)) >= first).astype(np.int64)
    own = _means(values, sides)
    low, high, note = _jackknife(values, sides, own)
    sizes = [int((sides == side).sum()) for side in (0, 1)]
    pairs = [math.comb(size, 2) for size in sizes] + [sizes[0] * sizes[1]]
    pairs.append(sum(pairs))
    models = [*sizes, len(values), len(values)]
    found = [
        Mean(
            _number(own[index]),
            _number(low[index]),
            _number(high[index]),
            models[index],
            pairs[index],
            _why(index, own, sizes) or (note[index] if np.isnan(low[index]) else ""),
        )
        for index in range(4)
    ]
    p, p_note = _permuted(values, sides, float(own[_DIFFERENCE]))
    return Contrast((found[_A], found[_B]), found[_ACROSS], found[_DIFFERENCE], p, p_note)


def _means(values: Float[np.ndarray, "model model"], sides: Int[np.ndarray, " model"]) -> Float[np.ndarray, " 4"]:
    """Within either side, across, and the difference; NaN where there is no pair."""
    rows, columns = np.triu_indices(len(sides), 1)
    pairs, kinds = values[rows, columns], sides[rows] + sides[columns]
    within_a, across, within_b = (pairs[kinds == kind].mean() if (kinds == kind).any() else np.nan for kind in range(3))
    alike = [value for value in (within_a, within_b) if not np.isnan(value)]
    difference = float(np.mean(alike)) - across if alike else np.nan
    return np.asarray([within_a, within_b, across, difference])


def _jackknife(
    values: Float[np.ndarray, "model model"], sides: Int[np.ndarray, " model"], own: Float[np.ndarray, " 4"]
) -> tuple[Float[np.ndarray, " 4"], Float[np.ndarray, " 4"], list[str]]:
    """Bounds of the 95 % intervals, NaN where a side that counts has too few models, and why."""
    from scipy.stats import t

    total = np.zeros(4)
    counts = {side: int((sides == side).sum()) for side in (0, 1)}
    for side, count in counts.items():
        if not count:
            continue
        left = [np.flatnonzero(np.arange(len(sides)) != gone) for gone in np.flatnonzero(sides == side)]
        without = np.stack([_means(values[np.ix_(rest, rest)], sides[rest]) for rest in left])
        spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0) * (count - 1) / count
        matters = np.asarray([side == 0, side == 1, True, True])
        total += np.where(matters, spread, 0.0)
    needed = [[counts[0]], [counts[1]], list(counts.values()), list(counts.values())]
    few = np.asarray([min(some) < _FEWEST for some in needed])
    freedom = np.asarray([max(1, sum(some) - len(some)) for some in needed])
    half = np.where(few | (total <= 0), np.nan, t.ppf(1 - LEVEL / 2, freedom) * np.sqrt(total))
    notes = [
        f"no interval: fewer than {_FEWEST} models a side" if lacks else "no interval: the models do not differ at all"
        for lacks in few
    ]
    return own - half, own + half, notes


def _why(index: int, own: Float[np.ndarray, " 4"], sizes: list[int]) -> str:
    """Why there is no value; for one model a side, what a single value speaks of."""
    if not np.isnan(own[index]):
        return "these two checkpoints only" if index == _ACROSS and sizes == [1, 1] else ""
    if index == _DIFFERENCE:
        return (
            "no side has two models, so nothing is known of how much seeds differ" if sizes[1] else "there is one side"
        )
    return "there is one side" if index == _ACROSS else "fewer than two models on this side"


def _permuted(
    values: Float[np.ndarray, "model model"], sides: Int[np.ndarray, " model"], observed: float
) -> tuple[float | None, str]:
    """How often an exchange of sides gives a difference as large as that observed, itself among them."""
    n, first = len(sides), int((sides == 0).sum())
    if math.isnan(observed):
        return None, "there is no difference to test"
    assignments = math.comb(n, first)
    least = (2 if 2 * first == n else 1) / assignments
    if least >= LEVEL:
        return None, f"with {first} and {n - first} models no p-value can fall below {least:.2g}"
    if assignments > _MOST:
        return None, f"{assignments:,} assignments of models to sides are too many to enumerate; see the interval"
    reached = 0
    for chosen in _chunks(n, first):
        a = np.zeros((len(chosen), n))
        np.put_along_axis(a, chosen, 1.0, axis=1)
        whole = np.where(np.eye(n, dtype=bool), 0.0, values)
        reached += int((_differences(a, whole, first) >= observed - 1e-9).sum())
    return reached / assignments, ""


def _chunks(n: int, first: int) -> Iterator[Int[np.ndarray, "assignment member"]]:
    every = itertools.combinations(range(n), first)
    while some := list(itertools.islice(every, 10_000)):
        yield np.asarray(some, dtype=np.int64).reshape(-1, first)


def _differences(
    a: Float[np.ndarray, "assignment model"], whole: Float[np.ndarray, "model model"], first: int
) -> Float[np.ndarray, " assignment"]:
    """The difference for each assignment, whose row holds 1 where a model is of the first side."""
    b = 1 - a
    second = whole.shape[0] - first
    sums = [((one @ whole) * other).sum(axis=1) for one, other in ((a, a), (b, b), (a, b))]
    alike = [total / (size * (size - 1)) for total, size in zip(sums[:2], (first, second), strict=True) if size > 1]
    return np.mean(alike, axis=0) - sums[2] / (first * second)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
