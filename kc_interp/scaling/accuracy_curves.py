"""How does accuracy rise with size? The curve of a graded score, which starts at the task's chance and not at 0.

    accuracy at n parameters = chance + (1 - chance - lapse) · F((log10 n - t) / slope)

Rescaled to (accuracy - chance) / (1 - chance) this is the success curve of `thresholds`, fractions in place of yes and
no: a Bernoulli quasi-likelihood (Papke & Wooldridge 1996), exact when every run is at chance or perfect. No scores
between the two vary more around one mean, so for graded scores the intervals are too wide rather than too narrow. A
score below chance counts as chance. Its midpoint is not the size at which half of the runs learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from kc_interp.errors import DataError
from kc_interp.scaling.thresholds import SHARES, Estimate, Posterior, fit


@dataclass(frozen=True, eq=False)
class AccuracyCurve:
    """A fitted curve. The lapse of `posterior` is a share of the way from `chance` to 1."""

    chance: float
    posterior: Posterior

    @property
    def t(self) -> Estimate:
        """Where half of the final rise is done, in log10 parameters."""
        return self.posterior.t

    def sizes(self) -> Mapping[float, Estimate]:
        """Where accuracy has gone 10, 50 and 90 % of the way from chance to 1."""
        return {share: self.posterior.at(share) for share in SHARES}

    def accuracy(self, sizes: Float[np.ndarray, " size"]) -> Float[np.ndarray, "size end"]:
        """Mean accuracy over seeds at each size (a number of parameters): median, low and high end of its 95 %."""
        return self.chance + (1 - self.chance) * self.posterior.curve(sizes)


def fit_accuracy(
    sizes: Float[np.ndarray, " run"],
    accuracy: Float[np.ndarray, " run"],
    chance: float,
    *,
    span: tuple[float, float] | None = None,
) -> AccuracyCurve:
    """The curve of one arm: each run's size (a number of parameters) and accuracy on items common to all arms.

    Raises DataError when an accuracy or the chance is no fraction.
    """
    if not 0 <= chance < 1 or not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise DataError(f"accuracies lie in [0, 1] and chance in [0, 1); got chance {chance:g}, {accuracy}")
    share = np.clip((accuracy - chance) / (1 - chance), 0.0, 1.0)
    return AccuracyCurve(chance, fit(sizes, share, span=span))
