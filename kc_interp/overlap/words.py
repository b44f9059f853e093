"""Numbers of several models as means and in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of what is defined; None when nothing is."""
    usable = [value for value in values if value is not None]
    return float(np.mean(usable)) if usable else None


def share(value: float | None) -> str:
    """A share as a person reads it."""
    return "not defined" if value is None else f"{value:.2f}"


def p_value(value: float | None) -> str:
    """A p-value as a person reads it."""
    return "not defined" if value is None else f"{value:.3g}"
