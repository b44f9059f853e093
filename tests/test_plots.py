"""Charts show the numbers they are given, in colours and sizes that everyone can read, and the same data twice alike."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.io
import pytest

from kc_interp import plots
from kc_interp.errors import SpecError
from kc_interp.finding import Figure
from kc_interp.model.graph import Graph
from tests.sample_findings import TOKENS, circuit, circuit_names, findings_of, roster


def figures() -> list[Figure]:
    return [figure for finding in findings_of(roster().models[2]) for figure in finding.figures]


CHARTS = [figure for figure in figures() if figure.kind in plots.DRAWN]


def sizes(value: Any, inside: str = "") -> Iterator[float]:
    """Every font size in a figure's JSON."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "size" and "font" in inside:
                yield item
            yield from sizes(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from sizes(item, inside)


@pytest.mark.parametrize("figure", CHARTS, ids=lambda figure: figure.title)
def test_the_same_data_give_the_same_json_and_plotly_accepts_it(figure: Figure) -> None:
    once, again = plots.draw(figure).to_json(), plots.draw(figure).to_json()
    assert once == again and "NaN" not in once
    assert min(sizes(json.loads(once))) >= 12


def test_no_global_template_changes_a_chart() -> None:
    before = plots.draw(CHARTS[0]).to_json()
    standing = plotly.io.templates.default
    try:
        plotly.io.templates.default = "plotly_dark"
        assert plots.draw(CHARTS[0]).to_json() == before
    finally:
        plotly.io.templates.default = standing


def test_a_diverging_scale_is_centred_on_its_zero_and_a_sequential_one_is_cividis() -> None:
    data = {"x": ["a", "b"], "y": ["c"], "z": [[-0.2, 0.7]], "zmid": 0}
    trace = plots.draw(Figure("heatmap", "t", "", "", data)).data[0]
    assert (trace.zmin, trace.zmax) == (-0.7, 0.7)
    sequential = plots.draw(Figure("heatmap", "t", "", "", {**data, "zmid": None})).data[0]
    assert (sequential.zmin, sequential.zmax) == (-0.2, 0.7)
    assert sequential.colorscale != trace.colorscale


def test_tokens_that_repeat_keep_their_own_columns() -> None:
    data = {"x": TOKENS, "y": ["r"], "z": [list(range(len(TOKENS)))], "zmid": None}
    drawn = plots.draw(Figure("heatmap", "t", "", "", data))
    assert len(set(drawn.data[0].x)) == len(TOKENS)
    assert drawn.layout.xaxis.ticktext[0] == "[SUM" and drawn.layout.xaxis.ticktext[7] == "&gt;"


def test_the_second_arm_is_told_apart_without_colour() -> None:
    bars = next(figure for figure in CHARTS if figure.kind == "bars")
    scatter = next(figure for figure in CHARTS if figure.kind == "scatter")
    # "replace", Plotly's default, would paint white lines on no ground at all.
    assert plots.draw(bars, arm=1).data[0].marker.pattern.fillmode == "overlay"
    assert [plots.draw(bars, arm=arm).data[0].marker.pattern.shape for arm in (0, 1)] == ["", "/"]
    assert [plots.draw(scatter, arm=arm).data[0].marker.symbol for arm in (0, 1)] == ["circle", "circle-open"]


def test_error_bars_end_at_the_bounds_and_are_absent_where_a_bound_is() -> None:
    series = [{"name": "s", "y": [0.5, 0.2], "low": [0.4, None], "high": [0.8, 0.3]}]
    bar = plots.draw(Figure("bars", "t", "", "", {"x": ["a", "b"], "series": series, "y_title": "y"})).data[0]
    assert bar.error_y.array[0] == pytest.approx(0.3) and bar.error_y.arrayminus[0] == pytest.approx(0.1)
    assert bar.error_y.array[1] is None


def test_figures_side_by_side_share_the_scale_they_are_given() -> None:
    heat = [Figure("heatmap", "t", "", "", {"x": ["a"], "y": ["b"], "z": [[z]], "zmid": None}) for z in (0.1, 3.0)]
    limits = plots.limits_of(heat)
    assert limits == (0.1, 3.0)
    assert {(plots.draw(f, limits=limits).data[0].zmin, plots.draw(f, limits=limits).data[0].zmax) for f in heat} == {
        limits
    }


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: f"{figure.kind}: {figure.title}")
def test_every_kind_of_figure_has_a_table_with_a_cell_for_every_column(figure: Figure) -> None:
    table = plots.table_of(figure)
    assert table.rows and {len(row) for row in table.rows} == {len(table.columns)}


def test_a_table_holds_the_numbers_of_its_chart() -> None:
    bars = next(figure for figure in CHARTS if figure.kind == "bars")
    trained, before = bars.data["series"]
    table = plots.table_of(bars)
    assert [row[1] for row in table.rows] == list(trained["y"])
    assert [row[3] for row in table.rows] == list(trained["high"])
    assert [row[4:] for row in table.rows] == [(value,) for value in before["y"]]
    heat = next(figure for figure in CHARTS if figure.kind == "heatmap")
    assert [list(row[1:]) for row in plots.table_of(heat).rows] == heat.data["z"]


def test_a_mask_names_the_heads_it_switches_off_in_the_order_of_its_bits() -> None:
    assert plots.switched_off("5", ["a", "b", "c"]) == "a, c"
    assert plots.switched_off("0", ["a"]) == "none"
    assert plots.ranked(["7", 0.4]) == [("7", 0.4)]
    assert plots.ranked([["7", 0.1], ["2", 0.9]]) == [("2", 0.9), ("7", 0.1)]


def test_a_circuits_table_lists_every_node_and_edge_with_its_interval_and_scores() -> None:
    figure = next(figure for figure in figures() if figure.kind == "circuit")
    table, data = plots.table_of(figure), figure.data
    assert table.columns == ("node or edge", "effect", "low", "high", "kept", "EAP", "EAP-IG")
    assert [row[0] for row in table.rows[: len(data["nodes"])]] == [node["name"] for node in data["nodes"]]
    for row, edge in zip(table.rows[len(data["nodes"]) :], data["edges"], strict=True):
        numbers = (edge["effect"], edge["low"], edge["high"], "yes" if edge["kept"] else "no", *edge["scores"].values())
        assert row == (f"{edge['source']}->{edge['target']}", *numbers)
    assert len(data["edges"]) == 110


@pytest.mark.parametrize("shape", [(1, 1), (2, 4), (4, 8)])
def test_every_edge_of_a_models_graph_has_its_place_in_a_circuit_figure(shape: tuple[int, int]) -> None:
    graph = Graph(*shape)
    names = [*graph.writers, "logits"]
    edges = [
        dict(zip(("source", "target"), graph.name(edge).split("->"), strict=True), effect=0.1) for edge in graph.edges
    ]
    data = {"depth": shape[0], "n_heads": shape[1], "nodes": [{"name": name} for name in names], "edges": edges}
    assert len(plots.table_of(Figure("circuit", "t", "", "", data)).rows) == len(names) + len(graph.edges)
    assert [f"{s}->{t}" for s, t in circuit_names(*shape)[1]] == [graph.name(edge) for edge in graph.varying]


def damaged(path: tuple[Any, ...], value: Any) -> Figure:
    """The sample circuit with one value replaced, or taken away where the value is `...`."""
    (figure,) = circuit(roster().models[2], np.random.default_rng(0)).figures
    data = json.loads(json.dumps(figure.data))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return Figure("circuit", "c", "", "", data)


@pytest.mark.parametrize(("path", "value", "says"), [
    (("edges",), ..., "a circuit needs 'edges' in its data"),
    (("depth",), 0, "'depth' is 0; a grid has one or more"),
    (("depth",), 1, "no place for the node 'a1.h0' on a grid of depth 1 with 4 heads"),
    (("rows",), ["only one"], "'rows' names 1 for a depth of 2"),
    (("nodes", 1, "name"), "a0.h9", "no place for the node 'a0.h9'"),
    (("nodes", 1, "name"), "token", "the node 'token' stands there twice"),
    (("nodes", 1, "effect"), "high", "the node 'a0.h0': 'effect' is 'high', which is no number"),
    (("edges", 0, "effect"), ..., "a circuit needs 'effect'"),
    (("edges", 0, "source"), "tokens", "names 'tokens', which is not among the nodes; did you mean 'token'"),
    (("edges", 0, "source"), "logits", "the edge 'logits->a0.h0<q>' leads to nothing later than its source"),
    (("edges", 0, "target"), "a0.h0", "entered by query, key or value, as in 'a0.h1<q>'"),
    (("edges", 0, "target"), "m0<q>", "entered by query, key or value"),
    (("edges", 1, "target"), "a0.h0<q>", "the edge 'token->a0.h0<q>' stands there twice"),
    (("edges", 0, "scores", "EAP"), "0.3", "the edge 'token->a0.h0<q>': 'EAP' is '0.3', which is no number"),
    (("edges", 0), "token->logits", "its data do not fit the kind 'circuit'"),
    (("examples", 1, "moved"), [0.1], "'moved' of example 1 has length 1, not 110 as the edges"),
    (("examples", 0, "moved_nodes", 0), "x", "example 0, moved_nodes: 0 is 'x', which is no number"),
])  # fmt: skip
def test_a_circuit_that_fits_no_grid_is_refused_by_name(path: tuple[Any, ...], value: Any, says: str) -> None:
    with pytest.raises(SpecError, match=rf"figure 'c': .*{re.escape(says)}"):
        plots.table_of(damaged(path, value))


def test_hostile_labels_reach_plotly_as_text() -> None:
    points = [{"x": 0, "y": 0, "label": "<a href='//evil'>x</a>"}]
    drawn = plots.draw(Figure("scatter", "t", "", "", {"points": points, "x_title": "<b>", "y_title": "y"})).to_json()
    assert "<a" not in drawn and "<b>" not in drawn


def test_a_widget_and_missing_data_are_refused_with_what_would_work() -> None:
    with pytest.raises(SpecError, match="'tokens' is not a chart; draw takes heatmap, bars, lines, scatter"):
        plots.draw(Figure("tokens", "t", "", "", {}))
    with pytest.raises(SpecError, match="figure 't': a heatmap needs 'z' in its data"):
        plots.draw(Figure("heatmap", "t", "", "", {"x": [], "y": []}), limits=(0, 1))
