"""Numbers as the page prints them: rounded for readers, with the unrounded value beside them for machines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kc_interp.comparison import Difference
from kc_interp.finding import Cell, Number

MISSING, MINUS = "\u2013", "\u2212"
FEWEST_OF_A_GROUP = 3


def shown_cell(value: Cell) -> str:
    """A cell as it is printed: three significant digits, and a dash for what was not measured.

    >>> [shown_cell(v) for v in (0.12345, 12345.6, 7, "a", 1.2e-5)]
    ['0.123', '12,346', '7', 'a', '1.2e-05']
    """
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def number(value: Cell) -> Markup:
    """A number as printed, with its unrounded value beside it for machines; a dash when there is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Markup('<data value="{}">{}</data>').format(repr(value), shown_cell(value).replace("-", MINUS))
    return Markup.escape(shown_cell(value))


def interval(low: float | None, high: float | None) -> Markup:
    """`[low, high]`, or nothing when a bound is missing."""
    if low is None or high is None:
        return Markup("")
    return Markup('<span class="ci">[{}, {}]</span>').format(number(low), number(high))


def percent(fraction: float | None) -> str:
    """A fraction in percent, a dash when it was not measured.

    >>> percent(0.104), percent(1.0), percent(None)
    ('10.4\\xa0%', '100\\xa0%', '–')
    """
    return MISSING if fraction is None else f"{100 * fraction:.1f}\u00a0%".replace(".0\u00a0", "\u00a0")


def verdict(learned: bool | None) -> str:
    """A model's verdict in words; None was not evaluated."""
    return {True: "learned", False: "not learned", None: "not evaluated"}[learned]


@dataclass(frozen=True)
class Heading:
    """What stands at the head of a number's row: its title, and lines on what it means.

    `group` is what several titles have in common before a colon; `group_says` the lines that all of the group share.
    """

    group: str
    group_says: tuple[str, ...]
    title: str
    says: tuple[str, ...]


def headings(items: Sequence[Number | Difference]) -> list[Heading]:
    """A heading for each item: what stands before ": " in three titles or more is their group, said once.

    >>> [(h.group, h.title) for h in headings([Number(t, t, 0.0) for t in ("a: x", "a: y", "a: z", "b: x")])]
    [('a', 'x'), ('a', 'y'), ('a', 'z'), ('', 'b: x')]
    """
    groups = [item.title.partition(": ")[0] if ": " in item.title else "" for item in items]
    groups = [group if group and groups.count(group) >= FEWEST_OF_A_GROUP else "" for group in groups]
    lines = [_lines(item) for item in items]
    found = []
    for item, group, says in zip(items, groups, lines, strict=True):
        shared = group and len({other for other, its in zip(lines, groups, strict=True) if its == group}) == 1
        title = item.title.removeprefix(f"{group}: ") if group else item.title
        found.append(Heading(group, says if shared else (), title, () if shared else says))
    return found


def _lines(item: Number | Difference) -> tuple[str, ...]:
    higher = (f"Higher: {item.higher_means}",) if item.higher_means else ()
    return (*higher, f"Control: {item.control_says}") if item.control_says else higher


def slug(name: str) -> str:
    """A name as an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "probe"
