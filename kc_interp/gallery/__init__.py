"""The gallery: every figure of a study from its records and their analysis alone, as one page and as still images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from kc_interp.errors import SpecError, did_you_mean
from kc_interp.gallery import curves, findings, laws, limits, success, synergy, times
from kc_interp.gallery.drawing import Drawing, Panel
from kc_interp.gallery.page import render

if TYPE_CHECKING:
    from kc_interp.scaling.analysis import Analysis
    from kc_interp.scaling.law_report import LawReport

__all__ = ["NAMES", "Drawing", "Panel", "chosen", "figures", "render"]

_OF_ANALYSIS: Mapping[str, Callable[[Analysis], Drawing]] = {
    curves.NAME: curves.learning_curves,
    success.NAME: success.success,
    times.NAME: times.time_to_learn,
    limits.NAME: limits.thresholds,
    synergy.NAME: synergy.synergy,
    findings.NAME: findings.findings,
}
NAMES = (curves.NAME, success.NAME, times.NAME, limits.NAME, laws.NAME, synergy.NAME, findings.NAME)
"""The figures in the order of the page."""


def chosen(only: Sequence[str]) -> tuple[str, ...]:
    """The figures asked for in the order of the page; all where none is named. Raises SpecError for an unknown name."""
    for name in only:
        if name not in NAMES:
            raise SpecError(f"no figure is named {name!r}{did_you_mean(name, NAMES)}")
    return tuple(name for name in NAMES if not only or name in only)


def figures(analysis: Analysis, reports: Sequence[LawReport] = (), only: Sequence[str] = ()) -> tuple[Drawing, ...]:
    """The figures of an analysis and the laws found in it. Raises SpecError for an unknown name in `only`."""
    return tuple(
        laws.laws(analysis, reports) if name == laws.NAME else _OF_ANALYSIS[name](analysis) for name in chosen(only)
    )
