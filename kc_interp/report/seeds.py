"""Every trained model as one mark: inline SVG that stands in the page before any script has run, and prints.

A disc or ring is a model that learned its task, a cross one that did not; the arms differ in colour and in disc or
ring. Places are in percent of the width, so that a strip fits whatever column it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from kc_interp.comparison import Difference, ModelFacts, Seed
from kc_interp.plots import OKABE_ITO
from kc_interp.report.printed import MINUS, percent, shown_cell, verdict

_INK, _PALE = "#1d2733", "#59636e"
_ROOM = 0.06
_FARTHEST = 1.5
_ROWS = (13, 35)


@dataclass(frozen=True)
class Strip:
    """One number of a comparison: the drawing, and its ends as printed."""

    svg: Markup
    low: str
    high: str


def accuracy(model: ModelFacts, *, arm: int, level: float, chance: float | None) -> Markup:
    """One model of the roster on a track from 0 to 100 %: its 95 % Wilson interval, chance and the level to reach."""
    colour = OKABE_ITO[arm % len(OKABE_ITO)]
    parts = [_rule(100 * level, 26, "")] + ([_rule(100 * chance, 26, "2 3")] if chance is not None else [])
    if model.low is not None and model.high is not None:
        parts.append(_bar(100 * model.low, 100 * model.high, 13, colour, 3))
    if model.accuracy is not None:
        kind = {True: "disc", False: "cross", None: "ring"}[model.learned]
        parts.append(_mark(100 * model.accuracy, 13, kind, colour, ""))
    says = f"{model.name}: {percent(model.accuracy)}, {verdict(model.learned)}"
    return _svg(26, says, parts)


def strip(difference: Difference, colours: tuple[int, int]) -> Strip | None:
    """Every seed of both arms above and below, each arm's mean with its 95 % interval, the control as a dotted line.

    Each strip has its own scale. None when no seed has a value.
    """
    span = strip_range(difference)
    if span is None:
        return None
    low, high = span

    def at(value: float) -> float:
        return 100 * min(max((value - low) / (high - low), 0.0), 1.0)

    parts = []
    controls = [side.control for side in (difference.a, difference.b) if side.control is not None]
    if controls and low <= (control := sum(controls) / len(controls)) <= high:
        parts.append(_rule(at(control), 48, "2 3"))
    for row, (side, colour) in enumerate(zip((difference.a, difference.b), colours, strict=True)):
        if side.mean is not None and side.low is not None and side.high is not None:
            parts.append(_bar(at(side.low), at(side.high), _ROWS[row], "#b4bcc4", 5))
            parts.append(_tick(at(side.mean), _ROWS[row]))
        for seed in side.seeds:
            if seed.value is not None:
                kind = "cross" if not seed.learned else "ring" if row else "disc"
                parts.append(_mark(at(seed.value), _ROWS[row], kind, OKABE_ITO[colour % len(OKABE_ITO)], _says(seed)))
    return Strip(_svg(48, f"Every seed: {difference.title}", parts), _printed(low), _printed(high))


def strip_range(difference: Difference) -> tuple[float, float] | None:
    """Room for every seed, and for control and intervals as far as one and a half times the seeds' own range beyond."""
    sides = (difference.a, difference.b)
    values = [seed.value for side in sides for seed in side.seeds if seed.value is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    reach = high - low or abs(high) or 1.0
    wished = [x for side in sides for x in (side.low, side.high, side.control) if x is not None]
    return (
        max(min([low, *wished]), low - _FARTHEST * reach) - _ROOM * reach,
        min(max([high, *wished]), high + _FARTHEST * reach) + _ROOM * reach,
    )


def _printed(value: float) -> str:
    return shown_cell(float(f"{value:.2g}")).replace("-", MINUS)


def _says(seed: Seed) -> str:
    return f"{seed.model}{'' if seed.learned else ' (not learned)'}: {shown_cell(seed.value)}".replace(
        ": -", f": {MINUS}"
    )


def _svg(height: int, says: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="seeds" height="{}" role="img" aria-label="{}">{}</svg>').format(
        height, says, Markup("").join(parts)
    )


def _rule(x: float, height: int, dash: str) -> Markup:
    return Markup('<line x1="{0:.1f}%" x2="{0:.1f}%" y1="0" y2="{1}" stroke="{2}" stroke-dasharray="{3}"/>').format(
        x, height, _PALE, dash or "none"
    )


def _bar(low: float, high: float, y: int, colour: str, width: int) -> Markup:
    return Markup('<line x1="{:.1f}%" x2="{:.1f}%" y1="{y}" y2="{y}" stroke="{}" stroke-width="{}"/>').format(
        low, high, colour, width, y=y
    )


def _tick(x: float, y: int) -> Markup:
    return Markup('<line x1="{0:.1f}%" x2="{0:.1f}%" y1="{1}" y2="{2}" stroke="{3}" stroke-width="2.5"/>').format(
        x, y - 9, y + 9, _INK
    )


def _mark(x: float, y: int, kind: str, colour: str, says: str) -> Markup:
    title = Markup("<title>{}</title>").format(escape(says)) if says else Markup("")
    if kind == "cross":
        cross = Markup('<path d="M-5-5L5 5M5-5L-5 5" stroke="{}" stroke-width="2.5"/>').format(colour)
        return Markup('<svg x="{:.1f}%" y="{}" overflow="visible">{}{}</svg>').format(x, y, title, cross)
    return Markup('<circle cx="{:.1f}%" cy="{}" r="5" fill="{}" stroke="{}" stroke-width="2.5">{}</circle>').format(
        x, y, colour if kind == "disc" else "#fff", colour, title
    )
