"""How many steps does it take to learn? Right-censored times: a run that had not learned when it stopped still counts.

    P(not learned after k steps) = never + (1 - never) · S((log10 k - location) / scale)

S is a log-normal's survival function (an accelerated-failure-time model with a cure fraction, Boag 1949). Priors, all
weak: location uniform from a decade below the first event to a decade past the longest budget, scale log-uniform over
.03 to 1 dex, never uniform. Beyond the longest budget *never* and *late* cannot be told apart: a quantile there is
given as a bound. Beside it stands the Kaplan-Meier estimate, which assumes no shape.

`scipy.stats.ecdf` does Kaplan-Meier. scipy's `fit` takes censored data but no cure fraction and gives no interval;
lifelines has both, at the price of pandas, autograd and formulaic, for the three parameters below.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_ndtr, ndtr, ndtri

from kc_interp.errors import DataError
from kc_interp.scaling.thresholds import LEVEL, TAILS, Estimate

SCALES_DEX = (0.03, 1.0)


@dataclass(frozen=True, eq=False)
class Survival:
    """The posterior of a time to learn, on points (location, scale, never); `weights` sum to 1.

    Times are log10 steps. `longest` is the longest budget.
    """

    location: Float[np.ndarray, " point"]
    scale: Float[np.ndarray, " point"]
    never: Float[np.ndarray, " point"]
    weights: Float[np.ndarray, " point"]
    longest: float
    runs: int
    learned: int

    def by(self, steps: float) -> Estimate:
        """The share of runs that have learned after so many steps; None past the longest budget, an extrapolation."""
        if np.log10(steps) > self.longest + 1e-9:
            return Estimate(None, None, None, None, f"no run was longer than {10**self.longest:,.0f} steps")
        share = (1 - self.never) * ndtr((np.log10(steps) - self.location) / self.scale)
        return Estimate.of(self._quantiles(share, 0.5, *TAILS))

    def quantile(self, share: float) -> Estimate:
        """The time (log10 steps) by which this share of all runs has learned; a bound where it passes the budget."""
        reached = share / (1 - self.never)
        times = np.where(reached < 1, self.location + self.scale * ndtri(np.minimum(reached, 1.0)), np.inf)
        middle, low, high = self._quantiles(times, 0.5, *TAILS)
        if high <= self.longest:
            return Estimate(middle, low, high)
        bound = min(self._quantiles(times, 1 - LEVEL)[0], self.longest)
        value = middle if middle <= self.longest else None
        return Estimate(value, bound, None, "above", f"no run was longer than {10**self.longest:,.0f} steps")

    @cached_property
    def median(self) -> Estimate:
        return self.quantile(0.5)

    def _quantiles(self, values: Float[np.ndarray, " point"], *shares: float) -> list[float]:
        order = np.argsort(values)
        mass = np.cumsum(self.weights[order])
        at = np.minimum(np.searchsorted(mass, np.asarray(shares) * mass[-1]), len(mass) - 1)
        return values[order][at].tolist()


def fit_times(
    steps: Float[np.ndarray, " run"],
    learned: Bool[np.ndarray, " run"],
    since: Float[np.ndarray, " run"] | None = None,
    *,
    budget_steps: float | None = None,
) -> Survival:
    """The posterior of one cell (a task, size and schedule). `steps` is when a run was first seen to have learned, or
    when it stopped without.

    `since` is each run's last check before `steps` at which it had not learned (0: none): learning lies between the
    two. Without it times count as exact. `budget_steps` is how long the longest run was (None: the last of `steps`,
    which is less where all have learned). Raises DataError without runs, for a time that is not positive or one past
    the budget.
    """
    if not len(steps) or steps.min() <= 0:
        raise DataError("times to learn need at least one run, and steps above 0")
    if since is not None and (since[learned] >= steps[learned]).any():
        raise DataError("`since`, the last check before learning, must lie before the step at which it was seen")
    if budget_steps is not None and steps.max() > budget_steps:
        raise DataError(f"a run of {steps.max():,.0f} steps, but the longest is said to have {budget_steps:,.0f}")
    time = np.log10(steps)
    longest = float(time.max()) if budget_steps is None else float(np.log10(budget_steps))
    first = time[learned].min() if learned.any() else time.min()
    locations = np.linspace(first - 1, longest + 1, 161)
    scales = SCALES_DEX[0] * (SCALES_DEX[1] / SCALES_DEX[0]) ** ((np.arange(16) + 0.5) / 16)
    nevers = (np.arange(20) + 0.5) / 20
    location, scale, never = (axis.ravel() for axis in np.meshgrid(locations, scales, nevers, indexing="ij"))
    # Runs meet the first two axes alone; `never` joins their sums, which saves a factor of its length.
    z = (time[:, None, None] - locations[:, None]) / scales
    late = ndtr(-z[~learned])
    log = np.log(nevers + (1 - nevers) * late[..., None]).sum(axis=0) + learned.sum() * np.log1p(-nevers)
    if since is None:
        events = (-0.5 * z[learned] ** 2 - np.log(scales)).sum(axis=0)
    else:
        with np.errstate(divide="ignore"):
            before = (np.log10(since[learned])[:, None, None] - locations[:, None]) / scales
        events = _log_between(before, z[learned]).sum(axis=0)
    log = (log + events[..., None]).ravel()
    weights = np.exp(log - log.max())
    return Survival(location, scale, never, weights / weights.sum(), longest, len(steps), int(learned.sum()))


@dataclass(frozen=True, eq=False)
class KaplanMeier:
    """The share that has learned after each of `steps`, with its 95 % (log-log, Kalbfleisch & Prentice) interval.

    An end of the interval is nan where all or none have learned.
    """

    steps: Float[np.ndarray, " event"]
    learned: Float[np.ndarray, " event"]
    low: Float[np.ndarray, " event"]
    high: Float[np.ndarray, " event"]


def kaplan_meier(steps: Float[np.ndarray, " run"], learned: Bool[np.ndarray, " run"]) -> KaplanMeier:
    """Kaplan & Meier 1958, as a share that has learned."""
    from scipy.stats import CensoredData, ecdf

    found = ecdf(CensoredData(uncensored=steps[learned], right=steps[~learned])).sf
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = found.confidence_interval(LEVEL, method="log-log")
    return KaplanMeier(
        np.asarray(found.quantiles, dtype=float),
        1 - found.probabilities,
        1 - interval.high.probabilities,
        1 - interval.low.probabilities,
    )


def _log_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """log(Φ(high) - Φ(low)), on the side of 0 where no digits are lost."""
    flip = low + high > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    top = log_ndtr(high)
    return top + np.log1p(-np.exp(np.minimum(log_ndtr(low) - top, -1e-15)))
