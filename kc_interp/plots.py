"""Figures of findings, drawn by Plotly from plain data alone.

Colours are Okabe and Ito's, which readers with any colour vision tell apart; the second arm is also hatched, dashed or
hollow. Diverging scales are RdBu centred on their zero, sequential ones cividis. The same data gives the same JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kc_interp import circuit_figure
from kc_interp.errors import SpecError
from kc_interp.finding import Cell, Figure, Table

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
DRAWN = ("heatmap", "bars", "lines", "scatter")

_INK, _GRID, _PALE = "#1d2733", "#e3e7ec", "#59636e"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_HATCH = ("", "/", "\\", "x", "-", "|", "+")
_DASH = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
_TEXT_LEAST = 12
_BAR_PX = 180

Limits = tuple[float, float]


def draw(figure: Figure, *, arm: int = 0, limits: Limits | None = None) -> go.Figure:
    """The figure as Plotly draws it. `arm` 1 is the hatched side of a comparison.

    `limits` fixes the value axis (of a heatmap: the colour scale), so that figures set side by side share one scale.
    Raises SpecError for a kind that is a widget of the page and no chart, or when the data lack a field.
    """
    kinds: Mapping[str, Callable[[Mapping[str, Any], int, Limits | None], go.Figure]] = {
        "heatmap": _heatmap,
        "bars": _bars,
        "lines": _lines,
        "scatter": _scatter,
    }
    if figure.kind not in kinds:
        raise SpecError(f"figure {figure.title!r}: {figure.kind!r} is not a chart; draw takes {', '.join(kinds)}")
    try:
        return kinds[figure.kind](figure.data, arm, limits)
    except KeyError as missing:
        raise SpecError(f"figure {figure.title!r}: a {figure.kind} needs {missing} in its data") from None


def limits_of(figures: Iterable[Figure]) -> Limits | None:
    """The smallest and largest value over figures that will share a scale, None when they hold no values."""
    values = [value for figure in figures for value in _values(figure) if value is not None]
    return (min(values), max(values)) if values else None


def _values(figure: Figure) -> list[float | None]:
    data = figure.data
    if figure.kind == "heatmap":
        return [value for row in data["z"] for value in row]
    if figure.kind in ("bars", "lines"):
        fields = [list(series.get(name) or []) for series in data["series"] for name in ("y", "low", "high")]
        reference = data.get("reference")
        return [value for part in fields for value in part] + ([reference["y"]] if reference else [])
    return []


def _base(height: int, **layout: Any) -> dict[str, Any]:
    """The layout common to all figures; a template of its own, because an empty one would let the global one in."""
    return {
        "template": {"layout": {"colorway": list(OKABE_ITO)}},
        "font": {"family": _FONT, "size": 13, "color": _INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": height,
        "margin": {"l": 12, "r": 12, "t": 12, "b": 12},
        "hoverlabel": {"font": {"size": 13, "family": _FONT}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 13}},
        **layout,
    }


def _axis(title: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": _escape(title or ""), "font": {"size": 13}},
        "tickfont": {"size": _TEXT_LEAST},
        "automargin": True,
        "gridcolor": _GRID,
        "zerolinecolor": "#9aa4ae",
        "linecolor": "#9aa4ae",
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#9aa4ae",
        **more,
    }


def _escape(text: str) -> str:
    """Plotly reads a subset of HTML in its labels; a label is text here."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _padded(limits: Limits) -> list[float]:
    """The limits with room at both ends; the room never crosses 0, where bars start."""
    low, high = limits
    room = 0.06 * (high - low or abs(high) or 1.0)
    return [low - room if low < 0 else min(low, max(low - room, 0)), high + room]


def _positions(labels: Sequence[Any]) -> dict[str, Any]:
    """An axis with one place per label, so that equal labels (tokens repeat) stay apart."""
    return {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": [_escape(label) for label in labels]}


def _heatmap(data: Mapping[str, Any], arm: int, limits: Limits | None) -> go.Figure:
    x, y, z = list(data["x"]), list(data["y"]), [list(row) for row in data["z"]]
    zmid, z_title = data.get("zmid"), data.get("z_title") or ""
    low, high = limits or limits_of([Figure("heatmap", "", "", "", data)]) or (0.0, 1.0)
    if zmid is not None:
        reach = max(high - zmid, zmid - low) or 1.0
        low, high = zmid - reach, zmid + reach
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": list(range(len(x))),
        "y": list(range(len(y))),
        "z": z,
        "zmin": low,
        "zmax": high,
        "colorscale": "RdBu" if zmid is not None else "Cividis",
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": "%{y} · %{x}<br>%{z:.4g}<extra></extra>",
        "colorbar": {
            "orientation": "h", "thickness": 9, "lenmode": "pixels", "len": _BAR_PX, "nticks": 5, "xpad": 0, "ypad": 6,
            "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "tickfont": {"size": _TEXT_LEAST},
        },
    }  # fmt: skip
    if data.get("text"):
        written = [[_escape(str(cell)) for cell in row] for row in data["text"]]
        trace.update(text=written, texttemplate="%{text}", textfont={"size": _TEXT_LEAST})
    height = 130 + 24 * len(y)
    flat = {"showgrid": False, "zeroline": False, "ticks": ""}
    turned = {"tickangle": 0 if max((len(str(label)) for label in x), default=0) <= 3 else -60}
    # The bar's own title would be taken from its length.
    name = {
        "xref": "paper", "x": 0, "xanchor": "left", "xshift": _BAR_PX + 12,
        "yref": "paper", "y": 1, "yanchor": "bottom", "yshift": 19,
        "text": _escape(z_title), "showarrow": False, "font": {"size": _TEXT_LEAST},
    }  # fmt: skip
    layout = _base(
        height,
        annotations=[name],
        xaxis=_axis(data.get("x_title"), **_positions(x), **flat, **turned),
        yaxis=_axis(data.get("y_title"), **_positions(y), **flat, autorange="reversed"),
    )
    return go.Figure({"data": [trace], "layout": layout})


def _spread(series: Mapping[str, Any], colour: str) -> dict[str, Any] | None:
    """Error bars from absolute bounds, where both are known."""
    if series.get("low") is None or series.get("high") is None:
        return None
    rows = list(zip(series["y"], series["low"], series["high"], strict=True))
    above = [None if None in row else max(row[2] - row[0], 0) for row in rows]
    below = [None if None in row else max(row[0] - row[1], 0) for row in rows]
    return {
        "type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": colour or _INK,
        "thickness": 1.5, "width": 4,
    }  # fmt: skip


def _reference(data: Mapping[str, Any]) -> dict[str, Any]:
    """A dashed line across the figure with its name."""
    reference = data.get("reference")
    if not reference:
        return {}
    line = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": reference["y"], "y1": reference["y"],
        "line": {"color": _PALE, "dash": "dash", "width": 1.5},
    }  # fmt: skip
    name = {
        "xref": "paper", "x": 1, "xanchor": "right", "yref": "y", "y": reference["y"], "yanchor": "bottom",
        "text": _escape(reference["name"]), "showarrow": False, "font": {"size": _TEXT_LEAST, "color": _PALE},
        "bgcolor": "rgba(255,255,255,.8)",
    }  # fmt: skip
    return {"shapes": [line], "annotations": [name]}


def _colour(index: int, arm: int, count: int) -> str:
    """Several series take the palette in order; a lone series takes its arm's colour."""
    return OKABE_ITO[(arm if count == 1 else index) % len(OKABE_ITO)]


def _bars(data: Mapping[str, Any], arm: int, limits: Limits | None) -> go.Figure:
    x, count = list(data["x"]), len(data["series"])
    traces = []
    for index, series in enumerate(data["series"]):
        colour = _colour(index, arm, count)
        pattern = _HATCH[index % len(_HATCH)] if count > 1 else ""
        traces.append(
            {
                "type": "bar",
                "name": _escape(series["name"]),
                "x": list(range(len(x))),
                "y": list(series["y"]),
                "marker": {
                    "color": colour,
                    "line": {"color": colour, "width": 1},
                    "pattern": {
                        "shape": pattern or ("/" if arm else ""),
                        "fillmode": "overlay",
                        "fgcolor": "#ffffff",
                        "size": 7,
                    },
                },
                "error_y": _spread(series, ""),
                "text": [_escape(label) for label in x],
                "textposition": "none",
                "hovertemplate": "%{text}: %{y:.4g}<extra>" + _escape(series["name"]) + "</extra>",
            }
        )
    long = max((len(str(label)) for label in x), default=0) * len(x) > 60
    layout = _base(
        320,
        barmode="group",
        bargap=0.25,
        showlegend=count > 1,
        xaxis=_axis(data.get("x_title"), **_positions(x), showgrid=False, zeroline=False, tickangle=-40 if long else 0),
        yaxis=_axis(data.get("y_title"), **({"range": _padded((min(limits[0], 0), limits[1]))} if limits else {})),
        **_reference(data),
    )
    return go.Figure({"data": traces, "layout": layout})


def _lines(data: Mapping[str, Any], arm: int, limits: Limits | None) -> go.Figure:
    count = len(data["series"])
    traces = []
    for index, series in enumerate(data["series"]):
        colour = _colour(index, arm, count)
        dash = _DASH[index % len(_DASH)] if count > 1 else ("dash" if arm else "solid")
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": _escape(series["name"]),
                "x": [_escape(value) if isinstance(value, str) else value for value in series["x"]],
                "y": list(series["y"]),
                "line": {"color": colour, "width": 2, "dash": dash},
                "marker": {"size": 6, "symbol": "circle-open" if arm else "circle"},
                "error_y": _spread(series, colour),
                "hovertemplate": "%{x}: %{y:.4g}<extra>" + _escape(series["name"]) + "</extra>",
            }
        )
    layout = _base(
        320,
        showlegend=count > 1,
        xaxis=_axis(data.get("x_title"), **({"type": "log"} if data.get("log_x") else {})),
        yaxis=_axis(data.get("y_title"), **({"range": _padded(limits)} if limits else {})),
        **_reference(data),
    )
    return go.Figure({"data": traces, "layout": layout})


def _scatter(data: Mapping[str, Any], arm: int, limits: Limits | None) -> go.Figure:
    points, colour = list(data["points"]), OKABE_ITO[arm % len(OKABE_ITO)]
    trace = {
        "type": "scatter",
        "mode": ("lines+" if data.get("path") else "") + "markers+text",
        "x": [point["x"] for point in points],
        "y": [point["y"] for point in points],
        "text": [_escape(point["label"]) for point in points],
        "textposition": "top center",
        "textfont": {"size": 13},
        "line": {"color": "#b4bcc4", "width": 1.5},
        "marker": {
            "size": 9, "color": colour, "symbol": "circle-open" if arm else "circle",
            "line": {"color": colour, "width": 2},
        },
        "cliponaxis": False,
        "hovertemplate": "%{text}: %{x:.4g}, %{y:.4g}<extra></extra>",
    }  # fmt: skip
    layout = _base(360, showlegend=False, xaxis=_axis(data.get("x_title")), yaxis=_axis(data.get("y_title")))
    layout["margin"]["t"] = 24
    return go.Figure({"data": [trace], "layout": layout})


def table_of(figure: Figure) -> Table:
    """The numbers of a figure as a table, whatever its kind, so that no number is to be had from a picture alone."""
    data = figure.data
    rows: list[tuple[Cell, ...]]
    if figure.kind == "heatmap":
        columns = (data.get("y_title") or "", *map(str, data["x"]))
        rows = [(str(name), *row) for name, row in zip(data["y"], data["z"], strict=True)]
    elif figure.kind == "bars":
        columns, spans = _series_columns(data)
        rows = [
            (str(label), *(series[name][index] for series, names in spans for name in names))
            for index, label in enumerate(data["x"])
        ]
        columns = (data.get("x_title") or "", *columns)
    elif figure.kind == "lines":
        columns = ("series", data.get("x_title") or "x", data.get("y_title") or "y", "low", "high")
        rows = [
            (series["name"], x, series["y"][i], *(series[b][i] if series.get(b) else None for b in ("low", "high")))
            for series in data["series"]
            for i, x in enumerate(series["x"])
        ]
    elif figure.kind == "scatter":
        columns = ("point", data.get("x_title") or "x", data.get("y_title") or "y")
        rows = [(str(point["label"]), point["x"], point["y"]) for point in data["points"]]
    elif figure.kind == "attention":
        columns = ("head", "from (query)", *(f"to {index}: {token}" for index, token in enumerate(data["tokens"])))
        rows = [
            (head, f"{index}: {token}", *row)
            for head, pattern in zip(data["heads"], data["patterns"], strict=True)
            for index, (token, row) in enumerate(zip(data["tokens"], pattern, strict=True))
        ]
    elif figure.kind == "tokens":
        columns = ("position", "token", "value")
        rows = [(i, token, v) for i, (token, v) in enumerate(zip(data["tokens"], data["values"], strict=True))]
    elif figure.kind == "circuit":
        columns, rows = circuit_figure.table(circuit_figure.checked(figure))
    else:
        columns = ("example", "heads switched off", "most probable answer", "its probability", "target")
        rows = [
            (" ".join(map(str, example["tokens"])), switched_off(mask, data["heads"]), *ranked(answer)[0],
             str(example["target"]))
            for example in data["examples"]
            for mask, answer in sorted(example["answers"].items(), key=_fewest_heads_first)
        ]  # fmt: skip
    return Table(figure.title, tuple(columns), tuple(rows))


def _fewest_heads_first(entry: tuple[str, Any]) -> tuple[int, int]:
    return int(entry[0]).bit_count(), int(entry[0])


def _series_columns(data: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Mapping[str, Any], list[str]]]]:
    spans = [(series, [n for n in ("y", "low", "high") if series.get(n) is not None]) for series in data["series"]]
    names = {"y": "", "low": " low", "high": " high"}
    return tuple(series["name"] + names[name] for series, found in spans for name in found), spans


def switched_off(mask: str, heads: Sequence[str]) -> str:
    """The heads that a mask switches off, in words: bit h of the number is head h."""
    off = [str(head) for index, head in enumerate(heads) if int(mask) >> index & 1]
    return ", ".join(off) if off else "none"


def ranked(answer: Sequence[Any]) -> list[tuple[str, float | None]]:
    """An answer of a `switches` figure as (symbol, probability), most probable first.

    A figure holds either one [symbol, probability], the prediction, or a list of such pairs, the distribution.
    """
    pairs = [answer] if len(answer) == 2 and isinstance(answer[0], str) else list(answer)
    return sorted(((str(symbol), p) for symbol, p in pairs), key=lambda pair: -(pair[1] or 0.0))
