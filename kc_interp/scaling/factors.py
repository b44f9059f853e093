"""The factors of a study: what its grid varies, every combination of them, and a point of the grid in words."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kc_interp.spec import LATER, Initialisation

TASK_FACTORS = ("modulus", "lengths")
"""The factors that are settings of the task, under their own names."""


@dataclass(frozen=True)
class Grid:
    """The factors of the study; an empty one stays as in the base. `shape` is (n_layers, repeat).

    `lengths` are strata of the questions' length: the shortest and the longest, in symbols (see `ListOps`).
    """

    d_model: tuple[int, ...] = ()
    init: tuple[Initialisation | float, ...] = ()
    shape: tuple[tuple[int, int], ...] = ()
    n_heads: tuple[int, ...] = ()
    vocabulary: tuple[Literal["used", "all"], ...] = ()
    modulus: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    lengths: tuple[tuple[int, int], ...] = field(default=(), metadata=LATER)

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of the factors that are varied; the width varies fastest."""
        varied = {f.name: getattr(self, f.name) for f in reversed(dataclasses.fields(self)) if getattr(self, f.name)}
        for values in itertools.product(*varied.values()):
            yield dict(zip(varied, values, strict=True))

    def only(self, names: Sequence[str]) -> Grid:
        """The grid with the factors of these names alone."""
        return Grid(**{name: getattr(self, name) for name in names})

    def without(self, names: Sequence[str]) -> Grid:
        """The grid with the factors of these names left as in the base."""
        return dataclasses.replace(self, **dict.fromkeys(names, ()))


def task_settings(point: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the task that a point of the grid decides, as plain data."""
    held = {name: point[name] for name in TASK_FACTORS if name in point}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in held.items()}


def point_words(point: Mapping[str, Any]) -> str:
    """A point of the grid in words: "d_model 16, init narrow"."""
    return ", ".join(f"{name} {value}" for name, value in point.items()) or "the base settings"
