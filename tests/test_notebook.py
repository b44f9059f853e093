"""What a notebook shows loads nothing, runs nothing and hides no number; the example notebook is one that was run."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import math
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from kc_interp import notebook
from kc_interp.checkpoint import Checkpoint
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.notebook import charts, circuit, display
from kc_interp.notebook.svg import Scale
from kc_interp.testing import small_subject
from tests.sample_findings import findings_of, heavy_findings, roster
from tests.test_report import HOSTILE, hostile_document

EXAMPLE = Path(__file__).resolve().parents[1] / "experiments" / "notebooks" / "first-look.ipynb"
REWRITE = "KC_INTERP_WRITE_NOTEBOOK"
CANDIDATES = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 500_000

# What JupyterLab's sanitiser lets pass (apputils/src/sanitizer.ts, 4.x) of what a display may want; GitHub's view drops
# `style`, and what the display says must be there without it.
TAGS = {
    "b", "br", "code", "data", "details", "div", "h3", "h4", "img", "p", "small", "span", "summary", "table", "tbody", "td",
    "th", "thead", "tr",
}  # fmt: skip
ATTRIBUTES = {"align", "alt", "open", "src", "style", "value", "width"}


class Page(html.parser.HTMLParser):
    """The elements of a display, its words, and the pictures in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def pictures(self) -> list[str]:
        sources = [attributes["src"] or "" for tag, attributes in self.elements if tag == "img"]
        return [base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() for source in sources]

    @property
    def values(self) -> list[float]:
        return [float(attributes["value"] or "nan") for tag, attributes in self.elements if tag == "data"]


def require_harmless(text: str) -> None:
    """No script, no request, nothing that a sanitiser takes out; pictures are well-formed and harmless themselves."""
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag in TAGS, tag
        assert set(attributes) <= ATTRIBUTES, attributes
        assert (attributes.get("src") or "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        assert not re.search(r"url\(|@import|expression|https?:", attributes.get("style") or "")
    assert "NaN" not in text and "Infinity" not in text
    for picture in page.pictures:
        for element in ElementTree.fromstring(picture).iter():
            assert element.tag.removeprefix("{http://www.w3.org/2000/svg}") in {
                "svg", "rect", "path", "circle", "text", "g", "pattern",
            }  # fmt: skip
            for name, value in element.attrib.items():
                assert not name.startswith("on") and "href" not in name
                assert "nan" not in value.lower() and not re.search(r"https?:|url\((?!#)", value)


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    return small_subject(steps=20).checkpoint


def shown() -> Iterator[Finding | Figure | Table | Number]:
    """Everything that the sample findings hold, of a model that learned and of one that did not."""
    models = roster().models
    for finding in (*findings_of(models[2]), *findings_of(models[0]), *heavy_findings(models[2])):
        yield finding
        yield from (*finding.figures, *finding.tables, *finding.numbers[:3])


def test_a_display_runs_no_script_makes_no_request_and_survives_a_sanitiser() -> None:
    for one in shown():
        bundle = one._repr_mimebundle_()
        assert set(bundle) == {"text/plain", "text/html"}
        require_harmless(bundle["text/html"])


@pytest.mark.parametrize("bad", [*HOSTILE, "\x07\x00 \ud800", "]]>"])
def test_a_hostile_token_stays_text(bad: str) -> None:
    findings = [finding for several in hostile_document(bad).findings.values() for finding in several]
    heatmap = Figure("heatmap", bad, bad, bad, {"x": [bad], "y": [bad], "z": [[1.0]], "text": [[bad]], "z_title": bad,
                                                "x_title": bad, "y_title": bad})  # fmt: skip
    lines = Figure("lines", bad, bad, bad, {"series": [{"name": bad, "x": [bad], "y": [1.0]}, {"name": bad, "x": [bad], "y": [2.0]}],
                                            "x_title": bad, "y_title": bad, "reference": {"y": 1, "name": bad}})  # fmt: skip
    scatter = Figure(
        "scatter", bad, bad, bad, {"points": [{"x": 1, "y": 1, "label": bad}], "x_title": bad, "y_title": bad}
    )
    broken = Figure("bars", bad, bad, bad, {bad: bad})
    for one in (*findings, heatmap, lines, scatter, broken):
        text = one._repr_mimebundle_()["text/html"]
        require_harmless(text)
        text.encode()
        for picture in Page(text).pictures:
            assert "".join(ElementTree.fromstring(picture).itertext())


def test_every_number_of_a_finding_is_there_with_its_interval_control_and_unit() -> None:
    for finding in heavy_findings(roster().models[2]):
        page = Page(notebook.html(finding))
        for number in finding.numbers:
            for value in (number.value, number.low, number.high, number.control, number.n):
                assert value is None or value in page.values
            assert number.title.partition(": ")[2] in page.words and number.unit in page.words
            assert number.note in page.words
        assert finding.sentence in page.words and finding.subject in page.words
        for figure in finding.figures:
            assert figure.shows in page.words and figure.refuted_by in page.words


def test_what_was_not_measured_is_a_dash_and_what_is_not_finite_too() -> None:
    number = Number("k", "a number", math.nan, control=None, note="refused: too few")
    figure = Figure("bars", "t", "s", "r", {"x": ["a", "b"], "series": [{"name": "n", "y": [math.inf, None]}]})
    text = notebook.html(Finding("p", "m", "t", "s", numbers=(number,), figures=(figure,)))
    require_harmless(text)
    assert "–" in Page(text).words and "refused: too few" in text


def test_the_same_finding_gives_the_same_text() -> None:
    model = roster().models[2]
    assert [notebook.html(f) for f in findings_of(model)] == [notebook.html(f) for f in findings_of(model)]


def test_arrays_are_drawn_as_lists_are() -> None:
    data = {"x": ["a", "b"], "y": ["c"], "z": np.array([[0.25, 0.5]]), "zmid": 0}
    as_list = {**data, "z": [[0.25, 0.5]]}
    one, other = (notebook.html(Figure("heatmap", "t", "s", "r", d)) for d in (data, as_list))
    assert one == other


def test_a_figure_whose_data_do_not_fit_says_so_and_raises_nothing() -> None:
    for kind in ("heatmap", "bars", "lines", "scatter", "attention", "tokens", "circuit", "switches"):
        page = Page(notebook.html(Figure(kind, "t", "what it shows", "r", {"x": 3})))  # type: ignore[arg-type]
        assert "do not fit the kind" in page.words and not page.pictures


def test_empty_charts_are_drawn() -> None:
    for kind, data in (
        ("heatmap", {"x": [], "y": [], "z": []}),
        ("bars", {"x": [], "series": []}),
        ("lines", {"series": []}),
        ("scatter", {"points": []}),
        ("tokens", {"tokens": [], "values": []}),
        ("attention", {"tokens": [], "heads": [], "patterns": []}),
    ):
        ElementTree.fromstring(charts.draw(kind, data).svg)


def test_bars_begin_at_nought_and_intervals_reach_their_bounds() -> None:
    data = {"x": ["a"], "series": [{"name": "s", "y": [2.0], "low": [1.0], "high": [4.0]}]}
    picture = charts.draw("bars", data).svg
    [(_, top, _, tall)] = re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)" fill="#0072B2"', picture)
    [(low, high)] = re.findall(r'd="M\S+ (\S+)V(\S+?)M', picture)
    floor, unit = float(top) + float(tall), float(tall) / 2
    assert abs(float(low) - (floor - unit)) < 0.2 and abs(float(high) - (floor - 4 * unit)) < 0.2


def test_a_diverging_heatmap_has_a_shade_for_nought() -> None:
    data = {"x": ["a", "b", "c"], "y": ["r"], "z": [[-1.0, 1e-9, 0.5]], "zmid": 0}
    assert 'fill="#f7f7f7" d="M' in charts.draw("heatmap", data).svg


def graph(**edge: Any) -> Figure:
    names = ("token", "a0.h0", "m0", "logits")
    edges = [("token", "a0.h0<v>", 0.5), ("a0.h0", "logits", -0.25), ("m0", "logits", 0.125)]
    return Figure("circuit", "t", "s", "r", {
        "depth": 1, "n_heads": 1, "nodes": [{"name": name, "effect": None} for name in names],
        "edges": [{"source": s, "target": t, "effect": e, **{k: v(e) for k, v in edge.items()}} for s, t, e in edges],
    })  # fmt: skip


def strokes(figure: Figure) -> list[tuple[str, float, bool]]:
    """Colour, width and dashes of every edge drawn."""
    found = []
    for element in ElementTree.fromstring(circuit.draw(figure)[0].svg).iter():
        if "opacity" in element.attrib and element.tag.endswith("path"):
            at = element.attrib
            found.append((at["stroke"], float(at["stroke-width"]), "stroke-dasharray" in at))
    return found


def test_kept_edges_alone_are_drawn_blue_above_nought_and_orange_dashed_below_thicker_when_larger() -> None:
    drawn = strokes(graph(kept=lambda effect: abs(effect) > 0.2))
    assert drawn == [(circuit.BELOW, 4.0, True), (circuit.ABOVE, 7.0, False)]


def test_where_no_edge_is_kept_the_strongest_are_drawn_pale_and_the_words_say_so() -> None:
    for figure, says in ((graph(), "Drawn: all"), (graph(kept=lambda effect: False), "None is kept. Drawn: all")):
        drawn = strokes(figure)
        assert len(drawn) == 3 and not {stroke for stroke, _, _ in drawn} & {circuit.ABOVE, circuit.BELOW}
        assert circuit.draw(figure)[1].startswith(says)
    many = findings_of(roster().models[0])[4].figures[0]
    assert len(strokes(many)) == circuit.MOST_EDGES


def test_every_node_stands_in_the_picture() -> None:
    figure = findings_of(roster().models[2])[4].figures[0]
    words = list(ElementTree.fromstring(circuit.draw(figure)[0].svg).itertext())
    assert {node["name"] for node in figure.data["nodes"]} <= set(words)


def test_a_table_too_long_for_a_notebook_says_how_many_rows_it_leaves_out() -> None:
    table = Table("t", ("a", "b", "c"), tuple((i, i, i) for i in range(1_000)))
    page = Page(notebook.html(table))
    assert len([1 for tag, _ in page.elements if tag == "td"]) == display.MOST_CELLS
    assert "500 more rows are not shown here" in page.words


def test_ticks_are_round_and_within_the_scale() -> None:
    for low, high in ((0, 1), (-0.3, 7e-3), (1e5, 3e6), (5, 5)):
        ticks = Scale.over([low, high], 0, 100).ticks
        assert 3 <= len(ticks) <= 8
    assert Scale.over([1, 1000], 0, 100, log=True).ticks == [1, 10, 100, 1000]


def test_a_checkpoint_tells_its_task_its_settings_and_not_where_the_machine_keeps_it(
    trained: Checkpoint, tmp_path: Path
) -> None:
    kept = dataclasses.replace(trained, path=tmp_path / "sum-0" / "model.safetensors")
    bundle = kept._repr_mimebundle_()
    page = Page(bundle["text/html"])
    require_harmless(bundle["text/html"])
    for part in (
        "MAX",
        "SUM",
        f"{trained.parameter_count:,}",
        "wide",
        "sum-0/model.safetensors",
        "seed",
        trained.task.says,
    ):  # type: ignore[attr-defined]
        assert part in page.words, part
    assert str(tmp_path) not in bundle["text/html"] + bundle["text/plain"]
    assert "Not evaluated" in page.words


def test_a_checkpoint_shows_what_was_measured_with_intervals(trained: Checkpoint) -> None:
    exact = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8, "mode": "free-running"}
    sets = {
        "test: SUM": {"says": "questions of SUM", "n": 8, "chance": 0.125, "metrics": {"exact": exact, "answer": exact}}
    }
    metrics = {"level": 0.8, "criterion": "every symbol is right.", "learned": {"SUM": False}, "sets": sets}
    page = Page(notebook.html(trained.with_metrics(metrics)))
    for part in ("questions of SUM", "50 %", "[25 %, 75 %]", "12.5 %", "not learned", "every symbol is right."):
        assert part.replace(" %", "\u00a0%").replace(", 7", ",\u00a07") in page.words, part


def test_what_displays_a_finding_never_imports_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from kc_interp.finding import Finding;"
        "assert 'plotly' not in sys.modules and 'jinja2' not in sys.modules;"
        "Finding('p', 'm', 't', 's')._repr_mimebundle_(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The example notebook


def outputs(cells: list[Any]) -> Iterator[Any]:
    for cell in cells:
        yield from cell.get("outputs", ())


def require_sound(book: Any) -> None:
    """What was run is there, in order and whole; what is shown is harmless and says nothing of a machine."""
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, 1 + len(cells)))
    for cell in cells:
        last = cell.source.rstrip().splitlines()[-1]
        kinds = [output.output_type for output in cell.outputs]
        # A cell whose last line is a mere name or an item of one shows it.
        assert ("execute_result" in kinds) == bool(re.fullmatch(r"[\w.\[\]]+", last)), last
        assert ("print(" in cell.source) == any(o.output_type == "stream" and o.name == "stdout" for o in cell.outputs)
    for output in outputs(cells):
        assert output.output_type == "execute_result" or output.get("name") == "stdout", output
        if output.output_type == "execute_result":
            require_harmless(output.data["text/html"])
    said = "".join(output.get("text", "") or "".join(output.get("data", {}).values()) for output in outputs(cells))
    assert "/home/" not in said and "/tmp/" not in said and "site-packages" not in said


def test_the_example_notebook_was_run_as_it_stands_and_is_small() -> None:
    book = nbformat.read(EXAMPLE, as_version=4)
    nbformat.validate(book)
    require_sound(book)
    assert EXAMPLE.stat().st_size < MOST_BYTES
    assert len([1 for output in outputs(book.cells) if "text/html" in output.get("data", {})]) >= 5
    assert all("execution" not in cell.metadata for cell in book.cells)
    assert set(book.metadata) == {"kernelspec", "language_info"} and set(book.metadata.language_info) == {"name"}


@pytest.mark.slow
def test_the_example_notebook_runs_from_an_empty_folder(tmp_path: Path) -> None:
    """With KC_INTERP_WRITE_NOTEBOOK=1 the outputs are written back: the way to renew them."""
    from nbclient import NotebookClient

    book = nbformat.read(EXAMPLE, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=300, kernel_name="python3", record_timing=False, resources=where).execute()
    book.metadata["language_info"] = {"name": "python"}
    require_sound(book)
    assert list(tmp_path.iterdir()) == []
    if os.environ.get(REWRITE) == "1":
        nbformat.write(book, EXAMPLE)


# In a browser


@pytest.mark.browser
def test_a_browser_draws_every_picture_and_asks_for_nothing(tmp_path: Path, trained: Checkpoint) -> None:
    path = next(filter(None, map(shutil.which, CANDIDATES)), None)
    if path is None:
        missing = f"no Chromium in PATH (looked for {', '.join(CANDIDATES)}); Debian has it as `apt install chromium`"
        if os.environ.get("KC_INTERP_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    bad = [f for several in hostile_document(HOSTILE[0]).findings.values() for f in several]
    texts = [notebook.html(one) for one in (trained, *findings_of(roster().models[2]), *bad)]
    page_path = tmp_path / "page.html"
    page_path.write_text("<!doctype html><meta charset=utf-8><title>t</title>" + "".join(texts), encoding="utf-8")
    requests: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda said: complaints.append(said.text))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(page_path.as_uri())
        sizes = page.evaluate(
            "Promise.all([...document.images].map(i => i.decode().then(() => [i.naturalWidth, i.width])))"
        )
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        browser.close()
    assert [url for url in requests if not url.startswith("data:")] == [page_path.as_uri()]
    assert complaints == []
    assert len(sizes) > 10 and all(natural >= 300 and width > 0 for natural, width in sizes)
    assert overflow <= 0
