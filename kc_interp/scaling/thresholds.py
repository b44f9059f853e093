"""At what size does a task become learnable? The posterior of a success curve, one trained run one yes or no.

    P(success at n parameters) = (1 - lapse) · F((log10 n - t) / slope),  F logistic

The floor is 0: a run succeeds or does not, and chance belongs to accuracies (`accuracy_curves`). `t` (log10 parameters)
is where half of the runs that would ever succeed do; `slope` is in dex (from 10 to 90 % takes 4.4 slopes); `lapse` is
the share of seeds that fail at any size. With one or two runs a size a bootstrap resamples next to nothing, so the
posterior is computed on a grid. Priors, all weak: t uniform over the study's range of sizes and one dex on either side,
slope log-uniform, lapse Beta(1, 9).

Beyond the sizes that were tried only the prior speaks, so an end of an interval that falls there is dropped and the
other becomes a one-sided bound.

psignifit (4.3) and questplus (2023.1) were weighed for this and for `placement`. Both are GPL-3 (we are Apache-2.0).
psignifit takes its priors from the data's range, warns of adaptive data, and answers a task that no run learned with a
threshold past the largest size instead of a bound; a fit takes 0.26 s and matplotlib. questplus places one trial at a
time, none beside others under way, minimises the entropy of slope and lapse too, and had its last release in 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, log_expit, logit
from scipy.stats import beta

from kc_interp.errors import DataError

SLOPES_DEX = (0.03, 0.5)
LAPSES = (1.0, 9.0)
"""The lapse's Beta prior."""

MARGIN_DEX = 1.0
LEVEL = 0.95
SHARES = (0.1, 0.5, 0.9)
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_Quantiles = Callable[..., list[float]]


@dataclass(frozen=True, eq=False)
class Grid:
    """The points (t, slope, lapse) of a posterior, equally likely beforehand; t evenly spaced, in log10 parameters."""

    t: Float[np.ndarray, " t"]
    slope: Float[np.ndarray, " nuisance"]
    lapse: Float[np.ndarray, " nuisance"]

    @classmethod
    def over(cls, low: float, high: float, *, step_dex: float = 0.01, slopes: int = 10, lapses: int = 8) -> Grid:
        """The grid of a study whose sizes span `low` to `high` (log10): slopes and lapses at quantiles of their priors.

        Raises DataError for an empty range.
        """
        if not low <= high:
            raise DataError(f"sizes from 10^{low:g} to 10^{high:g} are no range; give the smallest first")
        t = np.arange(low - MARGIN_DEX, high + MARGIN_DEX + step_dex, step_dex)
        share = (np.arange(slopes) + 0.5) / slopes
        slope = SLOPES_DEX[0] * (SLOPES_DEX[1] / SLOPES_DEX[0]) ** share
        lapse = beta.ppf((np.arange(lapses) + 0.5) / lapses, *LAPSES)
        slope, lapse = np.meshgrid(slope, lapse, indexing="ij")
        return cls(t, slope.ravel(), lapse.ravel())

    @property
    def step_dex(self) -> float:
        return float(self.t[1] - self.t[0])

    def probability(self, size: Float[np.ndarray, " size"]) -> Float[np.ndarray, "size t nuisance"]:
        """The chance of success at each size (log10) under each point."""
        return (1 - self.lapse) * expit((size[:, None, None] - self.t[:, None]) / self.slope)


@dataclass(frozen=True)
class Estimate:
    """A size in log10 parameters (or another quantity on its own scale) with its 95 % interval.

    `censored`: "above" (only `low` is known, a one-sided 95 % bound), "below" (only `high`), "both" (nothing is known).
    `value`, the posterior median, is None where it would be an extrapolation; `note` says why something is None.
    """

    value: float | None
    low: float | None
    high: float | None
    censored: Literal["above", "below", "both"] | None = None
    note: str = ""

    @classmethod
    def of(cls, quantiles: Sequence[float]) -> Estimate:
        """An estimate of its median and the two ends of its interval."""
        middle, low, high = quantiles
        return cls(middle, low, high)

    def says(self, unit: str = "parameters") -> str:
        """The size in words.

        >>> Estimate(None, 4.5, None, "above").says()
        'censored: above 31,600 parameters (one-sided 95 % bound)'
        """
        if self.censored == "both":
            return f"censored on both sides: {self.note}"
        if self.censored == "above" and self.low is not None:
            return f"censored: above {_count(self.low)} {unit} (one-sided 95 % bound)"
        if self.censored == "below" and self.high is not None:
            return f"censored: below {_count(self.high)} {unit} (one-sided 95 % bound)"
        if self.value is None or self.low is None or self.high is None:
            return f"not known: {self.note}"
        return f"{_count(self.value)} {unit} (95 %: {_count(self.low)} to {_count(self.high)})"


@dataclass(frozen=True)
class Threshold:
    """A success curve on one size axis. `at` holds the sizes at which 10, 50 and 90 % of all runs succeed.

    `at` counts lapses as failures, `t` does not: with a lapse of a tenth, 90 % is reached at no size.
    """

    axis: str
    t: Estimate
    at: Mapping[float, Estimate]
    slope_dex: Estimate
    lapse: Estimate
    runs: int
    learned: int
    smallest: float
    largest: float

    def says(self) -> str:
        """One sentence: the size at which half of all runs succeed, and what it rests on."""
        tried = f"{self.learned} of {self.runs} runs from {_count(self.smallest)} to {_count(self.largest)} learned"
        return f"{self.at[0.5].says(self.axis)}; {tried}."


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the runs say of (t, slope, lapse): `weights` sum to 1. `smallest`, `largest`: the sizes tried (log10)."""

    grid: Grid
    weights: Float[np.ndarray, "t nuisance"]
    smallest: float
    largest: float
    runs: int
    learned: int

    @cached_property
    def t_weights(self) -> Float[np.ndarray, " t"]:
        return self.weights.sum(axis=1)

    @property
    def t_mean(self) -> float:
        """The posterior mean of t: the estimate of least squared error, wherever it lies."""
        return float(self.t_weights @ self.grid.t)

    @property
    def t_sd(self) -> float:
        return math.sqrt(float(self.t_weights @ (self.grid.t - self.t_mean) ** 2))

    def t_quantiles(self, *shares: float) -> list[float]:
        """Quantiles of t, linear within the grid's cells."""
        half = self.grid.step_dex / 2
        edges = np.append(self.grid.t - half, self.grid.t[-1] + half)
        return np.interp(shares, np.append(0.0, np.cumsum(self.t_weights)), edges).tolist()

    @property
    def t(self) -> Estimate:
        return self._bounded(self.t_quantiles)

    def at(self, share: float) -> Estimate:
        """The size (log10) at which this share of all runs succeeds, lapses counted as failures."""
        reached = share / (1 - self.grid.lapse)
        with np.errstate(divide="ignore"):
            shift = np.where(reached < 1, logit(np.minimum(reached, 1.0)), np.inf) * self.grid.slope
        sizes = self.grid.t[:, None] + shift
        never = float(self.weights[:, reached >= 1].sum())
        note = f"with probability {never:.2f} so many seeds fail at any size that {share:.0%} is never reached"
        return self._bounded(lambda *q: _quantiles(sizes, self.weights, *q), note if never > 1 - LEVEL else "")

    def curve(self, sizes: Float[np.ndarray, " size"]) -> Float[np.ndarray, "size end"]:
        """The success probability at each size (a number of parameters): median, low and high end of its 95 %."""
        chances = self.grid.probability(np.log10(sizes))
        return np.asarray([_quantiles(chance, self.weights, 0.5, *TAILS) for chance in chances])

    def summary(self, axis: str = "parameters") -> Threshold:
        """The whole curve as plain data."""
        nuisance = {
            name: Estimate.of(_quantiles(values, self.weights.sum(axis=0), 0.5, *TAILS))
            for name, values in (("slope", self.grid.slope), ("lapse", self.grid.lapse))
        }
        return Threshold(
            axis,
            self.t,
            {share: self.at(share) for share in SHARES},
            nuisance["slope"],
            nuisance["lapse"],
            self.runs,
            self.learned,
            self.smallest,
            self.largest,
        )

    def _bounded(self, quantiles: _Quantiles, note: str = "") -> Estimate:
        """An interval, or the bound that is left of it when one end would lie beyond the sizes tried."""
        middle, low, high = quantiles(0.5, *TAILS)
        value = middle if self.smallest <= middle <= self.largest else None
        above, below = high > self.largest, low < self.smallest
        if not above and not below:
            return Estimate(value, low, high)
        if above and not below:
            why = note or f"larger sizes than 10^{self.largest:.2f} were not tried"
            return Estimate(value, min(quantiles(1 - LEVEL)[0], self.largest), None, "above", why)
        if below and not above:
            return Estimate(
                value,
                None,
                max(quantiles(LEVEL)[0], self.smallest),
                "below",
                f"smaller sizes than 10^{self.smallest:.2f} were not tried",
            )
        return Estimate(None, None, None, "both", f"{self.runs} runs over these sizes do not locate it")


def fit(
    sizes: Float[np.ndarray, " run"],
    learned: Bool[np.ndarray, " run"] | Float[np.ndarray, " run"],
    *,
    span: tuple[float, float] | None = None,
    grid: Grid | None = None,
) -> Posterior:
    """The posterior of one arm: each run's size (a number of parameters) and whether it learned.

    `span` is the smallest and largest size of the study (default: of these runs), over which t is uniform beforehand.
    A fraction in place of a yes or no is a quasi-likelihood (see `accuracy_curves`). Raises DataError without runs.
    """
    if not len(sizes):
        raise DataError("no run to fit; a threshold needs at least one")
    if sizes.min() < 1:
        raise DataError(f"a size of {sizes.min():g} parameters; sizes are counts, not logarithms")
    size, at = np.unique(np.log10(sizes), return_inverse=True)
    low, high = np.log10(span) if span else (size[0], size[-1])
    grid = grid or study_grid(float(low), float(high))
    runs = np.bincount(at)
    wins = np.bincount(at, weights=learned.astype(float))
    weights = _posterior_weights(grid, size, wins, runs - wins)
    return Posterior(grid, weights, float(size[0]), float(size[-1]), int(runs.sum()), round(float(wins.sum())))


def difference(a: Posterior, b: Posterior) -> Estimate:
    """t of b minus t of a, in dex: -0.3 says that b needs half the size. The arms' runs must be different runs.

    One-sided where an arm is censored; "both" where each censored arm leaves another end open.
    """
    gaps = _tried(b)[:, None] - _tried(a)
    weights = b.t_weights[:, None] * a.t_weights
    return _open_ended([(1, b), (-1, a)], lambda *shares: _quantiles(gaps, weights, *shares))


def interaction(a: Posterior, b: Posterior, c: Posterior, d: Posterior, draws: int = 100_000) -> Estimate:
    """(t of b minus t of a) minus (t of d minus t of c), in dex: by how much one contrast exceeds another.

    From `draws` independent draws of each posterior under a fixed seed (error of an end: about 0.002 dex); censored
    arms leave ends open as in `difference`.
    """
    rng = np.random.default_rng(0)
    terms = [(1, b), (-1, a), (-1, d), (1, c)]
    total = np.zeros(draws)
    for sign, one in terms:
        total += sign * rng.choice(_tried(one), size=draws, p=one.t_weights / one.t_weights.sum())
    return _open_ended(terms, lambda *shares: np.quantile(total, shares).tolist())


def _tried(posterior: Posterior) -> Float[np.ndarray, " t"]:
    """The posterior's places; beyond the sizes tried, where the data say nothing, the last size."""
    return np.clip(posterior.grid.t, posterior.smallest, posterior.largest)


def _open_ended(terms: Sequence[tuple[int, Posterior]], quantiles: _Quantiles) -> Estimate:
    """A signed sum of thresholds, one-sided where censored arms leave one end open."""
    ends = [(sign, posterior.t.censored) for sign, posterior in terms]
    above = any(end == "both" or end == ("above" if sign > 0 else "below") for sign, end in ends)
    below = any(end == "both" or end == ("below" if sign > 0 else "above") for sign, end in ends)
    if above and below:
        return Estimate(None, None, None, "both", "censored arms leave both ends open")
    if above:
        return Estimate(None, quantiles(1 - LEVEL)[0], None, "above", "an arm is censored")
    if below:
        return Estimate(None, None, quantiles(LEVEL)[0], "below", "an arm is censored")
    return Estimate.of(quantiles(0.5, *TAILS))


@dataclass(frozen=True)
class Capacity:
    """The smallest size with any known solution, whatever made it, and how far each arm's t lies above it (dex).

    It bounds from above what a model needs: the smallest sufficient size is no larger.
    """

    size: float | None
    arm: str | None
    distances_dex: Mapping[str, Estimate] = field(default_factory=dict)
    note: str = ""


def capacity(
    sizes: Float[np.ndarray, " run"],
    solved: Bool[np.ndarray, " run"],
    arms: list[str],
    posteriors: Mapping[str, Posterior],
) -> Capacity:
    """The capacity bound over all runs: any mixture, initialisation, schedule or warm start counts as a solution."""
    if not solved.any():
        return Capacity(None, None, {}, f"none of {len(solved)} runs solves it")
    best = int(np.flatnonzero(solved)[np.argmin(sizes[solved])])
    bound = math.log10(float(sizes[best]))
    distances = {name: _less(posterior.t, bound) for name, posterior in posteriors.items()}
    return Capacity(float(sizes[best]), arms[best], distances)


def _less(estimate: Estimate, bound: float) -> Estimate:
    value, low, high = (None if x is None else x - bound for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.censored, estimate.note)


def _posterior_weights(
    grid: Grid,
    size: Float[np.ndarray, " size"],
    wins: Float[np.ndarray, " size"],
    losses: Float[np.ndarray, " size"],
) -> Float[np.ndarray, "t nuisance"]:
    log = np.zeros((len(grid.t), len(grid.slope)))
    for x, won, lost in zip(size.tolist(), wins.tolist(), losses.tolist(), strict=True):
        of_success, of_failure = _log_chances(grid, x)
        log += won * of_success + lost * of_failure
    weights = np.exp(log - log.max())
    return weights / weights.sum()


@lru_cache(maxsize=16)
def study_grid(low: float, high: float, step_dex: float = 0.01, slopes: int = 10, lapses: int = 8) -> Grid:
    """`Grid.over`, the same object for the same study: its tables of logarithms are then computed once."""
    return Grid.over(low, high, step_dex=step_dex, slopes=slopes, lapses=lapses)


@lru_cache(maxsize=128)
def _log_chances(grid: Grid, size: float) -> tuple[Float[np.ndarray, "t nuisance"], Float[np.ndarray, "t nuisance"]]:
    """Log probability of success and of failure of a run at this size (log10), under each point."""
    z = (size - grid.t[:, None]) / grid.slope
    return np.log1p(-grid.lapse) + log_expit(z), np.log1p(-(1 - grid.lapse) * expit(z))


def _quantiles(values: np.ndarray, weights: np.ndarray, *shares: float) -> list[float]:
    """Weighted quantiles of points in any order."""
    some = weights > 0  # of many runs few points are left: the others need no sorting
    values, weights = values[some], weights[some]
    order = np.argsort(values)
    mass = np.cumsum(weights[order])
    at = np.minimum(np.searchsorted(mass, np.asarray(shares) * mass[-1]), len(mass) - 1)
    return values[order][at].tolist()


def _count(log10: float) -> str:
    """A number of parameters to three digits."""
    if log10 > 9 or log10 < 0:
        return f"{10**log10:.3g}"
    return f"{float(f'{10**log10:.3g}'):,.0f}"
