"""The charts of findings as static pictures: heatmaps, bars, lines, scatters, attention, coloured tokens.

They look as `kc_interp.plots` draws the same figures for a page: its colours, its hatching and dashes, its scales. That
drawing needs Plotly's script, which a notebook loads from the network or carries at five megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from plotly.colors import sample_colorscale

from kc_interp.finding import to_plain
from kc_interp.notebook.svg import (
    AXIS,
    GRID,
    INK,
    SOFT,
    TEXT_PX,
    WIDTH,
    Picture,
    Scale,
    element,
    fitted,
    number,
    tick_words,
    width_of,
)
from kc_interp.plots import OKABE_ITO

MOST_HEADS = 8
_PLOT_PX = 210
_DASHES = (None, "8 4", "2 3", "8 3 2 3", "14 4", "14 4 2 4", None)
_SHADES = 33
"""Odd, so that the middle of a diverging scale has a shade of its own."""

_LINE_PX = 19
_HATCHES = (None, "M-1 7L7 -1", "M-1 -1L7 7", "M0 0L6 6M6 0L0 6", "M0 3H6", "M3 0V6", "M0 3H6M3 0V6")
_TURNED = math.radians(40)


def heatmap(data: Mapping[str, Any]) -> Picture:
    """Cells in colour, each with its own place though labels repeat; None stays blank."""
    x, y, rows = [*map(str, data["x"])], [*map(str, data["y"])], [list(row) for row in data["z"]]
    values = [value for row in rows for value in row if value is not None] or [0.0]
    zmid = data.get("zmid")
    low, high = min(values), max(values)
    if zmid is not None:
        reach = max(high - zmid, zmid - low) or 1.0
        low, high = zmid - reach, zmid + reach
    palette = _palette("Cividis" if zmid is None else "RdBu")
    left = min(max(map(width_of, y), default=0), 230) + 14
    side = min(46.0, max(9.0, (WIDTH - left - 8) / max(len(x), 1)))
    tall = 24.0 if len(y) < 40 else 14.0
    flat = max(map(width_of, x), default=0) <= side - 2
    picture = Picture(max(left + side * len(x) + 12, 380.0))
    top = _colour_bar(picture, palette, (low, high), str(data.get("z_title") or "")) + 10
    if data.get("y_title"):
        picture.text(4, top + 4, fitted(data["y_title"], picture.width - 8), fill=SOFT)
        top += 14
    shades = [
        [None if value is None else round((_SHADES - 1) * _share(value, low, high)) for value in row] for row in rows
    ]
    _cells(picture, shades, palette, (left, top), (side, tall))
    for row, label in enumerate(y):
        picture.text(left - 7, top + tall * (row + 0.5) + 4, fitted(label, left - 10), text_anchor="end")
    for row, written in enumerate(data.get("text") or ()):
        for column, word in enumerate(written):
            shade = shades[row][column]
            dark = shade is not None and _is_dark(palette[shade])
            at = {"x": left + side * (column + 0.5), "y": top + tall * (row + 0.5) + 4}
            picture.text(at["x"], at["y"], fitted(word, side), text_anchor="middle", fill="#fff" if dark else INK)
    bottom = top + tall * len(y)
    places = [left + side * (column + 0.5) for column in range(len(x))]
    picture.height = _below(picture, bottom, places, x, str(data.get("x_title") or ""), turned=not flat, steep=True)
    return picture


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _palette(name: str) -> list[str]:
    """Plotly's scale in so many steps, as hexadecimal colours."""
    colours = sample_colorscale(name, [step / (_SHADES - 1) for step in range(_SHADES)], colortype="tuple")
    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in colours]


def _is_dark(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def _cells(
    picture: Picture,
    shades: Sequence[Sequence[int | None]],
    palette: Sequence[str],
    corner: tuple[float, float],
    size: tuple[float, float],
) -> None:
    """All cells of one shade as one path: a heatmap of a thousand cells then takes a tenth of the room."""
    found: dict[int, list[str]] = {}
    for row, line in enumerate(shades):
        for column, shade in enumerate(line):
            if shade is not None:
                x, y = number(corner[0] + size[0] * column), number(corner[1] + size[1] * row)
                wide, tall = number(size[0] - 1), number(size[1] - 1)
                found.setdefault(shade, []).append(f"M{x} {y}h{wide}v{tall}h-{wide}z")
    for shade in sorted(found):
        picture.mark("path", fill=palette[shade], d="".join(found[shade]))


def _colour_bar(picture: Picture, palette: Sequence[str], ends: tuple[float, float], title: str) -> float:
    """The scale of colours with its ends and middle; returns where it ends."""
    long = 180.0
    for step, colour in enumerate(palette):
        picture.mark(
            "rect", x=8 + long * step / len(palette), y=6, width=long / len(palette) + 0.5, height=9, fill=colour
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        value = ends[0] + share * (ends[1] - ends[0])
        picture.text(8 + long * share, 29, tick_words(float(f"{value:.3g}")), text_anchor=anchor)
    picture.text(long + 20, 15, fitted(title, picture.width - long - 24), fill=SOFT)
    return 34.0


def _below(
    picture: Picture,
    top: float,
    places: Sequence[float],
    labels: Sequence[str],
    title: str,
    *,
    turned: bool,
    steep: bool = False,
) -> float:
    """Labels under an axis, turned where they would run into each other, and its title; returns where it ends."""
    angle = math.radians(60) if steep else _TURNED
    longest = 0.0
    for place, label in zip(places, labels, strict=True):
        if turned:
            words = fitted(label, 150)
            longest = max(longest, width_of(words) * math.sin(angle) + 8)
            at = f"translate({number(place + 4)} {number(top + 13)}) rotate({-round(math.degrees(angle))})"
            picture.text(0, 0, words, transform=at, text_anchor="end")
        else:
            longest = max(longest, 14.0)
            picture.text(place, top + 16, label, text_anchor="middle")
    end = top + 8 + longest
    if title:
        middle = (min(places, default=0) + max(places, default=picture.width)) / 2
        picture.text(
            middle, end + 14, fitted(title, picture.width - 8, TEXT_PX), text_anchor="middle", font_size=TEXT_PX
        )
        end += 20
    return end + 6


def bars(data: Mapping[str, Any]) -> Picture:
    """Groups of bars from 0, with intervals; every series after the first is hatched in its own way."""
    labels, series = [*map(str, data["x"])], list(data["series"])
    reference = data.get("reference")
    values = [v for one in series for name in ("y", "low", "high") for v in one.get(name) or () if v is not None]
    picture = Picture(max(WIDTH, 46.0 + 13.0 * len(labels) * max(1, len(series) / 3)))
    fills = [_hatched(picture, index) for index in range(len(series))]
    swatches = [element("rect", width=16, height=11, y=-10, fill=fill) for fill in fills]
    top = _legend(picture, [str(one["name"]) for one in series], swatches) if len(series) > 1 else 6.0
    scale, left, top = _frame(picture, top, values + _level(reference), str(data.get("y_title") or ""), zero=True)
    pitch = (picture.width - left - 10) / max(len(labels), 1)
    wide = 0.75 * pitch / max(len(series), 1)
    places = [left + pitch * (place + 0.5) for place in range(len(labels))]
    for index, (one, fill) in enumerate(zip(series, fills, strict=True)):
        for place, value, low, high in zip(places, one["y"], *_ends(one), strict=True):
            if value is None:
                continue
            x = place + wide * (index - len(series) / 2)
            ends = sorted((scale.at(0), scale.at(value)))
            picture.mark("rect", x=x, y=ends[0], width=max(wide - 1, 1), height=ends[1] - ends[0], fill=fill)
            _spread(picture, x + wide / 2 - 0.5, (low, high), scale, INK)
    _baseline(picture, left, scale.at(0))
    _reference(picture, reference, scale, left)
    turned = any(width_of(label) > pitch - 4 for label in labels)
    picture.height = _below(picture, scale.start, places, labels, str(data.get("x_title") or ""), turned=turned)
    return picture


def lines(data: Mapping[str, Any]) -> Picture:
    """Series over numbers or, where they are words, over places in their order; a missing value breaks the line."""
    series, reference = list(data["series"]), data.get("reference")
    values = [v for one in series for name in ("y", "low", "high") for v in one.get(name) or () if v is not None]
    picture = Picture(WIDTH)
    colours = [OKABE_ITO[index % len(OKABE_ITO)] for index in range(len(series))]
    dashes = [_DASHES[index % len(_DASHES)] for index in range(len(series))]
    swatches = [
        element("path", d="M0 -4H22", stroke=colour, stroke_width=2, stroke_dasharray=dash)
        for colour, dash in zip(colours, dashes, strict=True)
    ]
    top = _legend(picture, [str(one["name"]) for one in series], swatches) if len(series) > 1 else 6.0
    scale, left, top = _frame(picture, top, values + _level(reference), str(data.get("y_title") or ""))
    over = [value for one in series for value in one["x"]]
    numeric = all(isinstance(value, (int, float)) for value in over)
    names = [] if numeric else list(dict.fromkeys(map(str, over)))
    x_of = [[value if numeric else names.index(str(value)) for value in one["x"]] for one in series]
    log = bool(data.get("log_x")) and numeric
    across = Scale.over([x for one in x_of for x in one], left + 4, picture.width - 12, log=log)
    for one, xs, colour, dash in zip(series, x_of, colours, dashes, strict=True):
        points = [None if y is None else (across.at(x), scale.at(y)) for x, y in zip(xs, one["y"], strict=True)]
        picture.mark("path", d=_path(points), fill="none", stroke=colour, stroke_width=2, stroke_dasharray=dash)
        for point, low, high in zip(points, *_ends(one), strict=True):
            if point is not None:
                _spread(picture, point[0], (low, high), scale, colour)
                picture.mark("circle", cx=point[0], cy=point[1], r=3 if len(points) <= 25 else 1.8, fill=colour)
    _reference(picture, reference, scale, left)
    _baseline(picture, left, scale.start)
    whole = all(isinstance(value, int) for value in over)
    ticks = [tick for tick in across.ticks if not whole or tick == round(tick)] if numeric else list(range(len(names)))
    words = [tick_words(float(tick)) for tick in ticks] if numeric else names
    picture.height = _below(
        picture, scale.start, [across.at(tick) for tick in ticks], words, str(data.get("x_title") or ""),
        turned=sum(width_of(word) + 10 for word in words) > picture.width - left,
    )  # fmt: skip
    return picture


def scatter(data: Mapping[str, Any]) -> Picture:
    """Named points, joined in their order where the figure says so."""
    points = [(point["x"], point["y"], str(point["label"])) for point in data["points"]]
    drawn = [point for point in points if point[0] is not None and point[1] is not None]
    picture = Picture(440.0)
    scale, left, _ = _frame(picture, 6, [y for _, y, _ in drawn], str(data.get("y_title") or ""), tall=290)
    across = Scale.over([x for x, _, _ in drawn], left + 10, picture.width - 24)
    at = [(across.at(x), scale.at(y)) for x, y, _ in drawn]
    if data.get("path"):
        picture.mark("path", d=_path(at), fill="none", stroke="#b4bcc4", stroke_width=1.5)
    for (x, y), (_, _, label) in zip(at, drawn, strict=True):
        picture.mark("circle", cx=x, cy=y, r=4.5, fill=OKABE_ITO[0])
        words = fitted(label, 120, TEXT_PX)
        halo = {"stroke": "#fff", "stroke_width": 3, "paint_order": "stroke"}
        picture.text(x, y - 9, words, text_anchor="middle", font_size=TEXT_PX, **halo)
    _baseline(picture, left, scale.start)
    places, words_of = [across.at(tick) for tick in across.ticks], [tick_words(tick) for tick in across.ticks]
    picture.height = _below(picture, scale.start, places, words_of, str(data.get("x_title") or ""), turned=False)
    return picture


def attention(data: Mapping[str, Any]) -> Picture:
    """A small square a head: rows look at columns, white is no attention. At most eight heads; the table has all."""
    tokens, heads = [*map(str, data["tokens"])], [*map(str, data["heads"][:MOST_HEADS])]
    side = min(14.0, max(5.0, 280 / max(len(tokens), 1)))
    label = min(max(map(width_of, tokens), default=0), 60) + 8 if side >= 11 else 4.0
    whole = side * len(tokens)
    columns = max(1, min(len(heads), int(WIDTH // (label + whole + 16))))
    picture = Picture(max(columns * (label + whole + 16), 300.0))
    palette, top = [f"#{_towards(share):06x}" for share in range(9)], 0.0
    for index, (head, pattern) in enumerate(zip(heads, data["patterns"], strict=False)):
        left = label + (index % columns) * (label + whole + 16)
        top = 24 + (index // columns) * (whole + label + 40)
        picture.text(left, top - 8, fitted(head, whole, TEXT_PX), font_size=TEXT_PX, font_weight=600)
        shades = [
            [None if not value or value < 1 / 16 else round(8 * min(value, 1)) for value in row] for row in pattern
        ]
        picture.mark("rect", x=left - 0.5, y=top - 0.5, width=whole, height=whole, fill="none", stroke=AXIS)
        _cells(picture, shades, palette, (left, top), (side, side))
        for place, token in enumerate(tokens) if side >= 11 else ():
            at = place * side + side / 2 + 4
            picture.text(left - 4, top + at, fitted(token, label - 6), text_anchor="end", font_size=11)
            turn = f"translate({number(left + at)} {number(top + whole + 4)}) rotate(-90)"
            picture.text(0, 0, fitted(token, label - 6), text_anchor="end", font_size=11, transform=turn)
    picture.height = top + whole + label + 10
    return picture


def _eighths(value: float | None) -> int | None:
    """A share in eighths; None, nothing to draw, where it rounds to none."""
    return round(8 * min(value or 0.0, 1.0)) or None


def _towards(eighths: int) -> int:
    """White, towards the palette's blue by so many eighths."""
    blue = int(OKABE_ITO[0][1:], 16)
    parts = ((blue >> shift) & 255 for shift in (16, 8, 0))
    red, green, last = (round(255 + (part - 255) * eighths / 8) for part in parts)
    return red << 16 | green << 8 | last


def tokens(data: Mapping[str, Any]) -> Picture:
    """Tokens in a row, each on the colour of its value."""
    names, values = [*map(str, data["tokens"])], list(data["values"])
    known = [value for value in values if value is not None] or [0.0]
    reach = max(map(abs, known)) or 1.0
    diverging = min(known) < 0
    palette = _palette("RdBu") if diverging else [f"#{_towards(share):06x}" for share in range(9)]
    picture, x = Picture(WIDTH), 6.0
    ends = (-reach, reach) if diverging else (0.0, reach)
    y = _colour_bar(picture, palette, ends, "value") + 8
    for name, value in zip(names, values, strict=True):
        words = fitted(name, WIDTH - 40, TEXT_PX)
        wide = width_of(words, TEXT_PX) + 12
        if x + wide > WIDTH - 6 and x > 6:
            x, y = 6.0, y + 32
        fill = "#fff" if value is None else palette[round((len(palette) - 1) * _share(value, *ends))]
        picture.mark("rect", x=x, y=y, width=wide, height=26, rx=3, fill=fill, stroke=GRID)
        ink = "#fff" if _is_dark(fill.ljust(7, "f")) else INK
        picture.text(x + wide / 2, y + 18, words, text_anchor="middle", font_size=TEXT_PX, fill=ink)
        x += wide + 3
    picture.height = y + 34
    return picture


CHARTS: Mapping[str, Callable[[Mapping[str, Any]], Picture]] = {
    "heatmap": heatmap,
    "bars": bars,
    "lines": lines,
    "scatter": scatter,
    "attention": attention,
    "tokens": tokens,
}


def draw(kind: str, data: Mapping[str, Any]) -> Picture:
    """The picture of a chart's data. Raises KeyError, ValueError or TypeError where they do not fit the kind."""
    return CHARTS[kind](to_plain(data))


def _frame(
    picture: Picture, top: float, values: Sequence[float], title: str, *, zero: bool = False, tall: float = _PLOT_PX
) -> tuple[Scale, float, float]:
    """The value axis with its grid, its title written across above it: the scale, and the corner of the plot."""
    if title:
        picture.text(4, top + 13, fitted(title, picture.width - 8, TEXT_PX), font_size=TEXT_PX)
        top += 20
    top += 6
    scale = Scale.over(values, top + tall, top, zero=zero)
    words = [tick_words(tick) for tick in scale.ticks]
    left = max(map(width_of, words), default=0) + 14
    for tick, word in zip(scale.ticks, words, strict=True):
        y = scale.at(tick)
        picture.mark("path", d=f"M{number(left)} {number(y)}H{number(picture.width - 6)}", stroke=GRID)
        picture.text(left - 6, y + 4, word, text_anchor="end")
    return scale, left, top


def _baseline(picture: Picture, left: float, y: float) -> None:
    picture.mark("path", d=f"M{number(left)} {number(y)}H{number(picture.width - 6)}", stroke=AXIS)


def _level(reference: Mapping[str, Any] | None) -> list[float]:
    return [reference["y"]] if reference and reference["y"] is not None else []


def _reference(picture: Picture, reference: Mapping[str, Any] | None, scale: Scale, left: float) -> None:
    """A dashed line across the plot with its name."""
    if not reference or reference["y"] is None:
        return
    y, right = scale.at(reference["y"]), picture.width - 6
    picture.mark("path", d=f"M{number(left)} {number(y)}H{number(right)}", stroke=SOFT, stroke_dasharray="6 4")
    halo = {"stroke": "#fff", "stroke_width": 4, "paint_order": "stroke"}
    picture.text(right, y - 5, fitted(reference["name"], right - left), text_anchor="end", fill=SOFT, **halo)


def _ends(series: Mapping[str, Any]) -> tuple[Sequence[float | None], Sequence[float | None]]:
    """Both bounds of every value, None where the series has none."""
    none: list[float | None] = [None] * len(series["y"])
    return series.get("low") or none, series.get("high") or none


def _spread(picture: Picture, x: float, ends: tuple[float | None, float | None], scale: Scale, colour: str) -> None:
    """An interval, where both its bounds are known."""
    low, high = ends
    if low is None or high is None:
        return
    a, b, cap = number(scale.at(low)), number(scale.at(high)), number(x - 3)
    picture.mark("path", d=f"M{number(x)} {a}V{b}M{cap} {a}h6M{cap} {b}h6", stroke=colour, stroke_width=1.3)


def _path(points: Iterable[tuple[float, float] | None]) -> str:
    """A line through points, broken where one is missing."""
    found, pen = [], "M"
    for point in points:
        if point is not None:
            found.append(f"{pen}{number(point[0])} {number(point[1])}")
        pen = "M" if point is None else "L"
    return "".join(found) or "M0 0"


def _hatched(picture: Picture, index: int) -> str:
    """The fill of a series: its colour, and white strokes over it from the second on."""
    colour, hatch = OKABE_ITO[index % len(OKABE_ITO)], _HATCHES[index % len(_HATCHES)]
    if hatch is None:
        return colour
    strokes = element("rect", width=6, height=6, fill=colour) + element(
        "path", d=hatch, stroke="#fff", stroke_width=1.2
    )
    return picture.pattern(f"hatch{index}", 6, strokes)


def _legend(picture: Picture, names: Sequence[str], swatches: Sequence[str]) -> float:
    """Names with their swatches, in as many lines as they take; returns where they end."""
    x, y = 4.0, 16.0
    for name, swatch in zip(names, swatches, strict=True):
        words = fitted(name, picture.width - 60, TEXT_PX)
        wide = 30 + width_of(words, TEXT_PX) + 16
        if x > 4 and x + wide > picture.width:
            x, y = 4.0, y + _LINE_PX
        picture.marks.append(element("g", swatch, transform=f"translate({number(x)} {number(y)})"))
        picture.text(x + 28, y, words, font_size=TEXT_PX)
        x += wide
    return y + 8
