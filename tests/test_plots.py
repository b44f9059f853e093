"""Charts show the numbers they are given, in colours and sizes that everyone can read, and the same data twice alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import plotly.io
import pytest

from kc_interp import plots
from kc_interp.errors import SpecError
from kc_interp.finding import Figure
from tests.sample_findings import TOKENS, findings_of, roster


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
    (series,) = bars.data["series"]
    table = plots.table_of(bars)
    assert [row[1] for row in table.rows] == list(series["y"])
    assert [row[3] for row in table.rows] == list(series["high"])
    heat = next(figure for figure in CHARTS if figure.kind == "heatmap")
    assert [list(row[1:]) for row in plots.table_of(heat).rows] == heat.data["z"]


def test_a_mask_names_the_heads_it_switches_off_in_the_order_of_its_bits() -> None:
    assert plots.switched_off("5", ["a", "b", "c"]) == "a, c"
    assert plots.switched_off("0", ["a"]) == "none"
    assert plots.ranked(["7", 0.4]) == [("7", 0.4)]
    assert plots.ranked([["7", 0.1], ["2", 0.9]]) == [("2", 0.9), ("7", 0.1)]


def test_hostile_labels_reach_plotly_as_text() -> None:
    points = [{"x": 0, "y": 0, "label": "<a href='//evil'>x</a>"}]
    drawn = plots.draw(Figure("scatter", "t", "", "", {"points": points, "x_title": "<b>", "y_title": "y"})).to_json()
    assert "<a" not in drawn and "<b>" not in drawn


def test_a_widget_and_missing_data_are_refused_with_what_would_work() -> None:
    with pytest.raises(SpecError, match="'tokens' is not a chart; draw takes heatmap, bars, lines, scatter"):
        plots.draw(Figure("tokens", "t", "", "", {}))
    with pytest.raises(SpecError, match="figure 't': a heatmap needs 'z' in its data"):
        plots.draw(Figure("heatmap", "t", "", "", {"x": [], "y": []}), limits=(0, 1))
