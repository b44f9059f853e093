"""The graph of a `circuit` figure as a static picture, on the grid that the report's own script draws it on.

Blocks stand one above the other, heads from left to right, the MLP at the right and half a row higher, because it reads
what the heads of its block write (`kc_interp/report/assets/circuit.js`, where the graph answers to clicks).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kc_interp import circuit_figure
from kc_interp.finding import Figure
from kc_interp.notebook.svg import SOFT, WIDTH, Picture, element, fitted, number

MOST_EDGES = 40
"""So many of the strongest edges are drawn where none is kept: all of them would be a tangle."""

ABOVE, BELOW = "#0072b2", "#d55e00"
_PALE = {ABOVE: "#7ba6c4", BELOW: "#dfa27c"}
_TO_HEADS, _TO_MLP, _HALF, _TALL, _PORT, _APART, _GUTTER = 78, 54, 30, 26, 8, 19, 22
_LEAST_COLUMN = 68
_FIRST = ("token", "position", "bias")
_HEAD, _MLP = re.compile(r"a(\d+)\.h(\d+)"), re.compile(r"m(\d+)")
_PORTS = {"q": ("#cfe8f8", "query"), "k": ("#fbe3b3", "key"), "v": ("#c4ebdd", "value")}


def draw(figure: Figure) -> tuple[Picture, str]:
    """The picture, and in words which of the edges it shows. Raises SpecError when the data fit no grid."""
    data = circuit_figure.checked(figure)
    edges, says = _shown(data)
    columns = data["n_heads"] + 1
    picture = Picture(max(WIDTH * 0.85, _GUTTER + _LEAST_COLUMN * columns))
    grid = _Grid.of(data, picture.width)
    _rows(picture, grid, data)
    reach = max((abs(edge["effect"]) for edge in data["edges"] if edge["effect"] is not None), default=0.0) or 1.0
    for edge in reversed(edges):
        _edge(picture, grid, edge, abs(edge["effect"]) / reach)
    used = {end for edge in edges for end in (edge["source"], _node_of(edge["target"]))}
    most = max((abs(node["effect"]) for node in data["nodes"] if node.get("effect") is not None), default=0.0)
    for node in data["nodes"]:
        _node(picture, grid, node, most, used=node["name"] in used)
    picture.height = _legend(picture, grid.height + 24)
    return picture, says


def _shown(data: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], str]:
    """The edges to draw, strongest first, and which they are: the kept ones, or the strongest where none is kept."""
    known = sorted(
        (edge for edge in data["edges"] if edge["effect"] is not None), key=lambda edge: -abs(edge["effect"])
    )
    kept = [edge for edge in known if edge.get("kept")]
    of, unit = len(data["edges"]), f" Effects: {data['unit']}." if data.get("unit") else ""
    if kept:
        why = f": {data['kept_says']}" if data.get("kept_says") else ""
        return kept, f"Drawn: the {len(kept)} of {of} edges that are kept{why}.{unit}"
    drawn = known[:MOST_EDGES]
    none = "None is kept. " if any("kept" in edge for edge in data["edges"]) else ""
    which = "all" if len(drawn) == of else f"the {len(drawn)} strongest of"
    return drawn, f"{none}Drawn: {which} {of} edges.{unit}"


@dataclass(frozen=True)
class _Grid:
    """Where nodes stand. Rows are counted from the embeddings up: heads on odd ones, MLPs on even ones."""

    heads: int
    depth: int
    first: tuple[str, ...]
    width: float

    @classmethod
    def of(cls, data: Mapping[str, Any], width: float) -> _Grid:
        names = {node["name"] for node in data["nodes"]}
        return cls(data["n_heads"], data["depth"], tuple(name for name in _FIRST if name in names), width)

    @property
    def column(self) -> float:
        return (self.width - _GUTTER) / (self.heads + 1)

    @property
    def height(self) -> float:
        return self._up(2 * self.depth) + _TO_MLP + _TALL + 8

    def _up(self, row: int) -> float:
        return _TO_HEADS * ((row + 1) // 2) + _TO_MLP * (row // 2)

    def y(self, row: int) -> float:
        last = 2 * self.depth + 1
        return self.height - _TALL / 2 - 4 - (self._up(last - 1) + _TO_MLP if row == last else self._up(row))

    def x(self, column: float) -> float:
        return _GUTTER + self.column * (column + 0.5)

    def place(self, name: str) -> tuple[int, float]:
        """Row and x of a node."""
        if head := _HEAD.fullmatch(name):
            return 2 * int(head[1]) + 1, self.x(int(head[2]))
        if mlp := _MLP.fullmatch(name):
            return 2 * int(mlp[1]) + 2, self.x(self.heads)
        if name == "logits":
            return 2 * self.depth + 1, (self.x(0) + self.x(self.heads)) / 2
        share = (self.first.index(name) + 1) / (len(self.first) + 1)
        return 0, _GUTTER + (self.width - _GUTTER) * share

    def beside(self, row: int, at: float, spread: float) -> float:
        """Past a box an edge takes the gap beside it, a little apart from the other edges there."""
        boxes = range(self.heads) if row % 2 else (self.heads,)
        if all(abs(at - self.x(column)) > _HALF + 5 for column in boxes):
            return at
        outer = self.column / 4 - _HALF / 2
        inner = [_GUTTER + column * self.column for column in range(1, self.heads + 1)]
        gap = min((_GUTTER + outer, *inner, self.width - outer), key=lambda place: abs(place - at))
        within = self.x(0) <= gap <= self.x(self.heads)
        return gap + spread * max(0.0, self.column / 2 - _HALF - 6) * (0.8 if within else 0.4)


def _node_of(target: str) -> str:
    return target.partition("<")[0]


def _curve(grid: _Grid, edge: Mapping[str, Any]) -> str:
    """A smooth line from the top of the source to the target's input, around the boxes between."""
    (row, x), (last, end) = grid.place(edge["source"]), grid.place(_node_of(edge["target"]))
    part = edge["target"][-2] if edge["target"].endswith(">") else ""
    start = (x, grid.y(row) - _TALL / 2)
    to = (end + ("qkv".index(part) - 1) * _APART, grid.y(last) + _TALL / 2 + 2 * _PORT - 2) if part else (
        end, grid.y(last) + _TALL / 2
    )  # fmt: skip
    spread = ((x * 3 + to[0]) / 18 % 5) / 2.5 - 1
    points = [start]
    for passed in range(row + 1, last):
        y = grid.y(passed)
        straight = start[0] + (to[0] - start[0]) * (start[1] - y) / (start[1] - to[1])
        points.append((grid.beside(passed, straight, spread), y))
    return _smooth([*points, to])


def _smooth(points: Sequence[tuple[float, float]]) -> str:
    """A cubic through the points that starts and ends upright."""
    slopes = [0.0, *((b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(points, points[2:], strict=False)), 0.0]
    text, pull = f"M{number(points[0][0])} {number(points[0][1])}", 0.36 if len(points) > 2 else 0.5
    for (from_, to), out, into in zip(itertools.pairwise(points), slopes, slopes[1:], strict=False):
        third = (to[1] - from_[1]) * pull
        bends = (from_[0] + out * third, from_[1] + third, to[0] - into * third, to[1] - third, *to)
        text += "C" + " ".join(map(number, bends))
    return text


def _edge(picture: Picture, grid: _Grid, edge: Mapping[str, Any], share: float) -> None:
    colour = BELOW if edge["effect"] < 0 else ABOVE
    picture.mark(
        "path",
        d=_curve(grid, edge),
        fill="none",
        stroke=colour if edge.get("kept") else _PALE[colour],
        stroke_width=round(1 + 6 * share, 1),
        stroke_dasharray="7 4" if edge["effect"] < 0 else None,
        opacity=f"{0.45 + 0.55 * share:.2f}",
    )


def _node(picture: Picture, grid: _Grid, node: Mapping[str, Any], most: float, *, used: bool) -> None:
    """A box with its name; its outline shows the node's own effect as a line shows an edge's."""
    row, x = grid.place(node["name"])
    y, half, effect = grid.y(row), _HALF + (4 if node["name"] == "position" else 0), node.get("effect")
    outline: dict[str, Any] = {"stroke": "#59636e", "stroke_width": 1.2}
    if effect is not None:
        below, width = effect < 0, 1.2 + 2.3 * abs(effect) / (most or 1.0)
        outline = {"stroke": BELOW if below else ABOVE, "stroke_width": width}
        outline["stroke_dasharray"] = "5 3" if below else None
    ports = row % 2 == 1 and node["name"] != "logits"
    box = element("rect", x=x - half, y=y - _TALL / 2, width=2 * half, height=_TALL, rx=4, fill="#fff", **outline)
    name = element("text", node["name"], x=x, y=y + (2 if ports else 4), text_anchor="middle")
    inputs = [_port(part, x + (i - 1) * _APART, y + _TALL / 2 + _PORT - 2) for i, part in enumerate(_PORTS) if ports]
    # On white, so that an unused box lets no line through.
    ground = element("rect", x=x - half, y=y - _TALL / 2, width=2 * half, height=_TALL, rx=4, fill="#fff")
    content = box + name + "".join(inputs)
    picture.marks.append(ground + (content if used else element("g", content, opacity="0.45")))


def _port(part: str, x: float, y: float) -> str:
    style = {"fill": _PORTS[part][0], "stroke": "#59636e"}
    shape = {
        "q": element("circle", r=_PORT, **style),
        "k": element("rect", x=-_PORT, y=-_PORT, width=2 * _PORT, height=2 * _PORT, **style),
        "v": element("path", d="M0-10L10 0L0 10L-10 0Z", **style),
    }[part]
    name = element("text", part, y=4, text_anchor="middle")
    return element("g", shape + name, transform=f"translate({number(x)} {number(y)})")


def _rows(picture: Picture, grid: _Grid, data: Mapping[str, Any]) -> None:
    """A wash behind each block, with its name at the left."""
    names = data.get("rows") or [f"block {block}" for block in range(grid.depth)]
    for block, name in enumerate(names):
        top = grid.y(2 * block + 2) - _TALL / 2 - 8
        bottom = grid.y(2 * block + 1) + _TALL / 2 + 2 * _PORT + 6
        picture.mark("rect", x=0, y=top, width=grid.width, height=bottom - top, rx=6, fill="#f5f7f9")
        at = f"translate(16 {number((top + bottom) / 2)}) rotate(-90)"
        picture.text(0, 0, fitted(name, bottom - top - 10), transform=at, text_anchor="middle", fill=SOFT)


def _legend(picture: Picture, y: float) -> float:
    """What lines and inputs look like; returns where it ends."""
    x = 6.0
    for colour, dash, words in ((ABOVE, None, "effect above 0"), (BELOW, "7 4", "effect below 0")):
        picture.mark("path", d=f"M{number(x)} {number(y)}h28", stroke=colour, stroke_width=3, stroke_dasharray=dash)
        picture.text(x + 34, y + 4, words, fill=SOFT)
        x += 136
    for part, (_, words) in _PORTS.items():
        picture.marks.append(_port(part, x + 8, y))
        picture.text(x + 24, y + 4, f"{words} input", fill=SOFT)
        x += 102
    return y + 18
