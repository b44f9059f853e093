"""Numbers of small samples, without scipy: importing it takes longer than what training and evaluation print."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), which stays inside [0, 1] and is never empty.

    Raises ValueError unless n is at least 1.

    >>> [round(bound, 3) for bound in wilson(10, 10)]
    [0.722, 1.0]
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return (low if share > 0 else 0.0), (high if share < 1 else 1.0)  # exact where rounding would leave 1e-17


def finite(value: float | Float[np.ndarray, ""]) -> float | None:
    """The number, None where it is not defined.

    >>> finite(math.nan)
    """
    return float(value) if math.isfinite(value) else None
