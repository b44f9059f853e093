"""The page is one file that loads nothing, runs nothing but its own scripts, and says what findings.json says."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kc_interp.comparison import Comparison, ModelFacts, Roster
from kc_interp.errors import SpecError
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.report import Document, bundles, render, seeds, write_findings, write_report
from kc_interp.report.blocks import needs_full_width
from kc_interp.report.printed import headings, shown_cell
from tests.sample_findings import ARMS, arm_of, document, facts, failed, findings_of, heavy_document, roster

HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "\u2028&amp;'\"", "<!--<script>"]


class Page(html.parser.HTMLParser):
    """The elements of a page as a browser would see them, with the text of scripts, tables and everything else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.data: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self._inside.append(tag)
        if tag == "data":
            self.data.append((dict(attrs)["value"] or "", ""))

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        within = self._inside[-1] if self._inside else ""
        if within == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif within == "data":
            self.data[-1] = (self.data[-1][0], self.data[-1][1] + data)
        if within not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    @property
    def islands(self) -> list[dict]:  # type: ignore[type-arg]
        return [json.loads(text) for attributes, text in self.scripts if attributes.get("type") == "application/json"]


@pytest.fixture(scope="module")
def text() -> str:
    return render(document())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def hostile_document(bad: str) -> Document:
    model = facts(f"arm {bad}", f"init {bad}", 0, name=f"model {bad}")
    figures = (
        Figure("attention", f"a {bad}", bad, bad, {"tokens": [bad, "b"], "heads": [bad], "patterns": [[[1, 0], [0.5, 0.5]]]}),
        Figure("tokens", f"t {bad}", bad, bad, {"tokens": [bad], "values": [0.5]}),
        Figure("bars", f"b {bad}", bad, bad, {"x": [bad], "series": [{"name": bad, "y": [1.0]}], "y_title": bad}),
        Figure("switches", f"s {bad}", bad, bad,
               {"heads": [bad], "examples": [{"tokens": [bad], "target": bad, "answers": {"0": [bad, 0.9], "1": [bad, 0.1]}}]}),
        Figure("circuit", f"c {bad}", bad, bad,
               {"depth": 1, "n_heads": 1, "rows": [bad], "unit": bad, "kept_says": bad,
                "nodes": [{"name": name, "effect": 0.5, "text": bad} for name in ("token", "a0.h0", "logits")],
                "edges": [{"source": "token", "target": "a0.h0<v>", "effect": 0.5, "kept": True, "scores": {bad: 0.5}},
                          {"source": "a0.h0", "target": "logits", "effect": -0.5}],
                "examples": [{"clean": bad, "twin": bad, "moved": [0.5, 0.5], "moved_nodes": [0.5, 0.5, 0.5]}]}),
    )  # fmt: skip
    finding = Finding(f"probe {bad}", model.name, bad, bad, "ok", (Number(bad, bad, 0.5, note=bad, control_says=bad),),
                      (Table(bad, (bad,), ((bad,),), bad),), figures)  # fmt: skip
    return Document(bad, roster([model]), {model.name: (finding,)}, provenance={bad: {bad: bad}}, notes=(bad,))


def test_each_bundle_stands_in_the_page_once(text: str, page: Page) -> None:
    assert text.count(bundles.plotly()) == 1
    assert text.count(bundles.circuitsvis()) == 1
    assert len([1 for attributes, _ in page.scripts if attributes.get("type") is None]) == 1
    assert [a.get("id") for a, _ in page.scripts if a.get("type") == "text/plain"] == [
        "plotly",
        "circuitsvis",
        "circuit",
    ]
    assert len(text.encode()) < 12_000_000


def test_a_bundle_is_left_out_when_no_figure_needs_it() -> None:
    (model,) = models = roster().models[:1]
    text = render(Document("t", roster(models), {model.name: findings_of(model)[:1]}))
    assert bundles.circuitsvis() not in text and 'id="circuitsvis"' not in text
    text = render(Document("t", roster(models), {model.name: findings_of(model)[3:]}))
    assert 'id="plotly"' not in text and len(text) < 200_000
    text = render(Document("t", roster(models), {model.name: findings_of(model)[3:4]}))
    assert 'id="circuit"' not in text


def test_a_heavy_report_stays_below_twelve_megabytes() -> None:
    assert len(render(heavy_document()).encode()) < 12_000_000


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if value := attributes.get(name):
                assert value.startswith(("#", "data:")), f"<{tag} {name}={value!r}>"
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in bundles.asset("page.css") and "url(" not in bundles.asset("page.css")


@pytest.mark.parametrize("bad", [None, *HOSTILE])
def test_the_policy_names_every_script_by_its_hash_and_allows_nothing_else(bad: str | None) -> None:
    page = Page(render(document() if bad is None else hostile_document(bad)))
    (policy,) = [a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy))
    present = {
        "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for attributes, script in page.scripts
        if attributes.get("type") != "application/json"
    }
    assert allowed == present and len(present) == 4
    assert policy.startswith("default-src 'none'; ") and "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_tokens_and_names_stay_text(bad: str) -> None:
    page = Page(render(hostile_document(bad)))
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [script for _, script in page.scripts if script.strip() == "alert(1)"]
    assert re.sub(r"\s+", " ", bad) in page.words
    (tokens,) = [i["widget"]["tokens"] for i in page.islands if "values" in i.get("widget", {})]
    assert "<" not in tokens[0]


def test_islands_cannot_end_their_element_and_refuse_numbers_that_json_lacks() -> None:
    text = bundles.island({"a": "</script>&\u2028\u2029"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script>&\u2028\u2029"}
    with pytest.raises(ValueError, match="JSON compliant"):
        bundles.island({"a": float("nan")})


def test_a_script_cannot_end_its_own_element() -> None:
    script = "a='</script>';b='<!-- <script>'\r\n//# sourceMappingURL=x.map\n"
    safe = bundles.inline(script)
    assert not re.search(r"</?script|<!--", safe) and "\r" not in safe and "sourceMapping" not in safe


def test_no_number_that_is_not_finite_reaches_the_page() -> None:
    model = roster().models[2]
    figure = Figure("heatmap", "h", "", "", {"x": ["a", "b"], "y": ["c"], "z": [[float("nan"), 1.0]], "zmid": None})
    finding = Finding(
        "p", model.name, "P", "s", numbers=(Number("x", "X", float("nan"), note="why"),), figures=(figure,)
    )
    page = Page(render(Document("t", roster([model]), {model.name: (finding,)})))
    assert "nan" not in page.words.lower().split()
    assert any(i.get("plot") and i["plot"]["data"][0].get("z") == [[None, 1.0]] for i in page.islands)


def test_every_number_of_findings_json_stands_in_the_page_unrounded(page: Page) -> None:
    plain = json.loads(document().dumps())
    values = {value for value, _ in page.data}
    for findings in plain["findings"].values():
        for number in (number for finding in findings for number in finding["numbers"]):
            assert {repr(number[name]) for name in ("value", "low", "high") if number[name] is not None} <= values
    differences = [d for c in plain["comparisons"] for d in c["differences"]]
    assert {repr(d["value"]) for d in differences if d["value"] is not None} <= values


def test_what_is_printed_is_the_rounding_of_what_is_meant(page: Page) -> None:
    assert len(page.data) > 500
    for value, printed in page.data:
        number = float(printed.replace("\u2212", "-").replace(",", ""))
        assert number == pytest.approx(float(value), rel=0.006)
    assert [shown_cell(v) for v in (None, float("nan"), 0.0, 1234.5, 20000, True)] == [
        "\u2013", "\u2013", "0", "1,234", "20,000", "yes",
    ]  # fmt: skip


def test_every_chart_has_its_numbers_and_what_it_shows(page: Page, text: str) -> None:
    charts = [a for tag, a in page.elements if tag == "figure"]
    assert len(charts) > 60
    assert text.count('<details class="numbers">', text.index("<figure")) == len(charts)
    blocks = [island for island in page.islands if "plot" in island or "widget" in island]
    assert len(blocks) == len([chart for chart in charts if chart["data-kind"] != "difference"]) == len(charts) - 1
    # The page's script makes the rows of attention patterns, switches and circuits of the widget's own data.
    read_from_widget = [b for b in blocks if {"attention", "examples"} & b.get("widget", {}).keys()]
    assert all(b["table"].get("rows") for b in blocks if b not in read_from_widget) and len(read_from_widget) == 24
    for figure in (f for finding in findings_of(roster().models[2]) for f in finding.figures):
        assert figure.shows in page.words and figure.refuted_by in page.words


def test_every_difference_is_drawn_with_every_seed_and_has_them_as_a_table(page: Page, text: str) -> None:
    differences = [d for comparison in document().comparisons for d in comparison.differences]
    marks = [seed for d in differences for side in (d.a, d.b) for seed in side.seeds if seed.value is not None]
    assert len(re.findall(r"<(?:circle|svg) [^>]*><title>", text)) == len(marks)
    rows = [
        row
        for i in page.islands
        if "table" in i and "counted in the mean" in i["table"]["columns"]
        for row in i["table"]["rows"]
    ]
    assert len(rows) == sum(len(side.seeds) for d in differences for side in (d.a, d.b))


def test_a_strip_marks_what_has_not_learned_and_holds_every_mark_within_its_ends() -> None:
    (difference, *_) = document().comparisons[1].differences
    strip = seeds.strip(difference, (0, 1))
    assert strip is not None
    assert strip.svg.count("<circle") == 3 and strip.svg.count("<path") == 1
    assert "SUM wide seed 1 (not learned)" in strip.svg
    assert all(0 <= float(x) <= 100 for x in re.findall(r'"([-\d.]+)%"', strip.svg))
    assert seeds.strip(document().comparisons[0].differences[2], (0, 1)) is None


def test_the_roster_marks_what_learned_what_did_not_and_what_was_not_evaluated() -> None:
    models = [facts("A", "wide", seed, accuracy) for seed, accuracy in enumerate((0.95, 0.1, None))]
    marks = [seeds.accuracy(model, arm=0, level=0.9, chance=0.1) for model in models]
    assert 'fill="#0072B2"' in marks[0] and "<path" in marks[1] and "<circle" not in marks[2]
    assert ["not evaluated" in mark for mark in marks] == [False, False, True]


def test_numbers_that_share_what_they_mean_say_it_once() -> None:
    numbers = [Number(key, f"operand 1: {key}", 0.5, higher_means="more", control_says="shuffled") for key in "abc"]
    first, *others = headings([*numbers, Number("d", "alone: d", 0.5, higher_means="more")])
    assert (first.group, first.group_says, first.title, first.says) == (
        "operand 1", ("Higher: more", "Control: shuffled"), "a", (),
    )  # fmt: skip
    assert (others[-1].group, others[-1].title, others[-1].says) == ("", "alone: d", ("Higher: more",))


def test_a_heatmap_of_many_columns_takes_the_whole_width() -> None:
    few, many = (
        Figure(
            "heatmap",
            "t",
            "",
            "",
            {"x": list(range(n)), "y": ["residual stream into block 0"], "z": [[0.0] * n], "zmid": 0},
        )
        for n in (10, 26)
    )
    assert (needs_full_width(few), needs_full_width(many)) == (False, True)


def circuit_of(model: ModelFacts) -> Figure:
    (figure,) = next(finding.figures for finding in findings_of(model) if finding.probe == "circuit")
    return figure


def test_a_circuit_reaches_the_page_whole_with_its_effects_unrounded() -> None:
    model = roster().models[2]
    figure = circuit_of(model)
    texts = [render(Document("t", roster([model]), {model.name: findings_of(model)[4:]})) for _ in range(2)]
    assert texts[0] == texts[1]
    (widget,) = [island["widget"] for island in Page(texts[0]).islands if "widget" in island]
    edges = figure.data["edges"]
    assert (widget["depth"], widget["heads"], widget["rows"]) == (2, 4, ["block 0", "block 1"])
    assert widget["edges"]["names"] == [f"{edge['source']}->{edge['target']}" for edge in edges]
    assert widget["edges"]["effect"] == [edge["effect"] for edge in edges]
    assert widget["edges"]["kept"] == [edge["kept"] for edge in edges]
    assert widget["edges"]["low"] == pytest.approx([edge["low"] for edge in edges], rel=0.006)
    assert [len(example["moved"]) for example in widget["examples"]] == [110] * 4
    assert len(bundles.island({"widget": widget})) < 20_000


def test_only_a_row_with_two_circuits_keeps_a_place_for_their_difference() -> None:
    models = roster().models[2:4]
    texts = [
        render(Document("t", roster(some), {m.name: findings_of(m)[4:] for m in some})) for some in (models, models[:1])
    ]
    assert ['data-kind="difference"' in text for text in texts] == [True, False]
    assert "have no common identity" in Page(texts[0]).words


def test_circuits_of_many_heads_take_the_whole_width() -> None:
    figures = [Figure("circuit", "t", "", "", {"depth": 2, "n_heads": heads}) for heads in (4, 5, 6, 8)]
    assert list(map(needs_full_width, figures)) == [False, False, True, True]


def test_the_first_screen_counts_per_arm_and_initialisation(page: Page) -> None:
    words = page.words
    assert "Which models learned SUM?" in words
    cards = re.search(r"narrow initialisation (.*?) wide initialisation (.*?) Each row", words)
    assert cards
    assert re.findall(r"(\d) of (\d) learned", cards[1]) == [("0", "2"), ("2", "2")]
    assert re.findall(r"(\d) of (\d) learned", cards[2]) == [("1", "2"), ("2", "2")]
    assert "at least 90 %" in words and roster().criterion in words


def test_the_page_presumes_no_outcome() -> None:
    whole = roster()
    swapped = [dataclasses.replace(m, arm=ARMS[1 - ARMS.index(m.arm)]) for m in whole.models]
    texts = [Page(render(Document("t", r))).words for r in (whole, roster(swapped))]
    tallies = [set(re.findall(rf"({'|'.join(map(re.escape, ARMS))}) (\d of 2 learned)", words)) for words in texts]
    assert len(tallies[0]) >= 3
    assert tallies[0] != tallies[1]
    assert tallies[1] == {(ARMS[1 - ARMS.index(arm)], says) for arm, says in tallies[0]}
    assert all(re.sub(r"\d of 2 learned", "", words).count("learned") for words in texts)


def test_a_failed_probe_says_so_and_the_others_are_still_there(page: Page) -> None:
    name = "SUM narrow seed 1"
    assert f"This probe failed for {name}." in page.words and failed(roster().models[1]).sentence in page.words
    assert "Attention and feed-forward: who writes to the stream" in page.words


def test_a_probe_that_failed_everywhere_still_has_its_section() -> None:
    model = roster().models[2]
    page = Page(render(Document("t", roster([model]), {model.name: (failed(model, "why <it> failed"),)})))
    assert "why <it> failed" in page.words and "Attention and feed-forward" in page.words


def test_an_unlearned_model_is_named_as_such_wherever_it_stands(text: str) -> None:
    for cell in re.findall(r'<h3>([^<]*narrow seed \d) <span class="badge (\w+)">', text):
        assert cell[1] == ("no" if cell[0].startswith("SUM") else "yes")
    assert text.count("SUM narrow seed 0 (not learned)</option>") == 2


def test_a_report_of_one_model_has_no_comparison_and_still_reads() -> None:
    model = roster().models[2]
    page = Page(render(Document("t", roster([model]), {model.name: findings_of(model)[:1]})))
    assert "Arm against arm" not in page.words and "1 trained model." in page.words


def test_findings_json_gives_the_same_document_and_the_same_page(tmp_path: Path, text: str) -> None:
    path = write_findings(tmp_path / "findings.json", document())
    back = Document.loads(path.read_text())
    assert back.dumps() == document().dumps()
    assert render(back) == text


def test_json_of_another_schema_or_none_is_refused() -> None:
    with pytest.raises(SpecError, match="this version reads schema 1"):
        Document.loads('{"schema": 99}')
    with pytest.raises(SpecError, match=r"give a findings\.json"):
        Document.loads("<html>")


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    assert write_report(path, document()) == path and path.read_text().startswith("<!doctype html>")
    before = path.read_bytes()
    model = roster().models[2]
    broken = Finding("p", model.name, "P", "s", figures=(Figure("bars", "bad", "", "", {"x": ["a"]}),))
    with pytest.raises(SpecError, match=r"figure 'bad': .*'series'"):
        write_report(path, Document("t", roster([model]), {model.name: (broken,)}))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_models_that_the_roster_lacks_are_refused_by_name() -> None:
    model = roster().models[0]
    with pytest.raises(SpecError, match="the roster lists no model 'SUM narow'; did you mean"):
        Document("t", roster([model]), {"SUM narow": ()})
    whole = roster()
    findings = {m.name: findings_of(m) for m in whole.models}
    pair = [arm_of(arm, "wide", whole, findings) for arm in ARMS]
    with pytest.raises(SpecError, match="the roster lists no model"):
        Document("t", Roster((model,), "SUM", "c.", 0.9), {}, (Comparison("c", pair[0], pair[1]),))
    twice = (failed(model), failed(model))
    with pytest.raises(SpecError, match="two findings of the probe 'feed-forward'"):
        Document("t", whole, {model.name: twice})


def test_making_a_report_imports_no_model_code() -> None:
    code = (
        "import sys; from tests.sample_findings import document; from kc_interp.report import render; render(document());"
        "print([m for m in ('torch', 'transformer_lens', 'circuitsvis', 'kc_interp.probe') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == "[]"
