"""Where the label of each point goes so that it hides neither points nor other labels: plotly places none itself."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, right, bottom, top, in pixels."""

CHARACTER_PX, LINE_PX, GAP_PX, POINT_PX = 7.2, 14.0, 7.0, 6.0
PLACES = ("top right", "bottom right", "top left", "bottom left", "middle right", "middle left")
_OUTSIDE = 10.0
"""Overlaps of another box that running off the plot is as bad as."""


def placed(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    size: tuple[float, float],
    bars: Sequence[tuple[float, float]] = (),
    lines: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """Plotly's text position of each label on a plot of a size in pixels; `bars` are the lower and upper ends of each
    point's interval, `lines` places through which curves run.

    Greedy, the most crowded points first, so the same points always get the same places.
    """
    marks = [(x - POINT_PX, x + POINT_PX, y - POINT_PX, y + POINT_PX) for x, y in points]
    marks += [(x - 1, x + 1, low, high) for (x, _), (low, high) in zip(points, bars, strict=False)]
    found: dict[int, tuple[str, Box]] = {}

    def crowd(index: int) -> int:
        x, y = points[index]
        return sum(abs(x - other) < 120 and abs(y - their) < 40 for other, their in points)

    for index in sorted(range(len(points)), key=lambda one: (-crowd(one), one)):
        others = [box for _, box in found.values()] + [m for i, m in enumerate(marks) if i % len(points) != index]

        def cost(place: str, index: int = index, others: Sequence[Box] = tuple(others)) -> float:
            box = _box(points[index], texts[index], place)
            outside = box[0] < 0 or box[1] > size[0] or box[2] < 0 or box[3] > size[1]
            crossed = any(box[0] < x < box[1] and box[2] < y < box[3] for x, y in lines)
            return _OUTSIDE * outside + 0.5 * crossed + sum(_overlap(box, other) for other in others)

        best = min(PLACES, key=cost)
        found[index] = best, _box(points[index], texts[index], best)
    return [found[index][0] for index in range(len(points))]


def _box(point: tuple[float, float], text: str, place: str) -> Box:
    height, side = place.split()
    wide = CHARACTER_PX * len(text) + GAP_PX
    left = point[0] + GAP_PX if side == "right" else point[0] - wide
    bottom = point[1] + {"middle": -LINE_PX / 2, "top": 3.0, "bottom": -LINE_PX - 3.0}[height]
    return left, left + wide - GAP_PX, bottom, bottom + LINE_PX


def _overlap(a: Box, b: Box) -> float:
    """1 for a touch, and a little more for a larger one."""
    wide, tall = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
    return 1 + wide * tall / 1000 if wide > 0 and tall > 0 else 0.0
