"""One number about a task, with its unit and definition; and all of them for a task.

No measure is "the" complexity: they disagree on which operation is hardest, which is why they stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kc_interp.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from kc_interp.tasks.listops import ListOps

Family = Literal["code", "data", "algebra"]
FAMILIES: tuple[Family, ...] = ("code", "data", "algebra")

Part = Literal["joint", "sum", "saving"]

PREQUENTIAL = "data.prequential"
"""The key of the one measure that `measures` does not take, since it trains: see `kc_interp.scaling.prequential`."""


@dataclass(frozen=True)
class Measure:
    """A number about a task. `value` None: not measured, and `note` says why.

    `part`: "joint" is of the operations together, "sum" adds what each has alone, "saving" is what joining saves.
    `low` and `high` are a 95 % interval where the value was estimated. `note` "more than" makes the value a bound.
    """

    key: str
    title: str
    value: float | None
    unit: str
    family: Family
    definition: str
    part: Part = "joint"
    low: float | None = None
    high: float | None = None
    note: str = ""


def measures(
    task: ListOps,
    *,
    families: Sequence[str] = FAMILIES,
    variants: Sequence[str] | None = None,
    examples: int = 1_000,
    seeds: int = 5,
) -> list[Measure]:
    """Every measure of a task, in a fixed order and with the same values in every process.

    `variants` of programs (None: all); `examples` a sample and how many samples of them the data measures take.
    Raises SpecError on an unknown family or variant, or settings that a family cannot measure.
    """
    for family in families:
        if family not in FAMILIES:
            raise SpecError(f"no family of measures {family!r}{did_you_mean(family, FAMILIES)}")
    if task.shuffled and set(families) - {"data"}:
        raise SpecError(
            f"{', '.join(task.shuffled)} answers by a shuffled table, which no shorter program gives; only the "
            "family 'data' measures it"
        )
    # scipy and the minifier take longer to import than most families to measure.
    from kc_interp.complexity import algebra, code, data

    chosen = code.VARIANTS if variants is None else tuple(variants)
    made: dict[Family, Callable[[], list[Measure]]] = {
        "code": lambda: code.measures(task, chosen),
        "data": lambda: data.measures(task, examples=examples, seeds=seeds),
        "algebra": lambda: algebra.measures(task),
    }
    return [measure for family in FAMILIES if family in families for measure in made[family]()]
