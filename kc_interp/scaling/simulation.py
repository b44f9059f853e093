"""Worlds whose truth is known, in which the fits and the placement are tried out: tests and benchmarks read them.

The seeds of a threshold world are bimodal, as trained ones are: a run ends near chance or near 1, and success is read
off its accuracy with the level of `evaluation`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, ndtr

from kc_interp.scaling.laws import Tasks
from kc_interp.scaling.placement import Outcome, Placement
from kc_interp.scaling.thresholds import LAPSES, MARGIN_DEX, SLOPES_DEX

WIDTHS = (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
SIZES = tuple(12 * d * d + 180 * d + 20 for d in WIDTHS)
"""The parameters of the paper's model (one block tied five times) at each width: .09 to .19 dex apart."""

LEVEL = 0.9
CHANCE = 0.132
OPERATIONS = ("MAX", "MED", "MIN", "SUM")


@dataclass(frozen=True)
class World:
    """The true success curve of a task. `link` "normal" is a curve that the logistic fit does not assume."""

    t: float
    slope: float
    lapse: float
    link: str = "logistic"

    def chance(self, sizes: Float[np.ndarray, " run"]) -> Float[np.ndarray, " run"]:
        """The chance of success at these numbers of parameters."""
        z = (np.log10(sizes) - self.t) / self.slope
        return (1 - self.lapse) * (ndtr(z / 1.702) if self.link == "normal" else expit(z))

    def accuracies(self, sizes: Float[np.ndarray, " run"], rng: np.random.Generator) -> Float[np.ndarray, " run"]:
        """What one trained run at each size scores: above .9 where it succeeded, around chance where it did not."""
        wins = rng.random(len(sizes)) < self.chance(sizes)
        high = LEVEL + (1 - LEVEL) * rng.beta(3, 1, len(sizes))
        low = np.clip(CHANCE + 0.03 * rng.standard_normal(len(sizes)), 0, LEVEL - 0.01)
        return np.where(wins, high, low)


def draw_world(
    rng: np.random.Generator,
    slopes: tuple[float, float] = (0.05, 0.3),
    *,
    most_lapse: float | None = 0.15,
    link: str = "logistic",
) -> World:
    """A world with t within the study's sizes and a slope log-uniform over `slopes`.

    Lapses are uniform up to `most_lapse`; None takes them from the prior of the fits, a quarter and more now and then.
    """
    t = rng.uniform(np.log10(SIZES[1]), np.log10(SIZES[-2]))
    slope = slopes[0] * (slopes[1] / slopes[0]) ** rng.random()
    lapse = rng.beta(*LAPSES) if most_lapse is None else rng.uniform(0, most_lapse)
    return World(float(t), float(slope), float(lapse), link)


def draw_prior(rng: np.random.Generator) -> World:
    """A world from the priors of the fits, half of them with t out of range: here coverage must be exact."""
    t = rng.uniform(np.log10(SIZES[0]) - MARGIN_DEX, np.log10(SIZES[-1]) + MARGIN_DEX)
    slope = SLOPES_DEX[0] * (SLOPES_DEX[1] / SLOPES_DEX[0]) ** rng.random()
    return World(float(t), float(slope), float(rng.beta(*LAPSES)))


def adaptive(world: World, placement: Placement, rng: np.random.Generator) -> list[Outcome]:
    """All runs of a study that is placed in batches, in the order in which they were made."""
    size_of = dict(zip(placement.widths, placement.sizes, strict=True))
    done: list[Outcome] = []
    while runs := placement.next_batch(done).runs:
        accuracies = world.accuracies(np.asarray([float(size_of[run.width]) for run in runs]), rng)
        done += [Outcome(run, bool(score >= LEVEL)) for run, score in zip(runs, accuracies, strict=True)]
    return done


def fixed_sizes(runs: int) -> Float[np.ndarray, " run"]:
    """The same number of seeds at every size; what does not divide goes to sizes spread over the range."""
    at = np.floor(np.arange(runs) * len(SIZES) / runs).astype(int)
    return np.asarray(SIZES, dtype=float)[at]


@dataclass(frozen=True)
class Law:
    """A true power law over the 15 subsets of four operations; all spreads in dex."""

    exponent: float = 2.94
    part_sd: float = 0.15
    scatter_sd: float = 0.1
    x_sd: float = 0.0
    y_sd: float = 0.03

    def draw(self, rng: np.random.Generator) -> Tasks:
        """Measured tasks. Complexities are those of joint programs: a common part and one for each operation."""
        names = ["+".join(c) for k in range(1, 5) for c in itertools.combinations(OPERATIONS, k)]
        parts = np.asarray([[op in name.split("+") for op in OPERATIONS] for name in names])
        true = np.log10(60 + parts @ rng.uniform(30, 150, 4))
        effects = parts / parts.sum(axis=1, keepdims=True) @ rng.normal(0, self.part_sd, 4)
        noise = rng.normal(0, np.hypot(self.scatter_sd, self.y_sd), len(names))
        y = 4.5 + self.exponent * (true - 2.4) + effects + noise
        measured = true + rng.normal(0, self.x_sd, len(names))
        return Tasks.of(names, 10**measured, y, x_sd=self.x_sd, y_sd=self.y_sd)


@dataclass(frozen=True)
class Times:
    """A true log-normal time to learn (log10 steps) with runs that never do."""

    location: float
    scale: float
    never: float

    def draw(
        self, runs: int, budget_steps: float, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, " run"], np.ndarray]:
        """Steps until learned or stopped at the budget, and which of the two."""
        steps = 10 ** (self.location + self.scale * rng.standard_normal(runs))
        steps = np.where(rng.random(runs) < self.never, np.inf, steps)
        return np.minimum(steps, budget_steps), steps <= budget_steps
