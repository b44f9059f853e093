"""What the gallery's figures are made of: plain plotly data with its words and numbers, in one look.

A colour is an initialisation (or another setting), a symbol is an arm, and both keep their meaning through all figures.
The same records give the same JSON: numbers are rounded to six digits, and nothing is drawn at random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from kc_interp.finding import Table, to_plain
from kc_interp.plots import OKABE_ITO

INK, GRID, PALE, AXIS = "#1d2733", "#e3e7ec", "#59636e", "#9aa4ae"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
TEXT_PX, TICK_PX = 13, 12
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star", "pentagon", "hexagram",
           "triangle-left", "triangle-right", "star-diamond", "hourglass", "bowtie")  # fmt: skip
PRINT_PX = 680
"""180 mm, the width of a printed page's two columns."""

LEFT_PX, RIGHT_PX, BOTTOM_PX = 54, 12, 52
_TITLE_PX = 26
_PALEST = 0.82
"""Where plasma ends that still stands out from white."""

Trace = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: what plotly draws, its numbers as a table, or the reason why there is nothing to draw.

    `choice` names it among the figure's panels, of which a reader sees one at a time. `note` is said beside it, and
    `more` are further tables. `file` tells its still image from those of other panels [default: the choice].
    """

    table: Table
    plot: go.Figure | None = None
    reason: str = ""
    choice: str = ""
    note: str = ""
    more: tuple[Table, ...] = ()
    file: str = ""


@dataclass(frozen=True)
class Drawing:
    """One figure of the gallery. `picks` says what its panels are a choice of ("Complexity measure").

    `basis` is what it rests on: runs, seeds, and what the intervals are; `notes` say what is not drawn, and why.
    `width_mm` is its width in print.
    """

    name: str
    title: str
    shows: str
    refuted_by: str
    basis: str
    panels: tuple[Panel, ...]
    picks: str = ""
    notes: tuple[str, ...] = ()
    width_mm: Literal[89, 180] = 180

    @property
    def plots(self) -> tuple[go.Figure, ...]:
        """What can be drawn of it."""
        return tuple(panel.plot for panel in self.panels if panel.plot is not None)

    def dumps(self) -> str:
        """Its JSON: the same records give the same bytes."""
        panels = [{"choice": p.choice, "reason": p.reason, "plot": plain(p.plot)} for p in self.panels]
        said = {name: getattr(self, name) for name in ("name", "title", "shows", "refuted_by", "basis")}
        return json.dumps({**said, "panels": panels}, sort_keys=True, allow_nan=False, ensure_ascii=False)


@dataclass(frozen=True)
class Look:
    """Which colour a setting and which symbol an arm has, through all figures."""

    arms: tuple[str, ...]
    settings: tuple[str, ...]

    def colour(self, setting: str) -> str:
        return OKABE_ITO[self.settings.index(setting) % len(OKABE_ITO)]

    def symbol(self, arm: str) -> str:
        return SYMBOLS[self.arms.index(arm) % len(SYMBOLS)]

    def size(self, arm: str) -> int:
        """Plotly's discs, squares and diamonds look larger than its other symbols of the same size."""
        return 9 if self.symbol(arm) in SYMBOLS[:3] else 11


def no_figure(reason: str, columns: Sequence[str] = ("why there is no figure",)) -> Panel:
    """A panel that says in words why there is nothing to draw."""
    return Panel(Table("", tuple(columns), ()), None, reason)


def plain(plot: go.Figure | None) -> dict[str, Any] | None:
    """A plot as JSON holds it, to six digits."""
    if plot is None:
        return None
    found: dict[str, Any] = rounded(to_plain(plot.to_plotly_json()))
    return found


def rounded(value: Any, digits: int = 6) -> Any:
    """Plain data with so many significant digits; equal numbers of different machines become equal bytes."""
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return (float(f"{value:.{digits}g}") or 0.0) if isinstance(value, float) else value


def escape(text: object) -> str:
    """Plotly reads a subset of HTML in labels; a label is text here."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shortened(text: str, most: int) -> str:
    """A label that fits its place; the table has it whole."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def sequential(values: Sequence[float]) -> list[str]:
    """A colour for each of some ordered values, dark to light, evenly by rank.

    Plasma: as safe for any colour vision as the cividis of heatmaps, and its thin lines differ in hue as well.
    """
    count = max(len(values) - 1, 1)
    places = [_PALEST * rank / count for rank in range(len(values))]
    return [_hex(colour) for colour in sample_colorscale("Plasma", places)] if values else []


def _hex(colour: str) -> str:
    red, green, blue = (round(float(part)) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return f"#{red:02x}{green:02x}{blue:02x}"


def see_through(colour: str, opacity: float) -> str:
    """A colour of the palette as a translucent one."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis in the gallery's look."""
    return {
        "title": {"text": escape(title), "font": {"size": TEXT_PX}, "standoff": 8},
        "tickfont": {"size": TICK_PX},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": AXIS,
        "showline": True,
        "ticks": "outside",
        "tickcolor": AXIS,
        **more,
    }


def log_axis(title: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    """A logarithmic axis over numbers from `low` to `high` with ticks a reader can place: 1, 2, 5 of each decade."""
    room = 0.04 * (math.log10(high / low) or 1.0)
    ends = [math.log10(low) - room, math.log10(high) + room]
    wide = ends[1] - ends[0]
    steps = (1, 2, 5) if wide < 2.2 else (1, 3) if wide < 3.5 else (1,)
    ticks = [step * 10**power for power in range(math.floor(ends[0]), math.ceil(ends[1]) + 1) for step in steps]
    ticks = [tick for tick in ticks if ends[0] <= math.log10(tick) <= ends[1]]
    if len(ticks) < 2:
        ticks = [low, high] if high > low else [low]
    return axis(
        title,
        **{
            "type": "log", "range": ends, "tickmode": "array", "tickvals": ticks,
            "ticktext": [count(tick) for tick in ticks], **more,
        },
    )  # fmt: skip


def count(value: float) -> str:
    """A number of parameters or steps, short enough for a tick.

    >>> [count(v) for v in (120, 2000, 15300, 1_000_000, 0.5)]
    ['120', '2k', '15.3k', '1M', '0.5']
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def layout(height: int, **more: Any) -> dict[str, Any]:
    """What all plots have in common. A template of its own, because an empty one would let the global one in."""
    return {
        "template": {"layout": {"colorway": list(OKABE_ITO)}},
        "font": {"family": FONT, "size": TEXT_PX, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": height,
        "margin": {"l": LEFT_PX, "r": RIGHT_PX, "t": 40, "b": BOTTOM_PX},
        "hoverlabel": {"font": {"size": TEXT_PX, "family": FONT}, "align": "left"},
        "legend": legend(),
        **more,
    }


def legend(**more: Any) -> dict[str, Any]:
    """A legend in a row above the plot, at the height of its top margin."""
    return {
        "orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "yref": "container",
        "font": {"size": TICK_PX}, "tracegroupgap": 0, "itemwidth": 30, **more,
    }  # fmt: skip


def note(text: str, **place: Any) -> dict[str, Any]:
    """An annotation without an arrow; its text is HTML to plotly, so labels in it must be escaped."""
    return {"text": text, "showarrow": False, "font": {"size": TICK_PX, "color": INK}, **place}


@dataclass
class Multiples:
    """Small multiples on shared axes: panel after panel, a row at a time. Only outer panels name their ticks."""

    titles: Sequence[tuple[str, str]]
    x: Mapping[str, Any]
    y: Mapping[str, Any]
    columns: int
    legend: bool = False
    x_title: str = ""
    y_title: str = ""
    traces: list[Trace] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    asides: Sequence[str] = ()

    @property
    def rows(self) -> int:
        return -(-len(self.titles) // self.columns)

    @property
    def panel_px(self) -> int:
        """Many rows are lower, so that a screen holds more of them."""
        return 150 if self.rows <= 3 else 120

    @property
    def top_px(self) -> int:
        """Room for the legend, the name of the vertical axis, and a panel's title."""
        return 30 * self.legend + 22 * bool(self.y_title) + _TITLE_PX

    @property
    def height(self) -> int:
        return self.top_px + self.rows * self.panel_px + (self.rows - 1) * self._gap_px + BOTTOM_PX

    @property
    def _gap_px(self) -> int:
        return _TITLE_PX + 12

    def add(self, panel: int, *traces: Trace) -> None:
        """Traces of one panel."""
        self.traces += [{**trace, "xaxis": f"x{_suffix(panel)}", "yaxis": f"y{_suffix(panel)}"} for trace in traces]

    def line(self, panel: int, *, x: float | None = None, y: float | None = None, **style: Any) -> None:
        """A line across one panel, at an x or a y."""
        s = _suffix(panel)
        ends: dict[str, Any] = (
            {"xref": f"x{s} domain", "x0": 0, "x1": 1, "yref": f"y{s}", "y0": y, "y1": y}
            if x is None
            else {"xref": f"x{s}", "x0": x, "x1": x, "yref": f"y{s} domain", "y0": 0, "y1": 1}
        )
        self.shapes.append({
            "type": "line", **ends, "line": {"color": PALE, "width": 1, "dash": "dash", **style},
        })  # fmt: skip

    def band(self, panel: int, low: float | None, high: float | None, colour: str) -> None:
        """A vertical band from `low` to `high`; None: to the edge of the panel."""
        s = _suffix(panel)
        ends = self.x["range"]
        x0, x1 = (end if value is None else value for value, end in zip((low, high), _unlog(self.x, ends), strict=True))
        self.shapes.append({
            "type": "rect", "xref": f"x{s}", "x0": x0, "x1": x1, "yref": f"y{s} domain", "y0": 0, "y1": 1,
            "layer": "below", "fillcolor": see_through(colour, 0.12), "line": {"width": 0},
        })  # fmt: skip

    def say(self, panel: int, text: str, **place: Any) -> None:
        """Words inside a panel, in its upper left unless placed."""
        s = _suffix(panel)
        at = {"xref": f"x{s} domain", "yref": f"y{s} domain", "x": 0.02, "y": 0.96, "xanchor": "left", "yanchor": "top"}
        self.notes.append(note(text, **{**at, **place}))

    def figure(self, **more: Any) -> go.Figure:
        """All panels as one plot."""
        inner = self.height - self.top_px - BOTTOM_PX
        gap = 0.06 if self.columns < 3 else 0.05
        wide = (1 - gap * (self.columns - 1)) / self.columns
        axes: dict[str, Any] = {}
        notes = list(self.notes)
        for panel, (head, tail) in enumerate(self.titles):
            row, column = divmod(panel, self.columns)
            s = _suffix(panel)
            left, top = column * (wide + gap), 1 - row * (self.panel_px + self._gap_px) / inner
            lowest = panel + self.columns >= len(self.titles)
            ends = {"domain": [max(top - self.panel_px / inner, 0.0), top]}
            axes[f"xaxis{s}"] = {
                **self.x, "domain": [left, min(left + wide, 1.0)], "anchor": f"y{s}", "showticklabels": lowest,
                **({"matches": "x"} if panel else {}),
            }  # fmt: skip
            axes[f"yaxis{s}"] = {
                **self.y, **ends, "anchor": f"x{s}", "showticklabels": column == 0,
                **({"matches": "y"} if panel else {}),
            }  # fmt: skip
            aside = self.asides[panel] if self.asides else ""
            # In print, where there is least room: bold letters are 8 px wide, others 6.5.
            room = PRINT_PX * 0.85 / self.columns - 6.5 * (len(aside) + len(tail) + 4)
            kept = shortened(head, max(int(room / 8), 10))
            name = f"<b>{escape(kept)}</b>" + (f" · {escape(shortened(tail, 30))}" if tail else "")
            place: dict[str, Any] = {"xref": f"x{s} domain", "yref": f"y{s} domain", "x": 0, "y": 1, "xanchor": "left"}
            notes.append(note(name, **place, yanchor="bottom", yshift=3))
            if aside:
                place |= {"x": 1, "xanchor": "right", "font": {"size": TICK_PX, "color": PALE}}
                notes.append(note(escape(aside), **place, yanchor="bottom", yshift=3))
        outer = {"xref": "paper", "yref": "paper", "font": {"size": TEXT_PX, "color": INK}}
        notes.append(note(escape(self.x_title), **outer, x=0.5, y=0, yanchor="top", yshift=-26))
        # Written across above the panels: beside a tall figure it would stand off the screen, and on its head.
        notes.append(
            note(
                escape(self.y_title),
                **outer,
                x=0,
                y=1,
                xshift=-LEFT_PX + 4,
                xanchor="left",
                yanchor="bottom",
                yshift=_TITLE_PX,
            )
        )
        margin = {"l": LEFT_PX, "r": RIGHT_PX, "t": self.top_px, "b": BOTTOM_PX}
        return go.Figure({
            "data": self.traces,
            "layout": layout(
                self.height, margin=margin, shapes=self.shapes, annotations=notes, showlegend=self.legend,
                **axes, **more,
            ),
        })  # fmt: skip


def _suffix(panel: int) -> str:
    return "" if panel == 0 else str(panel + 1)


def _unlog(given: Mapping[str, Any], ends: Sequence[float]) -> list[float]:
    """The ends of an axis as shapes take them: numbers, not their logarithms."""
    return [10**end if given.get("type") == "log" else end for end in ends]


def steps_axis(longest: float) -> dict[str, Any]:
    """An axis of training steps from 0 on."""
    return axis(range=[0, 1.02 * longest], nticks=5, tickformat="~s")


def share_axis() -> dict[str, Any]:
    """An axis from 0 to 100 %, with room for marks at both ends."""
    return axis(range=[-0.06, 1.06], tickvals=[0, 0.5, 1], ticktext=["0", "50 %", "100 %"])


def widths_legend() -> dict[str, Any]:
    """A legend of widths, ascending."""
    return legend(title={"text": "d_model", "font": {"size": TICK_PX}})


def columns_for(panels: int, settings: int) -> int:
    """How many panels stand side by side: the settings of an arm in one row where they fit."""
    if settings in (2, 3):
        return settings
    return min(panels, 3) if panels != 4 else 2


def listed(words: Iterable[str], most: int = 4) -> str:
    """Words in a row, cut after so many.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    words = list(words)
    if len(words) <= most:
        return ", ".join(words)
    return f"{', '.join(words[:most])} and {len(words) - most} more"
