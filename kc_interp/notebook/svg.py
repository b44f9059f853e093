"""Pictures as SVG text: marks whose every word is escaped, and scales with round ticks.

A picture travels in a notebook as an image of its own (`Picture.uri`). JupyterLab takes inline <svg> and <style> out of
any notebook that its reader has not run, GitHub takes them out of all (jupyterlab `apputils/src/sanitizer.ts`,
IRkernel/IRkernel#145); both leave <img src="data:…"> alone, and in an image no script runs and no name can collide.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

INK, SOFT, GRID, AXIS = "#1d2733", "#4d5965", "#e3e7ec", "#9aa4ae"
TEXT_PX, TICK_PX = 13, 12
WIDTH = 680
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NARROW = frozenset("iljtfrI.,:;'|!()[] ")


@dataclass
class Picture:
    """Marks in the order they are drawn, on white: a reader's theme may be dark, the colours are chosen for paper."""

    width: float
    height: float = 0.0
    marks: list[str] = field(default_factory=list)

    def mark(self, tag: str, **attributes: Any) -> None:
        """One element; underscores in names stand for hyphens, numbers are rounded to a tenth of a pixel."""
        self.marks.append(element(tag, **attributes))

    def pattern(self, name: str, size: float, content: str) -> str:
        """A fill that repeats a square of markup; returns what `fill` must be."""
        tile = {"id": name, "width": size, "height": size, "patternUnits": "userSpaceOnUse"}
        self.marks.append(element("pattern", content, **tile))
        return f"url(#{name})"

    def text(self, x: float, y: float, words: str, **attributes: Any) -> None:
        """Words, as a reader must see them whatever they contain."""
        self.marks.append(element("text", escaped(words), x=x, y=y, **attributes))

    @property
    def svg(self) -> str:
        size = {
            "width": self.width,
            "height": self.height,
            "viewBox": f"0 0 {number(self.width)} {number(self.height)}",
        }
        whole = {"xmlns": "http://www.w3.org/2000/svg", **size, "font_family": _FONT, "font_size": TICK_PX, "fill": INK}
        ground = element("rect", width="100%", height="100%", fill="#fff")
        return element("svg", ground + "".join(self.marks), **whole)

    @property
    def uri(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


def element(tag: str, content: str = "", **attributes: Any) -> str:
    """An element whose content is markup already; what is None is left out."""
    told = "".join(
        f' {name.replace("_", "-")}="{_value(value)}"' for name, value in attributes.items() if value is not None
    )
    return f"<{tag}{told}>{content}</{tag}>" if content else f"<{tag}{told}/>"


def _value(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) else escaped(value)


def number(value: float) -> str:
    """A coordinate, to a tenth.

    >>> number(3.0), number(-0.04), number(2.25)
    ('3', '0', '2.2')
    """
    return f"{round(value, 1) or 0.0:.1f}".removesuffix(".0")


def escaped(words: object) -> str:
    """Words as XML holds them: one character that XML lacks would cost the reader the whole picture."""
    return html.escape(legible(words))


def legible(words: object) -> str:
    """Words with a replacement character for what neither XML nor UTF-8 can hold.

    >>> legible("a\\x07\\ud800b")
    'a\\ufffd\\ufffdb'
    """
    return _NO_XML.sub("\ufffd", str(words))


def width_of(words: str, size: float = TICK_PX) -> float:
    """About how wide words are drawn: fonts differ from reader to reader."""
    return sum(0.36 if letter in _NARROW else 0.62 for letter in str(words)) * size


def fitted(words: object, room: float, size: float = TICK_PX) -> str:
    """Words, cut to the room; the table below a picture has them whole."""
    words = str(words)
    if width_of(words, size) <= room:
        return words
    while words and width_of(words + "…", size) > room:
        words = words[:-1]
    return words.rstrip() + "…"


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, zero: bool = False, log: bool = False) -> Scale:
        """A scale with room at both ends, that takes in 0 where bars start there."""
        found = [value for value in values if not log or value > 0] or [1.0 if log else 0.0]
        low, high = min(found), max(found)
        if log:
            return cls(low / 1.15, high * 1.15, start, end, log=True)
        low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
        room = 0.06 * (high - low or abs(high) or 1.0)
        keeps_high = zero and high == 0 > low
        return cls(low if zero and low == 0 else low - room, high if keeps_high else high + room, start, end)

    def at(self, value: float) -> float:
        low, high, here = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (here - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        """Four to eight round values within the scale; on a logarithmic one, powers of ten with 2 and 5 where few."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            digits = (1,) if len(powers) > 4 else (1, 2, 5)
            found = [digit * 10.0**power for power in powers for digit in digits]
            return [value for value in found if self.low <= value <= self.high]
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [count * step for count in range(first, math.floor(self.high / step + 1e-9) + 1)]


def tick_words(value: float) -> str:
    """A tick's value as printed.

    >>> [tick_words(v) for v in (0.30000000000000004, -2.0, 12000.0, 1e-7)]
    ['0.3', '−2', '12,000', '1e−07']
    """
    words = f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{round(value, 12):.6g}"
    return words.replace("-", "\u2212")
