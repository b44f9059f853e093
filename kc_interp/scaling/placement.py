"""Which sizes to train next? Batches of runs placed where they tell most about t, from completed batches only.

Each run of a batch goes to the allowed size that leaves the least expected entropy of t (QUEST+, Watson 2017,
https://doi.org/10.1167/17.3.10), slope and lapse marginalised (Prins 2013). What the earlier runs of the same batch
will say is unknown: it is fantasised, by outcomes drawn from the posterior. Expected outcomes in their place would pile
a first batch onto the middle size, where half a success looks like a threshold found.

A batch is a function of the completed runs (in any order), the settings and the seed, so that a resumed study asks for
the same runs again. Runs cost the same here whatever their size.

In simulated worlds (`experiments/bench/calibration.py`; slopes .05 to .1 dex, lapses to .15) 48 runs in batches of four
err by .032 dex, batches of eight by .034; a fixed grid needs about 300 runs for the first. Where a quarter of all seeds
and more may lapse it is .054.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import xlogy

from kc_interp.errors import SpecError
from kc_interp.scaling.thresholds import Grid, Posterior, fit, study_grid

_BINS = 64
_OUT = 1e-4
"""Share of the posterior of t that is left out at either end when it is put into bins."""


@dataclass(frozen=True)
class Run:
    """One run to make: a width of the study and the seed to train it with."""

    width: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """A run that was made, and whether it learned."""

    run: Run
    learned: bool


@dataclass(frozen=True)
class Batch:
    """The runs to make next, or none and the reason to `stop`."""

    runs: tuple[Run, ...]
    stop: str = ""


@dataclass(frozen=True)
class Placement:
    """Where a study's runs go: `sizes` are the parameter counts of the allowed `widths`, both ascending.

    It stops after `budget_runs`, or once the 95 % interval of t is narrower than `width_dex`. Raises SpecError for
    settings that do not fit each other.
    """

    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    budget_runs: int = 48
    batch_runs: int = 4
    width_dex: float | None = None
    fantasies: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.sizes) or len(self.widths) < 2:
            raise SpecError(
                f"{len(self.widths)} widths and {len(self.sizes)} sizes; placement needs at least two of each"
            )
        if list(self.sizes) != sorted(set(self.sizes)) or list(self.widths) != sorted(set(self.widths)):
            raise SpecError("widths and sizes of a placement must ascend, none twice")
        if min(self.batch_runs, self.budget_runs, self.fantasies) < 1:
            raise SpecError("batch_runs, budget_runs and fantasies are at least 1")

    def posterior(self, completed: Sequence[Outcome], grid: Grid | None = None) -> Posterior:
        """The posterior of the threshold, t uniform over all allowed sizes beforehand (and a dex on either side).

        Raises DataError without runs.
        """
        sizes = np.asarray([self.sizes[self._index(outcome.run.width)] for outcome in completed], dtype=float)
        learned = np.asarray([outcome.learned for outcome in completed], dtype=bool)
        return fit(sizes, learned, span=(self.sizes[0], self.sizes[-1]), grid=grid)

    def next_batch(self, completed: Sequence[Outcome]) -> Batch:
        """The next runs. Seeds count up from 0 within each width, skipping those that were used."""
        left = self.budget_runs - len(completed)
        if left <= 0:
            return Batch((), f"the budget of {self.budget_runs} runs is spent")
        if completed and self.width_dex is not None:
            t = self.posterior(completed).t
            if t.low is not None and t.high is not None and t.high - t.low <= self.width_dex:
                return Batch(
                    (), f"the interval of t is {t.high - t.low:.3f} dex wide, {self.width_dex:g} was asked for"
                )
        rng = np.random.default_rng([self.seed, len(completed)])
        used = Counter(outcome.run.width for outcome in completed)
        taken = {outcome.run for outcome in completed}
        runs = []
        for index in self._choose(completed, min(left, self.batch_runs), rng):
            width = self.widths[index]
            seed = used[width]
            while Run(width, seed) in taken:
                seed += 1
            used[width] = seed + 1
            taken.add(Run(width, seed))
            runs.append(Run(width, seed))
        return Batch(tuple(runs))

    def _index(self, width: int) -> int:
        if width not in self.widths:
            raise SpecError(f"a run of width {width}, but the study allows {', '.join(map(str, self.widths))}")
        return self.widths.index(width)

    def _choose(self, completed: Sequence[Outcome], count: int, rng: np.random.Generator) -> list[int]:
        """Indices of the sizes of a batch, one after the other."""
        sizes = np.log10(np.asarray(self.sizes, dtype=float))
        grid = study_grid(float(sizes[0]), float(sizes[-1]), 0.02, 6, 4)
        if completed:
            weights = self.posterior(completed, grid).weights
        else:
            weights = np.full((len(grid.t), len(grid.slope)), 1 / (len(grid.t) * len(grid.slope)))
        grid, weights = _binned(grid, weights)
        chance = grid.probability(sizes)
        truths = _systematic(weights, self.fantasies, rng)
        believed = np.broadcast_to(weights, (self.fantasies, *weights.shape))
        chosen = []
        for _ in range(count):
            index = int(np.argmin(expected_entropy(believed, chance)))
            chosen.append(index)
            wins = rng.random(self.fantasies) < chance[index].ravel()[truths]
            believed = believed * np.where(wins[:, None, None], chance[index], 1 - chance[index])
            believed = believed / believed.sum(axis=(1, 2), keepdims=True)
        return chosen


def expected_entropy(
    weights: Float[np.ndarray, "fantasy t nuisance"], chance: Float[np.ndarray, "size t nuisance"]
) -> Float[np.ndarray, " size"]:
    """Entropy of t (nats) to expect after one more run at each size, averaged over the fantasies."""
    by_t = np.ascontiguousarray(np.moveaxis(weights, 1, 0))
    wins = by_t @ np.ascontiguousarray(np.moveaxis(chance, (0, 1), (2, 0)))
    losses = by_t.sum(axis=2, keepdims=True) - wins
    expected = np.zeros(wins.shape[1:])
    for mass in (wins, np.maximum(losses, 0.0)):
        total = mass.sum(axis=0)
        expected += xlogy(total, total) - xlogy(mass, mass).sum(axis=0)
    return expected.mean(axis=0)


def _binned(grid: Grid, weights: Float[np.ndarray, "t nuisance"]) -> tuple[Grid, Float[np.ndarray, "bin nuisance"]]:
    """The part of the grid that holds the posterior of t, in at most 64 bins."""
    mass = np.cumsum(weights.sum(axis=1))
    first, last = (int(np.searchsorted(mass, share * mass[-1])) for share in (_OUT, 1 - _OUT))
    last = min(max(last, first + 1), len(grid.t) - 1)
    first = min(first, last - 1)
    each = math.ceil((last + 1 - first) / _BINS)
    starts = np.arange(first, last + 1, each)
    inside = weights[: last + 1]
    binned = np.add.reduceat(inside, starts, axis=0)
    centre = grid.t[starts] + (each - 1) / 2 * grid.step_dex
    return Grid(centre, grid.slope, grid.lapse), binned / binned.sum()


def _systematic(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Flat indices drawn in proportion to the weights, evenly over them (one random number)."""
    mass = np.cumsum(weights)
    return np.minimum(np.searchsorted(mass, (np.arange(count) + rng.random()) / count * mass[-1]), mass.size - 1)
