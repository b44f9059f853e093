"""How complex is a task? Of its code, of its data, and of its algebra: `measures(task)` gives every number by name."""

from __future__ import annotations

from kc_interp.complexity.measure import FAMILIES as FAMILIES
from kc_interp.complexity.measure import PREQUENTIAL as PREQUENTIAL
from kc_interp.complexity.measure import Measure as Measure
from kc_interp.complexity.measure import measures as measures

__all__ = ["FAMILIES", "PREQUENTIAL", "Measure", "measures"]
