"""Figures as SVG and PNG for print: 89 or 180 mm wide, text of 9 pt and more, through kaleido and a Chromium.

A pixel is 1/96 inch, so what is 12 px on the page is 9 pt on paper; nothing is scaled. The same figure gives the same
SVG: the random names that plotly gives to clip paths and traces are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kc_interp.errors import KCInterpError
from kc_interp.files import write_atomically
from kc_interp.gallery.drawing import PALE, Drawing, note
from kc_interp.report.printed import slug

PX_PER_MM = 96 / 25.4
PNG_DPI = 300
MISSING = (
    "still images need kaleido: install the extra with `pip install 'kc-interp[figures]'`, and a Chrome or Chromium "
    "(Debian: apt install chromium); index.html needs neither"
)
BROWSER = (
    "kaleido is installed but found no browser to draw with ({reason}); install Chrome or Chromium (Debian: apt "
    "install chromium), or name it in the environment variable BROWSER_PATH"
)


def write_stills(
    drawings: Sequence[Drawing], folder: Path, formats: Sequence[str], *, label: str = ""
) -> Iterator[Path]:
    """Write every panel that has a plot, in each format ("svg", "png"). `label` is printed in each ("partial: …").

    Raises KCInterpError where kaleido or its browser is missing.
    """
    try:
        import kaleido
    except ImportError:
        raise KCInterpError(MISSING) from None
    try:
        kaleido.start_sync_server(silence_warnings=True)
    except Exception as error:  # kaleido's own kinds of errors change between versions
        raise KCInterpError(BROWSER.format(reason=str(error).strip() or type(error).__name__)) from error
    try:
        for name, plot in named_plots(drawings, label):
            for kind in formats:
                yield write_atomically(folder / f"{name}.{kind}", _image(kaleido, plot, kind))
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def named_plots(drawings: Sequence[Drawing], label: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every plot in print's layout under its file's name: the figure's, and for further panels their own after it."""
    for drawing in drawings:
        taken: set[str] = set()
        for index, panel in enumerate(drawing.panels):
            if panel.plot is None:
                continue
            name = drawing.name if not taken else f"{drawing.name}.{slug(panel.file or panel.choice)[:60]}"
            name = name if name not in taken else f"{name}-{index + 1}"
            taken.add(name)
            yield name, for_print(panel.plot.to_plotly_json(), drawing.width_mm, label)


def for_print(plot: dict[str, Any], width_mm: int, label: str = "") -> dict[str, Any]:
    """A plot as it is printed: its width in millimetres, on white, with a label where it is partial."""
    layout = dict(plot["layout"])
    layout |= {"width": round(width_mm * PX_PER_MM), "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff"}
    layout["font"] = {**layout["font"], "family": "Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"}
    if label:
        bottom = layout["margin"]["b"] + 16
        said = note(
            label, xref="paper", x=1, xanchor="right", yref="paper", y=0, yanchor="bottom", yshift=-bottom,
            font={"size": 12, "color": PALE},
        )  # fmt: skip
        layout |= {"margin": {**layout["margin"], "b": bottom}, "height": layout["height"] + 16}
        layout["annotations"] = [*layout.get("annotations", ()), said]
    return {"data": plot["data"], "layout": layout}


def _image(kaleido: Any, plot: dict[str, Any], kind: str) -> bytes:
    size = {"width": plot["layout"]["width"], "height": plot["layout"]["height"]}
    scale = PNG_DPI / 96 if kind == "png" else 1
    try:
        made: bytes = kaleido.calc_fig_sync(plot, opts={"format": kind, "scale": scale, **size})
    except Exception as error:
        raise KCInterpError(BROWSER.format(reason=str(error).strip() or type(error).__name__)) from error
    return same_names(made.decode()).encode() if kind == "svg" else made


def same_names(svg: str) -> str:
    """An SVG whose clip paths and traces have the same names each time."""
    found = re.search(r'id="(?:top)?defs-([0-9a-f]{6})"', svg)
    svg = svg.replace(found[1], "figure") if found else svg
    return re.sub(r"\btrace[0-9a-f]{6}\b", "trace", svg)
